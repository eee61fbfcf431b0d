"""DoorKey: take the key marker, pass the door that it opens, and put a marker on the goal marker (HPRL)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed, mask
from jaxprl.worlds.karel.world import GATE, Event, KarelState, KarelWorld
from jaxprl.worlds.ops import Int
from jaxprl.worlds.task import Layout, Rewarded, Task

WORLD = KarelWorld(8, 8)


class Progress(NamedTuple):
    """What the reward depends on besides the state."""

    key: Int  # int32 []: the cell of the key
    goal: Int  # int32 []: the cell of the goal
    total: Int  # int32 []: the number of markers in the world


def generate(rng: np.random.RandomState) -> Layout:
    """Make a layout.

    There are walls on the border and in the column w = ceil(W/2). The key is at (ri(1, H-1), ri(1, w)), the goal at
    (ri(1, H-1), ri(w+1, W-1)); each is one marker. The start is drawn like the key until it is another cell, and the
    robot faces east. The door is the cells (2, w) and (3, w).
    """
    height, width = WORLD.height, WORLD.width
    wall = math.ceil(width / 2)
    walls = border(height, width)
    walls[:, wall] = True
    key = rng.randint(1, height - 1), rng.randint(1, wall)
    goal = rng.randint(1, height - 1), rng.randint(wall + 1, width - 1)
    start = key
    while start == key:
        start = rng.randint(1, height - 1), rng.randint(1, wall)
    state = WORLD.state(walls, (*start, EAST), mask(height, width, [key, goal]).astype(np.uint8))
    door = [WORLD.cell(2, wall), WORLD.cell(3, wall)]
    assert isinstance(state.cells, np.ndarray)
    state.cells[door] = GATE
    progress = Progress(np.int32(WORLD.cell(*key)), np.int32(WORLD.cell(*goal)), np.int32(2))
    return Layout(state, progress, np.int32(2))


def reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward taking the key and then putting a marker on the goal.

    While the door is locked: if there are more than two markers in the world, the reward is -1 and the run ends.
    Otherwise, if the cell of the key is empty, the reward is +0.5 and the door opens.

    While it is unlocked: if there is more than one marker in the world, the run ends, with +0.5 if the goal holds
    exactly two markers and with -1 if not. If there is no marker, the reward is -1 and the run ends.
    """
    total = progress.total + event.change
    took_key = (event.change == -1) & (event.count == 0) & (state.cell == progress.key)
    topped = (event.change == 1) & (event.count == 2) & (state.cell == progress.goal)
    unlocked, locked = state.opened, ops.invert(state.opened)
    done = unlocked & topped & (total > 1)
    wrong = (locked & (total > 2)) | (unlocked & ops.invert(topped) & (total > 1)) | (unlocked & (total == 0))
    unlocks = locked & took_key & ops.invert(wrong)
    units = ops.where(wrong, -2, ops.where(done | unlocks, 1, 0))
    return state._replace(opened=unlocked | unlocks), progress._replace(total=total), units, wrong | done


TASKS = (
    Task(
        "DoorKey", WORLD, from_seed(generate), reward,
        {
            "map": "8 x 8 cells, split by a vertical wall into a left and a right room. One marker (the key) lies in "
            "the left room, one (the goal) in the right room. Taking the key opens two cells in the upper part of "
            "the dividing wall.",
            "agent": "On a random cell of the left room, facing east.",
            "goal": "Pick up the key marker, go through the opening, and put a marker on the goal marker.",
            "returns": "0.5 for picking up the key, 0.5 for putting a marker on the goal marker. A marker put "
            "anywhere else, or picking up the goal marker, ends the episode with -1.",
        },
        quiet=True,
    ),
)  # fmt: skip
