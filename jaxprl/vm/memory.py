"""What WHILE remembers: the states at which its test held, as an open-addressing hash table of one run.

A key is 64 bits of (WHILE node, pose, linear hash of the grid), so two different states are taken for one with a
probability of about 2^-63 per pair.

Two tables with one meaning: `Lockstep` looks at one slot a step, for runs that step together; `Direct` looks until it
finds, and begins anew for each run without being cleared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprl.worlds.task import World


def key_of(world: World, state: Any, loop: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the key, two uint32, of a state at the WHILE node number `loop`."""
    pose, rest = world.key(state)
    low, high = (0, 0) if rest is None else rest
    # Places differ in both words, since an odd factor can be undone; the words of `rest` are as good as random.
    place = (loop * world.poses + pose).astype(jnp.uint32)
    return low + place * jnp.uint32(0x27D4EB2F), high + place * jnp.uint32(0x9E3779B1)


Key = Callable[[], tuple[jax.Array, jax.Array]]


def _home(high: jax.Array, slots: int) -> jax.Array:
    """Return the first slot to look at, of a power of two."""
    return (high >> (33 - slots.bit_length())).astype(jnp.int32)


class Lockstep(NamedTuple):
    """A run whose slot is taken by another key stays where it is for a step and tries the next slot."""

    table: jax.Array  # uint32 [slots, 2]: keys, 0 where empty
    used: jax.Array  # int32: keys in it
    probe: jax.Array  # int32: slots tried so far for the key at hand

    @classmethod
    def empty(cls, slots: int) -> Lockstep:
        return cls(jnp.zeros((slots, 2), jnp.uint32), jnp.int32(0), jnp.int32(0))

    @property
    def is_full(self) -> jax.Array:
        """Whether it is three quarters full: its run waits until it is enlarged."""
        return self.used >= self.table.shape[-2] * 3 // 4

    @property
    def stalled(self) -> jax.Array:
        """Whether the run waits for its slot."""
        return self.probe > 0

    def remember(self, key: Key, wanted: jax.Array) -> tuple[jax.Array, Lockstep]:
        """Return whether the key is known, if that is wanted, and the memory with it."""
        low, high = key()
        wish = jnp.stack([low | 1, high])
        slots = self.table.shape[0]
        slot = (_home(wish[1], slots) + self.probe) & (slots - 1)
        found = self.table.at[slot].get(mode="promise_in_bounds")
        empty, same = found[0] == 0, jnp.all(found == wish)
        table = self.table.at[slot].set(jnp.where(wanted & empty, wish, found), mode="promise_in_bounds")
        taken = wanted & ~empty & ~same
        used = self.used + jnp.where(wanted & empty, 1, 0)
        return wanted & same, Lockstep(table, used, jnp.where(taken, self.probe + 1, 0))

    def enlarged(self, slots: int) -> Lockstep:
        """Return the memory with more slots, its keys put in anew."""

        def put(table, key):
            def occupied(slot):
                return (key[0] != 0) & (table[slot, 0] != 0)

            slot = jax.lax.while_loop(occupied, lambda slot: (slot + 1) & (slots - 1), _home(key[1], slots))
            return jnp.where(key[0] != 0, table.at[slot].set(key), table), None

        table, _ = jax.lax.scan(put, jnp.zeros((slots, 2), jnp.uint32), self.table)
        # A run in the middle of a search for a slot begins again at its first one, which is `slots` slots further.
        return Lockstep(table, self.used, jnp.where(self.probe > 0, slots, 0))


class Direct(NamedTuple):
    """Slots of earlier runs count as empty: each holds the number of the run that it belongs to."""

    table: jax.Array  # uint32 [4 * slots]: of each slot the key, two words, the number of the run, and a spare word
    used: jax.Array  # int32: keys of this run
    number: jax.Array  # uint32: of this run; never 0

    @classmethod
    def empty(cls, slots: int) -> Direct:
        return cls(jnp.zeros(4 * slots, jnp.uint32), jnp.int32(0), jnp.uint32(0))

    def next_run(self) -> Direct:
        """Return the memory at the start of another run."""
        return Direct(self.table, jnp.int32(0), self.number + 1)

    @property
    def is_full(self) -> jax.Array:
        """Whether it is three quarters full: its run has to begin again with a larger one."""
        return self.used >= self.table.shape[0] // 4 * 3 // 4

    @property
    def stalled(self) -> jax.Array:
        """Never."""
        return jnp.bool_(False)

    def remember(self, key: Key, wanted: jax.Array) -> tuple[jax.Array, Direct]:
        """Return whether the key is known, if that is wanted, and the memory with it."""
        slots = self.table.shape[0] // 4

        def look(table):
            wish = *key(), self.number

            def at(place):
                return tuple(_at(table, place + word) for word in range(3))

            def other(carry):
                _, found = carry
                return (found[2] == self.number) & ~((found[0] == wish[0]) & (found[1] == wish[1]))

            def following(carry):
                place = (carry[0] + 4) & (4 * slots - 1)
                return place, at(place)

            home = 4 * _home(wish[1], slots)
            place, found = jax.lax.while_loop(other, following, (home, at(home)))
            for word, value in enumerate(wish):
                table = jax.lax.dynamic_update_index_in_dim(table, value, place + word, 0, allow_negative_indices=False)
            return found[2] == self.number, table

        known, table = jax.lax.cond(wanted, look, lambda table: (jnp.bool_(False), table), self.table)
        return known, Direct(table, self.used + jnp.where(wanted & ~known, 1, 0), self.number)


def _at(table: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(table, index, keepdims=False, allow_negative_indices=False)
