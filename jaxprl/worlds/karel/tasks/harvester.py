"""Harvester: collect the marker of every cell (LEAPS; sparse variant: LLM-GS). CleanHouse has the same rewards."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed
from jaxprl.worlds.karel.world import Event, KarelState, KarelWorld
from jaxprl.worlds.ops import Int
from jaxprl.worlds.task import Layout, Rewarded, Task

WORLD = KarelWorld(8, 8)


class Progress(NamedTuple):
    """What the rewards depend on besides the state."""

    initial: Int  # int32 []: N, the number of markers to collect (or to put down, in other tasks)
    total: Int  # int32 []: the number of markers in the world


def generate(rng: np.random.RandomState, sparse: bool = False) -> Layout:
    """Make a layout.

    There are walls on the border. The robot starts at (H-2, ri(2, W-2)) and faces east. Each of the N = (H-2)(W-2)
    inner cells holds one marker.
    """
    height, width = WORLD.height, WORLD.width
    walls = border(height, width)
    pose = height - 2, rng.randint(2, width - 2), EAST
    return collecting(WORLD.state(walls, pose, (~walls).astype(np.uint8)), int((~walls).sum()), sparse)


def collecting(state: KarelState, n: int, sparse: bool) -> Layout:
    """Return the layout of a state with `n` markers to collect."""
    return Layout(state, Progress(np.int32(n), np.int32(n)), np.int32(1 if sparse else n))


def reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward every marker that is taken.

    The reward is (m' - m) / N, where m and m' are the numbers of markers in the world after and before the action, and
    N is that of the start. If m > m', it is -1 instead and the run ends. m = 0 ends the run.
    """
    now = progress._replace(total=progress.total + event.change)
    wrong = event.change == 1
    return state, now, ops.where(wrong, -progress.initial, -event.change), wrong | (now.total == 0)


def sparse_reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward taking the last marker.

    If there are more markers in the world than at the start, the reward is -1 and the run ends. (The comparison is with
    the start and not with the previous action; kept from the published system.) If there is no marker, it is +1 and the
    run ends.
    """
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
