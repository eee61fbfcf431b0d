"""Which runs `first_better` needs, as array code: the rules of the engines that do one run after the other.

No decision of a search changes:

- Neighbours behind the first better one are not run, nor is a neighbour that equals its parent or an earlier neighbour.
- On a layout where the parent's run never comes to the changed subtree, the neighbour's run is the same.
- A return is at most 1. A neighbour is given up as soon as returns of 1 on the layouts that remain would not be enough
  for it to be better than its parent. Layouts on which the parent itself falls short of 1 come first, since there it
  has to gain.

For example, a parent has returns 1, 0.5 and 0 on three layouts, and its run comes to the changed subtree on the first
two. The neighbour's return on the third layout is 0, too, so its sum is at most 1 + 1 + 0 = 2, against 1.5. It is run
on the second layout first. If it gets 0.5 there, its sum is at most 1.5: it is not better, and the first layout is
not run.

Numbers of layouts and neighbours are arguments, so that one text of the rules serves any number (`kernel/worker.py`).

Axis letters: E layouts, B neighbours of a search, N nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprl.dsl.encode import take
from jaxprl.vm.compile import TRACED
from jaxprl.worlds import ops


class Scoring(NamedTuple):
    """How the score of a program is made from its runs (`outcomes.Scale`)."""

    weights: jax.Array  # int32 [E]: score of one unit on each layout
    most: jax.Array  # int32: score of a return of 1 on one layout
    episodes: jax.Array  # int32: how many of the layouts count


class Traces(NamedTuple):
    """The runs of a program whose neighbours are tried."""

    units: jax.Array  # int32 [E]: their returns
    touched: jax.Array  # uint32 [E, TRACED / 32]: the nodes that each run came to, as bits


def highest_score(traces: Traces, changed: jax.Array, scoring: Scoring) -> jax.Array:
    """Return the score, int32, of a neighbour that has a return of 1 in all runs that can differ from its parent's.

    Args:
      traces: the parent's runs.
      changed: the parent's node whose subtree was replaced, and the size of that subtree, int32 [2].
      scoring: how scores are made.
    """

    def add(layout: jax.Array, score: jax.Array) -> jax.Array:
        same = take(traces.units, layout) * take(scoring.weights, layout)
        return score + jnp.where(_differs(traces, changed, layout), scoring.most, same)

    return jax.lax.fori_loop(0, scoring.episodes, add, jnp.int32(0))


def next_place(traces: Traces, changed: jax.Array, scoring: Scoring, place: jax.Array) -> jax.Array:
    """Return the first place from `place` on at which a neighbour has to be run, int32; 2 E for none.

    The layouts are gone through twice: first those on which the parent falls short of a return of 1, then the others.
    So places 0 to E - 1 are layouts of the first kind, and places E to 2 E - 1 those of the second kind.

    Args:
      traces: the parent's runs.
      changed: as in `highest_score`.
      scoring: how scores are made.
      place: int32.
    """
    episodes = scoring.episodes

    def is_passed(place: jax.Array) -> jax.Array:
        layout = layout_at(place, scoring)
        falls_short = take(traces.units, layout) * take(scoring.weights, layout) < scoring.most
        wanted = _differs(traces, changed, layout) & (falls_short == (place < episodes))
        return (place < 2 * episodes) & ~wanted

    return jax.lax.while_loop(is_passed, lambda place: place + 1, place)


def layout_at(place: jax.Array, scoring: Scoring) -> jax.Array:
    """Return the layout of a place, int32; for 2 E, any layout."""
    last = 2 * scoring.episodes - 1
    place = jnp.minimum(place, last)
    return jnp.where(place < scoring.episodes, place, place - scoring.episodes)


def _differs(traces: Traces, changed: jax.Array, layout: jax.Array) -> jax.Array:
    """Return whether a neighbour's run on a layout can differ from its parent's, bool."""
    return differs(take(traces.touched, layout), changed)


def differs(touched: jax.Array, changed: jax.Array) -> jax.Array:
    """Return whether a neighbour's run can differ from its parent's, bool.

    Args:
      touched: the nodes that the parent's run came to, as bits, uint32 [TRACED / 32].
      changed: as in `highest_score`.
    """
    node, size = changed[0], changed[1]
    inside = [touched[word] & _node_range(node - 32 * word, size) for word in range(TRACED // 32)]
    return ((inside[0] | inside[1]) != 0) | (node + size > TRACED)


def _node_range(first: jax.Array, count: jax.Array) -> jax.Array:
    """Return those of the nodes first .. first + count - 1 that are 0 .. 31, as bits of a uint32."""

    def below(end: jax.Array) -> jax.Array:
        # A shift by 32 gives 0, so that this has all bits for 32.
        return jax.lax.shift_left(jnp.uint32(1), jnp.clip(end, 0, 32).astype(jnp.uint32)) - 1

    return below(first + count) & ~below(first)


def mark(nodes: jax.Array) -> jax.Array:
    """Return a hash of a program's nodes int32 [N], uint32."""
    salts = ops.mixed(jnp.arange(nodes.shape[0], dtype=jnp.int32), 0x9E3779B1)
    return jnp.sum(salts * nodes.astype(jnp.uint32), dtype=jnp.uint32)


def is_known(
    parent: jax.Array, programs: jax.Array, marks: jax.Array, margins: jax.Array | None, index: jax.Array
) -> jax.Array:
    """Return whether a neighbour equals its parent, or an earlier one that was not taken, bool. Nor will it be taken.

    Only the first earlier neighbour with the same hash is compared. If two different ones share it, an equal third one
    is run again, which costs time and changes nothing. A larger margin than the earlier one has is a reason to run it
    again, too.

    Args:
      parent: int32 [N].
      programs: the neighbours, int32 [B, N].
      marks: their hashes (`mark`), uint32 [B].
      margins: how far below the parent's score each may be, int32 [B]; None for not at all.
      index: which of them, int32.
    """
    own, nodes = take(marks, index), take(programs, index)
    first = jax.lax.while_loop(lambda place: take(marks, place) != own, lambda place: place + 1, jnp.int32(0))
    again = (first < index) & jnp.all(take(programs, first) == nodes)
    if margins is not None:
        again &= take(margins, index) <= take(margins, first)
    return again | jnp.all(nodes == parent)
