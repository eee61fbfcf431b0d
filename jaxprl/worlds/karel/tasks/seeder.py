"""Seeder: put exactly one marker on every cell (HPRL)."""

from __future__ import annotations

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed, nothing
from jaxprl.worlds.karel.tasks.harvester import Progress
from jaxprl.worlds.karel.world import Event, Geometry, Karel
from jaxprl.worlds.task import Layout, Task

WORLD = Geometry(8, 8)
CELLS = (WORLD.height - 2) * (WORLD.width - 2)


def generate(rng: np.random.RandomState) -> Layout:
    """Border; the start's column ri(2, W-2) is drawn first, then its row ri(1, H-1); facing east."""
    height, width = WORLD.height, WORLD.width
    column = rng.randint(2, width - 2)
    row = rng.randint(1, height - 1)
    state = WORLD.state(border(height, width), (row, column, EAST), nothing(height, width))
    return Layout(state, Progress(np.int32(CELLS), np.int32(0)), np.int32(CELLS))


def reward(world: Geometry, progress: Progress, state: Karel, event: Event):
    """(m - m') / N, m the markers in the world; a cell with more than one: -1 and end; one less than before: -1 and
    end; m = N ends."""
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
