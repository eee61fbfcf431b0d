"""Hill climbing in program space, many searches at once (LLM-GS, section on search; Carvalho et al. 2024 for HC).

A climb starts from a program and looks at up to k neighbours one after the other; the first with a strictly higher
return becomes the current program and a new neighbourhood starts. No better one among k: a local maximum, and the next
climb starts. k is fixed at the start of a climb from the programs evaluated so far, before its start program, which
is evaluated and counted too. A search stops at return 1, or at its budget exactly (the published code finishes its
climb).

The n-th program of a search is drawn with the key `fold_in(search key, n)`, so a search is the same whatever is
evaluated ahead: a batch holds the next programs of a search as if none of them were better.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprl.search.schedule import Schedule, steps
from jaxprl.search.types import UNKNOWN, Bests, Question, Search


class State(NamedTuple):
    """S searches; every leaf has a leading axis [S]."""

    key: jax.Array  # typed key
    evaluated: jax.Array  # int32: n, programs evaluated so far
    climb: jax.Array  # int32: climbs begun so far, the current one included
    current: jax.Array  # int32 [N]: nodes of the current program
    score: jax.Array  # int32: its score; below every score while it is not evaluated
    tried: jax.Array  # int32: neighbours of it looked at
    k: jax.Array  # int32: neighbours to look at in this climb
    best: jax.Array  # int32: highest score so far
    done: jax.Array  # bool


LOOK_AHEAD = 64
"""Programs evaluated ahead at a new current program; later as many as were tried at it in vain. No result changes."""


def hill_climbing(
    *,
    neighbours: Callable[[jax.Array, jax.Array], jax.Array],
    start: Callable[[jax.Array, jax.Array], jax.Array],
    schedule: Schedule,
    budget: int,
    goal: int,
) -> Search:
    """Return the search.

    Args:
      neighbours: (programs int32 [S, N], keys [S, B]) -> int32 [S, B, N].
      start: (keys [S], climb int32 [S], counted from 0) -> int32 [S, N], the start programs of climbs.
      schedule: neighbourhood size from programs evaluated.
      budget: programs that a search may evaluate.
      goal: score of return 1.
    """
    table = tuple(jnp.asarray(column) for column in steps(schedule, budget))
    begin = functools.partial(_begin, start=start, table=table)

    def init(keys: jax.Array, evaluated: jax.Array, best: jax.Array) -> State:
        """Return searches that have evaluated some programs already (LLM-GS: its start programs), with their best
        score, `UNKNOWN` if there is none; the first climb is about to start."""
        zero = jnp.zeros_like(evaluated)
        first = start(keys, zero)
        state = State(keys, evaluated, zero, first, zero, zero, zero, best, (best >= goal) | (evaluated >= budget))
        return begin(state, ~state.done)

    def ask(state: State, width: int) -> Question:
        return _ask(state, width, neighbours=neighbours, budget=budget)

    def tell(state: State, question: Question, scores: jax.Array) -> tuple[State, Bests]:
        state, bests, starts = _tell(state, question, scores, budget=budget, goal=goal)
        return (begin(state, starts) if starts.any() else state), bests

    return Search(init, ask, tell)


@functools.partial(jax.jit, static_argnames="start")
def _begin(state: State, starts: jax.Array, *, start, table: tuple[jax.Array, jax.Array]) -> State:
    """Return the state with a new climb where `starts`, bool [S]."""
    from_evaluated, ks = table
    k = ks[jnp.searchsorted(from_evaluated, state.evaluated, side="right") - 1]
    return state._replace(
        climb=state.climb + jnp.where(starts, 1, 0),
        current=jnp.where(starts[:, None], start(state.key, state.climb), state.current),
        score=jnp.where(starts, UNKNOWN, state.score),
        tried=jnp.where(starts, 0, state.tried),
        k=jnp.where(starts, k, state.k),
    )


@functools.partial(jax.jit, static_argnames=("width", "neighbours", "budget"))
def _ask(state: State, width: int, *, neighbours, budget: int) -> Question:
    n = state.evaluated[:, None] + jnp.arange(width, dtype=jnp.int32)[None, :]
    keys = jax.vmap(lambda key, row: jax.vmap(functools.partial(jax.random.fold_in, key))(row))(state.key, n)
    programs = neighbours(state.current, keys)
    fresh = state.score == UNKNOWN
    programs = programs.at[:, 0].set(jnp.where(fresh[:, None], state.current, programs[:, 0]))
    climb_left = state.k - state.tried + jnp.where(fresh, 1, 0)
    ahead = jnp.maximum(state.tried, LOOK_AHEAD)
    wanted = jnp.minimum(jnp.minimum(climb_left, budget - state.evaluated), jnp.minimum(ahead, width))
    return Question(programs, jnp.where(state.done, 0, wanted), state.score)


@functools.partial(jax.jit, static_argnames=("budget", "goal"))
def _tell(state: State, question: Question, scores: jax.Array, *, budget: int, goal: int):
    programs, wanted, _ = question
    width = scores.shape[1]
    index = jnp.arange(width, dtype=jnp.int32)[None, :]
    fresh = (state.score == UNKNOWN) & ~state.done
    score = jnp.where(fresh, scores[:, 0], state.score)
    solved_at_start = fresh & (score >= goal)
    better = (index < wanted[:, None]) & (scores > score[:, None]) & ~solved_at_start[:, None]
    improves = jnp.any(better, axis=1)
    first = jnp.argmax(better, axis=1).astype(jnp.int32)
    looked_at = jnp.where(solved_at_start, 1, jnp.where(improves, first + 1, wanted))

    chosen = jnp.take_along_axis(programs, first[:, None, None], axis=1)[:, 0]
    new_score = jnp.where(improves, jnp.take_along_axis(scores, first[:, None], axis=1)[:, 0], score)
    tried = jnp.where(improves, 0, state.tried + looked_at - jnp.where(fresh, 1, 0))
    evaluated = state.evaluated + looked_at
    best_at_start = jnp.where(fresh, jnp.maximum(state.best, score), state.best)
    best = jnp.where(improves, jnp.maximum(best_at_start, new_score), best_at_start)
    done = state.done | (best >= goal) | (evaluated >= budget)
    new_state = state._replace(
        evaluated=evaluated,
        current=jnp.where(improves[:, None], chosen, state.current),
        score=jnp.where(state.done, state.score, new_score),
        tried=jnp.where(state.done, state.tried, tried),
        best=best,
        done=done,
    )
    bests = Bests(
        found=jnp.stack([best_at_start > state.best, best > best_at_start], axis=1),
        evaluated=jnp.stack([state.evaluated + 1, evaluated], axis=1),
        score=jnp.stack([best_at_start, best], axis=1),
        programs=jnp.stack([state.current, chosen], axis=1),
        start=jnp.broadcast_to(jnp.array([True, False]), (len(score), 2)),
    )
    return new_state, bests, ~done & (new_state.tried >= new_state.k)
