"""LavaGap: reach the goal through the gap in a strip of lava (MiniGrid; LLM-GS's variant of 6x6 cells)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid import layouts
from jaxprl.worlds.minigrid.world import GOAL, LAVA, Event, MiniGridState, MiniGridWorld
from jaxprl.worlds.ops import Int
from jaxprl.worlds.task import Layout, Rewarded, Task

WORLD = MiniGridWorld(6, 6)
UNLUCKY = 160
"""The number of the action at which the package's reward, which fades with time, is exactly 0. The published code takes
that for a failure (kept)."""


class Progress(NamedTuple):
    """What the reward depends on besides the state."""

    actions: Int  # int32 []: the number of actions so far


def generate(seed: int) -> Layout:
    """Make a layout.

    There are walls on the border, a goal at (4, 4), and a column of lava with one gap. The agent starts at (1, 1) and
    faces east.
    """
    return Layout(layouts.world_of(layouts.lava_gap(), seed), Progress(np.int32(0)), np.int32(1))


def reward(world: MiniGridWorld, progress: Progress, state: MiniGridState, event: Event) -> Rewarded:
    """Reward reaching the goal, and punish stepping on lava.

    At the goal the reward is +1, but -1 if it is reached by exactly the 160th action, and the run ends. On lava the
    reward is -1 and the run ends.
    """
    actions = progress.actions + 1
    at_goal, in_lava = event.entered == GOAL, event.entered == LAVA
    wins = at_goal & (actions != UNLUCKY)
    ends = at_goal | in_lava
    return state, Progress(actions), ops.where(wins, 1, ops.where(ends, -1, 0)), ends


TASKS = (
    Task(
        "LavaGap", WORLD, generate, reward,
        {
            "map": "6 x 6 cells. A vertical strip of lava with one gap, at a random column and row, separates the left "
            "part from the right part. The goal is in the bottom right corner.",
            "agent": "In the top left corner, facing east.",
            "goal": "Reach the goal without touching lava.",
            "returns": "1 on reaching the goal, -1 on stepping on lava.",
        },
        budget=10_000,
    ),
)  # fmt: skip
