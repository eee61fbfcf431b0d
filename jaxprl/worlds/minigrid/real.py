"""Make tasks of the real `minigrid` environments, `make("farama:NAME")`, with which our world is compared.

Nothing here uses the rules of our world: actions are the package's own steps, and perceptions ask the package's own
objects. The rewards of the three published tasks are stated anew. For an id that the package registers, a run returns 1
where the package rewards it, however late, -1 where it punishes it, and otherwise 0.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable
from typing import TypeAlias

import gymnasium
import minigrid
import numpy as np
from minigrid.core.actions import Actions

from jaxprl.dsl.language import Language
from jaxprl.errors import MissingPackage, UserError, needed_by, unknown
from jaxprl.types import JSON, PyTree
from jaxprl.worlds import registry
from jaxprl.worlds.from_gym import Interface, gym_task
from jaxprl.worlds.minigrid import layouts, words
from jaxprl.worlds.minigrid.farama import FaramaEnv, FaramaObject
from jaxprl.worlds.minigrid.world import EXTENDED, LANGUAGE
from jaxprl.worlds.picture import Picture
from jaxprl.worlds.task import FARAMA, PythonTask

Stepped: TypeAlias = tuple[PyTree, float, bool, bool, JSON]
"""What the step of an environment returns: (observation, reward, terminated, truncated, info)."""

ENDLESS = 10**9
"""The `max_steps` of registered environments. It is so large that no reward fades in the at most 1,000 steps of a
run."""
_IDS = tuple(
    name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith(f"{minigrid.__name__}.")
)


@functools.cache
def real(name: str) -> PythonTask:
    """Return the task `farama:NAME`.

    Args:
      name: the name of a published task, such as "LavaGap", or an id that the package registers.

    Returns:
      The task. It has the descriptions of our task of the same name, if there is one.

    Raises:
      UserError: there is no such task or id, and the message lists similar names; or it needs a package that is not
        installed.

    Example:
      >>> real("MiniGrid-Empty-5x5-v0").environment(0).pose()
      [1, 1, 0]
    """
    if name in _PUBLISHED:
        make_env, language, units = _PUBLISHED[name], LANGUAGE, 2  # rewards are halves
    elif name in _IDS:
        make_env, language, units = functools.partial(_registered, name), EXTENDED, 1
    elif name in gymnasium.registry:
        raise UserError(
            f"environment {name!r} is not one of minigrid's; jaxprl.worlds.from_gym.gym_task makes a task of it"
        )
    else:
        raise unknown("environment of minigrid", name, NAMES)
    twin = registry.tasks().get(name)
    env = _unseen(_made(name, make_env))
    return gym_task(
        f"{FARAMA}{name}", lambda: env, language, _interface(language), units=units, words=twin.words if twin else {}
    )


def _made(name: str, make_env: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """Return an environment. Raises UserError if it needs a package that is not installed."""
    try:
        with needed_by(f"task {FARAMA}{name}"):
            return make_env()
    except gymnasium.error.DependencyNotInstalled as error:
        raise MissingPackage(f"task {FARAMA}{name}: {' '.join(str(error).split())}") from None


def _unseen(env: gymnasium.Env) -> FaramaEnv:
    """Return an environment that makes no observations, which are not needed and take most of its time."""
    inner: FaramaEnv = env.unwrapped
    inner.gen_obs = dict
    return env


class Registered(gymnasium.Wrapper):
    """Replaces the package's reward by its sign, and keeps BabyAI's levels from printing what they draw again."""

    def reset(self, **options: PyTree) -> tuple[PyTree, JSON]:
        with contextlib.redirect_stdout(None):
            return super().reset(**options)

    def step(self, action: int) -> Stepped:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, np.sign(float(reward)), terminated, truncated, info


def _registered(name: str) -> gymnasium.Env:
    """Return the environment that the package registers under an id."""
    return Registered(gymnasium.make(gymnasium.registry[name], max_steps=ENDLESS, disable_env_checker=True))


class LavaGap(gymnasium.Wrapper):
    """Rewards 1 where the episode ends with a reward of the package, and -1 where it ends without.

    The package's reward fades with time and is exactly 0 at the 160th action.
    """

    def step(self, action: int) -> Stepped:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, (1 if reward else -1) if terminated else 0, terminated, truncated, info


class PutNear(gymnasium.Wrapper):
    """Rewards 0.5 the first time that the object to move is picked up, and 0.5 for what the package rewards.

    Picking up another object is punished with -1.
    """

    def reset(self, **options: PyTree) -> tuple[PyTree, JSON]:
        self.picked = False
        return super().reset(**options)

    def step(self, action: int) -> Stepped:
        observation, reward, terminated, truncated, info = super().step(action)
        inner: FaramaEnv = self.unwrapped
        carries = action == Actions.pickup and inner.carrying is not None
        first = carries and not self.picked
        self.picked |= carries
        value = -1 if carries and terminated else 0.5 * (first + bool(reward))
        return observation, value, terminated, truncated, info


class RedBlueDoor(gymnasium.Wrapper):
    """Rewards 0.5 the first time that the red door is opened.

    At the end, when the blue door is open, the reward is 0.5 if the red door was open before and -1 if not.
    """

    def reset(self, **options: PyTree) -> tuple[PyTree, JSON]:
        self.opened = False
        return super().reset(**options)

    def step(self, action: int) -> Stepped:
        inner: FaramaEnv = self.unwrapped
        was_open = inner.red_door.is_open
        observation, _, terminated, truncated, info = super().step(action)
        first = inner.red_door.is_open and not self.opened
        self.opened |= first
        value = (0.5 if was_open else -1) if terminated else 0.5 * first
        return observation, value, terminated, truncated, info


_PUBLISHED: dict[str, Callable[[], gymnasium.Env]] = {
    "LavaGap": lambda: LavaGap(layouts.lava_gap()),
    "PutNear": lambda: PutNear(layouts.put_near()),
    "RedBlueDoor": lambda: RedBlueDoor(layouts.red_blue_door()),
}
"""The environments of the published tasks."""
NAMES = (*_PUBLISHED, *_IDS)
"""The names of all environments, without `farama:`."""


def _interface(language: Language) -> Interface:
    """Return the interface for a language, with those of its perceptions that are defined here."""
    known = [text for text in language.perceptions if text.split()[0] in _PERCEPTIONS]
    return Interface(
        actions={action.name: action for action in Actions},
        perceptions={text: _perception(text) for text in known},
        key=_key,
        pose=_pose,
        picture=_picture,
    )


def _pose(env: FaramaEnv) -> list[int]:
    """Return the x, y and direction of the agent."""
    return [*map(int, env.agent_pos), int(env.agent_dir)]


def _picture(env: FaramaEnv) -> Picture:
    """Return the state of an environment as text."""
    cells = [[_sign(env.grid.get(x, y)) for x in range(env.grid.width)] for y in range(env.grid.height)]
    x, y, direction = _pose(env)
    return words.picture(cells, (x, y, direction), _sign(env.carrying))


def _sign(thing: FaramaObject | None) -> str:
    """Return the sign of one of the package's objects in a picture; None is an empty cell."""
    if thing is None:
        return words.EMPTY
    door = "" if thing.type != "door" else "open" if thing.is_open else "locked" if thing.is_locked else "closed"
    held = getattr(thing, "contains", None)
    return words.sign(thing.type, thing.color, door, "" if held is None else _sign(held))


def _key(env: FaramaEnv, _: PyTree) -> Hashable:
    """Return the pose of the agent and the package's encoding of all cells, which does not show what boxes hold."""
    cells = (None if cell is None else cell.encode() for cell in env.grid.grid)
    return *env.agent_pos, env.agent_dir, *cells


def _perception(text: str) -> Callable[[FaramaEnv, PyTree], bool]:
    """Return the function of a perception in an `Interface`."""
    name, *argument = text.split()
    return lambda env, _: _PERCEPTIONS[name](env, *argument[1:2])


def _beside(env: FaramaEnv, step: np.ndarray) -> FaramaObject | None:
    """Return the package's object one step away from the agent, or None."""
    return env.grid.get(*(env.agent_pos + step))


def _is_clear(env: FaramaEnv, step: np.ndarray) -> bool:
    """Return whether the agent could stand on the cell one step away."""
    cell = _beside(env, step)
    return cell is None or cell.can_overlap()


def _front(env: FaramaEnv) -> tuple[str, str] | None:
    """Return the type and colour of the object ahead, or None."""
    cell = _beside(env, env.dir_vec)
    return None if cell is None else (cell.type, cell.color)


def _target(env: FaramaEnv) -> tuple[str, str] | None:
    """Return the type and colour of the object that the mission names, or None if it names none like that (BabyAI)."""
    if hasattr(env, "move_type"):  # PutNear
        return env.move_type, env.moveColor
    if hasattr(env, "targetColor"):  # Fetch
        return env.targetType, env.targetColor
    if hasattr(env, "target_color"):  # GoToObject, GoToDoor
        return getattr(env, "targetType", "door"), env.target_color
    if hasattr(env, "obj"):  # what is to be picked up behind doors
        return env.obj.type, env.obj.color
    return None


def _landmark(env: FaramaEnv) -> tuple[str, str] | None:
    """Return the type and colour of the object near which another one has to be put, or None if there is none."""
    return (env.target_type, env.target_color) if hasattr(env, "move_type") else None


_PERCEPTIONS: dict[str, Callable[..., bool]] = {
    "front_is_clear": lambda env: _is_clear(env, env.dir_vec),
    "left_is_clear": lambda env: _is_clear(env, -env.right_vec),
    "right_is_clear": lambda env: _is_clear(env, env.right_vec),
    "front_object_type": lambda env, name: (_front(env) or ("", ""))[0] == name,
    "front_object_color": lambda env, name: (_front(env) or ("", ""))[1] == name,
    "is_carrying_object": lambda env: env.carrying is not None,
    "front_is_target": lambda env: _front(env) is not None and _front(env) == _target(env),
    "front_is_landmark": lambda env: _front(env) is not None and _front(env) == _landmark(env),
}
"""For each perception, without its argument: (environment, argument if there is one) -> its truth."""
