"""Hill climbing, many searches at once (LLM-GS, section on search; Carvalho et al. 2024 for HC, also in latent space).

A search moves from point to point: programs in program space, latents with their programs (`types.Point`) in a learned
one. What is a neighbour is said by the caller.

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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprl.search.schedule import Schedule, steps
from jaxprl.search.types import UNKNOWN, Answer, Asked, Bests, Question, Search, programs_of, select, started


class State(NamedTuple):
    """S searches; every leaf has a leading axis [S]."""

    key: jax.Array  # typed key
    evaluated: jax.Array  # int32: n, programs evaluated so far
    climb: jax.Array  # int32: climbs begun so far, the current one included
    current: Any  # the current point: nodes int32 [N] of a program, or a Point
    score: jax.Array  # int32: its score; below every score while it is not evaluated
    tried: jax.Array  # int32: neighbours of it looked at
    k: jax.Array  # int32: neighbours to look at in this climb
    best: jax.Array  # int32: highest score so far
    done: jax.Array  # bool
    best_at: jax.Array  # int32: climbs begun when `best` last rose
    pool: Any = None  # what start programs are taken from besides the key: a pytree, or None for nothing


LOOK_AHEAD = 64
"""Programs evaluated ahead at a new current program; later as many as were tried at it in vain. No result changes."""


def hill_climbing(
    *,
    neighbours: Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]],
    start: Callable[..., Any],
    schedule: Schedule,
    budget: int,
    goal: int,
) -> Search:
    """Return the search.

    Args:
      neighbours: (points [S], keys [S, B], counts int32 [S]) -> points [S, B], what was changed in the program int32
        [S, B, 2] (`Question.changed`); points are programs, int32 [..., N], or `Point`. So many as `counts` says are
        looked at, the others may be anything.
      start: (keys [S], climb int32 [S], counted from 0) -> points [S], the starts of climbs; of searches that have a
        pool, (pool, keys, climb).
      schedule: neighbourhood size from programs evaluated.
      budget: programs that a search may evaluate.
      goal: score of return 1.
    """
    table = tuple(jnp.asarray(column) for column in steps(schedule, budget))

    def begin(state: State, starts: jax.Array) -> State:
        first = started(start, state.pool, state.key, state.climb)
        return _begin(state._replace(pool=None), first, starts, table=table)._replace(pool=state.pool)

    def init(keys: jax.Array, evaluated: jax.Array, best: jax.Array, pool: Any = None) -> State:
        """Return searches that have evaluated some programs already (LLM-GS: its start programs), with their best
        score, `UNKNOWN` if there is none; the first climb is about to start."""
        zero, done = jnp.zeros_like(evaluated), (best >= goal) | (evaluated >= budget)
        first = started(start, pool, keys, zero)
        state = State(keys, evaluated, zero, first, zero, zero, zero, best, done, zero, pool)
        return begin(state, ~done)

    def join(state: State, where: jax.Array, evaluated: jax.Array, best: jax.Array, pool: Any) -> State:
        """Return the searches after programs from elsewhere were evaluated for those `where`, bool [S], is true, each
        with a climb that is about to start: `evaluated` int32 [S] more programs, of which `best` int32 [S] is the
        highest score. Those climbs start anew, from the new pool, and the count of climbs in vain is 0. Only in
        program space."""
        evaluated = state.evaluated + jnp.where(where, evaluated, 0)
        best = jnp.where(where, jnp.maximum(state.best, best), state.best)
        done = state.done | (best >= goal) | (evaluated >= budget)
        again = where & ~done
        climb = state.climb - _one(again)
        wider = pool.programs.shape[-1] - state.current.shape[-1]
        state = state._replace(
            evaluated=evaluated,
            climb=climb,
            current=jnp.pad(state.current, ((0, 0), (0, wider))),
            best=best,
            done=done,
            best_at=jnp.where(again, climb, state.best_at),
            pool=pool,
        )
        return begin(state, again)

    def ask(state: State, width: int) -> Asked:
        keys, counts = _next(state._replace(pool=None), width, budget=budget)
        points, changed = neighbours(state.current, keys, counts)
        return Asked(Question(programs_of(state.current), programs_of(points), changed, counts), points)

    def tell(state: State, asked: Asked, answer: Answer) -> tuple[State, Bests]:
        pool = state.pool  # kept apart: one that grows would have all of this compiled again
        state, bests, starts = _tell(state._replace(pool=None), asked, answer, budget=budget, goal=goal)
        state = state._replace(pool=pool)
        return (begin(state, starts) if starts.any() else state), bests

    return Search(init, ask, tell, join)


def stalled(state: State, climbs: int) -> jax.Array:
    """Return bool [S]: the search is about to start a climb, and the last `climbs` climbs brought no new best."""
    about_to_start = ~state.done & (state.score == UNKNOWN)
    return about_to_start & (state.climb - 1 - state.best_at >= climbs)


@jax.jit
def _begin(state: State, first: Any, starts: jax.Array, *, table: tuple[jax.Array, jax.Array]) -> State:
    """Return the state with a new climb from the points `first`, [S], where `starts`, bool [S]."""
    from_evaluated, ks = table
    k = ks[jnp.searchsorted(from_evaluated, state.evaluated, side="right") - 1]
    return state._replace(
        climb=state.climb + jnp.where(starts, 1, 0),
        current=select(starts, first, state.current),
        score=jnp.where(starts, UNKNOWN, state.score),
        tried=jnp.where(starts, 0, state.tried),
        k=jnp.where(starts, k, state.k),
    )


@functools.partial(jax.jit, static_argnames=("width", "budget"))
def _next(state: State, width: int, *, budget: int) -> tuple[jax.Array, jax.Array]:
    """Return the keys [S, width] of the neighbours that come next, and how many of them are looked at (`Question`)."""
    left = budget - state.evaluated - _one(state.score == UNKNOWN)  # the start of a climb counts before its neighbours
    n = (budget - left)[:, None] + jnp.arange(width, dtype=jnp.int32)[None, :]
    keys = jax.vmap(lambda key, row: jax.vmap(functools.partial(jax.random.fold_in, key))(row))(state.key, n)
    ahead = jnp.minimum(jnp.maximum(state.tried, LOOK_AHEAD), width)
    counts = jnp.minimum(jnp.minimum(state.k - state.tried, left), ahead)
    return keys, jnp.where(state.done, -1, counts)


@functools.partial(jax.jit, static_argnames=("budget", "goal"))
def _tell(state: State, asked: Asked, answer: Answer, *, budget: int, goal: int):
    running = ~state.done
    fresh = (state.score == UNKNOWN) & running
    score = jnp.where(fresh, answer.score, state.score)
    solved_at_start = fresh & (score >= goal)
    improves = running & (answer.first >= 0) & ~solved_at_start
    looked_at = jnp.where(improves, answer.first + 1, jnp.where(solved_at_start, 0, asked.question.counts))
    evaluated = state.evaluated + jnp.where(running, _one(fresh) + looked_at, 0)

    index = jnp.maximum(answer.first, 0)[:, None, None]
    chosen = jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, index, axis=1)[:, 0], asked.points)
    new_score = jnp.where(improves, answer.better, score)
    best_at_start = jnp.where(fresh, jnp.maximum(state.best, score), state.best)
    best = jnp.where(improves, jnp.maximum(best_at_start, new_score), best_at_start)
    done = state.done | (best >= goal) | (evaluated >= budget)
    new_state = state._replace(
        evaluated=evaluated,
        current=select(improves, chosen, state.current),
        score=jnp.where(running, new_score, state.score),
        tried=jnp.where(running, jnp.where(improves, 0, state.tried + looked_at), state.tried),
        best=best,
        done=done,
        best_at=jnp.where(best > state.best, state.climb, state.best_at),
    )
    bests = Bests(
        found=jnp.stack([best_at_start > state.best, best > best_at_start], axis=1),
        evaluated=jnp.stack([state.evaluated + 1, evaluated], axis=1),
        score=jnp.stack([best_at_start, best], axis=1),
        programs=jnp.stack([programs_of(state.current), programs_of(chosen)], axis=1),
        start=jnp.broadcast_to(jnp.array([True, False]), (len(score), 2)),
    )
    return new_state, bests, ~done & (new_state.tried >= new_state.k)


def _one(condition: jax.Array) -> jax.Array:
    return condition.astype(jnp.int32)
