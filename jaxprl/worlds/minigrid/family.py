"""Make tasks of the environments that `minigrid` registers: one rule for all ids of a family.

A run returns 1 for what the environment rewards and 0 otherwise, and it ends where the environment's own step
terminates. The environment's discount of late successes and its truncation are left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from jaxprl.types import PyTree
from jaxprl.worlds.minigrid import layouts
from jaxprl.worlds.minigrid.farama import FaramaEnv
from jaxprl.worlds.minigrid.world import EXTENDED, MiniGridState, MiniGridWorld, Mission
from jaxprl.worlds.task import Layout, Reward, Task

BUDGET = 10_000
"""The default number of programs that a search evaluates on these tasks."""

Read = Callable[[MiniGridWorld, FaramaEnv, MiniGridState], Layout]
"""(world, the package's environment after its reset, our state of it) -> the layout."""


def family(
    sizes: Mapping[str, tuple[int, int]],
    read: Read,
    reward: Reward,
    words: Mapping[str, str],
    *,
    geometry: type[MiniGridWorld] = MiniGridWorld,
    see_through: bool = False,
    quiet: bool = True,
) -> tuple[Task, ...]:
    """Return a task for every id of a family.

    Args:
      sizes: the ids without `MiniGrid-`, and the (width, height) of the grid of each.
      read: makes the layout of the package's environment.
      reward: the reward of the tasks.
      words: `Task.words`; the size of the grid is put in front of its `map`.
      geometry: the class of the world.
      see_through: `MiniGridWorld.see_through`.
      quiet: `Task.quiet`. Normally, turns and steps onto empty cells bring nothing.

    Returns:
      The tasks, in the order of `sizes`.
    """

    def task(name: str, width: int, height: int) -> Task:
        world = geometry(width, height, EXTENDED, see_through)
        sized = {**words, "map": f"{height} rows x {width} columns. {words['map']}"}
        return Task(
            name, world, functools.partial(_generate, name, world, read), reward, sized, budget=BUDGET, quiet=quiet
        )

    return tuple(task(f"MiniGrid-{name}", *size) for name, size in sizes.items())


def _generate(name: str, world: MiniGridWorld, read: Read, seed: int) -> Layout:
    """Return the layout of a seed of a registered environment."""
    env = layouts.registered(name)
    state = layouts.world_of(env, seed)
    return read(world, env, state)


def layout(state: MiniGridState, progress: PyTree = (), *, target: int = 0, landmark: int = 0) -> Layout:
    """Return the layout of a state, in which a return of 1 is one unit.

    Args:
      state: the state.
      progress: the progress of the task.
      target: the object that the mission names, as `kind_and_color` gives it; 0 for none.
      landmark: the object near which the target has to be put, likewise.
    """
    return Layout(state._replace(mission=Mission(np.int32(target), np.int32(landmark))), progress, np.int32(1))
