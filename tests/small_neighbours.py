"""Neighbours of a program by the rules of Carvalho et al. (2024), in plain Python: one tree, one node at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator

from jaxprl.dsl import ast
from jaxprl.dsl.language import COUNTS, Language
from jaxprl.dsl.text import token_count

STRUCTURES = "While", "Repeat", "If", "IfElse"
BELOW = {
    "Program": ("statement",), "While": ("condition", "statement"), "If": ("condition", "statement"),
    "IfElse": ("plain", "statement", "statement"), "Repeat": ("count", "statement"), "Concat": ("single", "statement"),
    "Not": ("plain",),
}  # fmt: skip
"""What may stand below each kind of node. A single is a statement that is no Concat, a plain condition no Not."""


class Node:
    def __init__(self, kind: str, word: str = "", children: list[Node] | None = None):
        self.kind, self.word, self.children = kind, word, children or []

    def all(self) -> Iterator[tuple[Node, int]]:
        """Yield every place below this node: its parent and its number there."""
        for index, child in enumerate(self.children):
            yield self, index
            yield from child.all()

    def copy(self) -> Node:
        return Node(self.kind, self.word, [child.copy() for child in self.children])


def from_ast(part) -> Node:
    """The tree of a program, a body, a statement or a condition."""
    match part:
        case ast.Program(body=body):
            return Node("Program", children=[from_ast(body)])
        case (only,):
            return from_ast(only)
        case (first, *rest):
            return Node("Concat", children=[from_ast(first), from_ast(tuple(rest))])
        case ast.Action(name=name):
            return Node("Action", name)
        case ast.Perception(name=name):
            return Node("Perception", name)
        case ast.Not(condition=condition):
            return Node("Not", children=[from_ast(condition)])
        case ast.Repeat(count=count, body=body):
            return Node("Repeat", children=[Node("Count", str(count)), from_ast(body)])
    return Node(type(part).__name__, children=[from_ast(child) for child in vars(part).values()])


def to_ast(node: Node):
    """The inverse of `from_ast`: a body for a statement."""
    below = [to_ast(child) for child in node.children]
    match node.kind:
        case "Program":
            return ast.Program(below[0])
        case "Concat":
            return (*below[0], *below[1])
        case "Action":
            return (ast.Action(node.word),)
        case "Perception":
            return ast.Perception(node.word)
        case "Count":
            return int(node.word)
        case "Not":
            return ast.Not(below[0])
    return (getattr(ast, node.kind)(*below),)


class Sampler:
    def __init__(self, language: Language, seed: int):
        self.language, self.random = language, random.Random(seed)

    def choose(self, weights: dict[str, float]) -> str:
        return self.random.choices([*weights], [*weights.values()])[0]

    def node(self, spot: str, *, structures: bool = True, concat: bool = True) -> Node:
        """A node for a spot, without what is below it."""
        if spot == "count":
            return Node("Count", str(self.random.choice(COUNTS)))
        if spot in ("condition", "plain"):
            negated = spot == "condition" and self.random.random() < self.language.not_probability
            return Node("Not") if negated else Node("Perception", self.choose(dict(self.language.perceptions)))
        weights = dict(self.language.statements)
        for kind in (() if structures else STRUCTURES) + (() if concat and spot != "single" else ("Concat",)):
            del weights[kind]
        kind = self.choose(weights)
        return Node(kind, self.choose(dict(self.language.actions)) if kind == "Action" else "")

    def grow(self, node: Node, height: int, position: int) -> Node:
        """Grow what is below a node that is taken to have this height and, if it is a Concat, this chain position."""
        for spot in BELOW.get(node.kind, ()):
            in_chain = node.kind == "Concat"
            child = self.node(spot, structures=height < 2, concat=not in_chain or position + 1 < 4)
            node.children.append(self.grow(child, height + (child.kind in STRUCTURES), position + 1 if in_chain else 1))
        return node

    def neighbour(self, program: ast.Program, limited: bool = True) -> ast.Program:
        while True:
            tree = from_ast(program)
            parent, index = self.random.choice([*tree.all()])
            parent.children[index] = self.grow(self.node(BELOW[parent.kind][index]), 1, 0)
            found = to_ast(tree)
            if not limited or (
                token_count(found) <= self.language.max_tokens
                and ast.height(found.body) <= self.language.max_height
                and ast.longest_sequence(found.body) <= self.language.max_sequence
            ):
                return found
