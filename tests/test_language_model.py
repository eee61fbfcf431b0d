"""Whole runs that ask a language model: a real server on the loopback, good and bad, and runs that are cut off."""

import contextlib
import itertools
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from llm_server import HANG_UP, Reply, completion, error, serving
from records import left_by, timeless

from jaxprl.errors import Stopped, UserError
from jaxprl.experiment import ledger
from jaxprl.experiment import run as experiment
from jaxprl.experiment.cluster import Host
from jaxprl.experiment.config import Config
from jaxprl.experiment.job import resolve
from jaxprl.experiment.language_model import LanguageModel, LLMAccess
from jaxprl.llm.programs import FRUITLESS
from jaxprl.llm.revision_prompts import METHODS as REVISIONS
from jaxprl.llm.settings import Settings
from jaxprl.report import page as reports
from jaxprl.runs.record import REQUESTS, RunDirectory, read_lines

ROOT = Path(__file__).parent.parent
KEY = "sk-secret-0123456789"
STATEMENTS = (
    "move()",
    "turnLeft()",
    "pickMarker()",
    "while frontIsClear():\n        move()",
    "if markersPresent():\n        pickMarker()",
)
TEXTS = [
    "```python\ndef run():\n" + "".join(f"    {STATEMENTS[n // 5**place % 5]}\n" for place in range(3)) + "```"
    for n in range(7, 125, 3)
]
"""40 answers, none of which does much."""
LAYOUTS = (0, 1, 2, 3)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_000 + len(LAYOUTS)))


def model(request, number):
    """Answers that follow from the prompt alone, so that whoever asks again gets the same."""
    rng = random.Random(json.dumps(request["messages"]))
    return completion(*(rng.choice(TEXTS) for _ in range(request.get("n", 1))))


def run(folder, url, *, out="out", resume=False, stop=None, **options):
    given = {"task": "CleanHouseSparse", "method": "llm-gs", "budget": 600, "layouts": LAYOUTS, "llm": "openai"}
    settings = Settings("m", url, deadline=10, retries=2, backoff=0.01)
    access = LLMAccess(folder / "answers.sqlite")
    config = Config(**{**given, "settings": settings, **options})
    return experiment.run(config, folder / out, resume=resume, llm_access=access, stop=stop)


def asked(out):
    """Every request by name, with what was wanted and the user's message."""
    rows = [row for row in read_lines(out / "llm" / "requests.jsonl") if "messages" in row]
    return {row["name"]: (row["asked"], row["messages"][1]["content"]) for row in rows}


def test_a_run_asks_keeps_what_it_paid_for_and_can_be_replayed(tmp_path):
    with serving(model) as server:
        results = run(tmp_path, server.url, seeds=(0, 1))
        assert 1 <= len(server.requests) <= 4
        assert [result["llm"]["accepted"] for result in results] == [32, 32]
        assert {header["authorization"] for header in server.headers} == {f"Bearer {KEY}"}
        number = len(server.requests)
        again = run(tmp_path, server.url, seeds=(0, 1), out="again")
        assert len(server.requests) == number
        (tmp_path / "again" / "llm" / "usage.json").unlink()  # as a kill between the last result and it leaves it
        run(tmp_path, server.url, seeds=(0, 1), out="again", resume=True)
        assert (tmp_path / "again" / "llm" / "usage.json").exists()
    replayed = run(tmp_path, "http://127.0.0.1:9/v1", seeds=(0, 1), out="replayed", llm="recorded")
    for other in (again, replayed):
        assert list(map(timeless, other)) == list(map(timeless, results))
    requests = asked(tmp_path / "out")
    assert requests["seed 0, round 0, ask 0"][0] == 48
    assert "Task: CleanHouse" in requests["seed 0, round 0, ask 0"][1]
    usage = json.loads((tmp_path / "out" / "llm" / "usage.json").read_text())
    assert usage["requests"] == {"answered": number}
    assert usage["prompt_tokens"] == 10 * number
    rows = read_lines(tmp_path / "out" / "llm" / "answers.jsonl")
    assert {row["text"] for row in rows} <= set(TEXTS)
    assert {row["seed"] for row in rows} == {0, 1}
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes(), file


def test_answers_that_were_cut_off_are_counted_and_give_no_program(tmp_path):
    """Of three answers one is whole, one is cut off in its program, and one behind its program."""

    def script(request, number):
        body = completion(*TEXTS[: request.get("n", 1)])
        for index, choice in enumerate(body["choices"]):
            if index % 3:
                choice["finish_reason"] = "length"
                choice["message"]["content"] = TEXTS[index].removesuffix("```") + (
                    "" if index % 3 == 1 else "```\nIt mo"
                )
        return body

    with serving(script) as server:
        [result] = run(tmp_path, server.url)
        [again] = run(tmp_path, server.url, out="again")
    assert timeless(again) == timeless(result)
    rows = read_lines(tmp_path / "out" / "llm" / "answers.jsonl")
    reasons = {(row["finish"], row["reason"], row["text"][-5:] == "It mo") for row in rows}
    assert reasons == {("stop", None, False), ("length", "cut off", False), ("length", None, True)}
    cut = sum(row["reason"] == "cut off" for row in rows)
    length = sum(row["finish"] == "length" for row in rows)
    assert length > cut > 9
    counts = result["llm"]
    assert counts["rejected"] == {"cut off": cut}
    assert counts["finish_reasons"] == {"length": length, "stop": len(rows) - length}
    reports.write([tmp_path / "out"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"cut off <span class='dim'>&times;{cut}</span>" in page
    assert f"length <span class='dim'>&times;{length}</span>" in page

    def never(request, number):
        body = script(request, number)
        return {**body, "choices": [body["choices"][1]] * request.get("n", 1)}

    with serving(never) as server, pytest.raises(UserError, match=r"144 cut off; a larger --max-tokens"):
        run(tmp_path / "never", server.url)


@pytest.mark.parametrize("method", REVISIONS)
def test_revision_asks_again_after_every_round(tmp_path, method):
    with serving(model) as server:
        [result] = run(tmp_path, server.url, method=method, budget=110)
    out = tmp_path / "out"
    rounds = read_lines(out / "llm" / "rounds.jsonl")
    assert [row["round"] for row in rounds] == list(range(len(rounds)))
    assert [row["evaluated"] for row in rounds] == [*range(32, 97, 32), 110][: len(rounds)]
    assert result["stop"] == ("solved" if result["return"] == 1 else "budget")
    assert result["evaluated"] == rounds[-1]["evaluated"]
    requests = asked(out)
    assert {name.split(", ")[1] for name in requests} == {f"round {row['round']}" for row in rounds}
    assert requests["seed 0, round 1, ask 0"][1] != requests["seed 0, round 0, ask 0"][1]
    assert result["llm"]["accepted"] == sum(row["accepted"] for row in rounds)


def test_answers_join_a_search_that_stalls(tmp_path):
    with serving(model) as server:
        [result] = run(tmp_path, server.url, task="CleanHouseSparse", budget=3000, options={"revise_every": 1})
    out = tmp_path / "out"
    rounds = read_lines(out / "llm" / "rounds.jsonl")
    assert len(rounds) >= 2
    assert all("--> " in asked(out)[f"seed 0, climb {row['climb']}, ask 0"][1] for row in rounds)
    assert result["evaluated"] == 3000
    assert result["llm"]["accepted"] == 32 + sum(row["accepted"] for row in rounds)


def bad(reply):
    """A server that answers rightly once and then only so."""

    def script(request, number):
        return completion(*TEXTS[:10]) if number == 0 else reply

    return script


@pytest.mark.parametrize(
    "reply",
    [
        Reply(error("busy"), 429, headers={"Retry-After": "0"}),
        Reply(error("oh"), 500),
        Reply(b"<html>", headers={"Content-Type": "text/html"}),
        completion(choices=None),
        completion(*[""] * 48),
        completion(*["(" * 100_000] * 2),
        completion("\0\ud800"),
        Reply(b'{"choices": [{"mess'),
        Reply({}, 404),
        HANG_UP,
    ],
    ids=["429", "500", "HTML", "null", "empty", "brackets", "NUL", "torn", "404", "nothing"],
)
def test_a_run_goes_on_with_what_it_has_or_says_that_it_has_nothing(tmp_path, reply):
    with serving(bad(reply)) as server:
        [result] = run(tmp_path, server.url, budget=40)
        assert result["llm"]["accepted"] == 10
        assert result["evaluated"] == 40
    with serving(lambda request, number: reply) as server, pytest.raises(UserError) as raised:
        run(tmp_path / "other", server.url, budget=40)
    assert any(words in str(raised.value) for words in ("gave no answer", "holds a program", "not found")), raised
    assert str(raised.value).count(server.url) <= 1


@pytest.mark.parametrize("method", ["llm-gs", "regeneration"])
@pytest.mark.parametrize("reply", [Reply(error("oh"), 500), completion("no program")], ids=["500", "prose"])
def test_seeds_without_a_program_are_left_out(tmp_path, capsys, method, reply):
    def script(request, number):
        return completion(*TEXTS[:40]) if number in (0, 1) else reply  # 48 answers for the first seed

    options = {"method": method, "budget": 40, "seeds": (4, 5)}
    with serving(script) as server:
        results = run(tmp_path, server.url, **options)
    assert [result["seed"] for result in results] == [4]
    said = capsys.readouterr().err
    assert said.count(f"asking model 'm' at {server.url}\n") == 1
    assert "WARNING: seed 5: none of " in said
    assert ("server error" in said) == (not isinstance(reply, dict))
    assert not (tmp_path / "out" / "seed-5").exists()
    before = left_by(tmp_path / "out")
    assert run(tmp_path, server.url, resume=True, **options) == results
    assert left_by(tmp_path / "out") == before


def test_a_spending_limit_is_kept(tmp_path):
    prices = tmp_path / "prices.json"
    prices.write_text('{"m": {"input": 0, "output": 1000000}}')  # a dollar a token

    def one_at_a_time(request, number):
        return completion(TEXTS[number % 40], usage=(5, 3))

    with serving(one_at_a_time) as server:
        settings = Settings("m", server.url, max_tokens=4, backoff=0.01)
        config = Config("CleanHouseSparse", budget=40, layouts=LAYOUTS, llm="openai", settings=settings)
        access = LLMAccess(tmp_path / "answers.sqlite", prices, 60.0)
        [result] = experiment.run(config, tmp_path / "out", llm_access=access)
    usage = json.loads((tmp_path / "out" / "llm" / "usage.json").read_text())
    assert usage["requests"]["spending limit"] >= 1
    assert 40 < usage["cost"] <= 60
    assert 0 < result["llm"]["accepted"] < 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llm": "openai"}, "needs the --model"),
        ({"llm": "none", "settings": Settings("m")}, "asks no model"),
        ({"method": "hc", "settings": Settings("m")}, "hc asks no language model"),
        ({"method": "regeneration"}, "asks a language model again and again"),
        ({"options": {"revise_every": 0}, "settings": Settings("m")}, "it takes 1 climb or more"),
        ({"options": {"revise_every": 3}}, "asks a language model again: name it with --model"),
        ({"style": "haiku"}, "unknown prompt style"),
        ({"settings": Settings("m"), "task": "farama:MiniGrid-Dynamic-Obstacles-5x5-v0"}, "lacks words"),
    ],
)
def test_what_cannot_be_asked(options, message):
    with pytest.raises(UserError, match=message):
        resolve(Config(**options))


def test_a_run_that_goes_on_does_not_ask_again_what_brought_nothing(tmp_path):
    stop = SimpleNamespace(signal=None)

    def script(request, number):
        if 1 <= number <= 9:  # three requests of the second round, each with two further attempts
            return Reply(error("oh"), 500)
        if number == 11:
            stop.signal = signal.SIGTERM
            return Reply({}, after=30)
        return model(request, number)

    rounds = tmp_path / "out" / "llm" / "rounds.jsonl"
    with serving(script) as server, pytest.raises(Stopped):
        run(tmp_path, server.url, method="regeneration", stop=stop)
    before = read_lines(rounds)
    assert [row["fruitless"] for row in before] == [0, FRUITLESS, 0]
    for _ in range(2):
        with serving(model) as server:
            [result] = run(tmp_path, server.url, method="regeneration", resume=True)
        assert read_lines(rounds)[:3] == before
        assert result["stop"] == "rounds"
    assert not server.requests


def test_a_request_that_was_cut_off_counts_with_what_it_can_have_cost(tmp_path):
    prices = tmp_path / "prices.json"
    prices.write_text('{"m": {"input": 0, "output": 1000000}}')
    access = LLMAccess(tmp_path / "answers.sqlite", prices, 60.0)
    directory = RunDirectory(tmp_path / "out", {})
    for row in (
        {"name": "a", "begun": "1", "reserved": 4.0},
        {"name": "a", "begun": "2", "reserved": 8.0},
        {"name": "a", "begun": "2", "reserved": 9.0},  # another attempt
        {"name": "a", "begun": "1", "outcome": "answered", "answers": 1, "cost": 3.0},
    ):
        directory.append(REQUESTS, row)
    for _ in range(2):
        asker = LanguageModel(Settings("m", max_tokens=4), access, directory, replay=False, should_stop=lambda: False)
        assert asker.client.budget.spent == 12.0
        assert asker.usage()["requests"] == {"answered": 1, "lost": 1}
        assert asker.usage()["cost"] == 12.0
    directory.close()


@pytest.mark.parametrize(
    ("access", "message"),
    [
        ({"prices": "none.json"}, "No such file"),
        ({"limit": 3.0}, "needs the model's price"),
        ({"prices": "prices.json", "limit": 3.0}, "needs max tokens"),
        ({"cache": "prices.json"}, "no cache of answers"),
    ],
)
def test_mistakes_are_found_before_the_run_directory_is_taken(tmp_path, access, message):
    (tmp_path / "prices.json").write_text('{"m": {"input": 0, "output": 1}}')
    paths = {name: value if name == "limit" else tmp_path / value for name, value in access.items()}
    with pytest.raises(UserError, match=message):
        experiment.run(
            Config("CleanHouse", llm="openai", settings=Settings("m", "http://127.0.0.1:9/v1")),
            tmp_path / "out",
            llm_access=LLMAccess(**{"cache": tmp_path / "answers.sqlite", **paths}),
        )
    assert not (tmp_path / "out").exists()


def test_hosts_share_the_spending_limit(tmp_path, command, monkeypatch):
    limits = []

    def run(job, out, *, llm_access, **options):
        limits.append(llm_access.limit)
        raise UserError("far enough")

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(command, "join", lambda text: Host(1, 4))
    for hosts in ([], ["--hosts", "auto"]):
        with pytest.raises(UserError, match="far enough"):
            command.main(["--llm", "openai", "--model", "m", "--max-spend", "6", "--seeds", "0-3", *hosts])
    assert limits == [6.0, 1.5]


@pytest.mark.parametrize(
    "words", [("--temperature", "0"), ("--max-spend", "3"), ("--answers", "a"), ("--llm-seed", "0")]
)
def test_options_of_a_model_need_one(command, words):
    with pytest.raises(UserError, match=f"^{words[0]}: which --model"):
        command.main(words)


def test_a_price_that_is_missing_is_named(tmp_path, capsys):
    (tmp_path / "prices.json").write_text("{}")
    LLMAccess(tmp_path / "answers.sqlite", tmp_path / "prices.json").check(Settings("m"), replay=False)
    assert "lack model 'm'" in capsys.readouterr().err


def start(out, url, *words):
    command = [
        sys.executable,
        "experiments/run.py",
        "--task",
        "CleanHouseSparse",
        "--layouts",
        "0-3",
        "--llm",
        "openai",
        "--model",
    ]
    more = ["m", "--base-url", url, "--out", out, "--answers", out.parent / "answers.sqlite", *words]
    return subprocess.Popen([*command, *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_sigterm_while_the_server_thinks(tmp_path):
    out = tmp_path / "out"
    words = ("--method", "regeneration", "--budget", "70")
    with serving(lambda request, number: Reply({}, after=60) if number else model(request, number)) as server:
        process = start(out, server.url, *words)
        until = time.monotonic() + 60
        while len(server.requests) < 2 and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert time.monotonic() - told < 10
        assert process.returncode == 75, said
        assert "--resume" in said
        assert "Traceback" not in said
    with serving(model) as server:
        process = start(out, server.url, *words, "--resume")
        printed, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "LLM requests: " in printed
        first = asked(out)["seed 0, round 0, ask 0"][1]
        assert first not in {request["messages"][1]["content"] for request in server.requests}


def ended(process, server, *, requests, pause):
    """Kill a process some seconds after it has made so many requests, if it goes on then, and return its exit code."""
    until = len(server.requests) + requests
    while process.poll() is None and len(server.requests) < until:
        time.sleep(0.01)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(pause)
    process.kill()
    _, said = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode


@pytest.mark.full
@pytest.mark.parametrize(
    "words", [("--method", "execution-trace"), ("--revise-every", "1", "--task", "CleanHouseSparse")]
)
def test_runs_that_ask_survive_kills(tmp_path, words):
    words = (*words, "--budget", "3000", "--seeds", "0-1", "--checkpoint-every", "300")
    rng = random.Random(0)
    with serving(model) as server:
        whole = start(tmp_path / "whole" / "out", server.url, *words)
        assert ended(whole, server, requests=10**9, pause=1) == 0
        seen = {json.dumps(request) for request in server.requests}
        out = tmp_path / "killed" / "out"
        for kills in itertools.count():
            process = start(out, server.url, *words, *(["--resume"] if (out / "config.json").exists() else []))
            requests, pause = (rng.randint(1, 2), rng.random()) if kills < 10 else (10**9, 1)
            if ended(process, server, requests=requests, pause=pause) == 0:
                break
        assert kills > 0
        assert left_by(out) == left_by(tmp_path / "whole" / "out")
        assert {json.dumps(request) for request in server.requests} == seen
