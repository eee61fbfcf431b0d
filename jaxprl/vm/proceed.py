"""Runs programs from given states on: the door for methods in which one program begins where another one stopped."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import numpy as np

from jaxprl.dsl import ast, encode
from jaxprl.errors import UserError
from jaxprl.vm.engines import check_engine, default_workers, engine_for
from jaxprl.vm.evaluate import BLOCK, check_numbers, checked_programs
from jaxprl.vm.layouts import check_starts
from jaxprl.vm.outcomes import Proceeded, Scale, unpack
from jaxprl.vm.sharing import Ended
from jaxprl.worlds.plain import with_hash_of
from jaxprl.worlds.task import Layout, PythonTask, Task, require_task
from jaxprl.xla import guarded


def proceed(
    task: Task,
    programs: np.ndarray | Iterable[ast.Program],
    layouts: Layout,
    *,
    engine: str | None = None,
    slots: int | None = None,
    workers: int | None = None,
) -> Proceeded:
    """Run each program on a start of its own, and return where the runs ended.

    The layouts that come back can be given to the next call: two calls do what the two programs do one after the other
    in the same environment. Each call is a run: it counts its calls from 0 up to the limit, and its WHILEs remember no
    state of an earlier one. The result does not depend on `engine`, `slots` and `workers`.

    A run that was terminated is over, and nothing in its layout says so: whoever calls leaves it out of the next call.
    If it is not left out, its outcome means nothing and can differ between engines: the task may reward again what it
    has rewarded before, and end the run with the next action or with none.

    Args:
      task: the task. Environments that are not array code keep their state to themselves, so it is no `PythonTask`.
      programs: P programs, or their nodes int32 [P, N] (`dsl/encode.py`).
      layouts: P layouts, stacked: those of seeds (`Task.layouts`) or of an earlier call. Program i runs on layout i.
      engine: as in `evaluate`, like the following arguments.
      slots: slots of the first memory of WHILE.
      workers: threads that run programs.

    Returns:
      How the P runs ended, and where.

    Raises:
      UserError: an argument is not as described above, or a program has too many nodes.

    Warns:
      UserWarning: as `evaluate`.

    Example:
      >>> from jaxprl.dsl.parse import parse
      >>> from jaxprl.worlds.make import make
      >>> task = make("Harvester")
      >>> walk, pick = parse("DEF run m( move move m)", task), parse("DEF run m( pickMarker m)", task)
      >>> first = proceed(task, [walk, pick], task.layouts([0, 1]))
      >>> second = proceed(task, [pick, pick], first.layouts)
      >>> second.outcomes.units.tolist(), second.ends.tolist()
      ([1, 0], ['E', 'E'])
    """
    require_task(task)
    check_numbers(BLOCK, slots, workers)
    if isinstance(task, PythonTask):
        raise UserError(f"task {task.name} is not array code: only evaluate runs programs in it, from their beginning")
    check_engine(task, engine)
    programs = checked_programs(programs, task.language)
    nodes = programs if isinstance(programs, np.ndarray) else encode.encode_all(programs, task.language)
    return _proceeded(task, nodes, layouts, engine, slots, workers)


@guarded
def _proceeded(
    task: Task, nodes: np.ndarray, layouts: Layout, engine: str | None, slots: int | None, workers: int | None
) -> Proceeded:
    """Do what `proceed` does with nodes int32 [P, N]."""
    check_starts(task, layouts, len(nodes))
    layouts = jax.tree.map(lambda leaf: np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype)), layouts)
    nothing = Scale(np.zeros(len(nodes), np.int64), 1)  # no return is compared, so their units need not go together
    if len(nodes):
        batches = engine_for(task, nodes, layouts, nothing, engine, slots, proceeds=True)
        found = batches.proceed(nodes, workers or default_workers())
    else:
        found = Ended.room(layouts)
    state = with_hash_of(found.state, layouts.state)
    return Proceeded(unpack(found.outcomes), Layout(state, found.progress, layouts.units))
