"""Arrays of StableHLO as scalars, stored arrays, and rules for entries.

Arrays of up to `SMALL` entries become scalars. A larger array that only rearranges others, or is used once, is not
stored: its entries are computed where they are wanted (`Tensor.at`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxprl.codegen.arithmetic import BOOL, INDEX, TYPES
from jaxprl.codegen.ir import Builder, Value

SMALL = 8
"""Entries of the largest array that is kept as scalars."""
CHEAP = 16
"""Operations that computing the entries of an array again may take, so that it need not be stored."""
_TYPES = {"i1": BOOL, **{f"{'u' if kind[0] == 'u' else ''}i{kind.lstrip('uint')}": kind for kind in TYPES[1:]}}


class Unsupported(Exception):
    """An operation or a type that is not translated; the message names it."""

    def anew(self) -> Unsupported:
        """Return a copy, for the reason that `compiler.Unavailable.anew` gives."""
        return Unsupported(str(self))


Index = Sequence[Value]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An array of StableHLO: its entries as scalars, a stored array, or a rule for its entries."""

    shape: tuple[int, ...]
    kind: str
    entries: tuple[Value, ...] | None = None
    array: Value | None = None
    rule: Callable[[Index], Value] | None = None
    is_cheap: bool = True  # whether its entries may be computed more than once

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def type_of(value: Any) -> tuple[tuple[int, ...], str]:
    """Return the shape and the type of a value of MLIR."""
    element = str(value.type.element_type)
    element = {"ui": "u"}.get(element, element)
    if element not in _TYPES:
        raise Unsupported(f"values of type {element}")
    return tuple(value.type.shape), _TYPES[element]


def numbers_of(attribute: Any, name: str) -> list[int]:
    """Return the numbers that an attribute has under a name, none if it does not have the name."""
    found = re.search(rf"\b{name} = (\[[^]]*\]|\d+)", str(attribute))
    return [int(number) for number in re.findall(r"\d+", found.group(1))] if found else []


class Tensors:
    """Builds what the arrays of a module become."""

    def __init__(self, functions: dict[str, Any]):
        self.functions = functions  # their blocks
        self.builder = Builder()
        self.uses: dict[Any, tuple[int, bool]] = {}

    def call(self, block: Any, args: Sequence[Tensor]) -> list[Tensor]:
        """Return the results of a block, a function's for instance."""
        raise NotImplementedError

    def entries(self, tensor: Tensor) -> tuple[Value, ...]:
        """Return all entries of a small tensor."""
        if tensor.entries is not None:
            return tensor.entries
        return tuple(self.at(tensor, [self.index(i) for i in where]) for where in np.ndindex(*tensor.shape))

    def index(self, number: int) -> Value:
        return self.builder.const(number)

    def at(self, tensor: Tensor, where: Index) -> Value:
        """Return an entry, at an index that is in range."""
        if tensor.rule is not None:
            return tensor.rule(where)
        flat = self.flat(tensor.shape, where)
        if tensor.array is not None:
            return self.builder.load(tensor.array, flat)
        assert tensor.entries is not None
        if flat.const is not None:
            return tensor.entries[flat.const]
        found = tensor.entries[-1]
        for number in reversed(range(len(tensor.entries) - 1)):
            here = self.builder.arith("equal", flat, self.index(number))
            found = self.builder.arith("select", here, tensor.entries[number], found)
        return found

    def flat(self, shape: Sequence[int], where: Index) -> Value:
        """Return the place of an entry in a flat array."""
        flat = self.index(0)
        for size, index in zip(shape, where, strict=True):
            flat = self.builder.arith("add", self.builder.arith("multiply", flat, self.index(size)), index)
        return flat

    def unflat(self, shape: Sequence[int], flat: Value) -> list[Value]:
        """Return the index of an entry from its place in a flat array."""
        where: list[Value] = []
        for size in reversed(shape):
            where.insert(0, self.builder.arith("remainder", flat, self.index(size)))
            flat = self.builder.arith("divide", flat, self.index(size))
        return where

    def stored(self, tensor: Tensor) -> Value:
        """Return a tensor as a stored array."""
        if tensor.array is not None:
            return tensor.array
        if tensor.entries is not None:
            array = self.builder.alloc(tensor.size, tensor.kind)
            for place, entry in enumerate(tensor.entries):
                array = self.builder.store(array, self.index(place), entry)
            return array

        # A short last axis is written out, so that an index that chooses between the pieces of it is a constant.
        *outer, last = tensor.shape
        inner = last if outer and last <= SMALL else 1

        def fill(i: Value, carry: list[Value]) -> list[Value]:
            array, begin = carry[0], self.builder.arith("multiply", i, self.index(inner))
            for number in range(inner):
                place = self.builder.arith("add", begin, self.index(number))
                where = [*self.unflat(outer, i), self.index(number)] if inner > 1 else self.unflat(tensor.shape, i)
                array = self.builder.store(array, place, self.at(tensor, where))
            return [array]

        return self.builder.loop(tensor.size // inner, [self.builder.alloc(tensor.size, tensor.kind)], fill)[0]

    def made(self, value: Any, rule: Callable[[Index], Value], *, is_cheap: bool = False) -> Tensor:
        """Return the tensor of a value of MLIR, whose entries follow a rule."""
        shape, kind = type_of(value)
        tensor = Tensor(shape, kind, rule=rule, is_cheap=is_cheap)
        if tensor.size <= SMALL:
            return Tensor(shape, kind, self.entries(tensor))
        if not is_cheap:
            count, elsewhere = self.count(value)
            if (count > 1 or elsewhere) and count * self.cost(tensor) > CHEAP:
                return Tensor(shape, kind, array=self.stored(tensor))
        return tensor

    def cost(self, tensor: Tensor) -> int:
        """Return how many operations it takes to compute an entry; more than `CHEAP` for loops."""
        self.builder.begin()
        self.at(tensor, [Value(INDEX, range=(0, size - 1)) for size in tensor.shape])
        ops = self.builder.end([]).ops
        return sum(CHEAP + 1 if op.blocks else op.what != "const" for op in ops)

    def count(self, value: Any) -> tuple[int, bool]:
        """Return how often a value is used, and whether some use is in a loop that does not define it."""
        known = self.uses.get(value)
        if known is not None:
            return known
        count, elsewhere, block = 0, False, value.owner.block if hasattr(value.owner, "block") else value.owner
        for use in value.uses:
            user = use.owner
            operation = getattr(user, "operation", user)
            inner = 1, False
            if operation.name == "func.call":
                callee = self.functions[operation.attributes["callee"].value]
                inner = self.count(callee.arguments[use.operand_number])
            elif operation.name in ("stablehlo.broadcast_in_dim", "stablehlo.reduce_window", "stablehlo.gather"):
                inner = 2, False  # one entry is read several times
            elif operation.name in ("stablehlo.reshape", "stablehlo.transpose", "stablehlo.slice"):
                inner = self.count(operation.results[0])
            count, elsewhere = count + inner[0], elsewhere or inner[1] or operation.block != block
        self.uses[value] = count, elsewhere
        return count, elsewhere

    def constant(self, tensor: Tensor) -> int | None:
        """Return the number that all entries of a tensor are, if that is known."""
        if tensor.rule is None:
            numbers = {entry.const for entry in tensor.entries or ()}
            return numbers.pop() if len(numbers) == 1 else None
        self.builder.begin()
        entry = self.at(tensor, [Value(INDEX, range=(0, size - 1)) for size in tensor.shape])
        self.builder.end([])
        return entry.const
