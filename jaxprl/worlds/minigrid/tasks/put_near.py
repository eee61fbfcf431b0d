"""PutNear: put an object down next to another (LLM-GS's variant with one ball and one box, and `minigrid`'s own)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid import layouts
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.farama import FaramaEnv
from jaxprl.worlds.minigrid.world import (
    BALL,
    BOX,
    DROP,
    PICKUP,
    Event,
    MiniGridState,
    MiniGridWorld,
    item,
    kind_and_color,
)
from jaxprl.worlds.ops import Bool, Int
from jaxprl.worlds.task import Layout, Rewarded, Task

WORLD = MiniGridWorld(6, 6, see_through=True)


class Progress(NamedTuple):
    """What the reward depends on besides the state."""

    box: Int  # int32 []: the initial cell of the box
    picked: Bool  # bool []: whether the ball has been picked up before


def generate(seed: int) -> Layout:
    """Make a layout: walls on the border, and a ball, a box and the agent on random cells.

    The box is not within one cell of the ball (also diagonally). See `layouts.put_near`.
    """
    state = layouts.world_of(layouts.put_near(), seed)
    (box,) = np.flatnonzero(np.asarray(state.cells) & 15 == BOX)
    return Layout(state, Progress(np.int32(box), np.bool_(False)), np.int32(2))


def reward(world: MiniGridWorld, progress: Progress, state: MiniGridState, event: Event) -> Rewarded:
    """Reward picking up the ball, and putting it down near the box.

    After a `pickup` that leaves the agent carrying something, the reward is +0.5 if that is the ball and was not picked
    up before; if it is anything else, the reward is -1 and the run ends. A `drop` while carrying ends the run in any
    case, even if it failed; the reward is +0.5 if the ball was put down within one cell (also diagonally) of the
    initial cell of the box.
    """
    carries = (event.action == PICKUP) & (state.carrying != 0)
    has_ball = carries & (state.carrying & 15 == BALL)
    wrong = carries & (state.carrying & 15 != BALL)
    dropping, near = dropped(world, progress.box, event)
    first = has_ball & ops.invert(progress.picked)
    units = ops.where(wrong, -2, ops.where(first | near, 1, 0))
    return state, progress._replace(picked=progress.picked | has_ball), units, wrong | dropping


class Landmark(NamedTuple):
    """What `package_reward` depends on besides the state."""

    landmark: Int  # int32 []: the initial cell of the object near which the other one has to be put


def read(world: MiniGridWorld, env: FaramaEnv, state: MiniGridState) -> Layout:
    """Make the layout of one of the package's environments. Every object is the only one of its type and colour."""
    target, landmark = item(env.move_type, env.moveColor), item(env.target_type, env.target_color)
    cell = np.int32(world.cell(*env.target_pos))
    return layout(state, Landmark(cell), target=target, landmark=landmark)


def package_reward(world: MiniGridWorld, progress: Landmark, state: MiniGridState, event: Event) -> Rewarded:
    """Reward putting the target down near the landmark.

    A `pickup` that leaves the agent carrying another object than the target ends the run. A `drop` while carrying ends
    the run in any case; the reward is 1 if the object was put down within one cell (also diagonally) of the initial
    cell of the landmark.
    """
    carries = (event.action == PICKUP) & (state.carrying != 0)
    wrong = carries & (kind_and_color(state.carrying) != state.mission.target)
    dropping, near = dropped(world, progress.landmark, event)
    return state, progress, ops.where(near, 1, 0), wrong | dropping


def dropped(world: MiniGridWorld, goal: Int, event: Event) -> tuple[Bool, Bool]:
    """Tell whether and where an object was put down.

    Args:
      world: the world.
      goal: the number of the cell near which an object has to be put.
      event: what the action did.

    Returns:
      Whether the action was a `drop` while carrying, and whether it put the object down within one cell (also
      diagonally) of the cell `goal`.
    """
    dropping = (event.action == DROP) & (event.carried != 0)
    put_down = dropping & (event.before == 0)
    (x, y), (goal_x, goal_y) = world.position(event.ahead), world.position(goal)
    return dropping, put_down & (abs(x - goal_x) <= 1) & (abs(y - goal_y) <= 1)


TASKS = (
    Task(
        "PutNear", WORLD, generate, reward,
        {
            "map": "6 x 6 cells, open inside. A ball and a box lie on random cells.",
            "agent": "On a random cell, facing a random direction.",
            "goal": "Pick up the ball and drop it on a cell next to the box.",
            "returns": "0.5 for picking up the ball, 0.5 for dropping it next to the box. Picking up the box ends the "
            "episode with -1.",
        },
        budget=10_000, quiet=True,
    ),
    *family(
        {"PutNear-6x6-N2-v0": (6, 6), "PutNear-8x8-N3-v0": (8, 8)},
        read, package_reward,
        {
            "map": "Open inside. A few keys, balls and boxes of random colours lie on random cells, no two within one "
            "cell of each other. One of them is the target, another the landmark.",
            "agent": "On a random cell, facing a random direction.",
            "goal": "Pick up the target and drop it within one cell of the landmark, diagonals included.",
            "returns": "1 on dropping the target there. Dropping it elsewhere, trying to drop it on an object and "
            "picking up another object end the episode with 0.",
        },
        see_through=True,
    ),
)  # fmt: skip
