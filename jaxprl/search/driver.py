"""Runs searches to their end: evaluates what they ask for, all seeds in shared batches, and records what they find."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import chex
import jax
import numpy as np

from jaxprl.search.protocol import Bests, Candidates, Event, Improvements, Neighbourhoods, Search, State, programs_of
from jaxprl.search.rounds import Device, Rounds

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
    device: Device | None = None,
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
      device: where whole rounds are done, if that can be. No result depends on it.

    Returns:
      The last state.
    """
    _check(state)
    records = _Records(search, record, interval, state)
    while not np.asarray(state.done).all():
        width = _width(ahead, int((~np.asarray(state.done)).sum()))
        several = device.several(search, state, ahead) if device and _in_array_code(search) else None
        if several is not None:
            state, rounds = several
            records.add(rounds, programs_of(state.current).shape[-1])
        if several is None or np.asarray(rounds.missing).any():
            asked = search.ask(state, width)
            state, bests = search.tell(state, asked, evaluate(jax.tree.map(np.asarray, asked.question)))
            state, more = search.between(state) if search.between else (state, ())
            after = np.asarray(state.evaluated), np.asarray(state.best)
            records.add_round(jax.tree.map(np.asarray, bests), *after, more)
        progress(state)
    return state


def _in_array_code(search: Search) -> bool:
    return search.in_array_code and search.between is None


class _Records:
    """Hands on what happened in each round, with the ends of intervals."""

    def __init__(self, search: Search, record: Callable[[Event], None], interval: int, state: State):
        self.search, self.record, self.interval = search, record, interval
        self.evaluated, self.best = np.asarray(state.evaluated), np.asarray(state.best)

    def add(self, rounds: Rounds, nodes: int) -> None:
        """Add several rounds."""
        for round in rounds.unpacked(nodes):
            self.add_round(*round)

    def add_round(self, bests: Bests, evaluated: np.ndarray, best: np.ndarray, more: Sequence[Event] = ()) -> None:
        """Add a round.

        Args:
          bests: the new bests, of numpy arrays.
          evaluated: programs evaluated afterwards, int32 [S].
          best: best score afterwards, int32 [S].
          more: further new bests.
        """
        events = [*_events(bests, self.search.start_source), *more]
        passes_mark = evaluated // self.interval > self.evaluated // self.interval
        for index in sorted({*np.flatnonzero(passes_mark).tolist(), *(event.search for event in events)}):
            own = [event for event in events if event.search == index]
            span = int(self.evaluated[index]), int(evaluated[index])
            for event in with_intervals(own, index, span, int(self.best[index]), self.interval):
                self.record(event)
        self.evaluated, self.best = evaluated, best


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
