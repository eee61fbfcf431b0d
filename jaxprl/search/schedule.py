"""How many neighbours a climb may look at, as a function of the programs evaluated so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

Schedule = Callable[[int], int]
"""k = schedule(n): the neighbourhood size of a climb that starts after n programs; it never decreases in n."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same k for every climb (hill climbing: 250)."""

    k: int

    def __call__(self, evaluated: int) -> int:
        return self.k


@dataclasses.dataclass(frozen=True)
class Growing:
    """k from `first` to `last` over a budget of N programs (LLM-GS's scheduled hill climbing).

    n <= 0: first; n >= N: last; otherwise r = log n / log N (`ratio` "linear": n / N), with `sine`
    r := (sin((2r - 1) pi/2) + 1) / 2, and k = ceil(2^(log2 first + r log2(last / first))) (`interpolation` "linear":
    ceil(first + r (last - first))).
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
    """Return the schedule as a table for 0 <= n < budget: int32 arrays of the n at which k changes, and of k from
    there on; the first n is 0."""
    starts, ks = [0], [schedule(0)]
    while ks[-1] < schedule(budget - 1):
        low, high = starts[-1], budget - 1
        while high - low > 1:  # k is ks[-1] at low and more at high
            middle = (low + high) // 2
            low, high = (middle, high) if schedule(middle) == ks[-1] else (low, middle)
        starts.append(high)
        ks.append(schedule(high))
    return np.array(starts, np.int32), np.array(ks, np.int32)
