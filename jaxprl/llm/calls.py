"""The requests that get the missing samples of one `Client.ask`, with retries, a deadline and a spending limit."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxprl.llm import completion
from jaxprl.llm.cache import Cache, request_key
from jaxprl.llm.completion import Completion, Unusable
from jaxprl.llm.failure import Failure, judged, pause
from jaxprl.llm.money import Budget
from jaxprl.llm.settings import Parameters, Settings
from jaxprl.llm.source import Interrupted, Usage
from jaxprl.llm.transport import Transport
from jaxprl.output import say
from jaxprl.types import JSON

_POLL = 0.1
"""Seconds between two calls of `should_stop`."""


class Server(NamedTuple):
    """A server, and what all requests to it share."""

    settings: Settings
    parameters: Parameters
    transport: Transport
    cache: Cache
    budget: Budget
    log: Callable[[JSON], None]
    should_stop: Callable[[], bool]


@dataclasses.dataclass(eq=False)
class _Call:
    """A request for consecutive samples, through all its attempts."""

    first: int
    """Index of the first sample."""
    number: int
    """Number of samples."""
    due: float = 0.0
    """Time (`time.monotonic`) before which the next attempt does not start."""
    begun: float | None = None
    """Time of the first attempt; None if there was none yet."""
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    """Name of the call in the log."""
    attempts: int = 0
    uncounted: int = 0
    """Number of the attempts that found the server not ready or busy."""
    sent: JSON = dataclasses.field(default_factory=dict)
    """Body of the latest attempt."""
    reserved: float = 0.0
    """Dollars that are reserved for the current attempt."""
    cost: float = 0.0
    """Dollars that the attempts so far have cost."""
    status: int | None = None
    """HTTP status of the latest attempt."""
    trouble: str = ""
    """The latest failed attempt in words."""
    retried: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Reasons of the attempts that failed and were followed by another one."""


class Calls:
    """The calls of one `Client.ask`.

    Each attempt of a call runs in a thread of its own, which sends the request, adds the response to the cache and puts
    the outcome into a queue. Everything else happens in the thread that calls `run`.

    Args:
      server: the server.
      request: the model, the messages and the sampling parameters, as they are stored in the cache.
      name: the name of the request within the run.
    """

    def __init__(self, server: Server, request: JSON, name: str):
        self.server, self.request, self.name = server, request, name
        self.settings, self.budget, self.parameters = server.settings, server.budget, server.parameters
        self.waiting: collections.deque[_Call] = collections.deque()
        """Calls that wait for their next attempt."""
        self.going: list[_Call] = []
        """Calls whose attempt is under way."""
        self.outcomes: queue.SimpleQueue[tuple[_Call, Completion | Exception]] = queue.SimpleQueue()
        self.over = threading.Event()
        """Set when nobody waits for the threads any more."""
        self.rows: set[int] = set()
        """Ids of the rows of the cache that these calls added."""
        self.answered_at = 0.0
        """Time of the latest answer."""
        self.lasting: Failure | None = None
        """A failure that another attempt cannot mend, if there was one."""
        self.failures: collections.Counter[str] = collections.Counter()
        """Failed calls by the names of `source.FAILURES`."""
        self.trouble = ""
        """The last failure in words."""
        self.told = False
        """Whether the user was told that the server is not ready or busy."""
        self.at_once = server.settings.at_once
        """The most attempts under way at present: fewer than the settings allow after a rate limit."""
        prompt = json.dumps(request["messages"], ensure_ascii=False).encode(errors="replace")
        self.most_prompt = len(prompt)
        """Upper bound of the prompt's tokens: a token has at least one byte."""

    def run(self, missing: Sequence[int]) -> None:
        """Request samples until all of them have arrived or nothing more can be requested.

        Args:
          missing: ascending indices of the samples.

        Raises:
          Interrupted: if `should_stop` says so.
        """
        # Consecutive samples share a call. Samples 0, 1, 2, 5, 6 minus their positions are 0, 0, 0, 2, 2.
        for _, group in itertools.groupby(enumerate(missing), lambda pair: pair[1] - pair[0]):
            samples = [sample for _, sample in group]
            self.plan(samples[0], len(samples))
        try:
            while self.waiting or self.going:
                if self.server.should_stop():
                    self.give_up("interrupted", "the run was told to stop")
                    raise Interrupted(f"told to stop while waiting for {self.name!r}")
                self.expire()
                self.begin()
                with contextlib.suppress(queue.Empty):
                    self.settle(*self.outcomes.get(timeout=self.patience()))
        finally:
            self.over.set()

    def patience(self) -> float:
        """Return the seconds to wait for an outcome: until the next poll, deadline or attempt."""
        now = time.monotonic()
        moments = [now + _POLL, *map(self.end, self.going)]
        if len(self.going) < self.at_once:
            moments += [call.due for call in self.waiting if call.due > now]
        return max(min(moments) - now, 0.001)

    def end(self, call: _Call) -> float:
        """Return the time by which a call has to be over.

        A server may answer one request after the other. Suppose that it takes 100 s for each of eight requests that
        were sent together, with a deadline of 120 s. The second answer arrives after 200 s and is still in time: its
        deadline counts from the first answer, at 100 s, and ends at 220 s. A server that answers nothing at all is
        given up after 120 s.
        """
        return max(call.begun or time.monotonic(), self.answered_at) + self.settings.deadline

    def expire(self) -> None:
        """Stop waiting for calls that are past their deadline.

        A response that still arrives later is added to the cache.
        """
        for call in [call for call in self.going if time.monotonic() >= self.end(call)]:
            detail = f"deadline of {self.settings.deadline:g} s"
            detail += f"; the attempt before: {call.trouble}" if call.trouble else ""
            self.going.remove(call)
            self.pay(call, None)
            self.finish(call, "timeout", detail=detail)
            self.stop("timeout", detail)

    def plan(self, first: int, number: int) -> None:
        """Add calls for the samples `first` .. `first + number - 1`, as few as the server is known to allow."""
        for begin in range(first, first + number, self.parameters.most):
            self.waiting.append(_Call(begin, min(self.parameters.most, first + number - begin)))

    def begin(self) -> None:
        """Start an attempt of the calls that are due, as far as the rate limit and the spending limit allow.

        If the money that is left pays for a part of a call only, that part is requested and the rest waits: reserved
        money that an attempt does not use comes back.
        """
        now = time.monotonic()
        for call in [call for call in self.waiting if call.due <= now][: max(self.at_once - len(self.going), 0)]:
            answers = self.budget.most(self.most_prompt, self.settings.max_tokens or 0, call.number)
            if not answers:
                if not self.going:  # nothing is reserved, so no money will come back
                    self.stop("spending limit", f"{self.budget.spent:.6f} of {self.budget.limit} dollars are spent")
                return
            self.waiting.remove(call)
            if answers < call.number:
                self.waiting.append(_Call(call.first + answers, call.number - answers))
                call.number = answers
            self.attempt(call)

    def attempt(self, call: _Call) -> None:
        """Start an attempt of a call in a thread of its own."""
        call.begun = call.begun or time.monotonic()
        call.attempts += 1
        call.sent = self.parameters.sent(self.request["messages"], call.number, f"{self.name}, sample {call.first}")
        call.reserved = self.budget.reserve(self.worst(call.number))
        self.server.log({"name": self.name, "begun": call.id, "reserved": call.cost + call.reserved})
        self.going.append(call)
        # A daemon thread does not keep the process alive, whatever the server does.
        threading.Thread(target=self.exchange, args=(call, call.sent), daemon=True).start()

    def exchange(self, call: _Call, sent: JSON) -> None:
        """Send a request and add the response to the cache before it is read; this runs in its own thread."""
        outcome: Completion | Exception
        try:
            # Each of the other answers can postpone this call's deadline once (see `end`).
            longest = self.settings.deadline * self.settings.at_once
            body = self.server.transport.post(sent, longest, self.over)
            origin = {key: value for key, value in sent.items() if key != "messages"}
            origin |= {"first": call.first, "base_url": self.settings.base_url.rstrip("/")}
            self.rows.add(self.server.cache.add(self.request, self.name, origin, body))
            outcome = completion.read(body)
        except Exception as error:  # the thread that called `run` raises it again
            outcome = error
        self.outcomes.put((call, outcome))

    def worst(self, number: int) -> Usage:
        """Return the most tokens that a request for so many answers can use."""
        return Usage(self.most_prompt, number * (self.settings.max_tokens or 0))

    def settle(self, call: _Call, outcome: Completion | Exception) -> None:
        """Process the outcome of an attempt.

        Outcomes of calls that were given up are ignored, except errors that are not about the server, such as a cache
        that cannot be written: these are raised.
        """
        if call in self.going:
            self.going.remove(call)
        elif isinstance(outcome, Completion | Unusable | Failure):
            return
        if isinstance(outcome, Unusable):
            error = outcome.error
            reason, detail, lasting = outcome.reason, str(outcome), outcome.lasting
            outcome = judged(error, 200, call.sent) if error else Failure(reason, detail, lasting=lasting, free=False)
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

    def answered(self, call: _Call, answer: Completion) -> None:
        """Finish a call that was answered, and plan calls for samples that the answer lacks.

        A server that returns fewer choices than requested is taken to have that limit. If 20 were requested and 3
        arrive, the other 17, and all that is requested later, go out in requests for at most 3. Choices that are errors
        are requested again as well, but say nothing about a limit.
        """
        number = len(answer.choices)
        text = sum(len(choice.text.encode(errors="replace")) for choice in answer.choices)
        tokens = answer.usage or Usage(self.most_prompt // 4, text // 4)  # a token has about four bytes
        bounded = self.budget.limit is not None
        self.pay(call, tokens if answer.usage or not bounded else self.worst(number))
        call.status, self.answered_at = 200, time.monotonic()
        self.parameters.guessed = False
        self.at_once = min(self.at_once + 1, self.settings.at_once)
        if answer.errors:
            call.retried["server error"] += len(answer.errors)
        empty = collections.Counter(choice.why_empty() for choice in answer.choices if not choice.text)
        self.finish(
            call, "answered", answers=number, tokens={**tokens._asdict(), "estimated": not answer.usage},
            **({"without_text": dict(empty)} if empty else {}),
        )  # fmt: skip
        if number < call.number:
            if number + len(answer.errors) < call.number:
                self.parameters.most = number + len(answer.errors)
            for each in [*self.waiting]:
                self.split(each)
            self.plan(call.first + number, call.number - number)

    def failed(self, call: _Call, failure: Failure) -> None:
        """Schedule another attempt of a call, or give it up and begin no further calls.

        - A refused parameter is dropped and the call repeated at once; this does not count as an attempt.
          `max_completion_tokens` is kept under a spending limit, since without it an answer could cost any sum.
        - Otherwise the next attempt follows after a wait (`failure.pause`).
        - There is no other attempt if the failure is lasting, if the retries are used up, or if the wait would end
          after the call's deadline. An attempt that finds the server not ready or busy does not count.
        - A rate limit holds for all requests: none of them starts earlier, and half as many go at once.
        """
        call.status, call.trouble = failure.status, str(failure)
        refused = failure.parameter
        bounded = self.budget.limit is not None
        if refused and not (refused == "max_completion_tokens" and bounded):
            self.parameters.refuse(refused, guessed=failure.guessed)
            call.retried[f"{refused} refused"] += 1
            self.again(call)
            return
        if failure.reason == "bad request":
            self.parameters.acquit()
        if failure.state:
            call.uncounted += 1
        now = time.monotonic()
        attempts = call.attempts if failure.state else call.attempts - call.uncounted
        left = self.end(call) - now
        wait = pause(failure, attempts, self.settings.backoff, left)
        if failure.lasting or call.attempts - call.uncounted > self.settings.retries or wait >= left:
            self.lasting = failure if failure.lasting else self.lasting
            detail = failure.detail + ("" if failure.lasting else self.waited(failure, wait, left))
            self.finish(call, failure.reason, detail=detail)
            self.stop(failure.reason, detail)
            return
        self.tell_of_wait(failure)
        call.retried[failure.reason] += 1
        call.due = now + wait
        if failure.reason != "rate limited":
            self.waiting.append(call)
            return
        self.at_once = max(self.at_once // 2, 1)
        for each in self.waiting:
            each.due = max(each.due, call.due)
        self.waiting.appendleft(call)  # so that its waits grow, whichever call finds that the limit still holds

    def waited(self, failure: Failure, wait: float, left: float) -> str:
        """Return in words how the deadline ends the attempts of a call, or nothing if it does not."""
        deadline = f"{self.settings.deadline:g} s"
        if failure.wait and wait == failure.wait >= left:
            return f"; the server asks to wait {max(wait, 1):.0f} s, longer than --deadline ({deadline}) allows"
        return f"; waited for it until the deadline of {deadline}" if failure.state and wait >= left else ""

    def tell_of_wait(self, failure: Failure) -> None:
        """Say once why nothing seems to happen."""
        if failure.state and not self.told:
            self.told = True
            deadline = f"{self.settings.deadline:g} s (--deadline)"
            say(f"the server is {failure.state} ({failure.detail}): waiting for it, at most {deadline}")

    def again(self, call: _Call) -> None:
        """Put a call first in line, for at most as many answers as the server allows."""
        self.split(call)
        call.attempts -= 1  # the request was wrong, which is no failure of the server
        self.waiting.appendleft(call)

    def split(self, call: _Call) -> None:
        """Move the samples beyond the most that the server allows per request from a call to new ones."""
        if call.number > self.parameters.most:
            self.plan(call.first + self.parameters.most, call.number - self.parameters.most)
            call.number = self.parameters.most

    def pay(self, call: _Call, usage: Usage | None) -> None:
        """Settle the reservation of a call's attempt; without `usage` it counts in full."""
        call.cost += self.budget.settle(call.reserved, usage) or 0.0
        call.reserved = 0.0

    def stop(self, reason: str, detail: str) -> None:
        """Begin no further calls. The log has one row for all those that never had an attempt."""
        calls = [call for call in self.waiting if call.begun]
        if new := [call for call in self.waiting if not call.begun]:
            calls.append(_Call(new[0].first, sum(call.number for call in new)))
        self.waiting.clear()
        for call in calls:
            self.finish(call, reason, detail=detail)

    def give_up(self, reason: str, detail: str) -> None:
        """Wait for nothing any more. Attempts under way count in full, since the server may charge for them."""
        self.over.set()
        for call in self.going:
            self.pay(call, None)
            self.finish(call, reason, detail=detail)
        self.going.clear()
        self.stop(reason, detail)

    def finish(self, call: _Call, outcome: str, **more: object) -> None:
        """Log a call that is over."""
        if outcome != "answered":
            self.failures[outcome] += 1
            self.trouble = f"{outcome}: {more['detail']}"
        self.server.log(
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
