"""Memory: go to the end of a passage where the object that was seen at the start lies again (`minigrid`'s Memory)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.farama import FaramaEnv
from jaxprl.worlds.minigrid.world import PICKUP, TOGGLE, Event, MiniGridState, MiniGridWorld
from jaxprl.worlds.ops import Bool, Int
from jaxprl.worlds.task import Layout, Rewarded


class World(MiniGridWorld):
    """MiniGrid's world, except that `pickup` does what `toggle` does."""

    def act(self, state: MiniGridState, action: Int, at_limit: Bool = False) -> tuple[MiniGridState, Event]:
        """Do an action, `toggle` for `pickup` (see `MiniGridWorld.act`)."""
        return super().act(state, ops.where(action == PICKUP, TOGGLE, action), at_limit)


class Progress(NamedTuple):
    """What the reward depends on besides the state."""

    success: Int  # int32 []: the cell next to the matching object
    failure: Int  # int32 []: the cell next to the other one


def read(world: MiniGridWorld, env: FaramaEnv, state: MiniGridState) -> Layout:
    """Make the layout. The mission names no object."""
    success, failure = world.cell(*env.success_pos), world.cell(*env.failure_pos)
    return layout(state, Progress(np.int32(success), np.int32(failure)))


def reward(world: MiniGridWorld, progress: Progress, state: MiniGridState, event: Event) -> Rewarded:
    """Reward going to the matching object.

    Next to the matching object the reward is 1 and the run ends. Next to the other one the run ends.
    """
    arrived = state.cell == progress.success
    return state, progress, ops.where(arrived, 1, 0), arrived | (state.cell == progress.failure)


_SIZES = {"S7": 7, "S9": 9, "S11": 11, "S13": 13, "S13Random": 13, "S17Random": 17}

TASKS = family(
    {f"Memory{name}-v0": (size, size) for name, size in _SIZES.items()},
    read, reward,
    {
        "map": "A small room on the left holds a green key or a green ball in its top left corner. A passage leads "
        "east from it and forks at its end, to the north and to the south. One branch ends at a key, the other at a "
        "ball.",
        "agent": "On a random cell of the middle row, in the room or the passage, facing east.",
        "goal": "Go to the end of the branch where the same object lies as in the room.",
        "returns": "1 on reaching the cell next to that object. Reaching the cell next to the other one ends the "
        "episode with 0. pickup does what toggle does.",
    },
    geometry=World, quiet=False,
)  # fmt: skip
