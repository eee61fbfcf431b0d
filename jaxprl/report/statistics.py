"""Statistics over search seeds: interquartile means with confidence intervals, and how many programs a search took.

The interquartile mean and the bootstrap over seeds follow Agarwal et al., *Deep Reinforcement Learning at the Edge of
the Statistical Precipice*, NeurIPS 2021, section 4. Two things differ. The seeds of each task are resampled by
themselves, because results are reported for each task. The intervals are bias-corrected and accelerated (BCa; Efron,
*Better Bootstrap Confidence Intervals*, JASA 1987), because the returns of few seeds are skewed.

Axis letters: X places of a learning curve, S search seeds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
"""How many times the seeds are resampled."""
CONFIDENCE = 0.95
"""Confidence level of the intervals."""
_BATCH = 100
"""Resamples that are held in memory at a time."""


class Band(NamedTuple):
    """Interquartile means over search seeds, and their confidence intervals."""

    middle: np.ndarray  # float64 [X]: interquartile means
    low: np.ndarray  # float64 [X]: lower ends of the intervals
    high: np.ndarray  # float64 [X]: upper ends


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean of the middle half of the values.

    Args:
      values: float64 array.
      axis: the axis over which to average. Of n values, the floor(n / 4) lowest and highest are left out.

    Returns:
      The means, a float64 array without that axis, rounded to 12 decimals: the same values in another order then have
      exactly the same mean, which matters where the bootstrap counts how many resamples lie below it.
    """
    import scipy.stats

    return np.round(scipy.stats.trim_mean(values, 0.25, axis=axis), 12)


def band(values: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> Band:
    """Return interquartile means over search seeds, with bootstrap confidence intervals.

    In each resample the same seeds are drawn for all places, so that a curve is resampled as a whole. Where there is no
    BCa interval, because the mean stays the same whichever seed is left out, the percentile interval is used. If an
    interval does not contain its mean, it is extended to it. The same input gives the same output.

    Args:
      values: float64 [X, S], a column for each search seed.
      seed: seed of the resampling.
      resamples: how many times the seeds are resampled.

    Returns:
      The means and intervals. With one search seed, or with equal values, an interval is the value itself.
    """
    middle = interquartile_mean(values)
    if values.shape[-1] == 1:
        return Band(middle, middle, middle)
    rows, row = np.unique(values, axis=0, return_inverse=True)  # a curve has many equal places
    row = row.reshape(-1)
    low, high = _interval(rows, seed, resamples)
    return Band(middle, np.minimum(low[row], middle), np.maximum(high[row], middle))


def _interval(values: np.ndarray, seed: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the confidence intervals, float64 [X] each, of values [X, S]."""
    import scipy.stats

    options = {"axis": -1, "confidence_level": CONFIDENCE}
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        result = scipy.stats.bootstrap(
            (values,), interquartile_mean, n_resamples=resamples, batch=_BATCH, method="BCa",
            rng=np.random.default_rng(seed), **options,
        )  # fmt: skip
        simple = scipy.stats.bootstrap(
            (values,), interquartile_mean, n_resamples=0, method="percentile", bootstrap_result=result, **options
        )
    ends = zip(result.confidence_interval, simple.confidence_interval, strict=True)
    low, high = (np.where(np.isnan(end), instead, end) for end, instead in ends)
    return low, high


class Median(NamedTuple):
    """A median over search seeds with its confidence interval; any of them may be infinite."""

    middle: float
    low: float
    high: float


def median(values: Sequence[float], *, others: int | None = None, seed: int = 0, resamples: int = RESAMPLES) -> Median:
    """Return the median of some values with a percentile bootstrap interval.

    Args:
      values: a value for each search, infinity for one that has none.
      others: a number of other searches: the interval is then where the median of so many searches of the same kind is
        to be expected, so it has the uncertainty of both. None for an interval of the median of these searches.
      seed: seed of the resampling.
      resamples: how many times the searches are resampled.
    """
    known = np.array(values, float)
    rng = np.random.default_rng(seed)
    draws = rng.choice(known, (resamples, len(known)))
    if others is not None:
        draws = np.take_along_axis(draws, rng.integers(len(known), size=(resamples, others)), axis=1)
    tails = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    low, high = np.quantile(np.median(draws, axis=1), tails, method="inverted_cdf")  # infinity cannot be interpolated
    return Median(float(np.median(known)), float(low), float(high))


def held(steps: Sequence[tuple[float, float]], at: np.ndarray) -> np.ndarray:
    """Return the best return of a search at some places: the value of the last step up to each place.

    Args:
      steps: places and best returns, ordered by place.
      at: float64 [X], the places.

    Returns:
      float64 [X]. NaN before the first step; the last value after the last step.
    """
    places, values = np.array(steps, float).T
    index = np.searchsorted(places, at, side="right") - 1
    return np.where(index < 0, np.nan, values[index])


def to_solve(programs: Sequence[float], share: float) -> float:
    """Return within how many programs some share of the searches had solved the task.

    Args:
      programs: for each search, programs evaluated until it had solved the task; infinity if it has not.
      share: share of the searches, above 0 and up to 1.

    Returns:
      The number of programs; infinity if fewer searches have solved the task.
    """
    return sorted(programs)[max(math.ceil(share * len(programs)), 1) - 1]
