"""Karel worlds that no task has: any walls and markers, small call limits, rewards of both signs."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.world import MAX_MARKERS, KarelWorld
from jaxprl.worlds.task import Layout, Task

NOWHERE = 0
"""A cell of the ring, where no robot gets."""


class OnceLimited(KarelWorld):
    call_limit = 1


class SevenLimited(KarelWorld):
    call_limit = 7


class Limited(KarelWorld):
    call_limit = 500


class Progress(NamedTuple):
    total: Any  # int32: markers in the world
    most: Any  # int32: more of them end the run
    goal: Any  # int32: cell that ends the run


def reward(world, progress, state, event):
    """One for each marker put, minus one for each taken."""
    total = progress.total + event.change
    ended = (total > progress.most) | (state.cell == progress.goal)
    return state, progress._replace(total=total), event.change, ended


def layout(world, walls, pose, markers, most, goal=NOWHERE):
    progress = Progress(np.int32(np.sum(markers)), np.int32(most), np.int32(goal))
    return Layout(world.state(walls, pose, markers), progress, np.int32(1))


def random_layout(world, seed):
    rng = np.random.RandomState(seed)
    size = world.height, world.width
    walls = rng.rand(*size) < rng.choice([0, 0.1, 0.3, 0.6])
    markers = rng.randint(0, MAX_MARKERS + 1, size) * (rng.rand(*size) < rng.choice([0, 0.2, 1]))
    pose = rng.randint(world.height), rng.randint(world.width), rng.randint(4)
    goal = world.cell(rng.randint(world.height), rng.randint(world.width))
    most = markers.sum() + rng.choice([0, 3, 10_000])
    return layout(world, walls, pose, markers.astype(np.uint8), most, rng.choice([goal, NOWHERE, NOWHERE]))


def goalless_layout(world, seed):
    state, progress, units = random_layout(world, seed)
    return Layout(state, progress._replace(goal=np.int32(NOWHERE)), units)


@functools.cache
def random_task(world, quiet=False):
    """Return a task on random layouts; if it is `quiet`, no cell ends a run."""
    generate = functools.partial(goalless_layout if quiet else random_layout, world)
    return Task(f"random {type(world).__name__} {quiet}", world, generate, reward, quiet=quiet)


UNITS = 4
"""Of the layouts of `capped_task`."""


class CappedProgress(NamedTuple):
    begun: Any  # int32: markers in the world at the start
    inner: Progress


def capped_reward(world, progress, state, event):
    """One for each marker put, minus one for each taken; what is above `UNITS` more than at the start brings nothing,
    so that a return is at most 1."""

    def gained(total):
        above = total - progress.begun
        return ops.where(above > UNITS, UNITS, above)

    before = progress.inner.total
    state, inner, _, ended = reward(world, progress.inner, state, event)
    return state, progress._replace(inner=inner), gained(inner.total) - gained(before), ended


def capped_layout(world, seed):
    state, progress, _ = random_layout(world, seed)
    return Layout(state, CappedProgress(progress.total, progress), np.int32(UNITS))


@functools.cache
def capped_task(world):
    """Return a task for searches: no return is above 1."""
    return Task(f"capped {type(world).__name__}", world, functools.partial(capped_layout, world), capped_reward)
