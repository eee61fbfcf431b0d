"""Encode programs as arrays: the nodes of the tree in pre-order, one int32 each, padded with zeros.

A node is `kind | value << 4`. A sequence of statements is a chain of right-nested Concat nodes. The value of a node is
the index of its action or perception, the count of a REPEAT (which is a COUNT node, the first child of the REPEAT), or
the truth of a constant. Everything else about a program (sizes of subtrees, parents, tokens, height) is computed from
the nodes by array code, so a mutation only has to splice one subtree.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language

PAD, PROGRAM, CONCAT, WHILE, IF, IFELSE, REPEAT, COUNT, ACTION, PERCEPTION, NOT, AND, OR, CONSTANT = range(14)
KIND_BITS = 4
ARITY = np.array([0, 1, 2, 2, 2, 3, 2, 0, 0, 0, 1, 2, 2, 0], np.int32)
"""int32 [14]: the number of children of each kind. A condition or COUNT comes before the body."""

WIDTH = 64
"""The default length of a row of nodes, padding included. Every program within the limits of a Language fits."""


def encode(program: ast.Program, language: Language, width: int | None = None) -> np.ndarray:
    """Encode a program, with the constants in its conditions folded (`not True` is False; `ast.fold`).

    Args:
      program: the program.
      language: its language.
      width: the length of the result; if None, the smallest power of two that holds the program, at least `WIDTH`.

    Returns:
      int32 [width]: the nodes.

    Example:
      >>> from jaxprl.dsl.text import from_text
      >>> from jaxprl.worlds.karel.world import LANGUAGE
      >>> program = from_text("DEF run m( move turnLeft m)", LANGUAGE)
      >>> encode(program, LANGUAGE, width=6).tolist()  # PROGRAM, CONCAT, ACTION 0, ACTION 1
      [1, 2, 8, 24, 0, 0]
    """
    nodes = [PROGRAM, *_body(program.body, language)]
    if width is None:
        width = max(WIDTH, 1 << (len(nodes) - 1).bit_length())
    return np.pad(np.array(nodes, np.int32), (0, width - len(nodes)))


def encode_all(programs: Iterable[ast.Program], language: Language, width: int | None = None) -> np.ndarray:
    """Encode several programs.

    Args:
      programs: P programs.
      language: their language.
      width: the length of a row; if None, the length that `encode` gives the largest program.

    Returns:
      int32 [P, width]: the nodes, one row per program.
    """
    rows = [encode(program, language, width) for program in programs]
    widest = max((len(row) for row in rows), default=width or WIDTH)
    return np.stack([np.pad(row, (0, widest - len(row))) for row in rows]) if rows else np.zeros((0, widest), np.int32)


def _body(body: ast.Body, language: Language) -> list[int]:
    """Return the nodes of a sequence: `a b c` is CONCAT a CONCAT b c."""
    nodes: list[int] = []
    for statement in body[:-1]:
        nodes += [CONCAT, *_statement(statement, language)]
    return nodes + _statement(body[-1], language)


def _statement(statement: ast.Statement, language: Language) -> list[int]:
    """Return the nodes of a statement."""
    match statement:
        case ast.Action(name):
            return [_node(ACTION, language.action_names.index(name))]
        case ast.While(condition, body):
            return [WHILE, *_condition(ast.fold(condition), language), *_body(body, language)]
        case ast.If(condition, body):
            return [IF, *_condition(ast.fold(condition), language), *_body(body, language)]
        case ast.IfElse(condition, body, other):
            folded = ast.fold(condition)
            return [IFELSE, *_condition(folded, language), *_body(body, language), *_body(other, language)]
        case ast.Repeat(count, body):
            return [REPEAT, _node(COUNT, count), *_body(body, language)]


def _condition(condition: ast.Condition, language: Language) -> list[int]:
    """Return the nodes of a condition whose constants are folded already."""
    match condition:
        case ast.Perception(name):
            return [_node(PERCEPTION, language.perception_names.index(name))]
        case ast.Constant(value):
            return [_node(CONSTANT, int(value))]
        case ast.Not(inner):
            return [NOT, *_condition(inner, language)]
        case ast.And(left, right):
            return [AND, *_condition(left, language), *_condition(right, language)]
        case ast.Or(left, right):
            return [OR, *_condition(left, language), *_condition(right, language)]


def _node(kind: int, value: int) -> int:
    """Return a node with a kind and a value, which may be negative for a COUNT."""
    return kind | value << KIND_BITS


def decode(nodes: np.ndarray, language: Language) -> ast.Program:
    """Decode a program, the inverse of `encode` up to folded constants.

    Args:
      nodes: int32 [width], the nodes of one program.
      language: its language.

    Returns:
      The program.

    Example:
      >>> from jaxprl.worlds.karel.world import LANGUAGE
      >>> print(decode(np.array([1, 2, 8, 24, 0, 0], np.int32), LANGUAGE))
      DEF run m( move turnLeft m)
    """
    stream = iter([(int(node) & 15, int(node) >> KIND_BITS) for node in nodes if node])

    def body() -> ast.Body:
        kind, value = next(stream)
        if kind == CONCAT:
            return (*body(), *body())
        match kind:
            case _ if kind == ACTION:
                return (ast.Action(language.action_names[value]),)
            case _ if kind == WHILE:
                return (ast.While(condition(), body()),)
            case _ if kind == IF:
                return (ast.If(condition(), body()),)
            case _ if kind == IFELSE:
                return (ast.IfElse(condition(), body(), body()),)
        return (ast.Repeat(next(stream)[1], body()),)

    def condition() -> ast.Condition:
        kind, value = next(stream)
        if kind == PERCEPTION:
            return ast.Perception(language.perception_names[value])
        if kind == CONSTANT:
            return ast.Constant(bool(value))
        if kind == NOT:
            return ast.Not(condition())
        return ast.And(condition(), condition()) if kind == AND else ast.Or(condition(), condition())

    next(stream)
    return ast.Program(body())


def kinds(nodes: jax.Array) -> jax.Array:
    """Return the kind of every node, an int32 array of the same shape that is PAD behind the program."""
    return nodes & 15


def values(nodes: jax.Array) -> jax.Array:
    """Return the value of every node, an int32 array of the same shape."""
    return nodes >> KIND_BITS


def length(nodes: jax.Array) -> jax.Array:
    """Return the number of nodes of every program, int32 [...] for programs int32 [..., N]."""
    return jnp.sum(kinds(nodes) != PAD, axis=-1, dtype=jnp.int32)


def tree(nodes: jax.Array, count: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Compute the extent of every subtree and the parent of every node of one program.

    Args:
      nodes: int32 [N], the nodes of the program.
      count: int32 [], a bound on the number of nodes: nothing behind them is looked at. N if None.

    Returns:
      Two arrays int32 [N]: the exclusive end of each node's subtree, and each node's parent. The parent of the Program
      node and of padding is 0; the subtree of a padding node is the node itself.

    Example:
      >>> from jaxprl.dsl.text import from_text
      >>> from jaxprl.worlds.karel.world import LANGUAGE
      >>> program = from_text("DEF run m( IF c( frontIsClear c) i( move i) turnLeft m)", LANGUAGE)
      >>> nodes = encode(program, LANGUAGE, width=8)  # PROGRAM CONCAT IF PERCEPTION ACTION ACTION PAD PAD
      >>> end, parent = tree(jnp.asarray(nodes))
      >>> end.tolist(), parent.tolist()
      ([6, 6, 5, 4, 5, 6, 7, 8], [0, 0, 1, 2, 2, 1, 0, 0])
    """
    n = nodes.shape[0]
    children = jnp.asarray(ARITY)[kinds(nodes)]
    most = jnp.int32(n) if count is None else count

    # In pre-order, a first child directly follows its parent, and the next child begins where the subtree of the one
    # before it ends. Going backwards, the ends of all children are known when their parent is reached. In the example,
    # IF at 2 has its first child at 3, its second child at end[3] = 4, and so its own end at end[4] = 5.
    def close(done: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        end, parent = carry
        i = most - 1 - done
        first, many = i + 1, take(children, i)
        second = jnp.where(many > 0, take(end, first), first)
        third = jnp.where(many > 1, take(end, second), second)
        last = jnp.where(many > 2, take(end, third), third)
        for child, exists in ((first, many > 0), (second, many > 1), (third, many > 2)):
            parent = write(parent, i, jnp.where(exists, child, n))  # entry n takes the writes for absent children
        return write(end, last, i), parent

    beyond = jnp.arange(1, n + 2, dtype=jnp.int32)
    end, parent = jax.lax.fori_loop(jnp.int32(0), most, close, (beyond, jnp.zeros_like(beyond)))
    return end[:n], parent[:n]


def take(table: jax.Array, index: jax.Array) -> jax.Array:
    """Return `table[index]` without a check of the index, which has to be in range."""
    return jax.lax.dynamic_index_in_dim(table, index, keepdims=False, allow_negative_indices=False)


def write(table: jax.Array, value: jax.Array, index: jax.Array) -> jax.Array:
    """Return `table` with `value` written at `index`, which has to be in range."""
    return jax.lax.dynamic_update_index_in_dim(table, value, index, 0, allow_negative_indices=False)
