"""What README, docs and CONTRIBUTING show is true: examples run, commands parse, links lead somewhere."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from smaller import smaller

import jaxprl
from jaxprl.cli import main
from jaxprl.cli.run import OPTION
from jaxprl.experiment import published
from jaxprl.experiment.config import METHOD
from jaxprl.methods import registry
from jaxprl.methods.base import flag, option_types

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, CONTRIBUTING, ROOT / "CHANGELOG.md", *DOCS]


def blocks(text, kind):
    """The contents of the fenced blocks of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def examples(*files):
    return [
        pytest.param(code, id=f"{file.stem}-{number}")
        for file in files
        for number, code in enumerate(blocks(file.read_text(), "python"))
    ]


def run_example(code, folder):
    (folder / "experiments").symlink_to(ROOT / "experiments")
    words = [sys.executable, "-c", code]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("code", examples(README))
def test_the_examples_of_the_readme_run(code, tmp_path):
    run_example(smaller(code), tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("code", [each for each in examples(README) if smaller(each.values[0]) != each.values[0]])
def test_the_examples_of_the_readme_run_as_they_are(code, tmp_path):
    run_example(code, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("code", examples(*DOCS))
def test_the_examples_of_the_docs_run(code, tmp_path):
    run_example(code, tmp_path)


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 200


def test_the_readme_names_every_command_and_every_method():
    text = README.read_text()
    assert set(re.findall(r"^\| `jaxprl (\w+)` \|", text, re.MULTILINE)) == set(main.COMMANDS)
    for name in registry.methods():
        assert f"`{name}`" in text, name


def test_the_page_on_methods_shows_their_options():
    rows = [line.split("|") for line in (ROOT / "docs" / "methods.md").read_text().splitlines() if line.startswith("|")]
    for method in registry.methods().values():
        [options] = [row[3] for row in rows if f"`{method.name}`" in row[1]]
        assert set(re.findall(r"--[\w-]+", options)) == {flag(name) for name in option_types(method.options)}, (
            method.name
        )
        for name, value in vars(method.options()).items():
            if value is not None:
                assert f"{flag(name)} {value}" in options


class Parsed(Exception):
    """Ends a command behind its parsing."""


def commands(*files):
    """The words behind `jaxprl` in the shell examples of some files."""
    text = "".join(block.replace("\\\n", " ") for file in files for block in blocks(file.read_text(), "bash"))
    return [shlex.split(line, comments=True) for line in re.findall(r"^(?:srun )?jaxprl (.*)", text, re.MULTILINE)]


@pytest.mark.parametrize("words", commands(README, *DOCS), ids=" ".join)
def test_the_commands_that_are_shown_exist_with_their_options(words, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def stop(parser, arguments):
        raise Parsed(parse(parser, arguments))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed) as parsed:
        main.dispatch(words)
    options = parsed.value.args[0]
    if words[0] == "run":
        own = {name.removeprefix(OPTION): value for name, value in vars(options).items() if name.startswith(OPTION)}
        chosen = published.get(options.published).method.value if options.published else METHOD
        registry.get(options.method or chosen).make_options(
            {name: value for name, value in own.items() if value is not None}
        )
    if words[0] == "sweep":
        assert (ROOT / options.file).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", [*PAGES, ROOT / "NOTICE"], ids=lambda page: page.name)
def test_lines_are_not_too_long(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def mapped():
    """The files that the file map names; of a folder `tasks`, whose files it leaves out, the folder."""
    [text] = [block for block in blocks((ROOT / "docs" / "architecture.md").read_text(), "") if "jaxprl/" in block]
    folders, found = [], []
    for line in text.splitlines():
        name = line.split()[0]
        folders[(len(line) - len(line.lstrip())) // 2 :] = [name.rstrip("/")]
        if name.endswith(".py") or name == "tasks/":
            found.append("/".join(folders))
    return found


def test_the_file_map_names_every_module():
    there = set()
    for file in (ROOT / "jaxprl").rglob("*.py"):
        if file.name != "__init__.py" or file.parent == ROOT / "jaxprl":
            file = file.parent if file.parent.name == "tasks" else file
            there.add(file.relative_to(ROOT).as_posix())
    names = mapped()
    assert set(names) == there
    assert len(names) == len(there)


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == jaxprl.__version__
    assert f"\nversion: {jaxprl.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == jaxprl.__version__
    for name in project["license-files"]:
        assert (ROOT / name).is_file()


SECTIONS = re.split(r"^### ", CONTRIBUTING.read_text(), flags=re.MULTILINE)[1:]
RECIPES = {text.partition("\n")[0]: text for text in SECTIONS}
WITH_CODE = [title for title, text in RECIPES.items() if blocks(text, "python")]


def follow(recipe, folder):
    """Write the new files of a recipe and apply its diffs to a copy of the package."""
    shutil.copytree(ROOT / "jaxprl", folder / "jaxprl", ignore=shutil.ignore_patterns("__pycache__"))
    for code in blocks(recipe, "python"):
        header, _, content = code.partition("\n")
        file = folder / header.removeprefix("# ")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    for diff in blocks(recipe, "diff"):
        old_name, new_name, _, *lines = diff.splitlines()
        assert old_name.removeprefix("--- ") == new_name.removeprefix("+++ ")
        name = old_name.removeprefix("--- ")
        file = folder / name
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, file)
        old, new = ("".join(f"{line[1:]}\n" for line in lines if line[:1] in signs) for signs in (" -", " +"))
        assert file.read_text().count(old) == 1, diff
        file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize("title", WITH_CODE)
def test_recipes_fit_the_code(title, tmp_path):
    follow(RECIPES[title], tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("title", WITH_CODE)
def test_recipes_work(title, tmp_path):
    follow(RECIPES[title], tmp_path)
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    for script in blocks(RECIPES[title], "bash"):
        script = 'jaxprl() { python -m jaxprl "$@"; }\n' + script
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        words = ["bash", "-ec", script]
        done = subprocess.run(
            words, cwd=tmp_path, env=env | {"PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
