"""A learned program space: where searches in it start, and which points are neighbours (Trivedi et al. 2021, LEAPS;
Carvalho et al. 2024).

A latent may decode to nothing. So a start is the first of a sequence of draws from N(0, I) that decodes to a program,
and a neighbour of z is the first of up to 50 draws of z + sigma N(0, I) that does; if none does, the neighbour is z
itself, while the published code gives up. Every draw has its own key, so a point does not depend on those that are
decoded beside it, provided that `decode` does not either.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.search.names import STARTS
from jaxprl.search.protocol import Point, select
from jaxprl.xla import guarded, jit

Latents = np.ndarray | jax.Array
Decode = Callable[[Latents], tuple[jax.Array, jax.Array]]
"""Latents float32 [M, D] -> the nodes of their programs int32 [M, N], and which of them decode to a program, bool [M].
What a latent decodes to must not depend on those beside it."""

TRIES = 50
"""Draws of a neighbour before the centre is taken."""
SMALLEST = 32
"""Least number of points to draw together, so that few sizes are compiled."""


@guarded
def random_starts(decode: Decode, size: int, keys: jax.Array, run: jax.Array) -> Point:
    """Draw the random points [S] that runs start from.

    It draws until every point decodes, so the space must be one where that happens.

    Args:
      decode: decodes latents of the space.
      size: its dimensions D.
      keys: keys of the searches, typed [S].
      run: number of each search's run, int32 [S], counted from 0.
    """
    point, valid, tries = None, np.zeros(len(run), bool), 0
    while not valid.all():
        latents = _random(keys, run, jnp.int32(tries), size=size)
        programs, found = decode(latents)
        fresh = Point(programs, latents)
        point = fresh if point is None else select(jnp.asarray(valid), point, fresh)
        valid, tries = valid | np.asarray(found), tries + 1
    assert point is not None
    return point


@guarded
def neighbours(
    decode: Decode, sigma: float, points: Point, keys: jax.Array, counts: jax.Array
) -> tuple[Point, jax.Array]:
    """Draw neighbours of points, in the form that `hill_climbing` asks for.

    Args:
      decode: decodes latents of the space.
      sigma: standard deviation of the neighbours around their point.
      points: the points [S].
      keys: keys of the neighbours, typed [S, B].
      counts: int32 [S]; only the first `counts` neighbours of a search are drawn, the others equal the point.

    Returns:
      The neighbours [S, B], and what is new in their programs, int32 [S, B, 2]: everything.
    """
    around = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], (*keys.shape, leaf.shape[-1])), points)
    wanted = np.arange(keys.shape[1]) < np.asarray(counts)[:, None]
    near = perturbed(decode, sigma, around.latents, around, keys=keys, wanted=wanted)
    whole = jnp.array([0, points.programs.shape[-1]], jnp.int32)  # the root and its subtree, with room to spare
    return near, jnp.broadcast_to(whole, (*keys.shape, 2))


@guarded
def perturbed(
    decode: Decode, sigma: float, centres: jax.Array, instead: Point, *, keys: jax.Array, wanted: np.ndarray
) -> Point:
    """Draw a point around each centre.

    Args:
      decode: decodes latents of the space.
      sigma: standard deviation around the centre.
      centres: float32 [S, B, D].
      instead: points [S, B] that stand in for those that cannot be drawn.
      keys: keys of the points, typed [S, B].
      wanted: bool [S, B], the points to draw.

    Returns:
      The points [S, B]. Where 50 draws decode to nothing, the point is the centre itself; if that decodes to nothing
      either, which can happen to a mean, or if the point is not wanted, it is that of `instead`.
    """
    flat = keys.reshape(-1), centres.reshape(keys.size, -1)
    found = jax.tree.map(lambda leaf: np.array(leaf).reshape(keys.size, -1), instead)
    rows = np.flatnonzero(wanted)
    for tries in range(TRIES + 1):
        if not len(rows):
            break
        padded = np.resize(rows, max(SMALLEST, 1 << (len(rows) - 1).bit_length()))
        drawn = np.asarray(_around(*flat, jnp.asarray(padded), jnp.int32(tries), sigma))[: len(rows)]
        programs, valid = (np.asarray(leaf) for leaf in decode(drawn))
        found.programs[rows[valid]], found.latents[rows[valid]] = programs[valid], drawn[valid]
        rows = rows[~valid]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(*keys.shape, -1)), found)


@jit(static_argnames="size")
def _random(keys: jax.Array, run: jax.Array, tries: jax.Array, *, size: int) -> jax.Array:
    """Return draw number `tries` of the start of each search's run, float32 [S, size]."""
    fold = jax.random.fold_in
    return jax.vmap(lambda key, run: _noise(fold(fold(key, STARTS), run), tries, size))(keys, run)


@jit()
def _around(keys: jax.Array, centres: jax.Array, rows: jax.Array, tries: jax.Array, sigma: float) -> jax.Array:
    """Return draw number `tries` around the centres `rows`, int32 [M], of float32 [P, D]; after the last draw, the
    centre itself."""
    noise = jax.vmap(lambda key: _noise(key, tries, centres.shape[1]))(keys[rows])
    return centres[rows] + jnp.where(tries < TRIES, sigma, 0.0) * noise


def _noise(key: jax.Array, tries: jax.Array, size: int) -> jax.Array:
    """Return draw number `tries` from N(0, I), float32 [size]."""
    return jax.random.normal(jax.random.fold_in(key, tries), (size,), jnp.float32)
