"""Tasks as pure JAX functions, for training with JAX: `reset(key)`, `step(state, action)` and `observe(state)`.

Each function handles one copy of the environment and can be transformed with `jax.vmap`, `jax.jit` and `jax.lax.scan`.
An `Environment` is a pytree. This module does not need gymnasium.

Axis letters: E layouts; H and W rows and columns of the world.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.errors import UserError
from jaxprl.types import Int, PyTree
from jaxprl.worlds.karel import observe as karel
from jaxprl.worlds.karel.world import KarelWorld
from jaxprl.worlds.make import make as make_task
from jaxprl.worlds.minigrid import observe as minigrid
from jaxprl.worlds.minigrid.world import MiniGridWorld
from jaxprl.worlds.seeds import checked_seeds
from jaxprl.worlds.task import Layout, Task
from jaxprl.xla import guarded

OBSERVATIONS = ("grid", "view")


class State(NamedTuple):
    """The state of one copy of an environment."""

    world: PyTree  # the world's state
    progress: PyTree  # what the task's reward depends on besides the world's state
    units: jax.Array  # int32: reward units per return of 1 on this layout
    terminated: jax.Array  # bool: whether the episode has ended; then `step` changes nothing


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["layouts"], meta_fields=["task", "observation", "actions"]
)
@dataclasses.dataclass(frozen=True)
class Environment:
    """A task with a pool of layouts, as an environment of pure functions. `make_env` creates one.

    Actions are integers: 0 is the first name in `actions`, and so on.

    Example:
      >>> import jax
      >>> from jaxprl import make_env
      >>> env = make_env("DoorKey", layout_seeds=range(4))
      >>> state = env.reset(jax.random.key(0))
      >>> state, reward, terminated = jax.jit(env.step)(state, env.actions.index("turnLeft"))
      >>> float(reward), bool(terminated), env.observe(state).shape
      (0.0, False, (16, 8, 8))
    """

    task: Task
    layouts: Layout
    """The pool of layouts as JAX arrays with a leading axis [E]. NumPy generates layouts on the host, so all of them
    exist before the first step."""
    observation: str
    """The kind of observation: "grid" or "view" (see `observe`)."""
    actions: tuple[str, ...]
    """The names of the actions, in the order of their numbers."""

    @guarded
    def reset(self, key: jax.Array) -> State:
        """Start an episode on a layout drawn uniformly from the pool.

        Args:
          key: a JAX random key.

        Returns:
          The state before the first action.
        """
        return self.start(jax.random.randint(key, (), 0, self.layouts.units.shape[0]))

    @guarded
    def start(self, layout: Int) -> State:
        """Start an episode on one layout of the pool.

        Args:
          layout: int32, index of the layout in the pool, 0 .. E - 1.

        Returns:
          The state before the first action.
        """
        world, progress, units = jax.tree.map(lambda leaf: leaf[layout], self.layouts)
        return State(world, progress, units, jnp.bool_(False))

    @guarded
    def step(self, state: State, action: Int) -> tuple[State, jax.Array, jax.Array]:
        """Take one action.

        An action that crashes, in a world where actions can, ends the episode like one that the task ends. After
        termination the state stays as it is and the rewards are 0.

        Args:
          state: the state of one copy.
          action: int32, index into `actions`.

        Returns:
          The new state; the reward, float32, where the rewards of an episode add up to at most 1; and whether the
          episode has terminated, bool.
        """
        step = self.task.step(state.world, state.progress, jnp.asarray(action, jnp.int32) + 1, False)
        new = State(step.state, step.progress, state.units, step.terminated | step.crashed)
        new = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), new, state)
        new = jax.tree.map(lambda new, old: jnp.where(state.terminated, old, new), new, state)
        reward = jnp.where(state.terminated, 0.0, jnp.float32(step.units) / jnp.float32(state.units))
        return new, reward, new.terminated

    @guarded
    def observe(self, state: State) -> jax.Array:
        """Return the observation of a state, of the environment's kind (see `observe` in this module)."""
        return jnp.asarray(observe(self.task, state.world, self.observation))


@guarded
def make_env(task: str | Task, *, layout_seeds: Iterable[int] = range(256), observation: str = "grid") -> Environment:
    """Create the environment of a task.

    Args:
      task: a task on Karel's or MiniGrid's world, or the name of one.
      layout_seeds: seeds of the layouts from which `Environment.reset` draws.
      observation: "grid", or "view" on MiniGrid's world (see `observe`).

    Returns:
      The environment.

    Raises:
      UserError: if the task is unknown or on another world, if it does not have this kind of observation, or if
        `layout_seeds` are empty or not seeds.

    Example:
      >>> import jax
      >>> from jaxprl import make_env
      >>> env = make_env("LavaGap", layout_seeds=range(4), observation="view")
      >>> states = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 3))  # three copies
      >>> jax.vmap(env.observe)(states).shape
      (3, 7, 7, 3)
    """
    resolved = array_task(task, observation)
    layouts = jax.tree.map(jnp.asarray, resolved.layouts(checked_seeds(layout_seeds, "layout seed")))
    return Environment(resolved, layouts, observation, resolved.language.action_names)


def array_task(task: str | Task, observation: str) -> Task:
    """Resolve a task and check that it can be an environment with this kind of observation.

    Args:
      task: a task or its name.
      observation: one of `OBSERVATIONS`.

    Returns:
      The task.

    Raises:
      UserError: if the task is unknown or on another world, or if it does not have this kind of observation.
    """
    resolved = make_task(task) if isinstance(task, str) else task
    if not isinstance(resolved, Task) or not isinstance(resolved.world, KarelWorld | MiniGridWorld):
        name = getattr(resolved, "name", repr(resolved))
        raise UserError(f"task {name}: only tasks on Karel's and MiniGrid's world are environments of JAX")
    known = OBSERVATIONS if isinstance(resolved.world, MiniGridWorld) else OBSERVATIONS[:1]
    if observation not in known:
        raise UserError(f"task {resolved.name}: unknown observation {observation!r}; known: {', '.join(known)}")
    return resolved


def observe(task: Task, state: PyTree, observation: str) -> np.ndarray | jax.Array:
    """Return what the agent observes in a state of the world.

    Args:
      task: a task on Karel's or MiniGrid's world.
      state: the world's state, of plain Python, NumPy or JAX values.
      observation: the kind of observation; Karel's world has only "grid".

    Returns:
      For Karel bool [16, H, W] (`worlds/karel/observe.py`). For MiniGrid uint8: "grid" gives [W, H, 3] and "view" gives
      [7, 7, 3] (`worlds/minigrid/observe.py`). A JAX array if the state consists of JAX arrays, else a NumPy array.
    """
    if isinstance(task.world, KarelWorld):
        return karel.planes(task.world, state)
    assert isinstance(task.world, MiniGridWorld)
    if observation == "grid":
        return minigrid.grid(task.world, state)
    return minigrid.view(task.world, state)
