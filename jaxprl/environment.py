"""Tasks as functions of JAX, for those who train with it: `reset(key)`, `step(state, action)`, `observe(state)`.

Each is written for one copy; `jax.vmap` makes many, `jax.jit` and `jax.lax.scan` apply. An `Environment` is a pytree.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprl.errors import UserError
from jaxprl.worlds import registry
from jaxprl.worlds.karel import observe as karel
from jaxprl.worlds.karel.world import Geometry as KarelWorld
from jaxprl.worlds.minigrid import observe as minigrid
from jaxprl.worlds.minigrid.world import Geometry as MiniGridWorld
from jaxprl.worlds.task import Layout, Task

OBSERVATIONS = ("grid", "view")


class State(NamedTuple):
    """One copy of an environment."""

    world: Any
    """The world's state."""
    progress: Any
    """The task's."""
    units: jax.Array  # int32: units per return of 1
    terminated: jax.Array  # bool: nothing happens any more


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["layouts"], meta_fields=["task", "observation", "actions"]
)
@dataclasses.dataclass(frozen=True)
class Environment:
    """A task with a pool of layouts. Actions are numbers, 0.. in the order of `actions`."""

    task: Task
    layouts: Layout
    """Of JAX arrays [E, ...]; the layouts are made by numpy on the host, so they are made before."""
    observation: str
    actions: tuple[str, ...]

    def reset(self, key: jax.Array) -> State:
        """Return a copy at the start of a layout that is drawn from the pool."""
        return self.start(jax.random.randint(key, (), 0, self.layouts.units.shape[0]))

    def start(self, layout: Any) -> State:
        """Return a copy at the start of a layout, by its place in the pool."""
        world, progress, units = jax.tree.map(lambda leaf: leaf[layout], self.layouts)
        return State(world, progress, units, jnp.bool_(False))

    def step(self, state: State, action: Any) -> tuple[State, jax.Array, jax.Array]:
        """Return (state, reward float32, terminated bool) after an action. The rewards of an episode add up to 1 at
        most. A terminated copy stays as it is, with rewards of 0."""
        task = self.task
        world, event = task.world.act(state.world, jnp.asarray(action, jnp.int32) + 1, False)
        world, progress, units, terminated = task.reward(task.world, state.progress, world, event)
        new = State(world, progress, state.units, terminated)
        new = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), new, state)
        new = jax.tree.map(lambda new, old: jnp.where(state.terminated, old, new), new, state)
        reward = jnp.where(state.terminated, 0.0, jnp.float32(units) / jnp.float32(state.units))
        return new, reward, new.terminated

    def observe(self, state: State) -> jax.Array:
        """Return what there is to see (`observe`)."""
        return observe(self.task, state.world, self.observation)


def make(task: str | Task, *, layout_seeds: Iterable[int] = range(256), observation: str = "grid") -> Environment:
    """Return the environment of a task, or of the task of that name.

    Args:
      task: one of Karel's or MiniGrid's.
      layout_seeds: the pool that `reset` draws from.
      observation: "grid", or for MiniGrid "view" (`observe`).

    Raises UserError for an unknown name, another kind of task and an observation that it does not have.
    """
    found = array_task(task, observation)
    layouts = jax.tree.map(jnp.asarray, found.layouts(layout_seeds))
    return Environment(found, layouts, observation, found.language.action_names)


def array_task(task: str | Task, observation: str) -> Task:
    """Return the task if it has such observations (`make`)."""
    found = registry.make(task) if isinstance(task, str) else task
    if not isinstance(found, Task) or not isinstance(found.world, KarelWorld | MiniGridWorld):
        raise UserError(f"task {found.name}: only tasks on Karel's and MiniGrid's world are environments of JAX")
    known = OBSERVATIONS if isinstance(found.world, MiniGridWorld) else OBSERVATIONS[:1]
    if observation not in known:
        raise UserError(f"task {found.name}: unknown observation {observation!r}; known: {', '.join(known)}")
    return found


def observe(task: Task, state: Any, observation: str) -> Any:
    """Return what an agent is shown of a world's state, plain, numpy or JAX: for Karel bool [16, H, W]
    (`worlds/karel/observe.py`); for MiniGrid uint8, "grid" [W, H, 3] or "view" [7, 7, 3]
    (`worlds/minigrid/observe.py`)."""
    if isinstance(task.world, KarelWorld):
        return karel.planes(task.world, state)
    assert isinstance(task.world, MiniGridWorld)
    if observation == "grid":
        return minigrid.grid(task.world, state)
    return minigrid.view(task.world, state)
