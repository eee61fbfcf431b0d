"""Files and numbers that users name: `~`, byte-order marks, other encodings, other content, values out of range."""

import codecs
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_commands import printed, refused

from jaxprl import Config, make
from jaxprl.cli.main import dispatch
from jaxprl.errors import UserError
from jaxprl.experiment.job import resolve
from jaxprl.files import check_output, expanded, read_json, read_text
from jaxprl.latent.space import SHIPPED, LatentSpace
from jaxprl.runs import manifest
from jaxprl.runs.record import RunDirectory, read_lines

ROOT = Path(__file__).parent.parent
MOVE = "DEF run m( move m)"
SWEEP = 'out = "~/runs"\n[[grid]]\ntasks = ["Seeder"]\nmethods = ["hc"]\nbudget = 300\nlayouts = "0-3"  # é\n'
PRICES = '{"é": {"input": 1, "output": 2}}'
TASK = "import dataclasses, jaxprl\njaxprl.register(dataclasses.replace(jaxprl.make('Seeder'), name='É'))\n"
DEEP = 100_000


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The user's home folder, which is not the working directory."""
    folder = tmp_path / "home"
    (tmp_path / "work").mkdir()
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_a_tilde_is_a_home_folder(home):
    assert expanded("~") == home
    assert expanded("~/a/~") == home / "a" / "~"
    assert expanded("~root/a") == Path("/root/a")
    assert expanded("a/~/b") == Path("a/~/b")
    assert expanded("./~a") == Path("~a")
    for name, message in {
        "~no-such-user/x": "there is no user 'no-such-user'",
        " ": "an empty name",
        "a\0b": "no file can have the name",
        "\ud800": "no file can have the name",
    }.items():
        with pytest.raises(UserError, match=message):
            expanded(name)


def test_every_option_that_names_a_file_knows_home(home, command, capsys):
    """The words go to the commands as a shell leaves them: `--out=~/x` keeps its tilde."""
    picture = ["render", "--task", "Seeder", "--program", MOVE, "--out=~/run.png", "--cell=4"]
    assert "calls" in printed(dispatch, picture, capsys)
    (home / "programs").write_text(MOVE)
    assert "returns" in printed(dispatch, ["evaluate", "--task", "Seeder", "--programs=~/programs"], capsys)
    (home / "task.py").write_text(TASK)
    assert "Task: É" in printed(dispatch, ["prompt", "--task=~/task.py:É"], capsys)
    assert {"programs", "run.png", "task.py"} <= {path.name for path in home.iterdir()}
    assert not list(Path().iterdir())
    asks = ["--llm", "openai", "--model", "m", "--max-tokens", "9"]
    for words in (
        ["--method", "cem", "--space=~/file"],
        [*asks, "--prices=~/file"],
        [*asks[2:], "--llm", "recorded", "--answers=~/file"],
        ["--out=~/programs"],
    ):
        assert str(home) in refused(command.main, words, capsys)
    for option in ("--out", "--space", "--answers", "--prices"):
        assert "there is no user 'no-such-user'" in refused(command.main, [f"{option}=~no-such-user/x"], capsys)
    assert str(home) in refused(dispatch, ["report", "~/runs", "--out=~/report.html"], capsys)
    with pytest.raises(UserError, match=str(home)):
        resolve(Config("Seeder", "cem", options={"space": "~/file"}))


def test_a_sweep_with_a_mark_and_a_tilde_is_run(home):
    (home / "sweep.toml").write_bytes(codecs.BOM_UTF8 + SWEEP.encode())
    words = [sys.executable, "-m", "jaxprl", "sweep", "~/sweep.toml"]
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (home / "runs" / "report.html").exists()
    assert json.loads((home / "runs" / "Seeder-hc" / "seed-0" / "result.json").read_text())["evaluated"] == 300
    assert not list(Path().iterdir())


FILES = {
    "sweep.toml": (SWEEP, ["sweep", "sweep.toml", "--list"]),
    "sweep.json": (
        json.dumps({"grid": [{"tasks": ["Seeder"], "methods": ["hc"], "label": "é"}]}, ensure_ascii=False),
        ["sweep", "sweep.json", "--list"],
    ),
    "programs": (
        MOVE + "\n\n" + MOVE,
        ["evaluate", "--task", "Seeder", "--layout-seeds", "0", "--programs", "programs"],
    ),
    "task.py": (TASK, ["prompt", "--task", "task.py:É"]),
}
"""For each kind of text file: its content, and a command that reads it."""


@pytest.mark.parametrize("name", FILES)
def test_text_with_a_mark_is_read_and_other_encodings_are_named(name, home, capsys):
    text, words = FILES[name]
    file = Path(name)
    said = []
    for mark in (b"", codecs.BOM_UTF8):
        file.write_bytes(mark + text.encode())
        said.append(printed(dispatch, words, capsys))
    assert said[0] == said[1] != ""
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        file.write_bytes(text.encode(encoding))
        message = refused(dispatch, words, capsys)
        assert f"{name}: text in {encoding[:6].upper()}; save it in UTF-8" in message


def test_prices_and_programs_with_a_mark(tmp_path, capsys):
    file = tmp_path / "prices.json"
    file.write_bytes(codecs.BOM_UTF8 + PRICES.encode())
    assert read_json(file, "prices") == json.loads(PRICES)
    file.write_bytes(b"ab\nc\xe9")
    with pytest.raises(UserError, match="not text in UTF-8: byte 0xe9 in line 2"):
        read_text(file, "prices")
    file.write_bytes(b"ab\nc\0")
    with pytest.raises(UserError, match="a zero byte in line 2"):
        read_text(file, "prices")
    for program in (MOVE, "def run():\n    move()"):
        rows = printed(dispatch, ["trace", "--task", "Seeder", "--program", "\ufeff" + program], capsys)
        assert [json.loads(row)["name"] for row in rows.splitlines()] == ["move"]


@pytest.mark.parametrize(
    ("name", "text", "words", "message"),
    [
        ("s.json", "[" * DEEP, ["sweep", "s.json"], "sweep s.json is not JSON that can be read: nested too deeply"),
        ("s.json", '{"grid":' * DEEP, ["sweep", "s.json"], "nested too deeply"),
        (
            "s.toml",
            "a=" + "[" * DEEP,
            ["sweep", "s.toml"],
            "sweep s.toml is not TOML that can be read: nested too deeply",
        ),
        ("s.toml", "a=" + "{a=" * DEEP, ["sweep", "s.toml"], "nested too deeply"),
        ("s.toml", "[" * DEEP, ["sweep", "s.toml"], "sweep s.toml is not TOML"),
        ("t.py", "x = " + "(" * DEEP, ["prompt", "--task", "t.py:X"], "too many nested parentheses"),
        ("t.py", "x = " + "-" * DEEP + "1", ["prompt", "--task", "t.py:X"], "nested too deeply for Python to read"),
        ("t.py", "x = " + "+".join("1" * DEEP), ["prompt", "--task", "t.py:X"], "nested too deeply for Python to read"),
        (
            "t.py",
            "def f(): f()\nf()",
            ["prompt", "--task", "t.py:X"],
            "maximum recursion depth exceeded (t.py, line 1)",
        ),
    ],
)
def test_what_is_nested_too_deeply_is_refused(name, text, words, message, home, capsys):
    Path(name).write_text(text)
    assert message in refused(dispatch, words, capsys)


def test_records_that_are_nested_too_deeply(tmp_path, capsys):
    deep, out = "[" * DEEP, tmp_path / "out"
    RunDirectory(out, {"seeds": [0]}).close()
    (out / "config.json").write_text(deep)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        RunDirectory(out, {"seeds": [0]}, resume=True)
    assert "report.html" in printed(dispatch, ["report", str(out), "--no-rollouts"], capsys)
    assert "config.json: damaged" in (out / "report.html").read_text()
    (tmp_path / "rows.jsonl").write_text(f"{deep}\n")
    with pytest.raises(UserError, match="line 1: not a JSON object"):
        read_lines(tmp_path / "rows.jsonl")
    (tmp_path / manifest.NAME).write_text(f"{manifest._sha256(deep.encode())}\n{deep}")
    with pytest.raises(manifest.Damaged, match="is not JSON"):
        manifest.read(tmp_path)
    (tmp_path / "prices.json").write_text(deep)
    with pytest.raises(UserError, match=r"prices\.json is not JSON"):
        read_json(tmp_path / "prices.json", "prices")


def archive(folder, **arrays):
    np.savez(folder / "archive.npz", **arrays)
    return (folder / "archive.npz").read_bytes()


def of_text(text):
    return np.frombuffer(text.encode(), np.uint8)


def damaged_models(folder):
    """Yield contents of files that are no models, and what is said of them."""
    whole = SHIPPED.read_bytes()
    yield b"", "an empty file"
    yield b"hello", "other content"
    yield b"[" * DEEP, "other content"
    yield whole[:5000], "damaged"
    yield whole[:-100], "damaged"
    yield whole[:3000] + b"other" + whole[3005:], "damaged"
    yield archive(folder, a=np.ones(3)), "not that of a program space"
    yield archive(folder, about=of_text("{}")), "not that of a program space"
    yield archive(folder, about=of_text("[" * DEEP)), "not that of a program space"
    yield archive(folder, about=np.array([{}], object)), "damaged"


def test_files_that_are_no_models(tmp_path):
    file = tmp_path / "model.npz"
    for content, message in damaged_models(tmp_path):
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"model\.npz cannot be read.*{message}"):
            LatentSpace.load(file)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        LatentSpace.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MiniGrid-WFC-MazeSimple-v0", 'pip install "minigrid[wfc]"'),
        ("MiniGrid-WFC-ObstaclesAngular-v0", 'pip install "minigrid[wfc]"'),
        ("MiniGrid-Emty-5x5-v0", "unknown environment of minigrid 'MiniGrid-Emty-5x5-v0'"),
        ("CartPole-v1", "environment 'CartPole-v1' is not one of minigrid's"),
        ("", "unknown environment of minigrid ''"),
    ],
)
def test_environments_that_cannot_be_made(name, message):
    with pytest.raises(UserError) as caught:
        make(f"farama:{name}")
    assert message in str(caught.value)


def test_packages_that_are_missing():
    """As if they were not installed: Karel's tasks are there all the same."""
    code = """
import sys
for name in ("gymnasium", "minigrid"):
    sys.modules[name] = None
import jaxprl
assert jaxprl.make("DoorKey").layouts([0])
extended = next(name for name, task in jaxprl.tasks().items() if task.language.name == "minigrid-extended")
for name in ("farama:LavaGap", "farama:MiniGrid-Empty-5x5-v0", "LavaGap", "PutNear", "RedBlueDoor", extended):
    try:
        print(jaxprl.make(name).layouts([0]))
    except jaxprl.UserError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    lines = said.stdout.splitlines()
    assert len(lines) == 6, said.stderr
    for line in lines[:2]:
        assert line.endswith("needs the package gymnasium: pip install gymnasium")
    for line in lines[2:]:
        assert line.startswith("a layout of MiniGrid needs the package ")
        assert line.endswith((": pip install minigrid", ": pip install gymnasium"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["render", "--task", "t.py:X", "--program", "x", "--out", "no/run.gif"], "there is no folder no"),
        (["render", "--task", "t.py:X", "--program", "x", "--out", "folder.png"], "a folder, not a file"),
        (["render", "--task", "t.py:X", "--program", "x", "--out", "a.gif", "--cell", "3"], "from 4 to 256"),
        (["render", "--task", "t.py:X", "--program", "x", "--out", "a.gif", "--cell", "1e400"], "from 4 to 256"),
        (["render", "--task", "t.py:X", "--program", "x", "--out", "a.gif", "--most-frames", "1"], "from 2 to 20,000"),
        (["render", "--task", "t.py:X", "--program", "x", "--out", "a.gif", "--layout-seed", "-1"], "seeds '-1'"),
        (["trace", "--task", "t.py:X", "--program", "x", "--layout-seed", "4294967296"], "seeds go up to 4294967295"),
        (["evaluate", "--task", "t.py:X", "--programs", "no", "--layout-seeds", "0-"], "seeds '0-'"),
        (
            ["evaluate", "--task", "t.py:X", "--programs", "no", "--layout-seeds", "0-999999"],
            "programs no: No such file",
        ),
        (["run", "--task", "t.py:X", "--resume"], "name it with --out"),
        (["run", "--task", "t.py:X", "--checkpoint-every", "0"], "checkpoint interval"),
        (["run", "--task", "t.py:X", "--hosts", ""], "hosts '': neither auto nor"),
        (["report", "runs", "--out", "folder.html"], "a folder, not a file"),
        (["sweep", "sweep.toml", "--cell", "-1"], "a whole number from 0 to"),
        (["sweep", "sweep.toml", "--cell", "nan"], "a whole number from 0 to"),
    ],
)
def test_options_are_checked_before_a_task_is_made(words, message, home, capsys):
    """The task's file is not there, so that whatever looks for it first says so."""
    Path("folder.png").mkdir()
    Path("folder.html").mkdir()
    assert message in refused(dispatch, words, capsys)


def test_no_layouts_are_made_for_no_program(home, capsys):
    words = ["evaluate", "--task", "Seeder", "--programs", "programs", "--layout-seeds", "0-999999"]
    for text, code in (("", 0), ("\n \n", 0), ("DEF run m( jump m)\n", 1), ("DEF run m( " + "move " * 257 + "m)", 1)):
        Path("programs").write_text(text)
        assert printed(dispatch, words, capsys, code=code).count('"error"') == code
    Path("programs").write_text(f"{MOVE}\n" * 100)
    assert "100 programs on 1,000,000 layouts are 100,000,000 runs" in refused(dispatch, words, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cem", "options": {"sigma": 1e300}}, "sigma 1e+300: it goes from 1e-06 to 1e+06"),
        ({"method": "latent-hc", "options": {"sigma": 1e-50}}, "sigma 1e-50: it goes from"),
        ({"method": "annealing", "options": {"start_temperature": 1e300}}, "it goes from 1e-06 to 1e+06"),
        ({"method": "annealing", "options": {"restarts": float("inf")}}, "expected a whole number"),
        ({"method": "hc", "options": {"k": float("nan")}}, "expected a whole number"),
        ({"method": "hc", "seeds": range(2**16 + 1)}, "65,537 search seeds; a run has at most 65,536"),
    ],
)
def test_values_that_would_become_others_are_refused(options, message):
    with pytest.raises(UserError) as caught:
        resolve(Config("Seeder", **options))
    assert message in str(caught.value)


def test_places_for_output(tmp_path):
    check_output(tmp_path / "new", "--out")
    for path, message in ((tmp_path, "a folder"), (tmp_path / "no" / "new", "there is no folder")):
        with pytest.raises(UserError, match=message):
            check_output(path, "--out")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="a pipe or a device"):
        check_output(tmp_path / "pipe", "--out")
    (tmp_path / "pipe").unlink()
    with pytest.raises(UserError, match="programs /dev/zero: a device, not a file"):
        read_text(Path("/dev/zero"), "programs")
    (tmp_path / "link").symlink_to(tmp_path / "later")
    check_output(tmp_path / "link", "--out")
    assert not (tmp_path / "later").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link"]


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("benchmark", ["--repeats", "0"], "--repeats: '0': expected a whole number from 1 to 1,000"),
        ("benchmark", ["--searches", "1", "-1"], "--searches: '-1': expected a whole number from 1 to 4,096"),
        ("benchmark", ["--searches"], "expected at least one argument"),
        ("benchmark", ["--programs", "nan"], "--programs: 'nan': expected a whole number from 1 to 262,144"),
        ("benchmark", ["--copies", "2147483648"], "--copies: '2147483648': expected a whole number from 1 to"),
        ("benchmark", ["--budget", "-5"], "--budget: '-5': expected a whole number from 1 to"),
        ("benchmark", ["--budget", "5"], "--budget 5: from 32 on"),
        ("benchmark", ["--sections"], "expected at least one argument"),
        ("benchmark", ["--sections", "evaluate", "walk"], "unknown section 'walk'"),
        ("benchmark", ["--sections", "evaluate", "world"], "section world compares with minigrid"),
        ("benchmark", ["--plot", "a.png"], "add --sections scaling"),
        ("benchmark", ["--sections", "scaling", "--plot", "no/a.png"], "there is no folder no"),
        ("gpu_check", ["--sections"], "expected at least one argument"),
        ("gpu_check", ["--sections", "walk"], "unknown section 'walk'"),
        ("gpu_check", ["--dry", "--out", "."], "a folder, not a file"),
        ("gpu_check", ["--dry", "--layouts", "empty"], "not what --write-layouts writes"),
        ("gpu_check", ["--write-layouts", "no/a"], "there is no folder no"),
    ],
)
def test_experiments_check_their_options_first(script, words, message, home, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    Path("empty").touch()
    main = __import__(script).main
    assert message in refused(main, words, capsys)
