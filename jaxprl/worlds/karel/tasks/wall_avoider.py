"""WallAvoider: seed every cell that does not touch a wall (LLM-GS)."""

from __future__ import annotations

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import border, from_seed, nothing
from jaxprl.worlds.karel.tasks.harvester import Progress
from jaxprl.worlds.karel.world import TARGET, Event, KarelState, KarelWorld
from jaxprl.worlds.task import Layout, Rewarded, Task

WORLD = KarelWorld(8, 5)
CELLS = (WORLD.height - 4) * (WORLD.width - 4)
"""The number of cells to seed."""


def generate(rng: np.random.RandomState) -> Layout:
    """Make a layout: walls on the border, no markers, and a random start.

    A number v = ri(0, 4(H-2)(W-2)) gives the column v mod (W-2), the row (v div (W-2)) mod (H-2) and the direction
    v div ((H-2)(W-2)) of the start. No 1 is added to row and column, so the robot can start on a wall of the border
    (kept from the published system).
    """
    height, width = WORLD.height, WORLD.width
    value = rng.randint(0, 4 * (height - 2) * (width - 2))
    pose = (value // (width - 2)) % (height - 2), value % (width - 2), value // ((height - 2) * (width - 2))
    ring = border(height, width)
    ring[1:-1, 1:-1] = border(height - 2, width - 2)
    ring &= ~border(height, width)
    state = WORLD.state(border(height, width), pose, nothing(height, width), ring)
    return Layout(state, Progress(np.int32(CELLS), np.int32(0)), np.int32(CELLS))


def reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward every first marker on a cell that does not touch a wall.

    The reward is (m - m') / N, where m and m' are the numbers of markers in the world after and before the action, and
    N = (H-4)(W-4). If there is a marker on the ring of cells next to the border, or if a cell holds more than one
    marker, or if m < m', it is -1 instead and the run ends. Otherwise m = N ends the run. A marker on a cell of the
    border counts like any other (kept from the published system).
    """
    now = progress._replace(total=progress.total + event.change)
    on_ring = (event.byte & TARGET) != 0
    wrong = ((event.change == 1) & (on_ring | (event.count > 1))) | (event.change == -1)
    return state, now, ops.where(wrong, -progress.initial, event.change), wrong | (now.total == progress.initial)


TASKS = (
    Task(
        "WallAvoider", WORLD, from_seed(generate), reward,
        {
            "map": "8 rows x 5 columns of cells, open inside, no markers.",
            "agent": "On a random cell, facing a random direction.",
            "goal": "Put exactly one marker on every open cell that does not touch a wall.",
            "returns": "An equal share of 1 for each such cell. A marker on a cell that touches a wall, a second "
            "marker on a cell, or picking one up ends the episode with -1.",
        },
        quiet=True,
    ),
)  # fmt: skip
