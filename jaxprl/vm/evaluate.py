"""Runs programs on layouts: the one door to the interpreters.

On a CPU one run follows the other (`sequential.py`), on an accelerator many step together (`lanes.py`), and in a world
that is not array code plain Python does one call after the other (`plain.py`). The outcomes are the same.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import ast, encode
from jaxprl.dsl.language import Language
from jaxprl.dsl.parse import require_program
from jaxprl.errors import UserError, unknown
from jaxprl.search.protocol import Improvements, Neighbourhoods
from jaxprl.vm import lanes, plain, sequential
from jaxprl.vm.compile import counter_bits, counter_words
from jaxprl.vm.instruction import MOST_NODES
from jaxprl.vm.lanes import MOST_LANES
from jaxprl.vm.layouts import check_stacked, layouts_of, part_of
from jaxprl.vm.outcomes import COLUMNS, Outcomes, Scale, unpack
from jaxprl.worlds.task import Layout, PythonTask, Task, require_task
from jaxprl.xla import has_whole_loops

ENGINES = {"sequential": sequential.Batches, "lanes": lanes.Batches}
BLOCK = 512
"""Programs of one batch, at most."""
LAYOUT_SEEDS = range(32)
"""Layouts that programs are run on if none are named."""
SHARES = 4
"""Minimum number of batches per thread. Several of them even out that batches take different times."""
SMALL = 16
"""Minimum number of programs in a batch, if there are more batches than threads: a smaller batch costs more to hand out
than to run."""

T = TypeVar("T")


class Engine(Protocol):
    """One way to run programs, for one call of `evaluate` or `first_better`."""

    def run_programs(self, programs: np.ndarray) -> np.ndarray:
        """Run programs int32 [P, N] on every layout and return packed outcomes, int32 [P, E, COLUMNS]."""
        ...

    def first_better(self, question: Neighbourhoods) -> Improvements:
        """Find the first better neighbour of S programs."""
        ...


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

    The outcomes do not depend on `engine`, `block`, `slots` and `workers`, which a `PythonTask` does not use.

    Args:
      task: the task.
      programs: P programs, or their nodes int32 [P, N] (`dsl/encode.py`).
      layouts: E layouts of the task (`Task.layouts`); by default those of `layout_seeds`.
      layout_seeds: seeds of the layouts, if no layouts are given.
      engine: "sequential" or "lanes"; by default the faster one on this machine.
      block: programs of one batch, at most.
      slots: slots of the first memory of WHILE, a power of two; by default the engine's own number.
      workers: threads that run batches; by default one per CPU core on a CPU, else one.

    Returns:
      The outcomes of the P x E runs.

    Raises:
      UserError: an argument is not as described above, or a program has too many nodes.

    Warns:
      UserWarning: once per process, if an engine has to be chosen on a CPU and XLA was not asked to compile whole loops
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
    layouts = layouts_of(task, layout_seeds) if layouts is None else layouts
    _check(layouts, block, slots, workers)
    programs = _checked(programs, task.language)
    if isinstance(task, PythonTask):
        return plain.evaluate(task, programs, layouts)
    nodes = programs if isinstance(programs, np.ndarray) else encode.encode_all(programs, task.language)
    count, episodes = len(nodes), len(layouts.units)
    if episodes > MOST_LANES:
        again = functools.partial(evaluate, task, nodes, engine=engine, block=block, slots=slots, workers=workers)
        parts = [again(part_of(layouts, first, MOST_LANES)) for first in range(0, episodes, MOST_LANES)]
        return _side_by_side(parts)
    nothing = Scale(np.zeros(episodes, np.int64), 1)  # no return is compared, so their units need not go together
    batches = _engine(task, nodes, layouts, nothing, engine, slots)
    workers = workers or _workers()
    least = 1 if workers == 1 else min(SHARES * workers, max(workers, count // SMALL))
    shares = max(-(-count // max(1, min(block, MOST_LANES // episodes))), min(least, count))
    found = np.zeros((count, episodes, COLUMNS), np.int32)
    jobs = [functools.partial(batches.run_programs, nodes[share::shares]) for share in range(shares)]
    for share, rows in enumerate(_in_threads(jobs, workers)):
        found[share::shares] = rows
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

    Much of what `evaluate` would run is left out (`sequential.py`, `lanes.py`), and no answer changes.

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
    _check(layouts, BLOCK, slots, workers)
    if isinstance(task, PythonTask):
        return plain.first_better(task, question, layouts)
    workers = workers or _workers()
    answer = Improvements(*np.zeros((3, len(question.counts)), np.int32))
    (active,) = np.nonzero(question.counts >= 0)
    if not len(active):
        return answer
    question = _widened(question, max(1, question.programs.shape[1]))
    programs = np.concatenate([question.parents, question.programs.reshape(-1, question.programs.shape[-1])])
    batches = _engine(task, programs, layouts, Scale.of(layouts), engine, slots)
    share = _share_searches if len(active) >= 2 * workers else _share_neighbours
    for rows, part in share(batches, question, active, workers):
        for column, new in zip(answer, part, strict=True):
            column[rows] = new[: len(rows)]
    return answer


Answers = Iterable[tuple[np.ndarray, Improvements]]
"""Indices of searches, and the answers to these; further rows of the answers are padding."""


def _share_searches(batches: Engine, question: Neighbourhoods, active: np.ndarray, workers: int) -> Answers:
    """Answer the question for the searches `active`, some of them to a batch: `SHARES` batches or more to a thread."""
    size = 1 << max(0, (len(active) // (SHARES * workers)).bit_length() - 1)
    shares = [active[first : first + size] for first in range(0, len(active), size)]
    jobs = [functools.partial(batches.first_better, _rows(question, rows, size)) for rows in shares]
    return zip(shares, _in_threads(jobs, workers), strict=True)


def _share_neighbours(batches: Engine, question: Neighbourhoods, active: np.ndarray, workers: int) -> Answers:
    """Answer the question for the few searches `active`, each thread trying every `workers`-th neighbour of each.

    Of two threads, one tries neighbours 0, 2, 4, .. and the other 1, 3, 5, .. If they find number 2 of the former and
    number 1 of the latter, these are neighbours 4 and 3, so neighbour 3 is the answer. The question is padded to the
    largest number of searches that comes here, so that one size is compiled.
    """
    few = _rows(question, active, min(len(question.counts), 2 * workers))
    jobs = [functools.partial(batches.first_better, _every(few, part, workers)) for part in range(workers)]
    parts = _in_threads(jobs, workers)
    none = few.programs.shape[1] * workers  # larger than the index of any neighbour
    first = np.stack([np.where(part.first < 0, none, part.first * workers + i) for i, part in enumerate(parts)])
    better = np.stack([part.better for part in parts])
    best = np.argmin(first, axis=0)[None]
    found = np.where(first.min(axis=0) < none, first.min(axis=0), -1)
    return [(active, Improvements(parts[0].score, found, np.take_along_axis(better, best, axis=0)[0]))]


def scores(
    task: Task | PythonTask, programs: np.ndarray, wanted: np.ndarray, layouts: Layout, *, workers: int | None = None
) -> np.ndarray:
    """Return the scores of programs; equal programs are run once.

    Args:
      task: the task.
      programs: int32 [S, B, N].
      wanted: which scores are needed, bool [S, B].
      layouts: E layouts of the task.
      workers: as in `evaluate`.

    Returns:
      The scores (`Scale.scores`), int32 [S, B]; 0 where none is wanted.
    """
    found = np.zeros(wanted.shape, np.int32)
    distinct, index = np.unique(programs[wanted], axis=0, return_inverse=True)
    found[wanted] = Scale.of(layouts).scores(evaluate(task, distinct, layouts, workers=workers).units)[index]
    return found


def _check(layouts: Layout, block: int, slots: int | None, workers: int | None) -> None:
    """Raise UserError for arguments that make no sense."""
    check_stacked(layouts)
    for name, value in {"block": block, "slots": slots, "workers": workers}.items():
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: expected a number from 1 on")
    if slots is not None and slots & (slots - 1):
        raise UserError(f"slots {slots}: expected a power of two")


def _checked(programs: np.ndarray | Iterable[ast.Program], language: Language) -> np.ndarray | list[ast.Program]:
    """Return the nodes int32 [P, N], or a list of the programs. Raises UserError for anything else."""
    if isinstance(programs, np.ndarray | jax.Array):
        if programs.ndim != 2 or programs.dtype.kind not in "iu":
            raise UserError(f"programs: expected nodes int32 [P, N], got {programs.dtype} {list(programs.shape)}")
        return np.asarray(programs, np.int32)
    if isinstance(programs, ast.Program | str) or not isinstance(programs, Iterable):
        raise UserError(f"programs {programs!r}: expected several programs, in a list")
    rows = list(programs)
    for index, program in enumerate(rows):
        require_program(program, language, f"program {index}")
    return rows


def _engine(
    task: Task, programs: np.ndarray, layouts: Layout, scale: Scale, engine: str | None, slots: int | None
) -> Engine:
    engine = engine or _faster_engine()
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if programs[..., MOST_NODES:].any():
        size = int(np.count_nonzero(programs, axis=-1).max())
        raise UserError(f"a program has {size:,} nodes, more than the {MOST_NODES} that instructions can address")
    bits = counter_bits(programs)
    options = {"bits": bits, "words": counter_words(programs, bits)} | ({"slots": slots} if slots else {})
    return ENGINES[engine](task, jax.tree.map(jnp.asarray, layouts), scale, **options)


def _faster_engine() -> str:
    if has_whole_loops():
        return "sequential"
    if jax.default_backend() == "cpu":
        _warn_of_slow_loops()
    return "lanes"


@functools.cache
def _warn_of_slow_loops() -> None:
    warnings.warn(
        "programs run slower than they could on this CPU, because XLA compiles loops in pieces: call "
        "jaxprl.prefer_whole_loops() before JAX compiles anything",
        stacklevel=5,
    )


def _side_by_side(parts: Sequence[Outcomes]) -> Outcomes:
    """Return the outcomes of the same programs on several groups of layouts as one."""
    fields = [[getattr(part, field.name) for part in parts] for field in dataclasses.fields(Outcomes)]
    return Outcomes(*(np.concatenate(columns, axis=-1) for columns in fields))


def _rows(question: Neighbourhoods, rows: np.ndarray, size: int) -> Neighbourhoods:
    """Return the question for some searches, filled up to `size` with idle ones."""
    part = jax.tree.map(lambda leaf: leaf[np.resize(rows, size)], question)
    return part._replace(counts=np.where(np.arange(size) < len(rows), part.counts, -1).astype(np.int32))


def _every(question: Neighbourhoods, first: int, step: int) -> Neighbourhoods:
    """Return the question for every `step`-th neighbour from the `first` one on, with the same shape for each `first`.

    Of 5 neighbours, with step 2, first 0 gives neighbours 0, 2 and 4, and first 1 gives 1, 3 and one that is padding.
    """
    counts = np.maximum(0, -(-(question.counts - first) // step)).astype(np.int32)
    padded = _widened(question, -(-question.programs.shape[1] // step) * step)
    several = padded.programs, padded.changed, padded.margins
    programs, changed, margins = jax.tree.map(lambda leaf: leaf[:, first::step], several)
    return Neighbourhoods(padded.parents, programs, changed, counts, margins)


def _widened(question: Neighbourhoods, width: int) -> Neighbourhoods:
    """Return the question with room for `width` neighbours of each program."""
    extra = width - question.programs.shape[1]
    several = question.programs, question.changed, question.margins
    programs, changed, margins = jax.tree.map(
        lambda leaf: np.pad(leaf, ((0, 0), (0, extra), *[(0, 0)] * (leaf.ndim - 2))), several
    )
    return question._replace(programs=programs, changed=changed, margins=margins)


def _in_threads(jobs: Sequence[Callable[[], T]], workers: int) -> list[T]:
    if workers == 1:
        return [job() for job in jobs]
    return list(_pool(workers).map(lambda job: job(), jobs))


@functools.cache
def _pool(workers: int) -> concurrent.futures.ThreadPoolExecutor:
    # Kept, since starting threads takes as long as running some dozens of programs.
    return concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="evaluate")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _workers() -> int:
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
