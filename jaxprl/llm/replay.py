"""Answers from a cache alone, so that anyone can repeat a run whose answers were paid for once."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable

from jaxprl.llm import completion
from jaxprl.llm.cache import Cache, Request, Row
from jaxprl.llm.source import Hopeless, Messages, Reply
from jaxprl.types import JSON


class Replay:
    """A source of answers that reads a cache and asks no server (`source.Source`).

    The log has a row for every call of `ask`, with the number of samples that are missing.

    Args:
      cache: the answers.
      parameters: the model and the sampling parameters of the requests (`Settings.request`).
      log: receives the rows.
    """

    def __init__(self, cache: Cache, parameters: Request, log: Callable[[JSON], None] = lambda row: None):
        self.cache, self.parameters, self.log = cache, parameters, log
        self.failures: collections.Counter[str] = collections.Counter()

    def ask(self, messages: Messages, count: int, *, name: str) -> list[Reply]:
        """Return those of the first `count` samples of a request that the cache has (see `Source.ask`).

        Raises:
          Hopeless: if it has none; the message says what it has instead.
        """
        request = {**self.parameters, "messages": [dict(message) for message in messages]}
        samples = read_samples(self.cache.rows(request, name), count)
        replies, empty, missing = samples.replies, samples.empty.total(), len(samples.missing)
        self.failures += collections.Counter({"empty answer": empty, "not in the cache": missing})
        outcome = "not in the cache" if missing else "cached"
        self.log({"name": name, "outcome": outcome, "answers": len(replies), "empty": empty, "missing": missing})
        if count and not replies:
            raise Hopeless(f"cache {self.cache.path} has no answer to {name!r}: {self._why(request, name)}")
        return replies

    def _why(self, request: Request, name: str) -> str:
        """Return in words why the cache has no answer: how the request of that name differs, or which names it has."""
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
    """The samples of a request, as far as a cache has them."""

    replies: list[Reply]
    """The samples with a text."""
    empty: collections.Counter[str]
    """The number of samples without a text, by why they have none (`Choice.why_empty`)."""
    missing: list[int]
    """Indices of the samples that the cache does not have."""


def read_samples(rows: Iterable[Row], count: int, own: Collection[int] = (), *, renew: bool = False) -> Samples:
    """Read the first `count` samples of a request.

    If none of them has a text, the next `count` samples are read, and so on: a server that gave only empty answers is
    asked again by the next run, and the new answers follow the empty ones.

    Args:
      rows: the request's rows of the cache, in order. A body that holds no answer has no samples.
      count: number of samples.
      own: ids of rows that were added just now; all other samples count as cached.
      renew: whether `count` further samples are missing if none that the cache has contains a text.

    Returns:
      The samples. For example, if 4 samples are wanted and the rows hold 0 and 2, then 1 and 3 are missing.
    """
    samples = Samples([], collections.Counter(), [])
    # `index` counts samples in the order of the rows, which never changes. `requested` has the indices that the samples
    # were requested as: a seed that is sent depends on them, so those that failed are requested as themselves.
    index, wanted, requested = 0, count, set()
    for row in rows:
        try:
            choices, usage, _ = completion.read(row.body)
        except completion.Unusable:
            continue
        first = index if row.first is None else row.first
        for number, choice in enumerate(choices, first):
            if index == wanted and samples.replies:
                break
            wanted += count if index == wanted else 0
            requested.add(number)
            if choice.text:
                samples.replies.append(Reply(choice.text, index, row.id not in own, choice.finish, usage))
            else:
                samples.empty[choice.why_empty()] += 1
            index += 1
    if renew and index == wanted and not samples.replies:
        wanted += count
    candidates = (number for number in range(wanted + len(requested)) if number not in requested)
    samples.missing = list(itertools.islice(candidates, wanted - index))
    return samples
