"""Many copies of a task as a vectorized gymnasium environment, in JAX.

`gymnasium.make_vec` creates it from the ids that `gym.py` registers.
"""

from __future__ import annotations

import functools
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
from jaxprl.types import JSON
from jaxprl.worlds.minigrid.observe import mission
from jaxprl.worlds.seeds import checked_seed, checked_seeds
from jaxprl.worlds.task import Layout

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

    `reset(seed=s)` starts copy i on the layout of seed s + i. A copy whose episode is over starts a new one at its next
    step, on a layout drawn from `layout_seeds`; the action and the reward of that step do not count
    (`AutoresetMode.NEXT_STEP`). NumPy generates layouts on the host, so those of the pool are generated at the first
    reset.

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

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: JSON | None = None
    ) -> tuple[Array, JSON]:
        """Start an episode in every copy.

        Args:
          seed: s gives copy i the layout of seed s + i; a sequence has one seed per copy; None draws layouts.
          options: ignored.

        Returns:
          The observations [num_envs, ...] and the infos.

        Raises:
          UserError: if a seed is not an integer from 0 to 2**32 - 1, or if there is not one seed per copy.
        """
        asked = [None if each is None else checked_seed(each) for each in _per_copy(seed, self.num_envs)]
        if len(asked) != self.num_envs:
            raise UserError(f"{len(asked)} seeds for {self.num_envs} copies")
        super().reset(seed=asked[0])
        seeds = [drawn_seed(self.np_random, self.layout_seeds) if each is None else each for each in asked]
        layouts = jax.tree.map(jnp.asarray, self.task.layouts(seeds))
        keys = jax.random.split(jax.random.key(drawn_seed(self.np_random, None)), self.num_envs)
        self.lanes, observations = _begin(self.environment, layouts, keys)
        return self._out(observations), self._info()

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
        if self.lanes is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        if not self.jax_arrays:
            check_actions(np.asarray(actions), (self.num_envs,), len(self.task.language.actions))
        actions = jnp.asarray(actions).astype(jnp.int32)
        self.lanes, results = _advance(self.environment, jnp.int32(self.max_steps), self.lanes, actions)
        observations, rewards, terminated, truncated = map(self._out, results)
        return observations, rewards, terminated, truncated, self._info()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return a picture of every copy, uint8 [H * cell, W * cell, 3] each, or None without a render mode."""
        if self.render_mode is None:
            return None
        if self.lanes is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        worlds = jax.device_get(self.lanes.state.world)
        states = [jax.tree.map(lambda leaf, copy=copy: leaf[copy], worlds) for copy in range(self.num_envs)]
        return tuple(draw(self.task, state, cell=self.cell) for state in states)

    def _out(self, array: jax.Array) -> Array:
        return array if self.jax_arrays else np.array(array)

    def _info(self) -> JSON:
        """Return the infos, each with the mask `_NAME` that gymnasium expects: every copy has the fact."""
        assert self.lanes is not None
        world = self.lanes.state.world
        facts = {} if getattr(world, "mission", None) is None else {"mission": _missions(world)}
        if self.observation == "view":
            facts["direction"] = world.direction
        info = {name: self._out(fact) for name, fact in facts.items()}
        return info | {f"_{name}": np.ones(self.num_envs, bool) for name in facts}


def _per_copy(seed: int | Sequence[int | None] | None, copies: int) -> list[int | None]:
    """Return the seed of each copy, None where none is named."""
    if seed is None:
        return [None] * copies
    if isinstance(seed, int | np.integer):
        return [int(seed) + copy for copy in range(copies)]
    if not isinstance(seed, Iterable):
        raise UserError(f"seed {seed!r}: expected an integer, or several")
    return list(seed)


@jax.jit
def _begin(env: Environment, layouts: Layout, keys: jax.Array) -> tuple[Lane, jax.Array]:
    """Return copies at the start of layouts [E], and their observations."""

    def begin(layout: Layout, key: jax.Array) -> tuple[Lane, jax.Array]:
        state = State(layout.state, layout.progress, layout.units, jnp.bool_(False))
        return Lane(state, jnp.int32(0), jnp.bool_(False), key), env.observe(state)

    return jax.vmap(begin)(layouts, keys)


_Results = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""Observations, rewards, terminated, truncated."""


@jax.jit
def _advance(env: Environment, max_steps: jax.Array, lanes: Lane, actions: jax.Array) -> tuple[Lane, _Results]:
    """Return the copies after one action each, and what they give back."""

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


_missions = jax.jit(jax.vmap(mission))
