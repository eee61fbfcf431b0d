"""Imports go one way, heavy ones happen late, and importing configures nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxprl"
BELOW = {  # each room, and the rooms that it may import
    "errors": set(),
    "files": {"errors"},
    "output": set(),
    "types": set(),
    "caches": {"output"},
    "forks": {"errors"},
    "xla": {"errors", "forks"},
    "codegen": {"caches", "errors", "types", "xla"},
    "dsl": {"codegen", "errors", "types", "xla"},
    "worlds": {"errors", "files", "output", "types", "xla", "dsl"},
    "search": {"errors", "types", "xla", "dsl", "worlds"},
    "vm": {"caches", "codegen", "errors", "types", "xla", "dsl", "worlds", "search"},
    "nn": set(),
    "latent": {"errors", "files", "types", "xla", "dsl", "worlds", "vm", "nn"},
    "rl": {"types", "xla", "worlds", "nn"},
    "llm": {"errors", "files", "output", "types", "dsl"},
    "runs": {"errors", "output", "types"},
    "methods": {"errors", "files", "types", "xla", "dsl", "worlds", "search", "vm", "latent", "rl", "llm"},
    "experiment": {
        "caches", "errors", "output", "types", "xla", "dsl", "worlds", "search", "vm", "llm", "methods", "runs"
    },
    "report": {"errors", "types", "runs"},
    "render": {"errors", "types", "dsl", "worlds", "vm"},
    "environments": {"errors", "types", "xla", "worlds", "render"},
    "cli": {
        "caches", "codegen", "errors", "files", "output", "types", "xla", "dsl", "worlds", "vm", "latent", "llm",
        "methods", "runs", "experiment", "report", "render",
    },
}  # fmt: skip
FRONT = {"__init__", "__main__"}
"""The front door opens onto every room."""


def imported(file: Path) -> set[str]:
    """The modules of the package that a file imports, inside functions included."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "jaxprl":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if module_file(inner) else node.module)
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "jaxprl"}
    return names


def module_file(name: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def room(name: str) -> str:
    return [*name.split("."), "__init__"][1]


def test_every_module_has_a_room():
    found = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found - FRONT == set(BELOW)


@pytest.mark.parametrize("part", BELOW)
def test_imports_go_one_way(part):
    files = list((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]
    for file in files:
        rooms = {room(name) for name in imported(file)} - {"__init__"}  # the package itself: its version
        assert rooms <= BELOW[part] | {part}, file


def test_the_rooms_have_an_order():
    """No circle between rooms: each can be put below all that import it."""
    left = dict(BELOW)
    while left:
        lowest = [name for name, below in left.items() if not below & left.keys() - {name}]
        assert lowest, f"a circle among {sorted(left)}"
        for name in lowest:
            del left[name]


def test_no_circle_between_modules():
    """Not even one that is broken by an import inside a function."""
    names = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    front = ("jaxprl", "jaxprl.methods", "jaxprl.environments")  # doors: they import what is behind them when asked
    left = {name: {each for each in imported(file) if each in names} - {*front} for name, file in names.items()}
    left = {name: below - {name} for name, below in left.items() if name not in front}
    while left:
        lowest = [name for name, below in left.items() if not below & left.keys()]
        assert lowest, f"a circle among {sorted(left)}"
        for name in lowest:
            del left[name]


def test_importing_is_light_and_configures_nothing():
    code = """
import sys, jax
before = dict(jax.config.values)
import jaxprl.experiment.run, jaxprl.cli.inspect, jaxprl.cli.sweep, jaxprl.llm.client, jaxprl.render
assert dict(jax.config.values) == before
heavy = {"minigrid", "gymnasium", "openai", "orbax", "matplotlib", "PIL", "torch"} & set(sys.modules)
assert not heavy, heavy
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_front_door_is_light():
    code = """
import sys, time
started = time.process_time()  # not by the clock: other tests run at the same time
import jaxprl
seconds = time.process_time() - started
assert not {"jax", "numpy", "gymnasium"} & set(sys.modules), "jaxprl imports what it does not need yet"
assert seconds < 0.1, seconds
import jaxprl.cli.main
assert "jax" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
