"""Maze: find the marker in a random maze (LEAPS; sparse variant: LLM-GS)."""

from __future__ import annotations

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, from_seed, inner_cell, nothing
from jaxprl.worlds.karel.tasks.stair_climber import Progress, manhattan
from jaxprl.worlds.karel.world import Event, KarelState, KarelWorld
from jaxprl.worlds.task import Layout, Rewarded, Sizes, Task

LEAST = (5, 5)
"""The smallest size. With fewer than 5 rows and columns nothing is carved, and the start is the only open cell."""


def generate(rng: np.random.RandomState, world: KarelWorld, sparse: bool = False) -> Layout:
    """Make a layout.

    The maze is carved from the start at (H-2, 1), which is the first cell on a stack. A cell is taken off the stack;
    its neighbours two cells up, down, left and right that are inside the border, listed in this order, are shuffled;
    each of them that is not visited yet is opened, together with the cell between, and put on the stack. This goes on
    until the stack is empty. So every open cell can be reached. Where H is even, the row next to the upper border stays
    wall, and where W is even, the column next to the right one. For the marker, inner cells (ri(1, H-1), ri(1, W-1))
    are drawn until one is open and not the start. The robot faces east.
    """
    height, width = world.height, world.width
    walls, markers = np.ones((height, width), bool), nothing(height, width)
    start = height - 2, 1
    walls[start] = False
    stack = [start]
    while stack:
        row, column = stack.pop()
        neighbours = [[row - 2, column], [row + 2, column], [row, column - 2], [row, column + 2]]
        neighbours = [[r, c] for r, c in neighbours if 0 < r < height - 1 and 0 < c < width - 1]
        rng.shuffle(neighbours)
        for r, c in neighbours:
            if walls[r, c]:
                walls[r, c] = walls[(row + r) // 2, (column + c) // 2] = False
                stack.append((r, c))
    goal = inner_cell(rng, height, width)
    while walls[goal] or goal == start:
        goal = inner_cell(rng, height, width)
    markers[goal] = 1
    distance = abs(start[0] - goal[0]) + abs(start[1] - goal[1])
    units = 1 if sparse else distance
    progress = Progress(np.int32(world.cell(*goal)), np.int32(units), np.int32(distance))
    return Layout(world.state(walls, (*start, EAST), markers), progress, np.int32(units))


def reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward every step towards the marker.

    The reward is (d' - d) / d0, where d and d' are the Manhattan distances to the marker after and before the action,
    and d0 is that of the start. Reaching the marker ends the run.
    """
    distance = manhattan(world, state.cell, progress.goal)
    return state, progress._replace(distance=distance), progress.distance - distance, distance == 0


def sparse_reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward reaching the marker: +1, and the run ends."""
    arrived = state.cell == progress.goal
    return state, progress, ops.where(arrived, 1, 0), arrived


def dense(height: int, width: int) -> Task:
    """Return Maze at a size."""
    world = KarelWorld(height, width)
    returns = "The share of the initial distance to the marker that was covered, 1 on reaching it."
    return Task(
        "Maze", world, from_seed(generate, world=world), reward, _words(world, returns), sizes=Sizes(dense, LEAST)
    )


def sparse(height: int, width: int) -> Task:
    """Return MazeSparse at a size."""
    world = KarelWorld(height, width)
    draw, returns = from_seed(generate, world=world, sparse=True), "1 on reaching the marker, otherwise 0."
    return Task("MazeSparse", world, draw, sparse_reward, _words(world, returns), sizes=Sizes(sparse, LEAST))


def _words(world: KarelWorld, returns: str) -> dict[str, str]:
    """Return the words of a task at the size of a world."""
    return {
        "map": f"{world.height} x {world.width} cells with a random maze. One marker lies in an open cell.",
        "agent": "In the bottom left open cell, facing east.",
        "goal": "Reach the marker.",
        "returns": returns,
    }


TASKS = dense(8, 8), sparse(8, 8)
