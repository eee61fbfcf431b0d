"""Pictures of states, for the worlds of Karel and MiniGrid. They need numpy only."""

from __future__ import annotations

import numpy as np

from jaxprl.errors import UserError
from jaxprl.render import karel, minigrid
from jaxprl.types import PyTree
from jaxprl.worlds.karel.world import KarelState, KarelWorld
from jaxprl.worlds.minigrid.world import MiniGridState, MiniGridWorld
from jaxprl.worlds.task import PythonTask, Task, World

SMALLEST, LARGEST = 4, 256
"""Pixels that a cell's side can have."""


def draw(task_or_world: Task | PythonTask | World, state: PyTree, *, cell: int = 32) -> np.ndarray:
    """Draw a state.

    Args:
      task_or_world: a task, or its world, which is a `KarelWorld` or a `MiniGridWorld`.
      state: one state of the world, not a batch of them; its leaves are Python values or arrays of numpy or JAX.
      cell: side of a cell in pixels, `SMALLEST` to `LARGEST`.

    Returns:
      The picture, uint8 [H * cell, W * cell, 3].

    Raises:
      UserError: there are no pictures of this world, or `cell` is out of range.

    Example:
      >>> from jaxprl.worlds.make import make
      >>> task = make("DoorKey")
      >>> draw(task, task.layout(0).state, cell=16).shape
      (128, 128, 3)
    """
    if not SMALLEST <= cell <= LARGEST:
        raise UserError(f"cells of {cell} pixels; pictures have {SMALLEST} to {LARGEST}")
    world = getattr(task_or_world, "world", task_or_world)
    for kind, form, module in ((KarelWorld, KarelState, karel), (MiniGridWorld, MiniGridState, minigrid)):
        if isinstance(world, kind):
            cells = world.poses // 4  # a pose is a cell and one of four directions
            if not isinstance(state, form) or len(state.cells) != cells:
                size = f"{world.height}x{world.width}"
                raise UserError(f"state: expected one of this {size} {kind.__name__}, like task.layout(0).state")
            return module.draw(world, state, cell)
    name = getattr(task_or_world, "name", type(world).__name__)
    raise UserError(f"{name} cannot be drawn: there are pictures of tasks on Karel's and MiniGrid's world only")
