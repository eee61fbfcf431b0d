"""Fetch: pick up the object that the mission names (`minigrid`'s Fetch)."""

from __future__ import annotations

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.farama import FaramaEnv
from jaxprl.worlds.minigrid.world import Event, MiniGridState, MiniGridWorld, item, kind_and_color
from jaxprl.worlds.task import Layout, Rewarded


def read(world: MiniGridWorld, env: FaramaEnv, state: MiniGridState) -> Layout:
    """Make the layout. Several objects may have the type and colour of the target; any of them will do."""
    return layout(state, target=item(env.targetType, env.targetColor))


def reward(world: MiniGridWorld, progress: tuple, state: MiniGridState, event: Event) -> Rewarded:
    """Reward carrying the target.

    If the agent carries the target, the reward is 1 and the run ends. If it carries anything else, the run ends.
    """
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
