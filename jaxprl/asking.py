"""A run's language model: what it is asked, and what comes of it, in the run's records."""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxprl.errors import UserError
from jaxprl.llm.cache import Cache
from jaxprl.llm.client import Client
from jaxprl.llm.money import Budget, read_prices
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


class Asker:
    """Asks one language model, or its cache alone (`starts.Ask`). One request at a time.

    A request whose answers were all looked at is settled: a run that goes on takes the answers that it had then, even
    if the server could give more by now.
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
        rows = self._rows()
        self.settled = {row["name"]: row["settled"] for row in rows if row.get("settled")}
        self.replay = Replay(Cache(means.cache, read_only=replay), settings.request(), self._log)
        self.client: Client | None = None
        if not replay:
            price = read_prices(means.prices).get(settings.model) if means.prices else None
            spent = sum(row.get("cost") or 0.0 for row in rows)
            budget = Budget(price, means.limit, spent)
            self.client = Client(settings, self.replay.cache, budget=budget, log=self._log, should_stop=should_stop)

    def __call__(self, messages: list[dict[str, str]], count: int, name: str) -> list[str]:
        """Return the raw answers that could be had. Raises UserError if there are none and there never were, and
        `llm.source.Interrupted` if the run is told to stop."""
        self._log({"name": name, "asked": count, "messages": messages})
        replies, trouble = self._replies(messages, count, name)
        if replies:
            self.settled[name] = len(replies)
            self._log({"name": name, "settled": len(replies)})
        elif not self.settled:
            raise UserError(f"{self.where} gave no answer: {trouble}")
        else:
            print(f"WARNING: no answer to {name!r}: {trouble}; going on without", file=sys.stderr)
        return [reply.text for reply in replies]

    def _replies(self, messages: list[dict[str, str]], count: int, name: str) -> tuple[list[Reply], str]:
        """Return the answers, and what was wrong if there are none."""
        if name in self.settled:
            return self.replay.ask(messages, count, name=name)[: self.settled[name]], ""
        try:
            replies = (self.client or self.replay).ask(messages, count, name=name)
        except Hopeless as hopeless:
            return [], str(hopeless)
        if replies or not self.client:
            return replies, ""
        counts = ", ".join(f"{number} {reason}" for reason, number in self.client.failures.items())
        return [], f"{self.client.trouble} (all in all: {counts})"

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
