"""What a search is: a small record of pure functions over one pytree of state, many searches stacked.

Axis letters: S searches, B candidates of one batch, N nodes of a program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

UNKNOWN = -(2**31)
"""Score (int32: an exact mean return, as the numerator of a fraction that all programs of a run share) of a program
that is not evaluated, below every other one."""


def search_keys(seeds: Sequence[int]) -> jax.Array:
    """Return the random keys of searches, typed [S], of the same generator wherever JAX runs."""
    make = functools.partial(jax.random.key, impl="threefry2x32")
    return jax.vmap(make)(jnp.asarray(seeds, jnp.uint32))


class Bests(NamedTuple):
    """Programs that were the best of their search when they were evaluated; leading axes [S, M], in order."""

    found: jax.Array  # bool: there is one
    evaluated: jax.Array  # int32: programs evaluated by then, it included
    score: jax.Array  # int32
    programs: jax.Array  # int32 [S, M, N]
    start: jax.Array  # bool: it was the start of a climb, not a candidate


class Point(NamedTuple):
    """A point of a learned program space; leading axes as they come. In program space a point is its program alone."""

    programs: jax.Array  # int32 [..., N]: nodes of the program that it decodes to
    latents: jax.Array  # float32 [..., D]


def programs_of(points: Any) -> jax.Array:
    """Return the programs int32 [..., N] of points: `Point`, or programs themselves."""
    return points.programs if isinstance(points, Point) else points


class Question(NamedTuple):
    """What searches want to know next: which neighbour is the first with a higher score than its program."""

    parents: jax.Array  # int32 [S, N]
    programs: jax.Array  # int32 [S, B, N]: neighbours, in the order in which they count
    changed: jax.Array  # int32 [S, B, 2]: the parent's node whose subtree was replaced, and that subtree's size
    counts: jax.Array  # int32 [S]: how many neighbours are looked at, if none of them is better; -1: nothing is wanted


class Answer(NamedTuple):
    """The answer, int32 [S]."""

    score: jax.Array  # the parent's
    first: jax.Array  # index of the first neighbour with a higher score, -1 if there is none
    better: jax.Array  # its score


class Candidates(NamedTuple):
    """What searches want to know next, the other kind: the scores of all these programs. Its answer is int32 [S, B],
    anything where a score is not wanted."""

    programs: jax.Array  # int32 [S, B, N], in the order in which they count
    wanted: jax.Array  # bool [S, B]


class Asked(NamedTuple):
    """A question, and what the search needs to see again with its answer."""

    question: Any  # Question or Candidates
    points: Any  # [S, B, ...]: where the candidates lie


class Search(NamedTuple):
    """`init -> state`, `ask(state, width) -> asked`, `tell(state, asked, answer) -> state, bests`.

    `state.evaluated` int32 [S] counts programs and `state.done` bool [S] says which searches have ended. What a search
    does depends on its key alone, not on `width` and not on the searches beside it.
    """

    init: Callable[..., Any]
    ask: Callable[[Any, int], Asked]
    tell: Callable[[Any, Asked, Any], tuple[Any, Bests]]
    join: Callable[..., Any] | None = None
    """(state, where, evaluated, best, pool) -> state, of searches that programs from elsewhere can join."""


def select(condition: jax.Array, new: Any, old: Any) -> Any:
    """Return the pytree `new` for searches where the condition, bool [S], holds, and `old` for the others."""

    def choose(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, new, old)


def started(start: Callable[..., Any], pool: Any, keys: jax.Array, climb: jax.Array) -> Any:
    """Return the points [S] that the climbs number `climb`, int32 [S], start from, of a search with or without a
    pool."""
    return start(keys, climb) if pool is None else start(pool, keys, climb)
