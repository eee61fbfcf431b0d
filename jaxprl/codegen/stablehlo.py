"""Reads StableHLO, the form in which JAX hands a function to a compiler, into scalars, flat arrays and loops (`ir.py`).

StableHLO rather than jaxprs, by an experiment on the worker, the instructions and the sampling of three tasks: these
are 46 kinds of primitives as jaxprs, some of which (the random generator) have a meaning only in JAX's own lowering
rules, and new versions of JAX bring new ones. In StableHLO they are 34 kinds of operations, which are specified and
stay. Walking over them takes a millisecond.

What a loop hands on unchanged is not carried. What arrays become is said in `tensors.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprl.codegen.arithmetic import BOOL, INDEX
from jaxprl.codegen.ir import Block, Function, Value
from jaxprl.codegen.operations import BINARY, UNARY, Operations
from jaxprl.codegen.tensors import SMALL, Tensor, Unsupported, type_of
from jaxprl.xla import guarded


@guarded
def translate(
    name: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    arg_names: Sequence[str],
    *,
    in_place: dict[int, int] | None = None,
    wanted: int | None = None,
) -> Function:
    """Translate a JAX function.

    Args:
      name: the name of the result.
      function: the function.
      args: its arguments, pytrees of `jax.ShapeDtypeStruct`.
      arg_names: names of the leaves of the arguments.
      in_place: index of a leaf of the result -> index of the leaf of the arguments that it replaces.
      wanted: how many leaves of the result are wanted, from the first one on; None for all.

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
        shape, kind = type_of(argument)
        size = None if shape == () else int(np.prod(shape))
        value = Value(kind, size, name=arg_name)
        values.append(value)
        tensors.append(Tensor(shape, kind, (value,)) if size is None else Tensor(shape, kind, array=value))
    results = []
    for index, tensor in enumerate(reader.call(main, tensors)[:wanted]):
        if tensor.shape == ():
            results.append(reader.entries(tensor)[0])
        else:
            target = (in_place or {}).get(index)
            stored = reader.stored(tensor)
            results.append(stored if target is None or stored is not values[target] else values[target])
    block = builder.end(results)
    return Function(name, values, block, dict(in_place or {}))


class _Reader(Operations):
    """Reads one module."""

    def __init__(self, module: Any):
        super().__init__(
            {
                op.name.value: op.regions[0].blocks[0]
                for op in module.body.operations
                if "func" in str(op.operation.name)
            }
        )
        self.inlined = 0

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
                elif short in BINARY | UNARY:
                    results = [self.elementwise(operation, short, args)]
                else:
                    raise Unsupported(name)
            known.update(zip(operation.results, results, strict=True))
        raise AssertionError("a block without a return")

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
