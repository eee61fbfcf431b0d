"""LavaGap: reach the goal through the gap in a strip of lava (MiniGrid; LLM-GS's variant of 6x6)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid import layouts
from jaxprl.worlds.minigrid.world import GOAL, LAVA, Event, Geometry, MiniGrid
from jaxprl.worlds.task import Layout, Task

WORLD = Geometry(6, 6)
UNLUCKY = 160
"""The package's reward fades with time and is 0 at this action, which the published code takes for a failure (kept)."""


class Progress(NamedTuple):
    actions: Any  # int32: actions so far


def generate(seed: int) -> Layout:
    """Border; agent (1, 1) facing east; goal (4, 4); a column of lava with one gap."""
    return Layout(layouts.world_of(layouts.lava_gap(), seed), Progress(np.int32(0)), np.int32(1))


def reward(world: Geometry, progress: Progress, state: MiniGrid, event: Event):
    """Goal: +1 and end, but -1 at exactly the 160th action; lava: -1 and end."""
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
