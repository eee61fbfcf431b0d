"""Sweeps: their files, their cells, and what is done when cells fail, are done, or are stopped."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from jaxprl.cli import sweep as sweep_command
from jaxprl.cli.common import run_main
from jaxprl.errors import Stopped, UserError
from jaxprl.experiment.published import KAREL
from jaxprl.worlds.make import make

ROOT = Path(__file__).parent.parent
GRID = {"tasks": ["Seeder"], "methods": ["hc"], "seeds": "3,4", "budget": 300, "layouts": "0-3"}


@pytest.fixture
def sweep(monkeypatch):
    """The command's module, which leaves JAX's configuration alone."""
    monkeypatch.setattr(sweep_command, "prepare_jax", lambda: None)
    return sweep_command


def words(file, *more):
    return [sys.executable, "-m", "jaxprl", "sweep", str(file), *more]


def call(file, *more, code=0):
    done = subprocess.run(words(file, *more), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def refused(sweep, capsys, file, *more):
    """Return what a sweep that is refused says on standard error, without a process of its own."""
    try:
        code = run_main(sweep.main, [str(file), *more])
    except SystemExit as ended:  # from argparse
        code = ended.code
    assert code == 2
    return capsys.readouterr().err


def write(folder, *grid, **more):
    file = folder / "sweep.json"
    file.write_text(json.dumps({"out": str(folder / "out"), "grid": list(grid)} | more))
    return file


def test_a_sweep_runs_its_cells_names_the_bad_one_and_skips_what_is_done(tmp_path, sweep, capfd):
    file = write(tmp_path, GRID, GRID | {"tasks": ["Maze"]})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "Maze-hc").touch()
    first = call(file, code=1)
    assert "1 of 2 cells failed: Maze-hc (exit code 2)" in first.stderr
    (tmp_path / "out" / "Maze-hc").unlink()
    cell = tmp_path / "out" / "Seeder-hc"
    results = {seed: (cell / f"seed-{seed}" / "result.json").read_bytes() for seed in (3, 4)}
    assert "Seeder" in (tmp_path / "out" / "report.html").read_text()
    file = write(tmp_path, GRID)
    assert run_main(sweep.main, [str(file), "--cell", "0"]) == 0
    assert "finished before" in capfd.readouterr().out
    (cell / "seed-3" / "result.json").write_text("{")  # then the cell is not finished any more
    assert run_main(sweep.main, [str(file), "--cell", "0"]) == 0
    found = json.loads((cell / "seed-3" / "result.json").read_text())
    assert found["program"] == json.loads(results[3])["program"]
    assert (cell / "seed-4" / "result.json").read_bytes() == results[4]
    assert run_main(sweep.main, [str(file), "--cell", "0", "--budget", "301"]) == 2
    assert "budget was 300, is 301" in capfd.readouterr().err


def test_a_sweep_that_is_stopped_saves_and_goes_on(tmp_path):
    file = write(tmp_path, GRID | {"k": 1, "budget": 10**8})  # which solves nothing for minutes
    sweep = subprocess.Popen(words(file), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    record = tmp_path / "out" / "Seeder-hc" / "metrics.jsonl"
    try:
        deadline = time.monotonic() + 120
        while not record.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        sweep.send_signal(signal.SIGTERM)
        _, told = sweep.communicate(timeout=60)
    finally:
        sweep.kill()
        sweep.wait()
    assert sweep.returncode == 75, told
    assert "stopped in Seeder-hc; the same command goes on" in told


def test_a_run_that_did_not_stop_by_itself_is_named(tmp_path, sweep, monkeypatch):
    code = "import os, signal\nos.kill(os.getppid(), signal.SIGTERM)\nsignal.pause()"
    monkeypatch.setattr(sweep, "RUN", (sys.executable, "-c", code))
    with pytest.raises(Stopped, match=r"stopped in a \(its run ended with exit code -15\); the same"):
        sweep.run_cell(sweep.Cell("a", []), tmp_path)


@pytest.mark.parametrize(("code", "requeued"), [(75, "requeue 7_3\n"), (0, ""), (2, "")])
def test_a_cell_that_slurm_stops_goes_back_into_the_queue(tmp_path, code, requeued):
    """With programs of these names in the place of Slurm's and of the search."""
    search = f"trap 'sleep 0.2; exit {code}' TERM; echo begun >{tmp_path}/begun; while :; do sleep 0.05; done"
    for name, text in (("jaxprl", search), ("scontrol", f'echo "$@" >>{tmp_path}/queue')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "queue").touch()
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    env |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    script = ROOT / "experiments" / "slurm" / "sweep.slurm"
    job = subprocess.Popen(["bash", script, "hc.toml"], env=env, start_new_session=True)
    try:
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
        assert job.wait(10) == code
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    assert (tmp_path / "queue").read_text() == requeued


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "needs tasks"),
        ({"tasks": "Maze", "methods": ["hc"]}, "needs tasks"),
        ({"tasks": ["Maze"], "methods": []}, "needs methods"),
        (GRID | {"temprature": 1}, "cell Seeder-hc: unrecognized arguments: --temprature 1"),
        (GRID | {"budget": "many"}, "invalid int value"),
        (GRID | {"resume": True}, "the sweep's own"),
        (GRID | {"help": True}, "the sweep's own"),
        (GRID | {"budg": 5}, "unrecognized arguments: --budg 5"),
        (GRID | {"model": None}, "model = None: neither"),
        (GRID | {"prices": {"a": 1}}, "prices = .*: neither"),
        (GRID | {"model": "\0"}, "model = .*: neither"),
        (GRID | {"tasks": ["Maze", "Maze"]}, "two cells have the name Maze-hc"),
        (GRID | {"tasks": ["Maze", "Amaze"]}, "cell Amaze-hc: unknown task 'Amaze'"),
        (GRID | {"methods": ["hcc"]}, "cell Seeder-hcc: unknown method 'hcc'"),
        (GRID | {"seeds": "9-0"}, "cell Seeder-hc: seeds '9-0'"),
        (GRID | {"model": "m"}, "hc asks no language model"),
    ],
)
def test_a_mistake_in_the_file_is_a_message(grid, message, tmp_path, sweep):
    with pytest.raises(UserError, match=message):
        sweep.main([str(write(tmp_path, grid)), "--list"])


def test_a_file_that_is_no_sweep_is_a_message(tmp_path, sweep, capsys):
    (tmp_path / "sweep.toml").write_text("out = [")
    for file, message, *more in (
        (tmp_path / "nothing.toml", "No such file"),
        (tmp_path / "sweep.toml", r"sweep\.toml"),
        (write(tmp_path, GRID), "from 0 to 0", "--cell", "1"),
    ):
        with pytest.raises(UserError, match=message):
            sweep.main([str(file), *more])
    for out in (5, "", "a\0b"):
        with pytest.raises(UserError, match=r"out .* is no folder's name"):
            sweep.main([str(write(tmp_path, GRID, out=out)), "--list"])
    assert "expected `out`" in refused(sweep, capsys, write(tmp_path, GRID, seeds="0"))


def test_options_are_changed_for_all_cells(tmp_path, sweep, capsys):
    file = str(write(tmp_path, GRID | {"tasks": ["DoorKey", "Maze"], "methods": ["llm-gs"], "llm": "recorded"}))
    sweep.main([file, "--list", "--set", "llm=openai", "--set", "model=gpt-4o", "--set", "base-url=http://a:1/v1"])
    listed = capsys.readouterr().out
    assert listed.count("--llm openai --model gpt-4o --base-url http://a:1/v1") == 2
    assert "recorded" not in listed
    with pytest.raises(UserError, match="the sweep's own"):
        sweep.main([file, "--list", "--set", "out=x=y"])
    assert "'model' is not NAME=VALUE" in refused(sweep, capsys, file, "--set", "model")


def test_a_folder_without_results_is_not_finished(tmp_path, sweep):
    (tmp_path / sweep.DONE).write_text("[]")
    assert not sweep._finished(tmp_path, sweep.Cell("a", []))


@pytest.mark.parametrize(("name", "method"), [("hc", "hc"), ("llm_gs", "llm-gs")])
def test_the_published_columns_are_whole(name, method, sweep, capsys):
    asked = tomllib.loads((ROOT / "experiments" / "sweeps" / f"{name}.toml").read_text())
    seeds = {make(task).language.name: each["seeds"] for each in asked["grid"] for task in each["tasks"]}
    assert seeds == {"karel": "0-31", "minigrid": "0-7"}
    file = str(ROOT / "experiments" / "sweeps" / f"{name}.toml")
    sweep.main([file, "--list"])
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 15
    assert set(KAREL) <= {line.split("--task ")[1].split()[0] for line in listed}
    assert all(f"--method {method}" in line for line in listed)
    budgets = {make(task).budget for each in asked["grid"] for task in each["tasks"]}
    assert budgets == {1_000_000, 10_000}
    sweep.main([file, "--list", "--seeds", "0-1", "--budget", "50"])
    fewer = capsys.readouterr().out
    assert fewer.count("--seeds 0-1 ") == fewer.count("--budget 50") == 15
