"""Runs programs on layouts: the one door to the interpreters.

On a CPU one run follows the other, compiled by a C compiler (`native.py`) or by XLA (`sequential.py`). On an NVIDIA GPU
each thread has a run (`cuda.py`), on another accelerator many runs step together (`lanes.py`), and in a world that is
not array code plain Python does one call after the other (`plain.py`). The outcomes are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from jaxprl.dsl import ast, encode
from jaxprl.dsl.language import PROGRAM_NODES, Language, check_size
from jaxprl.dsl.parse import require_program
from jaxprl.errors import UserError
from jaxprl.search.protocol import Improvements, Neighbourhoods
from jaxprl.vm import native, plain
from jaxprl.vm.engines import check_engine, default_workers, engine_for, expected_engine
from jaxprl.vm.lanes import MOST_LANES
from jaxprl.vm.layouts import check_stacked, layouts_of, part_of
from jaxprl.vm.outcomes import Outcomes, Scale, unpack
from jaxprl.vm.sharing import widened
from jaxprl.worlds.task import Layout, PythonTask, Task, require_task
from jaxprl.xla import guarded

BLOCK = 512
"""Programs of one batch, at most."""
LAYOUT_SEEDS = range(32)
"""Layouts that programs are run on if none are named."""


def evaluate(
    task: Task | PythonTask,
    programs: np.ndarray | Iterable[ast.Program],
    layouts: Layout | None = None,
    *,
    layout_seeds: Iterable[int] = LAYOUT_SEEDS,
    engine: str | None = None,
    block: int = BLOCK,
    slots: int | None = None,
    workers: int | None = None,
) -> Outcomes:
    """Run every program on every layout.

    The outcomes do not depend on `engine`, `block`, `slots` and `workers`. A `PythonTask` has one engine only, "plain",
    which does not use the other three.

    Args:
      task: the task.
      programs: P programs, or their nodes int32 [P, N] (`dsl/encode.py`).
      layouts: E layouts of the task (`Task.layouts`); by default those of `layout_seeds`.
      layout_seeds: seeds of the layouts, if no layouts are given.
      engine: "native" (compiled by the C compiler of this machine), "cuda" (for NVIDIA GPUs), "sequential" or "lanes"
        (both compiled by XLA, for CPUs and for accelerators) or "plain" (plain Python); by default the fastest one that
        there is.
      block: programs of one batch, at most.
      slots: slots of the first memory of WHILE, a power of two; by default the engine's own number.
      workers: threads that run batches; by default one per CPU core on a CPU, else one.

    Returns:
      The outcomes of the P x E runs.

    Raises:
      UserError: an argument is not as described above, or a program has too many nodes.

    Warns:
      UserWarning: once per process, if an engine has to be chosen and the fastest one cannot run, for another reason
        than that there is no C compiler; or if, on a CPU, none is there and XLA was not asked to compile whole loops
        (`jaxprl.prefer_whole_loops`), which costs speed.

    Example:
      >>> from jaxprl.dsl.parse import parse
      >>> from jaxprl.worlds.make import make
      >>> task = make("StairClimber")
      >>> climb = "DEF run m( WHILE c( noMarkersPresent c) w( turnLeft move turnRight move w) m)"
      >>> outcomes = evaluate(task, [parse(climb, task), parse("DEF run m( move m)", task)], layout_seeds=range(4))
      >>> outcomes.ends.tolist(), outcomes.mean_returns.tolist()
      ([['T', 'T', 'T', 'T'], ['E', 'E', 'E', 'E']], [1.0, 0.0])
    """
    require_task(task)
    check_numbers(block, slots, workers)
    check_engine(task, engine)
    programs = checked_programs(programs, task.language)
    layouts = layouts_of(task, layout_seeds) if layouts is None else layouts  # last: there may be many to make
    check_stacked(layouts)
    if isinstance(task, PythonTask):
        return plain.evaluate(task, programs, layouts)
    nodes = programs if isinstance(programs, np.ndarray) else encode.encode_all(programs, task.language)
    return _evaluated(task, nodes, layouts, engine, block, slots, workers)


@guarded
def _evaluated(
    task: Task,
    nodes: np.ndarray,
    layouts: Layout,
    engine: str | None,
    block: int,
    slots: int | None,
    workers: int | None,
) -> Outcomes:
    """Do what `evaluate` does with nodes int32 [P, N]."""
    episodes = len(layouts.units)
    if episodes > MOST_LANES:
        firsts = range(0, episodes, MOST_LANES)
        return _side_by_side(
            [
                _evaluated(task, nodes, part_of(layouts, first, MOST_LANES), engine, block, slots, workers)
                for first in firsts
            ]
        )
    nothing = Scale(np.zeros(episodes, np.int64), 1)  # no return is compared, so their units need not go together
    batches = engine_for(task, nodes, layouts, nothing, engine, slots)
    found = batches.run_programs(nodes, workers or default_workers(), min(block, max(1, MOST_LANES // episodes)))
    return Outcomes(*unpack(found), np.asarray(layouts.units))


def first_better(
    task: Task | PythonTask,
    question: Neighbourhoods,
    layouts: Layout,
    *,
    engine: str | None = None,
    slots: int | None = None,
    workers: int | None = None,
) -> Improvements:
    """Find the first neighbour that is better than its parent, for S searches; `Neighbourhoods` says what that means.

    Much of what `evaluate` would run is left out (`pruning.py`, `lanes.py`), and no answer changes.

    Args:
      task: the task.
      question: the programs and their neighbours, numpy arrays.
      layouts: E layouts of the task.
      engine: as in `evaluate`, like the following arguments.
      slots: slots of the first memory of WHILE.
      workers: threads that run batches.

    Returns:
      The answer, numpy int32 [S].

    Raises:
      UserError: as `evaluate`, or the scores on these layouts do not fit an int32 (`Scale.of`).
    """
    check_stacked(layouts)
    check_numbers(BLOCK, slots, workers)
    check_engine(task, engine)
    if isinstance(task, PythonTask):
        return plain.first_better(task, question, layouts)
    return _first_better(task, question, layouts, engine, slots, workers or default_workers())


@guarded
def _first_better(
    task: Task, question: Neighbourhoods, layouts: Layout, engine: str | None, slots: int | None, workers: int
) -> Improvements:
    """Do what `first_better` does for a task in array code."""
    if not (question.counts >= 0).any():
        return Improvements(*np.zeros((3, len(question.counts)), np.int32))
    question = widened(question, max(1, question.programs.shape[1]))
    programs = np.concatenate([question.parents, question.programs.reshape(-1, question.programs.shape[-1])])
    check_size(_largest(programs), "a program")
    batches = engine_for(task, programs, layouts, Scale.of(layouts), engine, slots)
    return batches.first_better(question, workers)


def prepare(task: Task | PythonTask, layouts: Layout, *, engine: str | None = None) -> None:
    """Begin to compile what `evaluate` and `first_better` will need first, if that can be done beside other work."""
    if isinstance(task, Task) and (engine or expected_engine()) == "native":
        native.prepare(task, layouts)


def scores(
    task: Task | PythonTask,
    programs: np.ndarray,
    wanted: np.ndarray,
    layouts: Layout,
    *,
    workers: int | None = None,
    engine: str | None = None,
) -> np.ndarray:
    """Return the scores of programs; equal programs are run once.

    Args:
      task: the task.
      programs: int32 [S, B, N].
      wanted: which scores are needed, bool [S, B].
      layouts: E layouts of the task.
      workers: as in `evaluate`.
      engine: as in `evaluate`.

    Returns:
      The scores (`Scale.scores`), int32 [S, B]; 0 where none is wanted.
    """
    found = np.zeros(wanted.shape, np.int32)
    distinct, index = np.unique(programs[wanted], axis=0, return_inverse=True)
    outcomes = evaluate(task, distinct, layouts, workers=workers, engine=engine)
    found[wanted] = Scale.of(layouts).scores(outcomes.units)[index]
    return found


def check_numbers(block: int, slots: int | None, workers: int | None) -> None:
    """Raise UserError for arguments that make no sense."""
    for name, value in {"block": block, "slots": slots, "workers": workers}.items():
        if value is not None and (not isinstance(value, int | np.integer) or value < 1):
            raise UserError(f"{name} {value!r}: expected a whole number from 1 on")
    if slots is not None and slots & (slots - 1):
        raise UserError(f"slots {slots}: expected a power of two")


def checked_programs(
    programs: np.ndarray | Iterable[ast.Program], language: Language
) -> np.ndarray | list[ast.Program]:
    """Return the nodes int32 [P, N], or a list of the programs. Raises UserError for anything else."""
    if isinstance(programs, np.ndarray | jax.Array):
        if programs.ndim != 2 or programs.dtype.kind not in "iu":
            raise UserError(f"programs: expected nodes int32 [P, N], got {programs.dtype} {list(programs.shape)}")
        nodes = np.asarray(programs, np.int32)
        check_size(_largest(nodes), "a program")
        return nodes
    if isinstance(programs, ast.Program | str) or not isinstance(programs, Iterable):
        raise UserError(f"programs {programs!r}: expected several programs, in a list")
    rows = list(programs)
    for index, program in enumerate(rows):
        require_program(program, language, f"program {index}")
    return rows


def _largest(programs: np.ndarray) -> int:
    """Return the number of nodes of the largest of some programs, int32 [P, N]."""
    return int(np.count_nonzero(programs, axis=-1).max(initial=0)) if programs.shape[-1] > PROGRAM_NODES else 0


def _side_by_side(parts: Sequence[Outcomes]) -> Outcomes:
    """Return the outcomes of the same programs on several groups of layouts as one."""
    fields = [[getattr(part, field.name) for part in parts] for field in dataclasses.fields(Outcomes)]
    return Outcomes(*(np.concatenate(columns, axis=-1) for columns in fields))
