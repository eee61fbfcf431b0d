"""Cross-entropy search in a learned program space, many searches side by side: CEM (Trivedi et al. 2021, LEAPS) and
CEBS (Carvalho et al. 2024).

A run starts from a point, which is evaluated and counted. A generation has k candidates; the best e of them are its
elite, where the earlier of two equally good ones is better. The first generation lies around the start. If the elite's
mean return has not been higher than the best elite mean of the run so far for as many generations in a row as the
patience says, the run ends and the next one starts. Otherwise another generation follows: around the mean of the elite
of this generation (CEM), or k / e candidates around each of it, best first (CEBS). With a patience of 1 this is what
LLM-GS does, and with 5 CEBS waits as long as in the experiments of Carvalho et al.; theirs differs in that a run starts
from k latents of N(0, I), and that the parents of candidates are drawn from the elite with replacement. The centre is
not a candidate itself, so neither the start nor the best program so far enters a later elite, and the variance is
fixed.

Every candidate counts as evaluated, equal ones each time, up to return 1 or exactly up to the budget. The n-th program
of a search is drawn with the key `fold_in(search key, n)`, as in hill climbing. Elite means are compared as exact sums.
The mean of the elite may decode to nothing; a candidate whose 50 draws around it decode to nothing either is the best
of the elite (`latent.perturbed`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.search.hill_climbing import Start
from jaxprl.search.latent import Decode, perturbed
from jaxprl.search.protocol import UNKNOWN, Asked, Bests, Candidates, Point, Search, nothing_yet, select, started
from jaxprl.types import PyTree
from jaxprl.xla import jit


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Parameters of a search in a learned program space."""

    k: int
    """Candidates of a generation, or of a neighbourhood in hill climbing."""
    e: int
    """Size of the elite; 0 in hill climbing, which has none."""
    sigma: float
    """Standard deviation of the candidates around their centre."""
    patience: int = 1
    """Generations in a row without a better elite after which a run ends; without meaning in hill climbing."""


class State(NamedTuple):
    """S searches. Every leaf has a leading axis [S]."""

    key: jax.Array  # typed key
    evaluated: jax.Array  # int32: n, programs evaluated so far
    run: jax.Array  # int32: runs begun so far, the current one included
    fresh: jax.Array  # bool: whether the start of the run still has to be evaluated
    elite: Point  # [e]: of the last generation, best first; at first the start, e times
    total: jax.Array  # int32 [2]: highest sum of an elite's scores in this run (`_total`)
    stalled: jax.Array  # int32: generations since the elite was better
    best: jax.Array  # int32: highest score so far
    done: jax.Array  # bool
    pool: PyTree = None  # what starts are taken from besides the key, or None


Centres = Callable[[Point, int], tuple[jax.Array, Point]]
"""(elite [S, e], k) -> the centres of the candidates float32 [S, k, D], and points [S, k] that stand in for candidates
none of whose draws decodes."""


def around_mean(elite: Point, k: int) -> tuple[jax.Array, Point]:
    """Place all candidates around the mean of the elite (CEM)."""
    best = jax.tree.map(lambda leaf: leaf[:, :1], elite)
    e = elite.latents.shape[1]
    above = sum((elite.latents[:, i : i + 1] - best.latents for i in range(1, e)), start=jnp.zeros_like(best.latents))
    mean = best.latents + above / e  # the mean of equal points is exactly that point, however the sum is rounded
    return jnp.repeat(mean, k, axis=1), jax.tree.map(lambda leaf: jnp.repeat(leaf, k, axis=1), best)


def around_each(elite: Point, k: int) -> tuple[jax.Array, Point]:
    """Place k / e candidates around each of the elite (CEBS)."""
    each = jax.tree.map(lambda leaf: jnp.repeat(leaf, k // leaf.shape[1], axis=1), elite)
    return each.latents, each


def cross_entropy(
    decode: Decode,
    centres: Centres,
    parameters: Parameters,
    *,
    start: Start,
    budget: int,
    goal: int,
    pool: PyTree = None,
) -> Search:
    """Build the search.

    Args:
      decode: decodes latents of the program space.
      centres: `around_mean` or `around_each`.
      parameters: k, e and sigma; for CEBS, k is a multiple of e.
      start: (keys [S], run int32 [S], counted from 0) -> points [S] that decode, the starts of runs. Searches with a
        pool pass it before the keys.
      budget: programs that a search may evaluate.
      goal: score of return 1.
      pool: a template of the pool, with meaningless leaves (`Search.template`).
    """
    k, e, sigma, patience = dataclasses.astuple(parameters)

    def begin(state: State, starts: jax.Array) -> State:
        return _begin(state, started(start, state.pool, state.key, state.run), starts, e=e)

    def init(
        keys: jax.Array, evaluated: jax.Array | None = None, best: jax.Array | None = None, pool: PyTree = None
    ) -> State:
        if evaluated is None or best is None:
            evaluated, best = nothing_yet(keys)
        zero, done = jnp.zeros_like(evaluated), (best >= goal) | (evaluated >= budget)
        elite = _repeated(started(start, pool, keys, zero), e)
        total = jnp.zeros((len(zero), 2), jnp.int32)
        return begin(State(keys, evaluated, zero, ~done, elite, total, zero, best, done, pool), ~done)

    def ask(state: State, width: int) -> Asked:
        del width  # a generation depends on the one before, so nothing can be evaluated ahead
        keys, around, instead, wanted = _next(state, centres=centres, k=k, budget=budget)
        near = perturbed(decode, sigma, around, instead, keys=keys, wanted=np.asarray(wanted)[:, 1:])
        points = _behind(state.elite, near)
        return Asked(Candidates(points.programs, wanted), points)

    def tell(state: State, asked: Asked, scores: np.ndarray) -> tuple[State, Bests]:
        state, bests, starts = _tell(
            state, asked, jnp.asarray(scores), e=e, patience=patience, budget=budget, goal=goal
        )
        return (begin(state, starts) if starts.any() else state), bests

    template = State(*State._fields)._replace(elite=Point(0, 0), pool=pool)  # type: ignore[arg-type]
    return Search(init, ask, tell, template)


@jit(static_argnames="e")
def _begin(state: State, first: Point, starts: jax.Array, *, e: int) -> State:
    """Start a run from the points `first`, [S], where `starts`, bool [S], holds."""
    return state._replace(
        run=state.run + jnp.where(starts, 1, 0),
        fresh=state.fresh | starts,
        elite=select(starts, _repeated(first, e), state.elite),
        total=select(starts, jnp.broadcast_to(jnp.array([UNKNOWN, 0]), state.total.shape), state.total),
        stalled=jnp.where(starts, 0, state.stalled),
    )


@jit(static_argnames=("centres", "k", "budget"))
def _next(state: State, *, centres: Centres, k: int, budget: int):
    """Return the keys [S, k] of the next generation, its centres and stand-ins (`Centres`), and which programs are to
    be evaluated, bool [S, 1 + k]: column 0 is the start of the run, the others are the candidates."""
    first = state.evaluated + _one(state.fresh)
    n = first[:, None] + jnp.arange(k, dtype=jnp.int32)[None, :]
    keys = jax.vmap(lambda key, row: jax.vmap(functools.partial(jax.random.fold_in, key))(row))(state.key, n)
    wanted = jnp.concatenate([state.fresh[:, None], n < budget], axis=1) & ~state.done[:, None]
    return keys, *centres(state.elite, k), wanted


@jit()
def _behind(elite: Point, candidates: Point) -> Point:
    """Put the first of the elite, which is the start of a run that has just begun, before the candidates: [S, 1 +
    k]."""
    return jax.tree.map(lambda old, new: jnp.concatenate([old[:, :1], new], axis=1), elite, candidates)


@jit(static_argnames=("e", "patience", "budget", "goal"))
def _tell(state: State, asked: Asked, scores: jax.Array, *, e: int, patience: int, budget: int, goal: int):
    """Return the next state, the new bests, and which searches start a run, bool [S]."""
    wanted, points = asked.question.wanted, asked.points
    solves = _one(wanted & (scores >= goal))
    counts = wanted & (jnp.cumsum(solves, axis=1) == solves)  # up to the first one that solves the task
    n = state.evaluated[:, None] + jnp.cumsum(_one(counts), axis=1)
    highest = jax.lax.cummax(jnp.where(counts, scores, UNKNOWN), axis=1)
    highest = jnp.maximum(highest, state.best[:, None])
    before = jnp.concatenate([state.best[:, None], highest[:, :-1]], axis=1)
    is_start = jnp.broadcast_to(jnp.arange(scores.shape[1])[None, :] == 0, scores.shape)
    bests = Bests(highest > before, n, scores, points.programs, is_start)

    top, place = jax.lax.top_k(scores[:, 1:], e)  # the earlier of equal ones comes first
    elite = jax.tree.map(lambda leaf: jnp.take_along_axis(leaf[:, 1:], place[:, :, None], axis=1), points)
    total = _total(top)
    better = _exceeds(total, state.total)
    done = state.done | (highest[:, -1] >= goal) | (n[:, -1] >= budget)
    stalled = jnp.where(better, 0, state.stalled + 1)
    goes_on = (stalled < patience) & ~done
    new_state = state._replace(
        evaluated=n[:, -1],
        fresh=state.fresh & state.done,
        elite=select(goes_on, elite, state.elite),
        total=select(goes_on & better, total, state.total),
        stalled=jnp.where(goes_on, stalled, state.stalled),
        best=highest[:, -1],
        done=done,
    )
    return new_state, bests, ~done & ~goes_on


def _repeated(point: Point, e: int) -> Point:
    """Repeat points [S] to [S, e]."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], e, axis=1), point)


def _total(scores: jax.Array) -> jax.Array:
    """Return the exact sums of scores int32 [S, e] as int32 [S, 2]: the high part, and the low 16 bits.

    A sum of e scores can exceed an int32. Example: 70000 + 70000 = 140000 is (2, 8928), since 2 * 65536 + 8928 =
    140000.
    """
    high, low = jnp.sum(scores >> 16, axis=1), jnp.sum(scores & 0xFFFF, axis=1)
    return jnp.stack([high + (low >> 16), low & 0xFFFF], axis=1)


def _exceeds(total: jax.Array, other: jax.Array) -> jax.Array:
    """Return whether sums (`_total`) are greater than others, bool [S]."""
    return (total[:, 0] > other[:, 0]) | ((total[:, 0] == other[:, 0]) & (total[:, 1] > other[:, 1]))


def _one(condition: jax.Array) -> jax.Array:
    """Return 1 where the condition holds, else 0."""
    return condition.astype(jnp.int32)
