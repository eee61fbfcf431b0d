"""TopOff: put a second marker on every marker of the bottom row (LEAPS; sparse variant: LLM-GS)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed, mask
from jaxprl.worlds.karel.world import TARGET, Event, KarelState, KarelWorld
from jaxprl.worlds.ops import Bool, Int
from jaxprl.worlds.task import Layout, Rewarded, Task

WORLD = KarelWorld(12, 12)


class Progress(NamedTuple):
    """What the rewards depend on besides the state."""

    targets: Int  # int32 []: n, the number of targets, which are the cells to top off
    topped: Int  # int32 []: the number of targets with exactly two markers
    total: Int  # int32 []: the number of markers in the world


def generate(rng: np.random.RandomState, sparse: bool = False) -> Layout:
    """Make a layout.

    There are walls on the border. The robot starts at (H-2, 1) and faces east. The cells (H-2, i) for i = 2..W-2 are
    shuffled, and the first n = ri(1, W-3) of them are the targets, which hold one marker each.
    """
    height, width = WORLD.height, WORLD.width
    row = [[height - 2, i] for i in range(2, width - 1)]
    rng.shuffle(row)
    n = rng.randint(1, len(row))
    targets = mask(height, width, row[:n])
    state = WORLD.state(border(height, width), (height - 2, 1, EAST), targets.astype(np.uint8), targets)
    return Layout(state, Progress(np.int32(n), np.int32(0), np.int32(n)), np.int32(1 if sparse else n))


def advance(progress: Progress, event: Event) -> tuple[Progress, Bool]:
    """Return the progress after an action, and whether the action took the last marker of a target."""
    target = (event.byte & TARGET) != 0
    topped = ops.where(target & (event.change != 0), event.count == 2, False)
    untopped = target & (((event.change == 1) & (event.count == 3)) | ((event.change == -1) & (event.count == 1)))
    now = progress._replace(
        topped=progress.topped + ops.where(topped, 1, 0) - ops.where(untopped, 1, 0),
        total=progress.total + event.change,
    )
    return now, target & (event.change == -1) & (event.count == 0)


def reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward topping off a target.

    The reward is (c - c') / n, where c and c' are the numbers of targets with exactly two markers after and before the
    action. If a target has no marker, or if there are more than c + n markers in the world, it is -1 instead and the
    run ends. Otherwise c = n ends the run.
    """
    now, emptied = advance(progress, event)
    wrong = emptied | (now.total > now.topped + now.targets)
    units = ops.where(wrong, -progress.targets, now.topped - progress.topped)
    return state, now, units, wrong | (now.topped == now.targets)


def sparse_reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward topping off all targets.

    If c = n, where c is the number of targets with exactly two markers, the reward is +1 and the run ends. Otherwise,
    if a target has no marker, or if there are more than c + n markers in the world, it is -1 and the run ends.
    """
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
