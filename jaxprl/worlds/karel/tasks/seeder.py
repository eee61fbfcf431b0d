"""Seeder: put exactly one marker on every cell (HPRL)."""

from __future__ import annotations

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed, nothing
from jaxprl.worlds.karel.tasks.harvester import Progress
from jaxprl.worlds.karel.world import Event, KarelState, KarelWorld
from jaxprl.worlds.task import Layout, Rewarded, Task

WORLD = KarelWorld(8, 8)
CELLS = (WORLD.height - 2) * (WORLD.width - 2)
"""The number of cells to seed."""


def generate(rng: np.random.RandomState) -> Layout:
    """Make a layout: walls on the border, no markers, and a start facing east.

    The column ri(2, W-2) of the start is drawn first, then its row ri(1, H-1).
    """
    height, width = WORLD.height, WORLD.width
    column = rng.randint(2, width - 2)
    row = rng.randint(1, height - 1)
    state = WORLD.state(border(height, width), (row, column, EAST), nothing(height, width))
    return Layout(state, Progress(np.int32(CELLS), np.int32(0)), np.int32(CELLS))


def reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward every first marker on a cell.

    The reward is (m - m') / N, where m and m' are the numbers of markers in the world after and before the action, and
    N = (H-2)(W-2). If a cell holds more than one marker, or if m < m', it is -1 instead and the run ends. m = N ends
    the run.
    """
    now = progress._replace(total=progress.total + event.change)
    wrong = ((event.change == 1) & (event.count > 1)) | (event.change == -1)
    return state, now, ops.where(wrong, -progress.initial, event.change), wrong | (now.total == progress.initial)


TASKS = (
    Task(
        "Seeder", WORLD, from_seed(generate), reward,
        {
            "map": "8 x 8 cells, open inside, no markers.",
            "agent": "On a random cell, facing east.",
            "goal": "Put exactly one marker on every open cell.",
            "returns": "An equal share of 1 for each cell seeded. A second marker on a cell, or picking one up, ends "
            "the episode with -1.",
        },
        quiet=True,
    ),
)  # fmt: skip
