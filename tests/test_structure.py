"""Imports go one way, heavy ones happen late, and importing configures nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxprl"
BELOW = {
    "errors": set(),
    "loops": set(),
    "dsl": {"errors", "loops"},
    "worlds": {"errors", "dsl"},
    "vm": {"errors", "loops", "dsl", "worlds"},
    "search": {"errors"},
    "llm": {"errors", "dsl"},
    "runs": {"errors"},
    "starts": {"errors", "dsl", "llm", "search"},
    "config": {"errors", "dsl", "latent", "llm", "search", "vm", "worlds"},
    "asking": {"errors", "llm", "runs"},
    "revision": {"errors", "dsl", "worlds", "vm", "search", "llm", "starts"},
    "render": {"errors", "dsl", "worlds", "vm"},
    "environment": {"errors", "worlds"},
    "gym": {"errors", "worlds", "vm", "render", "environment"},
    "latent": {"errors", "dsl", "worlds", "vm"},
    "arguments": {"errors", "loops"},
    "hosts": {"errors"},
}


def imported(file: Path) -> set[str]:
    """The parts of the package that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("jaxprl"):
            names |= {node.module} if node.module != "jaxprl" else {f"jaxprl.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("jaxprl")}
    return {name.split(".")[1] for name in names}


@pytest.mark.parametrize("part", BELOW)
def test_imports_go_one_way(part):
    files = list((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]
    for file in files:
        assert imported(file) <= BELOW[part] | {part}, file


def test_importing_is_light_and_configures_nothing():
    code = """
import sys, jax
before = dict(jax.config.values)
import jaxprl.experiment, jaxprl.cli, jaxprl.llm.client, jaxprl.render, jaxprl.environment
assert dict(jax.config.values) == before
heavy = {"minigrid", "gymnasium", "openai", "orbax", "matplotlib", "PIL", "torch"} & set(sys.modules)
assert not heavy, heavy
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
