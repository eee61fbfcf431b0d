"""Programs in plain Python, one call after the other, over any object with `act` and `perceive`.

It is the oracle of the tests, makes the traces, and runs programs in environments that are not JAX (`HostTask`). The
meaning is that of `interpreter.py`, written independently; here states are compared exactly.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Hashable, Iterable

import jax
import numpy as np

from jaxprl.dsl import ast, encode
from jaxprl.errors import UserError
from jaxprl.vm.interpreter import END_NAMES
from jaxprl.vm.runs import Improvements, Neighbourhoods, Runs
from jaxprl.worlds.picture import Picture
from jaxprl.worlds.task import Environment, HostTask, Layout, Task, plain

_END_CODES = {name: code for code, name in END_NAMES.items()}
_MOST = 2**31 - 1
"""Units that an int32 holds."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One action or perception of a run."""

    kind: str
    """"action" or "perception"."""
    name: str
    result: bool | None
    """What the perception gave."""
    reward: float | None
    """What the action brought, in the environment's units."""
    terminated: bool | None
    statement: int
    """Where in the program: the action, or the statement whose condition it is, as an index into `ast.statements`."""


@dataclasses.dataclass
class Outcome:
    """How a run went."""

    reward: float = 0
    """Sum of the rewards, in the environment's units."""
    calls: int = 0
    actions: int = 0
    end: str = "E"
    """T terminated, C crashed, TC both at one action, E ran off the program's end."""


class _End(Exception):
    """The run is over before the program's end."""


def run(program: ast.Program, environment: Environment, observe: Callable[[Call], None] | None = None) -> Outcome:
    """Run a program from the environment's current state; `observe` is told of every call, after it."""
    machine = _Machine(environment, observe)
    with contextlib.suppress(_End):
        machine.body(program.body)()
    return machine.outcome


class _Machine:
    """Turns a program into nested closures; every WHILE has a memory of its own, also where two read alike."""

    def __init__(self, environment: Environment, observe: Callable[[Call], None] | None):
        self.environment, self.observe = environment, observe
        self.outcome = Outcome()
        self.remembered = 0
        self.statements = 0  # turned into closures so far

    def body(self, body: ast.Body) -> Callable[[], None]:
        parts = [self.statement(statement) for statement in body]

        def run_parts() -> None:
            for part in parts:
                part()

        return parts[0] if len(parts) == 1 else run_parts

    def statement(self, statement: ast.Statement) -> Callable[[], None]:
        number = self.statements
        self.statements += 1
        match statement:
            case ast.Action(name):
                return lambda: self.act(name, number)
            case ast.If(condition, body):
                return self.branch(self.condition(condition, number), self.body(body), lambda: None)
            case ast.IfElse(condition, body, other):
                return self.branch(self.condition(condition, number), self.body(body), self.body(other))
            case ast.While(condition, body):
                return self.loop(self.condition(condition, number), self.body(body))
            case ast.Repeat(count, body):
                return self.repeat(count, self.body(body))

    def branch(self, holds: Callable[[], bool], body: Callable, otherwise: Callable) -> Callable[[], None]:
        return lambda: body() if holds() else otherwise()

    def loop(self, holds: Callable[[], bool], body: Callable[[], None]) -> Callable[[], None]:
        seen: set[Hashable] = set()

        def run_loop() -> None:
            while holds():
                key = self.environment.key()
                if key in seen:
                    self.crash()
                seen.add(key)
                self.remembered += 1
                body()

        return run_loop

    def repeat(self, count: int, body: Callable[[], None]) -> Callable[[], None]:
        def run_repeat() -> None:
            for _ in range(count):
                before = self.outcome.calls, self.remembered
                body()
                if before == (self.outcome.calls, self.remembered):
                    return  # nothing happened, and nothing would happen the next time

        return run_repeat

    def condition(self, condition: ast.Condition, number: int) -> Callable[[], bool]:
        match condition:
            case ast.Perception(name):
                return lambda: self.perceive(name, number)
            case ast.Constant(value):
                return lambda: value
            case ast.Not(inner):
                negated = self.condition(inner, number)
                return lambda: not negated()
            case ast.And(left, right):
                first, second = self.condition(left, number), self.condition(right, number)
                return lambda: first() and second()
            case ast.Or(left, right):
                first, second = self.condition(left, number), self.condition(right, number)
                return lambda: first() or second()

    def act(self, name: str, statement: int) -> None:
        outcome = self.outcome
        outcome.calls += 1
        outcome.actions += 1
        at_limit = outcome.calls == self.environment.call_limit
        reward, terminated = self.environment.act(name, at_limit=at_limit)
        outcome.reward += reward
        if self.observe:
            self.observe(Call("action", name, None, reward, terminated, statement))
        if terminated or at_limit:
            hidden = terminated and self.environment.terminated_hides_crash
            outcome.end = "T" * terminated + "C" * (at_limit and not hidden)
            raise _End

    def perceive(self, name: str, statement: int) -> bool:
        self.outcome.calls += 1
        result = self.environment.perceive(name)
        if self.observe:
            self.observe(Call("perception", name, result, None, None, statement))
        if self.outcome.calls == self.environment.call_limit:
            self.crash()
        return result

    def crash(self) -> None:
        self.outcome.end = "C"
        raise _End


class WorldEnvironment:
    """One layout of a task in plain Python: the world's own rules on Python values. Rewards are in whole units."""

    def __init__(self, task: Task, layout: Layout):
        self.task = task
        self.call_limit, self.terminated_hides_crash = task.world.call_limit, task.world.terminated_hides_crash
        self.state, self.progress, self.units = plain(layout)
        self.actions = {name: code for code, name in enumerate(task.language.action_names, 1)}
        self.perceptions = {name: code for code, name in enumerate(task.language.perception_names)}

    def act(self, action: str, *, at_limit: bool) -> tuple[int, bool]:
        state, event = self.task.world.act(self.state, self.actions[action], at_limit)
        self.state, self.progress, units, terminated = self.task.reward(self.task.world, self.progress, state, event)
        return units, terminated

    def perceive(self, perception: str) -> bool:
        return self.task.world.perceive(self.state, self.perceptions[perception])

    def key(self) -> Hashable:
        return self.task.world.key(self.state)

    def pose(self) -> list[int] | None:
        return self.task.world.pose(self.state) if hasattr(self.task.world, "pose") else None

    def picture(self) -> Picture | None:
        return self.task.world.picture(self.state) if hasattr(self.task.world, "picture") else None


def environment(task: Task | HostTask, layouts: Layout, index: int) -> tuple[Environment, int]:
    """Return the environment of one of the task's layouts, at its start, and the units of a return of 1 there."""
    if isinstance(task, HostTask):
        return task.environment(int(layouts.state[index])), 1
    layout = jax.tree.map(lambda leaf: np.asarray(leaf)[index], layouts)
    return WorldEnvironment(task, layout), int(layout.units)


def evaluate(task: HostTask, programs: np.ndarray | Iterable[ast.Program], layouts: Layout) -> Runs:
    """Run every program on every layout, one run after the other; equal programs share their runs.

    Raises UserError for a return above 1, and for one that int32 units cannot hold.
    """
    if isinstance(programs, np.ndarray):
        programs = [encode.decode(nodes, task.language) for nodes in programs]
    rows, seeds = list(programs), layouts.state.tolist()
    known = {program: [_outcome(task, program, seed, _MOST) for seed in seeds] for program in dict.fromkeys(rows)}
    found = np.array([known[program] for program in rows], np.int32).reshape(len(rows), len(seeds), 4)
    return Runs(*np.moveaxis(found, -1, 0))


def first_better(task: HostTask, question: Neighbourhoods, layouts: Layout) -> Improvements:
    """Return how neighbourhoods fare (`evaluate.first_better`).

    A neighbour stops as soon as returns of 1 on the layouts left would not make it better; one that equals the program
    or an earlier neighbour does not run. Raises UserError as `evaluate`, and for scores that int32 cannot hold.
    """
    seeds = layouts.state.tolist()
    bound = _MOST // len(seeds)
    if task.units > bound:
        raise UserError(f"task {task.name}: {len(seeds)} layouts of {task.units:,} units; at most {bound:,} each fit")
    answer = Improvements(*np.zeros((3, len(question.counts)), np.int32))
    for search in np.flatnonzero(question.counts >= 0).tolist():
        parent = encode.decode(question.parents[search], task.language)
        score = sum(_outcome(task, parent, seed, bound)[0] for seed in seeds)
        answer.score[search], answer.first[search] = score, -1
        tried = {parent}
        for index in range(question.counts[search]):
            program = encode.decode(question.programs[search, index], task.language)
            if program in tried:
                continue
            tried.add(program)
            highest = len(seeds) * task.units
            for seed in seeds:
                if highest <= score:
                    break
                highest += _outcome(task, program, seed, bound)[0] - task.units
            if highest > score:
                answer.first[search], answer.better[search] = index, highest
                break
    return answer


def _outcome(task: HostTask, program: ast.Program, seed: int, bound: int) -> tuple[int, int, int, int]:
    """Return units, calls, actions and end of a run; at most `bound` units fit a score."""
    outcome = run(program, task.environment(seed))
    units = outcome.reward * task.units
    if not units < task.units + 0.5:
        raise UserError(
            f"task {task.name}: a return of {outcome.reward:g} on layout {seed}; returns go up to 1: scale the rewards"
        )
    if units < -bound:
        raise UserError(
            f"task {task.name}: a return of {outcome.reward:g} on layout {seed}; the lowest that fits {task.units:,} "
            f"units is {-bound / task.units:g}: scale the rewards, or choose fewer units"
        )
    return round(units), outcome.calls, outcome.actions, _END_CODES[outcome.end]
