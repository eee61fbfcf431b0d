"""A chain: one program, one neighbour at a time, moving whenever the return is not lower, and never starting again.

It differs from hill climbing in that ties are accepted, so that it drifts along plateaus, and in that programs have a
limited size instead of restarts. Carvalho et al. (2024) publish results of such a search with their code (class
`StochasticHillClimbing`), though not in the paper. The size is theirs: the number of statements, conditions and counts
of a program. Their neighbours are those of the neighbourhood `small` (`methods/neighbourhoods.py`), without the limits
of the language, which hold in other neighbourhoods. Deviation: the first program has a limited size too.

The n-th program of a search is drawn with the key `fold_in(search key, n)`. A program that is too large is drawn again
from that key and does not count as evaluated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode
from jaxprl.search.hill_climbing import Neighbours, Start, State, hill_climbing
from jaxprl.search.names import REDRAWN
from jaxprl.search.protocol import Search
from jaxprl.search.schedule import Constant
from jaxprl.types import PyTree
from jaxprl.xla import jit

AHEAD = 16
"""Neighbours drawn at a time. It is small, since a chain moves often and a move discards what was drawn ahead."""


def chain(
    *, neighbours: Neighbours, start: Start, max_nodes: int, budget: int, goal: int, parts: PyTree = None
) -> Search:
    """Return the search.

    Args:
      neighbours, start, parts: as `hill_climbing` takes them.
      max_nodes: size that a program may have (`sizes`).
      budget: programs that a search may evaluate.
      goal: score of return 1.
    """
    return hill_climbing(
        neighbours=functools.partial(limited_neighbours, neighbours, max_nodes),
        start=functools.partial(limited_starts, start, max_nodes),
        parts=parts,
        schedule=Constant(budget + 1),  # more neighbours than there can be: it never starts again
        budget=budget,
        goal=goal,
        margins=ties,
        ahead=AHEAD,
    )


def sizes(programs: jax.Array) -> jax.Array:
    """Return the sizes int32 [...] of programs, nodes int32 [..., N].

    The size is the number of nodes apart from Program and Concat: 4 for `WHILE c( frontIsClear c) w( move move w)`.
    """
    kinds = encode.kinds(programs)
    counted = (kinds != encode.PAD) & (kinds != encode.PROGRAM) & (kinds != encode.CONCAT)
    return jnp.sum(counted, axis=-1, dtype=jnp.int32)


def ties(state: State, keys: jax.Array) -> np.ndarray:
    """Return margins that accept a tie, int32 [S, B]."""
    return np.ones(keys.shape, np.int32)


def limited_neighbours(neighbours: Neighbours, max_nodes: int, *arguments: PyTree) -> tuple[jax.Array, jax.Array]:
    """Return neighbours no larger than `max_nodes`; `arguments` and result are those of `neighbours`."""
    *before, keys, counts = arguments
    drawn, changed = _drawn_limited(lambda keys: neighbours(*before, keys, counts), max_nodes, keys)
    return drawn, changed


def limited_starts(start: Start, max_nodes: int, keys: jax.Array, climb: jax.Array) -> jax.Array:
    """Return programs int32 [S, N] no larger than `max_nodes`, drawn by `start`."""
    # A Concat is never followed by another one. So a program that is cut at this width is still known to be too large.
    width = max(encode.WIDTH, 1 << (2 * max_nodes + 2).bit_length())
    return _drawn_limited(lambda keys: (start(keys, climb),), max_nodes, keys)[0][:, :width]


Drawn = tuple[jax.Array, ...]
"""Programs int32 [..., N], and what belongs to them, with the same leading axes."""


def _drawn_limited(draw: Callable[[jax.Array], Drawn], max_nodes: int, keys: jax.Array) -> Drawn:
    """Draw programs, and those that are too large again, until none is.

    A program depends on its own key alone, so it is the same whatever is drawn beside it.
    """
    found = draw(keys)
    tries = 0
    while (large := np.asarray(sizes(found[0]) > max_nodes)).any():
        tries += 1
        again = draw(_again(keys, jnp.int32(tries)))
        found = tuple(_chosen(jnp.asarray(large), new, old) for new, old in zip(again, found, strict=True))
    return found


@jit()
def _again(keys: jax.Array, tries: jax.Array) -> jax.Array:
    """Return keys, typed [...], for drawing again for the time number `tries`."""

    def fold(key: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, REDRAWN), tries)

    return jax.vmap(fold)(keys.reshape(-1)).reshape(keys.shape)


@jit()
def _chosen(condition: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Return `new` where the condition holds, else `old`; the condition has their leading axes."""
    return jnp.where(condition[..., None], new, old)
