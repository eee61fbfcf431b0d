"""Programs x layouts -> returns: the one door to the interpreters.

On a CPU one run follows the other (`sequential.py`), on an accelerator all step together (`lanes.py`), and in a world
that is not array code plain Python takes one call after the other (`host.py`). The outcome is the same.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import ast, encode
from jaxprl.dsl.compile import MOST_NODES, counter_bits, counter_words
from jaxprl.errors import UserError, unknown
from jaxprl.loops import has_whole_loops
from jaxprl.vm import host, lanes, sequential
from jaxprl.vm.lanes import MOST_LANES
from jaxprl.vm.runs import Improvements, Neighbourhoods, Runs, Scale
from jaxprl.worlds.task import HostTask, Layout, Task

ENGINES = {"sequential": sequential.Batches, "lanes": lanes.Batches}
BLOCK = 512
"""Programs of one batch, at most."""
SHARES = 4
"""Batches for every thread, at least: they take different times."""
SMALL = 16
"""Programs of a batch, at least, if there are more batches than threads: so many run while a batch is handed out."""


def evaluate(
    task: Task | HostTask,
    programs: np.ndarray | Iterable[ast.Program],
    layouts: Layout,
    *,
    engine: str | None = None,
    block: int = BLOCK,
    slots: int | None = None,
    workers: int | None = None,
) -> Runs:
    """Run every program on every layout.

    Args:
      task: the task.
      programs: nodes int32 [P, N] (`dsl/encode.py`), or programs.
      layouts: E layouts of the task (`Task.layouts`).
      engine: "sequential" or "lanes"; by default the faster one here.
      block: programs of one batch, at most.
      slots: slots of the first WHILE memory, a power of two.
      workers: threads that run batches; by default one per CPU core on CPU, else one.

    Returns: the outcome of the P x E runs. It depends on none of `engine`, `block`, `slots` and `workers`.
    """
    if isinstance(task, HostTask):
        return host.evaluate(task, programs, layouts)
    if not isinstance(programs, np.ndarray):
        programs = encode.encode_all(programs, task.language)
    count, episodes = len(programs), len(layouts.units)
    if episodes > MOST_LANES:
        again = functools.partial(evaluate, task, programs, engine=engine, block=block, slots=slots, workers=workers)
        runs = [again(_layout_slice(layouts, first, MOST_LANES)) for first in range(0, episodes, MOST_LANES)]
        return Runs(*(np.concatenate(columns, axis=1) for columns in zip(*runs, strict=True)))
    nothing = Scale(np.zeros(episodes, np.int64), 1)  # no return is compared, so their units need not go together
    batches = _batches(task, programs, layouts, nothing, engine, slots)
    workers = workers or _workers()
    least = 1 if workers == 1 else min(SHARES * workers, max(workers, count // SMALL))
    parts = max(-(-count // max(1, min(block, MOST_LANES // episodes))), min(least, count))
    found = np.zeros((count, episodes, 4), np.int32)
    jobs = [functools.partial(batches.run_programs, programs[part::parts]) for part in range(parts)]
    for part, rows in enumerate(_in_threads(jobs, workers)):
        found[part::parts] = rows
    return Runs(*np.moveaxis(found, -1, 0))


def first_better(
    task: Task | HostTask,
    question: Neighbourhoods,
    layouts: Layout,
    *,
    engine: str | None = None,
    slots: int | None = None,
    workers: int | None = None,
) -> Improvements:
    """Return how the neighbourhoods of S programs fare: the first neighbour with a higher score, if there is one.

    Much of what `evaluate` would run is left out (`sequential.py`, `lanes.py`), and no answer changes. The arguments
    are those of `evaluate`, the question's arrays are of numpy.
    """
    if isinstance(task, HostTask):
        return host.first_better(task, question, layouts)
    workers = workers or _workers()
    (active,) = np.nonzero(question.counts >= 0)
    if not len(active):
        return Improvements(*np.zeros((3, len(question.counts)), np.int32))
    question = _widened(question, max(1, question.programs.shape[1]))
    programs = np.concatenate([question.parents, question.programs.reshape(-1, question.programs.shape[-1])])
    batches = _batches(task, programs, layouts, Scale.of(layouts), engine, slots)
    answer = Improvements(*np.zeros((3, len(question.counts)), np.int32))
    if len(active) >= 2 * workers:  # some searches to each thread
        size = 1 << max(0, (len(active) // (SHARES * workers)).bit_length() - 1)
        shares = [active[first : first + size] for first in range(0, len(active), size)]
        jobs = [functools.partial(batches.first_better, _rows(question, rows, size)) for rows in shares]
        for rows, part in zip(shares, _in_threads(jobs, workers), strict=True):
            for column, new in zip(answer, part, strict=True):
                column[rows] = new[: len(rows)]
        return answer
    # Each thread every n-th neighbour of a search; with room for all that can be left, so that one size is compiled.
    mine = _rows(question, active, min(len(question.counts), 2 * workers))
    parts = _in_threads(
        [functools.partial(batches.first_better, _every(mine, part, workers)) for part in range(workers)], workers
    )
    none = question.programs.shape[1] * workers
    parts = [Improvements(*(column[: len(active)] for column in part)) for part in parts]
    first = np.stack([np.where(part.first < 0, none, part.first * workers + i) for i, part in enumerate(parts)])
    best = np.argmin(first, axis=0)[None]
    answer.score[active] = parts[0].score
    answer.first[active] = np.where(first.min(axis=0) < none, first.min(axis=0), -1)
    answer.better[active] = np.take_along_axis(np.stack([part.better for part in parts]), best, axis=0)[0]
    return answer


def scores(
    task: Task | HostTask, programs: np.ndarray, wanted: np.ndarray, layouts: Layout, *, workers: int | None = None
) -> np.ndarray:
    """Return the scores (`Scale.scores`) of programs int32 [S, B, N], int32 [S, B]: 0 where `wanted`, bool [S, B], is
    false. Equal programs run once."""
    found = np.zeros(wanted.shape, np.int32)
    distinct, index = np.unique(programs[wanted], axis=0, return_inverse=True)
    found[wanted] = Scale.of(layouts).scores(evaluate(task, distinct, layouts, workers=workers).units)[index]
    return found


def _batches(
    task: Task, programs: np.ndarray, layouts: Layout, scale: Scale, engine: str | None, slots: int | None
) -> Any:
    engine = engine or ("sequential" if has_whole_loops() else "lanes")
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if programs[..., MOST_NODES:].any():
        size = int(np.count_nonzero(programs, axis=-1).max())
        raise UserError(f"a program has {size:,} nodes, more than the {MOST_NODES} that instructions can address")
    bits = counter_bits(programs)
    options = {"bits": bits, "words": counter_words(programs, bits)} | ({"slots": slots} if slots else {})
    return ENGINES[engine](task, jax.tree.map(jnp.asarray, layouts), scale, **options)


def _layout_slice(layouts: Layout, first: int, count: int) -> Layout:
    return jax.tree.map(lambda leaf: leaf[first : first + count], layouts)


def _rows(question: Neighbourhoods, rows: np.ndarray, size: int) -> Neighbourhoods:
    """Return some searches' neighbourhoods, filled up to `size` with ones of which nothing is wanted."""
    part = Neighbourhoods(*(leaf[np.resize(rows, size)] for leaf in question))
    return part._replace(counts=np.where(np.arange(size) < len(rows), part.counts, -1).astype(np.int32))


def _every(question: Neighbourhoods, first: int, step: int) -> Neighbourhoods:
    """Return every `step`-th neighbour from the `first` one on, filled up to the same number for each `first`."""
    counts = np.maximum(0, -(-(question.counts - first) // step)).astype(np.int32)
    padded = _widened(question, -(-question.programs.shape[1] // step) * step)
    return Neighbourhoods(padded.parents, padded.programs[:, first::step], padded.changed[:, first::step], counts)


def _widened(question: Neighbourhoods, width: int) -> Neighbourhoods:
    """Return the question with room for `width` neighbours of each program."""
    extra = ((0, 0), (0, width - question.programs.shape[1]), (0, 0))
    return question._replace(programs=np.pad(question.programs, extra), changed=np.pad(question.changed, extra))


def _in_threads(jobs: Sequence[Callable[[], Any]], workers: int) -> list[Any]:
    if workers == 1:
        return [job() for job in jobs]
    return list(_pool(workers).map(lambda job: job(), jobs))


@functools.cache
def _pool(workers: int) -> concurrent.futures.ThreadPoolExecutor:
    # Kept, since beginning threads takes as long as running some dozens of programs.
    return concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="evaluate")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _workers() -> int:
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
