"""Points of a learned program space: where searches in it start, and what lies near (Trivedi et al. 2021, LEAPS;
Carvalho et al. 2024).

A latent may decode to nothing. So a start is the first of a sequence of draws from N(0, I) that decodes, and a
neighbour of z the first of up to 50 of z + sigma N(0, I); after that it is z itself (the published code gives up).
Every draw has its own key, so a point is the same whatever is decoded beside it, if that is true of `decode`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.search.types import Point, select

Decode = Callable[[Any], tuple[jax.Array, jax.Array]]
"""Latents float32 [M, D] -> nodes of programs int32 [M, N], and which are valid, bool [M]. What a latent decodes to
does not depend on those beside it."""

TRIES = 50
"""Draws of a neighbour."""
SMALLEST = 32
"""Points that are drawn together, at least: few sizes are compiled."""
_STARTS = 2**31 + 1
"""Name of the start points in `fold_in`; candidates have the names 0, 1, 2, .."""


def random_starts(decode: Decode, size: int, keys: jax.Array, run: jax.Array) -> Point:
    """Return the random points [S] that the runs number `run`, int32 [S], start from.

    It draws until every one decodes: use it with a space where that happens.

    Args:
      decode, size: the space and its dimensions.
      keys: of the searches, typed [S].
      run: counted from 0.
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


def neighbours(
    decode: Decode, sigma: float, points: Point, keys: jax.Array, counts: jax.Array
) -> tuple[Point, jax.Array]:
    """Return points [S, B] near points [S], of which the first `counts`, int32 [S], are wanted, and what is new in
    their programs, int32 [S, B, 2]: everything.

    `keys`: typed [S, B]. This is what `hill_climbing` needs.
    """
    around = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], (*keys.shape, leaf.shape[-1])), points)
    wanted = np.arange(keys.shape[1]) < np.asarray(counts)[:, None]
    near = perturbed(decode, sigma, around.latents, around, keys=keys, wanted=wanted)
    whole = jnp.array([0, points.programs.shape[-1]], jnp.int32)  # the root and its subtree, with room to spare
    return near, jnp.broadcast_to(whole, (*keys.shape, 2))


def perturbed(
    decode: Decode, sigma: float, centres: jax.Array, instead: Point, *, keys: jax.Array, wanted: np.ndarray
) -> Point:
    """Return points [S, B] near the centres float32 [S, B, D], with keys typed [S, B].

    Where 50 draws decode to nothing the point is the centre itself, and if that decodes to nothing either, which can
    happen to a mean, `instead`, points [S, B]. So it is where no point is `wanted`, bool [S, B].
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


@functools.partial(jax.jit, static_argnames="size")
def _random(keys: jax.Array, run: jax.Array, tries: jax.Array, *, size: int) -> jax.Array:
    """Return draw number `tries` of the starts of runs, float32 [S, size]."""
    fold = jax.random.fold_in
    return jax.vmap(lambda key, run: _noise(fold(fold(key, _STARTS), run), tries, size))(keys, run)


@jax.jit
def _around(keys: jax.Array, centres: jax.Array, rows: jax.Array, tries: jax.Array, sigma: float) -> jax.Array:
    """Return draw number `tries` around the centres float32 [P, D] of `rows`, int32 [M]; after the last draw, the
    centre."""
    noise = jax.vmap(lambda key: _noise(key, tries, centres.shape[1]))(keys[rows])
    return centres[rows] + jnp.where(tries < TRIES, sigma, 0.0) * noise


def _noise(key: jax.Array, tries: jax.Array, size: int) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(key, tries), (size,), jnp.float32)
