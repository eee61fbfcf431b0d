"""The runs that are drawn, and which of their moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxprl.dsl import ast
from jaxprl.errors import UserError
from jaxprl.vm.outcomes import End
from jaxprl.vm.trace import Moment, Trace, trace
from jaxprl.worlds.task import PythonTask, Task


class Rollout(NamedTuple):
    """A run, with what stands above its pictures."""

    task: Task
    seed: int  # of the layout
    trace: Trace

    @property
    def moments(self) -> list[Moment]:
        """The start of the run, then every call."""
        return self.trace.moments

    @property
    def end(self) -> End:
        """How the run ended."""
        return self.trace.end


def follow(task: Task | PythonTask, seed: int, program: ast.Program) -> Rollout:
    """Run a program on one layout, for pictures.

    Args:
      task: the task.
      seed: seed of the layout.
      program: the program.

    Raises:
      UserError: the task's world is not array code.
    """
    if isinstance(task, PythonTask):
        raise UserError(f"{task.name} cannot be drawn: its world is not one of jaxprl's, but a gymnasium environment")
    return Rollout(task, seed, trace(task, program, seed))


def thinned(moments: Sequence[Moment], most: int) -> list[int]:
    """Choose moments of a long run.

    Args:
      moments: all moments of the run.
      most: how many to choose, at most.

    Returns:
      Indices, in order: the first moment, the last, those with a reward, and as many of the others as fit, evenly. If
      there are too many with a reward, these are chosen evenly.

    Raises:
      UserError: `most` is less than 2.
    """
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
