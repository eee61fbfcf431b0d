"""Many copies of a task as a vectorized gymnasium environment, in JAX.

`gymnasium.make_vec` creates it from the ids that `gym.py` registers.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from jaxprl.environments import functional
from jaxprl.environments.functional import Environment, State
from jaxprl.environments.gym import METADATA, check_actions, drawn_seed, episode_length, known_mode, spaces
from jaxprl.errors import UserError
from jaxprl.render.world import draw
from jaxprl.types import JSON, PyTree
from jaxprl.worlds.minigrid.observe import mission
from jaxprl.worlds.seeds import checked_seed, checked_seeds
from jaxprl.worlds.task import Layout, Task
from jaxprl.xla import guarded, jit

POOL = range(256)
"""Seeds of the layouts on which new episodes start, unless `layout_seeds` are named."""

Array = np.ndarray | jax.Array


class Lane(NamedTuple):
    """One copy of a vectorized environment."""

    state: State
    steps: jax.Array  # int32: actions taken in this episode
    over: jax.Array  # bool: whether the episode is over, so that the next step starts a new one
    key: jax.Array  # random key from which the layouts of later episodes are drawn


class WorldVectorEnv(gymnasium.vector.VectorEnv):
    """Many copies of a task, stepped together by one jitted call.

    `reset(seed=s)` starts copy i on the layout of seed s + i, for all copies or for those of a `reset_mask`. A copy
    whose episode is over starts a new one at its next step, on a layout drawn from `layout_seeds`; the action and the
    reward of that step do not count (`AutoresetMode.NEXT_STEP`). NumPy generates layouts on the host, so those of the
    pool are generated at the first reset.

    Args:
      num_envs: number of copies.
      task: the name of the task.
      observation: "grid", or "view" on MiniGrid's world.
      max_steps: number of actions after which an episode is truncated; by default the world's call limit.
      max_episode_steps: gymnasium's name for `max_steps`.
      layout_seeds: seeds of the layouts on which new episodes start; by default `POOL`.
      cell: side of a cell in pixels, for `render`.
      render_mode: None or "rgb_array".
      jax_arrays: whether results are JAX arrays that stay on their device, instead of NumPy arrays. Actions are not
        checked in this case.

    Raises:
      UserError: if an argument is not as described.

    Example:
      >>> import gymnasium
      >>> import jaxprl.environments  # registers the ids
      >>> envs = gymnasium.make_vec("jaxprl/Karel-DoorKey-v0", num_envs=2, layout_seeds=range(4))
      >>> observations, infos = envs.reset(seed=3)
      >>> observations.shape
      (2, 16, 8, 8)
    """

    metadata = METADATA | {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: str,
        observation: str = "grid",
        max_steps: int | None = None,
        max_episode_steps: int | None = None,
        layout_seeds: Iterable[int] | None = None,
        cell: int = 32,
        render_mode: str | None = None,
        jax_arrays: bool = False,
    ):
        if num_envs < 1:
            raise UserError(f"num_envs {num_envs}: there is one copy at least")
        self.num_envs, self.task = num_envs, functional.array_task(task, observation)
        self.max_steps = episode_length(self.task, max_episode_steps if max_steps is None else max_steps)
        self.observation = observation
        self.layout_seeds = checked_seeds(POOL if layout_seeds is None else layout_seeds, "layout seed")
        self.cell, self.render_mode, self.jax_arrays = cell, known_mode(render_mode), jax_arrays
        self.single_action_space, self.single_observation_space = spaces(self.task, observation)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.lanes: Lane | None = None
        """All copies, with a leading axis [num_envs]; None before the first reset."""

    @functools.cached_property
    def environment(self) -> Environment:
        """The environment of one copy, with the pool of layouts."""
        return functional.make_env(self.task, layout_seeds=self.layout_seeds, observation=self.observation)

    @guarded
    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: JSON | None = None
    ) -> tuple[Array, JSON]:
        """Start an episode in every copy.

        Args:
          seed: s gives copy i the layout of seed s + i; a sequence has one seed per copy; None draws layouts. The seeds
            of copies that are not reset do not count.
          options: `{"reset_mask": mask}` with a mask bool [num_envs] resets only the copies whose entry is True. It is
            a NumPy array, or with `jax_arrays` also one of JAX. Other options are ignored.

        Returns:
          The observations [num_envs, ...], which are the latest ones for copies that are not reset, and the infos of
          the copies that are reset.

        Raises:
          UserError: if a seed is not an integer from 0 to 2**32 - 1, if there is not one seed per copy, or if the mask
            is something else or resets no copy.
          gymnasium.error.ResetNeeded: if the mask leaves out copies that were never reset.
        """
        asked = _per_copy(seed, self.num_envs)
        if len(asked) != self.num_envs:
            raise UserError(f"{len(asked)} seeds for {self.num_envs} copies")
        mask = self._reset_mask(options or {})
        before = None if mask.all() else self._running()
        named = [None if each is None else checked_seed(each) for each in itertools.compress(asked, mask)]
        super().reset(seed=named[0])
        seeds = [drawn_seed(self.np_random, self.layout_seeds) if each is None else each for each in named]
        # Every copy needs a layout, so that shapes stay the same; those that are not reset get the first one.
        row = np.where(mask, np.cumsum(mask) - 1, 0)
        layouts = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[row]), self.task.layouts(seeds))
        keys = jax.random.split(jax.random.key(drawn_seed(self.np_random, None)), self.num_envs)
        self.lanes, observations = _begin(self.task, self.environment, layouts, keys, mask, before)
        return self._out(observations), self._info(mask)

    @guarded
    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, JSON]:
        """Take one action in every copy.

        Args:
          actions: integers [num_envs].

        Returns:
          The observations [num_envs, ...], rewards float32 [num_envs], whether the episodes have terminated, bool
          [num_envs], whether they are truncated, bool [num_envs], and the infos.

        Raises:
          UserError: if there is not one action per copy, or if one of them does not exist.
          gymnasium.error.ResetNeeded: before the first reset.
        """
        lanes = self._running()
        if not self.jax_arrays:
            check_actions(np.asarray(actions), (self.num_envs,), len(self.task.language.actions))
        actions = jnp.asarray(actions).astype(jnp.int32)
        self.lanes, results = _advance(self.task, self.environment, jnp.int32(self.max_steps), lanes, actions)
        observations, rewards, terminated, truncated = map(self._out, results)
        return observations, rewards, terminated, truncated, self._info(np.ones(self.num_envs, bool))

    @guarded
    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return a picture of every copy, uint8 [H * cell, W * cell, 3] each, or None without a render mode."""
        if self.render_mode is None:
            return None
        worlds = jax.device_get(self._running().state.world)
        states = [jax.tree.map(lambda leaf, copy=copy: leaf[copy], worlds) for copy in range(self.num_envs)]
        return tuple(draw(self.task, state, cell=self.cell) for state in states)

    def _running(self) -> Lane:
        if self.lanes is None:
            raise gymnasium.error.ResetNeeded("call reset() first, of all copies")
        return self.lanes

    def _reset_mask(self, options: JSON) -> np.ndarray:
        """Return which copies the options of `reset` ask for, bool [num_envs]."""
        if "reset_mask" not in options:
            return np.ones(self.num_envs, bool)
        mask = options["reset_mask"]
        expected = f"reset_mask: expected an array of bool [{self.num_envs}], one value per copy"
        if not isinstance(mask, np.ndarray | jax.Array if self.jax_arrays else np.ndarray):
            raise UserError(f"{expected}, not {type(mask).__name__}")
        if mask.dtype != bool or mask.shape != (self.num_envs,):
            raise UserError(f"{expected}, not {mask.dtype} {list(mask.shape)}")
        if not mask.any():
            raise UserError("reset_mask: it resets no copy; at least one value has to be True")
        return np.asarray(mask)

    def _out(self, array: jax.Array) -> Array:
        return array if self.jax_arrays else np.array(array)

    def _info(self, mask: np.ndarray) -> JSON:
        """Return the infos of the copies in a mask, bool [num_envs].

        As in gymnasium's own vectorized environments, the mask stands beside each fact as `_NAME`, and the facts of
        other copies are 0.
        """
        world = self._running().state.world
        facts = {} if getattr(world, "mission", None) is None else {"mission": _missions(world)}
        if self.observation == "view":
            facts["direction"] = world.direction
        info: JSON = {}
        for name, fact in facts.items():
            chosen = mask.reshape(-1, *(1,) * (fact.ndim - 1))
            info |= {name: self._out(jnp.where(chosen, fact, jnp.zeros_like(fact))), f"_{name}": mask.copy()}
        return info


def _per_copy(seed: int | Sequence[int | None] | None, copies: int) -> list[int | None]:
    """Return the seed of each copy, None where none is named."""
    if seed is None:
        return [None] * copies
    if isinstance(seed, int | np.integer):
        return [int(seed) + copy for copy in range(copies)]
    if not isinstance(seed, Iterable):
        raise UserError(f"seed {seed!r}: expected an integer, or several")
    return list(seed)


@jit(per="task", static_argnames="task")
def _begin(
    task: Task, env: Environment, layouts: Layout, keys: jax.Array, mask: np.ndarray, before: Lane | None
) -> tuple[Lane, jax.Array]:
    """Return copies at the start of layouts [E], and their observations; `task` is that of `env`.

    Those that the mask, bool [E], leaves out stay as they are in `before`; None starts all.
    """
    del task

    def begin(layout: Layout, key: jax.Array) -> Lane:
        state = State(layout.state, layout.progress, layout.units, jnp.bool_(False))
        return Lane(state, jnp.int32(0), jnp.bool_(False), key)

    lanes = jax.vmap(begin)(layouts, keys)
    if before is not None:
        choose = jax.vmap(lambda chosen, new, old: jax.tree.map(functools.partial(jnp.where, chosen), new, old))
        lanes = choose(mask, lanes, before)
    return lanes, jax.vmap(env.observe)(lanes.state)


_Results = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""Observations, rewards, terminated, truncated."""


@jit(per="task", static_argnames="task")
def _advance(
    task: Task, env: Environment, max_steps: jax.Array, lanes: Lane, actions: jax.Array
) -> tuple[Lane, _Results]:
    """Return the copies after one action each, and what they give back; `task` is that of `env`."""
    del task

    def advance(lane: Lane, action: jax.Array) -> tuple[Lane, _Results]:
        key, draw_key = jax.random.split(lane.key)
        stepped, reward, terminated = env.step(lane.state, action)
        fresh = env.reset(draw_key)
        state = jax.tree.map(lambda new, old: jnp.where(lane.over, new, old), fresh, stepped)
        steps = jnp.where(lane.over, 0, lane.steps + 1)
        terminated = terminated & ~lane.over
        truncated = (steps >= max_steps) & ~terminated & ~lane.over
        lane = Lane(state, steps, terminated | truncated, key)
        return lane, (env.observe(state), jnp.where(steps == 0, 0.0, reward), terminated, truncated)

    return jax.vmap(advance)(lanes, actions)


@jit()
def _missions(world: PyTree) -> jax.Array:
    """Return the missions in some states."""
    return jnp.asarray(jax.vmap(mission)(world))
