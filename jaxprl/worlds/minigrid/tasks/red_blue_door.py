"""RedBlueDoor: open the red door, then the blue one (MiniGrid; LLM-GS's size 6, and `minigrid`'s RedBlueDoors)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid import layouts
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.farama import FaramaEnv
from jaxprl.worlds.minigrid.world import CLOSED, OBJECT, Event, MiniGridState, MiniGridWorld, is_open, item
from jaxprl.worlds.ops import Bool, Int
from jaxprl.worlds.task import Layout, Rewarded, Task

WORLD = MiniGridWorld(12, 6)


class Progress(NamedTuple):
    """What the rewards depend on besides the state."""

    red: Int  # int32 []: the cell of the red door
    blue: Int  # int32 []: the cell of the blue door
    red_open: Bool  # bool []: whether the red door is open
    opened: Bool  # bool []: whether the red door has been opened before


def generate(seed: int) -> Layout:
    """Make a layout.

    There are three rooms, with the agent in the middle one. A closed red door is in its left wall, and a closed blue
    door in its right wall.
    """
    state = layouts.world_of(layouts.red_blue_door(), seed)
    return Layout(state, doors(state), np.int32(2))


def read(world: MiniGridWorld, env: FaramaEnv, state: MiniGridState) -> Layout:
    """Make the layout of one of the package's environments, which is the same in other sizes."""
    return layout(state, doors(state))


def doors(state: MiniGridState) -> Progress:
    """Return the progress at the start, when both doors are closed."""
    objects = np.asarray(state.cells) & OBJECT
    (red,) = np.flatnonzero(objects == item("door", "red", CLOSED))
    (blue,) = np.flatnonzero(objects == item("door", "blue", CLOSED))
    return Progress(np.int32(red), np.int32(blue), np.bool_(False), np.bool_(False))


def reward(world: MiniGridWorld, progress: Progress, state: MiniGridState, event: Event) -> Rewarded:
    """Reward opening the red door and then the blue one.

    If the blue door is open after the action, the reward is +0.5 if the red door was open before the action and -1 if
    not, and the run ends. Otherwise, if the red door is open after the action and was not before it, the reward is
    +0.5, but only the first time.
    """
    red_was_open = progress.red_open
    red_open = ops.where(event.ahead == progress.red, is_open(event.after), red_was_open)
    blue_open = (event.ahead == progress.blue) & is_open(event.after)
    opens_red = red_open & ops.invert(red_was_open) & ops.invert(blue_open)
    first = opens_red & ops.invert(progress.opened)
    units = ops.where(blue_open, ops.where(red_was_open, 1, -2), ops.where(first, 1, 0))
    return state, progress._replace(red_open=red_open, opened=progress.opened | opens_red), units, blue_open


def package_reward(world: MiniGridWorld, progress: Progress, state: MiniGridState, event: Event) -> Rewarded:
    """Reward opening the blue door while the red one is open.

    If the blue door is open after the action, the reward is 1 if the red door was open before it, and the run ends.
    """
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
