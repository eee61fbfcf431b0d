"""RedBlueDoor: open the red door, then the blue one (MiniGrid; LLM-GS's size 6, and `minigrid`'s RedBlueDoors)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid import layouts
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.world import CLOSED, OBJECT, Event, Geometry, MiniGrid, is_open, item
from jaxprl.worlds.task import Layout, Task

WORLD = Geometry(12, 6)


class Progress(NamedTuple):
    red: Any  # int32: the red door's cell
    blue: Any  # int32: the blue door's cell
    red_open: Any  # bool: the red door is open
    opened: Any  # bool: it was opened before


def generate(seed: int) -> Layout:
    """Three rooms; the agent in the middle one; a closed red door in its left wall, a closed blue one in its right."""
    state = layouts.world_of(layouts.red_blue_door(), seed)
    return Layout(state, doors(state), np.int32(2))


def read(world: Geometry, env: Any, state: MiniGrid) -> Layout:
    """The same in other sizes."""
    return layout(state, doors(state))


def doors(state: MiniGrid) -> Progress:
    """Return where the doors are."""
    (red,) = np.flatnonzero(state.cells & OBJECT == item("door", "red", CLOSED))
    (blue,) = np.flatnonzero(state.cells & OBJECT == item("door", "blue", CLOSED))
    return Progress(np.int32(red), np.int32(blue), np.bool_(False), np.bool_(False))


def reward(world: Geometry, progress: Progress, state: MiniGrid, event: Event):
    """Blue open after the action: +0.5 if red was open before it, else -1; the run ends. Otherwise, red open after it
    and not before, the first time: +0.5."""
    red_was_open = progress.red_open
    red_open = ops.where(event.ahead == progress.red, is_open(event.after), red_was_open)
    blue_open = (event.ahead == progress.blue) & is_open(event.after)
    opens_red = red_open & ops.invert(red_was_open) & ops.invert(blue_open)
    first = opens_red & ops.invert(progress.opened)
    units = ops.where(blue_open, ops.where(red_was_open, 1, -2), ops.where(first, 1, 0))
    return state, progress._replace(red_open=red_open, opened=progress.opened | opens_red), units, blue_open


def package_reward(world: Geometry, progress: Progress, state: MiniGrid, event: Event):
    """Blue open after the action: 1 if red was open before it; the run ends."""
    state, progress, units, ended = reward(world, progress, state, event)
    return state, progress, ops.where(ended & (units > 0), 1, 0), ended


_MIDDLE = "On a random cell of the middle room, facing a random direction."

TASKS = (
    Task(
        "RedBlueDoor", WORLD, generate, reward,
        {
            "map": "6 rows x 12 columns: a left, a middle and a right room. A red door leads from the middle room to "
            "the left room, a blue door from the middle room to the right room, each at a random row.",
            "agent": _MIDDLE,
            "goal": "Open the red door first, then the blue door.",
            "returns": "0.5 for opening the red door, 0.5 for opening the blue door after it. Opening the blue door "
            "first ends the episode with -1.",
        },
        budget=10_000, quiet=True,
    ),
    *family(
        {"RedBlueDoors-6x6-v0": (12, 6), "RedBlueDoors-8x8-v0": (16, 8)},
        read, package_reward,
        {
            "map": "A left, a middle and a right room. A red door leads from the middle room to the left room, a blue "
            "door from the middle room to the right room, each at a random row.",
            "agent": _MIDDLE,
            "goal": "Open the red door first, then the blue door while the red one is open.",
            "returns": "1 on opening the blue door while the red one is open. Opening it while the red one is closed "
            "ends the episode with 0.",
        },
    ),
)  # fmt: skip
