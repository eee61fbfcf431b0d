"""Instructions of the batched interpreter: the one place that says what their bits mean.

An instruction does a chain of up to six actions, if it has one, and then a test, which chooses the next instruction. It
is stored as three words, uint32:

    word      bits    field
    test      0-3     free, for whoever needs them
              4-5     kind             of the test: NEVER, PERCEIVE, REPEATS or ALWAYS
              6-10    perception       PERCEIVE: its code
              11      negate           PERCEIVE: the test holds if the perception does not
              12      record           PERCEIVE, ALWAYS: if the test holds, a WHILE compares and remembers the state
              13-21   loop             PERCEIVE, ALWAYS: the node of that WHILE
              6-19    repeat_count     REPEATS: the test holds as long as the counter is below it
              20-24   counter_shift    REPEATS: first bit of the counter within its word
              25-31   counter_word     REPEATS: which of the run's counter words the counter is in
    targets   0-9     holds            address of the next instruction if the test holds
              10-19   fails            and if it does not; HALT is the end of the program
    chain     0-23    actions          codes of four bits, the first action lowest; 0 for none
              24-31   rounds           how often the chain is done again after the first time

A test of kind NEVER does not hold, one of kind ALWAYS does. A chain with rounds is a REPEAT with only actions in it.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

NEVER, PERCEIVE, REPEATS, ALWAYS = range(4)
"""Kinds of tests."""

Word = TypeVar("Word", int, jax.Array)
_WORD_BITS = 32


class Field(NamedTuple):
    """Neighbouring bits of a word.

    Example:
      >>> COUNTER = Field(shift=20, bits=5)
      >>> COUNTER.put(3) == 3 << 20, COUNTER.get(COUNTER.put(3) | 0xFF), COUNTER.most
      (True, 3, 31)
    """

    shift: int
    bits: int

    @property
    def most(self) -> int:
        """The largest value, which is also the mask of the shifted field."""
        return (1 << self.bits) - 1

    def put(self, value: Word) -> Word:
        """Return the word that has this value in the field and zeros elsewhere."""
        return value << self.shift if self.shift else value

    def get(self, word: Word) -> Word:
        """Return the field's value. Words are unsigned, so the topmost field needs no mask."""
        shifted = word >> self.shift if self.shift else word
        return shifted if self.shift + self.bits == _WORD_BITS else shifted & self.most

    def is_set(self, word: jax.Array) -> jax.Array:
        """Return whether the field is not 0, bool."""
        return (word & self.put(self.most)) != 0

    def flag(self, condition: jax.Array) -> jax.Array:
        """Return the word int32 of a field of one bit, from a bool."""
        return jnp.where(condition, self.put(1), 0)


FREE = Field(0, 4)
KIND = Field(4, 2)
PERCEPTION = Field(6, 5)
NEGATE = Field(11, 1)
RECORD = Field(12, 1)
LOOP = Field(13, 9)
REPEAT_COUNT = Field(6, 14)
COUNTER_SHIFT = Field(20, 5)
COUNTER_WORD = Field(25, 7)
HOLDS = Field(0, 10)
FAILS = Field(10, 10)
ACTION = Field(0, 4)  # the first action of the chain
ACTIONS = Field(0, 24)
ROUNDS = Field(24, 8)

WORDS = 3
"""Words of an instruction."""
CHAIN = ACTIONS.bits // ACTION.bits
"""Actions that an instruction has room for."""
MOST_ROUNDS = ROUNDS.most + 1
"""How often an instruction can do its chain."""
HALT = HOLDS.most
"""Address of the end of a program."""
MOST_NODES = LOOP.most + 1
"""Nodes of the largest program that instructions can address, which `PROGRAM_NODES` must not exceed: the number of a
WHILE node has to fit `LOOP`, and REPEATs nested as deeply as such a program allows have to fit `COUNTER_WORD`."""


class Fields(NamedTuple):
    """Instructions field by field, arrays of one shape; fields that the kind of test does not have are 0 or False."""

    kind: jax.Array  # int32
    perception: jax.Array  # int32
    negate: jax.Array  # bool
    record: jax.Array  # bool
    loop: jax.Array  # int32
    repeat_count: jax.Array  # int32
    counter_shift: jax.Array  # int32
    counter_word: jax.Array  # int32
    holds: jax.Array  # int32
    fails: jax.Array  # int32
    actions: jax.Array  # int32: all of the chain
    rounds: jax.Array  # int32


class Instruction(NamedTuple):
    """Instructions as they are stored. A property extracts one field, and computes nothing else."""

    test: jax.Array  # uint32
    targets: jax.Array  # uint32
    chain: jax.Array  # uint32
    nodes: jax.Array | tuple[()] = ()  # uint32 [2]: the nodes it was made from, as bits, where runs are traced

    @property
    def kind(self) -> jax.Array:
        """Kind of the test, int32."""
        return KIND.get(self.test).astype(jnp.int32)

    @property
    def perception(self) -> jax.Array:
        """Code of the perception, int32."""
        return PERCEPTION.get(self.test).astype(jnp.int32)

    @property
    def negate(self) -> jax.Array:
        """Whether the perception is negated, bool."""
        return NEGATE.is_set(self.test)

    @property
    def record(self) -> jax.Array:
        """Whether a WHILE remembers the state if the test holds, bool; means nothing for a REPEAT."""
        return RECORD.is_set(self.test)

    @property
    def loop(self) -> jax.Array:
        """Node of that WHILE, int32."""
        return LOOP.get(self.test).astype(jnp.int32)

    @property
    def repeat_count(self) -> jax.Array:
        """Rounds of a REPEAT, uint32."""
        return REPEAT_COUNT.get(self.test)

    @property
    def counter_shift(self) -> jax.Array:
        """First bit of a REPEAT's counter in its word, uint32."""
        return COUNTER_SHIFT.get(self.test)

    @property
    def counter_word(self) -> jax.Array:
        """Index of the word that has a REPEAT's counter, uint32."""
        return COUNTER_WORD.get(self.test)

    def target(self, holds: jax.Array) -> jax.Array:
        """Return the address of the next instruction, int32, if the test came to `holds`, bool."""
        return jnp.where(holds, HOLDS.get(self.targets), FAILS.get(self.targets)).astype(jnp.int32)


def pack(fields: Fields) -> Instruction:
    """Return instructions as they are stored. Fields that the kind of test does not have are ignored.

    Args:
      fields: arrays of any one shape; every value fits its field.

    Returns:
      The words, uint32 of that shape.
    """
    remembers = RECORD.flag(fields.record) | LOOP.put(fields.loop)
    perceives = PERCEPTION.put(fields.perception) | NEGATE.flag(fields.negate) | remembers
    counter = COUNTER_SHIFT.put(fields.counter_shift) | COUNTER_WORD.put(fields.counter_word)
    repeats = REPEAT_COUNT.put(fields.repeat_count) | counter
    details = jnp.where(fields.kind == PERCEIVE, perceives, jnp.where(fields.kind == ALWAYS, remembers, 0))
    words = (
        KIND.put(fields.kind) | jnp.where(fields.kind == REPEATS, repeats, details),
        HOLDS.put(fields.holds) | FAILS.put(fields.fails),
        fields.actions | ROUNDS.put(fields.rounds),
    )
    return Instruction(*(word.astype(jnp.uint32) for word in words))


def unpack(packed: Instruction) -> Fields:
    """Return the fields of instructions, as `pack` took them."""
    kind = packed.kind
    perceives, repeats = kind == PERCEIVE, kind == REPEATS
    remembers = perceives | (kind == ALWAYS)

    def of(kinds: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.where(kinds, value.astype(jnp.int32), 0)

    return Fields(
        kind,
        of(perceives, packed.perception),
        perceives & packed.negate,
        remembers & packed.record,
        of(remembers, packed.loop),
        of(repeats, packed.repeat_count),
        of(repeats, packed.counter_shift),
        of(repeats, packed.counter_word),
        packed.target(jnp.bool_(True)),
        packed.target(jnp.bool_(False)),
        ACTIONS.get(packed.chain).astype(jnp.int32),
        ROUNDS.get(packed.chain).astype(jnp.int32),
    )


def prepended(action: jax.Array, chain: jax.Array) -> jax.Array:
    """Return the chain that begins with an action's code and goes on with a chain that has room for it and no rounds.

    Actions 2, 5 and 1 in this order are the chain 0x152: `prepended(2, prepended(5, 1))`.
    """
    return action | chain << ACTION.bits


def next_action(left: jax.Array) -> jax.Array:
    """Return the code of the first action of what is left of a chain, int32; 0 if nothing is left."""
    return ACTION.get(left).astype(jnp.int32)


def after_action(left: jax.Array, chain: jax.Array) -> jax.Array:
    """Return what is left of a chain after its next action.

    Behind the last action of a round, the whole chain begins again with one round less. With the chain 0x21 and one
    more round, what is left is 0x01000021, 0x01000002, 0x21, 0x2 and 0, one after the other.

    Args:
      left: what is left of the chain before the action, uint32; not 0.
      chain: the instruction's chain, uint32.
    """
    following, rounds = ACTIONS.get(left) >> ACTION.bits, ROUNDS.get(left)
    again = (following == 0) & (rounds > 0)
    return jnp.where(again, ACTIONS.get(chain) | ROUNDS.put(rounds - 1), following | ROUNDS.put(rounds))
