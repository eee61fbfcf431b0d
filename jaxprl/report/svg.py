"""Charts as SVG text for a page. Colours come from its style sheet, as the classes `c0`, `c1` and so on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from jaxprl.report.charts import Axis, Chart, Line, tick_label

WIDTH, HEIGHT = 460, 270
"""Size of a chart in pixels."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 42


class _Scale(NamedTuple):
    """Maps an axis to pixels."""

    axis: Axis
    pixels: tuple[float, float]

    def at(self, values: np.ndarray | float) -> np.ndarray:
        """Return the pixels of values, float64."""
        values, low, high = np.asarray(values, float), self.axis.low, self.axis.high
        if self.axis.log:
            values, low, high = np.log10(values), math.log10(low), math.log10(high)
        first, last = self.pixels
        return np.asarray(first + (values - low) / (high - low) * (last - first))


def chart(content: Chart) -> str:
    """Draw a chart.

    Args:
      content: what it shows.

    Returns:
      An `<svg>` element.
    """
    x = _Scale(content.x, (_LEFT, WIDTH - _RIGHT))
    y = _Scale(content.y, (HEIGHT - _BOTTOM, _TOP))
    parts = _frame(x, y)
    parts += [_band(x, y, line) for line in content.lines if line.has_band]
    parts += [_line(x, y, line) for line in content.lines]
    title = f"{content.task}: {content.y.label} against {content.x.label}"
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"


def _frame(x: _Scale, y: _Scale) -> list[str]:
    """Draw the axes with their ticks and labels."""
    left, right = x.pixels
    bottom, top = y.pixels
    parts = []
    for value in y.axis.ticks():
        at = float(y.at(value))
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 7}" y="{at + 3.5:.1f}" text-anchor="end">{value:g}</text>')
    for value in x.axis.ticks():
        at, label = float(x.at(value)), tick_label(value)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    centre = f'x="{(left + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle"'
    parts.append(f'<text class="label" {centre}>{x.axis.label}</text>')
    middle = (top + bottom) / 2
    turned = f'transform="rotate(-90 11 {middle})" text-anchor="middle"'
    parts.append(f'<text class="label" x="11" y="{middle}" {turned}>{y.axis.label}</text>')
    return parts


def _band(x: _Scale, y: _Scale, line: Line) -> str:
    at, band = line.curve.at, line.curve.band
    (right, high), (_, low) = _stairs(at, band.high), _stairs(at, band.low)
    points = _points(x, y, np.concatenate([right, right[::-1]]), np.concatenate([high, low[::-1]]))
    return f'<polygon class="band c{line.colour}" points="{points}"/>'


def _line(x: _Scale, y: _Scale, line: Line) -> str:
    points = _points(x, y, *_stairs(line.curve.at, line.curve.band.middle))
    if line.is_dot:
        across, up = points.split(",")
        return f'<circle class="dot c{line.colour}" cx="{across}" cy="{up}" r="3"/>'
    return f'<polyline class="line c{line.colour}" points="{points}"><title>{escape(line.label)}</title></polyline>'


def _stairs(across: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of a curve that holds each value until the next place."""
    return np.repeat(across, 2)[1:], np.repeat(up, 2)[:-1]


def _points(x: _Scale, y: _Scale, across: np.ndarray, up: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.at(across), y.at(up), strict=True))


def strip(returns: Sequence[float], colour: int, lowest: float) -> str:
    """Draw a dot for the return of each search on a line.

    Args:
      returns: the returns.
      colour: index of the colour.
      lowest: return at the left end of the line; the right end is 1.

    Returns:
      An `<svg>` element, small enough for a table.
    """
    x = _Scale(Axis(lowest, 1.0), (5, 115))
    dots = "".join(f'<circle class="dot c{colour}" cx="{float(x.at(each)):.1f}" cy="8" r="3.2"/>' for each in returns)
    ends = "".join(f'<line class="axis" x1="{at}" x2="{at}" y1="5" y2="11"/>' for at in x.pixels)
    line = f'<line class="grid" x1="5" x2="115" y1="8" y2="8"/>{ends}'
    words = ", ".join(f"{each:.2f}" for each in sorted(returns))
    return f'<svg class="strip" viewBox="0 0 120 16" role="img" aria-label="returns {words}">{line}{dots}</svg>'
