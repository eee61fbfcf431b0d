"""The command lines, some of them as processes: what they print, what they refuse, what they leave behind."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from golden import returns

from jaxprl.cli.common import run_main
from jaxprl.cli.main import dispatch
from jaxprl.experiment import ledger

ROOT = Path(__file__).parent.parent


def call(*words, stdin=None, code=0):
    """Run a command of the project and return its standard output; its exit code is checked."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done.stdout if code != 2 else done.stderr


def refused(main, words, capsys):
    """Return what a command that is refused says on standard error, without a process of its own."""
    try:
        code = run_main(main, words)
    except SystemExit as ended:  # from argparse
        code = ended.code
    assert code == 2
    return capsys.readouterr().err


def printed(main, words, capsys, code=0):
    """Return what a command prints on standard output, without a process of its own; its exit code is checked."""
    capsys.readouterr()
    assert run_main(main, words) == code
    return capsys.readouterr().out


@pytest.fixture
def few_unseen(monkeypatch):
    """As many as the runs here have layouts: what is compiled for these serves."""
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_004))


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def comparable(path: Path, *columns: str) -> list[tuple]:
    """Lines of a record without their times, by search seed."""
    return sorted(tuple(row[column] for column in ("seed", *columns)) for row in rows(path))


# As in the other tests of whole runs in processes: what is compiled for one of them serves all.
RUN = ("--task", "Seeder", "--method", "hc", "--seeds", "3,4", "--budget", "300", "--layouts", "0-3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run of two search seeds, by a process: its directory, and what it printed."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, call("experiments/run.py", *RUN, "--out", str(out))


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "out"))


def test_a_run_leaves_its_record(finished):
    out, told = finished
    config = json.loads((out / "config.json").read_text())
    assert (config["task"], config["method"], config["seeds"]) == ("Seeder", "hc", [3, 4])
    assert json.loads((out / "env.json").read_text())["packages"]["jax"]
    for seed in (3, 4):
        result = json.loads((out / f"seed-{seed}" / "result.json").read_text())
        bests = [row for row in rows(out / "programs.jsonl") if row["seed"] == seed]
        assert bests[-1]["program"] == result["program"]
        assert bests[-1]["return"] == result["return"]
        assert [row["return"] for row in bests] == sorted({row["return"] for row in bests})
        assert result["unseen_layouts"] == 1000
        assert -1 <= result["unseen_return"] <= 1
        assert result["stop"] == ("solved" if result["return"] == 1 else "budget")
        assert result["evaluated"] == 300 or result["return"] == 1
    assert "def run():" in told
    last = rows(out / "metrics.jsonl")[-1]
    assert set(last) == {"seed", "evaluated", "best", "seconds"}


def mean_return(task, program, folder, capsys):
    """Return what `jaxprl evaluate` says of a program."""
    (folder / "program").write_text(program)
    words = ["evaluate", "--task", task, "--layout-seeds", "0-3", "--programs", str(folder / "program")]
    return json.loads(printed(dispatch, words, capsys))["mean"]


def test_a_recorded_program_has_the_recorded_return(finished, tmp_path, capsys):
    out, _ = finished
    best = rows(out / "programs.jsonl")[-1]
    assert mean_return("Seeder", best["program"], tmp_path, capsys) == best["return"]


@pytest.mark.usefixtures("few_unseen")
def test_a_directory_that_is_not_empty_is_refused_unless_resumed(copied, command, capsys):
    same = [*RUN, "--out", str(copied)]
    assert "is not empty" in refused(command.main, same, capsys)
    assert "seeds was [3, 4]" in refused(command.main, [*same, "--seeds", "3", "--resume"], capsys)
    before = comparable(copied / "metrics.jsonl", "evaluated", "best")
    (copied / "seed-4" / "result.json").unlink()
    assert run_main(command.main, [*same, "--resume"]) == 0
    assert (copied / "seed-4" / "result.json").exists()
    assert comparable(copied / "metrics.jsonl", "evaluated", "best") == before


def test_a_directory_in_use_is_refused(tmp_path, command, capsys):
    code = (
        "import sys, pathlib; from jaxprl.runs.record import RunDirectory;"
        "held = RunDirectory(pathlib.Path(sys.argv[1]), {'seeds': [0]}); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path / "out"], cwd=ROOT, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        said = refused(command.main, ["--out", str(tmp_path / "out"), "--resume"], capsys)
        assert f"in use by process {holder.pid} on " in said
    finally:
        holder.communicate("")


@pytest.mark.usefixtures("few_unseen")
@pytest.mark.parametrize(("llm", "budget"), [("recorded", 40), ("none", 33)])
def test_llm_gs_keeps_its_best_program(tmp_path, command, capsys, llm, budget):
    out = tmp_path / "out"
    words = ["--task", "DoorKey", "--budget", str(budget), "--layouts", "0-3", "--llm", llm, "--seeds", "7"]
    assert "def run():" in printed(command.main, [*words, "--out", str(out)], capsys)
    result = json.loads((out / "seed-7" / "result.json").read_text())
    assert result["evaluated"] == budget
    assert result["program"] == rows(out / "programs.jsonl")[-1]["program"]
    assert mean_return("DoorKey", result["program"], tmp_path, capsys) == result["return"]
    if llm == "recorded":
        answers = rows(out / "llm" / "answers.jsonl")
        assert sum(row["program"] is not None for row in answers) == result["llm"]["accepted"] == 32
        assert len(answers) == result["llm"]["answers"]
        assert all((row["program"] is None) == (row["reason"] is not None) for row in answers)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "Door"], "similar ones: DoorKey"),
        (["--method", "sa"], "\n  hc                           hill climbing from random programs: move"),
        (["--llm", "psychic"], "known: recorded, openai, none"),
        (["--seeds", "0-"], "neither a number nor a range"),
        (["--seeds", "5-2"], "ends before it starts"),
        (["--seeds", "1,1"], "named twice"),
        (["--seeds", "0-99999999"], "more than"),
        (["--layouts", "1000000"], "kept for the final test"),
        (["--budget", "0"], "budget 0"),
        (["--devices", "0"], "devices 0"),
        (["--checkpoint-every", "1m"], "checkpoint interval"),
        (["--out", "README.md"], "not a directory"),
        (["--out", "/proc/no/such"], "/proc/no/such"),
        (["--out", "x" * 300], "File name too long"),
        (["--out", ""], "empty name"),
        (["--out", "tests", "--resume"], "holds no run"),
        (["--task", "Maze"], "--llm none or --method hc"),
    ],
)
def test_a_mistake_is_a_message(words, message, command, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert message in refused(command.main, words, capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "Door"], "error: unknown task 'Door'"),
        pytest.param(["--out", "/proc/no/such"], "error: /proc/no/such: ", marks=pytest.mark.full),
        pytest.param(["--out", ""], "error: argument --out: an empty name", marks=pytest.mark.full),
    ],
)
def test_a_process_ends_with_the_message(words, message):
    """Of each kind one: our own errors, those of the system, those of the words."""
    assert message in call("experiments/run.py", *words, code=2).splitlines()[-1]


def test_evaluate_gives_the_golden_returns_and_names_bad_lines():
    good = returns("Maze")[:2]
    lines = [good[0].program, "DEF run m( walk m)", good[1].program]
    told = call("-m", "jaxprl", "evaluate", "--task", "Maze", "--programs", "-", stdin="\n".join(lines), code=1)
    first, bad, second = map(json.loads, told.splitlines())
    assert bad == {"program": lines[1], "error": bad["error"]}
    assert bad["error"].startswith("token 3: expected a statement")
    for row, want in ((first, good[0]), (second, good[1])):
        assert row["program"] == want.program
        assert row["returns"] == pytest.approx(want.returns, abs=1e-9)
        assert row["end"] == list(want.ends)


LONG = "DEF run m( " + "WHILE c( frontIsClear c) w( move w) IF c( markersPresent c) i( turnLeft i) " * 30 + "m)"
TOO_LONG = "DEF run m( " + "move " * 300 + "m)"


def test_programs_of_hundreds_of_tokens_are_run_by_every_command(tmp_path, capsys):
    assert len(LONG.split()) == 424
    file = tmp_path / "programs"
    file.write_text(f"{LONG}\n{TOO_LONG}\n")
    words = ["evaluate", "--task", "DoorKey", "--layout-seeds", "0-3", "--programs", str(file)]
    row, bad = map(json.loads, printed(dispatch, words, capsys, code=1).splitlines())
    figures = "a program of 304 tokens has 600 nodes; at most 512 are run"
    assert figures in bad["error"]
    one = ["--task", "DoorKey", "--layout-seed", "2", "--program"]
    assert len(printed(dispatch, ["trace", *one, LONG], capsys).splitlines()) == row["calls"][2]
    picture = str(tmp_path / "run.png")
    assert f" of {row['calls'][2]} calls" in printed(dispatch, ["render", *one, LONG, "--out", picture], capsys)
    assert figures in refused(dispatch, ["trace", *one, TOO_LONG], capsys)


def test_a_byte_that_is_not_text_spoils_its_own_line_only(tmp_path, capsys):
    file = tmp_path / "programs"
    file.write_bytes(b"\xef\xbb\xbfDEF run m( move m)\r\n\n\xff\xfe\nDEF run m(\x0cturnLeft m)\n")
    words = ["evaluate", "--task", "DoorKey", "--layout-seeds", "0-3", "--programs", str(file)]
    told = printed(dispatch, words, capsys, code=1)
    assert ["error" in json.loads(line) for line in told.splitlines()] == [False, True, False]


@pytest.mark.usefixtures("few_unseen")
def test_a_damaged_run_is_refused_or_its_result_made_again(copied, command, capsys):
    again = [*RUN, "--out", str(copied), "--resume"]
    (copied / "seed-3" / "result.json").write_text("{")
    with (copied / "metrics.jsonl").open("ab") as metrics:
        metrics.write(b'{"seed": 3, "eval\xff')
    before = comparable(copied / "programs.jsonl", "evaluated", "return")
    assert run_main(command.main, again) == 0
    assert comparable(copied / "programs.jsonl", "evaluated", "return") == before
    assert json.loads((copied / "seed-3" / "result.json").read_text())["seed"] == 3
    (copied / "config.json").write_text("[1]")
    assert "cannot be read" in refused(command.main, again, capsys)


def test_trace_follows_a_run(capsys):
    program = "DEF run m( WHILE c( frontIsClear c) w( move w) putMarker m)"
    words = ["trace", "--task", "DoorKey", "--layout-seed", "1", "--program", program]
    calls = [json.loads(line) for line in printed(dispatch, words, capsys).splitlines()]
    assert [row["name"] for row in calls] == ["frontIsClear", "move", "frontIsClear", "putMarker"]
    assert [row["line"] for row in calls] == [2, 3, 2, 4]
    assert calls[1]["pose"] == [2, 3, 1]
    assert (calls[-1]["reward"], calls[-1]["terminated"]) == (-1.0, True)


def test_tasks_are_listed(capsys):
    domains = [line.split()[1] for line in printed(dispatch, ["tasks"], capsys).splitlines()]
    assert (domains.count("karel"), domains.count("minigrid")) == (18, 3)
    assert domains.count("minigrid-extended") == 69


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trace", "--task", "Maze", "--program", "DEF run m( hop m)"], "token 3"),
        (["trace", "--task", "Maze", "--layout-seed", "0-3", "--program", "DEF run m( move m)"], "one layout"),
        (["evaluate", "--task", "Maze", "--programs", "no-such-file"], "No such file"),
        (["evaluate", "--task", "Amaze", "--programs", "-"], "unknown task"),
    ],
)
def test_a_mistake_at_the_tool_is_a_message(words, message, capsys):
    assert message in refused(dispatch, words, capsys)


def test_a_mistake_at_the_tool_ends_its_process():
    assert "unknown task" in call("-m", "jaxprl", "evaluate", "--task", "Amaze", "--programs", "-", code=2)


def test_compiled_code_is_kept_in_the_users_cache(tmp_path):
    """If JAX is not told of another folder, as it is in these tests."""
    code = "from jaxprl.cli.common import prepare_jax; prepare_jax(); import jax; jax.jit(lambda x: x + 1)(1)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    assert list((tmp_path / "jaxprl").glob("jit_*"))
