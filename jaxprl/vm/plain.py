"""The interpreter in plain Python: programs do one call after the other on any object with `act` and `perceive`.

It is what the tests compare the array code with, it makes the traces (`trace.py`), and it runs programs in environments
that are not JAX (`PythonTask`). Programs mean the same as in `interpreter.py`, written independently; here states are
compared exactly.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Hashable, Iterable

import numpy as np

from jaxprl.dsl import ast, encode
from jaxprl.dsl.language import Language
from jaxprl.errors import UserError
from jaxprl.search.protocol import Improvements, Neighbourhoods
from jaxprl.vm.layouts import rows_of
from jaxprl.vm.outcomes import COLUMNS, End, Outcomes, unpack
from jaxprl.vm.sharing import Ended, Work, put
from jaxprl.worlds.plain import WorldEnvironment, arrays_of, environment_of
from jaxprl.worlds.task import Layout, PythonEnvironment, PythonTask

_MOST = 2**31 - 1
"""The most units that an int32 holds."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One action or perception of a run."""

    kind: str
    """Either "action" or "perception"."""
    name: str
    """The word of the program, with its argument."""
    result: bool | None
    """What the perception returned; None for an action."""
    reward: float | None
    """The reward of the action, in the environment's units; None for a perception."""
    terminated: bool | None
    """Whether the action ended the run; None for a perception."""
    crashed: bool | None
    """Whether the action crashed the run by itself, which some worlds have; None for a perception."""
    statement: int
    """Index into `ast.statements` of the action, or of the statement whose condition the perception is in."""


@dataclasses.dataclass
class Outcome:
    """How a run went."""

    reward: float = 0
    """Sum of the rewards, in the environment's units."""
    calls: int = 0
    """Actions and perceptions."""
    actions: int = 0
    """Actions alone."""
    end: End = End.FINISHED
    """How the run ended."""
    crashed_by_action: bool = False
    """Whether an action crashed the run by itself, not because the call limit was reached or a state repeated."""


class _Ended(Exception):
    """The run is over before the program's end."""


def run(program: ast.Program, environment: PythonEnvironment, observe: Callable[[Call], None] | None = None) -> Outcome:
    """Run a program from the environment's present state.

    Args:
      program: the program.
      environment: where its actions happen.
      observe: is called after every call, while the environment is in the state that the call led to.

    Returns:
      How the run went.
    """
    machine = _Machine(environment, observe)
    with contextlib.suppress(_Ended):
        machine.body(program.body)()
    return machine.outcome


class _Machine:
    """Turns a program into nested closures; every WHILE has a memory of its own, also where two read alike."""

    def __init__(self, environment: PythonEnvironment, observe: Callable[[Call], None] | None):
        self.environment, self.observe = environment, observe
        self.outcome = Outcome()
        self.remembered = 0  # states, by all WHILEs
        self.statements = 0  # turned into closures so far

    def body(self, body: ast.Body) -> Callable[[], None]:
        parts = list(map(self.statement, body))

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

    def branch(
        self, holds: Callable[[], bool], body: Callable[[], None], otherwise: Callable[[], None]
    ) -> Callable[[], None]:
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
        outcome.crashed_by_action = bool(getattr(self.environment, "crashed", False))
        outcome.reward += reward
        if self.observe:
            self.observe(Call("action", name, None, reward, terminated, outcome.crashed_by_action, statement))
        if terminated or at_limit or outcome.crashed_by_action:
            hidden = terminated and self.environment.terminated_hides_crash
            crashed = (at_limit or outcome.crashed_by_action) and not hidden
            outcome.end = End(End.TERMINATED * bool(terminated) | End.CRASHED * crashed)
            raise _Ended

    def perceive(self, name: str, statement: int) -> bool:
        self.outcome.calls += 1
        result = self.environment.perceive(name)
        if self.observe:
            self.observe(Call("perception", name, result, None, None, None, statement))
        if self.outcome.calls == self.environment.call_limit:
            self.crash()
        return result

    def crash(self) -> None:
        self.outcome.end = End.CRASHED
        raise _Ended


def evaluate(task: PythonTask, programs: np.ndarray | Iterable[ast.Program], layouts: Layout) -> Outcomes:
    """Run every program on every layout, one run after the other; equal programs share their runs.

    Args:
      task: the task.
      programs: P programs, or their nodes int32 [P, N].
      layouts: E layouts of the task.

    Returns:
      The outcomes of the P x E runs.

    Raises:
      UserError: a return is above 1, or does not fit int32 units.
    """
    if isinstance(programs, np.ndarray):
        programs = [encode.decode(nodes, task.language) for nodes in programs]
    rows, seeds = list(programs), layouts.state.tolist()
    known = {program: [_outcome(task, program, seed, _MOST) for seed in seeds] for program in dict.fromkeys(rows)}
    found = np.array([known[program] for program in rows], np.int32).reshape(len(rows), len(seeds), COLUMNS)
    return Outcomes(*unpack(found), np.asarray(layouts.units))


def first_better(task: PythonTask, question: Neighbourhoods, layouts: Layout) -> Improvements:
    """Find the first better neighbour of S programs; see `evaluate.first_better`.

    A neighbour is given up as soon as returns of 1 on the layouts that remain would not make it better. One that equals
    its parent or an earlier neighbour is not run.

    Raises:
      UserError: a return is above 1, or a score does not fit an int32.
    """
    seeds = layouts.state.tolist()
    bound = _MOST // len(seeds)
    if task.units > bound:
        raise UserError(f"task {task.name}: {len(seeds)} layouts of {task.units:,} units; at most {bound:,} each fit")

    def score(program: ast.Program, layout: int) -> int:
        return _outcome(task, program, seeds[layout], bound)[0]

    return _first_better(task.language, question, score, len(seeds), task.units)


Score = Callable[[ast.Program, int], int]
"""Returns the score of a program on a layout, of which the index is given."""


def _first_better(
    language: Language, question: Neighbourhoods, score_on: Score, episodes: int, most: int
) -> Improvements:
    """Answer a question; `most` is the score of a return of 1 on one layout."""
    answer = Improvements(*np.zeros((3, len(question.counts)), np.int32))
    for search in np.flatnonzero(question.counts >= 0).tolist():
        parent = encode.decode(np.asarray(question.parents[search]), language)
        score = sum(score_on(parent, layout) for layout in range(episodes))
        answer.score[search], answer.first[search] = score, -1
        tried = {parent: _MOST}  # and the margin with which each was tried
        for index in range(question.counts[search]):
            program = encode.decode(np.asarray(question.programs[search, index]), language)
            margin = 0 if question.margins is None else int(question.margins[search, index])
            if margin <= tried.get(program, -1):
                continue
            tried[program] = margin
            highest = episodes * most
            for layout in range(episodes):
                if highest <= score - margin:
                    break
                highest += score_on(program, layout) - most
            if highest > score - margin:
                answer.first[search], answer.better[search] = index, highest
                break
    return answer


@dataclasses.dataclass(frozen=True)
class Batches(Work):
    """The engine that interprets programs in any task, for one call.

    It is slow and easy to follow. Tasks that are not array code have no other one.
    """

    slots: int = 0  # for engines that run instructions, like `bits` and `words`

    def run_programs(self, programs: np.ndarray, workers: int, block: int) -> np.ndarray:
        """Run programs int32 [P, N] on every layout and return packed outcomes, int32 [P, E, COLUMNS]."""
        found = np.zeros((len(programs), len(self.layouts.units), COLUMNS), np.int32)
        for row, nodes in zip(found, programs, strict=True):
            program = encode.decode(nodes, self.task.language)
            for layout in range(len(row)):
                outcome = self._run(program, layout)
                row[layout] = outcome.reward, outcome.calls, outcome.actions, outcome.end  # in the order of `Columns`
        return found

    def first_better(self, question: Neighbourhoods, workers: int) -> Improvements:
        """Find the first better neighbour of S programs; see `evaluate.first_better`."""
        weights = self.scale.weights.tolist()

        def score(program: ast.Program, layout: int) -> int:
            return int(self._run(program, layout).reward) * weights[layout]

        return _first_better(self.task.language, question, score, len(weights), self.scale.most)

    def proceed(self, programs: np.ndarray, workers: int) -> Ended[np.ndarray]:
        """Run programs int32 [P, N], each on a layout of its own."""
        found = Ended.room(self.layouts)
        for row, nodes in enumerate(programs):
            start = rows_of(self.layouts, row)
            environment = WorldEnvironment(self.task, start)
            outcome = run(encode.decode(nodes, self.task.language), environment)
            columns = outcome.reward, outcome.calls, outcome.actions, outcome.end  # in the order of `Columns`
            put(found, row, Ended(np.array(columns), *arrays_of(environment.state, environment.progress, start)))
        return found

    def _run(self, program: ast.Program, layout: int) -> Outcome:
        return run(program, environment_of(self.task, self.layouts, layout)[0])


def _outcome(task: PythonTask, program: ast.Program, seed: int, bound: int) -> tuple[int, int, int, int]:
    """Run a program on the layout of a seed and return its columns (`Columns`); at most `bound` units fit a score."""
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
    return round(units), outcome.calls, outcome.actions, outcome.end.value
