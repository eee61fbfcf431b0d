"""Harvester: collect the marker of every cell (LEAPS; sparse: LLM-GS). CleanHouse has the same rewards."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed
from jaxprl.worlds.karel.world import Event, Geometry, Karel
from jaxprl.worlds.task import Layout, Task

WORLD = Geometry(8, 8)


class Progress(NamedTuple):
    initial: Any  # int32: N, markers at the start
    total: Any  # int32: markers in the world


def generate(rng: np.random.RandomState, sparse: bool = False) -> Layout:
    """Border; start (H-2, ri(2, W-2)) facing east; one marker on each of the N = (H-2)(W-2) inner cells."""
    height, width = WORLD.height, WORLD.width
    walls = border(height, width)
    pose = height - 2, rng.randint(2, width - 2), EAST
    return collecting(WORLD.state(walls, pose, (~walls).astype(np.uint8)), int((~walls).sum()), sparse)


def collecting(state: Karel, n: int, sparse: bool) -> Layout:
    """Return the layout of a world with `n` markers to collect."""
    return Layout(state, Progress(np.int32(n), np.int32(n)), np.int32(1 if sparse else n))


def reward(world: Geometry, progress: Progress, state: Karel, event: Event):
    """(m' - m) / N, m the markers in the world; one more than before: -1 and end; m = 0 ends."""
    now = progress._replace(total=progress.total + event.change)
    wrong = event.change == 1
    return state, now, ops.where(wrong, -progress.initial, -event.change), wrong | (now.total == 0)


def sparse_reward(world: Geometry, progress: Progress, state: Karel, event: Event):
    """More markers than at the start (not: than before; kept): -1 and end; m = 0: +1 and end."""
    now = progress._replace(total=progress.total + event.change)
    wrong, done = now.total > now.initial, now.total == 0
    return state, now, ops.where(wrong, -1, ops.where(done, 1, 0)), wrong | done


_WORDS = {
    "map": "8 x 8 cells, open inside, with one marker on every open cell.",
    "agent": "On a random cell of the bottom row, facing east.",
    "goal": "Collect every marker.",
}
DENSE_RETURNS = "An equal share of 1 for each marker collected. Putting a marker down ends the episode with -1."
SPARSE_RETURNS = "1 when every marker is collected. More markers than there were at the start end the episode with -1."

TASKS = (
    Task("Harvester", WORLD, from_seed(generate), reward, {**_WORDS, "returns": DENSE_RETURNS}, quiet=True),
    Task(
        "HarvesterSparse", WORLD, from_seed(generate, sparse=True), sparse_reward,
        {**_WORDS, "returns": SPARSE_RETURNS}, quiet=True,
    ),
)  # fmt: skip
