"""Pictures of states: `draw(task, state)`, for the worlds of Karel and MiniGrid. numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxprl.errors import UserError
from jaxprl.render import karel, minigrid
from jaxprl.worlds.karel.world import Geometry as KarelWorld
from jaxprl.worlds.minigrid.world import Geometry as MiniGridWorld

SMALLEST, LARGEST = 4, 256
"""Pixels of a cell's side."""


def draw(task_or_world: Any, state: Any, *, cell: int = 32) -> np.ndarray:
    """Return the picture of a state, uint8 [H * cell, W * cell, 3].

    Args:
      task_or_world: a task, or its world.
      state: the world's state, of Python values, numpy or JAX arrays; one lane, not a batch.
      cell: pixels of a cell's side.

    Raises UserError for a world that has no pictures and a size outside `SMALLEST`..`LARGEST`.
    """
    if not SMALLEST <= cell <= LARGEST:
        raise UserError(f"cells of {cell} pixels; pictures have {SMALLEST} to {LARGEST}")
    world = getattr(task_or_world, "world", task_or_world)
    if isinstance(world, KarelWorld):
        return karel.draw(world, state, cell)
    if isinstance(world, MiniGridWorld):
        return minigrid.draw(world, state, cell)
    name = getattr(task_or_world, "name", type(world).__name__)
    raise UserError(f"{name} cannot be drawn: there are pictures of tasks on Karel's and MiniGrid's world only")
