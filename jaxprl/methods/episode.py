"""A program's run on one layout, in the words that a language model is shown."""

from __future__ import annotations

from jaxprl.dsl import ast
from jaxprl.llm import revision_prompts
from jaxprl.llm.revision_prompts import MOST_STEPS, Episode, Start, Step
from jaxprl.vm.outcomes import End
from jaxprl.vm.trace import Moment, Trace, follow
from jaxprl.worlds import picture
from jaxprl.worlds.plain import environment_of
from jaxprl.worlds.task import Layout, PythonTask, Task

ENDS = {
    End.TERMINATED: revision_prompts.TERMINATED,
    End.TERMINATED | End.CRASHED: revision_prompts.LAST_CALL,
    End.FINISHED: revision_prompts.FINISHED,
}
"""How runs ended, in words. What a crash is called depends on the number of calls."""


def episode(task: Task | PythonTask, layouts: Layout, index: int, program: ast.Program) -> Episode:
    """Run a program on one layout and put what happens into words.

    Args:
      task: the task.
      layouts: stacked layouts of the task.
      index: which of them.
      program: the program.

    Returns:
      The run, with its first `MOST_STEPS` calls.
    """
    environment, units = environment_of(task, layouts, index)
    trace = follow(program, environment, units, most=MOST_STEPS, pictures=True)
    first, *calls = trace.moments
    start = first.picture
    return Episode(
        trace.value,
        start and Start(start.pose, start.grid(), (picture.SIGNS, *start.signs)),
        [Step(call.name, call.result, call.reward, call.line, *_place(call)) for call in calls],
        trace.calls,
        _end(trace, environment.call_limit),
    )


def _place(moment: Moment) -> tuple[str | None, str | None]:
    """Return the agent's pose and the cells around it in words, as far as the world has them."""
    if moment.picture:
        return moment.picture.pose, moment.picture.around()
    return None if moment.pose is None else str(moment.pose), None


def _end(trace: Trace, call_limit: int) -> str:
    if trace.crashed_by_action:
        return revision_prompts.TERMINATED_BY_CRASH if End.TERMINATED in trace.end else revision_prompts.IMPOSSIBLE
    if trace.end == End.CRASHED:
        return revision_prompts.LIMIT if trace.calls == call_limit else revision_prompts.REPEATED
    return ENDS[trace.end]
