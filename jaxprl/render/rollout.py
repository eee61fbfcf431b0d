"""A run of a program, call by call, with the states that a picture needs."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from jaxprl.dsl import ast
from jaxprl.dsl.python import call_text, statement_lines
from jaxprl.errors import UserError
from jaxprl.vm import host
from jaxprl.worlds.task import HostTask, Task

ENDS = {"T": "terminated", "C": "crashed", "TC": "terminated, crashed", "E": "end of the program"}


class Moment(NamedTuple):
    """What there is to see after a call; the first moment comes before all calls."""

    state: Any
    """The world's state, of Python values."""
    call: int
    line: int
    """Line of the program's Python text, counted from 1; the first moment's is 0."""
    text: str
    """The call as Python text."""
    result: bool | None
    """What a perception gave; None for an action."""
    reward: float
    """What the call brought; a return of 1 is everything."""
    total: float
    """The return so far."""


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One run of a program on one layout."""

    task: Task
    seed: int
    program: ast.Program
    moments: list[Moment]
    end: str
    """T, C, TC or E (`vm/host.py`)."""


def follow(task: Task | HostTask, seed: int, program: ast.Program) -> Rollout:
    """Run a program on the layout of a seed. Raises UserError for a task whose world is not array code."""
    if isinstance(task, HostTask):
        raise UserError(f"{task.name} cannot be drawn: its world is not one of jaxprl's, but a gymnasium environment")
    layout = task.layout(seed)
    environment, units = host.WorldEnvironment(task, layout), int(layout.units)
    lines, total = statement_lines(program), 0
    moments = [Moment(environment.state, 0, 0, "", None, 0.0, 0.0)]

    def observe(call: host.Call) -> None:
        nonlocal total
        reward = round(call.reward or 0)
        total += reward
        line, text = lines[call.statement], call_text(call.name)
        moments.append(Moment(environment.state, len(moments), line, text, call.result, reward / units, total / units))

    outcome = host.run(program, environment, observe)
    return Rollout(task, seed, program, moments, outcome.end)


def thinned(moments: list[Moment], most: int) -> list[int]:
    """Return the indices of at most `most` moments, in order: the first, the last, those with a reward, and of the
    others as many as fit, evenly. Where not even the rewarded ones fit, they are thinned evenly too."""
    if most < 2:
        raise UserError(f"{most} frames at most: a run has a first and a last one")
    last = len(moments) - 1
    if last < most:
        return list(range(last + 1))
    rewarded = [index for index in range(1, last) if moments[index].reward]
    room = most - 2
    if len(rewarded) >= room:
        return [0, *_evenly(rewarded, room), last]
    others = [index for index in range(1, last) if not moments[index].reward]
    return [0, *sorted([*rewarded, *_evenly(others, room - len(rewarded))]), last]


def _evenly(values: list[int], number: int) -> list[int]:
    places = np.linspace(0, len(values), number, endpoint=False) + len(values) / max(number, 1) / 2
    return [values[int(place)] for place in places]
