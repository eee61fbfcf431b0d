"""The syntax tree of programs, which text is parsed into and printed from.

    Program    DEF run m( S m)
    Statement  WHILE c( B c) w( S w) | IF c( B c) i( S i) | IFELSE c( B c) i( S i) ELSE e( S e)
               | REPEAT R=n r( S r) | S S | action
    Condition  perception | not c( B c) | and c( B c) c( B c) | or c( B c) c( B c) | True | False

A sequence of statements is a tuple here and a chain of right-nested Concat nodes in the array form (`encode.py`).
`and`, `or`, True, False and counts outside 0..19 may occur in text and can be run, but sampling never produces them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

Body = tuple["Statement", ...]
"""A sequence of one or more statements."""


@dataclasses.dataclass(frozen=True)
class Action:
    """A statement that performs one action of the language."""

    name: str


@dataclasses.dataclass(frozen=True)
class Perception:
    """A condition that asks the world one question."""

    name: str
    """The whole text, argument included: `frontIsClear`, `front_object_type h( lava h)`."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """A condition that is always True or always False."""

    value: bool


@dataclasses.dataclass(frozen=True)
class Not:
    """The negation of a condition."""

    condition: Condition


@dataclasses.dataclass(frozen=True)
class And:
    """The conjunction of two conditions. `right` is evaluated only if `left` holds."""

    left: Condition
    right: Condition


@dataclasses.dataclass(frozen=True)
class Or:
    """The disjunction of two conditions. `right` is evaluated only if `left` does not hold."""

    left: Condition
    right: Condition


@dataclasses.dataclass(frozen=True)
class While:
    """A loop that runs its body for as long as its condition holds."""

    condition: Condition
    body: Body


@dataclasses.dataclass(frozen=True)
class If:
    """A branch that runs its body if its condition holds."""

    condition: Condition
    body: Body


@dataclasses.dataclass(frozen=True)
class IfElse:
    """A branch that runs `body` if its condition holds and `otherwise` if it does not."""

    condition: Condition
    body: Body
    otherwise: Body


@dataclasses.dataclass(frozen=True)
class Repeat:
    """A loop that runs its body `count` times: not at all if `count` is 0 or negative."""

    count: int
    body: Body


@dataclasses.dataclass(frozen=True)
class Program:
    """A whole program.

    `str(program)` is its token text, which `text.from_text` parses back to an equal program.

    Args:
      body: the statements of the program, at least one.

    Example:
      >>> program = Program((While(Not(Perception("markersPresent")), (Action("move"),)), Action("pickMarker")))
      >>> print(program)
      DEF run m( WHILE c( not c( markersPresent c) c) w( move w) pickMarker m)
      >>> print(program.to_python())
      def run():
          while not markersPresent():
              move()
          pickMarker()
    """

    body: Body

    def __str__(self) -> str:
        return f"DEF run m( {_body_text(self.body)} m)"

    def to_python(self) -> str:
        """Return the program as the text of a Python function `run()`.

        `python.from_python` parses it back to an equal program, unless blocks are nested more than 98 deep or `not`
        more than 200 times, which Python's own parser does not take.

        Returns:
          The text, indented by four spaces per level and without a final newline.
        """
        return "\n".join(["def run():", *_python_lines(self.body, "    ")])


Condition = Perception | Constant | Not | And | Or
Statement = Action | While | If | IfElse | Repeat
Node = Program | Statement | Condition


def statements(body: Body) -> Iterator[Statement]:
    """Yield every statement of a body, nested ones included, in program order."""
    for statement in body:
        yield statement
        match statement:
            case While(body=inner) | If(body=inner) | Repeat(body=inner):
                yield from statements(inner)
            case IfElse(body=inner, otherwise=other):
                yield from statements(inner)
                yield from statements(other)


def words(body: Body) -> Iterator[Action | Perception]:
    """Yield the actions and perceptions of a body, in program order."""
    for statement in statements(body):
        match statement:
            case Action():
                yield statement
            case While(condition=condition) | If(condition=condition) | IfElse(condition=condition):
                yield from _perceptions(condition)


def _perceptions(condition: Condition) -> Iterator[Perception]:
    match condition:
        case Perception():
            yield condition
        case Not(inner):
            yield from _perceptions(inner)
        case And(left, right) | Or(left, right):
            yield from _perceptions(left)
            yield from _perceptions(right)


def size(program: Program) -> int:
    """Return the number of nodes of a program: one for the program, two for each REPEAT, one for each other statement,
    condition and operator, and one for each statement that follows another one in its block.

    It is the length of the array form (`encode.py`) before constants are folded. Programs of any depth are counted.

    Example:
      >>> size(Program((Repeat(3, (Action("move"), Action("turnLeft"))),)))
      6
    """
    nodes = 1
    left: list[Body | Statement | Condition] = [program.body]
    while left:
        match left.pop():
            case tuple() as body:
                nodes += max(len(body) - 1, 0)
                left += body
            case While(first, second) | If(first, second) | And(first, second) | Or(first, second):
                nodes += 1
                left += (first, second)
            case IfElse(condition, body, other):
                nodes += 1
                left += (condition, body, other)
            case Repeat(body=body):
                nodes += 2
                left.append(body)
            case Not(inner):
                nodes += 1
                left.append(inner)
            case _:
                nodes += 1
    return nodes


def height(body: Body, base: int = 1) -> int:
    """Return the height of a program's body: the largest number of counting nodes on a path from the root.

    Args:
      body: the statements.
      base: the height of the node that they belong to, itself included; 1 for a Program.

    Returns:
      The height. Program, While, Repeat, If and IfElse count 1, all other nodes 0.
    """
    heights = [base]
    for statement in body:
        match statement:
            case While(body=inner) | If(body=inner) | Repeat(body=inner):
                heights.append(height(inner, base + 1))
            case IfElse(body=inner, otherwise=other):
                heights += [height(inner, base + 1), height(other, base + 1)]
    return max(heights)


def longest_sequence(body: Body) -> int:
    """Return the largest number of statements in one sequence of the body, nested sequences included."""
    lengths = [len(body)]
    for statement in statements(body):
        match statement:
            case While(body=inner) | If(body=inner) | Repeat(body=inner):
                lengths.append(len(inner))
            case IfElse(body=inner, otherwise=other):
                lengths += [len(inner), len(other)]
    return max(lengths)


def fold(condition: Condition) -> Condition:
    """Return the condition with its constants folded, wherever that removes no call.

    The left operand of `and` and `or` is evaluated first. So a constant on the left is folded, while one on the right
    has to stay: in `and c( frontIsClear c) c( False c)`, frontIsClear is still a call.
    """
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


def _body_text(body: Body) -> str:
    """Return the token text of a sequence of statements."""
    return " ".join(map(_statement_text, body))


def _statement_text(statement: Statement) -> str:
    """Return the token text of a statement."""
    match statement:
        case Action(name):
            return name
        case While(condition, body):
            return f"WHILE c( {condition_text(condition)} c) w( {_body_text(body)} w)"
        case If(condition, body):
            return f"IF c( {condition_text(condition)} c) i( {_body_text(body)} i)"
        case IfElse(condition, body, other):
            return f"IFELSE c( {condition_text(condition)} c) i( {_body_text(body)} i) ELSE e( {_body_text(other)} e)"
        case Repeat(count, body):
            return f"REPEAT R={count} r( {_body_text(body)} r)"


def condition_text(condition: Condition) -> str:
    """Return the token text of a condition, without the surrounding `c( c)`."""
    match condition:
        case Perception(name):
            return name
        case Constant(value):
            return str(value)
        case Not(inner):
            return f"not c( {condition_text(inner)} c)"
        case And(left, right):
            return f"and c( {condition_text(left)} c) c( {condition_text(right)} c)"
        case Or(left, right):
            return f"or c( {condition_text(left)} c) c( {condition_text(right)} c)"


def call_text(word: str) -> str:
    """Return an action or a perception as a Python call, such as `move()` or `front_object_type("lava")`."""
    name, *argument = word.split()
    return f'{name}("{argument[1]}")' if argument else f"{name}()"


def _python_lines(body: Body, indent: str) -> list[str]:
    """Return a sequence of statements as lines of Python, each with this indentation or a deeper one."""
    lines: list[str] = []
    for statement in body:
        match statement:
            case Action(name):
                lines.append(f"{indent}{call_text(name)}")
            case While(condition, inner):
                lines += [f"{indent}while {_python_condition(condition)}:", *_python_lines(inner, indent + "    ")]
            case Repeat(count, inner):
                lines += [f"{indent}for i in range({count}):", *_python_lines(inner, indent + "    ")]
            case If(condition, inner):
                lines += [f"{indent}if {_python_condition(condition)}:", *_python_lines(inner, indent + "    ")]
            case IfElse(condition, inner, other):
                lines += [f"{indent}if {_python_condition(condition)}:", *_python_lines(inner, indent + "    ")]
                lines += [f"{indent}else:", *_python_lines(other, indent + "    ")]
    return lines


def _python_condition(condition: Condition) -> str:
    """Return a condition as Python text. Every operand of `and` and `or` is in brackets."""
    match condition:
        case Perception(name):
            return call_text(name)
        case Constant(value):
            return str(value)
        case Not(inner):
            text = _python_condition(inner)
            return f"not {text}" if isinstance(inner, Perception) else f"not ({text})"
        case And(left, right):
            return f"({_python_condition(left)}) and ({_python_condition(right)})"
        case Or(left, right):
            return f"({_python_condition(left)}) or ({_python_condition(right)})"
