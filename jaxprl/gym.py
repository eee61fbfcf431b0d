"""Tasks as gymnasium environments: `import jaxprl.gym`, then `gymnasium.make("jaxprl/Karel-DoorKey-v0")`.

Ids: `jaxprl/Karel-NAME-v0` and `jaxprl/MiniGrid-NAME-v0` for the published tasks, `jaxprl/` before the id of one of
the package's environments (`jaxprl/MiniGrid-DoorKey-5x5-v0`). A task of your own: `register(task.name, id)`.

- Actions: numbers in the order of the language's words. Observations: `jaxprl/environment.py`.
- `reset(seed=s)` gives the layout of seed s. A reward is what the task gives, as a float; a return is 1 at most.
- Terminated as in the task, and then the state stays as it is; truncated after `max_steps` actions, without more words
  the world's call limit.
- `gymnasium.make_vec` gives an environment in JAX that steps all its copies in one call.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from jaxprl import environment
from jaxprl.environment import Environment, State
from jaxprl.errors import UserError
from jaxprl.render.world import draw
from jaxprl.vm.host import WorldEnvironment
from jaxprl.worlds import registry
from jaxprl.worlds.karel.world import Geometry as KarelWorld
from jaxprl.worlds.minigrid.observe import mission
from jaxprl.worlds.minigrid.world import Geometry as MiniGridWorld
from jaxprl.worlds.task import Layout, Task

SEEDS = 2**31 - 1
"""Layout seeds that resets without a seed draw from, if nothing else is said."""
POOL = range(256)
"""The layouts that copies of a vectorised environment start from by themselves, if nothing else is said."""


class Lane(NamedTuple):
    """One copy of a vectorised environment."""

    state: State
    steps: jax.Array  # int32: actions of this episode
    over: jax.Array  # bool: it starts again at the next step
    key: jax.Array


class WorldEnv(gymnasium.Env):
    """One copy of a task, in plain Python: faster than JAX one action at a time.

    Args:
      task: its name.
      observation: "grid", or for MiniGrid "view".
      max_steps: actions after which an episode is truncated.
      layout_seeds: what a reset without a seed draws from.
      cell: pixels of a cell's side, for `render`.
      render_mode: None or "rgb_array".

    `info["mission"]`, where a task's mission names objects: uint8 [4], type and colour of target and landmark;
    `info["direction"]` with the view, which does not show it: 0 east, 1 south, 2 west, 3 north.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        *,
        observation: str = "grid",
        max_steps: int | None = None,
        layout_seeds: Iterable[int] | None = None,
        cell: int = 32,
        render_mode: str | None = None,
    ):
        self.task, self.observation = environment.array_task(task, observation), observation
        self.max_steps = _steps(self.task, max_steps)
        self.layout_seeds = None if layout_seeds is None else _pool(layout_seeds)
        self.cell, self.render_mode = cell, render_mode
        self.action_space, self.observation_space = spaces(self.task, observation)
        self.host: WorldEnvironment | None = None
        """The layout at hand, for the plain-Python interpreter; None before the first reset."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        seed = None if seed is None else _seed(seed)
        super().reset(seed=seed)
        layout = drawn(self.np_random, self.layout_seeds) if seed is None else seed
        self.host, self.steps, self.terminated = WorldEnvironment(self.task, self.task.layout(layout)), 0, False
        return self._observed(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        host = self._running()
        _check_actions(np.asarray(action), (), len(self.task.language.actions))
        units = 0
        if not self.terminated:
            units, terminated = host.act(self.task.language.action_names[int(action)], at_limit=False)
            self.terminated = bool(terminated)
        self.steps += 1
        truncated = self.steps >= self.max_steps and not self.terminated
        return self._observed(), units / host.units, self.terminated, truncated, self._info()

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            gymnasium.logger.warn("render() shows nothing without a render_mode: make the environment with rgb_array")
            return None
        return draw(self.task, self._running().state, cell=self.cell)

    def _running(self) -> WorldEnvironment:
        if self.host is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self.host

    def _observed(self) -> np.ndarray:
        return environment.observe(self.task, self._running().state, self.observation)

    def _info(self) -> dict:
        state = self._running().state
        info = {} if getattr(state, "mission", None) is None else {"mission": mission(state)}
        return info | ({"direction": int(state.direction)} if self.observation == "view" else {})


class Copies(gymnasium.vector.VectorEnv):
    """Many copies of a task, stepped by one jitted call. Arguments as `WorldEnv`, `max_episode_steps` is another name
    of `max_steps`; results are numpy arrays, or with `jax_arrays` JAX arrays that stay on their device. Then actions
    are not checked.

    `reset(seed=s)` gives copy i the layout of seed s + i. A copy that is over starts again at its next step, whose
    action and reward do not count (`AutoresetMode.NEXT_STEP`), on a layout drawn from `layout_seeds`: layouts are made
    by numpy on the host, so those are made at the first reset.
    """

    metadata = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 8,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

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
        self.num_envs, self.task = num_envs, environment.array_task(task, observation)
        self.max_steps = _steps(self.task, max_episode_steps if max_steps is None else max_steps)
        self.observation, self.layout_seeds = observation, _pool(POOL if layout_seeds is None else layout_seeds)
        self.cell, self.render_mode, self.jax_arrays = cell, render_mode, jax_arrays
        self.single_action_space, self.single_observation_space = spaces(self.task, observation)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.lanes: Lane | None = None

    @functools.cached_property
    def environment(self) -> Environment:
        return environment.make(self.task, layout_seeds=self.layout_seeds, observation=self.observation)

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict | None = None) -> tuple[Any, dict]:
        given = [None if one is None else _seed(one) for one in _per_copy(seed, self.num_envs)]
        if len(given) != self.num_envs:
            raise UserError(f"{len(given)} seeds for {self.num_envs} copies")
        super().reset(seed=given[0])
        seeds = [drawn(self.np_random, self.layout_seeds) if one is None else one for one in given]
        layouts = jax.tree.map(jnp.asarray, self.task.layouts(seeds))
        keys = jax.random.split(jax.random.key(drawn(self.np_random, None)), self.num_envs)
        self.lanes, observations = _begin(self.environment, layouts, keys)
        return self._out(observations), self._info()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict]:
        if self.lanes is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        if not self.jax_arrays:
            _check_actions(np.asarray(actions), (self.num_envs,), len(self.task.language.actions))
        actions = jnp.asarray(actions).astype(jnp.int32)
        self.lanes, shown = _advance(self.environment, jnp.int32(self.max_steps), self.lanes, actions)
        observations, rewards, terminated, truncated = map(self._out, shown)
        return observations, rewards, terminated, truncated, self._info()

    def render(self) -> tuple[np.ndarray, ...] | None:
        if self.render_mode is None:
            return None
        if self.lanes is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        worlds = jax.device_get(self.lanes.state.world)
        states = [jax.tree.map(lambda leaf, copy=copy: leaf[copy], worlds) for copy in range(self.num_envs)]
        return tuple(draw(self.task, state, cell=self.cell) for state in states)

    def _out(self, array: Any) -> Any:
        return array if self.jax_arrays else np.array(array)

    def _info(self) -> dict:
        assert self.lanes is not None
        world = self.lanes.state.world
        facts = {} if getattr(world, "mission", None) is None else {"mission": _missions(world)}
        if self.observation == "view":
            facts["direction"] = world.direction
        info = {name: self._out(fact) for name, fact in facts.items()}
        return info | {f"_{name}": np.ones(self.num_envs, bool) for name in facts}


@jax.jit
def _begin(env: Environment, layouts: Layout, keys: jax.Array) -> tuple[Lane, jax.Array]:
    """Return copies at the start of layouts [E], and their observations."""

    def begin(layout: Layout, key: jax.Array) -> tuple[Lane, jax.Array]:
        state = State(layout.state, layout.progress, layout.units, jnp.bool_(False))
        return Lane(state, jnp.int32(0), jnp.bool_(False), key), env.observe(state)

    return jax.vmap(begin)(layouts, keys)


@jax.jit
def _advance(env: Environment, max_steps: jax.Array, lanes: Lane, actions: jax.Array) -> tuple[Lane, tuple]:
    """Return copies after an action each, and (observations, rewards, terminated, truncated)."""

    def advance(lane: Lane, action: jax.Array) -> tuple[Lane, tuple]:
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


def spaces(task: Task, observation: str) -> tuple[gymnasium.spaces.Discrete, gymnasium.spaces.Box]:
    """Return the spaces of a task's actions and observations."""
    shown = environment.observe(task, task.layout(0).state, observation)
    highest = 1 if shown.dtype == bool else 255
    box = gymnasium.spaces.Box(0, highest, shown.shape, shown.dtype.type)
    return gymnasium.spaces.Discrete(len(task.language.actions)), box


def _per_copy(seed: int | Sequence[int | None] | None, copies: int) -> list[int | None]:
    if seed is None:
        return [None] * copies
    if isinstance(seed, int | np.integer):
        return [int(seed) + copy for copy in range(copies)]
    return list(seed)


def _seed(value: Any) -> int:
    try:
        seed = operator.index(value)
    except TypeError:
        raise UserError(f"seed {value!r} is no whole number") from None
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed}: layout seeds go from 0 to {2**32 - 1}")
    return seed


def _pool(seeds: Iterable[int]) -> Sequence[int]:
    """Return layout seeds to draw from. Raises UserError if there are none, and for what is no seed."""
    pool = tuple(map(_seed, seeds))
    if not pool:
        raise UserError("layout_seeds are empty: there is nothing to draw from")
    return pool


def _check_actions(actions: np.ndarray, shape: tuple[int, ...], number: int) -> None:
    """Raise UserError for what is not below the number of actions, or not one for each copy."""
    if actions.shape != shape or actions.dtype.kind not in "iu":
        raise UserError(f"actions of {actions.dtype}{list(actions.shape)}: expected whole numbers {list(shape)}")
    if ((actions < 0) | (actions >= number)).any():
        raise UserError(f"actions {actions.tolist()}: they go from 0 to {number - 1}")


def drawn(random: np.random.Generator, seeds: Sequence[int] | None) -> int:
    """Return one of the seeds, or any if None."""
    return int(random.integers(SEEDS)) if seeds is None else int(seeds[int(random.integers(len(seeds)))])


def _steps(task: Task, max_steps: int | None) -> int:
    if max_steps is not None and max_steps < 1:
        raise UserError(f"max_steps {max_steps}: an episode has one step at least")
    return task.world.call_limit if max_steps is None else max_steps


def identifier(task: Task) -> str:
    """Return the id of a task on Karel's or MiniGrid's world."""
    if task.name.startswith("MiniGrid-"):
        return f"jaxprl/{task.name}"
    return f"jaxprl/{'Karel' if isinstance(task.world, KarelWorld) else 'MiniGrid'}-{task.name}-v0"


def register(task: str, id: str) -> None:
    """Make a task known to gymnasium: `make` and `make_vec`."""
    gymnasium.register(
        id, entry_point="jaxprl.gym:WorldEnv", vector_entry_point="jaxprl.gym:Copies", kwargs={"task": task}
    )


_WORLDS = (KarelWorld, MiniGridWorld)
IDS = {
    identifier(task): name
    for name, task in registry.tasks().items()
    if isinstance(task, Task) and isinstance(task.world, _WORLDS)
}
"""The tasks by id."""
for _id, _task in IDS.items():
    register(_task, _id)
