"""What goes in and out of evaluation: outcomes of runs, exact mean returns, neighbourhoods and how they fare."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

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


class Scale(NamedTuple):
    """Exact arithmetic of mean returns: a mean is `score / denominator`, both integers."""

    weights: np.ndarray  # int64 [E]
    denominator: int

    @classmethod
    def of(cls, layouts: Layout) -> Scale:
        units = np.asarray(layouts.units, np.int64)
        common = math.lcm(*units.tolist())
        return cls(common // units, common * len(units))

    @property
    def most(self) -> int:
        """Score of a return of 1 on one layout."""
        return self.denominator // len(self.weights)

    def scores(self, units: np.ndarray) -> np.ndarray:
        """Return the mean returns of units [..., E] as int64 numerators [...]."""
        return units.astype(np.int64) @ self.weights


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
