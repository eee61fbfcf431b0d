"""Any gymnasium environment behind the names of a language, for the plain-Python interpreter (`vm/host.py`).

`gym_task` makes a task of it, which is searched like any other, only slowly. gymnasium itself is not imported here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import numpy as np

from jaxprl.dsl.language import Language
from jaxprl.errors import UserError
from jaxprl.worlds.picture import Picture
from jaxprl.worlds.task import HostTask


def observed(env: Any, observation: Any) -> Hashable:
    """Return the observation: numbers, arrays and text, also within tuples and dictionaries."""
    leaves, structure = jax.tree.flatten(observation)
    arrays = [np.asarray(leaf) for leaf in leaves]
    if any(array.dtype.hasobject for array in arrays):
        raise UserError(f"{type(env).__name__}: its observations cannot be compared; give the interface a key")
    return structure, *((array.shape, array.tobytes()) for array in arrays)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interface:
    """What the words of a language mean in an environment; `env` is always the unwrapped one."""

    actions: Mapping[str, Any]
    """The environment's action behind each name."""
    perceptions: Mapping[str, Callable[[Any, Any], bool]]
    """(env, last observation) -> what the program is told; a name includes its argument."""
    key: Callable[[Any, Any], Hashable] = observed
    """(env, last observation) -> what WHILE compares. A state seen twice crashes the run: where observations do not
    show the whole state, give one that does."""
    reward: Callable[[Any, Any, float, bool], float] = lambda env, action, reward, terminated: reward
    """(env, action, its reward, terminated) -> the reward that counts; the sum over a run is at most 1."""
    pose: Callable[[Any], list[int] | None] = lambda env: None
    """env -> where the agent is, for traces."""
    picture: Callable[[Any], Picture | None] = lambda env: None
    """env -> its state in text, for prompts."""
    call_limit: int = 1_000
    terminated_hides_crash: bool = True


class GymEnvironment:
    """A gymnasium environment, wrapped or not, reset with a seed; an `Environment`.

    Truncation does not end a run: the environment is stepped on and its `truncated` is ignored, so a time limit has no
    effect, except on rewards that depend on it and with wrappers that reset by themselves (`Autoreset`).
    """

    def __init__(self, env: Any, interface: Interface, *, seed: int):
        self.env, self.interface = env, interface
        self.call_limit, self.terminated_hides_crash = interface.call_limit, interface.terminated_hides_crash
        self.observation, _ = env.reset(seed=seed)

    def act(self, action: str, *, at_limit: bool) -> tuple[float, bool]:
        code = self.interface.actions[action]
        self.observation, reward, terminated, _, _ = self.env.step(code)
        return float(self.interface.reward(self.env.unwrapped, code, reward, terminated)), bool(terminated)

    def perceive(self, perception: str) -> bool:
        return bool(self.interface.perceptions[perception](self.env.unwrapped, self.observation))

    def key(self) -> Hashable:
        return self.interface.key(self.env.unwrapped, self.observation)

    def pose(self) -> list[int] | None:
        return self.interface.pose(self.env.unwrapped)

    def picture(self) -> Picture | None:
        return self.interface.picture(self.env.unwrapped)


def gym_task(
    name: str, make_env: Callable[[], Any], language: Language, interface: Interface, **options: Any
) -> HostTask:
    """Return the task of an environment; `options` are those of `HostTask`.

    The environment is made once, when it is first needed, and reset for every run: one run goes on at a time.

    Raises UserError if the interface lacks words of the language.
    """
    words = {*language.actions} - {*interface.actions}, {*language.perceptions} - {*interface.perceptions}
    if missing := sorted(set.union(*words)):
        raise UserError(f"task {name}: its interface lacks {', '.join(missing)} of language {language.name}")
    made = functools.cache(make_env)
    return HostTask(name, language, lambda seed: GymEnvironment(made(), interface, seed=seed), **options)
