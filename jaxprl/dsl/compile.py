"""Arrays of nodes -> instructions for the batched interpreter (`vm/interpreter.py`).

There is one instruction per node, at the node's index; only actions, perceptions, constants and REPEATs are ever
reached. An instruction is three uint32 words. It does a chain of actions, if it has one, then a test, if it has one:

    word 0   bits 4-5 test
             PERCEIVE  bits 6-10 perception, 11 negate, 12 record, 13-21 the WHILE node that records
             ALWAYS    bits 12-21 as above
             REPEAT    bits 6-19 count, 20-24 shift of the counter in its word, 25-29 which word
    word 1   bits 0-9 the next address if the test holds, 10-19 otherwise
    word 2   bits 0-23 up to six action codes of four bits, the first one lowest; 24-31 how many rounds of them follow
             the first

`record` marks an edge into a WHILE's body: there the state is remembered and compared. `and`, `or` and `not` are
only edges. Where it is asked for (`sequential.py`), actions that follow one another are one instruction, and so is a
REPEAT with nothing else in it. The test that follows comes along. That more than halves the steps of a run.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode
from jaxprl.dsl.encode import (
    ACTION,
    AND,
    CONCAT,
    CONSTANT,
    COUNT,
    IF,
    IFELSE,
    NOT,
    OR,
    PERCEPTION,
    REPEAT,
    WHILE,
    write,
)

NEVER, PERCEIVE, REPEATS, ALWAYS = range(4)
"""Tests: none (the second address is next), a perception, a REPEAT's counter, a constant True."""
MOST_NODES = 512
"""Nodes of the largest program: a WHILE's number has nine bits."""
HALT = 1023
"""Address behind the program."""
CHAIN = 6
"""Actions that an instruction has room for."""
ROUNDS = 24
"""Where the number of further rounds begins in its word."""
_MOST_ROUNDS = 256
COUNT_BITS = 5
"""Bits of a REPEAT counter that hold the counts which sampling makes (0..19)."""
TRACED = 64
"""Nodes of the largest program whose instructions tell all the nodes that they are of."""
_MOST = 1 << 14


_tree = jax.jit(encode.tree)


def counter_bits(nodes: np.ndarray) -> int:
    """Return the bits that a REPEAT counter needs for these programs, int32 [..., N]."""
    counts = nodes[(nodes & 15) == COUNT] >> encode.KIND_BITS
    largest = int(min(counts.max(initial=0), _MOST - 1))
    return max(COUNT_BITS, largest.bit_length())


def counter_words(nodes: np.ndarray, bits: int) -> int:
    """Return the uint32 words that the REPEAT counters of these programs need, int32 [P, N]."""
    deepest = 1
    for row in nodes[((nodes & 15) == REPEAT).sum(axis=-1) > 32 // bits]:
        end = np.asarray(_tree(jnp.asarray(row))[0])
        repeats = np.flatnonzero((row & 15) == REPEAT)
        nesting = [(repeats <= i).sum() - (end[repeats] <= i).sum() for i in repeats]
        deepest = max(deepest, max(nesting))
    return -(-deepest // (32 // bits))


@functools.partial(jax.jit, static_argnames="bits")
def instructions(nodes: jax.Array, *, bits: int = COUNT_BITS) -> jax.Array:
    """Return the instructions uint32 [P, N, 3] of programs int32 [P, N], counters having `bits` bits each; every action
    is one of its own."""
    most = jnp.max(encode.length(nodes))
    return jax.vmap(lambda row: instructions_of(row, most, bits=bits, longest=1)[0])(nodes)


def instructions_of(nodes: jax.Array, count: jax.Array, *, bits: int, longest: int) -> tuple[jax.Array, jax.Array]:
    """Return the instructions of one program int32 [N], and the nodes of each.

    Args:
      nodes: the program.
      count: how many nodes it has at most, int32; the time that this takes depends on it.
      bits: of a counter.
      longest: chain of actions, 1 to `CHAIN`; with 1, no REPEAT is part of another instruction.

    Returns: uint32 [N, 3], and bits uint32 [N, 2]: whoever does the instruction comes to no other nodes of the first
    `TRACED`.
    """
    n = nodes.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    kind, value = encode.kinds(nodes), encode.values(nodes)
    end, parent = encode.tree(nodes, count)
    entry = _entries(kind)
    idle = (kind == REPEAT) & ~_calls(kind, value, end, count)
    repeats = jnp.where(idle, 0, jnp.clip(jnp.roll(value, -1), 0, _MOST - 1))

    # What a node inherits: the address to go on at (`yes`; for conditions: if it holds), the address if a condition
    # does not hold (`no`), which of the two edges records (0, 1 or 2), the WHILE it belongs to, the REPEATs around.
    def inherit(i, inherited):
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
        return write(inherited, jnp.stack(row).astype(jnp.int32), i)

    inherited = jnp.full((n, 5), jnp.array([HALT, 0, 0, 0, 0], jnp.int32))
    inherited = jax.lax.fori_loop(jnp.int32(1), count, inherit, inherited)
    yes, no, edge, loop, depth = inherited.T

    # Tests, at the index of their node. The edge that records is always the one taken when the test holds.
    per_word = 32 // bits
    negate = edge == 2
    truth = jnp.where(value == 1, yes, no)
    records = jnp.where(value == 1, edge == 1, edge == 2)
    memory = jnp.where(jnp.where(kind == PERCEPTION, edge != 0, records), 4096, 0) | loop << 13
    perceive = PERCEIVE << 4 | value << 6 | jnp.where(negate, 2048, 0) | memory
    repeat = REPEATS << 4 | repeats << 6 | ((depth % per_word) * bits) << 20 | (depth // per_word) << 25
    constant = jnp.where(records, ALWAYS << 4 | memory, NEVER << 4)
    test = jnp.select([kind == PERCEPTION, kind == REPEAT, kind == CONSTANT], [perceive, repeat, constant], NEVER << 4)
    holds = jnp.select(
        [kind == REPEAT, kind == CONSTANT, negate], [entry[jnp.minimum(index + 2, n - 1)], truth, no], yes
    )
    fails = jnp.select([kind == CONSTANT, (kind == PERCEPTION) & ~negate], [truth, no], yes)
    address = holds | fails << 10

    (chain, size, last), marks = _chains(kind, value, repeats, entry, yes, count, longest=longest)
    starts, behind = size > 0, yes[last]
    follows = jnp.minimum(behind, n - 1)
    takes = starts & (behind != HALT) & ~starts[follows]
    word0 = jnp.where(takes, test[follows], jnp.where(starts, NEVER << 4, test))
    word1 = jnp.where(takes, address[follows], jnp.where(starts, behind << 10, address))
    marks = marks | jnp.where(takes[:, None], _marks(follows), 0)
    words = jnp.stack([word0, word1, chain], axis=-1).astype(jnp.uint32)
    start = index[:, None] == 0  # a run starts at address 0
    return jnp.where(start, words[entry[0]], words), jnp.where(start, marks[entry[0]], marks)


def _chains(kind, value, repeats, entry, yes, count, *, longest: int) -> tuple[jax.Array, jax.Array]:
    """Return the chain of actions that starts at each node, int32 [3, N]: as in an instruction, how many they are (none
    is 0), and the node behind which they are done; and their nodes, bits uint32 [N, 2].

    A REPEAT of nothing but a chain is one itself, which no other goes on with.
    """
    n = len(kind)
    index = jnp.arange(n, dtype=jnp.int32)
    alone = jnp.stack([jnp.where(kind == ACTION, value + 1, 0), jnp.where(kind == ACTION, 1, 0), index], axis=1)

    def extend(done, carry):  # going backwards finds the rest of a chain done
        chains, marks = carry
        i = count - 1 - done
        rest, body = jnp.minimum(yes[i], n - 1), jnp.minimum(entry[jnp.minimum(i + 2, n - 1)], n - 1)
        actions, size, last = chains[rest]
        joins = (kind[i] == ACTION) & (yes[i] != HALT) & (size > 0) & (size < longest)
        longer = jnp.stack([chains[i, 0] | actions << 4, size + 1, last])
        whole = (kind[body] == ACTION) & (yes[chains[body, 2]] == i) & (repeats[i] <= _MOST_ROUNDS)
        repeated = (kind[i] == REPEAT) & whole & (longest > 1)
        rounds = jnp.where(repeats[i] > 0, chains[body, 0] | (repeats[i] - 1) << ROUNDS, 0)
        again = jnp.stack([rounds, jnp.int32(longest), i])
        others = jnp.where(joins, marks[rest], jnp.where(repeated & (repeats[i] > 0), marks[body], 0))
        row = jnp.where(joins, longer, jnp.where(repeated, again, chains[i]))
        return write(chains, row, i), write(marks, marks[i] | others, i)

    chains, marks = jax.lax.fori_loop(jnp.int32(0), count, extend, (alone, _marks(index)))
    return chains.T, marks


def _marks(nodes: jax.Array) -> jax.Array:
    """Return the bit of each node int32 [N], uint32 [N, 2]; none for a node from `TRACED` on."""
    word = jnp.arange(2, dtype=jnp.int32)[None, :]
    return jnp.where(nodes[:, None] >> 5 == word, jnp.uint32(1) << (nodes & 31).astype(jnp.uint32)[:, None], 0)


def has_idle_repeat(nodes: jax.Array) -> jax.Array:
    """Return whether a REPEAT of a program, int32 [N], is left out because its body can make no call; what becomes of
    it depends on nodes that no run comes to."""
    kind, value = encode.kinds(nodes), encode.values(nodes)
    count = encode.length(nodes)
    end, _ = encode.tree(nodes, count)
    return jnp.any((kind == REPEAT) & ~_calls(kind, value, end, count) & (jnp.roll(value, -1) > 0))


def _entries(kind: jax.Array) -> jax.Array:
    """Return the address at which each node starts: the first node from there on that has an instruction."""
    index = jnp.arange(kind.shape[0], dtype=jnp.int32)
    starts = (kind == ACTION) | (kind == PERCEPTION) | (kind == CONSTANT) | (kind == REPEAT)
    return jax.lax.cummin(jnp.where(starts, index, HALT), reverse=True)


def _calls(kind: jax.Array, value: jax.Array, end: jax.Array, count: jax.Array) -> jax.Array:
    """Return for every node whether it can make a call or crash, bool [N]: an idle REPEAT is not run, however often it
    says. A WHILE on True crashes if its body does nothing.

    A REPEAT with a count under 1 does not reach its body, nor do IF, WHILE and IFELSE on a constant what it rules out.
    """
    n = kind.shape[0]

    def close(done, calls):
        i = count - 1 - done
        first = jnp.minimum(i + 1, n - 1)
        second = jnp.minimum(end[first], n - 1)
        third = jnp.minimum(end[second], n - 1)
        over = kind[i]
        holds, constant = value[first] > 0, kind[first] == CONSTANT
        body = calls[second] & (holds | ~((over == REPEAT) | constant))
        otherwise = calls[third] & (over == IFELSE) & ~(constant & holds)
        endless = (over == WHILE) & constant & holds
        below = calls[first] | ((over != NOT) & (body | otherwise)) | endless
        leaf = jnp.asarray(encode.ARITY)[over] == 0
        return write(calls, jnp.where(leaf, (over == ACTION) | (over == PERCEPTION), below), i)

    return jax.lax.fori_loop(jnp.int32(0), count, close, jnp.zeros(n, bool))
