"""A run's language model: what it is asked, and what comes of it, in the run's records."""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jaxprl.errors import UserError
from jaxprl.llm.cache import Cache
from jaxprl.llm.client import Client
from jaxprl.llm.money import Budget, Price, read_prices
from jaxprl.llm.replay import Replay
from jaxprl.llm.settings import Settings
from jaxprl.llm.source import Hopeless, Reply
from jaxprl.runs.record import REQUESTS, RunDirectory, read_lines


@dataclasses.dataclass(frozen=True)
class Means:
    """What a run has for asking; it changes no answer."""

    cache: Path
    """Where every answer is kept (`llm/cache.py`)."""
    prices: Path | None = None
    """A table of prices (`llm/money.py`)."""
    limit: float | None = None
    """Dollars that the run may spend."""

    def price(self, model: str) -> Price | None:
        """Return the model's price, None if the table lacks it or there is none."""
        return read_prices(self.prices).get(model) if self.prices else None

    def check(self, settings: Settings, *, replay: bool) -> None:
        """Raise UserError for what would end the run later; say what is odd."""
        Cache(self.cache, read_only=replay)
        price = self.price(settings.model)
        Budget(price, self.limit).check(settings.max_tokens)
        if self.prices and price is None:
            print(f"WARNING: prices {self.prices} lack model {settings.model!r}: costs are unknown", file=sys.stderr)


class Asker:
    """Asks one language model, or its cache alone (`starts.Ask`). One request at a time.

    A request is settled when what came is looked at, be it nothing: a run that goes on takes the answers that it had
    then, even if the server could give more by now. A request that the process did not see the end of counts as lost,
    with all that it can have cost.
    """

    def __init__(
        self,
        settings: Settings,
        means: Means,
        directory: RunDirectory,
        *,
        replay: bool,
        should_stop: Callable[[], bool],
    ):
        self.where = f"model {settings.model!r}" + ("" if replay else f" at {settings.base_url}")
        self.directory = directory
        for row in _unfinished(self._rows()):
            self._log({**row, "outcome": "lost", "cost": row["reserved"]})
        rows = self._rows()
        self.settled = {row["name"]: row["settled"] for row in rows if "settled" in row}
        self.trouble = ""
        """Why the last request that brought nothing did so."""
        self.replay = Replay(Cache(means.cache, read_only=replay), settings.request(), self._log)
        self.client: Client | None = None
        if not replay:
            spent = sum(row.get("cost") or 0.0 for row in rows)
            budget = Budget(means.price(settings.model), means.limit, spent)
            self.client = Client(settings, self.replay.cache, budget=budget, log=self._log, should_stop=should_stop)

    def __call__(self, messages: list[dict[str, str]], count: int, name: str) -> list[str]:
        """Return the raw answers that could be had. Raises UserError if there are none and there never were, and
        `llm.source.Interrupted` if the run is told to stop."""
        self._log({"name": name, "asked": count, "messages": messages})
        if name in self.settled:
            number = self.settled[name]  # none: the replay is not asked, it would find that hopeless
            return [reply.text for reply in self.replay.ask(messages, count, name=name)[:number]] if number else []
        replies = self._replies(messages, count, name)
        if not replies and not any(self.settled.values()):
            raise UserError(f"{self.where} gave no answer: {self.trouble}")
        if not replies:
            print(f"WARNING: no answer to {name!r}: {self.trouble}; going on without", file=sys.stderr)
        self.settled[name] = len(replies)
        self._log({"name": name, "settled": len(replies)})
        return [reply.text for reply in replies]

    def _replies(self, messages: list[dict[str, str]], count: int, name: str) -> list[Reply]:
        """Return the answers; if there are none, `trouble` is why."""
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

    def _rows(self) -> list[dict[str, Any]]:
        file = self.directory.path / REQUESTS
        return read_lines(file) if file.exists() else []

    def _log(self, row: dict[str, Any]) -> None:
        self.directory.append(REQUESTS, row)

    def usage(self) -> dict[str, Any]:
        """Return what the whole run has asked for, those of its processes that were stopped included: requests by
        outcome, answers that came, tokens (estimated where the server does not tell), and dollars, None without a
        price."""
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


def _unfinished(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last row of each request that was begun, of those without an end."""
    begun: dict[str, dict[str, Any]] = {}
    for row in rows:
        if "outcome" in row:
            begun.pop(row.get("begun", ""), None)
        elif "begun" in row:
            begun[row["begun"]] = row
    return list(begun.values())
