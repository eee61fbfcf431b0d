"""Hill climbing, many searches side by side (Liu et al. 2025, section on search; Carvalho et al. 2024).

A search moves from point to point. In program space a point is a program; in a learned program space it is a latent
together with the program that it decodes to (`protocol.Point`). The caller says which points are neighbours.

A climb starts from a point and looks at up to k of its neighbours, one after the other. It moves to the first one with
a strictly higher return and looks at that one's neighbours. If none of k neighbours is better, the point is a local
maximum and the next climb starts. k is fixed at the start of a climb, from the number of programs evaluated before its
start program, which is evaluated and counted too. A search stops at return 1 or exactly at its budget, while the
published code finishes its climb first.

The n-th program of a search is drawn with the key `fold_in(search key, n)`. So a batch can hold the next programs of a
search as if none of them were better: those behind the first better one are simply drawn again later, from the same
keys but at the new point, and the search is the same however far it looks ahead.

`annealing.py` and `chain.py` are the same machine with other margins (`Neighbourhoods.margins`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.search.protocol import (
    UNKNOWN,
    Asked,
    Bests,
    Improvements,
    Neighbourhoods,
    Points,
    Search,
    nothing_yet,
    programs_of,
    select,
    started,
)
from jaxprl.search.schedule import Schedule, steps
from jaxprl.types import PyTree
from jaxprl.xla import jit


class State(NamedTuple):
    """S searches. Every leaf has a leading axis [S]."""

    key: jax.Array  # typed key
    evaluated: jax.Array  # int32: n, programs evaluated so far
    climb: jax.Array  # int32: climbs begun so far, the current one included
    current: Points  # the current point: nodes int32 [N] of a program, or a Point
    score: jax.Array  # int32: its score, UNKNOWN until it is evaluated
    tried: jax.Array  # int32: neighbours looked at so far, of those k
    k: jax.Array  # int32: neighbours to look at in this climb
    best: jax.Array  # int32: highest score so far
    done: jax.Array  # bool
    best_at: jax.Array  # int32: climbs begun when `best` last rose
    pool: PyTree = None  # what start points are taken from besides the key, or None
    parts: PyTree = None  # what neighbours are made of besides the grammar, or None


LOOK_AHEAD = 64
"""Neighbours to evaluate ahead at a new point; later as many as were tried there without success."""
Neighbours = Callable[..., tuple[Points, jax.Array]]
"""(points [S], keys [S, B], counts int32 [S]) -> neighbours [S, B], and `Neighbourhoods.changed` int32 [S, B, 2]. Only
the first `counts` neighbours of a search are used; the rest is padding. Searches with parts pass them before the
points."""
Start = Callable[..., Points]
"""(keys [S], climb int32 [S], counted from 0) -> the points [S] that climbs start from. Searches with a pool pass it
before the keys."""
Margins = Callable[[State, jax.Array], np.ndarray]
"""(state, keys of the neighbours typed [S, B]) -> `Neighbourhoods.margins`."""


def hill_climbing(
    *,
    neighbours: Neighbours,
    start: Start,
    schedule: Schedule,
    budget: int,
    goal: int,
    point: Points = "current",
    pool: PyTree = None,
    parts: PyTree = None,
    margins: Margins | None = None,
    renew: bool = True,
    ahead: int | None = None,
    in_array_code: bool = False,
) -> Search:
    """Build the search.

    Args:
      neighbours: draws neighbours.
      start: gives the start points of climbs.
      schedule: neighbourhood size k as a function of the programs evaluated.
      budget: programs that a search may evaluate.
      goal: score of return 1.
      point, pool, parts: templates of a point, the pool and the parts, with meaningless leaves (`Search.template`).
      margins: how far below the current point each neighbour may be and still be taken; None for a strictly higher
        return.
      renew: whether a move starts a new neighbourhood. Without it a climb looks at k neighbours in all.
      ahead: most neighbours of one search to draw at a time, for searches that move often. No result depends on it.
      in_array_code: whether `neighbours`, `start` and `margins` can be part of a jitted function.

    Returns:
      The search. Its `init` takes, besides the keys, `evaluated` and `best` of programs that were evaluated before, a
      pool, and parts.
    """
    table = tuple(jnp.asarray(column) for column in steps(schedule, budget))

    def begin(state: State, starts: jax.Array) -> State:
        first = started(start, state.pool, state.key, state.climb)
        return _restored(state, _begin(_bare(state), first, starts, table=table))

    def init(
        keys: jax.Array,
        evaluated: jax.Array | None = None,
        best: jax.Array | None = None,
        pool: PyTree = None,
        parts: PyTree = None,
    ) -> State:
        if evaluated is None or best is None:
            evaluated, best = nothing_yet(keys)
        # By numpy, since each operation of JAX outside a jitted function would be compiled for itself.
        is_done = (np.asarray(best) >= goal) | (np.asarray(evaluated) >= budget)
        zero, done, starts = map(jnp.asarray, (np.zeros(len(is_done), np.int32), is_done, ~is_done))
        first = started(start, pool, keys, zero)
        state = State(keys, evaluated, zero, first, zero, zero, zero, best, done, zero, pool, parts)
        return begin(state, starts)

    def join(state: State, where: jax.Array, evaluated: jax.Array, best: jax.Array, pool: PyTree) -> State:
        """Return the searches after programs from elsewhere were evaluated. Only for program space.

        Args:
          state: searches of which those `where` holds are about to start a climb.
          where: bool [S]. These searches start that climb anew, from the new pool, and count climbs without a new best
            from 0 again.
          evaluated: int32 [S], programs evaluated elsewhere.
          best: int32 [S], highest score among them.
          pool: the start points, with the new ones.
        """
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
        keys, counts = _next(_bare(state), min(width, ahead or width), budget=budget)
        given = () if state.parts is None else (state.parts,)
        points, changed = neighbours(*given, state.current, keys, counts)
        slack = margins and jnp.asarray(margins(state, keys), jnp.int32)
        question = Neighbourhoods(programs_of(state.current), programs_of(points), changed, counts, slack)
        return Asked(question, points)

    def tell(state: State, asked: Asked, answer: Improvements) -> tuple[State, Bests]:
        new, bests, starts = _tell(_bare(state), asked, answer, budget=budget, goal=goal, renew=renew)
        state = _restored(state, new)
        # In a jitted function nobody can look whether there are any.
        begins = isinstance(starts, jax.core.Tracer) or np.asarray(starts).any()
        return (begin(state, starts) if begins else state), bests

    template = State(*State._fields)._replace(current=point, pool=pool, parts=parts)  # type: ignore[arg-type]
    return Search(init, ask, tell, template, join, in_array_code=in_array_code)


def _bare(state: State) -> State:
    """Return a state without what its searches were given: a pool that grows would have functions compiled again."""
    return state._replace(pool=None, parts=None)


def _restored(state: State, bare: State) -> State:
    """Return a bare state with what the searches of another one were given."""
    return bare._replace(pool=state.pool, parts=state.parts)


def stalled(state: State, climbs: int) -> jax.Array:
    """Return which searches are about to start a climb after `climbs` climbs in a row without a new best, bool [S]."""
    about_to_start = ~state.done & (state.score == UNKNOWN)
    return about_to_start & (state.climb - 1 - state.best_at >= climbs)


@jit()
def _begin(state: State, first: Points, starts: jax.Array, *, table: tuple[jax.Array, jax.Array]) -> State:
    """Start a climb from the points `first`, [S], where `starts`, bool [S], holds."""
    from_evaluated, ks = table
    k = ks[jnp.searchsorted(from_evaluated, state.evaluated, side="right", method="compare_all") - 1]
    return state._replace(
        climb=state.climb + jnp.where(starts, 1, 0),
        current=select(starts, first, state.current),
        score=jnp.where(starts, UNKNOWN, state.score),
        tried=jnp.where(starts, 0, state.tried),
        k=jnp.where(starts, k, state.k),
    )


@jit(static_argnames=("width", "budget"))
def _next(state: State, width: int, *, budget: int) -> tuple[jax.Array, jax.Array]:
    """Return the keys [S, width] of the next neighbours, and how many of them are looked at, int32 [S]."""
    left = budget - state.evaluated - _one(state.score == UNKNOWN)  # the start of a climb counts before its neighbours
    n = (budget - left)[:, None] + jnp.arange(width, dtype=jnp.int32)[None, :]
    keys = jax.vmap(lambda key, row: jax.vmap(functools.partial(jax.random.fold_in, key))(row))(state.key, n)
    ahead = jnp.minimum(jnp.maximum(state.tried, LOOK_AHEAD), width)
    counts = jnp.minimum(jnp.minimum(state.k - state.tried, left), ahead)
    return keys, jnp.where(state.done, -1, counts)


@jit(static_argnames=("budget", "goal", "renew"))
def _tell(
    state: State, asked: Asked, answer: Improvements, *, budget: int, goal: int, renew: bool
) -> tuple[State, Bests, jax.Array]:
    """Return the next state, the new bests, and which searches start a climb, bool [S].

    A batch may begin with the start program of a climb, whose score is not known yet. It counts as evaluated first. If
    it reaches the goal, none of its neighbours counts. Otherwise the neighbours count up to the one that is taken. For
    example, with 10 programs evaluated, a fresh start, and the third of 64 neighbours better: 1 + 3 more programs, and
    the new best, if it is one, is program number 14.
    """
    running = ~state.done
    fresh = (state.score == UNKNOWN) & running
    score = jnp.where(fresh, answer.score, state.score)
    solved_at_start = fresh & (score >= goal)
    moves = running & (answer.first >= 0) & ~solved_at_start
    looked_at = jnp.where(moves, answer.first + 1, jnp.where(solved_at_start, 0, asked.question.counts))
    evaluated = state.evaluated + jnp.where(running, _one(fresh) + looked_at, 0)

    index = jnp.maximum(answer.first, 0)[:, None, None]
    chosen = jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, index, axis=1)[:, 0], asked.points)
    new_score = jnp.where(moves, answer.better, score)
    best_at_start = jnp.where(fresh, jnp.maximum(state.best, score), state.best)
    best = jnp.where(moves, jnp.maximum(best_at_start, new_score), best_at_start)
    done = state.done | (best >= goal) | (evaluated >= budget)
    new_state = state._replace(
        evaluated=evaluated,
        current=select(moves, chosen, state.current),
        score=jnp.where(running, new_score, state.score),
        tried=jnp.where(running, jnp.where(moves & renew, 0, state.tried + looked_at), state.tried),
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
    """Return 1 where the condition holds, else 0."""
    return condition.astype(jnp.int32)
