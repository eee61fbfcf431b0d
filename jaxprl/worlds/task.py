"""What a task is: layouts from seeds, and a reward in whole units; also where the world is not array code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxprl.dsl.language import Language
from jaxprl.worlds.picture import Picture


class Layout(NamedTuple):
    """Where a run starts; stacked over E layouts, every leaf has a leading axis [E]."""

    state: Any
    """The world's state."""
    progress: Any
    """The task's own pytree: what its reward depends on besides the state."""
    units: Any  # int32
    """Units per return of 1: every reward of this layout is a multiple of 1 / units."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A world, its layouts and a reward.

    `generate` makes the layout of one seed, of numpy values. `reward(world, progress, state, event)` is called after
    every action and returns (state, progress, units, terminated): the state because a task may change the world (a
    door opens, food appears). It is written on scalars, like the world's rules (`worlds/ops.py`). No return exceeds 1:
    searches drop programs by that bound (`vm/evaluate.py`).
    """

    name: str
    world: Any
    generate: Callable[[int], Layout]
    reward: Callable[[Any, Any, Any, Any], tuple[Any, Any, Any, Any]]
    words: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """Map, agent, goal and returns in words, for prompts and listings."""
    budget: int = 1_000_000
    """Programs that a search evaluates if nothing else is said."""

    @property
    def language(self) -> Language:
        return self.world.language

    def layout(self, seed: int) -> Layout:
        """Return the layout of one seed, leaves unstacked."""
        return self.generate(seed)

    def layouts(self, seeds: Iterable[int]) -> Layout:
        """Return the layouts of `seeds`, stacked: leaves are numpy arrays [E, ...]."""
        return jax.tree.map(lambda *leaves: np.stack(leaves), *map(self.layout, seeds))

    def __hash__(self) -> int:
        return hash((self.name, self.world))


class Environment(Protocol):
    """What the plain-Python interpreter runs a program in (`vm/host.py`)."""

    call_limit: int
    """The call that crashes the run."""
    terminated_hides_crash: bool
    """Whether a run that is terminated by its last call is reported as terminated only."""

    def act(self, action: str, *, at_limit: bool) -> tuple[float, bool]:
        """Do an action and return (reward, terminated); `at_limit`: it is the crashing call."""
        ...

    def perceive(self, perception: str) -> bool:
        """Return what a perception gives; its name includes its argument."""
        ...

    def key(self) -> Hashable:
        """Return the state that WHILE compares."""
        ...

    def pose(self) -> list[int] | None:
        """Return where the agent is, for traces, if there is something to say."""
        ...

    def picture(self) -> Picture | None:
        """Return the state in text, for prompts, if there is something to show."""
        ...


@dataclasses.dataclass(frozen=True)
class HostTask:
    """A task whose world is not array code: programs run in it one after the other, in plain Python.

    `environment(seed)` gives an environment at its start; what happens in it follows from the seed and the actions, so
    that a program has one return on a layout. Rewards are floats. A return, their sum, is taken to the nearest multiple
    of 1 / units; with that, returns are compared exactly. No return exceeds 1, as in `Task`; one that does is an error.
    """

    name: str
    language: Language
    environment: Callable[[int], Environment]
    units: int = 1_000_000
    words: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """As `Task.words`."""
    budget: int = 10_000
    """As `Task.budget`."""

    def layouts(self, seeds: Iterable[int]) -> Layout:
        """Return the layouts of `seeds`, stacked: the seed is all that there is to one."""
        states = np.array(list(seeds))
        return Layout(states, (), np.full(len(states), self.units, np.int32))
