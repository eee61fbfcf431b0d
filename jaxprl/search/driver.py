"""Runs searches: evaluates what they ask for, all seeds in shared batches, and keeps the record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprl.search.types import Search

Evaluate = Callable[[Any], Any]
"""The answer to a question, both of numpy arrays: to a `Question` an `Answer` (`vm.evaluate.first_better`), to
`Candidates` their scores (`vm.evaluate.scores`)."""


@dataclasses.dataclass(frozen=True)
class Event:
    """A line of a search's record: a new best program, or (program None) how far it is at an interval."""

    search: int
    """Index of the search."""
    evaluated: int
    """Programs evaluated by then."""
    score: int
    """Best score by then."""
    program: np.ndarray | None = None
    """Nodes int32 [N] of the new best program."""
    source: str | None = None
    """Where it came from: "llm", "random" or "mutation"."""


AHEAD = 256
"""Programs of one search that a batch has room for, if few searches are left."""
LEAST_AHEAD = 64
"""Programs of one search that a batch has room for, if there are many."""


def drive(
    search: Search,
    state: Any,
    evaluate: Evaluate,
    *,
    record: Callable[[Event], None],
    progress: Callable[[Any], None] = lambda state: None,
    between: Callable[[Any], tuple[Any, Sequence[Event]]] = lambda state: (state, ()),
    start_source: str = "random",
    interval: int = 10_000,
    ahead: int = AHEAD,
) -> Any:
    """Run searches to their end and return their last state.

    Args:
      search, state: the searches, as they stand.
      evaluate: answers what the searches ask.
      record: is told of every new best program and of every `interval` programs, in order for each search.
      progress: is told of the state after every batch.
      between: is given the state after every batch, before `progress`; it returns the state to go on from, and the new
        bests among programs that it evaluated itself, in order for each search.
      start_source: `Event.source` of programs that climbs start from.
      interval: programs between two lines of a search's record.
      ahead: how many programs of one search to evaluate ahead, if few are left; it changes no result.
    """
    best = np.asarray(state.best)
    while not np.asarray(state.done).all():
        before = np.asarray(state.evaluated)
        asked = search.ask(state, _width(ahead, int((~np.asarray(state.done)).sum())))
        state, bests = search.tell(state, asked, evaluate(jax.tree.map(np.asarray, asked.question)))
        events = _events(jax.tree.map(np.asarray, bests), start_source)
        state, more = between(state)
        after = np.asarray(state.evaluated)
        for index in range(len(after)):
            own = [event for event in (*events, *more) if event.search == index]
            for event in with_intervals(own, index, (before[index], after[index]), int(best[index]), interval):
                record(event)
        best = np.asarray(state.best)
        progress(state)
    return state


def _events(bests: Any, start_source: str) -> list[Event]:
    """Return what is new of `Bests` of numpy arrays, in order for each search."""
    events = []
    for search, place in np.argwhere(bests.found).tolist():
        _, evaluated, score, program, start = (leaf[search, place] for leaf in bests)
        events.append(Event(search, int(evaluated), int(score), program, start_source if start else "mutation"))
    return events


def _width(ahead: int, searches: int) -> int:
    """Return one of two sizes: what is compiled for one search serves for a few as well."""
    return ahead if searches * LEAST_AHEAD < ahead else LEAST_AHEAD


def with_intervals(
    events: Sequence[Event], search: int, span: tuple[int, int], best: int, interval: int
) -> list[Event]:
    """Return a search's events of one batch with those of the intervals that end in it, in order.

    `span`: programs evaluated before and after the batch. `best`: best score before it.
    """
    merged: list[Event] = []
    pending = list(events)
    for mark in range((span[0] // interval + 1) * interval, span[1] + 1, interval):
        while pending and pending[0].evaluated <= mark:
            merged.append(pending.pop(0))
        merged.append(Event(search, mark, merged[-1].score if merged else best))
    return [*merged, *pending]
