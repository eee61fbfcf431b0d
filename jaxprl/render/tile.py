"""Paints shapes with smooth edges on a square of pixels.

A shape is a signed distance: how far each pixel lies outside of it (inside of it, if negative), in sides of the tile.
It is an array float64 [cell, cell]. Points are (x, y), from (0, 0) at the top left to (1, 1) at the bottom right.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

Color = tuple[int, int, int]
Point = tuple[float, float]


class Tile:
    """A square to paint on; `inset` and `turned` are other views of the same pixels.

    Args:
      cell: side of the square in pixels.
      color: its first colour.
    """

    def __init__(self, cell: int, color: Color):
        centres = (np.arange(cell) + 0.5) / cell
        self.pixels = np.full((cell, cell, 3), color, float)
        self.side = float(cell)  # pixels of a unit
        self.x, self.y = np.meshgrid(centres, centres)

    def image(self) -> np.ndarray:
        """Return the pixels, uint8 [cell, cell, 3]."""
        return np.rint(self.pixels).astype(np.uint8)

    def inset(self, x: float, y: float, scale: float) -> Tile:
        """Return a view of a smaller tile within this one: its centre is at (x, y), and its side is `scale`."""
        return self._view((self.x - x) / scale + 0.5, (self.y - y) / scale + 0.5, self.side * scale)

    def turned(self, quarters: int) -> Tile:
        """Return a view that is turned clockwise: after one quarter, its right side is at the bottom."""
        x, y = self.x - 0.5, self.y - 0.5
        for _ in range(quarters % 4):
            x, y = y, -x
        return self._view(x + 0.5, y + 0.5, self.side)

    def _view(self, x: np.ndarray, y: np.ndarray, side: float) -> Tile:
        view = object.__new__(Tile)
        view.pixels, view.x, view.y, view.side = self.pixels, x, y, side
        return view

    def paint(self, distance: np.ndarray, color: Color, opacity: float = 1.0) -> None:
        """Paint a shape: the pixels inside of it, and in part those on its edge."""
        cover = np.clip(0.5 - distance * self.side, 0, 1) * opacity
        self.pixels += (np.array(color) - self.pixels) * cover[..., None]

    def thick(self, width: float) -> float:
        """Return half of a line's width; lines are at least one pixel wide."""
        return max(width, 1 / self.side) / 2

    def circle(self, centre: Point, radius: float) -> np.ndarray:
        """Return a disc."""
        return np.hypot(self.x - centre[0], self.y - centre[1]) - radius

    def box(self, left: float, top: float, right: float, bottom: float, *, corner: float = 0.0) -> np.ndarray:
        """Return a rectangle; `corner` is the radius of its corners."""
        dx = np.abs(self.x - (left + right) / 2) - (right - left) / 2 + corner
        dy = np.abs(self.y - (top + bottom) / 2) - (bottom - top) / 2 + corner
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        return outside + np.minimum(np.maximum(dx, dy), 0) - corner

    def line(self, points: Sequence[Point], width: float) -> np.ndarray:
        """Return a line through points, with round ends."""
        pieces = itertools.pairwise(points)
        return np.minimum.reduce([self._segment(*ends) for ends in pieces]) - self.thick(width)

    def polygon(self, points: Sequence[Point]) -> np.ndarray:
        """Return a polygon, which may be concave."""
        inside = np.zeros(self.x.shape, bool)
        edges = list(zip(points, [*points[1:], points[0]], strict=True))
        for (x1, y1), (x2, y2) in edges:
            if y1 != y2:
                crosses = (y1 > self.y) != (y2 > self.y)
                inside ^= crosses & (self.x < x1 + (self.y - y1) / (y2 - y1) * (x2 - x1))
        return np.minimum.reduce([self._segment(*ends) for ends in edges]) * np.where(inside, -1, 1)

    def edge(self, shape: np.ndarray, width: float) -> np.ndarray:
        """Return the outline of a shape, which lies inside of it."""
        half = self.thick(width)
        return np.abs(shape + half) - half

    def _segment(self, start: Point, end: Point) -> np.ndarray:
        (x, y), dx, dy = start, end[0] - start[0], end[1] - start[1]
        along = np.clip(((self.x - x) * dx + (self.y - y) * dy) / (dx * dx + dy * dy), 0, 1)
        return np.hypot(self.x - x - along * dx, self.y - y - along * dy)


def number(tile: Tile, value: int, color: Color) -> None:
    """Paint a number of one or two digits, as high as the tile."""
    digits = [int(digit) for digit in str(value)]
    pitch = 0.72
    for place, digit in enumerate(digits):
        part = tile.inset(0.5 + pitch * (place - (len(digits) - 1) / 2), 0.5, 1.0)
        part.paint(np.minimum.reduce([part.line(stroke, 0.17) for stroke in _DIGITS[digit]]), color)


def _arc(centre: Point, radii: Point, start: float, end: float) -> list[Point]:
    """Return points on an ellipse, from one angle to another; degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 9))
    return [(centre[0] + radii[0] * np.cos(angle), centre[1] + radii[1] * np.sin(angle)) for angle in angles]


_DIGITS: tuple[list[list[Point]], ...] = (
    [_arc((0.5, 0.5), (0.26, 0.42), 0, 180), _arc((0.5, 0.5), (0.26, 0.42), 180, 360)],
    [[(0.3, 0.24), (0.55, 0.08), (0.55, 0.92)]],
    [[*_arc((0.49, 0.33), (0.26, 0.25), 190, 390), (0.24, 0.92), (0.78, 0.92)]],
    [_arc((0.46, 0.29), (0.25, 0.21), 205, 450), _arc((0.46, 0.7), (0.29, 0.22), 270, 510)],
    [[(0.64, 0.92), (0.64, 0.08), (0.22, 0.66), (0.82, 0.66)]],
    [[(0.72, 0.08), (0.3, 0.08), (0.27, 0.44), *_arc((0.47, 0.65), (0.29, 0.27), 235, 500)]],
    [[(0.63, 0.08), (0.34, 0.42), (0.23, 0.65)], _arc((0.5, 0.66), (0.27, 0.26), 0, 180),
     _arc((0.5, 0.66), (0.27, 0.26), 180, 360)],
    [[(0.22, 0.08), (0.78, 0.08), (0.42, 0.92)]],
    [_arc((0.5, 0.28), (0.22, 0.2), 0, 360), _arc((0.5, 0.7), (0.27, 0.22), 0, 360)],
    [[(0.37, 0.92), (0.66, 0.58), (0.77, 0.35)], _arc((0.5, 0.34), (0.27, 0.26), 0, 180),
     _arc((0.5, 0.34), (0.27, 0.26), 180, 360)],
)  # fmt: skip
"""The strokes of each digit."""
