"""Make a task of any gymnasium environment, whose programs are run by the plain-Python interpreter (`vm/plain.py`).

Such a task is searched like any other, only more slowly. gymnasium itself is not imported here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxprl.dsl.language import Language
from jaxprl.errors import UserError
from jaxprl.types import PyTree
from jaxprl.worlds.picture import Picture
from jaxprl.worlds.task import PythonTask

GymEnv: TypeAlias = Any
"""A gymnasium environment. Each class has attributes of its own, which interfaces may use."""


def observed(env: GymEnv, observation: PyTree) -> Hashable:
    """Return an observation as a hashable value, the default of `Interface.key`.

    Args:
      env: the environment.
      observation: numbers, arrays and text, also within tuples and dictionaries.

    Returns:
      A value that is equal for equal observations only.

    Raises:
      UserError: the observation holds other objects, which cannot be compared.
    """
    leaves, structure = jax.tree.flatten(observation)
    arrays = [np.asarray(leaf) for leaf in leaves]
    if any(array.dtype.hasobject for array in arrays):
        raise UserError(f"{type(env).__name__}: its observations cannot be compared; give the interface a key")
    return structure, *((array.shape, array.tobytes()) for array in arrays)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interface:
    """The meaning of the words of a language in an environment. The functions always get the unwrapped environment."""

    actions: Mapping[str, PyTree]
    """The action of the environment for each action of the language."""
    perceptions: Mapping[str, Callable[[GymEnv, PyTree], bool]]
    """For each perception, argument included: (env, last observation) -> its truth."""
    key: Callable[[GymEnv, PyTree], Hashable] = observed
    """(env, last observation) -> what WHILE compares. A state that one WHILE sees twice crashes the run, so where
    observations do not show the whole state, this has to be a function that does."""
    reward: Callable[[GymEnv, PyTree, float, bool], float] = lambda env, action, reward, terminated: reward
    """(env, action, its reward, terminated) -> the reward that counts, whose sum over a run must not exceed 1."""
    pose: Callable[[GymEnv], list[int] | None] = lambda env: None
    """env -> where the agent is, for traces."""
    picture: Callable[[GymEnv], Picture | None] = lambda env: None
    """env -> its state as text, for prompts."""
    call_limit: int = 1_000
    """The number of the call that crashes a run."""
    terminated_hides_crash: bool = True
    """Whether a run that is terminated by the call that crashes it is reported as terminated only."""


class GymEnvironment:
    """A gymnasium environment as a `PythonEnvironment`, which is reset with a seed when it is created.

    Truncation does not end a run: `truncated` is ignored and the environment is stepped further. So a time limit has no
    effect, except on rewards that depend on it and with wrappers that reset by themselves (`Autoreset`).

    Args:
      env: the environment, wrapped or not.
      interface: the meaning of the words of programs in it.
      seed: the seed of the reset.
    """

    def __init__(self, env: GymEnv, interface: Interface, *, seed: int):
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
    name: str, make_env: Callable[[], GymEnv], language: Language, interface: Interface, **options: Any
) -> PythonTask:
    """Make a task of a gymnasium environment.

    The environment is made once, when it is first needed, and reset for every run. So only one run goes on at a time.

    Args:
      name: the name of the task.
      make_env: returns the environment.
      language: the words of programs.
      interface: the meaning of these words in the environment.
      **options: the further fields of `PythonTask`: `units`, `words` and `budget`.

    Returns:
      The task.

    Raises:
      UserError: the interface lacks words of the language; the message lists them.

    Example:
      >>> import gymnasium
      >>> language = Language("cart", {"go_left": 0.5, "go_right": 0.5}, {"leans_right": 1.0}, not_probability=0.5)
      >>> interface = Interface(
      ...     actions={"go_left": 0, "go_right": 1},
      ...     perceptions={"leans_right": lambda env, observation: observation[2] > 0},
      ...     reward=lambda env, action, reward, terminated: reward / 500,
      ... )
      >>> task = gym_task("CartPole", lambda: gymnasium.make("CartPole-v1"), language, interface, units=500)
      >>> task.environment(0).act("go_left", at_limit=False)
      (0.002, False)
    """
    words = {*language.actions} - {*interface.actions}, {*language.perceptions} - {*interface.perceptions}
    if missing := sorted(set.union(*words)):
        raise UserError(f"task {name}: its interface lacks {', '.join(missing)} of language {language.name}")
    made = functools.cache(make_env)
    return PythonTask(name, language, lambda seed: GymEnvironment(made(), interface, seed=seed), **options)
