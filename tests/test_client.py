"""The client against a real server that answers rightly, wrongly, slowly or not at all; the cache; the money."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_server import HANG_UP, Reply, answer, completion, error, serving

from jaxprl.errors import UserError
from jaxprl.llm import completion as bodies
from jaxprl.llm.cache import Cache, request_key
from jaxprl.llm.client import Client
from jaxprl.llm.extract import extract
from jaxprl.llm.money import Budget, Price, read_prices
from jaxprl.llm.replay import Replay
from jaxprl.llm.settings import Settings
from jaxprl.llm.source import FAILURES, Interrupted
from jaxprl.llm.transport import Transport
from jaxprl.worlds.karel.world import LANGUAGE as KAREL

ROOT = Path(__file__).parent.parent
MESSAGES = [{"role": "system", "content": "You write programs."}, {"role": "user", "content": "Write one."}]
KEY = "sk-secret-0123456789"
NUL_AND_SURROGATES = "a\0b\ud800c\udfffd"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


class Bench:
    """A server with its script, and clients that share a cache and a log."""

    def __init__(self, server, folder):
        self.server, self.cache, self.rows, self.clients = server, Cache(folder / "answers.sqlite"), [], []
        self.begun = []

    def log(self, row):
        (self.rows if "outcome" in row else self.begun).append(row)

    def client(self, *, budget=None, should_stop=lambda: False, **settings):
        given = {"model": "m", "base_url": self.server.url, "backoff": 0.01, "retries": 3, "deadline": 20.0, **settings}
        client = Client(Settings(**given), self.cache, budget=budget, log=self.log, should_stop=should_stop)
        self.clients.append(client)
        return client

    def outcomes(self):
        return [row["outcome"] for row in self.rows]


@pytest.fixture
def bench(tmp_path):
    """`bench(script)` serves a script until the test ends."""
    with contextlib.ExitStack() as stack:

        def make(script):
            made = Bench(stack.enter_context(serving(script)), tmp_path)
            stack.callback(lambda: [client.close() for client in made.clients])
            return made

        yield make


def texts(replies):
    return [reply.text for reply in replies]


def right(request, number):
    return answer(request)


def test_right_answers_in_one_request(bench):
    at = bench(right)
    client = at.client(max_tokens=50)
    replies = client.ask(MESSAGES, 5, name="first")
    assert texts(replies) == [f"answer {n}" for n in range(5)]
    assert [reply.index for reply in replies] == [0, 1, 2, 3, 4]
    assert replies[0].usage == (10, 20)
    assert not any(reply.cached for reply in replies)
    assert at.server.requests == [
        {"model": "m", "temperature": 1, "top_p": 1, "max_tokens": 50, "n": 5, "messages": MESSAGES}
    ]
    (row,) = at.rows
    assert row["outcome"] == "answered"
    assert (row["answers"], row["attempts"], row["status"], row["name"]) == (5, 1, 200, "first")
    assert row["tokens"] == {"prompt": 10, "completion": 20, "estimated": False}
    assert not client.failures.total()


def test_cached_answers_need_no_request(bench):
    at = bench(right)
    first = at.client().ask(MESSAGES, 3, name="a")
    again = at.client(base_url="http://nowhere.invalid/v1").ask(MESSAGES, 3, name="a")
    assert texts(again) == texts(first)
    assert all(reply.cached for reply in again)
    assert len(at.server.requests) == 1
    assert at.outcomes() == ["answered", "cached"]
    assert len(at.client().ask(MESSAGES, 2, name="a")) == 2
    more = at.client().ask(MESSAGES, 4, name="a")  # only what is missing is asked for
    assert [reply.cached for reply in more] == [True, True, True, False]
    assert "n" not in at.server.requests[1]
    for name, settings in (("b", {}), ("a", {"temperature": 0.5}), ("a", {"seed": 1}), ("a", {"model": "k"})):
        before = len(at.server.requests)
        at.client(**settings).ask(MESSAGES, 3, name=name)
        assert len(at.server.requests) == before + 1


@pytest.mark.parametrize("n_is", ["ignored", "capped", "refused", "refused without a reason"])
def test_several_answers_where_n_is_not_honoured(bench, n_is):
    def script(request, number):
        if request.get("n", 1) > 1 and n_is.startswith("refused"):
            return Reply(error("Only one completion choice is allowed" if n_is == "refused" else "no"), 400)
        return Reply(answer({"n": min(request.get("n", 1), 3 if n_is == "capped" else 1)}), after=0.03)

    at = bench(script)
    client = at.client(seed=7)
    assert [reply.index for reply in client.ask(MESSAGES, 20, name="a")] == list(range(20))
    assert not client.failures.total()
    assert at.server.most_at_once > 2
    asked = [request for request in at.server.requests if n_is != "capped" or request.get("n") != 20]
    assert len({request["seed"] for request in asked}) >= len(asked) - 1  # a refused one can share its successor's
    before = len(at.server.requests)
    client.ask(MESSAGES, 6, name="b")  # the lesson is remembered
    assert [request.get("n", 1) for request in at.server.requests[before:]] == ([3, 3] if n_is == "capped" else [1] * 6)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("parameter", ["temperature", "top_p", "seed", "max_tokens"])
def test_refused_parameters_are_dropped_and_recorded(bench, parameter, told):
    def script(request, number):
        if parameter in request:
            text = f"Unsupported value: '{parameter}' does not support this with this model."
            return Reply(error(text, code="unsupported_value", param=parameter if told else None), 400)
        return answer(request)

    at = bench(script)
    client = at.client(seed=3, max_tokens=9)
    assert len(client.ask(MESSAGES, 2, name="a")) == len(client.ask(MESSAGES, 2, name="b")) == 2
    assert len(at.server.requests) == 3
    assert list(at.rows[0]["changed"]) == list(at.rows[1]["changed"]) == [parameter]
    assert at.rows[0]["retried"] == {f"{parameter} refused": 1}
    assert parameter not in at.rows[0]["sent"]
    assert at.server.requests[1].get("max_completion_tokens") == (9 if parameter == "max_tokens" else None)
    assert at.client(seed=3, max_tokens=9).ask(MESSAGES, 2, name="a")[0].cached  # the request is what was meant


@pytest.mark.parametrize(
    ("bad", "times", "reason"),
    [
        (Reply(error("slow down"), 429, headers={"Retry-After": "0.3"}), 1, "rate limited"),
        (Reply(error("oh"), 500), 2, "server error"),
        (Reply(b"<html>Bad gateway</html>", 502), 1, "server error"),
        (Reply(b"<html>Welcome</html>"), 1, "not json"),
        (Reply(json.dumps(completion("a", "b")).encode()[:40]), 1, "not json"),
        (Reply(json.dumps(completion("a", "b")).encode(), length=10**6), 1, "connection"),
        (Reply(b"[" * 100_000), 1, "not json"),
        (Reply(b""), 1, "not json"),
        (Reply(b"7"), 1, "not json"),
        (Reply(b"1" * 10_000), 1, "not json"),
        ({"choices": None}, 1, "no choices"),
        ({"choices": []}, 1, "no choices"),
        ({"error": {"message": "overloaded"}}, 1, "server error"),
        (HANG_UP, 1, "connection"),
    ],
)
def test_troubles_that_pass(bench, bad, times, reason):
    at = bench(lambda request, number: bad if number < times else answer(request))
    client = at.client()
    assert len(client.ask(MESSAGES, 3, name="a")) == 3
    (row,) = at.rows
    assert row["retried"] == {reason: times}
    assert row["attempts"] == len(at.server.requests) == times + 1
    if reason == "rate limited":
        assert at.server.times[1] - at.server.times[0] >= 0.3


def test_troubles_that_stay(bench):
    at = bench(lambda request, number: Reply(error("oh"), 500))
    client = at.client()
    assert client.ask(MESSAGES, 3, name="a") == []
    assert client.failures == {"server error": 1}
    assert "oh" in client.trouble
    (row,) = at.rows
    assert (row["outcome"], row["status"], row["attempts"]) == ("server error", 500, 4)


def test_what_came_before_the_trouble_is_kept(bench):
    at = bench(lambda request, number: answer({}) if number < 3 else Reply(error("oh"), 500))
    client = at.client(at_once=1, retries=0)
    assert len(client.ask(MESSAGES, 10, name="a")) == 3
    assert at.outcomes() == ["answered"] * 3 + ["server error"] * 2  # one that failed, and the rest
    assert len(client.ask(MESSAGES, 3, name="a")) == 3


@pytest.mark.parametrize(
    "slowly", [Reply(answer({}), after=30), Reply(answer({}), dribble=0.05), Reply(error("oh"), 503, after=30)]
)
def test_deadline(bench, slowly):
    at = bench(lambda request, number: slowly)
    import openai  # noqa: F401  the second that its import takes is not what is measured

    begin = time.monotonic()
    assert at.client(deadline=0.7).ask(MESSAGES, 2, name="a") == []
    assert 0.6 < time.monotonic() - begin < 1.2
    assert at.outcomes() == ["timeout"]


@pytest.mark.parametrize("deadline", [1.0, 0.7])
def test_a_server_that_takes_one_request_after_the_other_is_waited_for(bench, deadline):
    one_slot = threading.Lock()

    def script(request, number):
        with one_slot:
            time.sleep(0.1)
        return answer({})

    at = bench(script)
    assert len(at.client(deadline=deadline).ask(MESSAGES, 20, name="a")) == 20  # two seconds, eight at a time
    assert at.outcomes() == ["answered"] * 20


def test_what_comes_late_but_whole_is_kept(bench):
    at = bench(lambda request, number: answer({}))
    given_up = threading.Event()
    given_up.set()
    transport = Transport(Settings("m", at.server.url))
    body = transport.post({"model": "m", "messages": MESSAGES}, 10.0, given_up)
    transport.close()
    assert json.loads(body) == answer({})


def test_a_wait_beyond_the_deadline_is_not_begun(bench):
    at = bench(lambda request, number: Reply(error("later"), 429, headers={"Retry-After": "3600"}))
    begin = time.monotonic()
    assert at.client().ask(MESSAGES, 2, name="a") == []
    assert time.monotonic() - begin < 5
    assert at.outcomes() == ["rate limited"]


@pytest.mark.parametrize("kind", ["waiting", "backing off", "dribbling"])
def test_should_stop(bench, kind):
    stop = threading.Event()
    replies = {
        "waiting": Reply(answer({}), after=30),
        "backing off": Reply(error("oh"), 429, headers={"Retry-After": "15"}),
        "dribbling": Reply(answer({}), dribble=0.05),
    }
    at = bench(lambda request, number: replies[kind])
    client = at.client(should_stop=stop.is_set)
    threading.Timer(0.5, stop.set).start()
    begin = time.monotonic()
    with pytest.raises(Interrupted):
        client.ask(MESSAGES, 2, name="a")
    assert time.monotonic() - begin < 1.5
    assert at.outcomes() == ["interrupted"]


def test_answers_without_text_are_counted_and_not_asked_again(bench):
    def script(request, number):
        reply = completion("a", None, "", "b")
        reply["choices"] += [None, {"message": None}, {"message": {"content": [{"text": "c"}, {"image": 1}]}}]
        return reply

    at = bench(script)
    client = at.client()
    replies = client.ask(MESSAGES, 7, name="a")
    assert [(reply.text, reply.index) for reply in replies] == [("a", 0), ("b", 3), ("c", 6)]
    assert client.failures == {"empty answer": 4}
    assert texts(client.ask(MESSAGES, 7, name="a")) == ["a", "b", "c"]
    assert len(at.server.requests) == 1


def test_a_server_that_gave_only_empty_answers_is_asked_anew_by_the_next_run(bench):
    at = bench(lambda request, number: completion("", None, "") if number == 0 else answer(request))
    client = at.client()
    assert client.ask(MESSAGES, 3, name="a") == []
    assert client.trouble == "empty answer: the choices had no text (finish_reason stop)"
    assert len(at.server.requests) == 1
    later = at.client()
    assert texts(later.ask(MESSAGES, 3, name="a")) == ["answer 0", "answer 1", "answer 2"]
    assert len(at.server.requests) == 2
    for source in (at.client(), Replay(at.cache, client.settings.request())):
        assert [reply.index for reply in source.ask(MESSAGES, 3, name="a")] == [3, 4, 5]
    assert len(at.server.requests) == 2


def test_answers_of_another_server_are_named_once(bench, capsys):
    at = bench(right)
    at.client().ask(MESSAGES, 3, name="a")
    at.client(base_url=at.server.url + "/").ask(MESSAGES, 3, name="a")
    assert capsys.readouterr().err == ""
    client = at.client(base_url="http://other.invalid/v1")
    for _ in range(2):
        assert len(client.ask(MESSAGES, 3, name="a")) == 3
    [told] = capsys.readouterr().err.splitlines()
    assert at.server.url in told
    assert "http://other.invalid/v1" in told


def test_with_a_seed_the_samples_that_are_missing_are_asked_for(bench):
    def script(request, number):
        return Reply(error("oh"), 500) if number == 1 else completion(f"of seed {request['seed']}")

    at = bench(script)
    first = at.client(seed=7, retries=0, at_once=1)
    first._parameters.refuse("n")
    assert len(first.ask(MESSAGES, 4, name="a")) == 1
    at.cache.add(  # the third sample came, the second did not
        {**first.settings.request(), "messages": MESSAGES}, "a", {"first": 2}, json.dumps(completion("third")).encode()
    )
    before = len(at.server.requests)
    last = at.client(seed=7, at_once=1)
    last._parameters.refuse("n")
    replies = last.ask(MESSAGES, 4, name="a")
    assert len(set(texts(replies))) == 4
    names = [f"a, sample {n}" for n in (1, 3)]
    assert [request["seed"] for request in at.server.requests[before:]] == [
        last._parameters.sent(MESSAGES, 1, name)["seed"] for name in names
    ]


@pytest.mark.parametrize("text", ["(" * 100_000, NUL_AND_SURROGATES, "x" * 10_000_000], ids=["brackets", "nul", "10MB"])
def test_strange_answers_arrive_as_they_are(bench, text):
    at = bench(lambda request, number: completion(text))
    (reply,) = at.client().ask(MESSAGES, 1, name=f"a {NUL_AND_SURROGATES}")
    assert reply.text == text
    assert at.client().ask(MESSAGES, 1, name=f"a {NUL_AND_SURROGATES}")[0].text == text
    assert json.loads(json.dumps(at.rows)) == at.rows
    begin = time.perf_counter()
    assert len(extract(reply.text, KAREL).rejections) == 2
    assert time.perf_counter() - begin < 1


def test_messages_with_lone_surrogates_are_sent(bench):
    at = bench(right)
    assert at.client().ask([{"role": "user", "content": NUL_AND_SURROGATES}], 1, name="a")
    assert at.server.requests[0]["messages"][0]["content"] == "a\0b?c?d"


def test_too_long_an_answer_is_not_read(bench):
    at = bench(lambda request, number: completion("x" * 10**6))
    assert at.client(most_bytes=10**5, retries=0).ask(MESSAGES, 1, name="a") == []
    assert at.outcomes() == ["too many bytes"]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, error("wrong key"), "OPENAI_API_KEY"),
        (403, error("no"), "OPENAI_API_KEY"),
        (404, error("The model `m` does not exist"), "ends in /v1"),
        (400, error("context too long"), "context too long"),
        (429, error("You exceeded your quota", code="insufficient_quota"), "needs money"),
    ],
)
def test_hopeless(bench, status, body, message):
    at = bench(lambda request, number: Reply(body, status))
    with pytest.raises(UserError, match=message) as caught:
        at.client().ask(MESSAGES, 3, name="a")
    assert at.server.url in str(caught.value)
    assert len(at.server.requests) == 1
    assert set(at.outcomes()) <= set(FAILURES)


def test_a_refusal_that_is_not_about_n_does_not_cost_it(bench):
    at = bench(lambda request, number: Reply(error("no"), 400) if number < 2 else answer(request))
    client = at.client(at_once=1)
    with pytest.raises(UserError, match=r"bad request: .* no;"):
        client.ask(MESSAGES, 3, name="a")  # asked again without n, it is refused too
    assert [request.get("n") for request in at.server.requests] == [3, None]
    assert len(client.ask(MESSAGES, 3, name="b")) == 3
    assert at.server.requests[2]["n"] == 3
    assert not at.rows[-1]["changed"]


def test_hopeless_but_something_is_there(bench):
    at = bench(lambda request, number: answer(request) if number == 0 else Reply(error("wrong key"), 401))
    at.client().ask(MESSAGES, 3, name="a")
    client = at.client()
    assert len(client.ask(MESSAGES, 5, name="a")) == 3
    assert client.failures == {"refused": 1}


def test_no_server(bench):
    at = bench(right)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    budget = Budget(Price(1, 1), 1.0)
    client = at.client(base_url=f"http://127.0.0.1:{port}/v1", budget=budget, max_tokens=10)
    assert client.ask(MESSAGES, 3, name="a") == []
    assert client.failures == {"connection": 1}
    assert budget.spent == budget.set_aside == 0
    client = at.client(base_url="http://nowhere.invalid/v1", retries=0)
    with contextlib.suppress(UserError):  # where there is no name service it is not certain that the host is unknown
        assert client.ask(MESSAGES, 3, name="a") == []
    assert client.failures == {"unknown host": 1}


def test_openai_needs_a_key(bench):
    at = bench(right)
    with pytest.raises(UserError, match="set OPENAI_API_KEY"):
        at.client(base_url="https://api.openai.com/v1").ask(MESSAGES, 3, name="a")


def test_key(bench, monkeypatch, tmp_path, capfd):
    def script(request, number):
        if number == 0:
            return Reply(error(f"not {KEY}"), 500)
        return completion(f"your key is {KEY}") if number == 1 else Reply(error(f"bad key {KEY}"), 401)

    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    at = bench(script)
    client = at.client()
    (reply,) = client.ask(MESSAGES, 1, name="a")
    assert at.server.headers[0]["authorization"] == f"Bearer {KEY}"
    with pytest.raises(UserError) as caught:
        client.ask(MESSAGES, 1, name="b")
    seen = [str(caught.value), reply.text, json.dumps(at.rows), repr(client), repr(vars(client)), client.trouble]
    seen += [*capfd.readouterr(), *(file.read_bytes().decode("latin-1") for file in tmp_path.iterdir())]
    for text in seen:
        assert KEY not in text
    monkeypatch.setenv("OPENAI_API_KEY", "sk-caf\u00e9")
    with pytest.raises(UserError, match="characters that no key has") as caught:
        at.client().ask(MESSAGES, 1, name="c")
    assert "caf" not in str(caught.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError):
        at.client().ask(MESSAGES, 1, name="d")
    assert at.server.headers[-1]["authorization"] == "Bearer none"


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": ""}, {"temperature": 3}, {"top_p": -1}, {"max_tokens": 0}, {"deadline": 0}, {"at_once": 0},
        {"base_url": "localhost:8000"}, {"base_url": "http://"}, {"base_url": "http://a:b@c/v1"},
        {"base_url": "http://c/v1?key=1"}, {"base_url": "http://c:x/v1"}, {"base_url": "http://c d/v1"},
        {"temperature": float("nan")},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant(wrong):
    with pytest.raises(UserError):
        Settings(**{"model": "m", **wrong})


def test_spending_limit(bench):
    price = Price(input=1.0, output=1.0)  # a dollar per million tokens
    prompt = len(json.dumps(MESSAGES))
    worst = (prompt + 100) / 1e6
    for usage, at_once in (((50, 100), 1), ((50, 100), 8), (None, 8), ((prompt, 100), 8)):
        at = bench(lambda request, number, usage=usage: Reply(completion("a", usage=usage), after=0.02))
        budget = Budget(price, 10.5 * worst)
        client = at.client(max_tokens=100, budget=budget, at_once=at_once)
        replies = client.ask(MESSAGES, 100, name=f"{usage} {at_once}")
        assert budget.set_aside == pytest.approx(0, abs=1e-12)
        assert budget.spent == pytest.approx(sum(row["cost"] for row in at.rows))
        assert budget.limit - worst - 1e-12 < budget.spent + (usage is None) * 1e-12
        assert budget.spent <= budget.limit
        each = worst if usage in (None, (prompt, 100)) else 150e-6
        assert budget.spent == pytest.approx(len(replies) * each)
        assert client.failures == {"spending limit": 1}
        before = len(at.server.requests)
        assert client.ask(MESSAGES, 1, name="more") == []
        assert len(at.server.requests) == before


def test_what_a_request_can_cost_is_written_down_before_it_is_made(bench):
    written = []

    def script(request, number):
        written.append([row["reserved"] for row in at.begun])
        return {"choices": []} if number == 0 else answer(request)

    at = bench(script)
    at.client(budget=Budget(Price(1, 1), 1.0), max_tokens=100).ask(MESSAGES, 2, name="a")
    worst = (len(json.dumps(MESSAGES)) + 200) / 1e6
    assert written == [
        pytest.approx([worst]),
        pytest.approx([worst, 2 * worst]),
    ]  # the first attempt may have its price
    assert {row["begun"] for row in at.begun} == {at.rows[0]["begun"]}


def test_a_request_whose_end_is_unknown_counts_in_full(bench):
    at = bench(lambda request, number: Reply(answer({}), after=30))
    budget = Budget(Price(1, 1), 1.0)
    at.client(budget=budget, max_tokens=100, deadline=1.5).ask(MESSAGES, 2, name="a")
    assert budget.spent == pytest.approx((len(json.dumps(MESSAGES)) + 200) / 1e6)
    assert at.rows[0]["cost"] == budget.spent


def test_money(tmp_path, bench):
    assert Budget().most(10, 10, 5) == 5
    with pytest.raises(UserError, match="needs the model's price"):
        Budget(limit=1.0)
    with pytest.raises(UserError, match="spending limit nan"):
        Budget(Price(1, 1), float("nan"))
    with pytest.raises(UserError, match="needs max tokens"):
        bench(right).client(budget=Budget(Price(1, 1), 1.0))
    assert Budget(Price(1, 1), 1.0, spent=0.999).most(500, 100, 48) == 5
    file = tmp_path / "prices.json"
    file.write_text('{"m": {"input": 0.5, "output": 2}}')
    assert read_prices(file) == {"m": Price(0.5, 2)}
    for wrong in ("", "[]", '{"m": 3}', '{"m": {"input": -1, "output": 2}}', '{"m": {"input": true, "output": 2}}'):
        file.write_text(wrong)
        with pytest.raises(UserError, match=r"prices\.json"):
            read_prices(file)
    with pytest.raises(UserError, match="No such file"):
        read_prices(tmp_path / "none.json")


def test_tokens_are_estimated_where_they_are_not_told(bench):
    for wrong in (None, (-1, 5), ("3", 4), (True, 4)):
        at = bench(lambda request, number, wrong=wrong: completion("x" * 400, usage=wrong))
        budget = Budget(Price(1, 1))
        (reply,) = at.client(budget=budget).ask(MESSAGES, 1, name=str(wrong))
        assert reply.usage is None
        assert at.rows[0]["tokens"] == {"prompt": len(json.dumps(MESSAGES)) // 4, "completion": 100, "estimated": True}
        assert budget.spent > 0


KILLED = f"""
import os, signal, sys
from pathlib import Path
from jaxprl.llm import client, completion
from jaxprl.llm.cache import Cache
from jaxprl.llm.settings import Settings
def killed(body):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "kill":
    completion.read = killed  # the first thing that is done with an answer
cache = Cache(Path(sys.argv[2]))
asked = client.Client(Settings("m", sys.argv[1], deadline=30), cache).ask({MESSAGES!r}, int(sys.argv[4]), name="a")
print([reply.text for reply in asked])
"""


def run(*words):
    code = [sys.executable, "-c", KILLED, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)


def test_a_killed_process_loses_no_answer(bench):
    at = bench(right)
    process = run(at.server.url, at.cache.path, "kill", 3)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    replies = at.client().ask(MESSAGES, 3, name="a")
    assert texts(replies) == ["answer 0", "answer 1", "answer 2"]
    assert all(reply.cached for reply in replies)
    assert len(at.server.requests) == 1


def test_two_processes_with_one_cache(bench):
    at = bench(lambda request, number: Reply(completion(f"answer {number}"), after=0.05))
    processes = [run(at.server.url, at.cache.path, "live", 12) for _ in range(2)]
    printed = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    again = repr(texts(at.client().ask(MESSAGES, 12, name="a")))
    assert [text.strip() for text, _ in printed] == [again] * 2  # both take the first twelve that came
    stored = at.cache.rows({**at.client().settings.request(), "messages": MESSAGES}, "a")
    assert len(stored) == len(at.server.requests)  # nothing that arrived is lost


def test_a_process_ends_though_the_server_does_not(bench):
    at = bench(lambda request, number: Reply(answer({}), after=60))
    code = KILLED.replace("deadline=30", "deadline=2")
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, at.server.url, at.cache.path, "live", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert time.monotonic() - begin < 15


def test_a_cache_that_cannot_be_written_ends_the_run(bench, tmp_path):
    at = bench(right)
    client = at.client()
    client.ask(MESSAGES, 1, name="a")
    at.cache.path.write_bytes(at.cache.path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"answers\.sqlite"):
        client.ask(MESSAGES, 1, name="b")


def test_a_cache_that_fails_while_an_answer_comes_ends_the_run(bench, monkeypatch):
    def full(*arguments):
        raise UserError("cache: database or disk is full")

    at = bench(right)
    client = at.client()
    monkeypatch.setattr(at.cache, "add", full)
    with pytest.raises(UserError, match="disk is full"):
        client.ask(MESSAGES, 3, name="a")
    assert len(at.server.requests) == 1


def test_replay(bench):
    at = bench(right)
    client = at.client()
    there = client.ask(MESSAGES, 3, name="seed 0")
    replay = Replay(Cache(at.cache.path, read_only=True), client.settings.request(), at.rows.append)
    assert texts(replay.ask(MESSAGES, 3, name="seed 0")) == texts(there)
    assert not replay.failures.total()
    assert len(replay.ask(MESSAGES, 5, name="seed 0")) == 3
    assert replay.failures == {"not in the cache": 2}
    assert at.rows[-1]["missing"] == 2
    with pytest.raises(UserError, match=r"answers\.sqlite has no answer to 'seed 1': it has 'seed 0'"):
        replay.ask(MESSAGES, 3, name="seed 1")
    with pytest.raises(UserError, match="model 'm' instead of 'k'"):
        Replay(at.cache, Settings("k").request()).ask(MESSAGES, 3, name="seed 0")
    with pytest.raises(UserError, match="another prompt"):
        replay.ask(MESSAGES[:1], 3, name="seed 0")
    assert len(at.server.requests) == 1


def test_files_that_are_no_cache(tmp_path):
    with pytest.raises(UserError, match=r"no cache of answers .*none"):
        Cache(tmp_path / "none", read_only=True)
    text = tmp_path / "text"
    text.write_text("Not a database, but long enough to look at. " * 100)
    other = tmp_path / "other"
    with contextlib.closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE t (x)")
    later = tmp_path / "later"
    Cache(later)
    with contextlib.closing(sqlite3.connect(later)) as database:
        database.execute("PRAGMA user_version = 2")
    for file, why in ((text, "damaged"), (other, "something else"), (later, "format 2"), (tmp_path, "cache|damaged")):
        before = file.read_bytes() if file.is_file() else None
        with pytest.raises(UserError, match=why) as caught:
            Cache(file)
        assert str(file) in str(caught.value)
        assert (file.read_bytes() if file.is_file() else None) == before


def test_damage_is_found(tmp_path):
    request = {"model": "m", "messages": MESSAGES}
    cache = Cache(tmp_path / "cache")
    bodies_there = [json.dumps(completion(f"{n}" * 3000)).encode() for n in range(5)]
    for body in bodies_there:
        cache.add(request, "a", {}, body)
    assert [row.body for row in cache.rows(request, "a")] == bodies_there
    whole = cache.path.read_bytes()
    found = 0
    for at in range(0, len(whole), len(whole) // 40):
        cache.path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        try:
            there = [row.body for row in Cache(cache.path).rows(request, "a")]
        except UserError as caught:
            message = str(caught)
        else:
            message = ""
            assert there == bodies_there
        assert not message or str(cache.path) in message
        found += bool(message)
    assert found > 20
    for size in (1, 100, 5000, len(whole) // 2):
        cache.path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cache"):
            Cache(cache.path).rows(request, "a")


def test_keys_of_requests():
    assert request_key({"a": 1, "b": [2]}) == request_key({"b": [2], "a": 1})
    assert request_key({"a": 1}) != request_key({"a": "1"})


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner))


@given(
    st.binary()
    | st.builds(lambda choices: json.dumps({"choices": choices, "usage": choices}).encode(), JSON)
    | st.builds(lambda content: json.dumps({"choices": [{"message": {"content": content}}]}).encode(), JSON)
)
def test_any_body(body):
    try:
        found = bodies.read(body)
    except bodies.Unusable as unusable:
        found = unusable
    if isinstance(found, bodies.Unusable):
        assert found.reason in FAILURES
    else:
        assert all(isinstance(choice.text, str) for choice in found.choices)
