"""TopOff: put a second marker on every marker of the bottom row (LEAPS; sparse: LLM-GS)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed, mask
from jaxprl.worlds.karel.world import TARGET, Event, Geometry, Karel
from jaxprl.worlds.task import Layout, Task

WORLD = Geometry(12, 12)


class Progress(NamedTuple):
    targets: Any  # int32: n, cells to top off
    topped: Any  # int32: targets with exactly two markers
    total: Any  # int32: markers in the world


def generate(rng: np.random.RandomState, sparse: bool = False) -> Layout:
    """Border; start (H-2, 1) facing east. Cells (H-2, i), i = 2..W-2, shuffled; the first n = ri(1, len) get a
    marker each."""
    height, width = WORLD.height, WORLD.width
    row = [[height - 2, i] for i in range(2, width - 1)]
    rng.shuffle(row)
    n = rng.randint(1, len(row))
    targets = mask(height, width, row[:n])
    state = WORLD.state(border(height, width), (height - 2, 1, EAST), targets.astype(np.uint8), targets)
    return Layout(state, Progress(np.int32(n), np.int32(0), np.int32(n)), np.int32(1 if sparse else n))


def advance(progress: Progress, event: Event) -> tuple[Progress, Any]:
    """Return the counts after an action and whether it took a target's last marker."""
    target = (event.byte & TARGET) != 0
    topped = ops.where(target & (event.change != 0), event.count == 2, False)
    untopped = target & (((event.change == 1) & (event.count == 3)) | ((event.change == -1) & (event.count == 1)))
    now = progress._replace(
        topped=progress.topped + ops.where(topped, 1, 0) - ops.where(untopped, 1, 0),
        total=progress.total + event.change,
    )
    return now, target & (event.change == -1) & (event.count == 0)


def reward(world: Geometry, progress: Progress, state: Karel, event: Event):
    """A target with no marker: -1 and end. (c - c') / n, c the targets with exactly two markers; more markers than
    c + n: -1 and end; else c = n ends."""
    now, emptied = advance(progress, event)
    wrong = emptied | (now.total > now.topped + now.targets)
    units = ops.where(wrong, -progress.targets, now.topped - progress.topped)
    return state, now, units, wrong | (now.topped == now.targets)


def sparse_reward(world: Geometry, progress: Progress, state: Karel, event: Event):
    """A target with no marker, or more markers than c + n: -1 and end; c = n: +1 and end, which wins."""
    now, emptied = advance(progress, event)
    wrong = emptied | (now.total > now.topped + now.targets)
    done = now.topped == now.targets
    return state, now, ops.where(done, 1, ops.where(wrong, -1, 0)), wrong | done


_WORDS = {
    "map": "12 x 12 cells, open inside. Some cells of the bottom row hold one marker.",
    "agent": "In the bottom left cell, facing east.",
    "goal": "Put a second marker on every cell of the bottom row that holds one.",
}
_WRONG = "Putting a marker elsewhere, or removing one, ends the episode with -1."

TASKS = (
    Task(
        "TopOff", WORLD, from_seed(generate), reward,
        {**_WORDS, "returns": f"An equal share of 1 for each marker topped off. {_WRONG}"}, quiet=True,
    ),
    Task(
        "TopOffSparse", WORLD, from_seed(generate, sparse=True), sparse_reward,
        {**_WORDS, "returns": f"1 when every marker is topped off. {_WRONG}"}, quiet=True,
    ),
)  # fmt: skip
