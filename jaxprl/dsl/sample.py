"""Random programs and neighbours as array code: thousands at once, each from a key of its own.

Grammar probabilities are renormalised over what is allowed at a spot. Not allowed: Concat as the first part of a
Concat, Not below a Not, Not as an IfElse condition. Program, While, Repeat, If and IfElse count 1 in the height of a
node, which is the sum on its path from the root, itself included.

Growing: under a node of height >= 4 no While, Repeat, If, IfElse; a Concat that is the s-th of its chain may have a
Concat as second part only if s + 1 < 6. Accepted: height <= 4, sequence <= 6, tokens <= 45; otherwise drawn again.

A random program grows from the Program node. A neighbour of a program: one of its nodes is chosen uniformly, the
Program node excluded, and another grown in its place, filtered only by what the parent allows. The new node is taken
to have height (of the old node) + (1 if the new one counts) and chain position 1, and growth under it counts from
there (both kept from the published system: they shape the distribution). Acceptance goes by true heights; after a
rejection a node is chosen afresh. A neighbour may equal its parent; neighbours of a program beyond the limits obey
them.

A step pops one open statement spot and draws its node, with the condition or count that belongs to it; a program that
is rejected starts over. On a CPU one program is drawn after the other, on an accelerator all draw in lockstep; the
programs are the same.
"""

from __future__ import annotations

import functools
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
    KIND_BITS,
    NOT,
    OR,
    PERCEPTION,
    PROGRAM,
    REPEAT,
    WHILE,
)  # fmt: skip
from jaxprl.dsl.language import COUNTS, Language
from jaxprl.errors import UserError
from jaxprl.loops import has_whole_loops

STATEMENT, CONDITION, PLAIN_CONDITION, NUMBER = range(4)
"""What may grow at a spot: a statement, any condition, a condition without Not, a count."""
_DRAWN = {"While": WHILE, "Repeat": REPEAT, "If": IF, "IfElse": IFELSE, "Concat": CONCAT}
_OWN_TOKENS = np.zeros(16, np.int32)
_OWN_TOKENS[[PROGRAM, WHILE, IF, IFELSE, REPEAT, COUNT, ACTION, NOT, AND, OR, CONSTANT]] = (
    4, 5, 5, 8, 3, 1, 1, 3, 5, 5, 1,
)  # fmt: skip
_COUNTS_HEIGHT = np.isin(np.arange(16), [PROGRAM, WHILE, REPEAT, IF, IFELSE])


class Spots(NamedTuple):
    """Where a program can change, and what a change there must obey: per node int32 [N], S programs stacked."""

    choices: jax.Array  # int32: nodes that can be chosen, from index 1 on
    grows: jax.Array  # STATEMENT, CONDITION, PLAIN_CONDITION or NUMBER
    position: jax.Array  # chain position that a Concat would have here: 1, or 6 (none) as first part of a Concat
    height: jax.Array  # height of the old node, itself included
    counted: jax.Array  # 1 if the old node counts in it
    before: jax.Array  # statements before this one in its chain
    tokens: jax.Array  # tokens of the rest of the program
    fits: jax.Array  # bool: the rest obeys height and sequence limits


class _Lane(NamedTuple):
    key: jax.Array
    draws: jax.Array  # int32
    spot: jax.Array  # int32: the chosen node
    nodes: jax.Array  # int32 [N + 2]: what has grown
    size: jax.Array  # int32: its nodes
    tokens: jax.Array  # int32: of the whole program
    height: jax.Array  # int32: largest height drawn
    chain: jax.Array  # int32: statements in the chain that the new node begins
    stack: jax.Array  # uint32 [2]: open spots, one byte each, the lowest one next
    done: jax.Array  # bool


def random_programs(language: Language, keys: jax.Array, width: int = encode.WIDTH) -> jax.Array:
    """Return one random program per key, nodes int32 [B, width]; keys are typed [B]."""
    return _random_programs(language, keys, width, has_whole_loops())


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _random_programs(language: Language, keys: jax.Array, width: int, one_by_one: bool) -> jax.Array:
    seedling = jnp.zeros((1, width), jnp.int32).at[0, 0].set(PROGRAM)
    one = jnp.ones((1, width), jnp.int32)
    spots = Spots(one[:, 0], 0 * one, one, one, 0 * one, 0 * one, 4 * one, one == 1)
    return _replace_nodes(language, seedling, spots, jnp.zeros_like(seedling), keys[None], one_by_one)[0][0]


def neighbours(language: Language, programs: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return neighbours int32 [S, B, N] of programs int32 [S, N], one per key, and what was changed, int32 [S, B, 2]:
    the node of the program whose subtree was replaced and the size of that subtree (a count's starts at its REPEAT).
    Keys are typed [S, B]."""
    return _neighbours(language, programs, keys, has_whole_loops())


@functools.partial(jax.jit, static_argnums=(0, 3))
def _neighbours(language: Language, programs: jax.Array, keys: jax.Array, one_by_one: bool):
    spots, sizes = jax.vmap(functools.partial(_spots, language))(programs)
    return _replace_nodes(language, programs, spots, sizes, keys, one_by_one)


def _spots(language: Language, nodes: jax.Array) -> tuple[Spots, jax.Array]:
    """Return the spots of one program and the sizes of its subtrees."""
    n = nodes.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    kind = encode.kinds(nodes)
    end, parent = encode.tree(nodes)
    above = kind[parent]
    first = index == parent + 1
    used = kind != encode.PAD
    within = (index[:, None] <= index[None, :]) & (index[None, :] < end[:, None])  # [node, its descendants]
    counted = jnp.asarray(_COUNTS_HEIGHT)[kind]
    height = jnp.sum(within & counted[:, None] & used[:, None], axis=0)

    def follow(place, i):  # place of a Concat in its chain
        goes_on = (above[i] == CONCAT) & ~first[i]
        return place.at[i].set(jnp.where(goes_on, place[parent[i]] + 1, 1)), None

    place, _ = jax.lax.scan(follow, jnp.ones(n, jnp.int32), index[1:])
    length = jnp.where((kind == CONCAT), place + 1, 1)
    outside = ~within & used[None, :]
    fits = (jnp.max(jnp.where(outside, height[None, :], 0), axis=1) <= language.max_height) & (
        jnp.max(jnp.where(outside, length[None, :], 0), axis=1) <= language.max_sequence
    )
    tokens = _tokens(language, nodes)
    without = jnp.sum(jnp.where(outside, tokens[None, :], 0), axis=1)
    is_condition = (kind == PERCEPTION) | (kind == CONSTANT) | (kind == NOT) | (kind == AND) | (kind == OR)
    plain = (above == NOT) | (above == IFELSE)
    grows = jnp.select([kind == COUNT, is_condition & plain, is_condition], [NUMBER, PLAIN_CONDITION, CONDITION], 0)
    joins = (above == CONCAT) & ~first
    spots = Spots(
        choices=jnp.sum(used) - 1,
        grows=grows,
        position=jnp.where((above == CONCAT) & first, language.max_sequence, 1),
        height=jnp.minimum(height, 5),
        counted=counted.astype(jnp.int32),
        before=jnp.where(joins, place[parent], 0),
        tokens=without,
        fits=fits,
    )
    return jax.tree.map(lambda leaf: leaf if leaf.dtype == bool else leaf.astype(jnp.int32), spots), end - index


def _tokens(language: Language, nodes: jax.Array) -> jax.Array:
    """Return the tokens that each node brings to the text."""
    kind = encode.kinds(nodes)
    perception = jnp.asarray(_perception_tokens(language))[jnp.maximum(encode.values(nodes), 0)]
    return jnp.where(kind == PERCEPTION, perception, jnp.asarray(_OWN_TOKENS)[kind])


def _perception_tokens(language: Language) -> np.ndarray:
    return np.array([len(name.split()) for name in language.perception_names], np.int32)


def _replace_nodes(
    language: Language, programs: jax.Array, spots: Spots, sizes: jax.Array, keys: jax.Array, one_by_one: bool
) -> tuple[jax.Array, jax.Array]:
    """Return programs [S, B, N] that differ from `programs` in one regrown node; and which [S, B, 2]."""
    if language.max_height > 4 or language.max_sequence > 6:
        raise UserError("sampling goes up to height 4 and sequences of 6 (open spots are kept in eight bytes)")
    (s, n), b = programs.shape, keys.shape[1]
    owner = jnp.repeat(jnp.arange(s, dtype=jnp.int32), b)
    grow = functools.partial(_grow, _Tables.of(language), language, spots)

    def start(key: jax.Array) -> _Lane:
        zero = jnp.int32(0)
        return _Lane(
            key, draws=zero, spot=zero, nodes=jnp.zeros(n + 2, jnp.int32), size=zero, tokens=zero, height=zero,
            chain=zero, stack=jnp.zeros(2, jnp.uint32), done=jnp.bool_(False),
        )  # fmt: skip

    def splice(owner: jax.Array, lane: _Lane) -> tuple[jax.Array, jax.Array]:
        program, old_size, index = programs[owner], sizes[owner, lane.spot], jnp.arange(n)
        behind = program.at[index - lane.size + old_size].get(mode="fill", fill_value=0)
        inside = lane.nodes.at[index - lane.spot].get(mode="clip")
        nodes = jnp.where(index < lane.spot, program, jnp.where(index < lane.spot + lane.size, inside, behind))
        of_repeat = _one((program[lane.spot] & 15) == COUNT)
        return nodes, jnp.stack([lane.spot - of_repeat, old_size + of_repeat])

    def one(owner_and_key: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        owner, key = owner_and_key
        return splice(owner, jax.lax.while_loop(lambda lane: ~lane.done, functools.partial(grow, owner), start(key)))

    if one_by_one:
        nodes, changed = jax.lax.map(one, (owner, keys.reshape(-1)))
        return nodes.reshape(s, b, n), changed.reshape(s, b, 2)
    lanes = jax.vmap(start)(keys.reshape(-1))
    lanes = jax.lax.while_loop(lambda lanes: ~jnp.all(lanes.done), lambda lanes: jax.vmap(grow)(owner, lanes), lanes)
    nodes, changed = jax.vmap(splice)(owner, lanes)
    return nodes.reshape(s, b, n), changed.reshape(s, b, 2)


class _Tables(NamedTuple):
    """Grammar as cumulative thresholds on a uint32, rows by what is allowed."""

    statements: np.ndarray  # uint32 [4, kinds - 1]: rows structure allowed * 2 + Concat allowed
    heads: np.ndarray  # int32 [kinds]: node that is drawn
    operands: np.ndarray  # uint32 [3, 31]: rows any condition, condition without Not, count
    perceptions: np.ndarray  # int32 [32]: node of the perception
    perception_tokens: np.ndarray  # int32 [32]

    @classmethod
    def of(cls, language: Language) -> _Tables:
        weights = {_DRAWN[name]: p for name, p in language.statements.items() if name != "Action"}
        actions = np.array(list(language.actions.values()))
        actions = actions / actions.sum() * language.statements["Action"]
        heads = [WHILE, REPEAT, IF, IFELSE, CONCAT, *(ACTION | i << KIND_BITS for i in range(len(actions)))]
        base = np.array([*(weights[head] for head in heads[:5]), *actions])
        rows = []
        for structure in (False, True):
            for concat in (False, True):
                allowed = base.copy()
                allowed[:4] *= structure
                allowed[4] *= concat
                rows.append(_thresholds(allowed))
        # Operands: perceptions in the first 32 of 64 slots, negated ones in the others; counts in the first 20.
        perceptions = np.zeros(32)
        perceptions[: len(language.perceptions)] = list(language.perceptions.values())
        perceptions /= perceptions.sum()
        negated = language.not_probability
        operands = [
            _thresholds(np.concatenate([perceptions * (1 - negated), perceptions * negated])),
            _thresholds(np.concatenate([perceptions, perceptions * 0])),
            _thresholds(np.concatenate([np.full(len(COUNTS), 1 / len(COUNTS)), np.zeros(64 - len(COUNTS))])),
        ]
        tokens = np.ones(32, np.int32)
        tokens[: len(language.perceptions)] = _perception_tokens(language)
        nodes = np.arange(32, dtype=np.int32) << KIND_BITS | PERCEPTION
        return cls(np.stack(rows), np.array(heads, np.int32), np.stack(operands), nodes, tokens)


def _thresholds(weights: np.ndarray) -> np.ndarray:
    """Return where a uint32 passes from one choice to the next: choice = number of thresholds <= word."""
    cumulative = np.cumsum(weights / weights.sum())[:-1]
    return np.minimum(np.round(cumulative * 2.0**32), 2**32 - 1).astype(np.uint32)


def _grow(tables: _Tables, language: Language, spots: Spots, owner: jax.Array, lane: _Lane) -> _Lane:
    """Return a lane after one draw: it chooses a spot if none is open, else draws the node of the next open spot."""
    word, other = jax.random.key_data(jax.random.fold_in(lane.key, lane.draws))
    choosing = (lane.stack[0] == 0) & ~lane.done
    chosen = 1 + (word % spots.choices[owner].astype(jnp.uint32)).astype(jnp.int32)
    spot = jnp.where(choosing, chosen, lane.spot)
    place = jax.tree.map(lambda leaf: leaf[owner, spot], spots._replace(choices=spots.height))
    drawing = ~choosing & ~lane.done

    top, rest = _pop(lane.stack)
    position, height, in_chain = top & 7, (top >> 3) & 7, (top >> 6) & 1
    at_root = lane.size == 0
    grows = jnp.where(at_root, place.grows, STATEMENT)
    row = 2 * _one(at_root | (height < language.max_height)) + _one(position < language.max_sequence)
    head = jnp.asarray(tables.heads)[_choose(tables.statements, row, word)]
    is_statement = grows == STATEMENT
    head = jnp.where(is_statement, head, encode.PAD)
    kind = head & 15
    structure = (kind == WHILE) | (kind == IF) | (kind == IFELSE) | (kind == REPEAT)
    wants_count = (kind == REPEAT) | (grows == NUMBER)
    plain = (kind == IFELSE) | (grows == PLAIN_CONDITION)
    operand = _choose(tables.operands, jnp.where(wants_count, 2, jnp.where(plain, 1, 0)), other)
    has_operand = structure | ~is_statement
    negated = has_operand & ~wants_count & (operand >= 32)
    perception = operand & 31
    leaf = jnp.where(wants_count, COUNT | operand << KIND_BITS, jnp.asarray(tables.perceptions)[perception])

    # Write head, Not and operand, those that there are, behind what has grown.
    operands = jnp.where(negated, jnp.stack([jnp.int32(NOT), leaf]), jnp.stack([leaf, jnp.int32(0)]))
    written = jnp.where(is_statement, jnp.concatenate([head[None], operands]), jnp.append(operands, jnp.int32(0)))
    written = jnp.where(has_operand, written, jnp.stack([head, jnp.int32(0), jnp.int32(0)]))
    nodes = jax.lax.dynamic_update_slice(lane.nodes, written, (lane.size,))
    size = lane.size + _one(is_statement) + _one(has_operand) + _one(negated)
    operand_tokens = jnp.where(wants_count, 1, jnp.asarray(tables.perception_tokens)[perception]) + 3 * _one(negated)
    tokens = lane.tokens + jnp.asarray(_OWN_TOKENS)[kind] + jnp.where(has_operand, operand_tokens, 0)

    # Open the statements below: a body, a body and an else, or the two parts of a Concat.
    inner = height + _one(structure)
    is_concat = kind == CONCAT
    second = jnp.where(is_concat, _spot(position + 1, inner, in_chain), _spot(1, inner, 0))
    stack = jnp.where(is_concat | (kind == IFELSE), _push(rest, second), rest)
    stack = jnp.where(structure, _push(stack, _spot(1, inner, 0)), stack)
    stack = jnp.where(is_concat, _push(stack, _spot(language.max_sequence, inner, 0)), stack)
    tallest = jnp.maximum(lane.height, jnp.where(structure, inner, 0))
    chain = lane.chain + _one(is_concat & (in_chain == 1))

    too_long = tokens > language.max_tokens
    complete = drawing & (stack[0] == 0) & ~too_long
    accepted = (
        complete
        & place.fits
        & (tallest - place.counted <= language.max_height)
        & (place.before + chain <= language.max_sequence)
    )
    opened = jnp.stack([_spot(place.position, place.height, 1), jnp.uint32(0)])
    again = complete | too_long
    return _Lane(
        key=lane.key,
        draws=lane.draws + 1,
        spot=spot,
        nodes=nodes,
        size=jnp.where(choosing, 0, jnp.where(drawing, size, lane.size)),
        tokens=jnp.where(choosing, place.tokens, jnp.where(drawing, tokens, lane.tokens)),
        height=jnp.where(choosing, 0, jnp.where(drawing, tallest, lane.height)),
        chain=jnp.where(choosing, 1, jnp.where(drawing, chain, lane.chain)),
        stack=jnp.where(choosing, opened, jnp.where(drawing & ~again, stack, jnp.uint32(0))),
        done=lane.done | accepted,
    )


def _one(condition: jax.Array) -> jax.Array:
    """Return 1 where the condition holds, else 0."""
    return condition.astype(jnp.int32)


def _choose(table: np.ndarray, row: jax.Array, word: jax.Array) -> jax.Array:
    return jnp.sum(jnp.asarray(table)[row] <= word, dtype=jnp.int32)


def _spot(position, height, in_chain) -> jax.Array:
    """Return an open spot as a byte: never 0."""
    return jnp.asarray(128 | in_chain << 6 | height << 3 | position).astype(jnp.uint32)


def _pop(stack: jax.Array) -> tuple[jax.Array, jax.Array]:
    low, high = stack
    return (low & 255).astype(jnp.int32), jnp.stack([low >> 8 | high << 24, high >> 8])


def _push(stack: jax.Array, spot: jax.Array) -> jax.Array:
    low, high = stack
    return jnp.stack([low << 8 | spot, high << 8 | low >> 24])
