"""Helpers for the layouts of Karel tasks. All random draws are on a legacy `numpy.random.RandomState(seed)`.

In the docstrings of `generate` functions, ri(a, b) is `randint(a, b)` of that generator, which excludes b. Draws are
made in the order in which they are listed, since that decides the layout of a seed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from jaxprl.worlds.task import Layout

NORTH, EAST, SOUTH, WEST = range(4)
"""The codes of directions."""


def border(height: int, width: int) -> np.ndarray:
    """Return walls on the outermost ring of cells, bool [H, W]."""
    walls = np.ones((height, width), bool)
    walls[1:-1, 1:-1] = False
    return walls


def nothing(height: int, width: int) -> np.ndarray:
    """Return no markers in any cell, uint8 [H, W]."""
    return np.zeros((height, width), np.uint8)


def mask(height: int, width: int, cells: Iterable[Sequence[int]]) -> np.ndarray:
    """Mark cells of a grid.

    Args:
      height: the number H of rows.
      width: the number W of columns.
      cells: the (row, column) of each cell to mark.

    Returns:
      bool [H, W], True at these cells.
    """
    marked = np.zeros((height, width), bool)
    for row, column in cells:
        marked[row, column] = True
    return marked


def inner_cell(rng: np.random.RandomState, height: int, width: int) -> tuple[int, int]:
    """Draw a cell inside the border: the row ri(1, H-1), then the column ri(1, W-1)."""
    return rng.randint(1, height - 1), rng.randint(1, width - 1)


def from_seed(generate: Callable[..., Layout], **options: object) -> Callable[[int], Layout]:
    """Return the `generate` of a task: seed -> layout.

    Args:
      generate: returns a layout, from a legacy `RandomState` and keyword arguments.
      **options: the keyword arguments.
    """
    return functools.partial(_from_seed, generate, options)


def _from_seed(generate: Callable[..., Layout], options: dict[str, object], seed: int) -> Layout:
    """Return the layout of a seed."""
    return generate(np.random.RandomState(seed), **options)
