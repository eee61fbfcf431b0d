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
    """Programs that were the best of their search when they were evaluated; leading axes [S, 2], in order."""

    found: jax.Array  # bool: there is one
    evaluated: jax.Array  # int32: programs evaluated by then, it included
    score: jax.Array  # int32
    programs: jax.Array  # int32 [S, 2, N]
    start: jax.Array  # bool: it was the start of a climb, not a candidate


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


class Search(NamedTuple):
    """`init -> state`, `ask(state, width) -> question`, `tell(state, question, answer) -> state, bests`.

    `state.evaluated` int32 [S] counts programs and `state.done` bool [S] says which searches have ended. What a search
    does depends on its key alone, not on `width` and not on the searches beside it.
    """

    init: Callable[..., Any]
    ask: Callable[[Any, int], Question]
    tell: Callable[[Any, Question, Answer], tuple[Any, Bests]]
    join: Callable[..., Any] | None = None
    """(state, where, evaluated, best, pool) -> state, of searches that programs from elsewhere can join."""
