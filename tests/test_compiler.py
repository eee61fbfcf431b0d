"""The C compiler of the native engine: what it makes is kept, and what goes wrong with it changes no result."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprl
from jaxprl.cli.main import main
from jaxprl.codegen import compiler, kept
from jaxprl.dsl.parse import parse
from jaxprl.errors import UserError
from jaxprl.vm import engines, native

REAL = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(REAL is None, reason="there is no C compiler")
TEXT = "int answer(void) { return 42; }\n"
PROGRAM = "DEF run m( WHILE c( noMarkersPresent c) w( turnLeft move turnRight move w) m)"


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """An empty folder for kernels, of which this process has none yet."""
    monkeypatch.setattr(kept, "folder", lambda: tmp_path / "kernels")
    forget()
    yield tmp_path / "kernels"
    forget()


def forget():
    for cached in (compiler._load, native._kernel_of, engines._say_once):
        cached.cache_clear()


def script(folder, text):
    """Return a compiler that is a shell script."""
    file = folder / "compiler"
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)
    return str(file)


def answer():
    return compiler.load(TEXT, compiler.command()).answer()


@needs_compiler
def test_a_text_is_compiled_once(kernels, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPRL_CC", script(tmp_path, f'echo >> "{tmp_path}/calls"; exec {REAL} "$@"'))
    for _ in range(2):
        forget()
        assert answer() == 42
    assert len((tmp_path / "calls").read_text()) == 1
    assert len(list(kernels.iterdir())) == 1


@needs_compiler
@pytest.mark.parametrize("damage", [b"", b"x" * 5000, None])
def test_a_damaged_file_is_made_again(kernels, damage):
    assert answer() == 42
    [file] = kernels.iterdir()
    whole = file.read_bytes()
    file.unlink()  # as it is loaded, its bytes must stay
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    forget()
    assert answer() == 42
    assert file.read_bytes() == whole


@needs_compiler
def test_a_folder_in_which_nothing_can_be_written(kernels):
    kernels.parent.joinpath("kernels").write_text("a file where the folder should be")
    assert answer() == 42
    assert kernels.is_file()


@needs_compiler
def test_other_flags_and_compilers_have_files_of_their_own(kernels, monkeypatch):
    answer()
    monkeypatch.setenv("JAXPRL_CC", f"{REAL} -DX=1")
    assert answer() == 42
    assert len(list(kernels.iterdir())) == 2


PROCESS = """
import sys
from pathlib import Path
from jaxprl.codegen import compiler, kept
kept.folder = lambda: Path(sys.argv[1])
assert compiler.load(sys.argv[2], compiler.command()).answer() == 42
"""


@needs_compiler
def test_many_processes_may_share_a_folder(kernels):
    command = [sys.executable, "-c", PROCESS, str(kernels), TEXT]
    running = [subprocess.Popen(command) for _ in range(6)]
    assert [process.wait() for process in running] == [0] * 6
    assert len(list(kernels.iterdir())) == 1


def outcomes(**options):
    task = jaxprl.make("StairClimber")
    return jaxprl.evaluate(task, [parse(PROGRAM, task)], layout_seeds=range(3), **options)


BROKEN = {
    "echo 'x.c:1: error: out of sorts' >&2; exit 3": "failed with exit code 3: x.c:1: error: out of sorts",
    "exit 1": "failed with exit code 1: it gave no reason",
    "exit 0": "failed with exit code 0: it gave no reason",
    "kill -9 $$": "was killed by SIGKILL",
    f'echo "int works(int x) {{ return x; }}" > "$0.c"; exec {REAL} "$0.c" -shared -o "${{@: -1}}"': "wrong numbers",
    f'echo "int other;" > "$0.c"; exec {REAL} "$0.c" -shared -o "${{@: -1}}"': "makes code that lacks functions",
    'for last; do :; done; echo nonsense > "$last"': "cannot be loaded",
}


@needs_compiler
@pytest.mark.parametrize("text", BROKEN, ids=BROKEN.values())
def test_a_broken_compiler_is_named_and_the_next_engine_runs(text, kernels, tmp_path, monkeypatch):
    expected = outcomes(engine="sequential")
    monkeypatch.setenv("JAXPRL_CC", script(tmp_path, text))
    with pytest.warns(UserWarning, match="'native' cannot run StairClimber") as warned:
        found = outcomes()
    assert BROKEN[text] in str(warned[0].message)
    assert len(warned) == 1
    np.testing.assert_array_equal(found.units, expected.units)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        outcomes()
    with pytest.raises(UserError, match="engine 'native' cannot run StairClimber: the C compiler"):
        outcomes(engine="native")


def test_without_a_compiler_the_next_engine_runs_without_a_word(kernels, monkeypatch):
    monkeypatch.setenv("JAXPRL_CC", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (outcomes().mean_returns == 1).all()
    with pytest.raises(UserError, match="JAXPRL_CC is empty"):
        outcomes(engine="native")
    monkeypatch.delenv("JAXPRL_CC")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"there is no C compiler \(cc, gcc, clang\); JAXPRL_CC can name one"):
        outcomes(engine="native")


def test_a_compiler_that_is_named_and_is_not_there(kernels, monkeypatch):
    monkeypatch.setenv("JAXPRL_CC", "no-such-compiler -O3")
    with pytest.warns(UserWarning, match="JAXPRL_CC='no-such-compiler -O3': there is no such program"):
        outcomes()


@needs_compiler
def test_a_memory_that_cannot_grow_is_that_of_the_next_engine(kernels, monkeypatch):
    task = jaxprl.make("StairClimber")
    wander = parse("DEF run m( WHILE c( True c) w( turnLeft putMarker w) m)", task)
    expected = jaxprl.evaluate(task, [wander], layout_seeds=range(2), engine="sequential")
    compile_ = native.kernel_of

    def once(write, text, command):
        small = text[0].slots < 64
        return compile_(write, text, command) if small else compiler.Unavailable("the compiler is gone")

    monkeypatch.setattr(native, "kernel_of", once)
    found = jaxprl.evaluate(task, [wander], layout_seeds=range(2), engine="native", slots=4)
    np.testing.assert_array_equal(found.calls, expected.calls)


def test_kernels_are_kept_where_jax_keeps_its_own(monkeypatch):
    assert str(kept.folder()).startswith(os.path.join(jax.config.jax_compilation_cache_dir, ""))


@needs_compiler
def test_a_rule_that_is_not_translated_is_named_and_the_task_runs(kernels):
    def reward(world, progress, state, event):
        """The return is 1 as soon as there is a marker on any cell that had none, by way of a sort."""
        most = jnp.sort(jnp.asarray(state.cells) & 15)[-1].astype(jnp.int32)
        return state, progress, jnp.where(most > 1, 1, 0), most > 1

    task = dataclasses.replace(jaxprl.make("StairClimber"), name="Sorted", reward=reward)
    program = parse("DEF run m( putMarker putMarker move m)", task)
    layouts = task.layouts(range(2))._replace(progress=(), units=np.ones(2, np.int32))
    with pytest.warns(UserWarning, match=r"'native' cannot run Sorted, so a slower one does: stablehlo\.sort"):
        outcomes = jaxprl.evaluate(task, [program], layouts)
    assert outcomes.calls.tolist() == [[2, 2]]
    with pytest.raises(UserError, match=r"engine 'native' cannot run Sorted: stablehlo\.sort"):
        jaxprl.evaluate(task, [program], layouts, engine="native")


@needs_compiler
def test_the_text_of_a_kernel_compiles_without_a_warning(capsys, tmp_path):
    assert main(["kernel", "--task", "DoorKey"]) == 0
    text = capsys.readouterr().out
    for rule in ("KarelWorld.perceive", "reward", "act", "test", "key_of"):
        assert f"/* {rule} */" in text
    file = tmp_path / "kernel.c"
    file.write_text(text)
    command = [REAL, "-Wall", "-Werror", "-Wno-unused-function", "-fwrapv", "-c", str(file), "-o", "/dev/null"]
    assert subprocess.run(command, check=False).returncode == 0


def test_tasks_without_a_text(capsys):
    assert main(["kernel", "--task", "farama:LavaGap"]) == 2
    assert "task farama:LavaGap is not array code: plain Python runs its programs" in capsys.readouterr().err


@needs_compiler
def test_the_engine_of_a_run(capsys, tmp_path):
    command = ["run", "--task", "StairClimber", "--method", "hc", "--budget", "60", "--layouts", "0-3"]
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    assert main([*command, "--out", str(tmp_path / "two"), "--engine", "sequential"]) == 0
    said = capsys.readouterr().out
    assert said.count("programs are run by the engine native, compiled by ") == 1
    assert said.count("programs are run by the engine sequential, compiled by XLA") == 1
    one, two = (json.loads((tmp_path / name / "seed-0" / "result.json").read_text()) for name in ("one", "two"))
    assert one["program"] == two["program"]
    assert main([*command, "--out", str(tmp_path / "three"), "--engine", "fast"]) == 2
    assert "unknown engine 'fast'; known: native, sequential, cuda, lanes, plain" in capsys.readouterr().err
