"""Charts as SVG text for a page: curves with bands, and a strip of dots. Colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from jaxprl.runs.groups import Curve

WIDTH, HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 42
COLOURS = 8
"""Colours that the style sheet has (`.c0` ...)."""


class Axis(NamedTuple):
    """Values from `low` to `high`, drawn from one pixel to another."""

    low: float
    high: float
    pixels: tuple[float, float]
    log: bool = False

    def at(self, values: np.ndarray | float) -> np.ndarray:
        """Return pixels, float64."""
        values, low, high = np.asarray(values, float), self.low, self.high
        if self.log:
            values, low, high = np.log10(values), math.log10(low), math.log10(high)
        first, last = self.pixels
        return np.asarray(first + (values - low) / (high - low) * (last - first))

    def ticks(self) -> list[float]:
        """Return about five round values; on a log axis the powers of ten."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers]
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * number for number in range(first, last + 1)]


def lowest(values: Sequence[float]) -> float:
    """Return where an axis of returns begins: at 0, or at a quarter below the lowest."""
    return min(0.0, math.floor(4 * min(values, default=0.0)) / 4)


def chart(curves: Sequence[tuple[int, str, Curve]], *, axis_label: str, log: bool, least: float, title: str) -> str:
    """Return a picture of returns from `least` to 1; `curves` are colours, names and what to draw."""
    last = max(curve.at[-1] for _, _, curve in curves)
    first = min(curve.at[0] for _, _, curve in curves)
    x = Axis(first if log else 0.0, max(last, first * 10 if log else 1e-3), (_LEFT, WIDTH - _RIGHT), log)
    y = Axis(least, 1.0, (HEIGHT - _BOTTOM, _TOP))
    parts = [*_frame(x, y, axis_label)]
    parts += [_band(x, y, colour, curve) for colour, _, curve in curves]
    parts += [_line(x, y, colour, name, curve) for colour, name, curve in curves]
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"


def _frame(x: Axis, y: Axis, label: str) -> list[str]:
    left, right = x.pixels
    bottom, top = y.pixels
    parts = []
    for value in y.ticks():
        at = float(y.at(value))
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 7}" y="{at + 3.5:.1f}" text-anchor="end">{value:g}</text>')
    for value in x.ticks():
        at = float(x.at(value))
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{short(value)}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text class="label" x="{(left + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{label}</text>')
    middle = (top + bottom) / 2
    turned = f'transform="rotate(-90 11 {middle})" text-anchor="middle"'
    parts.append(f'<text class="label" x="11" y="{middle}" {turned}>return</text>')
    return parts


def _band(x: Axis, y: Axis, colour: int, curve: Curve) -> str:
    if curve.searches == 1:
        return ""
    (right, high), (_, low) = _stairs(curve.at, curve.band.high), _stairs(curve.at, curve.band.low)
    points = _points(x, y, np.concatenate([right, right[::-1]]), np.concatenate([high, low[::-1]]))
    return f'<polygon class="band c{colour}" points="{points}"/>'


def _line(x: Axis, y: Axis, colour: int, name: str, curve: Curve) -> str:
    points = _points(x, y, *_stairs(curve.at, curve.band.middle))
    if len(curve.at) == 1:
        across, up = points.split(",")
        return f'<circle class="dot c{colour}" cx="{across}" cy="{up}" r="3"/>'
    return f'<polyline class="line c{colour}" points="{points}"><title>{escape(name)}</title></polyline>'


def _stairs(across: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of a curve that holds each value until the next place."""
    return np.repeat(across, 2)[1:], np.repeat(up, 2)[:-1]


def _points(x: Axis, y: Axis, across: np.ndarray, up: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.at(across), y.at(up), strict=True))


def strip(returns: Sequence[float], colour: int, least: float) -> str:
    """Return a small picture with a dot for each search, from `least` to 1."""
    x = Axis(least, 1.0, (5, 115))
    dots = "".join(f'<circle class="dot c{colour}" cx="{float(x.at(each)):.1f}" cy="8" r="3.2"/>' for each in returns)
    ends = "".join(f'<line class="axis" x1="{at}" x2="{at}" y1="5" y2="11"/>' for at in x.pixels)
    line = f'<line class="grid" x1="5" x2="115" y1="8" y2="8"/>{ends}'
    told = ", ".join(f"{each:.2f}" for each in sorted(returns))
    return f'<svg class="strip" viewBox="0 0 120 16" role="img" aria-label="returns {told}">{line}{dots}</svg>'


def short(value: float) -> str:
    """Return a number as a tick shows it: 100, 10k, 1M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.6g}"
