"""Programs from a language model that join a hill climbing that stalls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxprl.methods.reviser import Round, new_bests
from jaxprl.search.hill_climbing import State, stalled
from jaxprl.search.pool import Starts, best_first, joined, stacked
from jaxprl.search.protocol import UNKNOWN, Event, Search

Propose = Callable[[int, int, int], Round]
"""(index of a search, number of its next climb, programs left in its budget) -> the programs that may join it."""


def joining(
    search: Search, propose: Propose, *, climbs: int, budget: int, goal: int
) -> Callable[[State], tuple[State, list[Event]]]:
    """Return a `Search.between` that gives programs to searches that stall.

    The programs count as evaluated. The next climbs start from them, best first; then the earlier start programs go on
    in their turn, and the new ones keep their place among them (`search.pool.joined`).

    Args:
      search: hill climbing from a pool.
      propose: gets the programs.
      climbs: climbs in a row without a new best after which a search stalls.
      budget: programs that a search may evaluate.
      goal: score of return 1.
    """

    def between(state: State) -> tuple[State, list[Event]]:
        where = np.asarray(stalled(state, climbs))
        if not where.any():
            return state, []
        before, climb, best = (np.asarray(leaf) for leaf in (state.evaluated, state.climb, state.best))
        nobody = np.zeros((0, state.current.shape[1]), np.int32), np.zeros(0, np.int64)
        proposed = [nobody] * len(where)
        events = []
        for index in np.flatnonzero(where).tolist():
            found = propose(index, int(climb[index]), int(budget - before[index]))
            proposed[index] = found.nodes[: len(found.scores)], found.scores
            events += new_bests(index, found, int(before[index]), int(best[index]))
        fresh = _fresh(proposed, budget - before, goal)
        pool = joined(state.pool, climb - 1, fresh)
        assert search.join is not None
        return search.join(state, where, fresh.evaluated, fresh.best, pool), events

    return between


def _fresh(proposed: list[tuple[np.ndarray, np.ndarray]], left: np.ndarray, goal: int) -> Starts:
    """Sort the programs that were proposed to each search, given with their scores."""
    programs, counts = stacked([nodes for nodes, _ in proposed])
    scores = np.full(programs.shape[:2], UNKNOWN, np.int32)
    for row, (_, known) in zip(scores, proposed, strict=True):
        row[: len(known)] = known
    return best_first(programs, counts, scores, left, goal)
