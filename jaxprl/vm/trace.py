"""Follows one run of a program call by call: for traces, pictures and prompts."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from jaxprl.dsl import ast
from jaxprl.dsl.parse import require_program
from jaxprl.dsl.python import statement_lines
from jaxprl.types import JSON, PyTree
from jaxprl.vm import plain
from jaxprl.vm.layouts import layouts_of
from jaxprl.vm.outcomes import End
from jaxprl.worlds.picture import Picture
from jaxprl.worlds.plain import WorldEnvironment, environment_of
from jaxprl.worlds.task import PythonEnvironment, PythonTask, Task, require_task


class Moment(NamedTuple):
    """One call of a run, and the world after it. The first moment of a trace comes before all calls."""

    call: int
    """Number of the call, counted from 1; 0 before all calls."""
    kind: str
    """One of "start", "action" and "perception"."""
    name: str
    """The word of the program, with its argument; empty at the start."""
    line: int
    """Line of the program's Python text, counted from 1; 0 at the start."""
    result: bool | None
    """What a perception returned; None for an action and at the start."""
    reward: float | None
    """The reward of an action, as a part of a return of 1; None for a perception and at the start."""
    terminated: bool | None
    """Whether an action ended the run; None for a perception and at the start."""
    crashed: bool | None
    """Whether an action crashed the run by itself, which some worlds have; None where `terminated` is None."""
    total: float
    """The return so far."""
    pose: list[int] | None
    """Where the agent is, in the numbers of its world; None in a world that does not say."""
    state: PyTree
    """The world's state, of Python values; None for a `PythonTask`, whose environments do not show theirs."""
    picture: Picture | None
    """The state as text, if pictures were asked for and the world has them."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """One run of a program on one layout.

    Example:
      >>> from jaxprl.dsl.parse import parse
      >>> from jaxprl.worlds.make import make
      >>> task = make("DoorKey")
      >>> run = trace(task, parse("DEF run m( IF c( frontIsClear c) i( move i) turnLeft m)", task), layout_seed=3)
      >>> [(moment.name, moment.line, moment.result, moment.pose) for moment in run.moments[1:]]
      [('frontIsClear', 2, True, [1, 1, 1]), ('move', 3, None, [1, 2, 1]), ('turnLeft', 4, None, [1, 2, 0])]
      >>> run.calls, run.actions, run.value, run.end.in_words
      (3, 2, 0.0, 'end of the program')
    """

    program: ast.Program
    moments: list[Moment]
    """The start, then the calls in order: all of them, or the first ones."""
    calls: int
    """Actions and perceptions of the run."""
    actions: int
    """Actions of the run."""
    value: float
    """The return of the run."""
    end: End
    """How the run ended."""
    crashed_by_action: bool
    """Whether an action crashed the run by itself, not because the call limit was reached or a state repeated."""

    def rows(self) -> list[JSON]:
        """Return the calls as dictionaries that JSON can hold.

        The keys are kind, name, result, pose, reward, terminated and line, with the meanings that `Moment` gives them.
        An action that crashed the run by itself also has the key crashed, which is True.
        """
        return [
            {
                "kind": moment.kind,
                "name": moment.name,
                "result": moment.result,
                "pose": moment.pose,
                "reward": moment.reward,
                "terminated": moment.terminated,
                "line": moment.line,
                **({"crashed": True} if moment.crashed else {}),
            }
            for moment in self.moments[1:]
        ]


def trace(task: Task | PythonTask, program: ast.Program, layout_seed: int = 0) -> Trace:
    """Run a program on one layout and follow it call by call.

    Args:
      task: the task.
      program: the program.
      layout_seed: seed of the layout.

    Returns:
      The run, with all its calls.

    Raises:
      UserError: an argument is not as described.

    Example:
      >>> from jaxprl.dsl.parse import parse
      >>> from jaxprl.worlds.make import make
      >>> task = make("Harvester")
      >>> run = trace(task, parse("DEF run m( pickMarker move m)", task))
      >>> [(moment.call, moment.name, moment.pose, round(moment.total, 3)) for moment in run.moments]
      [(0, '', [6, 2, 1], 0.0), (1, 'pickMarker', [6, 2, 1], 0.028), (2, 'move', [6, 3, 1], 0.028)]
    """
    require_task(task)
    require_program(program, task.language)
    environment, units = environment_of(task, layouts_of(task, [layout_seed]), 0)
    return follow(program, environment, units)


def follow(
    program: ast.Program,
    environment: PythonEnvironment,
    units: int = 1,
    *,
    most: int | None = None,
    pictures: bool = False,
) -> Trace:
    """Run a program from an environment's present state and follow it call by call.

    Args:
      program: the program.
      environment: where its actions happen.
      units: units of the environment's rewards that make a return of 1.
      most: calls that are kept, at most; the run goes on behind them. By default all are kept.
      pictures: whether moments have the state as text, which takes more time than the run itself.

    Returns:
      The run.
    """
    follower = _Follower(environment, units, statement_lines(program), most, pictures)
    follower.add(None)
    outcome = plain.run(program, environment, follower.add)
    value = outcome.reward / units
    return Trace(
        program, follower.moments, outcome.calls, outcome.actions, value, outcome.end, outcome.crashed_by_action
    )


@dataclasses.dataclass
class _Follower:
    """Collects the moments of a run."""

    environment: PythonEnvironment
    units: int
    lines: list[int]  # of the program's statements
    most: int | None
    pictures: bool
    earned: float = 0  # the return so far in units, which are whole numbers in a task that is array code
    moments: list[Moment] = dataclasses.field(default_factory=list)

    def add(self, call: plain.Call | None) -> None:
        """Add the present moment, which `call` has led to; None for the start."""
        self.earned += (call and call.reward) or 0
        if self.most is not None and len(self.moments) > self.most:
            return
        world, number = self._world(), len(self.moments)
        if call is None:
            self.moments.append(Moment(number, "start", "", 0, None, None, None, None, *world))
            return
        reward = None if call.reward is None else call.reward / self.units
        line = self.lines[call.statement]
        outcome = call.result, reward, call.terminated, call.crashed
        self.moments.append(Moment(number, call.kind, call.name, line, *outcome, *world))

    def _world(self) -> tuple[float, list[int] | None, PyTree, Picture | None]:
        """Return the return so far, and what there is to see of the world: pose, state and picture."""
        environment = self.environment
        state = environment.state if isinstance(environment, WorldEnvironment) else None
        seen = environment.picture() if self.pictures and hasattr(environment, "picture") else None
        return self.earned / self.units, environment.pose(), state, seen
