"""The parts of a language model's programs that a search exchanges nodes for (`--neighbourhood parts`).

The idea, the probability of .8 and the 32 states are those of InnateCoder (Moraes et al. 2025, IJCAI). Its searches
start from random programs; the language model's programs are not evaluated, only their subtrees are used. All subtrees
but whole programs are parts, and a node is exchanged for one of its kind: a statement or sequence, a condition, a count
(`dsl/parts.py`).

*Distinct parts.* Statements and sequences are run as programs on 32 random states, for up to 100 calls. Those whose
runs have the same actions and the same end on all of them are one part: the shortest one, in tokens, and the first of
several. Conditions and counts, which do nothing, are distinct if their texts are. (What a condition is worth may show
only in states that these runs never come to.) In Karel's world the states are random ones of the task's size, as in the
data of LEAPS. In other worlds they are layouts of the task in which up to 15 random actions were done, without the one
that would end the run.

What the published code (github.com/rubensolv/InnateCoder, folder Karel-SHC, read on 2026-11-29) does otherwise:

- It compares whole programs, not parts, and drops a program whose actions equal those of an earlier one on *any* of the
  states; parts that occur twice are drawn twice as often. Its states have 6 to 12 rows and columns.
- With probability .2 it regrows a node as Carvalho et al. do; here that is done as in `grammar`.
- It adds the programs that a search moves to to those that parts are taken from.
- It takes a sequence as the first part of a Concat, too, and leaves a node as it is if there is no part of its kind.
- Neighbours that are equal in text are evaluated once.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence

import jax
import numpy as np

from jaxprl.dsl import parts
from jaxprl.dsl.language import Language
from jaxprl.dsl.parts import NUMBER, SEQUENCE, STATEMENT, Part, Parts
from jaxprl.latent.data import random_states
from jaxprl.search.names import TRACED
from jaxprl.types import JSON, PyTree
from jaxprl.vm import plain
from jaxprl.worlds.karel.world import KarelState, KarelWorld
from jaxprl.worlds.plain import WorldEnvironment, environment_of
from jaxprl.worlds.task import Layout, PythonEnvironment, PythonTask, Task
from jaxprl.xla import jit

STATES = 32
"""Random states that parts are run on."""
MOST_CALLS = 100
"""Calls of a run; what comes later is not compared."""
MOST_STEPS = 16
"""Exclusive bound on the random actions before a run, in worlds other than Karel's."""
FIRST_SEED = 2**31
"""Layouts in which parts are run have seeds from here on, so that they are none of those of the final test."""

Trace = Hashable
"""What a run did: the names of its actions, and how it ended."""
Run = Callable[[Part, int], Trace]
"""(a statement or sequence, number of a state) -> its run in that state."""
MakeEnvironment = Callable[[], PythonEnvironment]


def of_searches(task: Task | PythonTask, searches: Iterable[np.ndarray]) -> tuple[Parts, list[JSON]]:
    """Return the distinct parts of each search's programs.

    Args:
      task: the task of the programs.
      searches: the programs of each of S searches, nodes int32 [P, N].

    Returns:
      The parts, and for each search how many there are of each kind, how many statements and sequences were left out
      because their runs equal those of another one, and how many parts are too large for any program.
    """
    run = runner(task)
    own, facts = [], []
    for programs in searches:
        texts = list(dict.fromkeys(part for nodes in programs for part in parts.parts_of(nodes)))
        own.append(distinct(texts, task.language, run))
        facts.append(_facts(own[-1], len(texts), task.language))
    return parts.stacked(own, task.language), facts


def _facts(found: Sequence[Part], texts: int, language: Language) -> JSON:
    kinds = [parts.kind_of(part) for part in found]
    return {
        "statements": kinds.count(STATEMENT),
        "sequences": kinds.count(SEQUENCE),
        "conditions": kinds.count(parts.CONDITION),
        "counts": kinds.count(NUMBER),
        "equal runs": texts - len(found),
        "too large": sum(not parts.may_fit(part, language) for part in found),
    }


def distinct(texts: Sequence[Part], language: Language, run: Run) -> list[Part]:
    """Return one part for all that run alike, and all conditions and counts.

    Args:
      texts: parts, no two of them equal.
      language: their language.
      run: runs a statement or sequence.

    Returns:
      The parts, in the order of `texts`. A state is tried only for parts that no earlier one has told apart.
    """
    acts = [part for part in texts if parts.kind_of(part) in (STATEMENT, SEQUENCE)]
    groups, kept = [acts], set(texts) - set(acts)
    for state in range(STATES):
        split = [group for alike in groups for group in _apart(alike, run, state)]
        kept |= {group[0] for group in split if len(group) == 1}
        groups = [group for group in split if len(group) > 1]
    kept |= {min(group, key=lambda part: parts.tokens_of(part, language)) for group in groups}
    return [part for part in texts if part in kept]


def _apart(group: Sequence[Part], run: Run, state: int) -> list[list[Part]]:
    """Return parts in groups of those with equal traces in a state."""
    groups: dict[Trace, list[Part]] = {}
    for part in group:
        groups.setdefault(run(part, state), []).append(part)
    return list(groups.values())


def runner(task: Task | PythonTask) -> Run:
    """Return what runs statements and sequences on a task's random states. It remembers what it has run."""
    states = random_environments(task)

    @functools.cache
    def run(part: Part, state: int) -> Trace:
        actions: list[str] = []
        calls = itertools.count(1)

        def observe(call: plain.Call) -> None:
            if call.kind == "action":
                actions.append(call.name)
            if next(calls) == MOST_CALLS:
                raise _Enough

        end = None
        with contextlib.suppress(_Enough):
            end = plain.run(parts.as_program(part, task.language), states[state](), observe).end
        return tuple(actions), end

    return run


class _Enough(Exception):
    """A run has done as many calls as are compared."""


def random_environments(task: Task | PythonTask) -> list[MakeEnvironment]:
    """Return what makes an environment in each of the random states."""
    key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), TRACED)
    if isinstance(task, Task) and isinstance(task.world, KarelWorld):
        states = jax.tree.map(np.asarray, _karel_states(task.world, key))
        bare = Task(task.name, task.world, task.generate, _no_reward)
        rows = [jax.tree.map(lambda leaf, row=row: leaf[row], states) for row in range(STATES)]
        return [_copier(WorldEnvironment(bare, Layout(state, (), np.int32(1)))) for state in rows]
    numbers = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    layouts = task.layouts(FIRST_SEED + numbers.integers(2**31, size=STATES))
    names = task.language.action_names
    walks = [[names[n] for n in numbers.integers(len(names), size=numbers.integers(MOST_STEPS))] for _ in range(STATES)]
    return [_walker(task, layouts, index, walk) for index, walk in enumerate(walks)]


@jit(per="world", static_argnames="world")
def _karel_states(world: KarelWorld, key: jax.Array) -> KarelState:
    return random_states(world, key, STATES)


def _walker(task: Task | PythonTask, layouts: Layout, index: int, walk: list[str]) -> MakeEnvironment:
    """Return what makes the environment of a layout in which some actions were done, up to one that would end it."""

    def walked(actions: Sequence[str]) -> tuple[PythonEnvironment, int | None]:
        """Return an environment after some actions; and which of them has ended it, if one has."""
        environment = environment_of(task, layouts, index)[0]
        for number, action in enumerate(actions):
            if environment.act(action, at_limit=False)[1]:
                return environment, number
        return environment, None

    last = walked(walk)[1]
    walk = walk[:last]
    environment = walked(walk)[0]
    if isinstance(environment, WorldEnvironment):
        return _copier(environment)
    return lambda: walked(walk)[0]


def _copier(environment: WorldEnvironment) -> MakeEnvironment:
    """Return what copies an environment, whose state is made of Python values that nothing changes."""
    return functools.partial(copy.copy, environment)


def _no_reward(world: PyTree, progress: PyTree, state: PyTree, event: PyTree) -> tuple[PyTree, PyTree, int, bool]:
    """Reward nothing and never end."""
    return state, progress, 0, False
