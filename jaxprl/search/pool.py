"""Pools of start programs: searches that are given programs climb from the best, the second best, and so on.

LLM-GS climbs from the language model's programs in this way (Liu et al. 2025, section on scheduled hill climbing). Axis
letters as in `protocol.py`; K programs of a pool.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.search.protocol import UNKNOWN, Points
from jaxprl.xla import guarded


class Starts(NamedTuple):
    """The programs that S searches were given, evaluated and sorted, before the first climb."""

    programs: Points  # int32 [S, K, N] or Point [S, K]: best first, equally good ones in the order of evaluation
    counts: np.ndarray  # int32 [S]: programs of each search, the rest is padding
    evaluated: np.ndarray  # int32 [S]: programs that count as evaluated
    best: np.ndarray  # int32 [S]: the highest score among those


class Pool(NamedTuple):
    """The start programs of S searches, part of their state. Programs can join while the searches go on."""

    programs: Points  # int32 [S, K, N] or Point [S, K]
    counts: jax.Array  # int32 [S]: programs of each search
    shift: jax.Array  # int32 [S]: climb number c starts from program number (c + shift) mod count

    @classmethod
    def of(cls, starts: Starts) -> Pool:
        """Return the pool of programs that were evaluated before the first climb."""
        counts = jnp.asarray(np.maximum(starts.counts, 1), jnp.int32)  # a search without a program never climbs
        return cls(jax.tree.map(jnp.asarray, starts.programs), counts, jnp.zeros_like(counts))


TEMPLATE = Pool("programs", "counts", "shift")  # type: ignore[arg-type]
"""The structure of a pool of programs, for `Search.template`."""


def stacked(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack the programs of several searches, padded with zeros.

    Args:
      rows: for each of S searches an array [K_s, N_s], of programs or of latents.

    Returns:
      The array [S, K, N] and the numbers K_s, int32 [S]. K is at least 1.
    """
    counts = np.array([len(nodes) for nodes in rows], np.int32)
    shape = len(rows), max(1, counts.max()), max(nodes.shape[1] for nodes in rows)
    programs = np.zeros(shape, rows[0].dtype)
    for row, nodes in zip(programs, rows, strict=True):
        row[: len(nodes), : nodes.shape[1]] = nodes
    return programs, counts


def best_first(programs: Points, counts: np.ndarray, scores: np.ndarray, budget: int | np.ndarray, goal: int) -> Starts:
    """Sort start programs by their scores.

    All programs count as evaluated, up to the budget or up to the first that reaches the goal.

    Args:
      programs: int32 [S, K, N] or Point [S, K], in the order of evaluation.
      counts: int32 [S], programs of each search.
      scores: int32 [S, K].
      budget: programs that a search may evaluate, one number or int32 [S].
      goal: score of return 1.
    """
    within = np.minimum(counts, budget)
    solves = (scores >= goal) & (np.arange(scores.shape[1]) < within[:, None])
    evaluated = np.where(solves.any(axis=1), solves.argmax(axis=1) + 1, within).astype(np.int32)
    seen = np.arange(scores.shape[1]) < evaluated[:, None]
    best = np.where(seen, scores, UNKNOWN).max(axis=1).astype(np.int32)
    used = np.arange(scores.shape[1]) < counts[:, None]
    order = np.argsort(-np.where(used, scores.astype(np.int64), UNKNOWN), axis=1, kind="stable")
    ordered = jax.tree.map(lambda leaf: np.take_along_axis(leaf, order[:, :, None], axis=1), programs)
    return Starts(ordered, counts, evaluated, best)


@guarded
def pooled_starts(pool: Pool, keys: jax.Array, climb: jax.Array) -> Points:
    """Return each search's start program for its climb, int32 [S]: the first, the second, ..., then the first again."""
    del keys
    turn = (climb + pool.shift) % pool.counts
    return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, turn[:, None, None], axis=1)[:, 0], pool.programs)


@guarded
def joined(pool: Pool, climb: np.ndarray, fresh: Starts) -> Pool:
    """Insert programs into a pool so that the next climbs start from them.

    A pool a b c whose next climb would start from b becomes, with fresh programs x y, the pool a x y b c, and the next
    climbs start from x, y, b, c, a, x, ...

    Args:
      pool: the pool of S searches.
      climb: int32 [S], the number of the climb that is about to start.
      fresh: programs for each search, possibly none; a search without fresh programs is left alone.
    """
    counts, added = np.asarray(pool.counts), fresh.counts
    turn = (climb + np.asarray(pool.shift)) % counts
    rows = [
        np.concatenate([old[:place], new[:more], old[place:count]])
        for old, new, place, count, more in zip(
            *_as_wide(np.asarray(pool.programs), fresh.programs), turn, counts, added, strict=True
        )
    ]
    programs, total = stacked(rows)
    room = (1 << (programs.shape[1] - 1).bit_length()) - programs.shape[1]  # powers of two: few sizes are compiled
    programs = np.pad(programs, ((0, 0), (0, room), (0, 0)))
    shift = np.where(added > 0, turn - climb, np.asarray(pool.shift)).astype(np.int32)
    return Pool(jnp.asarray(programs), jnp.asarray(total), jnp.asarray(shift))


def _as_wide(*arrays: np.ndarray) -> list[np.ndarray]:
    """Pad arrays of nodes [..., N] with zeros to the same N."""
    widest = max(array.shape[-1] for array in arrays)
    return [np.pad(array, [*[(0, 0)] * (array.ndim - 1), (0, widest - array.shape[-1])]) for array in arrays]
