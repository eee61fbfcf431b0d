"""Arrays of nodes -> instructions for the batched interpreter (`vm/interpreter.py`).

There is one instruction per node, at the node's index; only actions, perceptions, constants and REPEATs are ever
reached. An instruction is two uint32 words. It does an action, if it has one, then a test, if it has one:

    word 0   bits 0-3 action code (0: none)   bits 4-5 test
             PERCEIVE  bits 6-10 perception, 11 negate, 12 record, 13-21 the WHILE node that records
             ALWAYS    bits 12-21 as above
             REPEAT    bits 6-19 count, 20-24 shift of the counter in its word, 25-29 which word
    word 1   bits 0-9 the next address if the test holds, 10-19 otherwise

`record` marks an edge into a WHILE's body: there the state is remembered and compared. `and`, `or` and `not` are
only edges. Every action carries the test that follows it, which halves the steps of a run.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode
from jaxprl.dsl.encode import ACTION, AND, CONCAT, CONSTANT, COUNT, IF, IFELSE, NOT, OR, PERCEPTION, REPEAT, WHILE

NEVER, PERCEIVE, REPEATS, ALWAYS = range(4)
"""Tests: none (the second address is next), a perception, a REPEAT's counter, a constant True."""
HALT = 1023
"""Address behind the program."""
COUNT_BITS = 5
"""Bits of a REPEAT counter that hold the counts which sampling makes (0..19)."""
_MOST = 1 << 14


def counter_bits(nodes: np.ndarray) -> int:
    """Return the bits that a REPEAT counter needs for these programs, int32 [..., N]."""
    counts = nodes[(nodes & 15) == COUNT] >> encode.KIND_BITS
    largest = int(min(counts.max(initial=0), _MOST - 1))
    return max(COUNT_BITS, largest.bit_length())


def counter_words(nodes: np.ndarray, bits: int) -> int:
    """Return the uint32 words that the REPEAT counters of these programs need, int32 [P, N]."""
    deepest = 1
    for row in nodes[((nodes & 15) == REPEAT).sum(axis=-1) > 32 // bits]:
        end = np.asarray(encode.ends(jnp.asarray(row)))
        repeats = np.flatnonzero((row & 15) == REPEAT)
        nesting = [(repeats <= i).sum() - (end[repeats] <= i).sum() for i in repeats]
        deepest = max(deepest, max(nesting))
    return -(-deepest // (32 // bits))


@functools.partial(jax.jit, static_argnames="bits")
def instructions(nodes: jax.Array, *, bits: int = COUNT_BITS) -> jax.Array:
    """Return the instructions uint32 [P, N, 2] of programs int32 [P, N], counters having `bits` bits each."""
    return jax.vmap(functools.partial(_instructions, bits=bits))(nodes)


def _instructions(nodes: jax.Array, *, bits: int) -> jax.Array:
    n = nodes.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    kind, value = encode.kinds(nodes), encode.values(nodes)
    end = encode.ends(nodes)
    parent = encode.parents(nodes, end)
    entry = _entries(kind)
    count = jnp.where(_is_idle(kind, value, end, parent), 0, jnp.clip(jnp.roll(value, -1), 0, _MOST - 1))

    # What a node inherits: the address to go on at (`yes`; for conditions: if it holds), the address if a condition
    # does not hold (`no`), which of the two edges records (0, 1 or 2), the WHILE it belongs to, the REPEATs around.
    def inherit(inherited, i):
        above = parent[i]
        yes, no, edge, loop, depth = inherited[above]
        over, first, behind = kind[above], i == above + 1, entry[end[i]]
        condition = first & ((over == WHILE) | (over == IF) | (over == IFELSE))
        left = first & ((over == AND) | (over == OR))
        new_yes = jnp.select(
            [
                condition | (left & (over == AND)) | (first & (over == CONCAT)),
                ~first & (over == WHILE),
                ~first & (over == REPEAT),
                over == NOT,
            ],
            [behind, entry[above], above, no],
            yes,
        )
        new_no = jnp.select(
            [condition & (over == IFELSE), condition, left & (over == OR), over == NOT],
            [entry[end[end[i]]], yes, behind, yes],
            no,
        )
        new_edge = jnp.select(
            [condition, over == NOT, left & (over == AND) & (edge == 1), left & (over == OR) & (edge == 2)],
            [jnp.where(over == WHILE, 1, 0), (3 - edge) % 3, 0, 0],
            edge,
        )
        row = [new_yes, new_no, new_edge, jnp.where(condition, above, loop), depth + jnp.where(over == REPEAT, 1, 0)]
        return inherited.at[i].set(jnp.stack(row).astype(jnp.int32)), None

    inherited = jnp.zeros((n, 5), jnp.int32).at[0, 0].set(HALT)
    inherited, _ = jax.lax.scan(inherit, inherited, index[1:])
    yes, no, edge, loop, depth = inherited.T

    # Tests, at the index of their node. The edge that records is always the one taken when the test holds.
    per_word = 32 // bits
    negate = edge == 2
    truth = jnp.where(value == 1, yes, no)
    records = jnp.where(value == 1, edge == 1, edge == 2)
    memory = jnp.where(jnp.where(kind == PERCEPTION, edge != 0, records), 4096, 0) | loop << 13
    perceive = PERCEIVE << 4 | value << 6 | jnp.where(negate, 2048, 0) | memory
    repeat = REPEATS << 4 | count << 6 | ((depth % per_word) * bits) << 20 | (depth // per_word) << 25
    constant = jnp.where(records, ALWAYS << 4 | memory, NEVER << 4)
    test = jnp.select([kind == PERCEPTION, kind == REPEAT, kind == CONSTANT], [perceive, repeat, constant], NEVER << 4)
    holds = jnp.select(
        [kind == REPEAT, kind == CONSTANT, negate], [entry[jnp.minimum(index + 2, n - 1)], truth, no], yes
    )
    fails = jnp.select([kind == CONSTANT, (kind == PERCEPTION) & ~negate], [truth, no], yes)
    address = holds | fails << 10

    # An action takes the test that follows it along.
    follows = jnp.minimum(yes, n - 1)
    takes = (kind == ACTION) & (yes != HALT) & (kind[follows] != ACTION)
    word0 = jnp.where(takes, test[follows], test) | jnp.where(kind == ACTION, value + 1, 0)
    word1 = jnp.where(takes, address[follows], jnp.where(kind == ACTION, yes << 10, address))
    words = jnp.stack([word0, word1], axis=-1).astype(jnp.uint32)
    return words.at[0].set(words[entry[0]])  # a run starts at address 0


def _entries(kind: jax.Array) -> jax.Array:
    """Return the address at which each node starts: the first node from there on that has an instruction."""
    index = jnp.arange(kind.shape[0], dtype=jnp.int32)
    starts = (kind == ACTION) | (kind == PERCEPTION) | (kind == CONSTANT) | (kind == REPEAT)
    return jax.lax.cummin(jnp.where(starts, index, HALT), reverse=True)


def _is_idle(kind: jax.Array, value: jax.Array, end: jax.Array, parent: jax.Array) -> jax.Array:
    """Return for each REPEAT whether its body can make no call: then it is not run, however often it says.

    Dead are the bodies of a REPEAT with a count under 1, and what IF, WHILE and IFELSE on a constant never enter.
    """
    index = jnp.arange(kind.shape[0])
    over, first = kind[parent], parent + 1
    branches = (over == IF) | (over == WHILE) | (over == IFELSE)
    constant = branches & (kind[first] == CONSTANT)
    is_body, is_else = index == first + 1, (index > first + 1) & (over == IFELSE)
    dead = is_body & ((constant & (value[first] == 0)) | ((over == REPEAT) & (value[first] < 1)))
    dead |= is_else & constant & (value[first] == 1)
    within = (index[:, None] <= index[None, :]) & (index[None, :] < end[:, None])
    reached = ~jnp.any(within & dead[:, None], axis=0)
    calls = ((kind == ACTION) | (kind == PERCEPTION)) & reached
    return (kind == REPEAT) & ~jnp.any(within & calls[None, :], axis=1)
