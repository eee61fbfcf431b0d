"""What the layouts of several Karel tasks share. All draws are on a legacy `numpy.random.RandomState(seed)`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxprl.worlds.task import Layout

NORTH, EAST, SOUTH, WEST = range(4)


def border(height: int, width: int) -> np.ndarray:
    """Return walls bool [H, W]: the outermost ring."""
    walls = np.ones((height, width), bool)
    walls[1:-1, 1:-1] = False
    return walls


def nothing(height: int, width: int) -> np.ndarray:
    """Return marker counts uint8 [H, W], all zero."""
    return np.zeros((height, width), np.uint8)


def mask(height: int, width: int, cells) -> np.ndarray:
    """Return bool [H, W], True at the (row, column) pairs of `cells`."""
    found = np.zeros((height, width), bool)
    for row, column in cells:
        found[row, column] = True
    return found


def inner_cell(rng: np.random.RandomState, height: int, width: int) -> tuple[int, int]:
    """Draw a cell inside the border: row, then column."""
    return rng.randint(1, height - 1), rng.randint(1, width - 1)


def from_seed(generate: Callable[..., Layout], **options: Any) -> Callable[[int], Layout]:
    """Return a task's `generate` from one that draws on a legacy `RandomState`."""
    return functools.partial(_from_seed, generate, options)


def _from_seed(generate: Callable[..., Layout], options: dict[str, Any], seed: int) -> Layout:
    return generate(np.random.RandomState(seed), **options)
