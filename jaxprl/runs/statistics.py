"""Statistics over search seeds: interquartile means with bootstrap bands, and how many programs it took.

The interquartile mean and the bootstrap over seeds follow Agarwal et al., *Deep Reinforcement Learning at the Edge of
the Statistical Precipice*, NeurIPS 2021, section 4; here the seeds of one task are resampled, for each task by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


class Band(NamedTuple):
    """A curve over search seeds; float64 [X] each."""

    middle: np.ndarray
    """Interquartile mean."""
    low: np.ndarray
    high: np.ndarray
    """Ends of the bootstrap interval."""


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half along the last axis, float64 [...]; of n values, floor(n/4) at either end are
    left out, as in `scipy.stats.trim_mean(values, 0.25)`."""
    count = values.shape[-1]
    cut = count // 4
    return np.sort(values, axis=-1)[..., cut : count - cut].mean(axis=-1)


def band(values: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> Band:
    """Return interquartile means and percentile bootstrap intervals of values float64 [X, S] over S search seeds.

    The same seeds are drawn at every x, so a curve is resampled as a whole. Equal input gives equal output.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(values.shape[-1], size=(resamples, values.shape[-1]))
    tail = 50 * (1 - CONFIDENCE)
    ends = [np.percentile(interquartile_mean(row[drawn]), [tail, 100 - tail]) for row in values]
    low, high = np.array(ends).reshape(-1, 2).T
    return Band(interquartile_mean(values), low, high)


def held(steps: Sequence[tuple[float, float]], at: np.ndarray) -> np.ndarray:
    """Return a search's best return at the places `at`, float64 [X]: the value of the last step that is not later.

    `steps` are places and values, ordered by place; before the first there is no value (NaN), after the last it stays.
    """
    places, values = np.array(steps, float).T
    index = np.searchsorted(places, at, side="right") - 1
    return np.where(index < 0, np.nan, values[index])


def to_solve(programs: Sequence[float], share: float) -> float:
    """Return the programs within which at least this share of searches had solved the task.

    `programs` has a number for each search, infinity for one that solved nothing; infinite if fewer searches did.
    """
    return sorted(programs)[max(math.ceil(share * len(programs)), 1) - 1]
