"""Fetch: pick up the object that the mission names (`minigrid`'s Fetch)."""

from __future__ import annotations

from typing import Any

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.world import Event, Geometry, MiniGrid, item, kind_and_color
from jaxprl.worlds.task import Layout


def read(world: Geometry, env: Any, state: MiniGrid) -> Layout:
    """Several objects can be of the target's type and colour; each of them will do."""
    return layout(state, target=item(env.targetType, env.targetColor))


def reward(world: Geometry, progress: tuple, state: MiniGrid, event: Event):
    """Carrying the target: 1 and end; carrying anything else: end."""
    has_it = kind_and_color(state.carrying) == state.mission.target
    return state, progress, ops.where(has_it, 1, 0), state.carrying != 0


TASKS = family(
    {"Fetch-5x5-N2-v0": (5, 5), "Fetch-6x6-N2-v0": (6, 6), "Fetch-8x8-N3-v0": (8, 8)},
    read, reward,
    {
        "map": "Open inside. A few keys and balls of random colours lie on random cells. The target is one of them, or "
        "any other of its type and colour.",
        "agent": "On a random cell, facing a random direction.",
        "goal": "Pick up the target and no other object.",
        "returns": "1 on picking up the target. Picking up another object ends the episode with 0.",
    },
    see_through=True,
)  # fmt: skip
