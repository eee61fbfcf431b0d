"""Programs as trees: what text is parsed into and printed from.

    Program    DEF run m( S m)
    Statement  WHILE c( B c) w( S w) | IF c( B c) i( S i) | IFELSE c( B c) i( S i) ELSE e( S e)
               | REPEAT R=n r( S r) | S S | action
    Condition  perception | not c( B c) | and c( B c) c( B c) | or c( B c) c( B c) | True | False

A sequence of statements is a tuple here; the array form (`encode.py`) has it as right-nested Concat nodes.
Sampling makes neither `and`, `or`, True, False nor counts outside 0..19; text may hold them and they run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

Body = tuple["Statement", ...]


@dataclasses.dataclass(frozen=True)
class Action:
    name: str


@dataclasses.dataclass(frozen=True)
class Perception:
    name: str
    """Whole text, argument included: `frontIsClear`, `front_object_type h( lava h)`."""


@dataclasses.dataclass(frozen=True)
class Constant:
    value: bool


@dataclasses.dataclass(frozen=True)
class Not:
    condition: Condition


@dataclasses.dataclass(frozen=True)
class And:
    left: Condition
    right: Condition


@dataclasses.dataclass(frozen=True)
class Or:
    left: Condition
    right: Condition


@dataclasses.dataclass(frozen=True)
class While:
    condition: Condition
    body: Body


@dataclasses.dataclass(frozen=True)
class If:
    condition: Condition
    body: Body


@dataclasses.dataclass(frozen=True)
class IfElse:
    condition: Condition
    body: Body
    otherwise: Body


@dataclasses.dataclass(frozen=True)
class Repeat:
    count: int
    body: Body


@dataclasses.dataclass(frozen=True)
class Program:
    body: Body


Condition = Perception | Constant | Not | And | Or
Statement = Action | While | If | IfElse | Repeat
Node = Program | Statement | Condition


def statements(body: Body) -> Iterator[Statement]:
    """Yield every statement of `body`, nested ones included, in program order."""
    for statement in body:
        yield statement
        match statement:
            case While(body=inner) | If(body=inner) | Repeat(body=inner):
                yield from statements(inner)
            case IfElse(body=inner, otherwise=other):
                yield from statements(inner)
                yield from statements(other)


def height(body: Body, base: int = 1) -> int:
    """Return the height of a program's body: Program, While, Repeat, If, IfElse count 1, others 0."""
    heights = [base]
    for statement in body:
        match statement:
            case While(body=inner) | If(body=inner) | Repeat(body=inner):
                heights.append(height(inner, base + 1))
            case IfElse(body=inner, otherwise=other):
                heights += [height(inner, base + 1), height(other, base + 1)]
    return max(heights)


def longest_sequence(body: Body) -> int:
    """Return the largest number of statements in one chain of the body."""
    lengths = [len(body)]
    for statement in statements(body):
        match statement:
            case While(body=inner) | If(body=inner) | Repeat(body=inner):
                lengths.append(len(inner))
            case IfElse(body=inner, otherwise=other):
                lengths += [len(inner), len(other)]
    return max(lengths)


def fold(condition: Condition) -> Condition:
    """Return the condition with constants folded where no call is lost: the left operand always runs first."""
    match condition:
        case Not(inner):
            folded = fold(inner)
            return Constant(not folded.value) if isinstance(folded, Constant) else Not(folded)
        case And(left, right) | Or(left, right):
            left, right = fold(left), fold(right)
            if isinstance(left, Constant):
                return right if left.value == isinstance(condition, And) else left
            return type(condition)(left, right)
    return condition
