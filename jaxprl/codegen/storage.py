"""Decides where arrays live: an array that nobody reads any more is changed in place, others are copied first.

In the form of `ir.py` every `store` makes a new array. Here each array gets a buffer. A `store` keeps the buffer of the
array that it changes if no value in that buffer is used later on; otherwise a `copy` is put before it. What a loop
carries stays in one buffer, and so does the result of a `case`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

from jaxprl.codegen.ir import Block, Function, Op, Value


@dataclasses.dataclass(eq=False)
class Buffer:
    """Room for an array."""

    kind: str
    size: int
    name: str = ""  # of an argument
    is_constant: bool = False
    written: bool = False


def without_dead(function: Function) -> None:
    """Take out what no result depends on, also what loops carry for nothing."""
    owners: dict[Value, tuple[Op, int]] = {}
    for op in _all_ops(function.body):
        if op.what in ("for", "while"):
            for block in op.blocks:
                skip = 1 if op.what == "for" else 0
                owners.update({arg: (op, number) for number, arg in enumerate(block.args[skip:])})
    live: set[Value] = set()
    active: set[int] = set()
    waiting = list(function.body.results)
    while waiting:
        value = waiting.pop()
        if value in live:
            continue
        live.add(value)
        if value not in owners and value.op is None:
            continue
        op, number = owners[value] if value in owners else (_definition(value), -1)
        if op.what not in ("for", "while", "case"):
            waiting += op.args
            continue
        if number < 0:
            number = op.results.index(value)
        if id(op) not in active:
            active.add(id(op))
            waiting += op.blocks[0].results if op.what == "while" else op.args if op.what == "case" else []
        if op.what == "case":
            waiting += [block.results[number] for block in op.blocks]
        else:
            waiting += [op.results[number], op.args[number], op.blocks[-1].results[number]]
    _sweep(function.body, live)


def _definition(value: Value) -> Op:
    assert value.op is not None
    return value.op


def _sweep(block: Block, live: set[Value]) -> None:
    block.ops = [op for op in block.ops if any(result in live for result in op.results)]
    for op in block.ops:
        if not op.blocks:
            continue
        kept = [number for number, result in enumerate(op.results) if result in live]
        op.results = [op.results[number] for number in kept]
        if op.what != "case":
            op.args = [op.args[number] for number in kept]
        for inner in op.blocks:
            skip = 1 if op.what == "for" else 0
            if op.what != "case":
                inner.args = inner.args[:skip] + [inner.args[skip + number] for number in kept]
            if not (op.what == "while" and inner is op.blocks[0]):
                inner.results = [inner.results[number] for number in kept]
            _sweep(inner, live)


def _all_ops(block: Block) -> Iterator[Op]:
    for op in block.ops:
        yield op
        for inner in op.blocks:
            yield from _all_ops(inner)


def assign(function: Function) -> tuple[dict[Value, Buffer], list[Buffer | None]]:
    """Give every array of a function a buffer, and put in the copies that this takes.

    Returns:
      The buffers, and for each result of the function the buffer in which it is returned; None for a scalar.
    """
    return _Storage(function).done()


class _Storage:
    def __init__(self, function: Function):
        self.function = function
        self.buffers: dict[Value, Buffer] = {}

    def done(self) -> tuple[dict[Value, Buffer], list[Buffer | None]]:
        function = self.function
        owned = set()
        for number, arg in enumerate(function.args):
            if arg.size is not None:
                buffer = self.buffers[arg] = Buffer(
                    arg.kind, arg.size, arg.name, number not in function.in_place.values()
                )
                if not buffer.is_constant:
                    owned.add(buffer)
        self.walk(function.body, owned)
        returned: list[Buffer | None] = []
        own = {self.buffers[op.results[0]] for op in function.body.ops if op.what == "alloc"}
        for number, result in enumerate(function.body.results):
            if result.size is None:
                returned.append(None)
                continue
            buffer = self.buffers[result]
            if number in function.in_place:
                target = self.buffers[function.args[function.in_place[number]]]
                if buffer is not target:
                    function.body.results[number] = self.copy(function.body, result, target)
                    buffer = target
            elif buffer not in own or buffer in returned:
                target = Buffer(buffer.kind, buffer.size)
                function.body.results[number] = self.copy(function.body, result, target)
                buffer = target
            returned.append(buffer)
        return self.buffers, returned

    def copy(self, block: Block, value: Value, into: Buffer, at: int | None = None) -> Value:
        """Put a copy of an array into a block, at its end by default."""
        op = Op("copy", [value], [])
        new = Value(value.kind, value.size, op)
        op.results = [new]
        block.ops.insert(len(block.ops) if at is None else at, op)
        self.buffers[new] = into
        into.written = True
        return new

    def walk(self, block: Block, owned: set[Buffer]) -> None:
        """Give the arrays of a block buffers; those `owned` may be changed."""
        owned = set(owned)
        last: dict[Value, int] = {}
        for number, op in enumerate(block.ops):
            for value in _used(op):
                last[value] = number
        for value in block.results:
            last[value] = len(block.ops)
        here: dict[Buffer, list[Value]] = {}
        for value in last:
            if value in self.buffers:
                here.setdefault(self.buffers[value], []).append(value)

        def named(value: Value, buffer: Buffer) -> None:
            self.buffers[value] = buffer
            here.setdefault(buffer, []).append(value)

        def is_free(buffer: Buffer, number: int) -> bool:
            return buffer in owned and all(last.get(value, -1) <= number for value in here.get(buffer, []))

        copied: list[tuple[Op, int, Buffer]] = []
        for number, op in enumerate(block.ops):
            if op.what == "alloc":
                buffer = Buffer(op.results[0].kind, op.results[0].size or 0)
                owned.add(buffer)
                named(op.results[0], buffer)
            elif op.what == "table":
                named(op.results[0], Buffer(op.results[0].kind, op.results[0].size or 0, is_constant=True))
            elif op.what == "store":
                buffer = self.buffers[op.args[0]]
                if not is_free(buffer, number):
                    buffer = self._copied(op, 0, copied, owned)
                buffer.written = True
                named(op.results[0], buffer)
            elif op.what in ("for", "while"):
                self._walk_loop(op, copied, owned, functools.partial(is_free, number=number), named)
            elif op.what == "case":
                free = {buffer for buffer in owned if is_free(buffer, number)}
                for inner in op.blocks:
                    self.walk(inner, free)
                for place, result in enumerate(op.results):
                    if result.size is None:
                        continue
                    several = [self.buffers[inner.results[place]] for inner in op.blocks]
                    buffer = several[0]
                    if any(other is not buffer for other in several):
                        buffer = Buffer(result.kind, result.size)
                        owned.add(buffer)
                        for inner in op.blocks:
                            inner.results[place] = self.copy(inner, inner.results[place], buffer)
                    named(result, buffer)
        for op, place, buffer in copied:
            op.args[place] = self.copy(block, op.args[place], buffer, block.ops.index(op))

    def _copied(self, op: Op, place: int, copied: list[tuple[Op, int, Buffer]], owned: set[Buffer]) -> Buffer:
        """Have an argument of an operation copied before it, and return the buffer of the copy."""
        value = op.args[place]
        buffer = Buffer(value.kind, value.size or 0)
        owned.add(buffer)
        copied.append((op, place, buffer))
        return buffer

    def _walk_loop(
        self,
        op: Op,
        copied: list[tuple[Op, int, Buffer]],
        owned: set[Buffer],
        is_free: Callable[[Buffer], bool],
        named: Callable[[Value, Buffer], None],
    ) -> None:
        """Give what a loop carries buffers: its own where the array is not needed any more, otherwise a copy's."""
        skip = 1 if op.what == "for" else 0
        inside = {self.buffers[value] for block in op.blocks for value in _outer(block) if value in self.buffers}
        taken: set[Buffer] = set()
        carried: dict[int, Buffer] = {}
        for place, init in enumerate(op.args):
            if init.size is None:
                continue
            buffer = self.buffers[init]
            if not is_free(buffer) or buffer in inside or buffer in taken:
                buffer = self._copied(op, place, copied, owned)
            taken.add(buffer)
            buffer.written = True
            carried[place] = buffer
            for block in op.blocks:
                self.buffers[block.args[skip + place]] = buffer
        for block in op.blocks:
            self.walk(block, set(carried.values()) if block is op.blocks[-1] else set())
        body = op.blocks[-1]
        wrong = [place for place, buffer in carried.items() if self.buffers[body.results[place]] is not buffer]
        for place in wrong:
            if self.buffers[body.results[place]] in carried.values():
                spare = Buffer(body.results[place].kind, body.results[place].size or 0)
                body.results[place] = self.copy(body, body.results[place], spare)
        for place in wrong:
            body.results[place] = self.copy(body, body.results[place], carried[place])
        for place, buffer in carried.items():
            named(op.results[place], buffer)


def _used(op: Op) -> Iterable[Value]:
    """Return the values that an operation uses, those of its blocks included."""
    yield from op.args
    for block in op.blocks:
        yield from _outer(block)


def _outer(block: Block) -> Iterable[Value]:
    """Return the values that a block uses: more than those from outside, which does no harm."""
    for op in block.ops:
        yield from _used(op)
    yield from block.results
