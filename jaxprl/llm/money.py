"""What answers cost, and a limit that is not passed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from jaxprl.errors import UserError
from jaxprl.llm.source import Usage


class Price(NamedTuple):
    """Dollars per million tokens."""

    input: float
    output: float

    def of(self, usage: Usage) -> float:
        """Return dollars."""
        return (usage.prompt * self.input + usage.completion * self.output) / 1e6


def read_prices(path: Path) -> dict[str, Price]:
    """Return the prices in a JSON file, `{"MODEL": {"input": 0.15, "output": 0.6}}`, dollars per million tokens.

    Raises UserError if it is not such a file.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"prices {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"prices {path} is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise UserError(f"prices {path}: expected an object with models")
    expected = '{"input": dollars, "output": dollars}'
    for model, price in table.items():
        if not isinstance(price, dict) or set(price) != {"input", "output"} or not all(map(_dollars, price.values())):
            raise UserError(f"prices {path}, {model!r}: expected {expected}, not {price!r}")
    return {model: Price(**price) for model, price in table.items()}


def _dollars(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


class Budget:
    """What was spent and what may be. Money is set aside before a request and settled after it, so that what goes on
    at once is counted too."""

    def __init__(self, price: Price | None = None, limit: float | None = None, spent: float = 0.0):
        """`limit` and `spent` are dollars; `spent`: what earlier parts of the run have cost.

        Raises UserError for a limit without a price.
        """
        if limit is not None and not (math.isfinite(limit) and limit >= 0):
            raise UserError(f"spending limit {limit}: expected dollars, 0 or more")
        if limit is not None and price is None:
            raise UserError("a spending limit needs the model's price: give a table (--prices) that has it")
        self.price, self.limit, self.spent = price, limit, spent
        self.set_aside = 0.0

    def check(self, max_tokens: int | None) -> None:
        """Raise UserError for a limit without `max_tokens`, since a request could then cost any sum."""
        if self.limit is not None and max_tokens is None:
            raise UserError("a spending limit needs max tokens (--max-tokens): without it one answer can cost any sum")

    def most(self, prompt: int, tokens: int, wanted: int) -> int:
        """Return how many answers, at most `wanted`, can be asked for with a prompt and answers of so many tokens."""
        if self.limit is None or self.price is None:
            return wanted
        left = self.limit - self.spent - self.set_aside - self.price.of(Usage(prompt, 0))
        each = self.price.of(Usage(0, tokens))
        if left < 0:
            return 0
        return wanted if each * wanted <= left else int(left / each)

    def reserve(self, worst: Usage) -> float:
        """Set aside what a request can cost at most, and return it."""
        dollars = self.price.of(worst) if self.price else 0.0
        self.set_aside += dollars
        return dollars

    def settle(self, reserved: float, usage: Usage | None) -> float | None:
        """Count what a request did cost and return it, None if there is no price. Without `usage` it counts as what
        was set aside for it."""
        self.set_aside -= reserved
        if self.price is None:
            return None
        dollars = reserved if usage is None else self.price.of(usage)
        self.spent += dollars
        return dollars
