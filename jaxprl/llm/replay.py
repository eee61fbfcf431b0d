"""Answers from a cache alone: a run that was paid for once can be run again by anyone."""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterable
from typing import Any

from jaxprl.llm import completion
from jaxprl.llm.cache import Cache, Request, Row
from jaxprl.llm.source import Hopeless, Messages, Reply


class Replay:
    """A source that reads a cache and calls nobody. What is missing is logged and named."""

    def __init__(self, cache: Cache, parameters: Request, log: Callable[[dict[str, Any]], None] = lambda row: None):
        """`parameters`: the model and the sampling parameters that were asked with (`client.Settings.request`)."""
        self.cache, self.parameters, self.log = cache, parameters, log
        self.failures: collections.Counter[str] = collections.Counter()

    def ask(self, messages: Messages, count: int, *, name: str) -> list[Reply]:
        """Return the samples that are there (`Source.ask`). Raises Hopeless if there are none."""
        request = {**self.parameters, "messages": [dict(message) for message in messages]}
        found, empty = replies(self.cache.rows(request, name), count)
        missing = max(count - len(found) - empty, 0)
        self.failures += collections.Counter({"empty answer": empty, "not in the cache": missing})
        outcome = "not in the cache" if missing else "cached"
        self.log({"name": name, "outcome": outcome, "answers": len(found), "empty": empty, "missing": missing})
        if count and not found:
            raise Hopeless(f"cache {self.cache.path} has no answer to {name!r}: {self._why(request, name)}")
        return found

    def _why(self, request: Request, name: str) -> str:
        contents = self.cache.contents()
        if not contents:
            return "it is empty"
        for other, _, _ in (entry for entry in contents if entry[1] == name):
            differing = sorted(key for key in {**request, **other} if request.get(key) != other.get(key))
            if not differing:
                return "those that it has are without text"
            values = (f"{key} {other.get(key)!r} instead of {request.get(key)!r}" for key in differing)
            shown = [value for key, value in zip(differing, values, strict=True) if key != "messages"]
            return f"it was asked with {', '.join(shown) or 'another prompt'}"
        return f"it has {', '.join(repr(entry[1]) for entry in contents[:5])}" + (", ..." if contents[5:] else "")


def replies(rows: Iterable[Row], count: int, own: Collection[int] = ()) -> tuple[list[Reply], int]:
    """Return the first `count` samples of a request: those with a text, and how many are without.

    Bodies that hold no answer have no samples. `own`: rows that were added just now, all others are cached.
    """
    found: list[Reply] = []
    index = 0
    for row in rows:
        if index >= count:
            break
        try:
            choices, usage = completion.read(row.body)
        except completion.Unusable:
            continue
        for choice in choices[: count - index]:
            if choice.text:
                found.append(Reply(choice.text, index, row.id not in own, choice.finish, usage))
            index += 1
    return found, index - len(found)
