"""Tasks made of the environments that `minigrid` registers: one rule for all ids of a family.

A run returns 1 for what the environment rewards, else 0, and ends where the environment's own step terminates. Left
out: its discount of late successes and its truncation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxprl.worlds.minigrid import layouts
from jaxprl.worlds.minigrid.world import EXTENDED, Geometry, MiniGrid, Mission
from jaxprl.worlds.task import Layout, Task

BUDGET = 10_000

Read = Callable[[Geometry, Any, MiniGrid], Layout]
"""(world, the package's environment after its reset, our state of it) -> the layout."""


def family(
    sizes: Mapping[str, tuple[int, int]],
    read: Read,
    reward: Callable[[Any, Any, Any, Any], tuple[Any, Any, Any, Any]],
    words: Mapping[str, str],
    *,
    geometry: type[Geometry] = Geometry,
    see_through: bool = False,
    quiet: bool = True,
) -> tuple[Task, ...]:
    """Return a task for every id, given without `MiniGrid-`, with its grid's (width, height). It is `quiet` unless said
    otherwise: turns and steps onto empty cells bring nothing."""

    def task(name: str, width: int, height: int) -> Task:
        world = geometry(width, height, EXTENDED, see_through)
        sized = {**words, "map": f"{height} rows x {width} columns. {words['map']}"}
        return Task(
            name, world, functools.partial(_generate, name, world, read), reward, sized, budget=BUDGET, quiet=quiet
        )

    return tuple(task(f"MiniGrid-{name}", *size) for name, size in sizes.items())


def _generate(name: str, world: Geometry, read: Read, seed: int) -> Layout:
    env = layouts.registered(name)
    state = layouts.world_of(env, seed)
    return read(world, env, state)


def layout(state: MiniGrid, progress: Any = (), *, target: int = 0, landmark: int = 0) -> Layout:
    """Return the layout of a state, with the objects that its mission names (`kind_and_color`, 0 for none)."""
    return Layout(state._replace(mission=Mission(np.int32(target), np.int32(landmark))), progress, np.int32(1))
