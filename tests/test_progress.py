"""The progress line says what is being done, also while an answer is waited for; real processes and a real server."""

import io
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from llm_server import completion, serving

from jaxprl.runs.progress import Progress

ROOT = Path(__file__).parent.parent
PROGRAMS = ("move()", "turnLeft()", "pickMarker()", "turnRight()", "while frontIsClear():\n        move()")
TEXTS = [f"```python\ndef run():\n    {a}\n    {b}\n```" for a, b in itertools.product(PROGRAMS, repeat=2)]


def start(*words, **options):
    return subprocess.Popen([sys.executable, "-m", "jaxprl", "run", *map(str, words)], cwd=ROOT, text=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)  # fmt: skip


def read_until(process, activity):
    """Read progress lines until one says what is being done, and return the activities that the others said."""
    others = []
    for line in process.stderr:
        if line.startswith("best return"):
            others.append(line.rsplit(" | ", 1)[1].strip())
            if others[-1] == activity:
                return others[:-1]
    raise AssertionError(f"it never said {activity}, only {others}: exit code {process.wait()}")


def test_a_run_that_waits_for_answers_says_so(tmp_path):
    """At its beginning and later. Every answer is held back until the line has said that it is asked for."""
    requests, said = 2, [threading.Event() for _ in range(2)]

    def script(request, number):
        assert number >= requests or said[number].wait(60)
        return completion(*itertools.islice(itertools.cycle(TEXTS), request.get("n", 1)))

    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with serving(script) as server:
        asked = ["--llm", "openai", "--model", "m", "--base-url", server.url, "--answers", tmp_path / "answers"]
        words = ["--task", "CleanHouseSparse", "--layouts", "0-3", "--method", "llm-gs", "--revise-every", 1, *asked]
        environment["OPENAI_API_KEY"] = "none"
        process = start(*words, "--budget", 3000, "--out", tmp_path / "out", env=environment)
        for number in range(requests):
            read_until(process, "asking")
            said[number].set()
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 0, told
    assert len(server.requests) >= requests
    last = [line for line in told.splitlines() if line.startswith("best return")][-1]
    assert "asking" not in last


def test_a_run_says_that_it_compiles_evaluates_and_saves(tmp_path):
    """It saves often enough to be seen, and does not end by itself: nothing solves Snake."""
    with start("--task", "Snake", "--method", "hc", "--seeds", "3,4", "--layouts", "0-3", "--budget", 10**9,
               "--checkpoint-every", "1000", "--out", tmp_path / "out") as process:  # fmt: skip
        assert set(read_until(process, "evaluating")) <= {"compiling", "saving"}
        read_until(process, "saving")
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=30)[1]
    assert process.returncode == 75, told


def test_a_line_is_shown_while_nothing_happens():
    stream = io.StringIO()
    with Progress(stream, every=0.5) as progress:
        progress.activity = "compiling"
        progress.show(None, 0)
        with progress.doing("asking"):
            time.sleep(1.2)
        progress.show(0.5, 70, final=True)
    lines = stream.getvalue().splitlines()
    assert [line.rsplit(" | ", 1)[1] for line in lines[:3]] == ["compiling", "asking", "asking"]
    assert "best return 0.5000 | 70 programs | " in lines[-1]
    assert lines[-1].endswith(" s")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_line_of_a_terminal_is_rewritten_and_ended():
    stream = Terminal()
    with Progress(stream) as progress, progress.doing("asking"):
        time.sleep(0.6)
    said = stream.getvalue()
    assert said.count("\r\x1b[Kbest return - | 0 programs | ") >= 2
    assert said.count("\n") == 1
    assert said.endswith("| asking\n")
