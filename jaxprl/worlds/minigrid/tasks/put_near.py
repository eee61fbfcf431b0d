"""PutNear: put the ball down next to the box (MiniGrid; LLM-GS's variant with one ball and one box)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid import layouts
from jaxprl.worlds.minigrid.world import BALL, BOX, DROP, PICKUP, Event, Geometry, MiniGrid
from jaxprl.worlds.task import Layout, Task

WORLD = Geometry(6, 6)


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
    dropping = (event.action == DROP) & (event.carried != 0)
    put_down = dropping & (event.before == 0)
    (x, y), (box_x, box_y) = world.position(event.ahead), world.position(progress.box)
    near = put_down & (abs(x - box_x) <= 1) & (abs(y - box_y) <= 1)
    first = has_ball & ops.invert(progress.picked)
    units = ops.where(wrong, -2, ops.where(first | near, 1, 0))
    return state, progress._replace(picked=progress.picked | has_ball), units, wrong | dropping


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
        budget=10_000,
    ),
)  # fmt: skip
