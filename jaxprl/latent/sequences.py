"""Programs as the sequences that the network reads and writes, both ways, as array code.

A sequence holds the choices of a program's text (`grammar.py`): `DEF run m( WHILE c( frontIsClear c) w( move w) m)` is
`WHILE frontIsClear move w) m)`. The published model's sequences hold every token behind `DEF`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode
from jaxprl.dsl.encode import ACTION, CONCAT, COUNT, IF, IFELSE, KIND_BITS, NOT, PERCEPTION, PROGRAM, REPEAT, WHILE
from jaxprl.dsl.language import COUNTS
from jaxprl.latent.grammar import Automaton, Grammar

_STRUCTURES = {"WHILE": WHILE, "IF": IF, "IFELSE": IFELSE, "REPEAT": REPEAT}
_LARGEST = 64 << KIND_BITS


class Tables(NamedTuple):
    """What each token is as a node and each node as tokens."""

    node: np.ndarray  # int32 [V, V]: of a token behind another; 0: none
    opens: np.ndarray  # int32 [V]: blocks that a token opens
    closes: np.ndarray  # bool [V]
    statement: np.ndarray  # bool [V]
    tokens: np.ndarray  # int32 [nodes, 2]: of a node, -1: none
    unknown: np.ndarray  # bool [nodes]: nodes that have no token

    @staticmethod
    @functools.cache
    def of(grammar: Grammar) -> Tables:
        """Return the tables of a language."""
        language, id_of, size = grammar.language, grammar.id_of, len(grammar.words)
        node = np.zeros((size, size), np.int32)
        tokens = np.full((_LARGEST, 2), -1, np.int32)
        unknown = np.ones(_LARGEST, bool)
        unknown[[encode.PAD, PROGRAM, CONCAT]] = False
        singles = {name: ACTION | index << KIND_BITS for index, name in enumerate(language.action_names)}
        singles |= {f"R={count}": COUNT | count << KIND_BITS for count in COUNTS}
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


def to_nodes(grammar: Grammar, sequence: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the nodes int32 [WIDTH] of one whole sequence int32 [T], and whether there was room for them, bool."""
    tables = Tables.of(grammar)
    choices = _choices(grammar, sequence) if grammar.every_token else sequence
    statement = jnp.asarray(tables.statement)[choices]
    opens, closes = jnp.asarray(tables.opens)[choices], jnp.asarray(tables.closes)[choices]

    def back(later: jax.Array, i):  # bit 0: whether a statement of this block comes later; further bits: outer blocks
        later = jnp.where(closes[i], later << 1, later >> opens[i].astype(jnp.uint32))
        return jnp.where(statement[i], later | 1, later), statement[i] & ((later & 1) == 1)

    index = jnp.arange(len(choices), dtype=jnp.int32)
    _, chained = jax.lax.scan(back, jnp.uint32(0), index, reverse=True)
    node = jnp.asarray(tables.node)[jnp.roll(choices, 1), choices]
    many = chained.astype(jnp.int32) + (node != 0).astype(jnp.int32)
    place = jnp.cumsum(many, dtype=jnp.int32)  # of the last node of each choice: the Program node is at 0
    last = jnp.where(many > 0, place, encode.WIDTH)
    before = jnp.where(chained, place - 1, encode.WIDTH)
    nodes = jnp.zeros(encode.WIDTH, jnp.int32).at[0].set(PROGRAM)
    nodes = nodes.at[last].set(node, mode="drop").at[before].set(CONCAT, mode="drop")
    return nodes, place[-1] < encode.WIDTH


def from_nodes(grammar: Grammar, nodes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the sequence int32 [T] of one program int32 [N], padded, its length, int32, and whether it can be written
    so, bool: not if it is longer than the language allows or has a word that is not in the vocabulary."""
    tables = Tables.of(grammar)
    n, length = nodes.shape[0], grammar.steps
    index = jnp.arange(n, dtype=jnp.int32)
    kind = encode.kinds(nodes)
    end, parent = encode.tree(nodes)
    words = jnp.asarray(tables.tokens)[jnp.clip(nodes, 0, _LARGEST - 1)]
    unknown = jnp.any((nodes >= _LARGEST) | (nodes < 0) | jnp.asarray(tables.unknown)[jnp.clip(nodes, 0, _LARGEST - 1)])

    # A block is the node that a body consists of; its closing token comes where its subtree ends, inner ones first.
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
    before = jnp.cumsum(many, dtype=jnp.int32) - many  # tokens of nodes before each node
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
    """Return a sequence without the tokens that follow by themselves."""
    kept = ~jnp.asarray(grammar.forced)[sequence] & (sequence != grammar.padding)
    place = jnp.where(kept, jnp.cumsum(kept, dtype=jnp.int32) - 1, len(sequence))
    return jnp.full_like(sequence, grammar.padding).at[place].set(sequence, mode="drop")


def _write(grammar: Grammar, choices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the sequence int32 [T] that consists of these choices, and whether the grammar allows it."""
    forced = np.argmax(grammar.allowed, axis=1).astype(np.int32)  # of a symbol that leaves no choice: its token
    has_choice = jnp.asarray(grammar.allowed.sum(axis=1) > 1) | ~jnp.asarray(grammar.forced)[forced]

    def step(carry: tuple[Automaton, jax.Array, jax.Array], _):
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
