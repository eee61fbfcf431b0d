"""Compiles programs to the instructions of the batched interpreter (`instruction.py`), as array code.

There is one instruction for each node of a program, at the node's index, so that no table of addresses is needed. Only
actions, perceptions, constants and REPEATs do something; `and`, `or`, `not`, IF and WHILE are nothing but the two
addresses that a test leads to. For example, `WHILE c( and c( p c) c( q c) c) w( a w) b`, p and q being perceptions, a
and b actions:

    node         instruction
    0 PROGRAM    that of node 4, since a run starts at address 0
    1 CONCAT     -
    2 WHILE      -
    3 AND        -
    4 p          test p: if it holds go to 5, otherwise to 7
    5 q          test q: if it holds compare and remember the state for WHILE 2, then go to 6, otherwise to 7
    6 a          do a, then test p as node 4 does
    7 b          do b, then stop

An action takes along the test that follows it, as node 6 does here. Where longer chains are asked for
(`sequential.py`), so do several actions in a row, and a REPEAT with nothing but actions in it is one instruction. That
more than halves the steps of a run.
"""

from __future__ import annotations

from typing import NamedTuple

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
    take,
    write,
)
from jaxprl.vm.instruction import (
    ALWAYS,
    FAILS,
    HALT,
    KIND,
    MOST_ROUNDS,
    NEVER,
    PERCEIVE,
    REPEAT_COUNT,
    REPEATS,
    ROUNDS,
    Fields,
    Instruction,
    pack,
    prepended,
)
from jaxprl.xla import jit

COUNT_BITS = 5
"""Bits of a REPEAT counter that hold the counts which sampling makes (0 to 19)."""
COUNTER_WORD_BITS = 32
"""Bits of a word of REPEAT counters; several counters share one."""
TRACED = 64
"""Nodes of the largest program whose runs can be traced. Each instruction holds its nodes as a set of this many
bits."""
_NODE_KIND = (1 << encode.KIND_BITS) - 1

_tree = jit()(encode.tree)


def counter_bits(nodes: np.ndarray) -> int:
    """Return the bits that a REPEAT counter needs for programs, int32 [..., N]."""
    counts = nodes[(nodes & _NODE_KIND) == COUNT] >> encode.KIND_BITS
    largest = int(min(counts.max(initial=0), REPEAT_COUNT.most))
    return max(COUNT_BITS, largest.bit_length())


def counter_words(nodes: np.ndarray, bits: int) -> int:
    """Return the uint32 words that the REPEAT counters of programs need.

    A REPEAT has the counter of its depth of nesting, since REPEATs side by side never count at the same time.

    Args:
      nodes: programs, int32 [P, N].
      bits: bits of a counter (`counter_bits`).
    """
    deepest, per_word = 1, COUNTER_WORD_BITS // bits
    is_repeat = (nodes & _NODE_KIND) == REPEAT
    for row in nodes[is_repeat.sum(axis=-1) > per_word]:  # others fit one word however they are nested
        end = np.asarray(_tree(jnp.asarray(row))[0])
        repeats = np.flatnonzero((row & _NODE_KIND) == REPEAT)
        nesting = [(repeats <= i).sum() - (end[repeats] <= i).sum() for i in repeats]
        deepest = max(deepest, max(nesting))
    return -(-deepest // per_word)


@jit(static_argnames="bits")
def instructions(nodes: jax.Array, *, bits: int = COUNT_BITS) -> jax.Array:
    """Return the instructions of programs, every action an instruction of its own.

    Args:
      nodes: programs, int32 [P, N].
      bits: bits of a REPEAT counter (`counter_bits`).

    Returns:
      The words of the instructions, uint32 [P, N, WORDS].
    """
    most = jnp.max(encode.length(nodes))
    return jax.vmap(lambda row: instructions_of(row, most, bits=bits, longest=1)[0])(nodes)


def instructions_of(nodes: jax.Array, count: jax.Array, *, bits: int, longest: int) -> tuple[jax.Array, jax.Array]:
    """Return the instructions of one program, and the nodes that each was made from.

    Args:
      nodes: a program, int32 [N].
      count: upper bound of its number of nodes, int32; the loops over nodes run so often.
      bits: bits of a REPEAT counter.
      longest: most actions of a chain, 1 to `CHAIN`. With 1, no REPEAT is part of another instruction.

    Returns:
      The words of the instructions, uint32 [N, WORDS], and sets of nodes as bits, uint32 [N, TRACED / 32]: a run that
      does the instruction comes to no other ones of the first `TRACED` nodes.
    """
    index = jnp.arange(nodes.shape[0], dtype=jnp.int32)
    tree = _tree_of(nodes, count)
    idle = (tree.kind == REPEAT) & ~_calls(tree)
    repeats = jnp.where(idle, 0, jnp.clip(jnp.roll(tree.value, -1), 0, REPEAT_COUNT.most))
    edges = _edges(tree)
    own = _tests(tree, repeats, edges, bits=bits)
    chains, marks = _chains(tree, repeats, edges.yes, longest=longest)

    # A chain takes along the test behind it, if there is one: not where another chain or the program's end follows.
    starts, behind = chains.size > 0, edges.yes[chains.last]
    follows = jnp.minimum(behind, nodes.shape[0] - 1)
    takes = starts & (behind != HALT) & ~starts[follows]
    untested = FAILS.put(behind).astype(jnp.uint32)
    test = jnp.where(takes, own.test[follows], jnp.where(starts, KIND.put(NEVER), own.test))
    targets = jnp.where(takes, own.targets[follows], jnp.where(starts, untested, own.targets))
    marks = marks | jnp.where(takes[:, None], _marks(follows), 0)
    words = jnp.stack([test, targets, chains.chain.astype(jnp.uint32)], axis=-1)
    start = index[:, None] == 0  # a run starts at address 0
    first = tree.entry[0]
    return jnp.where(start, words[first], words), jnp.where(start, marks[first], marks)


class _Tree(NamedTuple):
    """A program, node by node: int32 [N], but for `most`."""

    kind: jax.Array
    value: jax.Array
    end: jax.Array  # where the subtree of a node ends, exclusive
    parent: jax.Array
    entry: jax.Array  # address at which a node starts: the first node from there on that has an instruction
    most: jax.Array  # int32: upper bound of the number of nodes


def _tree_of(nodes: jax.Array, count: jax.Array) -> _Tree:
    kind, value = encode.kinds(nodes), encode.values(nodes)
    end, parent = encode.tree(nodes, count)
    index = jnp.arange(nodes.shape[0], dtype=jnp.int32)
    starts = (kind == ACTION) | (kind == PERCEPTION) | (kind == CONSTANT) | (kind == REPEAT)
    entry = jax.lax.cummin(jnp.where(starts, index, HALT), reverse=True)
    return _Tree(kind, value, end, parent, entry, count)


class _Edges(NamedTuple):
    """Where a run goes on behind each node, all int32 [N]."""

    yes: jax.Array  # address behind a statement, or behind a condition that holds
    no: jax.Array  # address behind a condition that does not hold
    record: jax.Array  # at which of them a WHILE remembers the state: 0 at none, 1 at `yes`, 2 at `no`
    loop: jax.Array  # the node of that WHILE
    depth: jax.Array  # how many REPEATs are around the node


def _edges(tree: _Tree) -> _Edges:
    """Return where a run goes on behind each node.

    A node inherits this from its parent, with a change that depends on the parent's kind. Parents come first, so one
    loop in the order of the nodes is enough. In `WHILE c( or c( p c) c( q c) c) w( a w) b`:

        WHILE   yes b
        or      yes a, no b, record 1       as the condition of a WHILE: into the body, or to what follows the WHILE
        p       yes a, no q, record 1       the left operand of `or`: if it does not hold, the right one decides
        q       yes a, no b, record 1       the right operand decides as `or` does
        a       yes p                       as the body of a WHILE: back to the condition
        b       yes HALT

    With `and` for `or`, p has `yes q, no b, record 0`: its edge to q stays within the condition. Below a `not`, `yes`
    and `no` change places, and so do the values 1 and 2 of `record`.
    """
    kind, _, end, parent, entry, most = tree

    def inherit(i, inherited):
        above, beyond = take(parent, i), take(end, i)
        yes, no, record, loop, depth = take(inherited, above)
        over, first, behind = take(kind, above), i == above + 1, _entry(entry, beyond)  # behind: the next sibling
        condition = first & ((over == WHILE) | (over == IF) | (over == IFELSE))
        left = first & ((over == AND) | (over == OR))
        new_yes = _first_that_holds(
            (condition | (left & (over == AND)) | (first & (over == CONCAT)), behind),
            (~first & (over == WHILE), take(entry, above)),
            (~first & (over == REPEAT), above),
            (over == NOT, no),
            otherwise=yes,
        )
        third = _entry(entry, take(end, jnp.minimum(beyond, len(end) - 1)))  # of an IFELSE: where its second child ends
        new_no = _first_that_holds(
            (condition & (over == IFELSE), third),
            (condition, yes),
            (left & (over == OR), behind),
            (over == NOT, yes),
            otherwise=no,
        )
        within = (left & (over == AND) & (record == 1)) | (left & (over == OR) & (record == 2))
        new_record = _first_that_holds(
            (condition, jnp.where(over == WHILE, 1, 0)),
            (over == NOT, jnp.where(record == 0, 0, 3 - record)),
            (within, 0),
            otherwise=record,
        )
        row = [new_yes, new_no, new_record, jnp.where(condition, above, loop), depth + jnp.where(over == REPEAT, 1, 0)]
        return write(inherited, jnp.stack(row).astype(jnp.int32), i)

    root = jnp.array([HALT, 0, 0, 0, 0], jnp.int32)
    table = jax.lax.fori_loop(jnp.int32(1), most, inherit, jnp.full((len(kind), len(root)), root))
    return _Edges(*table.T)


def _entry(entry: jax.Array, place: jax.Array) -> jax.Array:
    """Return `entry[place]`; for a place behind all nodes, which leads nowhere, that of the last one."""
    return take(entry, jnp.minimum(place, len(entry) - 1))


def _first_that_holds(*cases: tuple[jax.Array, jax.Array | int], otherwise: jax.Array) -> jax.Array:
    """Return the value of the first case whose condition holds (`jnp.select` takes several times the operations)."""
    for condition, value in reversed(cases):
        otherwise = jnp.where(condition, value, otherwise)
    return otherwise


def _tests(tree: _Tree, repeats: jax.Array, edges: _Edges, *, bits: int) -> Instruction:
    """Return the test of each node, arrays [N]; NEVER for nodes without one.

    The state is recorded only where a test holds. So the test of a perception whose `no` edge records is negated, and a
    constant always holds where it records, and never does elsewhere.

    Args:
      tree: the program.
      repeats: rounds of the REPEATs, int32 [N].
      edges: where a run goes on behind each node.
      bits: bits of a REPEAT counter.
    """
    kind, value, entry = tree.kind, tree.value, tree.entry
    per_word = COUNTER_WORD_BITS // bits
    negate = edges.record == 2
    truth = jnp.where(value == 1, edges.yes, edges.no)
    records = edges.record == jnp.where(value == 1, 1, 2)
    body = entry[jnp.minimum(jnp.arange(len(kind)) + 2, len(kind) - 1)]  # of a REPEAT, behind its COUNT
    constant = jnp.where((kind == CONSTANT) & records, ALWAYS, NEVER)
    fields = Fields(
        kind=jnp.where(kind == PERCEPTION, PERCEIVE, jnp.where(kind == REPEAT, REPEATS, constant)),
        perception=value,
        negate=negate,
        record=jnp.where(kind == PERCEPTION, edges.record != 0, records),
        loop=edges.loop,
        repeat_count=repeats,
        counter_shift=jax.lax.rem(edges.depth, jnp.int32(per_word)) * bits,
        counter_word=jax.lax.div(edges.depth, jnp.int32(per_word)),
        holds=_first_that_holds(
            (kind == REPEAT, body), (kind == CONSTANT, truth), (negate, edges.no), otherwise=edges.yes
        ),
        fails=_first_that_holds(
            (kind == CONSTANT, truth), ((kind == PERCEPTION) & ~negate, edges.no), otherwise=edges.yes
        ),
        actions=jnp.zeros_like(kind),
        rounds=jnp.zeros_like(kind),
    )
    return pack(fields)


class _Chains(NamedTuple):
    """The chain of actions that starts at each node, all int32 [N]."""

    chain: jax.Array  # as an instruction has it
    size: jax.Array  # actions that it takes room for; 0: no chain starts here
    last: jax.Array  # the node that the chain ends with; its `yes` is where the run goes on


def _chains(tree: _Tree, repeats: jax.Array, yes: jax.Array, *, longest: int) -> tuple[_Chains, jax.Array]:
    """Return the chain that starts at each node, and the nodes of each as bits, uint32 [N, TRACED / 32].

    Going backwards, the rest of a chain is complete when an action is put before it. With actions a, b, c coded 1, 2, 3
    and `longest` 2, `a b c` has the chains

        c: 0x3, ends with c       b: 0x32, ends with c       a: 0x1, ends with a, since the chain of b is full

    A REPEAT with nothing but a chain in it is a chain, too: `REPEAT R=3 r( a b r)` is 0x21 with two more rounds. It
    counts as full, so no action before it joins it. With no rounds at all, its chain is 0: the instruction goes on at
    once.

    Args:
      tree: the program.
      repeats: rounds of the REPEATs, int32 [N].
      yes: address behind each node, int32 [N].
      longest: most actions of a chain.
    """
    kind, value, entry = tree.kind, tree.value, tree.entry
    n = len(kind)
    index = jnp.arange(n, dtype=jnp.int32)
    alone = jnp.stack([jnp.where(kind == ACTION, value + 1, 0), jnp.where(kind == ACTION, 1, 0), index], axis=1)

    def extend(done, carry):
        chains, marks = carry
        i = tree.most - 1 - done
        own, behind, times = take(kind, i), take(yes, i), take(repeats, i)
        rest, body = jnp.minimum(behind, n - 1), jnp.minimum(take(entry, jnp.minimum(i + 2, n - 1)), n - 1)
        alone, (chain, size, last), (inner, _, end) = (take(chains, node) for node in (i, rest, body))
        joins = (own == ACTION) & (behind != HALT) & (size > 0) & (size < longest)
        longer = jnp.stack([prepended(alone[0], chain), size + 1, last])
        whole = (take(kind, body) == ACTION) & (take(yes, end) == i) & (times <= MOST_ROUNDS)
        repeated = (own == REPEAT) & whole & (longest > 1)
        rounds = jnp.where(times > 0, inner | ROUNDS.put(times - 1), 0)
        again = jnp.stack([rounds, jnp.int32(longest), i])
        others = jnp.where(joins, take(marks, rest), jnp.where(repeated & (times > 0), take(marks, body), 0))
        row = jnp.where(joins, longer, jnp.where(repeated, again, alone))
        return write(chains, row, i), write(marks, take(marks, i) | others, i)

    chains, marks = jax.lax.fori_loop(jnp.int32(0), tree.most, extend, (alone, _marks(index)))
    return _Chains(*chains.T), marks


def _marks(nodes: jax.Array) -> jax.Array:
    """Return sets of one node each as bits, uint32 [N, TRACED / 32], of nodes int32 [N]; empty from `TRACED` on."""
    word = jnp.arange(TRACED // 32, dtype=jnp.int32)[None, :]
    return jnp.where(nodes[:, None] >> 5 == word, jnp.uint32(1) << (nodes & 31).astype(jnp.uint32)[:, None], 0)


def has_idle_repeat(nodes: jax.Array) -> jax.Array:
    """Return whether a program, int32 [N], has a REPEAT that is left out because its body can make no call, bool.

    Whether it is left out depends on nodes that no run comes to: a change of one of them can bring it back. So it does
    not follow from the trace of a run which changes leave the run as it is.
    """
    tree = _tree_of(nodes, encode.length(nodes))
    return jnp.any((tree.kind == REPEAT) & ~_calls(tree) & (jnp.roll(tree.value, -1) > 0))


def _calls(tree: _Tree) -> jax.Array:
    """Return for every node whether it can make a call or crash, bool [N].

    A REPEAT whose body can do neither is left out, so that `REPEAT R=99999999 r( REPEAT R=0 r( a r) r)` ends at once.
    Parts that a constant rules out do not count: the body of a REPEAT that is done less than once, of `WHILE False` and
    `IF False`, and one branch of an IFELSE. `WHILE True` around such a body crashes, as it comes to the same state
    again.
    """
    kind, value, end, most = tree.kind, tree.value, tree.end, tree.most
    n = kind.shape[0]

    def close(done, calls):  # children come after their parent, so going backwards finds them done
        i = most - 1 - done
        first = jnp.minimum(i + 1, n - 1)
        second = jnp.minimum(take(end, first), n - 1)
        third = jnp.minimum(take(end, second), n - 1)
        over = take(kind, i)
        holds, constant = take(value, first) > 0, take(kind, first) == CONSTANT  # a REPEAT's first child is its COUNT
        body = take(calls, second) & (holds | ~((over == REPEAT) | constant))
        otherwise = take(calls, third) & (over == IFELSE) & ~(constant & holds)
        endless = (over == WHILE) & constant & holds
        below = take(calls, first) | ((over != NOT) & (body | otherwise)) | endless
        leaf = take(jnp.asarray(encode.ARITY), over) == 0
        return write(calls, jnp.where(leaf, (over == ACTION) | (over == PERCEPTION), below), i)

    return jax.lax.fori_loop(jnp.int32(0), most, close, jnp.zeros(n, bool))
