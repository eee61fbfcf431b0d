"""What a task is: layouts made from seeds, and a reward in whole units. Its world is array code or plain Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, Protocol

import jax
import numpy as np

from jaxprl.dsl.language import Language
from jaxprl.errors import UserError
from jaxprl.types import PyTree
from jaxprl.worlds.ops import Bool, Int
from jaxprl.worlds.picture import Picture
from jaxprl.worlds.seeds import checked_seed

FARAMA = "farama:"
"""The prefix of the names of tasks on the real `minigrid` environments."""


class Layout(NamedTuple):
    """Where a run starts. In E stacked layouts, every leaf has a leading axis [E].

    Example:
      >>> from jaxprl.worlds.make import make
      >>> make("DoorKey").layout(0).units
      np.int32(2)
      >>> layouts = make("DoorKey").layouts(range(3))
      >>> layouts.units.tolist(), layouts.state.cells.shape
      ([2, 2, 2], (3, 100))
    """

    state: PyTree
    """The state of the world."""
    progress: PyTree
    """What the reward depends on besides the state: a pytree of the task's own."""
    units: PyTree  # int32
    """The number of units that make a return of 1: every reward on this layout is a multiple of 1 / units."""


class Step(NamedTuple):
    """What an action leads to (`Task.step`): Python values or JAX arrays, like the state it started from."""

    state: PyTree  # the state of the world afterwards
    progress: PyTree  # the progress of the task afterwards
    units: PyTree  # int32 []: the reward, in units of the layout
    terminated: PyTree  # bool []: whether the run is over
    crashed: PyTree = False  # bool []: whether the action crashed the run; the value False in a world where none does


class World(Protocol):
    """The rules of a world that is array code: what `Task.world` has to offer.

    A world is hashable, for example a frozen dataclass. Each rule is one text on the scalars of one run, written with
    the operations of `worlds/ops.py`. On JAX values, under jit and vmap, it is the batched world; on Python ints,
    bools, bytes and tuples it is the plain one. So there is no `if`, `and` or `not` on anything that comes from the
    state; `ops.where`, `&` and `ops.invert` take their place.

    A state is a pytree, for example a NamedTuple, of numpy scalars and one-dimensional arrays of bool, uint8, int32 or
    uint32. Its structure, shapes and dtypes never change. If a state has a field `hash`, this is two uint32 on arrays,
    `ops.NO_CHANGE` at the start, and None in plain Python; `ops.updated_hash` computes it.

    A world whose actions can crash the run also has a rule `crashed(event) -> bool []`: whether the action with this
    event, as `act` returned it, crashed the run. The action is rewarded all the same. `glide` leaves such actions to
    `act`. A rule that is the Python value False, whatever the event, costs nothing.
    """

    @property
    def language(self) -> Language:
        """The words of programs. Their order gives the codes of actions and perceptions."""
        ...

    @property
    def call_limit(self) -> int:
        """The number of the call that crashes the run. If that call is an action, it still happens and counts."""
        ...

    @property
    def terminated_hides_crash(self) -> bool:
        """Whether a run that is terminated by the call that crashes it is reported as terminated only, not as both."""
        ...

    @property
    def poses(self) -> int:
        """The exclusive upper bound of the pose in `key`."""
        ...

    def act(self, state: PyTree, action: Int, at_limit: Bool) -> tuple[PyTree, PyTree]:
        """Do an action.

        Args:
          state: the state.
          action: 0 for nothing, which leaves the state as it is; 1, 2, ... for the actions of the language.
          at_limit: whether this is the call number `call_limit`.

        Returns:
          The state afterwards, and an event: a pytree from which the reward learns what happened.
        """
        ...

    def glide(self, state: PyTree, action: Int) -> tuple[PyTree, PyTree]:
        """Do an action if it changes nothing but the pose of the agent.

        Only a task that is `quiet` needs this rule. It agrees with `act`, so whoever overrides one overrides both.

        Args:
          state: the state.
          action: 1, 2, ... for the actions of the language; never 0.

        Returns:
          The state afterwards, and a bool: whether the action changes nothing but the pose. If it changes more, the
          state is returned unchanged.
        """
        ...

    def perceive(self, state: PyTree, perception: Int) -> PyTree:
        """Return the truth of a perception.

        Args:
          state: the state.
          perception: 0, 1, ... for the perceptions of the language.

        Returns:
          bool [].
        """
        ...

    def key(self, state: PyTree) -> PyTree:
        """Return what WHILE compares. A state that one WHILE sees for the second time crashes the run.

        Returns:
          On arrays a pair: a pose, int32 in 0 .. poses - 1, and a hash of everything else, which is two uint32, or None
          if the pose says everything. In plain Python any hashable value; it is equal for equal states only.
        """
        ...

    def pose(self, state: PyTree) -> list[int] | None:
        """Return where the agent is in a plain state, for traces, or None if there is nothing to say."""
        ...


Rewarded = tuple[PyTree, PyTree, Int, Bool]
"""What a reward returns: (state, progress, units, terminated)."""
Reward = Callable[..., Rewarded]
"""A rule (world, progress, state, event) -> (state, progress, units, terminated), called after every action.

It gets the world, the progress before the action, and the state and the event that `World.act` returned. It returns
the state, since a task may change the world (a door opens, food appears); the new progress; the reward in units of the
layout; and whether the run is over. It is written on scalars, like the rules of a world (`worlds/ops.py`).

The docstring of each reward is its specification. It states rewards as parts of a return of 1.
"""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes at which a task can be made, besides the one that it has: `NAME@HxW` (`worlds/variants.py`)."""

    make: Callable[[int, int], Task]
    """(height, width) -> the task in a world of this size; its name does not matter. It is called for sizes within the
    bounds, and raises UserError for one that the task cannot have all the same."""
    least: tuple[int, int]
    """The smallest height and width."""
    most: tuple[int, int] = (255, 255)
    """The largest height and width."""

    @property
    def in_words(self) -> str:
        """The bounds, like `5x5 to 255x255`."""
        return "{}x{} to {}x{}".format(*self.least, *self.most)

    def has(self, height: int, width: int) -> bool:
        """Return whether a size is within the bounds."""
        return self.least[0] <= height <= self.most[0] and self.least[1] <= width <= self.most[1]


@dataclasses.dataclass(frozen=True)
class Task:
    """A world, its layouts and a reward.

    No return may exceed 1, at any time: searches drop programs by that bound (`vm/evaluate.py`).

    Example:
      A task in Karel's world that pays for the first marker put down.

      >>> from jaxprl.worlds import ops
      >>> from jaxprl.worlds.karel.layouts import EAST, border, nothing
      >>> from jaxprl.worlds.karel.world import KarelWorld
      >>> world = KarelWorld(6, 6)
      >>> def generate(seed):
      ...     row = int(np.random.default_rng(seed).integers(1, 5))
      ...     state = world.state(border(6, 6), (row, 1, EAST), nothing(6, 6))
      ...     return Layout(state, progress=(), units=np.int32(1))
      >>> def reward(world, progress, state, event):
      ...     placed = event.change == 1
      ...     return state, progress, ops.where(placed, 1, 0), placed
      >>> task = Task("PutOne", world, generate, reward, budget=1_000)
      >>> task.language.action_names
      ('move', 'turnLeft', 'turnRight', 'putMarker', 'pickMarker')
    """

    name: str
    """The name by which the task is registered."""
    world: World
    """The rules."""
    generate: Callable[[int], Layout]
    """seed -> the layout of that seed, of numpy values."""
    reward: Reward
    """(world, progress, state, event) -> (state, progress, units, terminated); see `Reward`."""
    words: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """Descriptions of the `map`, the `agent`, the `goal` and the `returns`, for prompts and listings."""
    budget: int = 1_000_000
    """The default number of programs that a search evaluates."""
    quiet: bool = False
    """Whether an action that changes nothing but a pose (`World.glide`) brings no reward, ends nothing and leaves the
    state and the progress as they are. Runs then skip the reward for such actions, which saves most of their time."""
    sizes: Sizes | None = dataclasses.field(default=None, compare=False)
    """The other sizes at which the task can be made; None if it has one size only."""

    @property
    def language(self) -> Language:
        """The language of the world."""
        return self.world.language

    def layout(self, seed: int) -> Layout:
        """Return the layout of one seed. Its leaves have no leading axis.

        Raises:
          UserError: the seed is not an integer from 0 to 2**32 - 1.
        """
        return self.generate(checked_seed(seed, "layout seed"))

    def layouts(self, seeds: Iterable[int]) -> Layout:
        """Return the layouts of E seeds, stacked: the leaves are numpy arrays [E, ...]."""
        return jax.tree.map(lambda *leaves: np.stack(leaves), *map(self.layout, seeds))

    def step(self, state: PyTree, progress: PyTree, action: Int, at_limit: Bool) -> Step:
        """Take an action and reward it: the one place where `World.act` and `reward` meet.

        Args:
          state: the state of the world.
          progress: the progress of the task.
          action: 0 for nothing, then 1, 2, ... for the actions of the language.
          at_limit: whether this is the call that crashes the run.

        Returns:
          The new state and progress, the reward in units, whether the run is terminated, and whether the action crashed
          it. All are scalars of one run, Python values or JAX arrays like the arguments.

        Example:
          >>> from jaxprl.worlds.make import make
          >>> from jaxprl.worlds.plain import plain_layout
          >>> task = make("FourCorners")
          >>> state, progress, units = plain_layout(task.layout(0))
          >>> step = task.step(state, progress, task.language.action_names.index("putMarker") + 1, False)
          >>> step.units, units, step.terminated  # a marker that is not in a corner ends the run with -1
          (-4, 4, True)
        """
        state, event = self.world.act(state, action, at_limit)
        crashed = self.world.crashed(event) if hasattr(self.world, "crashed") else False
        return Step(*self.reward(self.world, progress, state, event), crashed)

    def __hash__(self) -> int:
        return hash((self.name, self.world))


class PythonEnvironment(Protocol):
    """An environment in which the plain-Python interpreter (`vm/plain.py`) runs a program.

    One whose actions can crash the run also has `crashed`: whether the latest action did.
    """

    call_limit: int
    """The number of the call that crashes the run."""
    terminated_hides_crash: bool
    """Whether a run that is terminated by the call that crashes it is reported as terminated only, not as both."""

    def act(self, action: str, *, at_limit: bool) -> tuple[float, bool]:
        """Do an action.

        Args:
          action: the name of the action.
          at_limit: whether this is the call that crashes the run.

        Returns:
          The reward, and whether the run is terminated.
        """
        ...

    def perceive(self, perception: str) -> bool:
        """Return the truth of a perception, whose name includes its argument."""
        ...

    def key(self) -> Hashable:
        """Return the state that WHILE compares."""
        ...

    def pose(self) -> list[int] | None:
        """Return where the agent is, for traces, or None if there is nothing to say."""
        ...

    def picture(self) -> Picture | None:
        """Return the state as text, for prompts, or None if there is nothing to show."""
        ...


@dataclasses.dataclass(frozen=True)
class PythonTask:
    """A task whose world is not array code: programs run in it one after the other, in plain Python.

    Rewards are floats. A return, which is their sum, is rounded to the nearest multiple of 1 / units, and the rounded
    returns are compared exactly. As in `Task`, no return may exceed 1; one that does is an error.

    Example:
      >>> class Coin:  # shows heads for even seeds; a program has to turn heads up
      ...     call_limit, terminated_hides_crash = 100, False
      ...     def __init__(self, seed):
      ...         self.heads = seed % 2 == 0
      ...     def act(self, action, *, at_limit):
      ...         self.heads = not self.heads
      ...         return float(self.heads), self.heads
      ...     def perceive(self, perception):
      ...         return self.heads
      ...     def key(self):
      ...         return self.heads
      ...     def pose(self):
      ...         return None
      ...     def picture(self):
      ...         return None
      >>> language = Language("coin", {"turn": 1.0}, {"is_heads": 1.0}, not_probability=0.5)
      >>> task = PythonTask("Coin", language, Coin, units=1)
      >>> task.environment(1).act("turn", at_limit=False)
      (1.0, True)
    """

    name: str
    """The name by which the task is registered."""
    language: Language
    """The words of programs."""
    environment: Callable[[int], PythonEnvironment]
    """seed -> an environment at the start of a run. Whatever happens in it has to follow from the seed and the actions,
    so that a program has exactly one return on a layout."""
    units: int = 1_000_000
    """The number of units that make a return of 1."""
    words: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """Descriptions of the `map`, the `agent`, the `goal` and the `returns`, for prompts and listings."""
    budget: int = 10_000
    """The default number of programs that a search evaluates."""

    def layouts(self, seeds: Iterable[int]) -> Layout:
        """Return the layouts of E seeds, stacked. The state of a layout is just its seed, int [E].

        Raises:
          UserError: a seed is not an integer from 0 to 2**32 - 1.
        """
        states = np.array([checked_seed(seed, "layout seed") for seed in seeds])
        return Layout(states, (), np.full(len(states), self.units, np.int32))


def prompt_name(task: Task | PythonTask) -> str:
    """Return the name of a task in prompts: a real `minigrid` environment has that of the same task in our world."""
    return task.name.removeprefix(FARAMA)


def require_task(value: object) -> None:
    """Raise UserError unless a value is a task; the message says how to get one from a name."""
    if not isinstance(value, Task | PythonTask):
        raise UserError(f"task {value!r}: expected a Task; jaxprl.make(name) returns the one of a name")
