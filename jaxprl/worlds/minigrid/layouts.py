"""Make layouts with `minigrid` itself: call `reset(seed=seed)`, then read its grid, agent and objects.

`minigrid` is imported when a layout is made.
"""

from __future__ import annotations

import functools

import jax
import numpy as np

from jaxprl.errors import UserError, needed_by
from jaxprl.worlds.minigrid.farama import FaramaEnv, from_farama
from jaxprl.worlds.minigrid.world import MiniGridState

_needed = functools.partial(needed_by, "a layout of MiniGrid")


def world_of(env: FaramaEnv, seed: int) -> MiniGridState:
    """Reset an environment and return its state, of numpy values."""
    env.reset(seed=seed)
    return jax.tree.map(np.asarray, from_farama(env).world)


@functools.cache
def registered(name: str) -> FaramaEnv:
    """Return the environment that the package registers under an id. It is made once and reset for every layout.

    Raises:
      UserError: the installed version of the package has no such id.
    """
    with _needed():
        import gymnasium
        import minigrid

    spec = gymnasium.registry.get(name)
    if spec is None:
        raise UserError(f"minigrid {minigrid.__version__} has no {name}: install a newer one")
    return gymnasium.make(spec).unwrapped  # by its name, gymnasium would warn about old versions


def lava_gap() -> FaramaEnv:
    """Return the package's own LavaGap of 6x6 cells."""
    with _needed():
        from minigrid.envs import LavaGapEnv

    return LavaGapEnv(size=6)


def red_blue_door() -> FaramaEnv:
    """Return the package's own RedBlueDoor of size 6, which has a grid of 12x6 cells."""
    with _needed():
        from minigrid.envs import RedBlueDoorEnv

    return RedBlueDoorEnv(size=6)


def put_near() -> FaramaEnv:
    """Return a PutNear of 6x6 cells with one ball, which is to be moved, and one box.

    The ball is placed first and then the box, not within one cell of the ball (also diagonally), each after drawing its
    colour from `COLOR_NAMES`; then the agent is placed. (The package's own PutNear also draws the types of its objects,
    and which one is to be moved.)
    """
    with _needed():
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

        def _is_near_ball(self, env: FaramaEnv, position: tuple[int, int]) -> bool:
            return max(abs(np.subtract(position, self.move_pos))) <= 1

    return BallAndBox(size=6, numObjs=2)
