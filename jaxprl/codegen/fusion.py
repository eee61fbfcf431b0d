"""Joins loops: a loop over the entries of an array that reads what another one has written at the same place.

Array code is one loop for each operation. Where the second of two loops reads the results of the first one only in the
round in which they are written, one loop does both, and an array that nobody else reads is gone.
"""

from __future__ import annotations

from collections.abc import Iterable

from jaxprl.codegen.ir import Block, Function, Op, Value


def join_loops(function: Function) -> None:
    """Join the loops of a function, which is changed."""
    _join(function.body)


def _join(block: Block) -> None:
    for op in block.ops:
        for inner in op.blocks:
            _join(inner)
    place = 0
    while place < len(block.ops):
        second = block.ops[place]
        if second.what == "for":
            for first in reversed(block.ops[:place]):
                if first.what == "for" and first.number == second.number and _joined(block, first, second):
                    place -= 1
                    break
        place += 1


def _joined(block: Block, first: Op, second: Op) -> bool:
    """Join two loops, if that can be done, in the place of the first one."""
    begin, end = block.ops.index(first), block.ops.index(second)
    moved = _needed(second, block.ops[begin + 1 : end])
    if any(_uses(op, first.results) for op in moved):
        return False
    body = _joined_body(first, second)
    if body is None:
        return False
    both = Op("for", first.args + second.args, first.results + second.results, number=first.number, blocks=[body])
    both.place = first.place
    for result in both.results:
        result.op = both
    rest = [op for op in block.ops[begin + 1 : end] if op not in moved]
    block.ops[begin : end + 1] = [*moved, both, *rest]
    return True


def _needed(op: Op, between: list[Op]) -> list[Op]:
    """Return which operations an operation needs, directly or not, of those between another one and itself."""
    wanted = set(_used(op))
    found: list[Op] = []
    for other in reversed(between):
        if any(result in wanted for result in other.results):
            wanted |= set(_used(other))
            found.insert(0, other)
    return found


def _used(op: Op) -> Iterable[Value]:
    """Return the values that an operation uses, and some that its blocks define."""
    yield from op.args
    for block in op.blocks:
        for inner in block.ops:
            yield from _used(inner)
        yield from block.results


def _uses(op: Op, values: Iterable[Value]) -> bool:
    return not set(values).isdisjoint(_used(op))


def _joined_body(first: Op, second: Op) -> Block | None:
    """Return the body of two loops; None if the second one needs the first one to have ended."""
    one, other = first.blocks[0], second.blocks[0]
    written = {
        result: _written(end, one.args[0], carried)
        for result, end, carried in zip(first.results, one.results, one.args[1:], strict=True)
    }
    if any(value in written for value in second.args):
        return None
    same: dict[Value, Value] = {other.args[0]: one.args[0]}
    known = {key: op.results[0] for op in one.ops if (key := _key(op, {})) is not None}
    ops: list[Op] = []
    for op in other.ops:
        args = [same.get(arg, arg) for arg in op.args]
        if op.what == "load" and args[0] in written:
            value = (written[args[0]] or {}).get(args[1])
            if value is None:
                return None
            same[op.results[0]] = value
            continue
        if any(value in written for value in _used(op)):
            return None
        key = _key(op, same)
        if key is not None and key in known:
            same[op.results[0]] = known[key]
            continue
        if key is not None:
            known[key] = op.results[0]
        ops.append(op)
    if any(value in written for value in other.results):
        return None
    for op in ops:
        _replace(op, same)
    results = [same.get(result, result) for result in other.results]
    return Block(one.args + other.args[1:], one.ops + ops, one.results + results)


def _written(end: Value, index: Value, carried: Value) -> dict[Value, Value] | None:
    """Return what a round writes to an array, by the place; None if rounds may write to the same places.

    Args:
      end: the array after the round.
      index: the number of the round.
      carried: the array before it.
    """
    found: dict[Value, Value] = {}
    steps = set()
    while end is not carried:
        if end.op is None or end.op.what != "store":
            return None
        end, place, value = end.op.args
        step = _step(place, index)
        if step is None or place in found:
            return None
        steps.add(step)
        found[place] = value
    return found if len(steps) == 1 else None


def _step(place: Value, index: Value) -> int | None:
    """Return c if a place is c times the number of the round, plus 0 to c - 1; None if it is anything else."""
    if place is index:
        return 1
    op, more = place.op, 0
    if op is not None and op.name == "add" and op.args[1].const is not None:
        more, op = op.args[1].const, op.args[0].op
    if op is None or op.name != "multiply" or op.args[0] is not index:
        return None
    step = op.args[1].const
    return step if step is not None and 0 <= more < step else None


def _key(op: Op, same: dict[Value, Value]) -> tuple[object, ...] | None:
    """Return what two operations have in common that give the same; None if that is not known."""
    if op.what not in ("arith", "load"):
        return None
    return op.what, op.name, op.results[0].kind, *(same.get(arg, arg) for arg in op.args)


def _replace(op: Op, same: dict[Value, Value]) -> None:
    """Replace values that an operation uses."""
    op.args = [same.get(arg, arg) for arg in op.args]
    for block in op.blocks:
        for inner in block.ops:
            _replace(inner, same)
        block.results = [same.get(result, result) for result in block.results]
