"""Neighbourhood sizes: how many neighbours a climb may look at, as a function of the programs evaluated before it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

Schedule = Callable[[int], int]
"""`schedule(n)` is the neighbourhood size k of a climb that starts after n programs. It must not decrease in n."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same k for every climb. Published hill climbing has k = 250."""

    k: int

    def __call__(self, evaluated: int) -> int:
        return self.k


@dataclasses.dataclass(frozen=True)
class Growing:
    """A k that grows from `first` to `last` over a budget of N programs (scheduled hill climbing, Liu et al. 2025).

    k is `first` for n <= 0 and `last` for n >= N. In between, let r = log n / log N, or n / N with `ratio` "linear";
    with `sine`, r becomes (sin((2r - 1) pi / 2) + 1) / 2. Then k = ceil(2^(log2 first + r log2(last / first))), or
    ceil(first + r (last - first)) with `interpolation` "linear".

    Example:
      >>> schedule = Growing(1_000_000)
      >>> [schedule(n) for n in (0, 100, 1_000, 100_000, 1_000_000)]
      [32, 91, 256, 1551, 2048]
    """

    budget: int
    first: int = 32
    last: int = 2048
    ratio: str = "log"
    sine: bool = True
    interpolation: str = "log"

    def __call__(self, evaluated: int) -> int:
        if evaluated <= 0:
            return self.first
        if evaluated >= self.budget:
            return self.last
        if self.ratio == "log":
            share = math.log10(evaluated) / math.log10(self.budget)
        else:
            share = evaluated / self.budget
        if self.sine:
            share = (math.sin((2 * share - 1) * math.pi / 2) + 1) / 2
        if self.interpolation == "log":
            low, high = math.log2(self.first), math.log2(self.last)
            return math.ceil(2 ** (low + share * (high - low)))
        return math.ceil(self.first + share * (self.last - self.first))


def steps(schedule: Schedule, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate a schedule for 0 <= n < budget.

    Args:
      schedule: the schedule.
      budget: programs that a search may evaluate.

    Returns:
      The n at which k changes, int32, the first of which is 0, and the k from each of them on, int32.
    """
    starts, ks = [0], [schedule(0)]
    while ks[-1] < schedule(budget - 1):
        low, high = starts[-1], budget - 1
        while high - low > 1:  # k is ks[-1] at low and more at high
            middle = (low + high) // 2
            low, high = (middle, high) if schedule(middle) == ks[-1] else (low, middle)
        starts.append(high)
        ks.append(schedule(high))
    return np.array(starts, np.int32), np.array(ks, np.int32)
