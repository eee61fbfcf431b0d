"""Unlock: open a locked door (`minigrid`'s Unlock)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.farama import FaramaEnv
from jaxprl.worlds.minigrid.world import TOGGLE, Event, MiniGridState, MiniGridWorld, is_open
from jaxprl.worlds.ops import Int
from jaxprl.worlds.task import Layout, Rewarded


class Progress(NamedTuple):
    """What the reward depends on besides the state."""

    door: Int  # int32 []: the cell of the locked door


def read(world: MiniGridWorld, env: FaramaEnv, state: MiniGridState) -> Layout:
    """Make the layout. The mission is about a door, but does not name its colour, so there is no target."""
    return layout(state, Progress(np.int32(world.cell(*env.door.cur_pos))))


def reward(world: MiniGridWorld, progress: Progress, state: MiniGridState, event: Event) -> Rewarded:
    """Reward a `toggle` after which the door is open: 1, and the run ends."""
    opened = (event.action == TOGGLE) & is_open(ops.read(state.cells, progress.door))
    return state, progress, ops.where(opened, 1, 0), opened


TASKS = family(
    {"Unlock-v0": (11, 6)},
    read, reward,
    {
        "map": "A left and a right room with a locked door of a random colour between them. A key of that colour lies "
        "in the left room.",
        "agent": "On a random cell of the left room, facing a random direction.",
        "goal": "Pick up the key and open the door with it.",
        "returns": "1 on opening the door.",
    },
)  # fmt: skip
