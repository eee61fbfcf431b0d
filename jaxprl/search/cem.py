"""Cross-entropy search in a learned program space, many searches at once: CEM (Trivedi et al. 2021, LEAPS) and CEBS
(Carvalho et al. 2024).

A run starts from a point, which is evaluated and counted. A generation is k candidates; the best e are its elite, of
equal scores the first. The first generation lies around the start. As soon as the elite's mean return is not higher
than the best elite mean of the run, the run ends and the next one starts. Otherwise a generation follows: around the
mean of the elite (CEM), or k / e candidates around each of the elite, best first (CEBS). This is what the published
code does (CEM and CEBS of Carvalho et al.). The centre itself is no candidate, so neither the start nor the best
program so far comes into the elite again, and the variance is fixed.

Every candidate counts as evaluated, equal ones each time, up to return 1 or the budget exactly. The n-th program of a
search is drawn with the key `fold_in(search key, n)`, as in hill climbing. Elite means are compared as exact sums.
The mean of the elite may decode to nothing; after 50 draws around it that do neither, a candidate is the best of the
elite (`latent.perturbed`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.search.latent import Decode, perturbed
from jaxprl.search.types import UNKNOWN, Asked, Bests, Candidates, Point, Search, select, started


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Of a latent search."""

    k: int
    """Candidates of a generation; of hill climbing, of a neighbourhood."""
    e: int
    """The elite among them; hill climbing has none."""
    sigma: float
    """Standard deviation of the candidates around their centre."""


class State(NamedTuple):
    """S searches; every leaf has a leading axis [S]."""

    key: jax.Array  # typed key
    evaluated: jax.Array  # int32: n, programs evaluated so far
    run: jax.Array  # int32: runs begun so far, the current one included
    fresh: jax.Array  # bool: the start of the run is not evaluated yet
    elite: Point  # [e]: of the last generation, best first; at first the start, e times
    total: jax.Array  # int32 [2]: best sum of the elite's scores in this run (`_total`)
    best: jax.Array  # int32: highest score so far
    done: jax.Array  # bool
    pool: Any = None  # what starts are taken from besides the key: a pytree, or None for nothing


Centres = Callable[[Point, int], tuple[jax.Array, Point]]
"""(elite [S, e], k) -> centres of the candidates float32 [S, k, D], and points [S, k] for those of which nothing
decodes."""


def around_mean(elite: Point, k: int) -> tuple[jax.Array, Point]:
    """CEM: all candidates around the mean of the elite."""
    best = jax.tree.map(lambda leaf: leaf[:, :1], elite)
    e = elite.latents.shape[1]
    above = sum((elite.latents[:, i : i + 1] - best.latents for i in range(1, e)), start=jnp.zeros_like(best.latents))
    mean = best.latents + above / e  # of equal points exactly the point, whatever is rounded
    return jnp.repeat(mean, k, axis=1), jax.tree.map(lambda leaf: jnp.repeat(leaf, k, axis=1), best)


def around_each(elite: Point, k: int) -> tuple[jax.Array, Point]:
    """CEBS: k / e candidates around each of the elite."""
    each = jax.tree.map(lambda leaf: jnp.repeat(leaf, k // leaf.shape[1], axis=1), elite)
    return each.latents, each


def cross_entropy(
    decode: Decode,
    centres: Centres,
    parameters: Parameters,
    *,
    start: Callable[..., Point],
    budget: int,
    goal: int,
) -> Search:
    """Return the search.

    Args:
      decode: the program space.
      centres: `around_mean` or `around_each`.
      parameters: k, e and sigma, which fit together (`published.check`).
      start: (keys [S], run int32 [S], counted from 0) -> points [S] that decode, the starts of runs; of searches that
        have a pool, (pool, keys, run).
      budget: programs that a search may evaluate.
      goal: score of return 1.
    """
    k, e, sigma = dataclasses.astuple(parameters)

    def begin(state: State, starts: jax.Array) -> State:
        return _begin(state, started(start, state.pool, state.key, state.run), starts, e=e)

    def init(keys: jax.Array, evaluated: jax.Array, best: jax.Array, pool: Any = None) -> State:
        """Return searches that have evaluated some programs already, with their best score, `UNKNOWN` if there is
        none; the first run is about to start."""
        zero, done = jnp.zeros_like(evaluated), (best >= goal) | (evaluated >= budget)
        elite = _repeated(started(start, pool, keys, zero), e)
        total = jnp.zeros((len(zero), 2), jnp.int32)
        return begin(State(keys, evaluated, zero, ~done, elite, total, best, done, pool), ~done)

    def ask(state: State, width: int) -> Asked:
        del width  # a generation follows from the one before: there is nothing to evaluate ahead
        keys, around, instead, wanted = _next(state, centres=centres, k=k, budget=budget)
        near = perturbed(decode, sigma, around, instead, keys=keys, wanted=np.asarray(wanted)[:, 1:])
        points = _behind(state.elite, near)
        return Asked(Candidates(points.programs, wanted), points)

    def tell(state: State, asked: Asked, scores: Any) -> tuple[State, Bests]:
        state, bests, starts = _tell(state, asked, jnp.asarray(scores), e=e, budget=budget, goal=goal)
        return (begin(state, starts) if starts.any() else state), bests

    return Search(init, ask, tell)


@functools.partial(jax.jit, static_argnames="e")
def _begin(state: State, first: Point, starts: jax.Array, *, e: int) -> State:
    """Return the state with a new run from the points `first`, [S], where `starts`, bool [S]."""
    return state._replace(
        run=state.run + jnp.where(starts, 1, 0),
        fresh=state.fresh | starts,
        elite=select(starts, _repeated(first, e), state.elite),
        total=select(starts, jnp.broadcast_to(jnp.array([UNKNOWN, 0]), state.total.shape), state.total),
    )


@functools.partial(jax.jit, static_argnames=("centres", "k", "budget"))
def _next(state: State, *, centres: Centres, k: int, budget: int):
    """Return the keys [S, k] of the next generation, its centres and what to take instead (`Centres`), and which of
    [S, 1 + k], the start of the run before it, are wanted."""
    first = state.evaluated + _one(state.fresh)
    n = first[:, None] + jnp.arange(k, dtype=jnp.int32)[None, :]
    keys = jax.vmap(lambda key, row: jax.vmap(functools.partial(jax.random.fold_in, key))(row))(state.key, n)
    wanted = jnp.concatenate([state.fresh[:, None], n < budget], axis=1) & ~state.done[:, None]
    return keys, *centres(state.elite, k), wanted


@jax.jit
def _behind(elite: Point, candidates: Point) -> Point:
    """Return the candidates [S, k] behind the first of the elite, [S, 1 + k]: the start, if it is not evaluated yet."""
    return jax.tree.map(lambda old, new: jnp.concatenate([old[:, :1], new], axis=1), elite, candidates)


@functools.partial(jax.jit, static_argnames=("e", "budget", "goal"))
def _tell(state: State, asked: Asked, scores: jax.Array, *, e: int, budget: int, goal: int):
    """Return the state, new bests, and which searches start a run, bool [S]."""
    wanted, points = asked.question.wanted, asked.points
    solves = _one(wanted & (scores >= goal))
    counts = wanted & (jnp.cumsum(solves, axis=1) == solves)  # up to the first that solves the task
    n = state.evaluated[:, None] + jnp.cumsum(_one(counts), axis=1)
    highest = jax.lax.cummax(jnp.where(counts, scores, UNKNOWN), axis=1)
    highest = jnp.maximum(highest, state.best[:, None])
    before = jnp.concatenate([state.best[:, None], highest[:, :-1]], axis=1)
    is_start = jnp.broadcast_to(jnp.arange(scores.shape[1])[None, :] == 0, scores.shape)
    bests = Bests(highest > before, n, scores, points.programs, is_start)

    top, place = jax.lax.top_k(scores[:, 1:], e)  # the first of equal ones
    elite = jax.tree.map(lambda leaf: jnp.take_along_axis(leaf[:, 1:], place[:, :, None], axis=1), points)
    total = _total(top)
    better = _exceeds(total, state.total)
    done = state.done | (highest[:, -1] >= goal) | (n[:, -1] >= budget)
    goes_on = better & ~done
    new_state = state._replace(
        evaluated=n[:, -1],
        fresh=state.fresh & state.done,
        elite=select(goes_on, elite, state.elite),
        total=select(goes_on, total, state.total),
        best=highest[:, -1],
        done=done,
    )
    return new_state, bests, ~done & ~better


def _repeated(point: Point, e: int) -> Point:
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], e, axis=1), point)


def _total(scores: jax.Array) -> jax.Array:
    """Return the sums of int32 [S, e], exactly: int32 [S, 2], high part and low part of 16 bits."""
    high, low = jnp.sum(scores >> 16, axis=1), jnp.sum(scores & 0xFFFF, axis=1)
    return jnp.stack([high + (low >> 16), low & 0xFFFF], axis=1)


def _exceeds(total: jax.Array, other: jax.Array) -> jax.Array:
    return (total[:, 0] > other[:, 0]) | ((total[:, 0] == other[:, 0]) & (total[:, 1] > other[:, 1]))


def _one(condition: jax.Array) -> jax.Array:
    return condition.astype(jnp.int32)
