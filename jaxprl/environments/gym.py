"""Tasks as gymnasium environments: `import jaxprl.environments`, then `gymnasium.make("jaxprl/Karel-DoorKey-v0")`.

Importing this module registers these ids:

- `jaxprl/Karel-NAME-v0` and `jaxprl/MiniGrid-NAME-v0` for the published tasks;
- `jaxprl/` before the id of an environment of the `minigrid` package: `jaxprl/MiniGrid-DoorKey-5x5-v0`.

`register` adds an id for a task of your own.

A process that has not imported this module, like a spawned worker, does so by the id
`jaxprl.environments:jaxprl/Karel-DoorKey-v0`. gymnasium has read no entry points of packages since its version 1.0
(`register_tasks` is one for programs that do).

- Actions are integers in the order of the language's action names. `functional.observe` describes the observations.
- `reset(seed=s)` starts the layout of seed s.
- The reward is the task's, as a float. The return of an episode is at most 1.
- An episode terminates when the task ends it or, in a world where actions can crash, when one does; after that the
  state stays as it is. It is truncated after `max_steps` actions, by default the world's call limit.
- `gymnasium.make_vec` creates a vectorized environment in JAX, which steps all copies in one jitted call (`vector.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import gymnasium
import numpy as np

from jaxprl.environments import functional
from jaxprl.errors import UserError
from jaxprl.render.world import draw
from jaxprl.types import JSON
from jaxprl.worlds import registry
from jaxprl.worlds.karel.world import KarelWorld
from jaxprl.worlds.minigrid.observe import mission
from jaxprl.worlds.minigrid.world import MiniGridWorld
from jaxprl.worlds.plain import WorldEnvironment
from jaxprl.worlds.seeds import checked_seed, checked_seeds
from jaxprl.worlds.task import Task

SEEDS = 2**31 - 1
"""Resets without a seed draw a layout seed below this number, unless `layout_seeds` are named."""
METADATA: JSON = {"render_modes": ["rgb_array"], "render_fps": 8}
"""What gymnasium wants to know about rendering."""


class WorldEnv(gymnasium.Env):
    """One copy of a task, in plain Python, which is faster than JAX for one action at a time.

    `info["mission"]` is present if the task's mission names objects: uint8 [4], type and colour of the target and of
    the landmark. `info["direction"]` accompanies the observation "view", which does not show it: 0 east, 1 south,
    2 west, 3 north.

    Args:
      task: the name of the task.
      observation: "grid", or "view" on MiniGrid's world.
      max_steps: number of actions after which an episode is truncated; by default the world's call limit.
      layout_seeds: seeds of the layouts from which a reset without a seed draws; by default all seeds below `SEEDS`.
      cell: side of a cell in pixels, for `render`.
      render_mode: None or "rgb_array".

    Raises:
      UserError: if an argument is not as described.

    Example:
      >>> import gymnasium
      >>> import jaxprl.environments  # registers the ids
      >>> env = gymnasium.make("jaxprl/Karel-DoorKey-v0")
      >>> observation, info = env.reset(seed=3)
      >>> observation, reward, terminated, truncated, info = env.step(0)  # move
      >>> observation.shape, reward
      ((16, 8, 8), 0.0)
    """

    metadata = METADATA

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
        self.task, self.observation = functional.array_task(task, observation), observation
        self.max_steps = episode_length(self.task, max_steps)
        self.layout_seeds = None if layout_seeds is None else checked_seeds(layout_seeds, "layout seed")
        self.cell, self.render_mode = cell, known_mode(render_mode)
        self.action_space, self.observation_space = spaces(self.task, observation)
        self.plain: WorldEnvironment | None = None
        """The current layout in the plain-Python world; None before the first reset."""

    def reset(self, *, seed: int | None = None, options: JSON | None = None) -> tuple[np.ndarray, JSON]:
        """Start an episode.

        Args:
          seed: seed of the layout; None draws a layout.
          options: ignored.

        Returns:
          The observation and the info.

        Raises:
          UserError: if the seed is not an integer from 0 to 2**32 - 1.
        """
        seed = None if seed is None else checked_seed(seed)
        super().reset(seed=seed)
        layout = drawn_seed(self.np_random, self.layout_seeds) if seed is None else seed
        self.plain, self.steps, self.terminated = WorldEnvironment(self.task, self.task.layout(layout)), 0, False
        return self._observation(), self._info()

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, JSON]:
        """Take one action.

        Args:
          action: index of the action, in the order of the language's action names.

        Returns:
          Observation, reward, whether the episode has terminated, whether it is truncated, and the info.

        Raises:
          UserError: if there is no such action.
          gymnasium.error.ResetNeeded: before the first reset.
        """
        plain = self._running()
        check_actions(np.asarray(action), (), len(self.task.language.actions))
        units = 0
        if not self.terminated:
            units, terminated = plain.act(self.task.language.action_names[int(action)], at_limit=False)
            self.terminated = bool(terminated) or bool(plain.crashed)
        self.steps += 1
        truncated = self.steps >= self.max_steps and not self.terminated
        return self._observation(), units / plain.units, self.terminated, truncated, self._info()

    def render(self) -> np.ndarray | None:
        """Return a picture of the state, uint8 [H * cell, W * cell, 3], or None without a render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() shows nothing without a render_mode: make the environment with rgb_array")
            return None
        return draw(self.task, self._running().state, cell=self.cell)

    def _running(self) -> WorldEnvironment:
        if self.plain is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self.plain

    def _observation(self) -> np.ndarray:
        return np.asarray(functional.observe(self.task, self._running().state, self.observation))

    def _info(self) -> JSON:
        state = self._running().state
        info = {} if getattr(state, "mission", None) is None else {"mission": mission(state)}
        return info | ({"direction": int(state.direction)} if self.observation == "view" else {})


def spaces(task: Task, observation: str) -> tuple[gymnasium.spaces.Discrete, gymnasium.spaces.Box]:
    """Return the spaces of a task's actions and observations.

    Args:
      task: a task on Karel's or MiniGrid's world.
      observation: "grid", or "view" on MiniGrid's world.

    Returns:
      The action space and the observation space.
    """
    example = np.asarray(functional.observe(task, task.layout(0).state, observation))
    highest = 1 if example.dtype == bool else 255
    box = gymnasium.spaces.Box(0, highest, example.shape, example.dtype.type)
    return gymnasium.spaces.Discrete(len(task.language.actions)), box


def check_actions(actions: np.ndarray, shape: tuple[int, ...], number: int) -> None:
    """Raise UserError unless `actions` are integers of this shape from 0 to `number - 1`."""
    if actions.shape != shape or actions.dtype.kind not in "iu":
        raise UserError(f"actions of {actions.dtype}{list(actions.shape)}: expected whole numbers {list(shape)}")
    if ((actions < 0) | (actions >= number)).any():
        raise UserError(f"actions {actions.tolist()}: they go from 0 to {number - 1}")


def drawn_seed(random: np.random.Generator, seeds: Sequence[int] | None) -> int:
    """Draw a layout seed uniformly from `seeds`, or from all seeds below `SEEDS` if that is None."""
    return int(random.integers(SEEDS)) if seeds is None else int(seeds[int(random.integers(len(seeds)))])


def episode_length(task: Task, max_steps: int | None) -> int:
    """Return the number of actions after which an episode is truncated; None stands for the world's call limit.

    Raises:
      UserError: if it is less than 1.
    """
    if max_steps is not None and max_steps < 1:
        raise UserError(f"max_steps {max_steps}: an episode has one step at least")
    return task.world.call_limit if max_steps is None else max_steps


def known_mode(render_mode: str | None) -> str | None:
    """Return the render mode. Raises UserError if there is no such mode."""
    if render_mode is not None and render_mode not in METADATA["render_modes"]:
        raise UserError(f"unknown render_mode {render_mode!r}; known: None, {', '.join(METADATA['render_modes'])}")
    return render_mode


def identifier(task: Task) -> str:
    """Return the gymnasium id of a task on Karel's or MiniGrid's world.

    Example:
      >>> identifier(registry.tasks()["LavaGap"])
      'jaxprl/MiniGrid-LavaGap-v0'
    """
    if task.name.startswith("MiniGrid-"):
        return f"jaxprl/{task.name}"
    return f"jaxprl/{'Karel' if isinstance(task.world, KarelWorld) else 'MiniGrid'}-{task.name}-v0"


def register(task: str, id: str) -> None:
    """Register a task with gymnasium, for `gymnasium.make` and `gymnasium.make_vec`.

    Args:
      task: the name of the task. It has to exist when an environment is made, not yet when it is registered.
      id: the id, like "jaxprl/MyTask-v0".

    Raises:
      UserError: if gymnasium does not accept the id.
    """
    try:
        gymnasium.register(
            id,
            entry_point="jaxprl.environments.gym:WorldEnv",
            vector_entry_point="jaxprl.environments.vector:WorldVectorEnv",
            kwargs={"task": task},
        )
    except gymnasium.error.Error as error:
        raise UserError(f"id {id!r}: {error}") from None


_WORLDS = (KarelWorld, MiniGridWorld)
IDS = {
    identifier(task): name
    for name, task in registry.tasks().items()
    if isinstance(task, Task) and isinstance(task.world, _WORLDS)
}
"""The registered ids, and the names of their tasks."""


def register_tasks() -> None:
    """Register all tasks that are not registered yet.

    It is this package's entry point in the group `gymnasium.envs`, for programs that look for environments in installed
    packages. gymnasium itself has read that group before its version 1.0 only.
    """
    for task_id, name in IDS.items():
        if task_id not in gymnasium.registry:
            register(name, task_id)


register_tasks()
