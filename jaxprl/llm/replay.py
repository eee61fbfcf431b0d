"""Answers from a cache alone: a run that was paid for once can be run again by anyone."""

from __future__ import annotations

import collections
import dataclasses
import itertools
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
        samples = replies(self.cache.rows(request, name), count)
        found, empty, missing = samples.found, samples.empty.total(), len(samples.missing)
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


@dataclasses.dataclass
class Samples:
    """The samples of a request that a cache has."""

    found: list[Reply]
    """Those with a text."""
    empty: collections.Counter[str | None]
    """Those without, by why the model stopped."""
    missing: list[int]
    """Those that are not there."""


def replies(rows: Iterable[Row], count: int, own: Collection[int] = (), *, anew: bool = False) -> Samples:
    """Return the first `count` samples of a request; if none of them has a text, the next `count` that are there, and
    so on.

    Bodies that hold no answer have no samples. `own`: rows that were added just now, all others are cached. `anew`:
    `count` more are missing if none that is there has a text.
    """
    samples = Samples([], collections.Counter(), [])
    index, wanted, there = 0, count, set()
    for row in rows:
        try:
            choices, usage = completion.read(row.body)
        except completion.Unusable:
            continue
        first = index if row.first is None else row.first
        for number, choice in enumerate(choices, first):
            if index == wanted and samples.found:
                break
            wanted += count if index == wanted else 0
            there.add(number)
            if choice.text:
                samples.found.append(Reply(choice.text, index, row.id not in own, choice.finish, usage))
            else:
                samples.empty[choice.finish] += 1
            index += 1
    if anew and index == wanted and not samples.found:
        wanted += count
    candidates = (number for number in range(wanted + len(there)) if number not in there)
    samples.missing = list(itertools.islice(candidates, wanted - index))
    return samples
