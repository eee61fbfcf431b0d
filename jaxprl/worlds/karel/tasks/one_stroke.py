"""OneStroke: visit every cell once; a cell that the robot leaves becomes a wall (HPRL)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed, nothing
from jaxprl.worlds.karel.world import WALL, Event, Geometry, Karel
from jaxprl.worlds.task import Layout, Task

WORLD = Geometry(8, 8)
MOVES = (WORLD.height - 2) * (WORLD.width - 2) - 1


class Progress(NamedTuple):
    last: Any  # int32: the robot's cell after the previous action
    moves: Any  # int32: cells visited besides the first


def generate(rng: np.random.RandomState) -> Layout:
    """Border; the start's column ri(1, W-1) is drawn first, then its row ri(1, H-1); facing east."""
    height, width = WORLD.height, WORLD.width
    column = rng.randint(1, width - 1)
    row = rng.randint(1, height - 1)
    state = WORLD.state(border(height, width), (row, column, EAST), nothing(height, width))
    return Layout(state, Progress(state.cell, np.int32(0)), np.int32(MOVES))


def reward(world: Geometry, progress: Progress, state: Karel, event: Event):
    """The robot changed its cell: 1/N, N = (H-2)(W-2) - 1, and the cell it left becomes a wall; N moves end."""
    moved = ops.where(event.moved, 1, 0)
    state = world.flag(state, progress.last, WALL, moved)
    now = Progress(state.cell, progress.moves + moved)
    return state, now, moved, now.moves == MOVES


TASKS = (
    Task(
        "OneStroke", WORLD, from_seed(generate), reward,
        {
            "map": "8 x 8 cells, open inside. A cell that the robot leaves becomes a wall.",
            "agent": "On a random cell, facing east.",
            "goal": "Visit every open cell once.",
            "returns": "An equal share of 1 for each new cell visited.",
        },
    ),
)  # fmt: skip
