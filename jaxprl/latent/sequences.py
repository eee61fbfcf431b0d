"""Converts programs between nodes (`dsl/encode.py`) and the sequences that the networks read and write, as array code.

A sequence holds the choices of a program's text (`grammar.py`). For `DEF run m( WHILE c( frontIsClear c) w( move w) m)`
these are `WHILE frontIsClear move w) m)`. The sequences of the published model hold every token behind `DEF`.

Axis letters: N nodes of a program, T steps of a sequence, V tokens of the vocabulary.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode
from jaxprl.dsl.encode import ACTION, CONCAT, COUNT, IF, IFELSE, KIND_BITS, NOT, PERCEPTION, PROGRAM, REPEAT, WHILE
from jaxprl.latent.grammar import Automaton, Grammar
from jaxprl.xla import guarded

_STRUCTURES = {"WHILE": WHILE, "IF": IF, "IFELSE": IFELSE, "REPEAT": REPEAT}
_LARGEST = 64 << KIND_BITS
"""Exclusive bound of the nodes that have tokens."""


class Tables(NamedTuple):
    """Tables from tokens to nodes and back."""

    node: np.ndarray  # int32 [V, V]: the node for a token (2nd axis) that follows another (1st axis); 0 for none
    opens: np.ndarray  # int32 [V]: how many blocks a token opens
    closes: np.ndarray  # bool [V]: whether a token closes a block
    statement: np.ndarray  # bool [V]: whether a token begins a statement
    tokens: np.ndarray  # int32 [nodes, 2]: the tokens for a node; -1 for none
    unknown: np.ndarray  # bool [nodes]: whether a node cannot be written with the vocabulary

    @staticmethod
    @functools.cache
    def of(grammar: Grammar) -> Tables:
        """Return the tables of a grammar."""
        language, id_of, size = grammar.language, grammar.id_of, len(grammar.words)
        node = np.zeros((size, size), np.int32)
        tokens = np.full((_LARGEST, 2), -1, np.int32)
        unknown = np.ones(_LARGEST, bool)
        unknown[[encode.PAD, PROGRAM, CONCAT]] = False
        singles = {name: ACTION | index << KIND_BITS for index, name in enumerate(language.action_names)}
        singles |= {f"R={count}": COUNT | count << KIND_BITS for count in language.counts}
        singles |= {"not": NOT, **_STRUCTURES}
        for index, text in enumerate(language.perception_names):
            name, *argument = text.split()
            number = PERCEPTION | index << KIND_BITS
            if not argument:
                singles[name] = number
                continue
            node[id_of[name], id_of[argument[1]]] = number
            tokens[number], unknown[number] = (id_of[name], id_of[argument[1]]), False
        for word, number in singles.items():
            node[:, id_of[word]] = number
            tokens[number, 0], unknown[number] = id_of[word], False
        of_words = functools.partial(np.isin, grammar.words)
        return Tables(
            node=node,
            opens=of_words(list(_STRUCTURES)).astype(np.int32) + of_words("IFELSE").astype(np.int32),
            closes=of_words(["m)", "w)", "i)", "r)", "e)"]),
            statement=of_words([*_STRUCTURES, *language.actions]),
            tokens=tokens,
            unknown=unknown,
        )


@guarded
def to_nodes(grammar: Grammar, sequence: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Convert a complete sequence to nodes.

    In a block with more than one statement, a Concat node stands before every statement but the last. So for each
    statement it has to be known whether another one follows in the same block. One scan from the end to the beginning
    finds out, with one bit per block: it is set when a statement of the block has been met. In
    `WHILE frontIsClear move turnLeft w) pickMarker m)` the scan meets, with the innermost block as the lowest bit:

        m)          0     opens the program's block from behind
        pickMarker  1     no bit was set: the last statement
        w)          10
        turnLeft    11    the last statement of the loop
        move        11    followed by another one: Concat
        WHILE       1     leaves the loop, and is itself followed by pickMarker: Concat

    Args:
      grammar: the grammar.
      sequence: int32 [T].

    Returns:
      The nodes, int32 [WIDTH], and whether they fit, bool.
    """
    tables = Tables.of(grammar)
    choices = _choices(grammar, sequence) if grammar.every_token else sequence
    statement = jnp.asarray(tables.statement)[choices]
    opens, closes = jnp.asarray(tables.opens)[choices], jnp.asarray(tables.closes)[choices]

    def back(later: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        later = jnp.where(closes[i], later << 1, later >> opens[i].astype(jnp.uint32))
        return jnp.where(statement[i], later | 1, later), statement[i] & ((later & 1) == 1)

    index = jnp.arange(len(choices), dtype=jnp.int32)
    _, chained = jax.lax.scan(back, jnp.uint32(0), index, reverse=True)
    node = jnp.asarray(tables.node)[jnp.roll(choices, 1), choices]
    many = chained.astype(jnp.int32) + (node != 0).astype(jnp.int32)
    place = jnp.cumsum(many, dtype=jnp.int32)  # where the last node of each choice goes, behind the Program node at 0
    last = jnp.where(many > 0, place, encode.WIDTH)
    before = jnp.where(chained, place - 1, encode.WIDTH)
    nodes = jnp.zeros(encode.WIDTH, jnp.int32).at[0].set(PROGRAM)
    nodes = nodes.at[last].set(node, mode="drop").at[before].set(CONCAT, mode="drop")
    return nodes, place[-1] < encode.WIDTH


@guarded
def from_nodes(grammar: Grammar, nodes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Convert a program to a sequence.

    All places are computed at once. A node's tokens come behind the tokens of the nodes before it and behind the
    closing tokens of the blocks that end before it.

    Args:
      grammar: the grammar.
      nodes: int32 [N].

    Returns:
      The sequence, int32 [T], padded; its length, int32; and whether it stands for the program, bool. It does not if
      the program is longer than the language allows, or if it has a word that is not in the vocabulary.
    """
    tables = Tables.of(grammar)
    n, length = nodes.shape[0], grammar.steps
    index = jnp.arange(n, dtype=jnp.int32)
    kind = encode.kinds(nodes)
    end, parent = encode.tree(nodes)
    words = jnp.asarray(tables.tokens)[jnp.clip(nodes, 0, _LARGEST - 1)]
    unknown = jnp.any((nodes >= _LARGEST) | (nodes < 0) | jnp.asarray(tables.unknown)[jnp.clip(nodes, 0, _LARGEST - 1)])

    # The first node of a body stands for its block. The closing token comes where its subtree ends; of blocks that end
    # at the same place, the inner one closes first. Bodies are the first child of Program, and every child but the
    # first (condition or count) of WHILE, IF, IFELSE and REPEAT. `second` is the place of a parent's second child.
    over = kind[parent]
    second = end[jnp.minimum(parent + 1, n - 1)]
    is_else = (over == IFELSE) & (index > second)
    body = (index > 0) & (kind != encode.PAD)
    body &= ((over == PROGRAM) & (index == 1)) | ((index >= second) & _any(over, WHILE, IF, IFELSE, REPEAT))
    closing = jnp.select(
        [over == PROGRAM, over == WHILE, over == REPEAT, is_else],
        [jnp.int32(grammar.id_of[word]) for word in ("m)", "w)", "r)", "e)")],
        jnp.int32(grammar.id_of["i)"]),
    )
    many = jnp.sum(words >= 0, axis=1, dtype=jnp.int32)
    before = jnp.cumsum(many, dtype=jnp.int32) - many  # tokens of the nodes before each node
    all_before = jnp.append(before, jnp.sum(many, dtype=jnp.int32))
    closed = body[None, :] & (end[None, :] <= index[:, None])
    place = before + jnp.sum(closed, axis=1, dtype=jnp.int32)
    earlier = (end[None, :] < end[:, None]) | ((end[None, :] == end[:, None]) & (index[None, :] > index[:, None]))
    close_place = all_before[end] + jnp.sum(body[None, :] & earlier, axis=1, dtype=jnp.int32)

    choices = jnp.full(grammar.language.max_tokens, grammar.padding, jnp.int32)
    outside = grammar.language.max_tokens
    choices = choices.at[jnp.where(words[:, 0] >= 0, place, outside)].set(words[:, 0], mode="drop")
    choices = choices.at[jnp.where(words[:, 1] >= 0, place + 1, outside)].set(words[:, 1], mode="drop")
    choices = choices.at[jnp.where(body, close_place, outside)].set(closing, mode="drop")
    count = jnp.sum(many) + jnp.sum(body, dtype=jnp.int32)
    written, fits = _write(grammar, choices)
    steps = jnp.sum(written != grammar.padding, dtype=jnp.int32)
    return written[:length], steps, fits & (count <= outside) & ~unknown


def _any(kind: jax.Array, *kinds: int) -> jax.Array:
    return functools.reduce(jnp.logical_or, [kind == each for each in kinds])


def _choices(grammar: Grammar, sequence: jax.Array) -> jax.Array:
    """Return a sequence without its forced tokens."""
    kept = ~jnp.asarray(grammar.forced)[sequence] & (sequence != grammar.padding)
    place = jnp.where(kept, jnp.cumsum(kept, dtype=jnp.int32) - 1, len(sequence))
    return jnp.full_like(sequence, grammar.padding).at[place].set(sequence, mode="drop")


_Carry = tuple[Automaton, jax.Array, jax.Array]
"""The state of the automaton, the number of choices taken (int32), and whether all of them were allowed (bool)."""


def _write(grammar: Grammar, choices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Write a sequence from its choices.

    Args:
      grammar: the grammar.
      choices: int32, the choices and padding.

    Returns:
      The sequence, int32 [T], and whether the grammar allows it, bool.
    """
    forced = np.argmax(grammar.allowed, axis=1).astype(np.int32)  # the only token of a symbol without a choice
    has_choice = jnp.asarray(grammar.allowed.sum(axis=1) > 1) | ~jnp.asarray(grammar.forced)[forced]

    def step(carry: _Carry, _: None) -> tuple[_Carry, jax.Array]:
        automaton, taken, fine = carry
        top = automaton.stack[automaton.size - 1]
        chooses = has_choice[top] & ~automaton.ended
        token = jnp.where(
            automaton.ended, jnp.int32(grammar.padding), jnp.where(chooses, choices[taken], jnp.asarray(forced)[top])
        )
        fine &= grammar.mask(automaton)[token]
        return (grammar.advance(automaton, token), taken + chooses.astype(jnp.int32), fine), token

    start = grammar.start(), jnp.int32(0), jnp.bool_(True)
    (automaton, _, fine), tokens = jax.lax.scan(step, start, length=grammar.steps)
    return tokens, fine & automaton.ended
