"""Writes functions (`ir.py`) as C.

A scalar that is used once is written where it is used; others get a local variable, named after the line of Python that
it comes from (`names.py`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from jaxprl.codegen import names
from jaxprl.codegen.arithmetic import BOOL, width
from jaxprl.codegen.expressions import C, Expressions, Style, c_type, is_often_zero, literal
from jaxprl.codegen.fusion import join_loops
from jaxprl.codegen.ir import Block, Function, Op, Value
from jaxprl.codegen.prelude import RESERVED
from jaxprl.codegen.storage import Buffer, assign, without_dead

_SMALL = 32
"""Bytes of the largest array that is not put into scratch memory."""
_LONGEST = 90
"""Characters of the longest expression that is written where it is used."""


def write(function: Function, results: Sequence[str], style: Style = C) -> str:
    """Return the text of a function.

    Args:
      function: the function, which is changed.
      results: names of its results. Scalars are returned as a struct, and arrays are written to arguments.
      style: how it is written.
    """
    join_loops(function)
    without_dead(function)
    return _Writer(function, results, style).text()


def struct_of(name: str, fields: dict[str, str]) -> str:
    """Return the text of a struct; `fields` are names and types."""
    return f"struct {name} {{\n" + "".join(f"    {c_type(kind)} {field};\n" for field, kind in fields.items()) + "};\n"


class _Writer(Expressions):
    def __init__(self, function: Function, results: Sequence[str], style: Style):
        super().__init__(style)
        self.function, self.result_names = function, results
        self.scratch = 0  # bytes of it that are given out
        self.buffers, self.returned = assign(function)
        self.lines: list[str] = []
        self.depth = 1
        self.taken: set[str] = {function.name, *results, *RESERVED}
        self.home: dict[Value, Block] = {}
        self.buffer_names: dict[Buffer, str] = {}
        self.rule = ""
        self.wanted: dict[Value, str] = {}  # names of what loops and branches hand on
        self.copies: dict[Buffer, str] = {}  # names of the arguments that arrays are copies of

    def text(self) -> str:
        function = self.function
        self.wanted = dict(zip(function.body.results, self.result_names, strict=True))
        params = []
        for arg in function.args:
            self.taken.add(arg.name)
            self.texts[arg], self.strength[arg] = arg.name, 1
            if arg.size is None:
                params.append(f"{c_type(arg.kind)} {arg.name}")
            else:
                buffer = self.buffers[arg]
                self.buffer_names[buffer] = arg.name
                params.append(f"{'const ' if buffer.is_constant else ''}{c_type(arg.kind)} *restrict {arg.name}")
        fields = {}
        for name, result, returned in zip(self.result_names, function.body.results, self.returned, strict=True):
            if returned is None:
                fields[name] = result.kind
            elif returned not in self.buffer_names:
                self.buffer_names[returned] = name
                params.append(f"{c_type(result.kind)} *restrict {name}")
        self.measure(function.body)
        self.block(function.body)
        struct, kind = "", "void"
        if fields:
            name = self.style.struct or f"{function.name}_result"
            struct, kind = "" if self.style.struct else struct_of(name, fields) + "\n", f"struct {name}"
            found = self.fresh(None, "found")
            self.line(f"{kind} {found};")
            for name, result in zip(self.result_names, function.body.results, strict=True):
                if name in fields:
                    self.line(f"{found}.{name} = {self.use(result, 0)};")
            self.line(f"return {found};")
        if self.style.has_scratch:
            params.append("uint8_t *scratch")
            struct += f"enum {{ SCRATCH_{function.name} = {self.scratch} }};\n\n"
        head = f"static inline {kind} {function.name}("
        if self.style.without:
            names = ", ".join(f'"no-{name}"' for name in self.style.without)
            struct += f"__attribute__((optimize({names})))\n"
        return struct + head + wrapped(params, len(head)) + ")\n{\n" + "\n".join(self.lines) + "\n}\n"

    def measure(self, block: Block) -> None:
        """Count how often each value is used, and where."""
        for op in block.ops:
            for result in op.results:
                self.home[result] = block
            for arg in op.args:
                self.count[arg] = self.count.get(arg, 0) + (1 if self.is_at(arg, block) else 9)
            copied = self.copied(op) if op.what == "for" else None
            if copied is not None and copied[0].name:
                self.copies[self.buffers[op.results[0]]] = copied[0].name
            for inner in op.blocks:
                self.measure(inner)
        for result in block.results:
            self.count[result] = self.count.get(result, 0) + (1 if self.is_at(result, block) else 9)

    def is_at(self, value: Value, block: Block) -> bool:
        return self.home.get(value) is block

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def fresh(self, value_or_op: Op | None, fallback: str) -> str:
        """Return a name that is not taken."""
        base = (names.variable(value_or_op.place) if value_or_op is not None else None) or fallback
        for number in itertools.count():
            name = base if not number else f"{base}_{number}"
            if name not in self.taken:
                self.taken.add(name)
                return name
        raise AssertionError

    def block(self, block: Block) -> None:
        for op in block.ops:
            getattr(self, f"write_{op.what}")(op)

    def remark(self, op: Op) -> None:
        """Name the rule that the following lines come from, where it is another one than before."""
        rule = names.rule(op.place)
        if rule and rule != self.rule:
            self.rule = rule
            self.line(f"/* {rule} */")

    def scalar(self, op: Op, text: str, strength: int, *, is_fixed: bool = True) -> None:
        """Write a scalar where it is used, or as a local variable."""
        value = op.results[0]
        if self.count.get(value, 0) <= 1 and is_fixed and len(text) <= _LONGEST:
            self.set(value, text, strength)
            return
        self.remark(op)
        name = self.fresh(op, op.name or "entry")
        self.line(f"const {c_type(value.kind)} {name} = {text};")
        self.set(value, name, 1)

    def write_const(self, op: Op) -> None:
        value = op.results[0]
        self.set(value, literal(op.number, value.kind), 1 if op.number >= 0 else 0)

    def write_table(self, op: Op) -> None:
        assert op.data is not None
        name = self.fresh(op, "table")
        self.buffer_names[self.buffers[op.results[0]]] = name
        kind = op.results[0].kind
        numbers = [literal(int(number), kind) for number in op.data]
        head = f"static const {c_type(kind)} {name}[{len(numbers)}] = {{"
        self.line(head + wrapped(numbers, 4 * self.depth + 8) + "};")

    def write_alloc(self, op: Op) -> None:
        self.declare(self.buffers[op.results[0]], op)

    def declare(self, buffer: Buffer, op: Op) -> None:
        """Declare an array, unless it is an argument or is declared already."""
        if buffer not in self.buffer_names:
            copied = self.copies.get(buffer)
            self.buffer_names[buffer] = name = (
                self.fresh(None, copied) if copied else self.fresh(op, names.function(op.place) or "row")
            )
            kind, size = c_type(buffer.kind), max(8, width(buffer.kind)) // 8 * buffer.size
            if self.style.has_scratch and size > _SMALL:
                self.line(f"{kind} *{name} = ({kind} *)(scratch + {self.scratch});")
                self.scratch += -(-size // 8) * 8
            else:
                self.line(f"{kind} {name}[{buffer.size}];")

    def write_copy(self, op: Op) -> None:
        target = self.buffers[op.results[0]]
        self.declare(target, op)
        self.copy(self.buffer_names[target], self.buffer_names[self.buffers[op.args[0]]], target.size)

    def copy(self, target: str, source: str, size: int) -> None:
        """Write that an array is copied."""
        self.line(
            f"copy({target}, {source}, {size});"
            if self.style.is_cuda
            else f"memcpy({target}, {source}, {size} * sizeof *{target});"
        )

    def write_load(self, op: Op) -> None:
        buffer = self.buffers[op.args[0]]
        self.scalar(op, f"{self.buffer_names[buffer]}[{self.index(op.args[1])}]", 1, is_fixed=not buffer.written)

    def write_store(self, op: Op) -> None:
        self.remark(op)
        buffer = self.buffers[op.results[0]]
        self.line(f"{self.buffer_names[buffer]}[{self.index(op.args[1])}] = {self.use(op.args[2], 0)};")

    def write_arith(self, op: Op) -> None:
        text, strength = self.arith(op)
        if op.name == "multiply" and is_often_zero(op.args[1]) and op.args[0].const is None:
            # Most factors of this kind are 0, the change of a cell for instance. Then the other one is not computed.
            text, strength = f"{self.use(op.args[1])} ? {text} : 0", 0
        self.scalar(op, text, strength)

    # Structure

    def write_case(self, op: Op) -> None:
        self.remark(op)
        kinds = [result for result in op.results if result.size is None]
        for result in op.results:
            if result.size is not None:
                self.declare(self.buffers[result], op)
        for result in kinds:
            name = self.fresh(None, self.wanted[result]) if result in self.wanted else self.fresh(op, "found")
            self.line(f"{c_type(result.kind)} {name};")
            self.set(result, name, 1)
        chooser, blocks = op.args[0], list(op.blocks)
        if chooser.kind == BOOL:
            condition = self.use(chooser, 0)
            if chooser.op is not None and chooser.op.name == "not" and self.count.get(chooser, 0) == 1:
                condition, blocks = self.use(chooser.op.args[0], 0), blocks[::-1]
            self.line(f"if ({condition}) {{")
        else:
            self.line(f"switch ({self.index(chooser)}) {{")
        for number, block in enumerate(blocks):
            if chooser.kind == BOOL and number:
                self.line("} else {")
            elif chooser.kind != BOOL:
                self.line("default: {" if number == len(blocks) - 1 else f"case {number}: {{")
            self.depth += 1
            self.block(block)
            scalars = [inner for inner, result in zip(block.results, op.results, strict=True) if result.size is None]
            for result, inner in zip(kinds, scalars, strict=True):
                self.line(f"{self.texts[result]} = {self.use(inner, 0)};")
            self.depth -= 1
            if chooser.kind != BOOL:
                self.line("} break;")
        self.line("}")
        self.rule = ""

    def carry(self, op: Op) -> list[tuple[int, str]]:
        """Declare what a loop carries and return the place and the name of each scalar."""
        skip = 1 if op.what == "for" else 0
        carried = []
        for place, (init, result) in enumerate(zip(op.args, op.results, strict=True)):
            if result.size is not None:
                self.declare(self.buffers[result], op)
                continue
            last = op.blocks[-1].results[place]
            base = self.wanted.get(result) or self.name_of(init, last)
            self.wanted.setdefault(last, base)
            name = self.fresh(None, base)
            self.line(f"{c_type(result.kind)} {name} = {self.use(init, 0)};")
            self.set(result, name, 1)
            for block in op.blocks:
                self.set(block.args[skip + place], name, 1)
            carried.append((place, name))
        return carried

    def name_of(self, init: Value, last: Value) -> str:
        """Return a name for what a loop carries, from what it is at first and after a round."""
        if init.op is not None and init.op.what == "load":
            return self.buffer_names[self.buffers[init.op.args[0]]]
        later = names.variable(last.op.place) if last.op is not None else None
        return names.plain(self.texts[init]) or later or "carried"

    def assign(self, pairs: list[tuple[str, str]]) -> None:
        """Assign several variables at once, each an expression in the old ones."""
        pairs = [(name, text) for name, text in pairs if name != text]
        while pairs:
            for pair in pairs:
                name = pair[0]
                if not any(re.search(rf"\b{name}\b", text) for other, text in pairs if other != name):
                    self.line(f"{name} = {pair[1]};")
                    pairs.remove(pair)
                    break
            else:
                name = pairs[0][0]
                spare = self.fresh(None, f"old_{name}")
                kind = "auto" if self.style.is_cuda else "__auto_type"
                self.line(f"const {kind} {spare} = {name};")
                pairs = [
                    (other, re.sub(rf"\b{name}\b", spare, text) if other != name else text) for other, text in pairs
                ]

    def copied(self, op: Op) -> tuple[Value, Value | None] | None:
        """Return the array that a loop only copies and the place where it begins there, None for the front of it.

        None for any other loop.
        """
        body, index = op.blocks[0], op.blocks[0].args[0]
        found = [inner for inner in body.ops if inner.what != "const"]
        if len(op.results) != 1 or [inner.what for inner in found[-2:]] != ["load", "store"]:
            return None
        load, store = found[-2:]
        array, place = load.args
        if store.args != [body.args[1], index, load.results[0]] or array is body.args[1]:
            return None
        if place is index and len(found) == 2:
            return array, None
        if len(found) == 3 and place is found[0].results[0] and found[0].name == "add" and found[0].args[1] is index:
            return array, found[0].args[0]
        return None

    def write_for(self, op: Op) -> None:
        self.remark(op)
        carried = self.carry(op)
        body = op.blocks[0]
        copied = self.copied(op)
        if copied is not None and self.buffers[copied[0]] is not self.buffers[op.results[0]]:
            array, begin = copied
            target, source = (self.buffer_names[self.buffers[value]] for value in (op.results[0], array))
            source += f" + {self.index(begin)}" if begin is not None and self.style.is_cuda else ""
            source += f" + {self.use(begin)}" if begin is not None and not self.style.is_cuda else ""
            self.copy(target, source, op.number)
            self.rule = ""
            return
        index = self.fresh(None, "i")
        self.set(body.args[0], index, 1)
        self.rounds.add(body.args[0])
        if self.style.is_cuda:
            self.line("#pragma unroll 1")
        self.line(f"for (int {index} = 0; {index} < {op.number}; {index}++) {{")
        self.inside(body, carried)

    def inside(self, body: Block, carried: list[tuple[int, str]]) -> None:
        self.depth += 1
        self.block(body)
        self.assign([(name, self.use(body.results[place], 0)) for place, name in carried])
        self.depth -= 1
        self.line("}")
        self.rule = ""

    def write_while(self, op: Op) -> None:
        self.remark(op)
        carried = self.carry(op)
        test, body = op.blocks
        mark = len(self.lines)
        self.line("for (;;) {")
        self.depth += 1
        self.block(test)
        condition = test.results[0]
        if len(self.lines) == mark + 1:
            self.lines.pop()
            self.depth -= 1
            self.line(f"while ({self.use(condition, 0)}) {{")
        else:
            self.line(f"if (!{self.use(condition)}) break;")
            self.depth -= 1
        self.inside(body, carried)


def wrapped(parts: Sequence[str], indent: int, end: str = "") -> str:
    """Return parts with commas between them, in lines of up to 116 characters, each but the last with an `end`."""
    lines, line, pad = [], "", " " * min(indent, 40)
    for part in parts:
        if line and len(line) + len(part) + len(pad) + len(end) > 114:
            lines.append(line)
            line = ""
        line += f"{', ' if line else ''}{part}"
    return f",{end}\n{pad}".join([*lines, line])


def macro(head: str, parts: Sequence[str]) -> str:
    """Return the definition of a macro that stands for a list."""
    return f"#define {head} \\\n    " + wrapped(parts, 4, end=" \\")


def sizes(numbers: dict[str, int]) -> str:
    """Return the text that names some numbers."""
    return f"enum {{\n    {wrapped([f'{name} = {number}' for name, number in numbers.items()], 4)}\n}};\n"
