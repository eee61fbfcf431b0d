"""StairClimber: climb a staircase of walls to the marker without leaving it (LEAPS; sparse: LLM-GS)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed, mask, nothing
from jaxprl.worlds.karel.world import TARGET, Event, Geometry, Karel
from jaxprl.worlds.task import Layout, Task

WORLD = Geometry(12, 12)


class Progress(NamedTuple):
    goal: Any  # int32: the marker's cell
    units: Any  # int32: initial distance, or 1 if sparse
    distance: Any  # int32: Manhattan distance to the marker after the previous action


def generate(rng: np.random.RandomState, sparse: bool = False) -> Layout:
    """Walls at (H-1-i, i+1), (H-1-i, i+2) for i = 1..W-3; stairs S_i = (H-1-i, i), i = 1..W-2; legal cells are the
    stairs and (H-2-i, i), i = 1..W-3. Start on stair ri(0, n-1) facing east, one marker on a later stair."""
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


def reward(world: Geometry, progress: Progress, state: Karel, event: Event):
    """(d' - d) / d0, d the distance to the marker; off the legal cells -1; at the marker the run ends."""
    distance = manhattan(world, state.cell, progress.goal)
    fell = event.moved & ((event.byte & TARGET) == 0)
    units = ops.where(fell, -progress.units, progress.distance - distance)
    return state, progress._replace(distance=distance), units, fell | (distance == 0)


def sparse_reward(world: Geometry, progress: Progress, state: Karel, event: Event):
    """At the marker +1 and end; else off the legal cells -1 and end."""
    arrived = state.cell == progress.goal
    fell = event.moved & ((event.byte & TARGET) == 0)
    return state, progress, ops.where(arrived, 1, ops.where(fell, -1, 0)), arrived | fell


def manhattan(world: Geometry, cell, other):
    """Return the Manhattan distance of two cells."""
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
