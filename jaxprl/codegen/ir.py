"""The form between StableHLO and C: scalars, flat arrays, and structured loops.

A program is a tree of blocks. A block is a list of operations in order, each of which defines values once; what a loop
or a branch changes is handed on as its results. There are nine kinds of operation:

    const      a number                             table      an array of numbers
    arith      arithmetic on scalars, by name       alloc      an array whose entries are not set yet
    load       an entry of an array                 store      the array with one entry replaced
    for        a loop that is done n times          while      a loop with a condition
    case       one of several blocks

Values are integers and truth values, with the bits that XLA gives them: sums and products wrap around, a shift by the
width or more gives 0 or the sign, and a division by 0 gives all bits (`arithmetic.py` says it in one place, and
`expressions.py` says the same in C). An array is flat and indices are in range, since the reader clamps them as XLA
does.

The builder folds constants, drops what an interval of possible values decides, and does not build the same operation
twice in a block or in one around it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxprl.codegen.arithmetic import BOOL, INDEX, fold_arith, limits, signed, width, wrapped


@dataclasses.dataclass(eq=False, slots=True)
class Value:
    """A scalar, or an array of `size` entries."""

    kind: str  # the type of the scalar or of the entries
    size: int | None = None
    op: Op | None = None  # what defines it; None for an argument of a block or function
    range: tuple[int, int] | None = None  # the smallest and the largest number that it, or an entry, can be
    name: str = ""  # of an argument
    depth: int = 0  # how many blocks are around it

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest number that the value, or an entry of it, can be."""
        return self.range or limits(self.kind)

    @property
    def const(self) -> int | None:
        """The number, if the value is a constant."""
        return self.op.number if self.op is not None and self.op.what == "const" else None


@dataclasses.dataclass(eq=False, slots=True)
class Op:
    """An operation."""

    what: str  # its kind, see the head of this file
    args: list[Value]
    results: list[Value]
    name: str = ""  # of an arith
    number: int = 0  # of a const; how often a for is done
    data: np.ndarray | None = None  # of a table
    blocks: list[Block] = dataclasses.field(default_factory=list)
    place: Any = None  # where it comes from, for names (`names.py`)


@dataclasses.dataclass(eq=False, slots=True)
class Block:
    """Operations in order. A `for` passes the number of the round as the first argument, then what it carries."""

    args: list[Value] = dataclasses.field(default_factory=list)
    ops: list[Op] = dataclasses.field(default_factory=list)
    results: list[Value] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Function:
    """A function: its arguments, its body, and which arguments are changed in place.

    Where `in_place` has an argument's index for a result, the result is left in that argument.
    """

    name: str
    args: list[Value]
    body: Block
    in_place: dict[int, int]  # index of a result -> index of the argument that it replaces


_COMMUTES = {"add", "multiply", "minimum", "maximum", "and", "or", "xor", "equal"}


class Builder:
    """Builds blocks."""

    def __init__(self) -> None:
        self._open: list[tuple[Block, dict[Any, Value], bool]] = []  # block, what is in it, whether it is of a `for`
        self.place: Any = None

    @property
    def block(self) -> Block:
        """The block that is being built."""
        return self._open[-1][0]

    def begin(self, args: Sequence[Value] = (), *, is_for: bool = False) -> Block:
        """Begin a block within the present one; what does not depend on the round of a `for` is put before it."""
        block = Block(list(args))
        self._open.append((block, {}, is_for))
        for arg in args:
            arg.depth = len(self._open)
        return block

    def end(self, results: Sequence[Value]) -> Block:
        """End the present block and return it."""
        block = self._open.pop()[0]
        block.results = list(results)
        return block

    def const(self, number: int, kind: str = INDEX) -> Value:
        """Return a number."""
        key = ("const", number, kind)
        return self._known(key) or self._add(Op("const", [], [], number=number), kind, (number, number), key)

    def table(self, data: np.ndarray) -> Value:
        """Return an array of numbers, given as a flat array."""
        kind = "bool" if data.dtype == bool else str(data.dtype)
        key = ("table", data.tobytes(), kind)
        known = self._known(key)
        bounds = int(data.min()), int(data.max())
        return known or self._add(Op("table", [], [], data=data), kind, bounds, key, size=data.size)

    def alloc(self, size: int, kind: str) -> Value:
        """Return an array whose entries are not set yet."""
        return self._add(Op("alloc", [], []), kind, limits(kind), None, size=size)

    def load(self, array: Value, index: Value) -> Value:
        """Return an entry of an array."""
        if array.op is not None and array.op.what == "table" and index.const is not None:
            assert array.op.data is not None
            return self.const(int(array.op.data[index.const]), array.kind)
        key = ("load", array, index)
        return self._known(key) or self._add(Op("load", [array, index], []), array.kind, array.bounds, key)

    def store(self, array: Value, index: Value, value: Value) -> Value:
        """Return an array with one entry replaced."""
        return self._add(Op("store", [array, index, value], []), array.kind, limits(array.kind), None, size=array.size)

    def loop(
        self, count: int, inits: Sequence[Value], body: Callable[[Value, list[Value]], Sequence[Value]]
    ) -> list[Value]:
        """Return what a loop carries after `count` rounds.

        Args:
          count: how often the body is done.
          inits: what it carries at first.
          body: (number of the round, what is carried) -> what is carried on.
        """
        if count == 0:
            return list(inits)
        if count == 1:
            return list(body(self.const(0), list(inits)))
        index = Value(INDEX, range=(0, count - 1), name="i")
        args = [Value(init.kind, init.size) for init in inits]
        self.begin([index, *args], is_for=True)
        block = self.end(body(index, args))
        return self.structure("for", list(inits), [block], number=count)

    def structure(self, what: str, args: list[Value], blocks: list[Block], number: int = 0) -> list[Value]:
        """Add a `for`, `while` or `case` and return its results."""
        like = blocks[-1].results
        op = Op(what, args, [], number=number, blocks=blocks, place=self.place)
        op.results = [Value(value.kind, value.size, op, depth=len(self._open)) for value in like]
        self.block.ops.append(op)
        return op.results

    def arith(self, name: str, *args: Value, kind: str | None = None) -> Value:
        """Return the result of an arithmetic operation.

        Args:
          name: the operation, as `fold_arith` has it.
          args: the arguments, scalars.
          kind: type of the result, if it is not that of the last argument.
        """
        kind = kind or (BOOL if name in ("equal", "less") else args[-1].kind)
        of = args[1].kind if name == "select" else args[0].kind
        numbers = [arg.const for arg in args]
        if all(number is not None for number in numbers):
            return self.const(fold_arith(name, kind, numbers, of), kind)  # type: ignore[arg-type]
        if name in _COMMUTES and (numbers[0] is not None):
            args = args[1], args[0]
        simpler = self._simpler(name, args, kind)
        if simpler is not None:
            return simpler
        bounds = _bounds(name, args, kind)
        if bounds[0] == bounds[1]:
            return self.const(bounds[0], kind)
        key = (name, kind, *args)
        return self._known(key) or self._add(Op("arith", list(args), [], name=name), kind, bounds, key)

    def _simpler(self, name: str, args: Sequence[Value], kind: str) -> Value | None:
        """Return the value of an operation that needs none, or another one; None if there is no such."""
        first, last, number = args[0], args[-1], args[-1].const
        match name:
            case (
                "add" | "subtract" | "or" | "xor" | "shift_left" | "shift_right_logical" | "shift_right_arithmetic"
            ) if number == 0:
                return first
            case "multiply" | "divide" if number == 1:
                return first
            case "subtract" if number is not None and number != limits(kind)[0] and signed(kind):
                return self.arith("add", first, self.const(-number, kind))
            case "add" if (
                number is not None and first.op and first.op.name == "add" and first.op.args[1].const is not None
            ):
                return self.arith(
                    "add", first.op.args[0], self.const(wrapped(number + first.op.args[1].const, kind), kind)
                )
            case "and" | "or" | "minimum" | "maximum" if first is last:
                return first
            case "and" if number == 0:
                return last
            case "and" if number == (1 if kind == BOOL else -1 if signed(kind) else limits(kind)[1]):
                return first
            case "or" if kind == BOOL and number == 1:
                return last
            case "xor" if kind == BOOL and number == 1:
                return self.arith("not", first)
            case "not" if first.op and first.op.name == "not":
                return first.op.args[0]
            case "equal" if first is last:
                return self.const(1, BOOL)
            case "equal" if (
                number in (0, 1) and first.op and first.op.name == "convert" and first.op.args[0].kind == BOOL
            ):
                return self.arith("equal", first.op.args[0], self.const(number, BOOL))
            case "equal" if first.kind == BOOL and number is not None:
                return first if number else self.arith("not", first)
            case "less" if first is last:
                return self.const(0, BOOL)
            case "minimum" if first.bounds[1] <= last.bounds[0]:
                return first
            case "minimum" if last.bounds[1] <= first.bounds[0]:
                return last
            case "maximum" if first.bounds[0] >= last.bounds[1]:
                return first
            case "maximum" if last.bounds[0] >= first.bounds[1]:
                return last
            case "remainder" if first.bounds[0] >= 0 and first.bounds[1] < last.bounds[0]:
                return first
            case "convert" if first.kind == kind:
                return first
            case "convert" if first.op and first.op.name == "convert" and width(first.kind) >= width(kind) != 1:
                # what the first conversion has cut off or filled in, the second one cuts off
                inner = first.op.args[0]
                if inner.kind != BOOL and width(inner.kind) <= width(first.kind):
                    return self.arith("convert", inner, kind=kind) if width(inner.kind) >= width(kind) else None
            case "select":
                return self._simpler_select(*args)
        return None

    def _simpler_select(self, condition: Value, yes: Value, no: Value) -> Value | None:
        if condition.const is not None:
            return yes if condition.const else no
        if yes is no:
            return yes
        if condition.op and condition.op.name == "not":
            return self.arith("select", condition.op.args[0], no, yes)
        if yes.kind == BOOL:
            if yes.const is not None:
                return (
                    self.arith("or", condition, no)
                    if yes.const
                    else self.arith("and", no, self.arith("not", condition))
                )
            if no.const is not None:
                return (
                    self.arith("and", condition, yes)
                    if not no.const
                    else self.arith("or", yes, self.arith("not", condition))
                )
        return None

    def _known(self, key: Any) -> Value | None:
        for _, known, _ in reversed(self._open):
            if key in known:
                return known[key]
        return None

    def _add(self, op: Op, kind: str, bounds: tuple[int, int], key: Any, size: int | None = None) -> Value:
        level = len(self._open)
        if op.what == "const":
            level = 1
        elif op.what == "arith":
            needed = max(arg.depth for arg in op.args)
            while level > max(1, needed) and self._open[level - 1][2]:
                level -= 1
        value = Value(kind, size, op, bounds, depth=level)
        op.results = [value]
        op.place = self.place
        block, known, _ = self._open[level - 1]
        block.ops.append(op)
        if key is not None:
            known[key] = value
        return value


def _bounds(name: str, args: Sequence[Value], kind: str) -> tuple[int, int]:
    """Return an interval that has every result of an operation."""
    low, high = limits(kind)
    (first_low, first_high), (last_low, last_high) = args[0].bounds, args[-1].bounds
    bounds = low, high
    match name:
        case "add":
            bounds = first_low + last_low, first_high + last_high
        case "subtract":
            bounds = first_low - last_high, first_high - last_low
        case "multiply" if first_low >= 0 and last_low >= 0:
            bounds = first_low * last_low, first_high * last_high
        case "minimum":
            bounds = min(first_low, last_low), min(first_high, last_high)
        case "maximum":
            bounds = max(first_low, last_low), max(first_high, last_high)
        case "and" if last_low >= 0 or first_low >= 0:
            bounds = 0, min(high for low, high in (args[0].bounds, args[-1].bounds) if low >= 0)
        case "or" | "xor" if first_low >= 0 and last_low >= 0 and kind != BOOL:
            bounds = 0, (1 << max(first_high.bit_length(), last_high.bit_length())) - 1
        case "shift_right_logical" | "shift_right_arithmetic" if first_low >= 0:
            by = args[-1].const
            bounds = (first_low >> by, first_high >> by) if by is not None and 0 <= by < 64 else (0, first_high)
        case "shift_left" if first_low >= 0 and args[-1].const is not None and 0 <= args[-1].const < width(kind):
            bounds = first_low << args[-1].const, first_high << args[-1].const
        case "remainder" if first_low >= 0 and last_low > 0:
            bounds = 0, min(first_high, last_high - 1)
        case "divide" if first_low >= 0 and last_low > 0:
            bounds = first_low // last_high, first_high // last_low
        case "select":
            bounds = min(args[1].bounds[0], last_low), max(args[1].bounds[1], last_high)
        case "convert" if kind != BOOL:
            bounds = first_low, first_high
        case "equal" if first_high < last_low or last_high < first_low:
            bounds = 0, 0
        case "less" if first_high < last_low:
            bounds = 1, 1
        case "less" if first_low >= last_high:
            bounds = 0, 0
        case "popcnt" | "count_leading_zeros":
            bounds = 0, width(args[0].kind)
        case "sign":
            bounds = -1 if first_low < 0 else 0, 1 if first_high > 0 else 0
        case "abs" if first_low >= 0:
            bounds = first_low, first_high
    return bounds if low <= bounds[0] and bounds[1] <= high else (low, high)
