"""StairClimber: climb a staircase of walls to the marker without leaving it (LEAPS; sparse variant: LLM-GS)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed, mask, nothing
from jaxprl.worlds.karel.world import TARGET, Event, KarelState, KarelWorld
from jaxprl.worlds.ops import Int
from jaxprl.worlds.task import Layout, Rewarded, Task

WORLD = KarelWorld(12, 12)


class Progress(NamedTuple):
    """What the rewards depend on besides the state."""

    goal: Int  # int32 []: the cell of the marker
    units: Int  # int32 []: the units of the layout: the initial distance, or 1 in the sparse task
    distance: Int  # int32 []: Manhattan distance to the marker after the previous action


def generate(rng: np.random.RandomState, sparse: bool = False) -> Layout:
    """Make a layout.

    There are walls on the border and at (H-1-i, i+1) and (H-1-i, i+2) for i = 1..W-3. The n stairs are
    S_i = (H-1-i, i) for i = 1..W-2. The legal cells are the stairs and (H-2-i, i) for i = 1..W-3. The robot starts on
    stair s = ri(0, n-1), counted from 0, and faces east; stair ri(s+1, n) holds one marker.
    """
    height, width = WORLD.height, WORLD.width
    walls, markers = border(height, width), nothing(height, width)
    for i in range(1, width - 2):
        walls[height - 1 - i, i + 1 : i + 3] = True
    stairs = [(height - 1 - i, i) for i in range(1, width - 1)]
    legal = stairs + [(height - 2 - i, i) for i in range(1, width - 2)]
    start = rng.randint(0, len(stairs) - 1)
    goal = rng.randint(start + 1, len(stairs))
    markers[stairs[goal]] = 1
    distance = 2 * (goal - start)
    state = WORLD.state(walls, (*stairs[start], EAST), markers, mask(height, width, legal))
    units = 1 if sparse else distance
    progress = Progress(np.int32(WORLD.cell(*stairs[goal])), np.int32(units), np.int32(distance))
    return Layout(state, progress, np.int32(units))


def reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward every step towards the marker.

    The reward is (d' - d) / d0, where d and d' are the Manhattan distances to the marker after and before the action,
    and d0 is that of the start. If the robot is off the legal cells, it is -1 instead and the run ends. Reaching the
    marker ends the run.
    """
    distance = manhattan(world, state.cell, progress.goal)
    fell = event.moved & ((event.byte & TARGET) == 0)
    units = ops.where(fell, -progress.units, progress.distance - distance)
    return state, progress._replace(distance=distance), units, fell | (distance == 0)


def sparse_reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward reaching the marker.

    At the marker the reward is +1 and the run ends. Otherwise, if the robot is off the legal cells, it is -1 and the
    run ends.
    """
    arrived = state.cell == progress.goal
    fell = event.moved & ((event.byte & TARGET) == 0)
    return state, progress, ops.where(arrived, 1, ops.where(fell, -1, 0)), arrived | fell


def manhattan(world: KarelWorld, cell: Int, other: Int) -> Int:
    """Return the Manhattan distance between two cells, given by their numbers."""
    (row, column), (other_row, other_column) = world.position(cell), world.position(other)
    return abs(row - other_row) + abs(column - other_column)


_MAP = (
    "12 x 12 cells. A staircase of walls climbs from the bottom left to the top right, one cell up and one to the "
    "right at each stair. One marker lies on a stair."
)
_WORDS = {"map": _MAP, "agent": "On a stair below the marker, facing east.", "goal": "Climb to the marker."}
_FALL = "Leaving the stairs (the cells on or one above a stair) ends the episode with -1."

TASKS = (
    Task(
        "StairClimber", WORLD, from_seed(generate), reward,
        {**_WORDS, "returns": f"The share of the initial distance that was covered, 1 on reaching the marker. {_FALL}"},
    ),
    Task(
        "StairClimberSparse", WORLD, from_seed(generate, sparse=True), sparse_reward,
        {**_WORDS, "returns": f"1 on reaching the marker. {_FALL}"},
    ),
)  # fmt: skip
