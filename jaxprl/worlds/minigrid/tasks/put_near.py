"""PutNear: put an object down next to another (LLM-GS's variant with one ball and one box, and `minigrid`'s own)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid import layouts
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.world import BALL, BOX, DROP, PICKUP, Event, Geometry, MiniGrid, item, kind_and_color
from jaxprl.worlds.task import Layout, Task

WORLD = Geometry(6, 6, see_through=True)


class Progress(NamedTuple):
    box: Any  # int32: the box's initial cell
    picked: Any  # bool: the ball was picked up before


def generate(seed: int) -> Layout:
    """Border; a ball, a box not near it, then the agent, all on random cells."""
    state = layouts.world_of(layouts.put_near(), seed)
    (box,) = np.flatnonzero(state.cells & 15 == BOX)
    return Layout(state, Progress(np.int32(box), np.bool_(False)), np.int32(2))


def reward(world: Geometry, progress: Progress, state: MiniGrid, event: Event):
    """pickup that leaves the agent carrying something: the ball: +0.5 the first time; anything else: -1 and end. drop
    while carrying: +0.5 if the ball was put down within one cell (also diagonally) of the box's initial cell; the run
    ends in any case, even if the drop failed."""
    carries = (event.action == PICKUP) & (state.carrying != 0)
    has_ball = carries & (state.carrying & 15 == BALL)
    wrong = carries & (state.carrying & 15 != BALL)
    dropping, near = dropped(world, progress.box, event)
    first = has_ball & ops.invert(progress.picked)
    units = ops.where(wrong, -2, ops.where(first | near, 1, 0))
    return state, progress._replace(picked=progress.picked | has_ball), units, wrong | dropping


class Landmark(NamedTuple):
    landmark: Any  # int32: the initial cell of the object to put the other one near


def read(world: Geometry, env: Any, state: MiniGrid) -> Layout:
    """Every object is the only one of its type and colour."""
    target, landmark = item(env.move_type, env.moveColor), item(env.target_type, env.target_color)
    cell = np.int32(world.cell(*env.target_pos))
    return layout(state, Landmark(cell), target=target, landmark=landmark)


def package_reward(world: Geometry, progress: Landmark, state: MiniGrid, event: Event):
    """pickup that leaves the agent carrying another object than the target: end. drop while carrying: 1 if the object
    was put down within one cell (also diagonally) of the landmark's initial cell; the run ends in any case."""
    carries = (event.action == PICKUP) & (state.carrying != 0)
    wrong = carries & (kind_and_color(state.carrying) != state.mission.target)
    dropping, near = dropped(world, progress.landmark, event)
    return state, progress, ops.where(near, 1, 0), wrong | dropping


def dropped(world: Geometry, goal, event: Event):
    """Return whether the action was a drop while carrying, and whether that put the object down within one cell of
    the cell `goal`."""
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
