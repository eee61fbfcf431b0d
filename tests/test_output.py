"""Whatever becomes of what commands print, they save, stop and end as they should; real processes, pipes and disks."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxprl import output
from jaxprl.runs.checkpoint import Checkpoints
from jaxprl.runs.record import RunDirectory

ROOT = Path(__file__).parent.parent
JAXPRL = (sys.executable, "-m", "jaxprl")
SHORT = ("run", "--task", "Seeder", "--method", "hc", "--seeds", "3,4", "--layouts", "0-3", "--budget", "300")
LONG = (*SHORT[:-1], "1000000000")
linux = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


def start(words, redirection="", **options):
    """Start a command with what a shell does to its streams."""
    shell = ("bash", "-c", f'exec "$0" "$@" {redirection}') if redirection else ()
    return subprocess.Popen([*shell, *JAXPRL, *map(str, words)], cwd=ROOT, start_new_session=True, **options)


def wait_for(happened, process, seconds=120):
    until = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)


def lost(out):
    file = out / "lost_output.json"
    return json.loads(file.read_text()) if file.exists() else {}


def checkpoint_of(out):
    """The newest checkpoint of a run that has ended; loading one checks it."""
    directory = RunDirectory(out, json.loads((out / "config.json").read_text()), resume=True)
    checkpoints = Checkpoints(directory)
    try:
        return checkpoints.load()
    finally:
        checkpoints.close()
        directory.close()


def interrupted_without_a_reader(words, happened, sent=signal.SIGINT):
    """Start a command whose output goes to a pipe; once something has happened the reader goes, then send the signal,
    as control-C does to `jaxprl ... 2>&1 | tee log`. Return the exit code."""
    reader, writer = os.pipe()
    process = start(words, stdout=writer, stderr=writer)
    os.close(writer)
    wait_for(happened, process)
    os.close(reader)
    process.send_signal(sent)
    return process.wait(timeout=30)


def test_a_run_whose_reader_has_gone_saves_and_stops(tmp_path):
    out = tmp_path / "out"
    assert interrupted_without_a_reader([*LONG, "--out", out], (out / "programs.jsonl").exists) == 130
    assert checkpoint_of(out) is not None
    assert lost(out) == {"standard error": os.strerror(32)}


@linux
@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        ("<&- >&- 2>&-", {}),
        ("2>/dev/full", {"standard error": "No space left on device"}),
        *(
            pytest.param(redirection, said, marks=pytest.mark.full)
            for redirection, said in (
                ("2>&-", {}),
                (">&-", {}),
                ("<&-", {}),
                (">/dev/full", {"standard output": "No space left on device"}),
                (">/dev/full 2>&1", dict.fromkeys(("standard error", "standard output"), "No space left on device")),
            )
        ),
    ],
)
def test_a_run_that_cannot_print_saves_and_stops(tmp_path, redirection, said):
    out = tmp_path / "out"
    process = start([*LONG, "--out", out], redirection)
    wait_for((out / "programs.jsonl").exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert checkpoint_of(out) is not None
    # What is flushed when the process ends comes too late for the record.
    assert lost(out).items() <= said.items()
    assert ("standard error" in lost(out)) == ("standard error" in said)
    for file in out.rglob("*.json*"):  # none got the number of a closed stream, and with it what was said there
        for line in file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
            json.loads(line)


def test_a_reader_that_does_not_read_stops_no_run(tmp_path):
    out = tmp_path / "out"
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 4096)  # until the pipe is full
    os.set_blocking(writer, True)
    process = start([*LONG, "--out", out], stdout=writer, stderr=writer)
    wait_for((out / "programs.jsonl").exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    os.close(reader)
    os.close(writer)
    assert checkpoint_of(out) is not None
    assert lost(out)["standard error"] == "its reader does not read"


@pytest.mark.full
@linux
def test_a_run_that_cannot_print_ends_as_any(tmp_path):
    whole = tmp_path / "whole"
    for redirection in ("", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"):
        out = tmp_path / f"out{redirection}".replace("/", "")
        process = start([*SHORT, "--out", whole if not redirection else out], redirection, stderr=subprocess.PIPE)
        told = process.communicate()[1].decode()
        assert process.returncode == 0
        assert ("WARNING: standard output cannot be written" in told) == (redirection == ">/dev/full")
        if redirection:
            assert sorted(path.name for path in out.iterdir() if path.name != "lost_output.json") == sorted(
                path.name for path in whole.iterdir()
            )


def test_a_sweep_whose_reader_has_gone_stops_and_its_cell_saves(tmp_path):
    file, out = tmp_path / "sweep.json", tmp_path / "out"
    cell = {"tasks": ["Seeder"], "methods": ["hc"], "seeds": "3,4", "layouts": "0-3", "budget": 10**9}
    file.write_text(json.dumps({"grid": [cell]}))
    run = out / "Seeder-hc"
    code = interrupted_without_a_reader(["sweep", file, "--out", out], (run / "programs.jsonl").exists)
    assert code == 130
    assert checkpoint_of(run) is not None


@pytest.mark.full
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_training_whose_reader_has_gone_saves_and_stops(tmp_path, sent, code):
    out = tmp_path / "out"
    words = ["train", "--out", out, "--no-report"]
    assert interrupted_without_a_reader(words, (out / "metrics.jsonl").exists, sent) == code
    assert int(checkpoint_of(out).arrays[".step"]) >= 4


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_before_a_run_begins_has_the_code_of_a_stop(sent, code):
    process = start([*SHORT, "--hosts", "127.0.0.1:9,2,1"], stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("no list of a process's children")
    wait_for(lambda: children.read_text(), process)  # it waits for the other host
    child = int(children.read_text())
    process.send_signal(sent)
    told = process.communicate(timeout=10)[1]
    os.kill(child, signal.SIGKILL)
    assert (process.returncode, told) == (code, f"{sent.name}: stopped; what is saved is kept\n")


def ended(words, redirection="", *, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE):
    """Return the exit code of a command, and what it says on standard error."""
    process = start(words, redirection, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True)
    told = process.communicate(timeout=60)[1]
    return process.returncode, told


@pytest.mark.parametrize("words", [["--version"], ["tasks"], pytest.param(["run", "--help"], marks=pytest.mark.full)])
def test_commands_that_print_end_quietly_without_a_reader(words):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert ended(words, stdout=writer) == (1, "")
    finally:
        os.close(writer)


@linux
def test_commands_that_print_say_if_they_cannot():
    full = "error: standard output: No space left on device\n"
    assert ended(["--version"], ">/dev/full") == (2, full)
    assert ended(["--version"], ">&-") == (0, "")
    assert ended(["--version"], "<&- 2>&-") == (0, "")
    assert ended(["walk"], "2>/dev/full") == (2, "")
    assert ended(["walk"], "<&- >&- 2>&-") == (2, "")


def test_programs_from_a_closed_standard_input_are_named():
    code, told = ended(["evaluate", "--task", "Maze", "--programs", "-"], "<&-")
    assert (code, told) == (2, "error: programs -: standard input is closed\n")


@pytest.mark.parametrize("setting", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}])
def test_what_a_stream_lacks_is_escaped(setting):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    environment |= {"PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT), **setting}
    process = start(["wälk", b"\xff".decode(errors="surrogateescape")], env=environment, stderr=subprocess.PIPE)
    told = process.communicate()[1].decode("ascii")
    assert process.returncode == 2
    assert "unknown command 'w\\" in told


def test_say_never_raises(monkeypatch):
    monkeypatch.setattr(output, "LOST", {})
    closed = io.StringIO()
    closed.close()
    output.say("lost", stream=closed)
    assert output.LOST == {}  # it is no standard stream
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        output.say("lost", stream=closed)
    assert output.LOST == {"standard output": "Bad file descriptor"}
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    output.say("é \udcff", stream=ascii_only)
    assert ascii_only.buffer.getvalue() == b"\\xe9 \\udcff\n"
    monkeypatch.setattr(sys, "stderr", None)
    output.say("nowhere")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as broken:
        monkeypatch.setattr(sys, "stderr", broken)
        output.say("lost as well")
        assert output.LOST["standard error"] == "Broken pipe"
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # so that it can be closed
