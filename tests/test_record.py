"""Run directories: who may write to one, what a checkpoint gives back, and that nothing needs a certain system."""

import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprl.errors import UserError
from jaxprl.runs import record
from jaxprl.runs.checkpoint import Checkpoints, flat, rebuilt
from jaxprl.runs.lock import HOLDER, LOCK
from jaxprl.runs.manifest import Saved
from jaxprl.runs.record import RunDirectory
from jaxprl.search.protocol import Point, search_keys

ROOT = Path(__file__).parent.parent
HOLD = (
    "import pathlib, sys; from jaxprl.runs.record import RunDirectory\n"
    "held = RunDirectory(pathlib.Path(sys.argv[1]), {'seeds': [0]}, resume=True)\n"
    "print('held', flush=True); sys.stdin.read(); held.close()"
)


def hold(path: Path) -> subprocess.Popen:
    """Start a process that holds a run directory until its standard input ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], cwd=ROOT, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdout.readline() == "held\n"
    return process


# The lock


def test_a_directory_is_held_by_one_process_which_is_named_until_it_ends(tmp_path):
    path = tmp_path / "run"
    holder = hold(path)
    try:
        began = time.monotonic()
        with pytest.raises(UserError) as refused:
            RunDirectory(path, {"seeds": [0]}, resume=True)
        assert time.monotonic() - began < 1
        words = rf"output directory {re.escape(str(path))} is in use by process {holder.pid} on \S+, since \d{{4}}-.*"
        assert re.fullmatch(words, str(refused.value))
        holder.communicate("")
        RunDirectory(path, {"seeds": [0]}, resume=True).close()
        holder = hold(path)
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on "):
            RunDirectory(path, {"seeds": [0]}, resume=True)
    finally:
        holder.kill()
        holder.communicate()
    assert holder.returncode == -signal.SIGKILL
    assert (path / HOLDER).exists()  # nobody took the note away
    RunDirectory(path, {"seeds": [0]}, resume=True).close()
    assert not (path / HOLDER).exists()


def test_the_lock_holds_within_a_process_too(tmp_path):
    held = RunDirectory(tmp_path, {})
    with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "):
        RunDirectory(tmp_path, {}, resume=True)
    held.append("metrics.jsonl", {"n": 1})  # the other one was refused and has changed nothing
    held.close()
    held.close()
    (tmp_path / HOLDER).mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        RunDirectory(tmp_path, {}, resume=True)
    (tmp_path / HOLDER).rmdir()
    RunDirectory(tmp_path, {}, resume=True).close()


def test_a_refused_process_without_a_note_to_read_still_says_something(tmp_path):
    held = RunDirectory(tmp_path, {})
    (tmp_path / HOLDER).unlink()
    with pytest.raises(UserError, match=r"is in use by another process$"):
        RunDirectory(tmp_path, {}, resume=True)
    held.close()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def fail(self):
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    with pytest.raises(UserError, match="cannot be locked: its file system has no locks"):
        RunDirectory(tmp_path, {})


def test_what_a_killed_process_leaves_is_no_content(tmp_path):
    for name in (LOCK, HOLDER, "config.json.new"):
        (tmp_path / name).touch()
    RunDirectory(tmp_path, {}).close()
    with pytest.raises(UserError, match="is not empty; choose another one"):
        RunDirectory(tmp_path, {})


def test_a_refused_directory_is_left_as_it_was(tmp_path):
    (tmp_path / "text").touch()
    for resume, words in ((False, "is not empty; choose"), (True, "holds no run")):
        with pytest.raises(UserError, match=words):
            RunDirectory(tmp_path, {}, resume=resume)
    assert [entry.name for entry in tmp_path.iterdir()] == ["text"]
    with pytest.raises(UserError, match="is not a directory"):
        RunDirectory(tmp_path / "text", {})


@pytest.mark.parametrize("there", [False, True])
def test_a_directory_that_cannot_be_written_is_an_error_in_a_line(tmp_path, there):
    path = tmp_path if there else tmp_path / "run"
    code = (
        "import pathlib, sys; from jaxprl.runs.record import RunDirectory; RunDirectory(pathlib.Path(sys.argv[1]), {})"
    )
    shell = f'mount -t tmpfs -o ro tmpfs {tmp_path} && exec "$0" "$@"'
    if subprocess.run(["unshare", "-rm", "sh", "-c", shell, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    words = ["unshare", "-rm", "sh", "-c", shell, sys.executable, "-c", code, path]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == f"jaxprl.errors.UserError: {path}: Read-only file system"


def test_names_that_are_no_text_and_long_names(tmp_path):
    RunDirectory(tmp_path / os.fsdecode(b"run-\xff"), {}).close()
    with pytest.raises(UserError, match="File name too long"):
        RunDirectory(tmp_path / ("x" * 300), {})


# Other systems


def test_the_package_needs_no_module_that_windows_lacks():
    code = """
import importlib, pkgutil, sys
import jax, filelock
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
import jaxprl.runs, jaxprl.report
for package in (jaxprl.runs, jaxprl.report):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_on_windows_a_directory_is_not_synced_and_a_file_is_opened_to_write(tmp_path, monkeypatch):
    opened = []

    def open_file(path, flags):
        opened.append((path, flags))
        return os.open(path, flags)

    windows = types.SimpleNamespace(
        name="nt", open=open_file, close=os.close, fsync=os.fsync, O_RDWR=os.O_RDWR, O_RDONLY=os.O_RDONLY
    )
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(record, "os", windows)
    record.sync(tmp_path)
    record.sync(file)
    assert opened == [(file, os.O_RDWR)]


# What a checkpoint holds


def state():
    return {
        "key": search_keys([7, 8]),
        "point": Point(jnp.arange(6, dtype=jnp.int32).reshape(2, 3), jnp.float32([[0.5], [1.5]])),
        "done": jnp.array([True, False]),
        "none": None,
    }


TEMPLATE = {"key": "", "point": Point("", 0), "done": "done", "none": None}  # leaves that mean nothing


def test_a_key_is_saved_with_its_implementation():
    arrays = flat(state() | {"other": jax.random.key(3, impl="rbg")}, "state")
    assert set(arrays) == {"state['key']:threefry2x32", "state['other']:rbg", "state['point'].programs",
                           "state['point'].latents", "state['done']"}  # fmt: skip
    assert arrays["state['key']:threefry2x32"].dtype == np.uint32


def test_a_state_is_rebuilt_from_names_alone(tmp_path):
    directory = RunDirectory(tmp_path, {})
    checkpoints = Checkpoints(directory)
    checkpoints.save(Saved(flat(state(), "state") | {"best.0": np.arange(3)}, {"seconds": 1.5}))
    saved = checkpoints.load()
    again = rebuilt(TEMPLATE, "state", saved.arrays)
    checkpoints.close()
    directory.close()
    assert jax.tree.structure(again) == jax.tree.structure(state())
    for leaf, want in zip(jax.tree.leaves(again), jax.tree.leaves(state()), strict=True):
        assert (leaf.dtype, leaf.shape) == (want.dtype, want.shape)
        assert jnp.all(leaf == want)
    assert jax.random.bits(again["key"][1]) == jax.random.bits(state()["key"][1])


def test_any_prefix_and_any_names_of_leaves():
    for tree, template in ((jnp.int32(3), ""), (jax.random.key(1), ""), ({"a:b": jnp.int32(3)}, {"a:b": ""}), ([], [])):
        for prefix in ("", "s", "a.b:c"):
            again = rebuilt(template, prefix, flat(tree, prefix) | {"state.x": np.arange(3), "best": np.arange(2)})
            assert jax.tree.all(jax.tree.map(lambda one, other: jnp.all(one == other), again, tree))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.pop("state['done']"), r"missing state\['done'\]$"),
        (lambda arrays: arrays.pop("state['key']:threefry2x32"), r"missing state\['key'\]$"),
        (lambda arrays: arrays.update({"state.x": 0, "state.y": 0}), r"unexpected state\.x, state\.y$"),
        (lambda arrays: arrays.update({"state['none']": arrays.pop("state['done']")}), r"missing .*; unexpected .*"),
    ],
)
def test_a_missing_or_unexpected_leaf_is_named(change, words):
    arrays = flat(state(), "state")
    change(arrays)
    with pytest.raises(UserError, match=f"the checkpoint is of another kind of search: {words}"):
        rebuilt(TEMPLATE, "state", arrays)
