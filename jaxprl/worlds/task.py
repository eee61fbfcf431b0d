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


def plain(layout: Layout) -> Layout:
    """Return a layout of one seed in Python values, for the plain-Python world: a table of uint8 as bytes, another one
    as a tuple, a number as an int or a bool; and no `hash` in the state, since plain Python compares exactly."""
    found = jax.tree.map(_plain, layout)
    return found._replace(state=found.state._replace(hash=None)) if hasattr(found.state, "hash") else found


def _plain(leaf: Any) -> Any:
    array = np.asarray(leaf)
    if array.ndim:
        return array.tobytes() if array.dtype == np.uint8 else tuple(array.tolist())
    return array.item()


class World(Protocol):
    """Rules that are array code: what `Task.world` has to offer. It is hashable (a frozen dataclass, say).

    Each rule is one text on the scalars of one run, with the operations of `worlds/ops.py`: on JAX values, under jit
    and vmap, it is the batched world, on Python ints, bools, bytes and tuples the plain one. So no `if`, `and` or `not`
    on what comes from the state; `ops.where`, `&` and `ops.invert` instead.

    A state is a pytree (a NamedTuple, say) of numpy scalars and one-dimensional arrays: bool, uint8, int32 or uint32.
    Its structure, shapes and dtypes stay the same throughout. A field `hash`, if it has one, is two uint32 on arrays,
    `ops.NO_CHANGE` at the start, and None in plain Python: `ops.updated_hash`.
    """

    @property
    def language(self) -> Language:
        """The words of programs; their order gives the codes of actions and perceptions."""
        ...

    @property
    def call_limit(self) -> int:
        """The call that crashes the run. An action that is this call still happens and counts."""
        ...

    @property
    def terminated_hides_crash(self) -> bool:
        """Whether a run that is terminated by its last call is reported as terminated only."""
        ...

    @property
    def poses(self) -> int:
        """Exclusive bound of a pose in `key`."""
        ...

    def act(self, state: Any, action: Any, at_limit: Any) -> tuple[Any, Any]:
        """Return the state after an action and an event, a pytree that tells the reward what happened.

        `action` is 0 for nothing, then 1, 2, .. for the language's actions; for 0, the state stays as it is.
        `at_limit`: it is the crashing call.
        """
        ...

    def glide(self, state: Any, action: Any) -> tuple[Any, Any]:
        """Return the state after an action that only changes a pose, and whether the action (not 0) is such a one;
        the state as it is for another one. It is what `act` gives, who overrides one overrides both. Only a `quiet`
        task needs it."""
        ...

    def perceive(self, state: Any, perception: Any) -> Any:
        """Return the bool of a perception: 0, 1, .. for the language's perceptions."""
        ...

    def key(self, state: Any) -> Any:
        """Return what WHILE compares; a state seen twice at one WHILE crashes the run.

        On arrays a pair: a pose, int32 in 0 .. poses - 1, and a hash of all else, two uint32, or None where the pose
        says it all. In plain Python any hashable value, the same for the same states exactly.
        """
        ...

    def pose(self, state: Any) -> list[int] | None:
        """Return where the agent is in a plain state, for traces, if there is something to say."""
        ...


@dataclasses.dataclass(frozen=True)
class Task:
    """A world, its layouts and a reward.

    `generate` makes the layout of one seed, of numpy values. `reward(world, progress, state, event)` is called after
    every action and returns (state, progress, units, terminated): the state because a task may change the world (a
    door opens, food appears). It is written on scalars, like the world's rules (`worlds/ops.py`). No return exceeds 1:
    searches drop programs by that bound (`vm/evaluate.py`).
    """

    name: str
    world: World
    generate: Callable[[int], Layout]
    reward: Callable[[Any, Any, Any, Any], tuple[Any, Any, Any, Any]]
    words: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """Map, agent, goal and returns in words, for prompts and listings."""
    budget: int = 1_000_000
    """Programs that a search evaluates if nothing else is said."""
    quiet: bool = False
    """Whether an action that only changes a pose (`World.glide`) brings no reward, ends nothing and leaves state and
    `progress` as they are. Then runs do not ask the reward about it, which saves most of their time."""

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
