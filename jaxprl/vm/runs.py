"""What goes in and out of evaluation: outcomes of runs, exact mean returns, neighbourhoods and how they fare."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from jaxprl.errors import UserError
from jaxprl.vm.interpreter import DROPPED, RUNNING
from jaxprl.worlds.task import Layout


class Runs(NamedTuple):
    """Outcome of every run: numpy int32 arrays [P, E]."""

    units: np.ndarray
    """Return in units of the layout (`Layout.units` make a return of 1)."""
    calls: np.ndarray
    actions: np.ndarray
    end: np.ndarray
    """Code in `interpreter.END_NAMES`; RUNNING or DROPPED where the run was not needed to its end."""

    @property
    def complete(self) -> np.ndarray:
        """bool [P]: all runs of the program have ended."""
        return ((self.end != RUNNING) & (self.end != DROPPED)).all(axis=1)


MOST_SCORE = 2**31 - 1
"""Of searches, an int32."""


class Scale(NamedTuple):
    """Exact arithmetic of mean returns: a mean is `score / denominator`, both integers."""

    weights: np.ndarray  # int64 [E]
    denominator: int

    @classmethod
    def of(cls, layouts: Layout) -> Scale:
        """Return the scale of layouts. Raises UserError if their scores do not fit an int32 (`Improvements`)."""
        units = np.asarray(layouts.units, np.int64)
        common = math.lcm(*units.tolist())
        if common * len(units) > MOST_SCORE:
            some = ", ".join(map(str, np.unique(units)[:8]))
            raise UserError(
                f"{len(units)} layouts whose units ({some}, ..) have {common:,} as their least common multiple: times "
                f"the number of layouts it may be {MOST_SCORE:,} at most; take fewer layouts or units that go together"
            )
        return cls(common // units, common * len(units))

    @property
    def most(self) -> int:
        """Score of a return of 1 on one layout."""
        return self.denominator // len(self.weights)

    def scores(self, units: np.ndarray) -> np.ndarray:
        """Return the mean returns of units [..., E] as int64 numerators [...]."""
        return units.astype(np.int64) @ self.weights


def mean_return(units: np.ndarray, layouts: Layout) -> float:
    """Return the mean of one program's returns, units int32 [E], on any number of layouts of any units; it is rounded
    once."""
    sums: dict[int, int] = {}
    for mine, all_of_it in zip(units.tolist(), np.asarray(layouts.units).tolist(), strict=True):
        sums[all_of_it] = sums.get(all_of_it, 0) + mine
    return float(sum(Fraction(mine, all_of_it) for all_of_it, mine in sums.items()) / len(units))


class Neighbourhoods(NamedTuple):
    """Programs of S searches and what a change makes of them."""

    parents: Any  # int32 [S, N]
    programs: Any  # int32 [S, B, N]: neighbours, in the order in which they count
    changed: Any  # int32 [S, B, 2]: the node of the parent whose subtree was replaced, and the size of that subtree
    counts: Any  # int32 [S]: how many neighbours are looked at, if none of them is better; -1: nothing is wanted


class Improvements(NamedTuple):
    """How neighbourhoods fare: numpy int32 [S]."""

    score: Any
    """The parent's (`Scale.scores`)."""
    first: Any
    """Index of the first neighbour with a higher score, -1 if there is none."""
    better: Any
    """Its score."""
