"""Go to one of several doors or objects and say `done` there (`minigrid`'s GoToDoor and GoToObject)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.world import DONE, TOGGLE, Event, Geometry, MiniGrid, item
from jaxprl.worlds.task import Layout


class Progress(NamedTuple):
    target: Any  # int32: the target's initial cell


def read_door(world: Geometry, env: Any, state: MiniGrid) -> Layout:
    """The four doors have different colours."""
    cell = np.int32(world.cell(*env.target_pos))
    return layout(state, Progress(cell), target=item("door", env.target_color))


def read_object(world: Geometry, env: Any, state: MiniGrid) -> Layout:
    """The objects differ in type or colour."""
    cell = np.int32(world.cell(*env.target_pos))
    return layout(state, Progress(cell), target=item(env.targetType, env.target_color))


def reward(world: Geometry, progress: Progress, state: MiniGrid, event: Event):
    """done: 1 if the agent is right above, below or beside the target's initial cell, whichever way it faces; the run
    ends in any case. toggle: end."""
    done = event.action == DONE
    distance = abs(state.cell - progress.target)
    reached = done & ((distance == 1) | (distance == world.stride))
    return state, progress, ops.where(reached, 1, 0), done | (event.action == TOGGLE)


_WORDS = {
    "agent": "On a random cell, facing a random direction.",
    "goal": "Go to the target and do the action done next to it, not diagonally.",
    "returns": "1 for done next to the target. Any other done and every toggle end the episode with 0.",
}

TASKS = (
    *family(
        {f"GoToDoor-{n}x{n}-v0": (n, n) for n in (5, 6, 8)},
        read_door, reward,
        {
            "map": "One room in the top left corner, at least 5 rows x 5 columns large. In each of its walls is a "
            "closed door at a random place, of four different colours. One of them is the target.",
            **_WORDS,
        },
        see_through=True,
    ),
    *family(
        {f"GoToObject-{n}x{n}-N2-v0": (n, n) for n in (6, 8)},
        read_object, reward,
        {
            "map": "Open inside. Two objects, each a key, a ball or a box of a random colour, lie on random cells. One "
            "of them is the target.",
            **_WORDS,
        },
        see_through=True,
    ),
)  # fmt: skip
