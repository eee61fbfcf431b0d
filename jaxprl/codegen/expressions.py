"""Writes scalars as expressions in C and CUDA."""

from __future__ import annotations

import dataclasses

from jaxprl.codegen.arithmetic import BOOL, limits, signed, width
from jaxprl.codegen.ir import Op, Value

_SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "and": "&", "or": "|", "xor": "^", "equal": "==", "less": "<"}


def c_type(kind: str) -> str:
    """Return the name of a type in C."""
    return "bool" if kind == BOOL else f"{kind}_t"


@dataclasses.dataclass(frozen=True)
class Style:
    """How a function is written."""

    is_cuda: bool = False  # in CUDA (`CUDA_PRELUDE`), not in C
    struct: str | None = None  # a struct for its scalar results that stands in the text already, or one is declared
    without: tuple[str, ...] = ()  # optimizations that GCC leaves out, as its options name them behind -f
    has_scratch: bool = False  # whether arrays lie in its last argument, `scratch`, of so many bytes: SCRATCH_<name>


C = Style()
CUDA = Style(is_cuda=True)


class Expressions:
    """The texts of values."""

    def __init__(self, style: Style):
        self.style = style
        self.texts: dict[Value, str] = {}
        self.strength: dict[Value, int] = {}  # 0: needs brackets within another expression
        self.count: dict[Value, int] = {}  # how often each is used
        self.rounds: set[Value] = set()  # numbers of the rounds of loops

    def use(self, value: Value, strength: int = 1) -> str:
        """Return the text of a value; in brackets if it stands within another expression that needs them."""
        text = self.texts[value]
        return f"({text})" if strength > self.strength.get(value, 1) else text

    def index(self, value: Value) -> str:
        """Return the text of an index, or of a number that a `switch` or a shift goes by."""
        text = self.use(value, 0)
        is_plain = not self.style.is_cuda or value.kind != "int32" or text.isdigit() or value in self.rounds
        return text if is_plain else f"(int){self.use(value)}" if text.isidentifier() else f"(int)({text})"

    def set(self, value: Value, text: str, strength: int) -> None:
        self.texts[value], self.strength[value] = text, strength

    def arith(self, op: Op) -> tuple[str, int]:
        kind, of = op.results[0].kind, op.args[0].kind
        bits, args = width(of), [self.use(arg) for arg in op.args]
        number = op.args[-1].const
        match op.name:
            case "select":
                return f"{args[0]} ? {args[1]} : {args[2]}", 0
            case "convert":
                return (f"{args[0]} != 0", 0) if kind == BOOL else (f"({c_type(kind)}){args[0]}", 1)
            case "not":
                if kind == BOOL:
                    inner = op.args[0].op
                    if (
                        inner is not None
                        and inner.name == "equal"
                        and self.count[op.args[0]] == 1
                        and self.texts[op.args[0]].count(" == ") == 1
                    ):
                        return self.texts[op.args[0]].replace(" == ", " != "), 0
                    return f"!{args[0]}", 1
                return f"({c_type(kind)})~{args[0]}", 1
            case "negate":
                return f"({c_type(kind)})(0 - {args[0]})", 1
            case "abs":
                return f"{args[0]} < 0 ? ({c_type(kind)})(0 - {args[0]}) : {args[0]}", 0
            case "sign":
                return f"({args[0]} > 0) - ({args[0]} < 0)", 0
            case "popcnt":
                return f"({c_type(kind)})popcnt((u{c_type(of).lstrip('u')}){args[0]})", 1
            case "count_leading_zeros":
                return f"({c_type(kind)})leading_zeros((u{c_type(of).lstrip('u')}){args[0]}, {bits})", 1
            case "minimum" | "maximum":
                return f"{op.name}_{c_type(kind)}({self.use(op.args[0], 0)}, {self.use(op.args[1], 0)})", 1
            case "divide" | "remainder" if number is None or number <= 0:
                return f"{op.name}_{c_type(kind)}({self.use(op.args[0], 0)}, {self.use(op.args[1], 0)})", 1
            case "divide" | "remainder":
                return f"{args[0]} {'/' if op.name == 'divide' else '%'} {args[1]}", 0
            case "shift_left" | "shift_right_logical" | "shift_right_arithmetic":
                return self.shift(op, args)
        if op.name in ("and", "or") and kind == BOOL:
            return f"{args[0]} {_SIGNS[op.name]} {args[1]}", 0
        if op.name == "add" and number is not None and number < 0 and number != limits(kind)[0]:
            text = f"{args[0]} - {literal(-number, kind)}"
        else:
            text = f"{args[0]} {_SIGNS[op.name]} {args[1]}"
        if op.name not in ("equal", "less", "and", "or", "xor") and width(kind) < 32:
            return f"({c_type(kind)})({text})", 1
        return text, 0

    def shift(self, op: Op, args: list[str]) -> tuple[str, int]:
        kind = op.results[0].kind
        bits, number = width(kind), op.args[1].const
        by = f"(int){args[1]}" if self.style.is_cuda and number is None and op.args[1].kind == "int32" else args[1]
        plain = f"u{c_type(kind).lstrip('u')}"
        arithmetic = op.name == "shift_right_arithmetic"
        whole = plain if not arithmetic else c_type(kind if signed(kind) else kind[1:])
        value = args[0] if whole == c_type(kind) else f"({whole}){args[0]}"
        sign = "<<" if op.name == "shift_left" else ">>"
        low, high = op.args[1].bounds
        if number is None and not (low >= 0 and high < bits):
            if arithmetic:
                text = f"{value} {sign} (int)minimum_uint32_t((uint32_t){args[1]}, {bits - 1})"
            else:
                text = f"(u{c_type(op.args[1].kind).lstrip('u')}){args[1]} < {bits} ? {value} {sign} {by} : 0"
        elif number is not None and not 0 <= number < bits:
            text = f"{value} >> {bits - 1}" if arithmetic else "0"
        else:
            text = f"{value} {sign} {by}"
        return (text, 0) if whole == c_type(kind) and bits >= 32 else (f"({c_type(kind)})({text})", 1)


def is_often_zero(value: Value) -> bool:
    """Return whether a value is chosen from several, of which 0 is one."""
    op = value.op
    while op is not None and op.name == "convert":
        op = op.args[0].op
    return op is not None and op.name == "select" and any(arg.const == 0 or is_often_zero(arg) for arg in op.args[1:])


def literal(number: int, kind: str) -> str:
    """Return a number as C has it."""
    if kind == BOOL:
        return "true" if number else "false"
    if number == limits(kind)[0] and signed(kind) and width(kind) >= 32:
        return f"({number + 1} - 1)"
    return f"{number}{'u' if not signed(kind) and width(kind) >= 32 else ''}{'ll' if width(kind) == 64 else ''}"
