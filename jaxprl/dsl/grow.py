"""Grow one subtree of a program from the grammar, as array code: the step that sampling repeats (`sample.py`).

A lane is one program that is being drawn. It keeps a stack of open statements. Each step takes one of them, draws its
node together with the condition or count that belongs to it, and opens the statements below that node.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
    PAD,
    PERCEPTION,
    PROGRAM,
    REPEAT,
    WHILE,
)
from jaxprl.dsl.language import Language
from jaxprl.types import Int

STATEMENT, CONDITION, PLAIN_CONDITION, NUMBER = range(4)
"""What may grow at a spot: a statement, any condition, a condition that is not a Not, or a count."""
SMALL_HEIGHT, SMALL_SEQUENCE = 2, 4
"""Height and sequence up to which a small subtree grows."""
_DRAWN = {"While": WHILE, "Repeat": REPEAT, "If": IF, "IfElse": IFELSE, "Concat": CONCAT}
OWN_TOKENS = np.zeros(16, np.int32)  # the tokens that a node of each kind adds to those of its children
OWN_TOKENS[[PROGRAM, WHILE, IF, IFELSE, REPEAT, COUNT, ACTION, NOT, AND, OR, CONSTANT]] = (
    4, 5, 5, 8, 3, 1, 1, 3, 5, 5, 1,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Growth:
    """The rules of growing in which published systems differ."""

    small: bool = False
    """Whether a new subtree is small wherever it stands, instead of as large as its place in the program allows
    (`sample.py`)."""
    limited: bool = True
    """Whether a program obeys the limits of the language. Otherwise growing alone and the room for nodes limit it."""
    share: float | None = None
    """The probability with which a node is exchanged for a part of other programs, not regrown (`parts.py`); None where
    there are no parts."""

    def sequence(self, language: Language) -> int:
        """Return the chain position from which on no Concat grows."""
        return min(SMALL_SEQUENCE, language.max_sequence) if self.small else language.max_sequence


class Spots(NamedTuple):
    """Where a program can change and which limits a change has to obey, one entry per node.

    S is the number of programs and N the number of nodes in a row. All leaves are int32 [S, N] unless stated otherwise.
    """

    choices: jax.Array  # int32 [S]: number of nodes that can be chosen, which are the nodes 1, 2, ...
    grows: jax.Array  # what may grow here: STATEMENT, CONDITION, PLAIN_CONDITION or NUMBER
    position: jax.Array  # chain position of a Concat grown here: 1, or 6 (no Concat) for the first part of a Concat
    height: jax.Array  # height that growth starts from: of the old node, or of its parent if the new subtree is small
    counted: jax.Array  # 1 if the old node counts in that height, else 0
    before: jax.Array  # number of statements before this one in its chain
    tokens: jax.Array  # number of tokens of the rest of the program
    fits: jax.Array  # bool [S, N]: whether the rest of the program obeys the limits of height and sequence


SCRATCH = 2
"""Room for nodes behind the last one: every step writes three, of which at least one counts."""


class Lane(NamedTuple):
    """One program that is being drawn."""

    key: jax.Array  # typed key []: the source of all its random numbers
    draws: jax.Array  # int32 []: number of steps so far
    spot: jax.Array  # int32 []: the node that was chosen to be replaced
    nodes: jax.Array  # int32 [N + SCRATCH]: the nodes grown in its place
    size: jax.Array  # int32 []: number of nodes grown
    tokens: jax.Array  # int32 []: number of tokens of the whole program
    height: jax.Array  # int32 []: largest height of the nodes grown
    chain: jax.Array  # int32 []: number of statements in the chain that begins with the new node
    stack: jax.Array  # uint32 [2]: the open statements, one byte each (`_spot`); the lowest byte is the top
    done: jax.Array  # bool []: whether the program is accepted


class Tables(NamedTuple):
    """The grammar as cumulative thresholds on a random uint32, with one row for each combination of allowed choices."""

    statements: np.ndarray  # uint32 [4, H - 1]: the row is 2 * (structure is allowed) + (Concat is allowed)
    heads: np.ndarray  # int32 [H]: the node of each choice: four structures, Concat, then the actions
    operands: np.ndarray  # uint32 [3, 63]: the rows are any condition, a condition that is not a Not, a count
    perceptions: np.ndarray  # int32 [32]: the node of each perception
    perception_tokens: np.ndarray  # int32 [32]: its number of tokens

    @classmethod
    def of(cls, language: Language) -> Tables:
        """Return the tables of a language."""
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
        # An operand is one of 64 choices: 0..31 are perceptions and 32..63 negated perceptions; or 0..63 are counts.
        perceptions = np.zeros(32)
        perceptions[: len(language.perceptions)] = list(language.perceptions.values())
        perceptions /= perceptions.sum()
        negated = language.not_probability
        operands = [
            _thresholds(np.concatenate([perceptions * (1 - negated), perceptions * negated])),
            _thresholds(np.concatenate([perceptions, perceptions * 0])),
            _thresholds(np.isin(np.arange(64), language.counts) / len(language.counts)),
        ]
        tokens = np.ones(32, np.int32)
        tokens[: len(language.perceptions)] = tokens_of_perceptions(language)
        nodes = np.arange(32, dtype=np.int32) << KIND_BITS | PERCEPTION
        return cls(np.stack(rows), np.array(heads, np.int32), np.stack(operands), nodes, tokens)


def tokens_of_perceptions(language: Language) -> np.ndarray:
    """Return the number of tokens of each perception, int32 [perceptions]."""
    return np.array([len(name.split()) for name in language.perception_names], np.int32)


def _thresholds(weights: np.ndarray) -> np.ndarray:
    """Return the thresholds at which a uint32 passes from one choice to the next, uint32 [choices - 1].

    The choice for a word is the number of thresholds <= word. Example: weights 1, 0 and 3 give the thresholds 2^30 and
    2^30, so that a quarter of all words choose 0, none choose 1, and the others choose 2.
    """
    cumulative = np.cumsum(weights / weights.sum())[:-1]
    return np.minimum(np.round(cumulative * 2.0**32), 2**32 - 1).astype(np.uint32)


def step(tables: Tables, language: Language, growth: Growth, spots: Spots, owner: jax.Array, lane: Lane) -> Lane:
    """Return a lane after one step.

    If no statement is open, the step chooses the spot to replace. Otherwise it takes the next open statement off the
    stack, draws its node, and opens the statements below it. Example, growing `WHILE c( not c( markersPresent c) c)
    w( move turnLeft w)` in place of an action directly below the Program node (height 1):

        step  draws                       nodes so far                    open statements, next one first
        0     the spot                    -                               new node (position 1, height 1)
        1     WHILE, not markersPresent   WHILE NOT PERCEPTION            body (1, 2)
        2     Concat                      WHILE NOT PERCEPTION CONCAT     first (6, 2), second (2, 2)
        3     move                        .. CONCAT move                  second (2, 2)
        4     turnLeft                    .. CONCAT move turnLeft         none: the subtree is complete

    If the new program is accepted, the lane is done; otherwise the next step chooses a spot again. A program that
    exceeds the limit of tokens, or the room for nodes if it is not limited, is given up at once.

    Args:
      tables: the grammar of the language.
      language: the language, for its limits.
      growth: the rules of growing.
      spots: the spots of S programs.
      owner: int32 [], the program of the lane.
      lane: the lane.

    Returns:
      The lane after the step, unchanged but for `draws` if it is done.
    """
    # `word` chooses the spot or the node, `other` its condition or count.
    word, other = jax.random.key_data(jax.random.fold_in(lane.key, lane.draws))
    choosing = (lane.stack[0] == 0) & ~lane.done
    chosen = 1 + (word % spots.choices[owner].astype(jnp.uint32)).astype(jnp.int32)
    spot = jnp.where(choosing, chosen, lane.spot)
    # `choices` has no axis of nodes and is not needed below; with a leaf that has one in its place, one map does it.
    place = jax.tree.map(lambda leaf: leaf[owner, spot], spots._replace(choices=spots.height))
    drawing = ~choosing & ~lane.done

    top, rest = _pop(lane.stack)
    position, height, in_chain = top & 7, (top >> 3) & 7, (top >> 6) & 1
    at_root = lane.size == 0
    grows = jnp.where(at_root, place.grows, STATEMENT)
    # The new node itself may be a structure at any height, since only what its parent allows filters it (`sample.py`).
    limit: Int = language.max_height
    if growth.small:
        limit = place.height + SMALL_HEIGHT - 1 + _one(_is_structure(lane.nodes[0] & 15))
    row = 2 * _one(at_root | (height < limit)) + _one(position < growth.sequence(language))
    head = jnp.asarray(tables.heads)[_choose(tables.statements, row, word)]
    is_statement = grows == STATEMENT
    head = jnp.where(is_statement, head, PAD)
    kind = head & 15
    structure = _is_structure(kind)
    wants_count = (kind == REPEAT) | (grows == NUMBER)
    plain = (kind == IFELSE) | (grows == PLAIN_CONDITION)
    operand = _choose(tables.operands, jnp.where(wants_count, 2, jnp.where(plain, 1, 0)), other)
    has_operand = structure | ~is_statement
    negated = has_operand & ~wants_count & (operand >= 32)
    perception = operand & 31
    leaf = jnp.where(wants_count, COUNT | operand << KIND_BITS, jnp.asarray(tables.perceptions)[perception])

    # Append head, Not and operand to the nodes, as far as they exist. Always three are written, and `size` says how
    # many of them count: WHILE NOT p, WHILE p 0, or move 0 0. At a condition or count there is no head: NOT p 0.
    operands = jnp.where(negated, jnp.stack([jnp.int32(NOT), leaf]), jnp.stack([leaf, jnp.int32(0)]))
    written = jnp.where(is_statement, jnp.concatenate([head[None], operands]), jnp.append(operands, jnp.int32(0)))
    written = jnp.where(has_operand, written, jnp.stack([head, jnp.int32(0), jnp.int32(0)]))
    nodes = jax.lax.dynamic_update_slice(lane.nodes, written, (lane.size,))
    size = lane.size + _one(is_statement) + _one(has_operand) + _one(negated)
    operand_tokens = jnp.where(wants_count, 1, jnp.asarray(tables.perception_tokens)[perception]) + 3 * _one(negated)
    tokens = lane.tokens + jnp.asarray(OWN_TOKENS)[kind] + jnp.where(has_operand, operand_tokens, 0)

    # Open the statements below: a body, a body and an else, or the two parts of a Concat. What comes first in the
    # text is pushed last. The first part of a Concat gets the last position, where no Concat is allowed.
    inner = height + _one(structure)
    is_concat = kind == CONCAT
    second = jnp.where(is_concat, _spot(position + 1, inner, in_chain), _spot(1, inner, 0))
    stack = jnp.where(is_concat | (kind == IFELSE), _push(rest, second), rest)
    stack = jnp.where(structure, _push(stack, _spot(1, inner, 0)), stack)
    stack = jnp.where(is_concat, _push(stack, _spot(growth.sequence(language), inner, 0)), stack)
    tallest = jnp.maximum(lane.height, jnp.where(structure, inner, 0))
    chain = lane.chain + _one(is_concat & (in_chain == 1))

    # Acceptance goes by true heights. A While in place of a While of height 2 grew as if its height were 3, one more
    # than it is; `counted` takes that back.
    room = lane.nodes.shape[0] - SCRATCH
    too_long = tokens > language.max_tokens if growth.limited else lane.spot + size > room
    complete = drawing & (stack[0] == 0) & ~too_long
    accepted = complete
    if growth.limited:
        accepted = (
            complete
            & place.fits
            & (tallest - place.counted <= language.max_height)
            & (place.before + chain <= language.max_sequence)
        )
    opened = jnp.stack([_spot(place.position, place.height, 1), jnp.uint32(0)])
    again = complete | too_long
    return Lane(
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


def _is_structure(kind: jax.Array) -> jax.Array:
    return (kind == WHILE) | (kind == IF) | (kind == IFELSE) | (kind == REPEAT)


def _one(condition: jax.Array) -> jax.Array:
    """Return int32 1 where the condition holds, else 0."""
    return condition.astype(jnp.int32)


def _choose(table: np.ndarray, row: jax.Array, word: jax.Array) -> jax.Array:
    """Return the choice of a random uint32 by the thresholds of a row (`_thresholds`), int32."""
    return jnp.sum(jnp.asarray(table)[row] <= word, dtype=jnp.int32)


def _spot(position: Int, height: Int, in_chain: Int) -> jax.Array:
    """Pack an open statement into a byte, uint32.

    Args:
      position: the position that a Concat would have in its chain, 1..6 (three bits).
      height: the height of the nodes above; for the new node, that of the old one. 1..6 (three bits).
      in_chain: 1 if a Concat here extends the chain that begins with the new node, else 0.

    Returns:
      The byte. Its highest bit is always set, which tells it from an empty place of the stack.
    """
    return jnp.asarray(128 | in_chain << 6 | height << 3 | position).astype(jnp.uint32)


def _pop(stack: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the top byte of a stack of eight bytes, int32 (0 if it is empty), and the stack without it."""
    low, high = stack
    return (low & 255).astype(jnp.int32), jnp.stack([low >> 8 | high << 24, high >> 8])


def _push(stack: jax.Array, spot: jax.Array) -> jax.Array:
    """Return a stack of eight bytes with one more byte on top."""
    low, high = stack
    return jnp.stack([low << 8 | spot, high << 8 | low >> 24])
