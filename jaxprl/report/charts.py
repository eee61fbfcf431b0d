"""What figures of learning curves show. `svg.py` and `figures.py` draw the same charts, for a page and for files.

A chart determines the axes and their ticks, the order, labels and colours of the curves, and which curves have bands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxprl.report.groups import AXES, Curve, Group, by_task, curves

COLOURS = ("#0b6fb8", "#d1521a", "#0f8f6b", "#b5488e", "#b98300", "#3aa0d8", "#6a51a3", "#6b7280")
"""The colours of curves on a light background."""
DARK_COLOURS = ("#5eb1ef", "#f58b57", "#45c9a0", "#e58bc2", "#e6b949", "#8fd3f7", "#b3a1e6", "#a3acb8")
"""The same colours on a dark background."""


class Axis(NamedTuple):
    """The range of an axis."""

    low: float
    high: float
    label: str = ""
    log: bool = False

    def ticks(self) -> list[float]:
        """Return about five round values; on a logarithmic axis the powers of ten."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers]
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * number for number in range(first, last + 1)]


class Line(NamedTuple):
    """One curve of a chart. Each value holds until the next place."""

    label: str
    colour: int
    """Index of its colour in `COLOURS`."""
    curve: Curve

    @property
    def has_band(self) -> bool:
        """Whether the confidence interval is drawn: a single search has none."""
        return self.curve.searches > 1

    @property
    def is_dot(self) -> bool:
        """Whether the curve has a single place and is drawn as a dot."""
        return len(self.curve.at) == 1


class Chart(NamedTuple):
    """The learning curves of one task against one quantity."""

    task: str
    against: str
    """A key of `groups.AXES`."""
    x: Axis
    y: Axis
    lines: tuple[Line, ...]


def colours(groups: Sequence[Group]) -> dict[str, int]:
    """Return the index of each method's colour in `COLOURS`. Methods after the eighth share colours with the first."""
    return {name: n % len(COLOURS) for n, name in enumerate(dict.fromkeys(each.method for each in groups))}


def lowest(returns: Sequence[float]) -> float:
    """Return where an axis of returns begins: at 0 or, if there are lower returns, at a multiple of a quarter."""
    return min(0.0, math.floor(4 * min(returns, default=0.0)) / 4)


def learning_curves(groups: Sequence[Group]) -> dict[str, list[Chart]]:
    """Compute the charts of a report.

    Args:
      groups: the groups of all tasks.

    Returns:
      For each task with recorded searches, a chart for every entry of `groups.AXES`. All charts of a task have the same
      range of returns.
    """
    colour = colours(groups)
    charts = {}
    for task, alike in by_task(groups).items():
        lines = {
            against: tuple(Line(group.method, colour[group.method], curve) for group, curve in curves(alike, against))
            for against in AXES
        }
        lows = [float(line.curve.band.low.min()) for drawn in lines.values() for line in drawn]
        if lows:
            y = Axis(lowest(lows), 1.0, "return")
            charts[task] = [Chart(task, against, _across(drawn, against), y, drawn) for against, drawn in lines.items()]
    return charts


def _across(lines: Sequence[Line], against: str) -> Axis:
    """Return the horizontal axis of a chart, up to the end of the longest curve."""
    first, last = min(line.curve.at[0] for line in lines), max(line.curve.at[-1] for line in lines)
    if against == "evaluated":
        return Axis(float(first), float(max(last, first * 10)), AXES[against], log=True)
    return Axis(0.0, float(max(last, 1e-3)), AXES[against])


def tick_label(value: float) -> str:
    """Return a number as a tick shows it: 100, 10k, 1M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.6g}"
