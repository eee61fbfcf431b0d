"""GoTo: go to one of several doors or objects and do `done` there (`minigrid`'s GoToDoor and GoToObject)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.farama import FaramaEnv
from jaxprl.worlds.minigrid.world import DONE, TOGGLE, Event, MiniGridState, MiniGridWorld, item
from jaxprl.worlds.ops import Int
from jaxprl.worlds.task import Layout, Rewarded


class Progress(NamedTuple):
    """What the reward depends on besides the state."""

    target: Int  # int32 []: the initial cell of the target


def read_door(world: MiniGridWorld, env: FaramaEnv, state: MiniGridState) -> Layout:
    """Make a layout of GoToDoor. The target is one of four doors, which have different colours."""
    cell = np.int32(world.cell(*env.target_pos))
    return layout(state, Progress(cell), target=item("door", env.target_color))


def read_object(world: MiniGridWorld, env: FaramaEnv, state: MiniGridState) -> Layout:
    """Make a layout of GoToObject. The target is one of the objects, which differ in type or colour."""
    cell = np.int32(world.cell(*env.target_pos))
    return layout(state, Progress(cell), target=item(env.targetType, env.target_color))


def reward(world: MiniGridWorld, progress: Progress, state: MiniGridState, event: Event) -> Rewarded:
    """Reward `done` next to the target.

    After `done`, the reward is 1 if the agent is directly above, below or beside the initial cell of the target,
    whichever way it faces; the run ends in any case. A `toggle` ends the run.
    """
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
