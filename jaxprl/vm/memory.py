"""Memories of WHILE: the states in which its test held, as the hash table of one run.

A key is 64 bits made of the WHILE node, the pose and a linear hash of the rest of the state. Two different states have
the same key with a probability of about 2^-63. Tables use open addressing: a key whose slot is taken goes to the next
free slot.

The two tables have one meaning. `Lockstep` looks at one slot a step, for runs that step together; `Direct` looks until
it finds a slot, and is empty for the next run without being cleared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp

from jaxprl.types import PyTree
from jaxprl.worlds.task import World

KEY_WORDS = 2
"""Words of a key, uint32."""


def key_of(world: World, state: PyTree, loop: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the key, two uint32, of a state at the WHILE node number `loop`, int32."""
    pose, rest = world.key(state)
    low, high = (0, 0) if rest is None else rest
    # Node and pose make one number. An odd factor can be undone modulo 2^32, so with the same rest different numbers
    # give different words. The words of different rests are as good as random.
    place = (loop * world.poses + pose).astype(jnp.uint32)
    return low + place * jnp.uint32(0x27D4EB2F), high + place * jnp.uint32(0x9E3779B1)


Key = Callable[[], tuple[jax.Array, jax.Array]]
"""Computes a key when it is called, so that it need not be computed where nothing is remembered."""


class Memory(Protocol):
    """What the interpreter asks of a memory."""

    @property
    def is_full(self) -> jax.Array:
        """Whether the run needs a larger memory to go on, bool."""
        ...

    @property
    def stalled(self) -> jax.Array:
        """Whether the run has to do its test again before it can go on, bool."""
        ...

    def remember(self, key: Key, wanted: jax.Array) -> tuple[jax.Array, Self]:
        """Look a key up and add it.

        Args:
          key: computes the key.
          wanted: whether to do anything, bool.

        Returns:
          Whether the key was there already, bool, and the memory with it. Where nothing is wanted: False and the same
          memory.
        """
        ...


def _home(high: jax.Array, slots: int) -> jax.Array:
    """Return the first slot to look at: the topmost bits of a word, as many as number `slots`, a power of two."""
    return (high >> (33 - slots.bit_length())).astype(jnp.int32)


class Lockstep(NamedTuple):
    """A memory that does one look-up a step; a run whose slot has another key stalls and tries the next slot.

    For example, a key whose home is slot 6 of 8 finds other keys in 6 and 7 and an empty slot 0: its run does the same
    test in three steps, with `probe` 0, 1 and 2, and goes on after the third.
    """

    table: jax.Array  # uint32 [slots, KEY_WORDS]: keys; the first word is odd, and 0 where a slot is empty
    used: jax.Array  # int32: keys in the table
    probe: jax.Array  # int32: slots tried so far for the present key

    @classmethod
    def empty(cls, slots: int) -> Lockstep:
        """Return an empty memory with `slots` slots, a power of two."""
        return cls(jnp.zeros((slots, KEY_WORDS), jnp.uint32), jnp.int32(0), jnp.int32(0))

    @property
    def is_full(self) -> jax.Array:
        """Whether three quarters of the slots are used. The run waits until the memory is enlarged."""
        return self.used >= self.table.shape[-2] * 3 // 4

    @property
    def stalled(self) -> jax.Array:
        """Whether the present key has not found its slot yet."""
        return self.probe > 0

    def remember(self, key: Key, wanted: jax.Array) -> tuple[jax.Array, Lockstep]:
        """Look a key up and add it, or try one slot of it (`Memory.remember`)."""
        low, high = key()
        words = jnp.stack([low | 1, high])
        slots = self.table.shape[0]
        slot = (_home(words[1], slots) + self.probe) & (slots - 1)
        found = self.table.at[slot].get(mode="promise_in_bounds")
        empty, same = found[0] == 0, jnp.all(found == words)
        table = self.table.at[slot].set(jnp.where(wanted & empty, words, found), mode="promise_in_bounds")
        taken = wanted & ~empty & ~same
        used = self.used + jnp.where(wanted & empty, 1, 0)
        return wanted & same, Lockstep(table, used, jnp.where(taken, self.probe + 1, 0))

    def enlarged(self, slots: int) -> Lockstep:
        """Return the memory with `slots` slots, a larger power of two."""

        def put(table, key):
            def occupied(slot):
                return (key[0] != 0) & (table[slot, 0] != 0)

            slot = jax.lax.while_loop(occupied, lambda slot: (slot + 1) & (slots - 1), _home(key[1], slots))
            return jnp.where(key[0] != 0, table.at[slot].set(key), table), None

        table, _ = jax.lax.scan(put, jnp.zeros((slots, KEY_WORDS), jnp.uint32), self.table)
        # Keys have moved, so a stalled run begins again at the home of its key. It stays stalled, as its perception is
        # counted already, and a probe of `slots` leads to the same slot as 0.
        return Lockstep(table, self.used, jnp.where(self.probe > 0, slots, 0))


SLOT_WORDS = 4
"""Words of a slot of `Direct`: a power of two, so the last one is spare."""


class Direct(NamedTuple):
    """A memory that finds the slot of a key at once, and is used for one run after the other.

    Each slot holds the number of the run that it belongs to. Slots of earlier runs count as empty, so no run pays for
    clearing the table. For example, run 7 looks a key up. If its home slot says (another key, 7), it goes to the next
    slot. If that says (any key, 5), the key is new, and the slot becomes (key, 7).
    """

    table: jax.Array  # uint32 [SLOT_WORDS * slots]: each slot has a key, the number of its run, and a spare word
    used: jax.Array  # int32: keys of the present run
    number: jax.Array  # uint32: the present run; never 0

    @classmethod
    def empty(cls, slots: int) -> Direct:
        """Return an empty memory with `slots` slots, a power of two. The first run begins with `next_run`."""
        return cls(jnp.zeros(SLOT_WORDS * slots, jnp.uint32), jnp.int32(0), jnp.uint32(0))

    def next_run(self) -> Direct:
        """Return the memory at the start of another run."""
        return Direct(self.table, jnp.int32(0), self.number + 1)

    @property
    def is_full(self) -> jax.Array:
        """Whether three quarters of the slots are used. The run has to begin again with a larger memory."""
        return self.used >= self.table.shape[0] // SLOT_WORDS * 3 // 4

    @property
    def stalled(self) -> jax.Array:
        """False: every look-up is done at once."""
        return jnp.bool_(False)

    def remember(self, key: Key, wanted: jax.Array) -> tuple[jax.Array, Direct]:
        """Look a key up and add it (`Memory.remember`)."""
        slots = self.table.shape[0] // SLOT_WORDS

        def look(table: jax.Array) -> tuple[jax.Array, jax.Array]:
            words = *key(), self.number

            def at(place):
                return tuple(_at(table, place + word) for word in range(len(words)))

            def other(carry):  # the slot is taken by another key of this run
                _, found = carry
                return (found[2] == self.number) & ~((found[0] == words[0]) & (found[1] == words[1]))

            def following(carry):
                place = (carry[0] + SLOT_WORDS) & (SLOT_WORDS * slots - 1)
                return place, at(place)

            home = SLOT_WORDS * _home(words[1], slots)
            place, found = jax.lax.while_loop(other, following, (home, at(home)))
            # A key that is known is written again: so there is no branch, and XLA need not copy the table.
            for word, value in enumerate(words):
                table = jax.lax.dynamic_update_index_in_dim(table, value, place + word, 0, allow_negative_indices=False)
            return found[2] == self.number, table

        known, table = jax.lax.cond(wanted, look, lambda table: (jnp.bool_(False), table), self.table)
        return known, Direct(table, self.used + jnp.where(wanted & ~known, 1, 0), self.number)


def _at(table: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(table, index, keepdims=False, allow_negative_indices=False)
