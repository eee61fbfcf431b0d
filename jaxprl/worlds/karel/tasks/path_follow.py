"""PathFollow: collect a crooked line of markers without straying from it (LLM-GS)."""

from __future__ import annotations

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import NORTH, border, from_seed, mask
from jaxprl.worlds.karel.tasks.harvester import Progress, collecting
from jaxprl.worlds.karel.tasks.harvester import reward as collect
from jaxprl.worlds.karel.world import TARGET, Event, KarelState, KarelWorld
from jaxprl.worlds.task import Layout, Rewarded, Task

WORLD = KarelWorld(8, 8)


def generate(rng: np.random.RandomState) -> Layout:
    """Make a layout.

    There are walls on the border. The robot starts at (H-2, 1) and faces north. The steps [0] * (H-3) + [1] * (W-3),
    where 0 is up and 1 is right, are shuffled and walked from the start; every cell on the way holds one marker, the
    start included. The legal cells are those of the path and their four neighbours.
    """
    height, width = WORLD.height, WORLD.width
    steps = [0] * (height - 3) + [1] * (width - 3)
    rng.shuffle(steps)
    path = [(height - 2, 1)]
    for step in steps:
        row, column = path[-1]
        path.append((row, column + 1) if step else (row - 1, column))
    legal = [(r + dr, c + dc) for r, c in path for dr, dc in [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]]
    markers = mask(height, width, path).astype(np.uint8)
    state = WORLD.state(border(height, width), (*path[0], NORTH), markers, mask(height, width, legal))
    return collecting(state, len(path), sparse=False)


def reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward every marker that is taken.

    The reward is (m' - m) / N, where m and m' are the numbers of markers in the world after and before the action, and
    N is that of the start. If m > m', it is -1 instead and the run ends. m = 0 ends the run. In any case, if the robot
    is off the legal cells, the reward is -1 instead and the run ends.
    """
    state, now, units, ended = collect(world, progress, state, event)
    strayed = event.moved & ((event.byte & TARGET) == 0)
    return state, now, ops.where(strayed, -progress.initial, units), ended | strayed


TASKS = (
    Task(
        "PathFollow", WORLD, from_seed(generate), reward,
        {
            "map": "8 x 8 cells, open inside. A crooked line of markers leads from the bottom left cell to the top "
            "right cell, each step going one cell up or one cell right.",
            "agent": "In the bottom left cell, facing north.",
            "goal": "Follow the line and collect every marker on it.",
            "returns": "An equal share of 1 for each marker collected. Straying more than one cell from the line, or "
            "putting a marker down, ends the episode with -1.",
        },
    ),
)  # fmt: skip
