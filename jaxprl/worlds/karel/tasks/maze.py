"""Maze: find the marker in a random maze (LEAPS; sparse: LLM-GS)."""

from __future__ import annotations

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, from_seed, inner_cell, nothing
from jaxprl.worlds.karel.tasks.stair_climber import Progress, manhattan
from jaxprl.worlds.karel.world import Event, Geometry, Karel
from jaxprl.worlds.task import Layout, Task

WORLD = Geometry(8, 8)


def generate(rng: np.random.RandomState, sparse: bool = False) -> Layout:
    """Carve from (H-2, 1): pop a cell; its neighbours two cells up, down, left, right inside the border, shuffled;
    open each unvisited one and the cell between and push it. The marker: a drawn cell that is open, not the start."""
    height, width = WORLD.height, WORLD.width
    walls, markers = np.ones((height, width), bool), nothing(height, width)
    start = height - 2, 1
    walls[start] = False
    stack = [start]
    while stack:
        row, column = stack.pop()
        near = [[row - 2, column], [row + 2, column], [row, column - 2], [row, column + 2]]
        near = [[r, c] for r, c in near if 0 < r < height - 1 and 0 < c < width - 1]
        rng.shuffle(near)
        for r, c in near:
            if walls[r, c]:
                walls[r, c] = walls[(row + r) // 2, (column + c) // 2] = False
                stack.append((r, c))
    goal = inner_cell(rng, height, width)
    while walls[goal] or goal == start:
        goal = inner_cell(rng, height, width)
    markers[goal] = 1
    distance = abs(start[0] - goal[0]) + abs(start[1] - goal[1])
    units = 1 if sparse else distance
    progress = Progress(np.int32(WORLD.cell(*goal)), np.int32(units), np.int32(distance))
    return Layout(WORLD.state(walls, (*start, EAST), markers), progress, np.int32(units))


def reward(world: Geometry, progress: Progress, state: Karel, event: Event):
    """(d' - d) / d0, d the Manhattan distance to the marker; at the marker the run ends."""
    distance = manhattan(world, state.cell, progress.goal)
    return state, progress._replace(distance=distance), progress.distance - distance, distance == 0


def sparse_reward(world: Geometry, progress: Progress, state: Karel, event: Event):
    """At the marker +1 and end."""
    arrived = state.cell == progress.goal
    return state, progress, ops.where(arrived, 1, 0), arrived


_WORDS = {
    "map": "8 x 8 cells with a random maze. One marker lies in an open cell.",
    "agent": "In the bottom left open cell, facing east.",
    "goal": "Reach the marker.",
}

TASKS = (
    Task(
        "Maze", WORLD, from_seed(generate), reward,
        {**_WORDS, "returns": "The share of the initial distance to the marker that was covered, 1 on reaching it."},
    ),
    Task(
        "MazeSparse", WORLD, from_seed(generate, sparse=True), sparse_reward,
        {**_WORDS, "returns": "1 on reaching the marker, otherwise 0."},
    ),
)  # fmt: skip
