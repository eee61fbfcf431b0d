"""RedBlueDoor: open the red door, then the blue one (MiniGrid; LLM-GS's size 6)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid import layouts
from jaxprl.worlds.minigrid.world import CLOSED, OBJECT, OPEN, Event, Geometry, MiniGrid, item
from jaxprl.worlds.task import Layout, Task

WORLD = Geometry(12, 6)


class Progress(NamedTuple):
    red: Any  # int32: the red door's cell
    blue: Any  # int32: the blue door's cell
    opened: Any  # bool: the red door was opened before


def generate(seed: int) -> Layout:
    """Three rooms; the agent in the middle one; a closed red door in its left wall, a closed blue one in its right."""
    state = layouts.world_of(layouts.red_blue_door(), seed)
    (red,) = np.flatnonzero(state.cells & OBJECT == item("door", "red", CLOSED))
    (blue,) = np.flatnonzero(state.cells & OBJECT == item("door", "blue", CLOSED))
    return Layout(state, Progress(np.int32(red), np.int32(blue), np.bool_(False)), np.int32(2))


def reward(world: Geometry, progress: Progress, state: MiniGrid, event: Event):
    """Blue open after the action: +0.5 if red was open before it, else -1; the run ends. Otherwise, red open after it
    and not before, the first time: +0.5."""
    red, blue = ops.read(state.cells, progress.red), ops.read(state.cells, progress.blue)
    red_open, blue_open = _is_open(red), _is_open(blue)
    red_was_open = ops.where(event.ahead == progress.red, _is_open(event.before), red_open)
    opens_red = red_open & ops.invert(red_was_open) & ops.invert(blue_open)
    first = opens_red & ops.invert(progress.opened)
    units = ops.where(blue_open, ops.where(red_was_open, 1, -2), ops.where(first, 1, 0))
    return state, progress._replace(opened=progress.opened | opens_red), units, blue_open


def _is_open(door):
    return door >> 7 & 3 == OPEN


TASKS = (
    Task(
        "RedBlueDoor", WORLD, generate, reward,
        {
            "map": "6 rows x 12 columns: a left, a middle and a right room. A red door leads from the middle room to "
            "the left room, a blue door from the middle room to the right room, each at a random row.",
            "agent": "On a random cell of the middle room, facing a random direction.",
            "goal": "Open the red door first, then the blue door.",
            "returns": "0.5 for opening the red door, 0.5 for opening the blue door after it. Opening the blue door "
            "first ends the episode with -1.",
        },
        budget=10_000,
    ),
)  # fmt: skip
