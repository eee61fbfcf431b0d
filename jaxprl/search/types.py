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
that is not evaluated, below every other one. As a score to beat it asks for the exact score (`vm.evaluate.ANY`)."""


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
    """The programs that searches want evaluated next, in the order in which they count."""

    programs: jax.Array  # int32 [S, B, N]
    wanted: jax.Array  # int32 [S]: how many of them the search looks at, if none of them is better
    beat: jax.Array  # int32 [S]: only a higher score matters, and only the first one (`vm.evaluate.Contest`)


class Search(NamedTuple):
    """`init -> state`, `ask(state, width) -> question`, `tell(state, question, scores) -> state, bests`.

    `state.evaluated` int32 [S] counts programs and `state.done` bool [S] says which searches have ended; scores are
    int32 [S, B]. What a search does depends on its key alone, not on `width` and not on the searches beside it.
    """

    init: Callable[..., Any]
    ask: Callable[[Any, int], Question]
    tell: Callable[[Any, Question, jax.Array], tuple[Any, Bests]]
