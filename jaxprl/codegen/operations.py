"""The operations of StableHLO, apart from loops and branches: each method has the name of one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprl.codegen.arithmetic import BOOL, INDEX
from jaxprl.codegen.ir import Value
from jaxprl.codegen.tensors import SMALL, Index, Tensor, Tensors, Unsupported, numbers_of, type_of

BINARY = {
    "add", "subtract", "multiply", "divide", "remainder", "minimum", "maximum", "and", "or", "xor", "shift_left",
    "shift_right_logical", "shift_right_arithmetic",
}  # fmt: skip
UNARY = {"not", "negate", "abs", "sign", "popcnt", "count_leading_zeros"}


class Operations(Tensors):
    """Builds the results of operations."""

    def elementwise(self, op: Any, name: str, args: Sequence[Tensor]) -> Tensor:
        kind = type_of(op.results[0])[1]
        return self.made(
            op.results[0], lambda where: self.builder.arith(name, *(self.at(arg, where) for arg in args), kind=kind)
        )

    def op_convert(self, op: Any, args: list[Tensor]) -> Tensor:
        kind = type_of(op.results[0])[1]
        return self.made(op.results[0], lambda where: self.builder.arith("convert", self.at(args[0], where), kind=kind))

    def op_bitcast_convert(self, op: Any, args: list[Tensor]) -> Tensor:
        shape, kind = type_of(op.results[0])
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
        shape, kind = type_of(op.results[0])
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
        axis, kind = op.attributes["iota_dimension"].value, type_of(op.results[0])[1]
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
        shape = type_of(op.results[0])[0]
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
        offset, collapsed = numbers_of(numbers, "offset_dims"), numbers_of(numbers, "collapsed_slice_dims")
        index_map, (vector,) = numbers_of(numbers, "start_index_map"), numbers_of(numbers, "index_vector_dim") or [0]
        batched = numbers_of(numbers, "operand_batching_dims")
        starts_batched = numbers_of(numbers, "start_indices_batching_dims")

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
        window, inserted = numbers_of(numbers, "update_window_dims"), numbers_of(numbers, "inserted_window_dims")
        to_axis = numbers_of(numbers, "scatter_dims_to_operand_dims")
        (vector,) = numbers_of(numbers, "index_vector_dim") or [0]
        if numbers_of(numbers, "input_batching_dims"):
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
        types = [type_of(value) for value in op.results]
        size = int(np.prod(types[0][0], dtype=np.int64))
        if size > SMALL:

            def fill(i: Value, carry: list[Value]) -> list[Value]:
                found = all_of(self.unflat(types[0][0], i))
                return [self.builder.store(array, i, entry) for array, entry in zip(carry, found, strict=True)]

            arrays = self.builder.loop(size, [self.builder.alloc(size, kind) for _, kind in types], fill)
            return [Tensor(shape, kind, array=array) for (shape, kind), array in zip(types, arrays, strict=True)]
        rows = [all_of([self.index(i) for i in where]) for where in np.ndindex(*op.results[0].type.shape)]
        return [
            Tensor(*type_of(value), tuple(column))
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
