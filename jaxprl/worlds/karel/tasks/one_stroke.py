"""OneStroke: visit every cell once, where a cell that the robot leaves becomes a wall (HPRL)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed, nothing
from jaxprl.worlds.karel.world import WALL, Event, KarelState, KarelWorld
from jaxprl.worlds.ops import Int
from jaxprl.worlds.task import Layout, Rewarded, Task

WORLD = KarelWorld(8, 8)
MOVES = (WORLD.height - 2) * (WORLD.width - 2) - 1
"""The number of moves that visit every cell."""


class Progress(NamedTuple):
    """What the reward depends on besides the state."""

    last: Int  # int32 []: the cell of the robot after the previous action
    moves: Int  # int32 []: the number of cells visited besides the first


def generate(rng: np.random.RandomState) -> Layout:
    """Make a layout: walls on the border, and a start facing east.

    The column ri(1, W-1) of the start is drawn first, then its row ri(1, H-1).
    """
    height, width = WORLD.height, WORLD.width
    column = rng.randint(1, width - 1)
    row = rng.randint(1, height - 1)
    state = WORLD.state(border(height, width), (row, column, EAST), nothing(height, width))
    return Layout(state, Progress(state.cell, np.int32(0)), np.int32(MOVES))


def reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward every move.

    If the robot changed its cell, the reward is 1/N, with N = (H-2)(W-2) - 1, and the cell that it left becomes a wall.
    N moves end the run.
    """
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
