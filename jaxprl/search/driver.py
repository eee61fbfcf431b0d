"""Runs searches to their end: evaluates what they ask for, all seeds in shared batches, and records what they find."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import chex
import jax
import numpy as np

from jaxprl.search.protocol import Bests, Candidates, Event, Improvements, Neighbourhoods, Search, State

Evaluate = Callable[[Neighbourhoods | Candidates], Improvements | np.ndarray]
"""Answers a question, both of numpy arrays: `Neighbourhoods` by `Improvements` (`vm.evaluate.first_better`),
`Candidates` by their scores int32 [S, B] (`vm.evaluate.scores`)."""

AHEAD = 256
"""Room for programs of one search in a batch, if few searches are left."""
LEAST_AHEAD = 64
"""Room for programs of one search in a batch, if many searches are left."""


def drive(
    search: Search,
    state: State,
    evaluate: Evaluate,
    *,
    record: Callable[[Event], None],
    progress: Callable[[State], None] = lambda state: None,
    interval: int = 10_000,
    ahead: int = AHEAD,
) -> State:
    """Run searches to their end.

    Args:
      search: the kind of search.
      state: the state to start from.
      evaluate: answers what the searches ask.
      record: called with every new best program and every `interval` programs, in order for each search.
      progress: called with the state after every batch.
      interval: programs between two entries in a search's record.
      ahead: how many programs of one search to evaluate ahead, if few searches are left. No result depends on it.

    Returns:
      The last state.
    """
    _check(state)
    best = np.asarray(state.best)
    while not np.asarray(state.done).all():
        before = np.asarray(state.evaluated)
        asked = search.ask(state, _width(ahead, int((~np.asarray(state.done)).sum())))
        state, bests = search.tell(state, asked, evaluate(jax.tree.map(np.asarray, asked.question)))
        events = _events(jax.tree.map(np.asarray, bests), search.start_source)
        state, more = search.between(state) if search.between else (state, ())
        after = np.asarray(state.evaluated)
        for index in range(len(after)):
            own = [event for event in (*events, *more) if event.search == index]
            for event in with_intervals(own, index, (before[index], after[index]), int(best[index]), interval):
                record(event)
        best = np.asarray(state.best)
        progress(state)
    return state


def _check(state: State) -> None:
    """Check what every state promises (`Search`), so that a new kind of search fails where it is wrong."""
    searches = len(state.done)
    chex.assert_shape([state.evaluated, state.best, state.done], (searches,))
    chex.assert_type([state.evaluated, state.best, state.done], [np.int32, np.int32, bool])


def _events(bests: Bests, start_source: str) -> list[Event]:
    """Return the new bests, of numpy arrays, as events, in order for each search."""
    events = []
    for search, place in np.argwhere(bests.found).tolist():
        _, evaluated, score, program, start = (leaf[search, place] for leaf in bests)
        events.append(Event(search, int(evaluated), int(score), program, start_source if start else "mutation"))
    return events


def _width(ahead: int, searches: int) -> int:
    """Return the room of a batch for one search: one of two sizes, so that little is compiled."""
    return ahead if searches * LEAST_AHEAD < ahead else LEAST_AHEAD


def with_intervals(
    events: Sequence[Event], search: int, span: tuple[int, int], best: int, interval: int
) -> list[Event]:
    """Merge a search's new bests of one batch with the ends of intervals.

    Args:
      events: new bests, in order.
      search: index of the search.
      span: programs evaluated before and after the batch.
      best: best score before the batch.
      interval: programs between two entries in the record.

    Returns:
      The events, in order of programs evaluated.
    """
    merged: list[Event] = []
    pending = list(events)
    for mark in range((span[0] // interval + 1) * interval, span[1] + 1, interval):
        while pending and pending[0].evaluated <= mark:
            merged.append(pending.pop(0))
        merged.append(Event(search, mark, merged[-1].score if merged else best))
    return [*merged, *pending]
