"""A run's language model: asks it, and records every request and what came of it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from jaxprl.caches import cache_folder
from jaxprl.errors import UserError
from jaxprl.llm.cache import Cache
from jaxprl.llm.client import Client
from jaxprl.llm.money import Budget, Price, read_prices
from jaxprl.llm.programs import Answer
from jaxprl.llm.replay import Replay
from jaxprl.llm.settings import Settings
from jaxprl.llm.source import Hopeless, Reply
from jaxprl.output import say
from jaxprl.runs.record import REQUESTS, RunDirectory, read_lines
from jaxprl.types import JSON


@dataclasses.dataclass(frozen=True)
class LLMAccess:
    """Where answers of a language model are cached and what they may cost. No result depends on it."""

    cache: Path = dataclasses.field(default_factory=lambda: cache_folder() / "answers.sqlite")
    """File that keeps every answer (`llm/cache.py`); by default in the user's cache folder."""
    prices: Path | None = None
    """A table of prices (`llm/money.py`)."""
    limit: float | None = None
    """Dollars that the run may spend."""

    def price(self, model: str) -> Price | None:
        """Return the model's price, or None if it is unknown."""
        return read_prices(self.prices).get(model) if self.prices else None

    def check(self, settings: Settings, *, replay: bool) -> None:
        """Raise UserError for what would end the run later, and warn of a missing price."""
        Cache(self.cache, read_only=replay)
        price = self.price(settings.model)
        Budget(price, self.limit).check(settings.max_tokens)
        if self.prices and price is None:
            say(f"WARNING: prices {self.prices} lack model {settings.model!r}: costs are unknown")


class LanguageModel:
    """Asks one language model, or only the cache of its answers (`llm.programs.Ask`), one request at a time.

    A request is settled once its answers are used, even if there were none: a resumed run uses the same answers,
    although the server might give more by now. A request whose end the process did not see counts as lost, and with the
    most that it can have cost.
    """

    def __init__(
        self,
        settings: Settings,
        access: LLMAccess,
        directory: RunDirectory,
        *,
        replay: bool,
        should_stop: Callable[[], bool],
        asking: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ):
        """Read what the run has asked before.

        Args:
          settings: the server and the model.
          access: where answers are cached and what they may cost.
          directory: the run directory.
          replay: whether answers come from the cache alone.
          should_stop: whether the run was told to stop.
          asking: gives a context for the time in which answers are waited for.
        """
        self.where = f"model {settings.model!r}" + ("" if replay else f" at {settings.base_url}")
        self.directory, self.asking = directory, asking
        for row in _unfinished(self._rows()):
            self._log({**row, "outcome": "lost", "cost": row["reserved"]})
        rows = self._rows()
        self.settled = {row["name"]: row["settled"] for row in rows if "settled" in row}
        self.trouble = ""
        """Why the last request without an answer failed."""
        self.replay = Replay(Cache(access.cache, read_only=replay), settings.request(), self._log)
        self.client: Client | None = None
        if not replay:
            spent = sum(row.get("cost") or 0.0 for row in rows)
            budget = Budget(access.price(settings.model), access.limit, spent)
            self.client = Client(settings, self.replay.cache, budget=budget, log=self._log, should_stop=should_stop)
            say(f"asking model {settings.model!r} at {self.client.address}")

    def __call__(self, messages: list[dict[str, str]], count: int, name: str) -> list[Answer]:
        """Return the raw answers to a request.

        Args:
          messages: the chat messages.
          count: answers wanted.
          name: name of the request within the run.

        Returns:
          The answers that could be had, possibly none.

        Raises:
          UserError: there is no answer, and there was none to any request before.
          Interrupted: the run was told to stop.
        """
        self._log({"name": name, "asked": count, "messages": messages})
        if name in self.settled:
            number = self.settled[name]  # if 0, the replay is not asked: it would raise Hopeless
            return _answers(self.replay.ask(messages, count, name=name)[:number]) if number else []
        with self.asking():
            replies = self._replies(messages, count, name)
        if not replies and not any(self.settled.values()):
            raise UserError(f"{self.where} gave no answer: {self.trouble}")
        if not replies:
            say(f"WARNING: no answer to {name!r}: {self.trouble}; going on without")
        self.settled[name] = len(replies)
        self._log({"name": name, "settled": len(replies)})
        return _answers(replies)

    def _replies(self, messages: list[dict[str, str]], count: int, name: str) -> list[Reply]:
        """Return the answers. If there are none, `trouble` says why."""
        self.trouble = ""
        try:
            replies = (self.client or self.replay).ask(messages, count, name=name)
        except Hopeless as hopeless:
            if not any(self.settled.values()):
                raise
            self.trouble = str(hopeless)
            return []
        if not replies and self.client:
            counts = ", ".join(f"{number} {reason}" for reason, number in self.client.failures.items())
            self.trouble = f"{self.client.trouble} (all in all: {counts})"
        return replies

    def close(self) -> None:
        if self.client:
            self.client.close()

    def _rows(self) -> list[JSON]:
        file = self.directory.path / REQUESTS
        return read_lines(file) if file.exists() else []

    def _log(self, row: JSON) -> None:
        self.directory.append(REQUESTS, row)

    def usage(self) -> JSON:
        """Return what the whole run has asked for, including processes that were stopped before.

        Returns:
          `requests` by outcome, the number of `answers`, `prompt_tokens` and `completion_tokens` (`estimated` says
          whether some are estimates), and the `cost` in dollars, None without a price.
        """
        rows = [row for row in self._rows() if "outcome" in row]
        tokens = [row["tokens"] for row in rows if "tokens" in row]
        costs = [row["cost"] for row in rows if row.get("cost") is not None]
        return {
            "requests": dict(collections.Counter(row["outcome"] for row in rows)),
            "answers": sum(row.get("answers", 0) for row in rows if row["outcome"] == "answered"),
            "prompt_tokens": sum(each["prompt"] for each in tokens),
            "completion_tokens": sum(each["completion"] for each in tokens),
            "estimated": any(each["estimated"] for each in tokens),
            "cost": sum(costs) if costs else None,
        }


def _answers(replies: Iterable[Reply]) -> list[Answer]:
    return [Answer(reply.text, reply.finish) for reply in replies]


def _unfinished(rows: Iterable[JSON]) -> list[JSON]:
    """Return the last row of each request that was begun and has no outcome."""
    begun: dict[str, JSON] = {}
    for row in rows:
        if "outcome" in row:
            begun.pop(row.get("begun", ""), None)
        elif "begun" in row:
            begun[row["begun"]] = row
    return list(begun.values())
