"""Types and arithmetic on numbers, as XLA defines it."""

from __future__ import annotations

from collections.abc import Sequence

BOOL = "bool"
INDEX = "int32"
"""The type of indices."""
TYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
"""The types of values."""


def width(kind: str) -> int:
    """Return the number of bits of a type."""
    return 1 if kind == BOOL else int(kind.lstrip("uint"))


def signed(kind: str) -> bool:
    """Return whether a type has negative numbers."""
    return kind.startswith("int")


def limits(kind: str) -> tuple[int, int]:
    """Return the smallest and the largest number of a type."""
    bits = width(kind)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed(kind) else (0, (1 << bits) - 1)


def wrapped(number: int, kind: str) -> int:
    """Return the number of a type that has the lowest bits of a number."""
    bits = width(kind)
    number &= (1 << bits) - 1
    return number - (1 << bits) if signed(kind) and number >> bits - 1 else number


def fold_arith(name: str, kind: str, numbers: Sequence[int], of: str) -> int:
    """Return the result of an arithmetic operation on numbers, as XLA defines it.

    Args:
      name: the operation.
      kind: type of the result.
      numbers: the arguments.
      of: type of the first argument; for `select`, of the second.
    """
    bits = width(of)
    match name:
        case "add":
            return wrapped(numbers[0] + numbers[1], kind)
        case "subtract":
            return wrapped(numbers[0] - numbers[1], kind)
        case "multiply":
            return wrapped(numbers[0] * numbers[1], kind)
        case "divide" | "remainder":
            top, bottom = numbers
            if bottom == 0:
                return wrapped(-1, kind) if name == "divide" else top
            quotient = abs(top) // abs(bottom) * (1 if (top < 0) == (bottom < 0) else -1)
            return wrapped(quotient if name == "divide" else top - quotient * bottom, kind)
        case "minimum":
            return min(numbers)
        case "maximum":
            return max(numbers)
        case "and":
            return numbers[0] & numbers[1]
        case "or":
            return numbers[0] | numbers[1]
        case "xor":
            return numbers[0] ^ numbers[1]
        case "not":
            return wrapped(~numbers[0], kind)
        case "negate":
            return wrapped(-numbers[0], kind)
        case "abs":
            return wrapped(abs(numbers[0]), kind)
        case "sign":
            return (numbers[0] > 0) - (numbers[0] < 0)
        case "popcnt":
            return (numbers[0] & (1 << bits) - 1).bit_count()
        case "count_leading_zeros":
            return bits - (numbers[0] & (1 << bits) - 1).bit_length()
        case "shift_left" | "shift_right_logical" | "shift_right_arithmetic":
            number, by = numbers[0], numbers[1] & (1 << bits) - 1  # a negative shift is a large one
            if name == "shift_right_arithmetic":
                return wrapped(wrapped(number, kind.replace("u", "")) >> min(by, bits - 1), kind)
            if by >= bits:
                return 0
            plain = number & (1 << bits) - 1
            return wrapped(plain << by if name == "shift_left" else plain >> by, kind)
        case "equal":
            return int(numbers[0] == numbers[1])
        case "less":
            return int(numbers[0] < numbers[1])
        case "select":
            return numbers[1] if numbers[0] else numbers[2]
        case "convert":
            return int(numbers[0] != 0) if kind == BOOL else wrapped(numbers[0], kind)
    raise ValueError(name)
