"""The real `minigrid` environments as tasks: `registry.make("farama:NAME")`. They are the oracle of our world.

Nothing here knows our world's rules: actions are the package's own steps, perceptions ask the package's own objects.
Rewards are stated anew for the three published tasks; for a registered id, a run returns 1 where the package rewards
it, however late, -1 where it punishes, else 0.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable
from typing import Any

import gymnasium
import minigrid
import numpy as np
from minigrid.core.actions import Actions

from jaxprl.dsl.language import Language
from jaxprl.errors import unknown
from jaxprl.worlds import registry
from jaxprl.worlds.gym_environment import Interface, gym_task
from jaxprl.worlds.minigrid import layouts, words
from jaxprl.worlds.minigrid.world import EXTENDED, LANGUAGE
from jaxprl.worlds.picture import Picture
from jaxprl.worlds.task import HostTask

ENDLESS = 10**9
"""`max_steps` of registered environments: of the at most 1,000 steps of a run, none brings a reward that has faded."""
_IDS = tuple(
    name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith(f"{minigrid.__name__}.")
)


@functools.cache
def real(name: str) -> HostTask:
    """Return the task `farama:NAME` of a published task or of an id that the package registers.

    Raises UserError with similar names for any other one.
    """
    if name in _PUBLISHED:
        make_env, language, units = _PUBLISHED[name], LANGUAGE, 2  # rewards are halves
    elif name in _IDS:
        make_env, language, units = functools.partial(_registered, name), EXTENDED, 1
    else:
        raise unknown("environment of minigrid", name, [*_PUBLISHED, *_IDS])
    twin = registry.tasks().get(name)
    return gym_task(
        f"{registry.FARAMA}{name}", lambda: _unseen(make_env()), language, _interface(language), units=units,
        words=twin.words if twin else {},
    )  # fmt: skip


def _unseen(env: Any) -> Any:
    """Return the environment without its observations, which nobody looks at and which take most of its time."""
    env.unwrapped.gen_obs = dict
    return env


class Registered(gymnasium.Wrapper):
    """The sign of the package's reward; silent where BabyAI's levels print what they draw again."""

    def reset(self, **options: Any) -> Any:
        with contextlib.redirect_stdout(None):
            return super().reset(**options)

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, np.sign(float(reward)), *rest


def _registered(name: str) -> gymnasium.Env:
    return Registered(gymnasium.make(gymnasium.registry[name], max_steps=ENDLESS, disable_env_checker=True))


class LavaGap(gymnasium.Wrapper):
    """1 where the episode ends with a reward, -1 where it ends without. The package's reward fades to exactly 0 at the
    160th action."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, *rest = super().step(action)
        return observation, (1 if reward else -1) if terminated else 0, terminated, *rest


class PutNear(gymnasium.Wrapper):
    """0.5 for the first time that the object to move is picked up, 0.5 for what the package rewards, -1 for picking up
    another object."""

    def reset(self, **options: Any) -> Any:
        self.picked = False
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, *rest = super().step(action)
        inner: Any = self.unwrapped
        carries = action == Actions.pickup and inner.carrying is not None
        first = carries and not self.picked
        self.picked |= carries
        value = -1 if carries and terminated else 0.5 * (first + bool(reward))
        return observation, value, terminated, *rest


class RedBlueDoor(gymnasium.Wrapper):
    """0.5 for the first time that the red door is opened; at the end, when the blue one is open, 0.5 if the red one was
    open before and -1 if not."""

    def reset(self, **options: Any) -> Any:
        self.opened = False
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        inner: Any = self.unwrapped
        was_open = inner.red_door.is_open
        observation, _, terminated, *rest = super().step(action)
        first = inner.red_door.is_open and not self.opened
        self.opened |= first
        value = (0.5 if was_open else -1) if terminated else 0.5 * first
        return observation, value, terminated, *rest


_PUBLISHED: dict[str, Callable[[], gymnasium.Env]] = {
    "LavaGap": lambda: LavaGap(layouts.lava_gap()),
    "PutNear": lambda: PutNear(layouts.put_near()),
    "RedBlueDoor": lambda: RedBlueDoor(layouts.red_blue_door()),
}


def _interface(language: Language) -> Interface:
    """Return the interface with those words of a language that are known here."""
    known = [text for text in language.perceptions if text.split()[0] in _PERCEPTIONS]
    return Interface(
        actions={action.name: action for action in Actions},
        perceptions={text: _perception(text) for text in known},
        key=_key,
        pose=_pose,
        picture=_picture,
    )


def _pose(env: Any) -> list[int]:
    return [*map(int, env.agent_pos), int(env.agent_dir)]


def _picture(env: Any) -> Picture:
    cells = [[_sign(env.grid.get(x, y)) for x in range(env.grid.width)] for y in range(env.grid.height)]
    x, y, direction = _pose(env)
    return words.picture(cells, (x, y, direction), _sign(env.carrying))


def _sign(found: Any) -> str:
    """Return what a picture shows for one of the package's objects, None for none."""
    if found is None:
        return words.EMPTY
    door = "" if found.type != "door" else "open" if found.is_open else "locked" if found.is_locked else "closed"
    held = getattr(found, "contains", None)
    return words.sign(found.type, found.color, door, "" if held is None else _sign(held))


def _key(env: Any, _: Any) -> Hashable:
    """Return the agent's pose and the package's encoding of all cells, which does not show what boxes hold."""
    cells = (None if cell is None else cell.encode() for cell in env.grid.grid)
    return *env.agent_pos, env.agent_dir, *cells


def _perception(text: str) -> Callable[[Any, Any], bool]:
    name, *argument = text.split()
    return lambda env, _: _PERCEPTIONS[name](env, *argument[1:2])


def _beside(env: Any, step: Any) -> Any:
    """Return the package's object on the cell one step away, None for none."""
    return env.grid.get(*(env.agent_pos + step))


def _is_clear(env: Any, step: Any) -> bool:
    cell = _beside(env, step)
    return cell is None or cell.can_overlap()


def _front(env: Any) -> tuple[str, str] | None:
    """Return type and colour of the object ahead, None for none."""
    cell = _beside(env, env.dir_vec)
    return None if cell is None else (cell.type, cell.color)


def _target(env: Any) -> tuple[str, str] | None:
    """Return type and colour of the object that the mission names, None where it names none in this way (BabyAI)."""
    if hasattr(env, "move_type"):  # PutNear
        return env.move_type, env.moveColor
    if hasattr(env, "targetColor"):  # Fetch
        return env.targetType, env.targetColor
    if hasattr(env, "target_color"):  # GoToObject, GoToDoor
        return getattr(env, "targetType", "door"), env.target_color
    if hasattr(env, "obj"):  # what is to be picked up behind doors
        return env.obj.type, env.obj.color
    return None


def _landmark(env: Any) -> tuple[str, str] | None:
    """Return type and colour of the object that the mission wants another one near."""
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
