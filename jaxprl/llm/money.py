"""The price of answers, and a spending limit that is never exceeded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from jaxprl.errors import UserError
from jaxprl.files import read_json
from jaxprl.llm.source import Usage


class Price(NamedTuple):
    """The price of a model, in dollars per million tokens.

    Example:
      >>> Price(input=0.5, output=2.0).of(Usage(prompt=1_000_000, completion=500_000))
      1.5
    """

    input: float
    output: float

    def of(self, usage: Usage) -> float:
        """Return the price of a request in dollars."""
        return (usage.prompt * self.input + usage.completion * self.output) / 1e6


def read_prices(path: Path) -> dict[str, Price]:
    """Read a table of prices.

    Args:
      path: a JSON file like `{"MODEL": {"input": 0.15, "output": 0.6}}`, in dollars per million tokens.

    Returns:
      The prices by the names of the models.

    Raises:
      UserError: if it is not such a file.
    """
    table = read_json(path, "prices")
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
    """The money that was spent and the money that may be spent.

    The most that a request can cost is set aside before it is sent, and settled when it is over. So requests that are
    under way at the same time cannot exceed the limit together.

    Args:
      price: the price of the model, if it is known.
      limit: the most dollars to spend, if there is a limit.
      spent: dollars that earlier parts of the run have cost.

    Raises:
      UserError: if there is a limit without a price, or if the limit is not a number of dollars.

    Example:
      >>> budget = Budget(Price(input=1.0, output=1.0), limit=1.0)
      >>> reserved = budget.reserve(Usage(prompt=100_000, completion=500_000))
      >>> budget.most(prompt=100_000, tokens=100_000, wanted=8)  # 0.40 dollars are left, of which the prompt takes 0.10
      3
      >>> budget.settle(reserved, Usage(prompt=100_000, completion=50_000)), budget.most(100_000, 100_000, 8)
      (0.15, 7)
    """

    def __init__(self, price: Price | None = None, limit: float | None = None, spent: float = 0.0):
        if limit is not None and not (math.isfinite(limit) and limit >= 0):
            raise UserError(f"spending limit {limit}: expected dollars, 0 or more")
        if limit is not None and price is None:
            raise UserError("a spending limit needs the model's price: give a table (--prices) that has it")
        self.price, self.limit, self.spent = price, limit, spent
        self.set_aside = 0.0
        """Dollars that are reserved for requests under way."""

    def check(self, max_tokens: int | None) -> None:
        """Raise UserError if there is a limit but no `max_tokens`, since a request could then cost any sum."""
        if self.limit is not None and max_tokens is None:
            raise UserError("a spending limit needs max tokens (--max-tokens): without it one answer can cost any sum")

    def most(self, prompt: int, tokens: int, wanted: int) -> int:
        """Return how many answers the money that is left can pay for.

        Args:
          prompt: tokens of the prompt.
          tokens: the most tokens of one answer.
          wanted: how many answers are wanted.

        Returns:
          0 .. `wanted`.
        """
        if self.limit is None or self.price is None:
            return wanted
        left = self.limit - self.spent - self.set_aside - self.price.of(Usage(prompt, 0))
        each = self.price.of(Usage(0, tokens))
        if left < 0:
            return 0
        return wanted if each * wanted <= left else int(left / each)

    def reserve(self, worst: Usage) -> float:
        """Set aside the most that a request can cost, and return it in dollars.

        Args:
          worst: the most tokens that the request can use.
        """
        dollars = self.price.of(worst) if self.price else 0.0
        self.set_aside += dollars
        return dollars

    def settle(self, reserved: float, usage: Usage | None) -> float | None:
        """Count what a request has cost.

        Args:
          reserved: dollars that were set aside for it.
          usage: the tokens that it used; None if they are unknown, and then it counts as what was set aside.

        Returns:
          The dollars that it has cost, or None if there is no price.
        """
        self.set_aside -= reserved
        if self.price is None:
            return None
        dollars = reserved if usage is None else self.price.of(usage)
        self.spent += dollars
        return dollars
