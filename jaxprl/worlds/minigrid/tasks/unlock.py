"""Unlock: open a locked door (`minigrid`'s Unlock)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.world import TOGGLE, Event, Geometry, MiniGrid, is_open
from jaxprl.worlds.task import Layout


class Progress(NamedTuple):
    door: Any  # int32: the locked door's cell


def read(world: Geometry, env: Any, state: MiniGrid) -> Layout:
    """The mission names a door, but by no colour."""
    return layout(state, Progress(np.int32(world.cell(*env.door.cur_pos))))


def reward(world: Geometry, progress: Progress, state: MiniGrid, event: Event):
    """toggle, after which the door is open: 1 and end."""
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
