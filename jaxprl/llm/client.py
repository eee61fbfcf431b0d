"""A client for any server with OpenAI's chat completions, hosted or local; every answer goes through a cache.

    client = Client(Settings("llama3", "http://localhost:11434/v1"), Cache(Path("answers.sqlite")))
    replies = client.ask(messages, 48, name="seed 0, round 0")

What the cache has is taken from there; the rest is asked for, in one request if the server gives that many, otherwise
in several at once. A bad server raises nothing: each request that comes to nothing is a row of the log with one of the
names in `source.FAILURES`, and the run goes on with what there is.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import json
import queue
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from jaxprl.llm import completion
from jaxprl.llm.cache import Cache, Row, request_key
from jaxprl.llm.completion import Completion, Unusable
from jaxprl.llm.money import Budget
from jaxprl.llm.replay import replies
from jaxprl.llm.settings import Parameters, Settings
from jaxprl.llm.source import Hopeless, Interrupted, Messages, Reply, Usage
from jaxprl.llm.transport import Failure, Transport

_POLL = 0.1
"""Seconds between two looks at `should_stop`."""
_LONGEST_BACKOFF = 30.0
_HELP = {
    "no key": "set OPENAI_API_KEY; a local server (--base-url) needs no key, recorded answers neither (--llm recorded)",
    "unknown host": "is --base-url right?",
    "refused": "is OPENAI_API_KEY the key of this server, and good for this model?",
    "not found": "has the server a model of that name, and is --base-url right (mostly it ends in /v1)?",
    "bad request": "the server does not take what it is asked",
    "out of quota": "the account needs money",
}


class Client:
    """A source that asks a server (`source.Source`). One `ask` at a time."""

    def __init__(
        self,
        settings: Settings,
        cache: Cache,
        *,
        budget: Budget | None = None,
        log: Callable[[dict[str, Any]], None] = lambda row: None,
        should_stop: Callable[[], bool] = lambda: False,
    ):
        """`log` gets rows from the thread that asks; none ever has the key. Before each attempt of a request: its id in
        `begun`, and as `reserved` the dollars that it can have cost by its end. When a request is over: `outcome` is
        "answered", "cached" (a row for all that the cache had) or one of `source.FAILURES`, with a `detail`; `sent` are
        the parameters, `changed` those that the model refused; `tokens` says whether they are estimated; `cost` is in
        dollars, None without a price, and the sum of all is what the budget has spent.

        `should_stop` is looked at ten times a second. Raises UserError for a spending limit without `max_tokens`, since
        a request could then cost any sum.
        """
        self.settings, self.cache, self.log, self.should_stop = settings, cache, log, should_stop
        self.budget = budget or Budget()
        self.failures: collections.Counter[str] = collections.Counter()
        self.trouble = ""
        """The last failure in words."""
        self._told = False
        """Whether it was said that answers came from another server."""
        self.budget.check(settings.max_tokens)
        self._parameters = Parameters(settings)
        self._transport = Transport(settings)

    def close(self) -> None:
        """Close connections that are kept open."""
        self._transport.close()

    def ask(self, messages: Messages, count: int, *, name: str) -> list[Reply]:
        """Return the first `count` samples (`Source.ask`); fewer where the server, the deadline or the limit end it.

        Raises Interrupted as soon as `should_stop` says so.
        """
        request = {**self.settings.request(), "messages": [dict(message) for message in messages]}
        rows = self.cache.rows(request, name)
        samples = replies(rows, count, anew=True)
        if samples.found or samples.empty:
            answers = len(samples.found)
            self.log({"name": name, "request": request_key(request), "outcome": "cached", "answers": answers})
        self._tell_other_servers(rows)
        if samples.missing:
            self._transport.prepare()
            asking = _Asking(self, request, name)
            asking.run(samples.missing)
            samples = replies(self.cache.rows(request, name), count, asking.own)
            if asking.lasting and not samples.found:
                raise self._hopeless(asking.lasting)
        if samples.empty:
            self.failures["empty answer"] += samples.empty.total()
            if not samples.found:
                reasons = ", ".join(map(str, samples.empty))
                self.trouble = f"empty answer: the choices had no text (finish_reason {reasons})"
        return samples.found

    def _tell_other_servers(self, rows: Sequence[Row]) -> None:
        """Say once that answers came from another address: models of one name can differ."""
        others = {row.base_url for row in rows} - {None, self.settings.base_url.rstrip("/")}
        if others and not self._told:
            self._told = True
            print(
                f"WARNING: cache {self.cache.path} has answers of model {self.settings.model!r} from "
                f"{', '.join(sorted(map(str, others)))}, which are taken; another cache (--answers) asks "
                f"{self.settings.base_url} anew",
                file=sys.stderr,
            )

    def _hopeless(self, failure: Failure) -> Hopeless:
        where = f"model {self.settings.model!r} at {self.settings.base_url}"
        return Hopeless(f"{where}: {failure}; {_HELP[failure.reason]}")


@dataclasses.dataclass(eq=False)
class _Call:
    """A request for some answers, through all its attempts."""

    first: int
    """The sample that it begins with."""
    number: int
    """How many it asks for."""
    due: float = 0.0
    begun: float | None = None
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    """Its name in the log."""
    attempts: int = 0
    sent: dict[str, Any] = dataclasses.field(default_factory=dict)
    reserved: float = 0.0
    cost: float = 0.0
    status: int | None = None
    retried: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


class _Asking:
    """One `ask`: its calls, and the threads that make them. All but an attempt itself happens in the asking thread."""

    def __init__(self, client: Client, request: dict[str, Any], name: str):
        self.client, self.request, self.name = client, request, name
        self.settings, self.budget, self.parameters = client.settings, client.budget, client._parameters
        self.waiting: collections.deque[_Call] = collections.deque()
        self.going: list[_Call] = []
        self.outcomes: queue.SimpleQueue[tuple[_Call, Completion | Exception]] = queue.SimpleQueue()
        self.over = threading.Event()
        self.own: set[int] = set()
        """Rows of the cache that came from here."""
        self.answered_at = 0.0
        """When the last answer came."""
        self.lasting: Failure | None = None
        """A failure that another attempt cannot mend."""
        prompt = json.dumps(request["messages"], ensure_ascii=False).encode(errors="replace")
        self.most_prompt = len(prompt)
        """A token has at least one byte."""

    def run(self, missing: Sequence[int]) -> None:
        """Make the calls for the missing samples, until they are there or it cannot go on."""
        for _, group in itertools.groupby(enumerate(missing), lambda pair: pair[1] - pair[0]):
            samples = [sample for _, sample in group]
            self.plan(samples[0], len(samples))
        try:
            while self.waiting or self.going:
                if self.client.should_stop():
                    self.give_up("interrupted", "the run was told to stop")
                    raise Interrupted(f"told to stop while waiting for {self.name!r}")
                self.expire()
                self.begin()
                with contextlib.suppress(queue.Empty):
                    self.settle(*self.outcomes.get(timeout=self.patience()))
        finally:
            self.over.set()

    def patience(self) -> float:
        now = time.monotonic()
        moments = [now + _POLL, *map(self.end, self.going)]
        if len(self.going) < self.settings.at_once:
            moments += [call.due for call in self.waiting if call.due > now]
        return max(min(moments) - now, 0.001)

    def end(self, call: _Call) -> float:
        """Return the moment by which a call has to be over (`Settings.deadline`)."""
        return max(call.begun or time.monotonic(), self.answered_at) + self.settings.deadline

    def expire(self) -> None:
        """Wait no longer for calls whose time is over. What comes from them later still gets into the cache."""
        detail = f"deadline of {self.settings.deadline:g} s"
        for call in [call for call in self.going if time.monotonic() >= self.end(call)]:
            self.going.remove(call)
            self.pay(call, None)
            self.finish(call, "timeout", detail=detail)
            self.stop("timeout", detail)

    def plan(self, first: int, number: int) -> None:
        """Add calls for some samples, as few as the server is known to allow."""
        for begin in range(first, first + number, self.parameters.most):
            self.waiting.append(_Call(begin, min(self.parameters.most, first + number - begin)))

    def begin(self) -> None:
        """Begin the calls that are due, as many as may go on at once and can be paid."""
        now = time.monotonic()
        for call in [call for call in self.waiting if call.due <= now][: self.settings.at_once - len(self.going)]:
            answers = self.budget.most(self.most_prompt, self.settings.max_tokens or 0, call.number)
            if not answers:
                if not self.going:  # no money will come back
                    self.stop("spending limit", f"{self.budget.spent:.6f} of {self.budget.limit} dollars are spent")
                return
            self.waiting.remove(call)
            if answers < call.number:
                self.waiting.append(_Call(call.first + answers, call.number - answers))
                call.number = answers
            self.attempt(call)

    def attempt(self, call: _Call) -> None:
        call.begun = call.begun or time.monotonic()
        call.attempts += 1
        call.sent = self.parameters.sent(self.request["messages"], call.number, f"{self.name}, sample {call.first}")
        call.reserved = self.budget.reserve(self.worst(call.number))
        self.client.log({"name": self.name, "begun": call.id, "reserved": call.cost + call.reserved})
        self.going.append(call)
        # A daemon keeps no process alive, whatever the server does.
        threading.Thread(target=self.exchange, args=(call, call.sent), daemon=True).start()

    def exchange(self, call: _Call, sent: dict[str, Any]) -> None:
        """In a thread of its own: send a request, and write what comes to the cache before it is read."""
        outcome: Completion | Exception
        try:
            longest = self.settings.deadline * self.settings.at_once  # if all others are answered first
            body = self.client._transport.post(sent, longest, self.over)
            how = {key: value for key, value in sent.items() if key != "messages"}
            how |= {"first": call.first, "base_url": self.settings.base_url.rstrip("/")}
            self.own.add(self.client.cache.add(self.request, self.name, how, body))
            outcome = completion.read(body)
        except Exception as error:  # raised again where it can be seen
            outcome = error
        self.outcomes.put((call, outcome))

    def worst(self, number: int) -> Usage:
        """Return the most tokens that so many answers take."""
        return Usage(self.most_prompt, number * (self.settings.max_tokens or 0))

    def settle(self, call: _Call, outcome: Completion | Exception) -> None:
        """Do what follows from an attempt, if it is still waited for."""
        if call in self.going:
            self.going.remove(call)
        elif isinstance(outcome, Completion | Unusable | Failure):
            return
        if isinstance(outcome, Unusable):
            outcome = Failure(outcome.reason, str(outcome), free=False)
        match outcome:
            case Completion():
                self.answered(call, outcome)
            case Failure():
                self.pay(call, Usage(0, 0) if outcome.free else None)
                self.failed(call, outcome)
            case _:
                self.pay(call, None)
                self.give_up("interrupted", f"{type(outcome).__name__} elsewhere")
                raise outcome

    def answered(self, call: _Call, found: Completion) -> None:
        number = len(found.choices)
        text = sum(len(choice.text.encode(errors="replace")) for choice in found.choices)
        tokens = found.usage or Usage(self.most_prompt // 4, text // 4)
        bounded = self.budget.limit is not None
        self.pay(call, tokens if found.usage or not bounded else self.worst(number))
        call.status, self.answered_at = 200, time.monotonic()
        self.parameters.guessed = False
        self.finish(call, "answered", answers=number, tokens={**tokens._asdict(), "estimated": not found.usage})
        if number < call.number:
            self.parameters.most = number
            for each in [*self.waiting]:
                self.split(each)
            self.plan(call.first + number, call.number - number)

    def failed(self, call: _Call, failure: Failure) -> None:
        """Try again, without what the model refuses, or later; where that is no use, begin no further calls."""
        call.status = failure.status
        refused = failure.parameter
        bounded = self.budget.limit is not None
        if refused and not (refused == "max_completion_tokens" and bounded):
            self.parameters.refuse(refused, guessed=failure.guessed)
            call.retried[f"{refused} refused"] += 1
            self.again(call)
            return
        if failure.reason == "bad request":
            self.parameters.acquit()
        now = time.monotonic()
        wait = failure.wait
        if wait is None:
            longest = min(self.settings.backoff * 2 ** (call.attempts - 1), _LONGEST_BACKOFF)
            wait = random.uniform(longest / 2, longest)
        if failure.lasting or call.attempts > self.settings.retries or now + wait >= self.end(call):
            self.lasting = failure if failure.lasting else self.lasting
            self.finish(call, failure.reason, detail=failure.detail)
            self.stop(failure.reason, failure.detail)
            return
        call.retried[failure.reason] += 1
        call.due = now + wait
        if failure.reason == "rate limited":
            for each in self.waiting:
                each.due = max(each.due, call.due)
        self.waiting.append(call)

    def again(self, call: _Call) -> None:
        """Put a call in front, for no more answers than the server allows."""
        self.split(call)
        call.attempts -= 1  # it was asked in the wrong way; that is no fault of the server
        self.waiting.appendleft(call)

    def split(self, call: _Call) -> None:
        """Leave to other calls what is more than the server allows."""
        if call.number > self.parameters.most:
            self.plan(call.first + self.parameters.most, call.number - self.parameters.most)
            call.number = self.parameters.most

    def pay(self, call: _Call, usage: Usage | None) -> None:
        call.cost += self.budget.settle(call.reserved, usage) or 0.0
        call.reserved = 0.0

    def stop(self, reason: str, detail: str) -> None:
        """Begin no further calls. Those that were never begun are one row."""
        calls = [call for call in self.waiting if call.begun]
        if new := [call for call in self.waiting if not call.begun]:
            calls.append(_Call(new[0].first, sum(call.number for call in new)))
        self.waiting.clear()
        for call in calls:
            self.finish(call, reason, detail=detail)

    def give_up(self, reason: str, detail: str) -> None:
        """Wait for nothing any more. What goes on may have its price."""
        self.over.set()
        for call in self.going:
            self.pay(call, None)
            self.finish(call, reason, detail=detail)
        self.going.clear()
        self.stop(reason, detail)

    def finish(self, call: _Call, outcome: str, **more: Any) -> None:
        """Log a call that is over."""
        if outcome != "answered":
            self.client.failures[outcome] += 1
            self.client.trouble = f"{outcome}: {more['detail']}"
        self.client.log(
            {
                "name": self.name,
                "begun": call.id,
                "request": request_key(self.request),
                "model": self.settings.model,
                "outcome": outcome,
                "samples": [call.first, call.first + call.number],
                "sent": {key: value for key, value in call.sent.items() if key != "messages"},
                "changed": dict(self.parameters.changed),
                "status": call.status,
                "attempts": call.attempts,
                "retried": dict(call.retried),
                "seconds": round(time.monotonic() - call.begun, 3) if call.begun else 0.0,
                "cost": call.cost if self.budget.price else None,
                **more,
            }
        )
