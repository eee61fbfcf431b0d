"""Whether two samples come from one distribution."""

from collections.abc import Mapping

import numpy as np
import scipy.stats

SIGNIFICANCE = 1e-3


def p_value(expected: Mapping[str, int], found: Mapping[str, int]) -> float:
    """Return the chance of two histograms as different as these from one distribution; rare cells are pooled."""
    cells = sorted({*expected, *found})
    table = np.array([[histogram.get(cell, 0) for cell in cells] for histogram in (expected, found)])
    rare = table.sum(axis=0) < 20
    pooled = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    return scipy.stats.chi2_contingency(pooled).pvalue
