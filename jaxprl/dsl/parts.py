"""Exchange a node of a program for a part of other programs, as array code.

A part is a subtree: a statement with all that is inside it; what a sequence has from one of its statements on, which is
a Concat node; a condition; or the count of a REPEAT. `sample.neighbours` takes the parts of some programs, and the
probability `share` with which a part replaces the chosen node, drawn uniformly from the parts of its kind. Otherwise,
and where there is no part of that kind, the node is regrown from the grammar.

- A sequence, as in the grammar, cannot be the first part of a Concat: there, only single statements are drawn.
- Any condition can replace any other one, so `not` may come below `not` and below IFELSE. Parts may have `and`, `or`,
  True and False, which the grammar does not grow.
- The new program has to obey the limits of the language. If it does not, it is given up, and another node is chosen.
  So a part that is too large by itself is drawn like any other one, in vain.

This neighbourhood is the one of InnateCoder (Moraes et al. 2025); `methods/parts.py` says in what it differs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import ast, encode, grow
from jaxprl.dsl.encode import ARITY, CONCAT, COUNT, IF, IFELSE, PERCEPTION, PROGRAM, REPEAT, WHILE
from jaxprl.dsl.grow import Growth
from jaxprl.dsl.language import Language

STATEMENT, SEQUENCE, CONDITION, NUMBER = range(4)
"""The kinds of parts, in the order in which they lie in `Parts`."""
Part = tuple[int, ...]
"""The nodes of a part, in the order of `encode.py`."""
_STATEMENTS = (WHILE, IF, IFELSE, REPEAT, encode.ACTION)
_OWN_TOKENS = grow.OWN_TOKENS.tolist()
_NEVER = 2**20
"""Tokens of a part that no program within the limits can have."""


class Parts(NamedTuple):
    """The parts of S searches, at most K each: first single statements, then sequences, conditions and counts."""

    nodes: jax.Array  # int32 [S, K, WIDTH]; zeros for a part that is too large
    size: jax.Array  # int32 [S, K]: nodes
    tokens: jax.Array  # int32 [S, K]
    height: jax.Array  # int32 [S, K]: the largest number of While, Repeat, If and IfElse nodes on a path
    length: jax.Array  # int32 [S, K]: the statements of a sequence, 1 for all other parts
    counts: jax.Array  # int32 [S, 4]: how many parts of each kind there are


TEMPLATE = Parts(*Parts._fields)  # type: ignore[arg-type]
"""The structure of parts, for `Search.template`."""


def kind_of(part: Part) -> int:
    """Return the kind of a part."""
    kind = part[0] & 15
    return {CONCAT: SEQUENCE, COUNT: NUMBER}.get(kind, STATEMENT if kind in _STATEMENTS else CONDITION)


def parts_of(program: np.ndarray) -> list[Part]:
    """Return the parts of a program, nodes int32 [N], in program order: the subtrees of all nodes but Program.

    Example:
      >>> from jaxprl.dsl.text import from_text
      >>> from jaxprl.worlds.karel.world import LANGUAGE
      >>> nodes = encode.encode(from_text("DEF run m( move turnLeft m)", LANGUAGE), LANGUAGE)
      >>> parts_of(nodes)  # CONCAT, ACTION 0 and ACTION 1
      [(2, 8, 24), (8,), (24,)]
    """
    nodes = tuple(program[program != 0].tolist())
    ends = [0] * len(nodes)
    for first in reversed(range(len(nodes))):
        end = first + 1
        for _ in range(ARITY[nodes[first] & 15]):
            end = ends[end]
        ends[first] = end
    return [nodes[first:end] for first, end in enumerate(ends) if first]


def as_program(part: Part, language: Language) -> ast.Program:
    """Return the program that consists of a statement or a sequence."""
    return encode.decode(np.array([PROGRAM, *part]), language)


def tokens_of(part: Part, language: Language) -> int:
    """Return the number of tokens that a part has in the text of a program."""
    perceptions = _tokens_of_perceptions(language)
    return sum(
        perceptions[node >> encode.KIND_BITS] if node & 15 == PERCEPTION else _OWN_TOKENS[node & 15] for node in part
    )


@functools.cache
def _tokens_of_perceptions(language: Language) -> list[int]:
    return grow.tokens_of_perceptions(language).tolist()


def stacked(searches: Iterable[Sequence[Part]], language: Language) -> Parts:
    """Return the parts of several searches as arrays.

    Args:
      searches: the parts of each search, distinct ones in any order.
      language: the language, for its limits.
    """
    rows = [sorted(parts, key=kind_of) for parts in searches]
    most = max([1, *map(len, rows)])
    nodes = np.zeros((len(rows), most, encode.WIDTH), np.int32)
    columns = np.zeros((4, len(rows), most), np.int32)
    counts = np.zeros((len(rows), 4), np.int32)
    for search, row in enumerate(rows):
        counts[search] = np.bincount([kind_of(part) for part in row], minlength=4)
        for place, part in enumerate(row):
            columns[:, search, place] = traits = _traits(part, language)
            if traits[1] < _NEVER:
                nodes[search, place, : len(part)] = part
    return Parts(*map(jnp.asarray, (nodes, *columns, counts)))


def may_fit(part: Part, language: Language) -> bool:
    """Return whether a part obeys the limits of a program, with the tokens of the shortest program around it."""
    _, tokens, height, length = _traits(part, language)
    around = int(grow.OWN_TOKENS[PROGRAM])
    fits = tokens + around <= language.max_tokens and length <= language.max_sequence
    return fits and height + 1 <= language.max_height


def _traits(part: Part, language: Language) -> tuple[int, int, int, int]:
    """Return the size, tokens, height and length of a part."""
    tokens = tokens_of(part, language)
    if kind_of(part) not in (STATEMENT, SEQUENCE):
        return len(part), tokens if len(part) <= encode.WIDTH else _NEVER, 0, 1
    body = as_program(part, language).body
    inside = ast.longest_sequence(body) > language.max_sequence or len(part) > encode.WIDTH
    return len(part), _NEVER if inside else tokens, ast.height(body, 0), len(body)


class Flat(NamedTuple):
    """The parts of S searches as rows of one table: the columns of `Parts`, and where the rows of a search begin."""

    nodes: jax.Array  # int32 [S K, WIDTH]
    size: jax.Array  # int32 [S K]
    tokens: jax.Array  # int32 [S K]
    height: jax.Array  # int32 [S K]
    length: jax.Array  # int32 [S K]
    counts: jax.Array  # int32 [S, 4]
    first: jax.Array  # int32 [S]


def flat(parts: Parts) -> Flat:
    """Return the parts of S searches as rows of one table, in which code for one lane looks its row up."""
    searches, most = parts.size.shape
    first = jnp.arange(searches, dtype=jnp.int32) * most
    rows = [column.reshape(searches * most, *column.shape[2:]) for column in parts[:-1]]
    return Flat(*[*rows, parts.counts, first])


Step = Callable[[grow.Spots, jax.Array, grow.Lane], grow.Lane]
"""Returns a lane after one step of drawing, from the spots of all programs and the number of the lane's program."""


def exchange(
    regrow: Step, language: Language, growth: Growth, parts: Flat, spots: grow.Spots, owner: jax.Array, lane: grow.Lane
) -> grow.Lane:
    """Return a lane after one step in which a part may take the place of the node that is chosen.

    Whether it does is decided when the node is chosen. Then the part is drawn, put there and checked in the same step.

    Args:
      regrow: the step that regrows a node from the grammar.
      language: the language, for its limits.
      growth: has the probability of a part.
      parts: the parts of S searches, of which each has one program.
      spots: the spots of those programs.
      owner: int32 [], the program of the lane.
      lane: the lane.
    """
    after = regrow(spots, owner, lane)
    threshold = round((growth.share or 0) * 2**32)
    if not threshold:
        return after
    key = jax.random.fold_in(lane.key, lane.draws)
    _, other = jax.random.key_data(key)  # its first half has chosen the node
    place = jax.tree.map(lambda leaf: leaf[owner, after.spot], spots._replace(choices=spots.height))
    single = place.position == growth.sequence(language)  # the first part of a Concat
    counts, kinds = parts.counts[owner], jnp.arange(4, dtype=jnp.int32)
    kind = jnp.where(place.grows == grow.STATEMENT, STATEMENT, CONDITION)
    kind = jnp.where(place.grows == grow.NUMBER, NUMBER, kind)
    wanted = (kinds == kind) | ((kinds == SEQUENCE) & (kind == STATEMENT) & ~single)
    count = jnp.sum(jnp.where(wanted, counts, 0), dtype=jnp.int32)
    before = jnp.sum(jnp.where(kinds < kind, counts, 0), dtype=jnp.int32)
    choosing = (lane.stack[0] == 0) & ~lane.done
    takes = choosing & (other <= np.uint32(threshold - 1)) & (count > 0)

    def exchanged() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        word, _ = jax.random.key_data(jax.random.fold_in(key, 1))
        chosen = (word % jnp.maximum(count, 1).astype(jnp.uint32)).astype(jnp.int32)
        row = parts.first[owner] + before + chosen
        fits = (
            place.fits
            & (place.height - place.counted + parts.height[row] <= language.max_height)
            & (place.before + parts.length[row] <= language.max_sequence)
            & (place.tokens + parts.tokens[row] <= language.max_tokens)
        )
        nodes = jnp.pad(parts.nodes[row], (0, after.nodes.shape[0] - parts.nodes.shape[1]))
        return nodes, parts.size[row], jnp.zeros_like(after.stack), fits

    nodes, size, stack, done = jax.lax.cond(
        takes, exchanged, lambda: (after.nodes, after.size, after.stack, after.done)
    )
    return after._replace(nodes=nodes, size=size, stack=stack, done=done)
