"""The work of one call, and how it is shared out to threads."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.codegen.threads import in_threads
from jaxprl.search.protocol import Improvements, Neighbourhoods
from jaxprl.types import PyTree
from jaxprl.vm.layouts import rows_of
from jaxprl.vm.outcomes import COLUMNS, A, Scale
from jaxprl.worlds.task import Layout, Task

SHARES = 4
"""Minimum number of batches per thread. Several of them even out that batches take different times."""

SMALL = 16
"""Minimum number of programs in a batch, if there are more batches than threads: a smaller batch costs more to hand out
than to run."""

T = TypeVar("T")
Answer = Callable[[Neighbourhoods], Improvements]


@dataclasses.dataclass(frozen=True)
class Work:
    """What an engine gets for one call of `evaluate`, `first_better` or `proceed`."""

    task: Task
    layouts: Layout
    scale: Scale
    bits: int  # bits of a REPEAT counter
    words: int  # words of the REPEAT counters of a run
    proceeds: bool = dataclasses.field(default=False, kw_only=True)  # whether the call is one of `proceed`

    def missing(self, nodes: int) -> Exception | None:
        """Return why the engine cannot run programs with room for `nodes` nodes here; None if it can."""
        return None

    @functools.cached_property
    def arrays(self) -> Layout:
        """The layouts as arrays of JAX."""
        return jax.tree.map(jnp.asarray, self.layouts)


class Ended(NamedTuple, Generic[A]):
    """Runs of `proceed` that have ended; every leaf has a leading axis [P]."""

    outcomes: A  # int32 [P, COLUMNS]: packed
    state: PyTree
    progress: PyTree

    @classmethod
    def room(cls, starts: Layout) -> Ended[np.ndarray]:
        """Return room for the runs that begin in P starts."""
        state, progress = jax.tree.map(
            lambda leaf: np.empty_like(leaf, order="C", subok=False), (starts.state, starts.progress)
        )
        return Ended(np.zeros((len(starts.units), COLUMNS), np.int32), state, progress)


def put(ended: Ended[np.ndarray], rows: int | slice | np.ndarray, part: Ended[np.ndarray]) -> None:
    """Put other runs into some rows."""
    for leaf, new in zip(jax.tree.leaves(ended), jax.tree.leaves(part), strict=True):
        leaf[rows] = new


def proceed(
    run: Callable[[np.ndarray, Layout], Ended[np.ndarray]],
    programs: np.ndarray,
    starts: Layout,
    workers: int,
    block: int,
) -> Ended[np.ndarray]:
    """Run programs in shares, each on a start of its own.

    Args:
      run: runs a share, int32 [P, N] and P starts, with one thread.
      programs: int32 [P, N].
      starts: P starts.
      workers: threads.
      block: programs of a share, at most.
    """
    shares = _shares(len(programs), workers, block)
    found = Ended.room(starts)
    jobs = [functools.partial(run, programs[rows], rows_of(starts, rows)) for rows in shares]
    for rows, part in zip(shares, in_threads(jobs, workers), strict=True):
        put(found, rows, part)
    return found


def run_programs(
    run: Callable[[np.ndarray], np.ndarray], programs: np.ndarray, episodes: int, workers: int, block: int
) -> np.ndarray:
    """Run programs in shares.

    Args:
      run: runs a share with one thread; int32 [P, N] to packed outcomes, int32 [P, E, COLUMNS].
      programs: int32 [P, N].
      episodes: E, the number of layouts.
      workers: threads.
      block: programs of a share, at most.

    Returns:
      Packed outcomes, int32 [P, E, COLUMNS].
    """
    shares = _shares(len(programs), workers, block)
    found = np.zeros((len(programs), episodes, COLUMNS), np.int32)
    jobs = [functools.partial(run, programs[rows]) for rows in shares]
    for rows, part in zip(shares, in_threads(jobs, workers), strict=True):
        found[rows] = part
    return found


def _shares(count: int, workers: int, block: int) -> list[slice]:
    """Return which of `count` programs each share has. Of three shares, each has every third program."""
    least = 1 if workers == 1 else min(SHARES * workers, max(workers, count // SMALL))
    shares = max(-(-count // block), min(least, count))
    return [slice(share, None, shares) for share in range(shares)]


def first_better(answer: Answer, question: Neighbourhoods, workers: int) -> Improvements:
    """Answer a question in shares.

    Args:
      answer: answers a share, with one thread.
      question: the question, numpy arrays.
      workers: threads.

    Returns:
      The answer, int32 [S]; 0 where a search is idle.
    """
    found = Improvements(*np.zeros((3, len(question.counts)), np.int32))
    (active,) = np.nonzero(question.counts >= 0)
    if not len(active):
        return found
    share = _share_searches if len(active) >= 2 * workers else _share_neighbours
    for rows, part in share(answer, question, active, workers):
        for column, new in zip(found, part, strict=True):
            column[rows] = new[: len(rows)]
    return found


Answers = Iterable[tuple[np.ndarray, Improvements]]
"""Indices of searches, and the answers to these; further rows of the answers are padding."""


def _share_searches(answer: Answer, question: Neighbourhoods, active: np.ndarray, workers: int) -> Answers:
    """Answer the question for the searches `active`, some of them to a batch: `SHARES` batches or more to a thread."""
    size = 1 << max(0, (len(active) // (SHARES * workers)).bit_length() - 1)
    shares = [active[first : first + size] for first in range(0, len(active), size)]
    jobs = [functools.partial(answer, _rows(question, rows, size)) for rows in shares]
    return zip(shares, in_threads(jobs, workers), strict=True)


def _share_neighbours(answer: Answer, question: Neighbourhoods, active: np.ndarray, workers: int) -> Answers:
    """Answer the question for the few searches `active`, each thread trying every `workers`-th neighbour of each.

    Of two threads, one tries neighbours 0, 2, 4, .. and the other 1, 3, 5, .. If they find number 2 of the former and
    number 1 of the latter, these are neighbours 4 and 3, so neighbour 3 is the answer. The question is padded to the
    largest number of searches that comes here, so that one size is compiled.
    """
    few = _rows(question, active, min(len(question.counts), 2 * workers))
    jobs = [functools.partial(answer, _every(few, part, workers)) for part in range(workers)]
    parts = in_threads(jobs, workers)
    none = few.programs.shape[1] * workers  # larger than the index of any neighbour
    first = np.stack([np.where(part.first < 0, none, part.first * workers + i) for i, part in enumerate(parts)])
    better = np.stack([part.better for part in parts])
    best = np.argmin(first, axis=0)[None]
    found = np.where(first.min(axis=0) < none, first.min(axis=0), -1)
    return [(active, Improvements(parts[0].score, found, np.take_along_axis(better, best, axis=0)[0]))]


def _rows(question: Neighbourhoods, rows: np.ndarray, size: int) -> Neighbourhoods:
    """Return the question for some searches, filled up to `size` with idle ones."""
    part = jax.tree.map(lambda leaf: leaf[np.resize(rows, size)], question)
    return part._replace(counts=np.where(np.arange(size) < len(rows), part.counts, -1).astype(np.int32))


def _every(question: Neighbourhoods, first: int, step: int) -> Neighbourhoods:
    """Return the question for every `step`-th neighbour from the `first` one on, with the same shape for each `first`.

    Of 5 neighbours, with step 2, first 0 gives neighbours 0, 2 and 4, and first 1 gives 1, 3 and one that is padding.
    """
    counts = np.maximum(0, -(-(question.counts - first) // step)).astype(np.int32)
    padded = widened(question, -(-question.programs.shape[1] // step) * step)
    several = padded.programs, padded.changed, padded.margins
    programs, changed, margins = jax.tree.map(lambda leaf: leaf[:, first::step], several)
    return Neighbourhoods(padded.parents, programs, changed, counts, margins)


def widened(question: Neighbourhoods, width: int) -> Neighbourhoods:
    """Return the question with room for `width` neighbours of each program."""
    extra = width - question.programs.shape[1]
    if not extra:
        return question
    several = question.programs, question.changed, question.margins
    programs, changed, margins = jax.tree.map(
        lambda leaf: np.pad(leaf, ((0, 0), (0, extra), *[(0, 0)] * (leaf.ndim - 2))), several
    )
    return question._replace(programs=programs, changed=changed, margins=margins)
