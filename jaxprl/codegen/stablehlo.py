"""Reads StableHLO, the form in which JAX hands a function to a compiler, into scalars, flat arrays and loops (`ir.py`).

StableHLO rather than jaxprs, by an experiment on the worker, the instructions and the sampling of three tasks: these
are 46 kinds of primitives as jaxprs, some of which (the random generator) have a meaning only in JAX's own lowering
rules, and new versions of JAX bring new ones. In StableHLO they are 34 kinds of operations, which are specified and
stay. Walking over them takes a millisecond.

Arrays of up to `SMALL` entries become scalars. A larger array that only rearranges others, or is used once, is not
stored: its entries are computed where they are wanted (`Tensor.at`). What a loop hands on unchanged is not carried.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprl.codegen.ir import BOOL, INDEX, TYPES, Block, Builder, Function, Value

SMALL = 8
"""Entries of the largest array that is kept as scalars."""
CHEAP = 16
"""Operations that computing the entries of an array again may take, so that it need not be stored."""
_TYPES = {"i1": BOOL, **{f"{'u' if kind[0] == 'u' else ''}i{kind.lstrip('uint')}": kind for kind in TYPES[1:]}}
_BINARY = {
    "add", "subtract", "multiply", "divide", "remainder", "minimum", "maximum", "and", "or", "xor", "shift_left",
    "shift_right_logical", "shift_right_arithmetic",
}  # fmt: skip
_UNARY = {"not", "negate", "abs", "sign", "popcnt", "count_leading_zeros"}
_MOVES = {"broadcast_in_dim", "reshape", "slice", "transpose", "reverse", "concatenate", "pad", "iota", "constant"}
"""Operations whose results cost nothing to compute again."""


class Unsupported(Exception):
    """An operation or a type that is not translated; the message names it."""


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


def translate(
    name: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    arg_names: Sequence[str],
    *,
    in_place: dict[int, int] | None = None,
) -> Function:
    """Translate a JAX function.

    Args:
      name: the name of the result.
      function: the function.
      args: its arguments, pytrees of `jax.ShapeDtypeStruct`.
      arg_names: names of the leaves of the arguments.
      in_place: index of a leaf of the result -> index of the leaf of the arguments that it replaces.

    Returns:
      The function. Scalars are passed by value, arrays as flat arrays, leaf by leaf.

    Raises:
      Unsupported: it has an operation that is not translated.
    """
    lowered = jax.jit(function, keep_unused=True).trace(*args).lower(lowering_platforms=("cpu",))
    module = lowered.compiler_ir("stablehlo")
    reader = _Reader(module)
    main = reader.functions["main"]
    values, tensors = [], []
    builder = reader.builder
    block = builder.begin()
    for argument, arg_name in zip(main.arguments, arg_names, strict=True):
        shape, kind = _type(argument)
        size = None if shape == () else int(np.prod(shape))
        value = Value(kind, size, name=arg_name)
        values.append(value)
        tensors.append(Tensor(shape, kind, (value,)) if size is None else Tensor(shape, kind, array=value))
    results = []
    for index, tensor in enumerate(reader.call(main, tensors)):
        if tensor.shape == ():
            results.append(reader.entries(tensor)[0])
        else:
            target = (in_place or {}).get(index)
            stored = reader.stored(tensor)
            results.append(stored if target is None or stored is not values[target] else values[target])
    block = builder.end(results)
    return Function(name, values, block, dict(in_place or {}))


def _type(value: Any) -> tuple[tuple[int, ...], str]:
    """Return the shape and the type of a value of MLIR."""
    element = str(value.type.element_type)
    element = {"ui": "u"}.get(element, element)
    if element not in _TYPES:
        raise Unsupported(f"values of type {element}")
    return tuple(value.type.shape), _TYPES[element]


def _numbers(attribute: Any, name: str) -> list[int]:
    """Return the numbers that an attribute has under a name, none if it does not have the name."""
    found = re.search(rf"\b{name} = (\[[^]]*\]|\d+)", str(attribute))
    return [int(number) for number in re.findall(r"\d+", found.group(1))] if found else []


class _Reader:
    """Reads one module."""

    def __init__(self, module: Any):
        self.functions = {
            op.name.value: op.regions[0].blocks[0] for op in module.body.operations if "func" in str(op.operation.name)
        }
        self.builder = Builder()
        self.inlined = 0
        self.uses: dict[Any, tuple[int, bool]] = {}

    # Tensors

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
        shape, kind = _type(value)
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

    # Blocks

    def call(self, block: Any, args: Sequence[Tensor]) -> list[Tensor]:
        """Return the results of a block, a function's for instance."""
        return self.read(block, dict(zip(block.arguments, args, strict=True)))

    def read(self, block: Any, known: dict[Any, Tensor]) -> list[Tensor]:
        """Build the operations of a block and return its results. `known` has the values that it may use."""
        for op in block.operations:
            operation = op.operation
            name = operation.name
            if name in ("func.return", "stablehlo.return"):
                return [known[value] for value in operation.operands]
            if not self.inlined:
                self.builder.place = operation.location
            args = [known[value] for value in operation.operands]
            if name in ("stablehlo.while", "stablehlo.case", "stablehlo.if"):
                results = (self.loop if name == "stablehlo.while" else self.case)(operation, args, known)
            elif name == "func.call":
                self.inlined += 1
                results = self.call(self.functions[operation.attributes["callee"].value], args)
                self.inlined -= 1
            elif name == "stablehlo.optimization_barrier":
                results = args
            elif name == "stablehlo.reduce":
                results = self.reduce(operation, args)
            else:
                method = getattr(self, f"op_{name.removeprefix('stablehlo.')}", None)
                short = name.removeprefix("stablehlo.")
                if method is not None:
                    results = [method(operation, args)]
                elif short in _BINARY | _UNARY:
                    results = [self.elementwise(operation, short, args)]
                else:
                    raise Unsupported(name)
            known.update(zip(operation.results, results, strict=True))
        raise AssertionError("a block without a return")

    def elementwise(self, op: Any, name: str, args: Sequence[Tensor]) -> Tensor:
        kind = _type(op.results[0])[1]
        return self.made(
            op.results[0], lambda where: self.builder.arith(name, *(self.at(arg, where) for arg in args), kind=kind)
        )

    def op_convert(self, op: Any, args: list[Tensor]) -> Tensor:
        kind = _type(op.results[0])[1]
        return self.made(op.results[0], lambda where: self.builder.arith("convert", self.at(args[0], where), kind=kind))

    def op_bitcast_convert(self, op: Any, args: list[Tensor]) -> Tensor:
        shape, kind = _type(op.results[0])
        if shape != args[0].shape or BOOL in (kind, args[0].kind):
            raise Unsupported("bitcast_convert between types of different widths")
        return self.op_convert(op, args)

    def op_compare(self, op: Any, args: list[Tensor]) -> Tensor:
        direction = str(op.attributes["comparison_direction"]).split()[-1].rstrip(">")
        left, right = (args[1], args[0]) if direction in ("GT", "LE") else args

        def compare(where: Index) -> Value:
            name = "equal" if direction in ("EQ", "NE") else "less"
            found = self.builder.arith(name, self.at(left, where), self.at(right, where))
            return self.builder.arith("not", found) if direction in ("NE", "LE", "GE") else found

        return self.made(op.results[0], compare)

    def constant(self, tensor: Tensor) -> int | None:
        """Return the number that all entries of a tensor are, if that is known."""
        if tensor.rule is None:
            numbers = {entry.const for entry in tensor.entries or ()}
            return numbers.pop() if len(numbers) == 1 else None
        self.builder.begin()
        entry = self.at(tensor, [Value(INDEX, range=(0, size - 1)) for size in tensor.shape])
        self.builder.end([])
        return entry.const

    def op_select(self, op: Any, args: list[Tensor]) -> Tensor:
        chosen = self.constant(args[0])
        if chosen is not None:
            return args[1] if chosen else args[2]

        def choose(where: Index) -> Value:
            condition = self.at(args[0], where if args[0].shape else ())
            if condition.const is not None:
                return self.at(args[1] if condition.const else args[2], where)
            return self.builder.arith("select", condition, self.at(args[1], where), self.at(args[2], where))

        return self.made(op.results[0], choose)

    def op_clamp(self, op: Any, args: list[Tensor]) -> Tensor:
        low, middle, high = args

        def clamp(where: Index) -> Value:
            ends = [self.at(end, where if end.shape else ()) for end in (low, high)]
            raised = self.builder.arith("maximum", self.at(middle, where), ends[0])
            return self.builder.arith("minimum", raised, ends[1])

        return self.made(op.results[0], clamp)

    # Rearrangements

    def op_constant(self, op: Any, args: list[Tensor]) -> Tensor:
        shape, kind = _type(op.results[0])
        attribute = op.attributes["value"]
        if attribute.is_splat:
            number = attribute.get_splat_value().value
            number = int(number)
            return self.made(op.results[0], lambda where: self.builder.const(number, kind), is_cheap=True)
        data = np.array(attribute).astype(kind).reshape(-1)
        if data.size <= SMALL:
            return Tensor(shape, kind, tuple(self.builder.const(int(number), kind) for number in data))
        return Tensor(shape, kind, array=self.builder.table(data))

    def op_iota(self, op: Any, args: list[Tensor]) -> Tensor:
        axis, kind = op.attributes["iota_dimension"].value, _type(op.results[0])[1]
        return self.made(
            op.results[0], lambda where: self.builder.arith("convert", where[axis], kind=kind), is_cheap=True
        )

    def op_broadcast_in_dim(self, op: Any, args: list[Tensor]) -> Tensor:
        axes, shape = list(op.attributes["broadcast_dimensions"]), args[0].shape

        def rule(where: Index) -> Value:
            return self.at(
                args[0], [self.index(0) if size == 1 else where[axis] for axis, size in zip(axes, shape, strict=True)]
            )

        return self.made(op.results[0], rule, is_cheap=True)

    def op_reshape(self, op: Any, args: list[Tensor]) -> Tensor:
        shape, kind = _type(op.results[0])  # noqa: RUF059
        if args[0].entries is not None or args[0].array is not None:
            return dataclasses.replace(args[0], shape=shape)
        old = args[0].shape
        if [size for size in shape if size != 1] == [
            size for size in old if size != 1
        ]:  # only axes of one entry change
            kept = [axis for axis, size in enumerate(shape) if size != 1]

            def same(where: Index) -> Value:
                rest = iter(kept)
                return self.at(args[0], [self.index(0) if size == 1 else where[next(rest)] for size in old])

            return self.made(op.results[0], same, is_cheap=True)
        return self.made(
            op.results[0], lambda where: self.at(args[0], self.unflat(old, self.flat(shape, where))), is_cheap=True
        )

    def op_slice(self, op: Any, args: list[Tensor]) -> Tensor:
        starts, strides = list(op.attributes["start_indices"]), list(op.attributes["strides"])

        def rule(where: Index) -> Value:
            return self.at(
                args[0],
                [
                    self._moved(index, stride, start)
                    for index, stride, start in zip(where, strides, starts, strict=True)
                ],
            )

        return self.made(op.results[0], rule, is_cheap=True)

    def _moved(self, index: Value, stride: int, start: int) -> Value:
        return self.builder.arith("add", self.builder.arith("multiply", index, self.index(stride)), self.index(start))

    def op_transpose(self, op: Any, args: list[Tensor]) -> Tensor:
        axes = list(op.attributes["permutation"])

        def rule(where: Index) -> Value:
            return self.at(args[0], [where[axes.index(axis)] for axis in range(len(axes))])

        return self.made(op.results[0], rule, is_cheap=True)

    def op_reverse(self, op: Any, args: list[Tensor]) -> Tensor:
        axes, shape = list(op.attributes["dimensions"]), args[0].shape

        def rule(where: Index) -> Value:
            turned = [
                self.builder.arith("subtract", self.index(shape[axis] - 1), index) if axis in axes else index
                for axis, index in enumerate(where)
            ]
            return self.at(args[0], turned)

        return self.made(op.results[0], rule, is_cheap=True)

    def op_concatenate(self, op: Any, args: list[Tensor]) -> Tensor:
        axis = op.attributes["dimension"].value
        ends = list(itertools.accumulate(arg.shape[axis] for arg in args))

        def rule(where: Index) -> Value:
            place, found = where[axis], None
            for arg, end in reversed(list(zip(args, ends, strict=True))):
                size = arg.shape[axis]
                if not size:
                    continue
                inside = self.builder.arith("add", place, self.index(size - end))
                inside = self._clamped(inside, size - 1)
                entry = self.at(arg, [*where[:axis], inside, *where[axis + 1 :]])
                before = self.builder.arith("less", place, self.index(end))
                found = entry if found is None else self.builder.arith("select", before, entry, found)
            assert found is not None
            return found

        return self.made(op.results[0], rule, is_cheap=all(arg.is_cheap for arg in args))

    def op_pad(self, op: Any, args: list[Tensor]) -> Tensor:
        inner, filler = args
        low = list(op.attributes["edge_padding_low"])
        if any(op.attributes["interior_padding"]):
            raise Unsupported("pad with interior padding")

        def rule(where: Index) -> Value:
            inside, place = self.builder.const(1, BOOL), []
            for index, before, size in zip(where, low, inner.shape, strict=True):
                moved = self.builder.arith("subtract", index, self.index(before))
                inside = self.builder.arith("and", inside, self._within(moved, size))
                place.append(self._clamped(moved, size - 1))
            return self.builder.arith("select", inside, self.at(inner, place), self.entries(filler)[0])

        return self.made(op.results[0], rule, is_cheap=inner.is_cheap)

    def _clamped(self, index: Value, most: int) -> Value:
        """Return an index within 0 .. most."""
        if index.kind != INDEX:
            top = self.builder.const(most, index.kind)
            if index.kind.startswith("u"):
                return self.builder.arith("convert", self.builder.arith("minimum", index, top), kind=INDEX)
            index = self.builder.arith(
                "minimum", self.builder.arith("maximum", index, self.builder.const(0, index.kind)), top
            )
            return self.builder.arith("convert", index, kind=INDEX)
        return self.builder.arith("minimum", self.builder.arith("maximum", index, self.index(0)), self.index(most))

    def _within(self, index: Value, size: int) -> Value:
        """Return whether an index is within 0 .. size - 1."""
        zero, end = self.builder.const(0, index.kind), self.builder.const(size, index.kind)
        not_low = self.builder.arith("not", self.builder.arith("less", index, zero))
        return self.builder.arith("and", not_low, self.builder.arith("less", index, end))

    def op_dynamic_slice(self, op: Any, args: list[Tensor]) -> Tensor:
        sizes = list(op.attributes["slice_sizes"])
        starts = self._starts(args[1:], args[0].shape, sizes)

        def rule(where: Index) -> Value:
            return self.at(
                args[0], [self.builder.arith("add", start, index) for start, index in zip(starts, where, strict=True)]
            )

        return self.made(op.results[0], rule, is_cheap=args[0].is_cheap)

    def _starts(self, starts: Sequence[Tensor], shape: Sequence[int], sizes: Sequence[int]) -> list[Value]:
        """Return where a slice begins, moved so that it is within the array."""
        return [
            self._clamped(self.entries(start)[0], whole - size)
            for start, whole, size in zip(starts, shape, sizes, strict=True)
        ]

    def op_dynamic_update_slice(self, op: Any, args: list[Tensor]) -> Tensor:
        table, update, *starts = args
        begin = self._starts(starts, table.shape, update.shape)
        if table.size <= SMALL:
            entries = list(self.entries(table))
            for where in np.ndindex(*update.shape):
                new = self.at(update, [self.index(i) for i in where])
                place = self.flat(
                    table.shape,
                    [self.builder.arith("add", start, self.index(i)) for start, i in zip(begin, where, strict=True)],
                )
                for number, old in enumerate(entries):
                    entries[number] = self.builder.arith(
                        "select", self.builder.arith("equal", place, self.index(number)), new, old
                    )
            return Tensor(table.shape, table.kind, tuple(entries))

        def put(array: Value, where: Index) -> Value:
            place = [self.builder.arith("add", start, index) for start, index in zip(begin, where, strict=True)]
            return self.builder.store(array, self.flat(table.shape, place), self.at(update, where))

        array = self.stored(table)
        if update.size <= SMALL:
            entries = list(self.entries(update))
            update = Tensor(update.shape, update.kind, tuple(entries))
            for where in np.ndindex(*update.shape):
                array = put(array, [self.index(i) for i in where])
        else:
            if update.array is None:
                update = Tensor(update.shape, update.kind, array=self.stored(update))
            array = self.builder.loop(
                update.size, [array], lambda i, carry: [put(carry[0], self.unflat(update.shape, i))]
            )[0]
        return Tensor(table.shape, table.kind, array=array)

    def op_gather(self, op: Any, args: list[Tensor]) -> Tensor:
        table, starts = args
        numbers, sizes = op.attributes["dimension_numbers"], list(op.attributes["slice_sizes"])
        offset, collapsed = _numbers(numbers, "offset_dims"), _numbers(numbers, "collapsed_slice_dims")
        index_map, (vector,) = _numbers(numbers, "start_index_map"), _numbers(numbers, "index_vector_dim") or [0]
        batched = _numbers(numbers, "operand_batching_dims")
        starts_batched = _numbers(numbers, "start_indices_batching_dims")

        def rule(where: Index) -> Value:
            batch = [index for axis, index in enumerate(where) if axis not in offset]
            inside = iter([where[axis] for axis in offset])
            place = [
                self.index(0) if axis in collapsed or axis in batched else next(inside)
                for axis in range(len(table.shape))
            ]
            for number, axis in enumerate(index_map):
                at = batch if vector == len(starts.shape) else [*batch[:vector], self.index(number), *batch[vector:]]
                start = self._clamped(self.at(starts, at), table.shape[axis] - sizes[axis])
                place[axis] = self.builder.arith("add", start, place[axis])
            for axis, from_axis in zip(batched, starts_batched, strict=True):
                place[axis] = batch[from_axis - (from_axis > vector)]
            return self.at(table, place)

        return self.made(op.results[0], rule)

    def op_scatter(self, op: Any, args: list[Tensor]) -> Tensor:
        if len(args) != 3:
            raise Unsupported("scatter of several arrays")
        table, starts, updates = args
        numbers = op.attributes["scatter_dimension_numbers"]
        window, inserted = _numbers(numbers, "update_window_dims"), _numbers(numbers, "inserted_window_dims")
        to_axis = _numbers(numbers, "scatter_dims_to_operand_dims")
        (vector,) = _numbers(numbers, "index_vector_dim") or [0]
        if _numbers(numbers, "input_batching_dims"):
            raise Unsupported("scatter with batching dimensions")
        body = op.regions[0].blocks[0]

        def put(i: Value, carry: list[Value]) -> list[Value]:
            where = self.unflat(updates.shape, i)
            batch = [index for axis, index in enumerate(where) if axis not in window]
            inside = iter([where[axis] for axis in window])
            place = [self.index(0) if axis in inserted else next(inside) for axis in range(len(table.shape))]
            fits = self.builder.const(1, BOOL)
            for number, axis in enumerate(to_axis):
                at = batch if vector == len(starts.shape) else [*batch[:vector], self.index(number), *batch[vector:]]
                start = self.at(starts, at)
                moved = self.builder.arith("add", self.builder.arith("convert", start, kind=INDEX), place[axis])
                fits = self.builder.arith("and", fits, self._within(start, table.shape[axis]))
                fits = self.builder.arith("and", fits, self._within(moved, table.shape[axis]))
                place[axis] = self._clamped(moved, table.shape[axis] - 1)
            flat = self.flat(table.shape, place)
            old = self.builder.load(carry[0], flat)
            scalars = [Tensor((), table.kind, (value,)) for value in (old, self.at(updates, where))]
            new = self.entries(self.call(body, scalars)[0])[0]
            return [self.builder.store(carry[0], flat, self.builder.arith("select", fits, new, old))]

        array = self.builder.loop(updates.size, [self.stored(table)], put)[0]
        tensor = Tensor(table.shape, table.kind, array=array)
        return Tensor(table.shape, table.kind, self.entries(tensor)) if tensor.size <= SMALL else tensor

    def reduce(self, op: Any, args: list[Tensor]) -> list[Tensor]:
        half = len(args) // 2
        tensors, inits = args[:half], [self.entries(arg)[0] for arg in args[half:]]
        axes, body = list(op.attributes["dimensions"]), op.regions[0].blocks[0]
        shape = tensors[0].shape
        sizes = [shape[axis] for axis in axes]

        def all_of(where: Index) -> list[Value]:
            def add(i: Value, carry: list[Value]) -> list[Value]:
                inner, outer = iter(self.unflat(sizes, i)), iter(where)
                place = [next(inner) if axis in axes else next(outer) for axis in range(len(shape))]
                scalars = [
                    Tensor((), value.kind, (value,))
                    for value in [*carry, *(self.at(tensor, place) for tensor in tensors)]
                ]
                return [self.entries(result)[0] for result in self.call(body, scalars)]

            count = int(np.prod(sizes, dtype=np.int64))
            if count > SMALL:
                return self.builder.loop(count, inits, add)
            found = list(inits)
            for number in range(count):
                found = add(self.index(number), found)
            return found

        if len(op.results) == 1:
            return [self.made(op.results[0], lambda where: all_of(where)[0])]
        types = [_type(value) for value in op.results]
        size = int(np.prod(types[0][0], dtype=np.int64))
        if size > SMALL:

            def fill(i: Value, carry: list[Value]) -> list[Value]:
                found = all_of(self.unflat(types[0][0], i))
                return [self.builder.store(array, i, entry) for array, entry in zip(carry, found, strict=True)]

            arrays = self.builder.loop(size, [self.builder.alloc(size, kind) for _, kind in types], fill)
            return [Tensor(shape, kind, array=array) for (shape, kind), array in zip(types, arrays, strict=True)]
        rows = [all_of([self.index(i) for i in where]) for where in np.ndindex(*op.results[0].type.shape)]
        return [
            Tensor(*_type(value), tuple(column))
            for value, column in zip(op.results, zip(*rows, strict=True), strict=True)
        ]

    def op_reduce_window(self, op: Any, args: list[Tensor]) -> Tensor:
        table, init = args
        if len(table.shape) != 1 or table.shape != tuple(op.results[0].type.shape):
            raise Unsupported("reduce_window other than a cumulative one of one axis")
        (size,) = list(op.attributes["window_dimensions"])
        (low, high), n = np.array(op.attributes["padding"]).reshape(2).tolist(), table.shape[0]
        strides = [
            list(op.attributes[name])
            for name in ("window_strides", "window_dilations", "base_dilations")
            if name in op.attributes
        ]
        if size != n or {low, high} != {0, n - 1} or any(stride != [1] for stride in strides):
            raise Unsupported("reduce_window other than a cumulative one of one axis")
        body, start = op.regions[0].blocks[0], self.entries(init)[0]

        def add(i: Value, carry: list[Value]) -> list[Value]:
            place = i if low else self.builder.arith("subtract", self.index(n - 1), i)
            scalars = [Tensor((), table.kind, (value,)) for value in (carry[0], self.at(table, [place]))]
            found = self.entries(self.call(body, scalars)[0])[0]
            return [found, self.builder.store(carry[1], place, found)]

        array = self.builder.loop(n, [start, self.builder.alloc(n, table.kind)], add)[1]
        return Tensor(table.shape, table.kind, array=array)

    # Control

    def case(self, op: Any, args: list[Tensor], known: dict[Any, Tensor]) -> list[Tensor]:
        (chooser,) = self.entries(args[0])
        regions = [region.blocks[0] for region in op.regions]
        if op.name == "stablehlo.case":
            chooser = self._chosen(chooser, len(regions))
        else:
            chooser = self.builder.arith("convert", self.builder.arith("not", chooser), kind=INDEX)
        if chooser.const is not None:
            return self.read(regions[chooser.const], dict(known))
        if len(regions) == 2:  # a truth value that says that it is the first
            chooser = self.builder.arith("equal", chooser, self.index(0))
        blocks, tensors = [], []
        for region in regions:
            self.builder.begin()
            tensors.append(self.read(region, dict(known)))
            blocks.append(self._finished(tensors[-1]))
        return self._unpacked(tensors, self.builder.structure("case", [chooser], blocks))

    def _chosen(self, chooser: Value, count: int) -> Value:
        """Return which branch is taken: the last one for a number that names none."""
        if count == 2:  # any number but 0 leads to branch 1
            if chooser.op and chooser.op.name == "convert" and chooser.op.args[0].kind == BOOL:
                return chooser
            zero = self.builder.arith("equal", chooser, self.builder.const(0, chooser.kind))
            return self.builder.arith("convert", self.builder.arith("not", zero), kind=INDEX)
        last = self.index(count - 1)
        fits = self._within(chooser, count)
        return self.builder.arith("select", fits, chooser, last)

    def _finished(self, tensors: Sequence[Tensor]) -> Block:
        """End a block that has these results, as scalars and arrays."""
        flat: list[Value] = []
        for tensor in tensors:
            flat += self.entries(tensor) if tensor.size <= SMALL else [self.stored(tensor)]
        return self.builder.end(flat)

    def _unpacked(self, branches: Sequence[Sequence[Tensor]], values: Sequence[Value]) -> list[Tensor]:
        """Return the results of a `case`; where all branches agree on a value from outside, that value."""
        rest, found = iter(values), []
        for several in zip(*branches, strict=True):
            first = several[0]
            new = (
                Tensor(first.shape, first.kind, tuple(next(rest) for _ in range(first.size)))
                if first.size <= SMALL
                else Tensor(first.shape, first.kind, array=next(rest))
            )
            same = all(tensor is first for tensor in several)
            found.append(first if same else new)
        return found

    def loop(self, op: Any, args: list[Tensor], known: dict[Any, Tensor]) -> list[Tensor]:
        test, body = (region.blocks[0] for region in op.regions)
        kept = [self.stays(body, number) for number in range(len(args))]
        args = [
            arg
            if not keep or arg.size <= SMALL or arg.is_cheap
            else Tensor(arg.shape, arg.kind, array=self.stored(arg))
            for arg, keep in zip(args, kept, strict=True)
        ]
        inits: list[Value] = []
        for arg, keep in zip(args, kept, strict=True):
            if not keep:
                inits += self.entries(arg) if arg.size <= SMALL else [self.stored(arg)]

        def carried(values: Sequence[Value]) -> list[Tensor]:
            rest, tensors = iter(values), []
            for arg, keep in zip(args, kept, strict=True):
                if keep:
                    tensors.append(arg)
                elif arg.size <= SMALL:
                    tensors.append(Tensor(arg.shape, arg.kind, tuple(next(rest) for _ in range(arg.size))))
                else:
                    tensors.append(Tensor(arg.shape, arg.kind, array=next(rest)))
            return tensors

        blocks = []
        for block in (test, body):
            values = [Value(init.kind, init.size) for init in inits]
            self.builder.begin(values)
            results = self.read(block, {**known, **dict(zip(block.arguments, carried(values), strict=True))})
            if block is body:
                results = [result for result, keep in zip(results, kept, strict=True) if not keep]
            blocks.append(self._finished(results))
        return carried(self.builder.structure("while", inits, blocks))

    def stays(self, body: Any, number: int) -> bool:
        """Return whether a loop hands on what it carries at a place unchanged."""
        returned = list(body.operations)[-1].operation.operands[number]
        return self.origin(returned) == body.arguments[number]

    def origin(self, value: Any) -> Any:
        """Return the value that a value is the same as, as far as loops and branches only hand it on."""
        owner = value.owner
        op = getattr(owner, "operation", None)
        if op is None or not hasattr(op, "regions"):
            return value
        number = list(op.results).index(value)
        if op.name == "stablehlo.while" and self.stays(op.regions[1].blocks[0], number):
            return self.origin(op.operands[number])
        if op.name in ("stablehlo.case", "stablehlo.if"):
            returned = [
                self.origin(list(region.blocks[0].operations)[-1].operation.operands[number]) for region in op.regions
            ]
            return returned[0] if all(other == returned[0] for other in returned) else value
        return value
