"""Programs as arrays: the pre-order nodes of the tree, one int32 each, padded with zeros.

A node is `kind | value << 4`. Sequences are right-nested Concat nodes; the value is the index of an action or
perception, the count of a REPEAT (a COUNT node, first child), or a constant's truth. Everything else about a program
(subtree sizes, parents, tokens, height) follows from the nodes by array code, so one mutation is one splice.
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
"""Children of each kind: condition before body, COUNT before a REPEAT's body."""

WIDTH = 64
"""Nodes that a program within the size limits of a Language can have, padding included."""


def encode(program: ast.Program, language: Language, width: int | None = None) -> np.ndarray:
    """Return the nodes of a program, int32 [width]; constants in conditions are folded (`not True` is False).

    Without a width: the smallest power of two that holds the program, at least `WIDTH`.
    """
    nodes = [PROGRAM, *_body(program.body, language)]
    if width is None:
        width = max(WIDTH, 1 << (len(nodes) - 1).bit_length())
    return np.pad(np.array(nodes, np.int32), (0, width - len(nodes)))


def encode_all(programs: Iterable[ast.Program], language: Language, width: int | None = None) -> np.ndarray:
    """Return the nodes of several programs, int32 [P, width], of the width that the largest one needs."""
    rows = [encode(program, language, width) for program in programs]
    widest = max((len(row) for row in rows), default=width or WIDTH)
    return np.stack([np.pad(row, (0, widest - len(row))) for row in rows]) if rows else np.zeros((0, widest), np.int32)


def _body(body: ast.Body, language: Language) -> list[int]:
    first, *rest = body
    nodes = _statement(first, language)
    return [CONCAT, *nodes, *_body(tuple(rest), language)] if rest else nodes


def _statement(statement: ast.Statement, language: Language) -> list[int]:
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
    return kind | value << KIND_BITS


def decode(nodes: np.ndarray, language: Language) -> ast.Program:
    """Return the program of one row of nodes, int32 [width]."""
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
    """Return the kind of every node, int32, PAD behind the program."""
    return nodes & 15


def values(nodes: jax.Array) -> jax.Array:
    """Return the value of every node, int32."""
    return nodes >> KIND_BITS


def length(nodes: jax.Array) -> jax.Array:
    """Return how many nodes a program, int32 [.., N], has, int32 [..]."""
    return jnp.sum(kinds(nodes) != PAD, axis=-1, dtype=jnp.int32)


def tree(nodes: jax.Array, count: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Return for every node of one program, int32 [N], where its subtree ends (exclusive) and its parent; the parent
    of the Program node and of padding is 0. The program has `count` nodes at most: behind them, none is looked at."""
    n = nodes.shape[0]
    children = jnp.asarray(ARITY)[kinds(nodes)]
    most = jnp.int32(n) if count is None else count

    def close(done, carry):  # children come after their parent, so going backwards finds them done
        end, parent = carry
        i = most - 1 - done
        first, many = i + 1, children[i]
        second = jnp.where(many > 0, end[first], first)
        third = jnp.where(many > 1, end[second], second)
        last = jnp.where(many > 2, end[third], third)
        for child, exists in ((first, many > 0), (second, many > 1), (third, many > 2)):
            parent = write(parent, i, jnp.where(exists, child, n))
        return write(end, last, i), parent

    beyond = jnp.arange(1, n + 2, dtype=jnp.int32)
    end, parent = jax.lax.fori_loop(jnp.int32(0), most, close, (beyond, jnp.zeros_like(beyond)))
    return end[:n], parent[:n]


def write(table: jax.Array, value: jax.Array, index: jax.Array) -> jax.Array:
    """Return `table` with `value` at `index`, which is in range."""
    return jax.lax.dynamic_update_index_in_dim(table, value, index, 0, allow_negative_indices=False)
