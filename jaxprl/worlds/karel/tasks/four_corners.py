"""FourCorners: put one marker in each corner (LEAPS; sparse variant: LLM-GS)."""

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

    corners: Int  # int32 []: the number of inner corners that hold a marker
    total: Int  # int32 []: the number of markers in the world


def generate(rng: np.random.RandomState, units: int = 4) -> Layout:
    """Make a layout: walls on the border, and a start at (H-2, ri(2, W-2)) facing east."""
    height, width = WORLD.height, WORLD.width
    corners = [(1, 1), (1, width - 2), (height - 2, 1), (height - 2, width - 2)]
    pose = height - 2, rng.randint(2, width - 2), EAST
    state = WORLD.state(border(height, width), pose, nothing(height, width), mask(height, width, corners))
    return Layout(state, Progress(np.int32(0), np.int32(0)), np.int32(units))


def advance(progress: Progress, event: Event) -> Progress:
    """Return the progress after an action."""
    corner = (event.byte & TARGET) != 0
    filled = ops.where(corner & (event.change == 1) & (event.count == 1), 1, 0)
    emptied = ops.where(corner & (event.change == -1) & (event.count == 0), 1, 0)
    return Progress(progress.corners + filled - emptied, progress.total + event.change)


def reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward filling a corner.

    The reward is (c - c') / 4, where c and c' are the numbers of corners that hold a marker after and before the
    action. If there are more than c markers in the world, it is -1 instead and the run ends. Otherwise c = 4 ends the
    run.
    """
    now = advance(progress, event)
    wrong = now.total > now.corners
    return state, now, ops.where(wrong, -4, now.corners - progress.corners), wrong | (now.corners == 4)


def sparse_reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward filling all corners.

    If there are more markers than corners that hold one, the reward is -1 and the run ends. Otherwise, if all four
    corners hold a marker, it is +1 and the run ends.
    """
    now = advance(progress, event)
    wrong, done = now.total > now.corners, now.corners == 4
    return state, now, ops.where(wrong, -1, ops.where(done, 1, 0)), wrong | done


_WORDS = {
    "map": "12 x 12 cells, open inside.",
    "agent": "On a random cell of the bottom row, facing east.",
    "goal": "Put one marker in each of the four corners.",
}
_WRONG = "A marker put anywhere else ends the episode with -1."

TASKS = (
    Task(
        "FourCorners", WORLD, from_seed(generate), reward,
        {**_WORDS, "returns": f"0.25 for each corner that holds a marker. {_WRONG}"}, quiet=True,
    ),
    Task(
        "FourCornersSparse", WORLD, from_seed(generate, units=1), sparse_reward,
        {**_WORDS, "returns": f"1 when all four corners hold a marker. {_WRONG}"}, quiet=True,
    ),
)  # fmt: skip
