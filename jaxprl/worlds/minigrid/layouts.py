"""Layouts made by `minigrid` itself: `reset(seed=seed)`, then its grid, agent and objects are read.

`minigrid` is imported here, when a layout is made.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from jaxprl.errors import UserError
from jaxprl.worlds.minigrid.farama import from_farama
from jaxprl.worlds.minigrid.world import MiniGrid


def world_of(env: Any, seed: int) -> MiniGrid:
    """Return the world of numpy values that `env.reset(seed=seed)` makes."""
    env.reset(seed=seed)
    return jax.tree.map(np.asarray, from_farama(env).world)


@functools.cache
def registered(name: str) -> Any:
    """Return the environment that the package registers by that id: made once, and reset for every layout."""
    import gymnasium
    import minigrid

    spec = gymnasium.registry.get(name)
    if spec is None:
        raise UserError(f"minigrid {minigrid.__version__} has no {name}: install a newer one")
    return gymnasium.make(spec).unwrapped  # by its name, it would warn of old versions


def lava_gap() -> Any:
    """Return LavaGap, 6x6: the package's own."""
    from minigrid.envs import LavaGapEnv

    return LavaGapEnv(size=6)


def red_blue_door() -> Any:
    """Return RedBlueDoor of size 6, a grid of 12x6: the package's own."""
    from minigrid.envs import RedBlueDoorEnv

    return RedBlueDoorEnv(size=6)


def put_near() -> Any:
    """Return PutNear, 6x6: a ball, then a box, each with a colour of `COLOR_NAMES`, the box not within one cell of the
    ball, then the agent. (The package draws the types of its objects and which one to move.)"""
    from minigrid.core.constants import COLOR_NAMES
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import Ball, Box
    from minigrid.envs import PutNearEnv

    class BallAndBox(PutNearEnv):
        def _gen_grid(self, width: int, height: int) -> None:
            self.grid = Grid(width, height)
            self.grid.wall_rect(0, 0, width, height)
            color = self._rand_elem(COLOR_NAMES)
            self.move_type, self.moveColor = "ball", color
            self.move_pos = self.place_obj(Ball(color))
            self.target_type, self.target_color = "box", self._rand_elem(COLOR_NAMES)
            self.target_pos = self.place_obj(Box(self.target_color), reject_fn=self._is_near_ball)
            self.place_agent()
            self.mission = f"put the {color} ball near the {self.target_color} box"

        def _is_near_ball(self, env: Any, position: Any) -> bool:
            return max(abs(np.subtract(position, self.move_pos))) <= 1

    return BallAndBox(size=6, numObjs=2)
