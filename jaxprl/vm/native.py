"""The engine of a C compiler: runs one after the other, in as many threads as are asked for.

The text that is compiled is written from the rules that every engine has (`kernel/worker.py`), so the outcomes are the
same. A run costs what its own steps cost, and for `first_better` most runs are left out (`pruning.py`). The threads
take tickets, one for each neighbour: as long as there is one, no core waits for another.

Axis letters: P programs, E layouts, S searches, B neighbours of a search, N nodes.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxprl.codegen import compiler
from jaxprl.codegen.compiler import Unavailable
from jaxprl.codegen.stablehlo import Unsupported
from jaxprl.codegen.threads import in_threads
from jaxprl.errors import UserError
from jaxprl.search.protocol import Improvements, Neighbourhoods
from jaxprl.types import Array
from jaxprl.vm import sequential
from jaxprl.vm.kernel import pieces, proceeding, worker
from jaxprl.vm.layouts import rows_of
from jaxprl.vm.machine import GROWTH, Machine
from jaxprl.vm.memory import SLOT_WORDS
from jaxprl.vm.outcomes import COLUMNS, RUNNING, unpack
from jaxprl.vm.sharing import Ended, Work, put
from jaxprl.worlds.task import Layout, Task

FEW = 4
"""Programs for which it is not worth while to wake another thread."""
MANY = 64
"""The same for `proceed`, where a program is one run."""
MOST_TICKETS = 2**30
"""Parts of the work of one call, and rows of its tables, so that an int32 counts them."""
PARTS = 4
"""Parts of the work on a parent for each thread, if there are fewer searches than threads."""


@dataclasses.dataclass(frozen=True)
class Batches(Work):
    """The engine, for one call."""

    slots: int = 4096  # slots of the memory of WHILE, a power of two

    def missing(self, nodes: int) -> Unavailable | Unsupported | None:
        """Return why the engine cannot run programs with room for `nodes` nodes here; None if it can."""
        kernel = self._kernel_for(nodes)
        return None if isinstance(kernel, Kernel) else kernel

    def run_programs(self, programs: np.ndarray, workers: int, block: int) -> np.ndarray:
        """Run programs int32 [P, N] on every layout and return packed outcomes, int32 [P, E, COLUMNS].

        A thread takes one program after the other, so that `block` means nothing here.
        """
        kernel, programs = self._kernel(programs)
        found = np.zeros((len(programs), len(self.layouts.units), COLUMNS), np.int32)
        batch = kernel.structure(worker.BATCH)(*self._leaves, *map(_pointer, (programs, found)), *found.shape[:2], 0)

        def work() -> None:
            memory = self._memory()
            kernel.functions.run_programs(ctypes.byref(batch), _pointer(memory))

        workers = min(workers, -(-len(programs) // FEW))
        in_threads([work] * workers, workers)
        crowded = np.flatnonzero((unpack(found).end == RUNNING).any(axis=1))
        if len(crowded):
            larger = self._enlarged(programs.shape[-1])
            found[crowded] = larger.run_programs(programs[crowded], workers, block)
        return found

    def proceed(self, programs: np.ndarray, workers: int) -> Ended[np.ndarray]:
        """Run programs int32 [P, N], each on a layout of its own."""
        kernel, programs = self._kernel(programs)
        found = Ended.room(self.layouts)
        ends = pieces.leaves_in(found)
        fields = proceeding.structure(pieces.leaves_of(self.layouts))
        shared = kernel.structure(fields)(
            *self._leaves, *map(_pointer, [*ends, programs, found.outcomes]), len(programs), 0
        )

        def work() -> None:
            memory = self._memory()
            kernel.functions.proceed_programs(ctypes.byref(shared), _pointer(memory))

        workers = min(workers, -(-len(programs) // MANY))
        in_threads([work] * workers, workers)
        crowded = np.flatnonzero(unpack(found.outcomes).end == RUNNING)
        if len(crowded):
            rest = dataclasses.replace(self, layouts=rows_of(self.layouts, crowded))
            put(found, crowded, rest._enlarged(programs.shape[-1]).proceed(programs[crowded], workers))
        return found

    def first_better(self, question: Neighbourhoods, workers: int) -> Improvements:
        """Find the first better neighbour of S programs; see `evaluate.first_better`."""
        (active,) = np.nonzero(np.asarray(question.counts) >= 0)
        found = Improvements(*np.zeros((3, len(question.counts)), np.int32))
        if len(active) < len(question.counts):
            question = jax.tree.map(lambda leaf: np.asarray(leaf)[active], question)
        columns = self._answers(question, workers)
        for column, new in zip(found, columns, strict=True):
            column[active] = new
        return found

    def _answers(self, question: Neighbourhoods, workers: int) -> Sequence[np.ndarray]:
        """Return the columns of the answer to a question in which no search is idle."""
        searches, width = question.programs.shape[:2]
        episodes = len(self.layouts.units)
        kernel, parents = self._kernel(question.parents)
        _, programs = self._kernel(question.programs)
        given = [self.scale.weights, parents, programs, question.changed, question.margins, question.counts]
        if question.margins is None:
            given[4] = np.zeros((searches, width), np.int32)
        given = [np.ascontiguousarray(each, np.int32) for each in given]
        parts = 1 if searches >= workers else min(episodes, PARTS * workers)
        tickets = searches * (width + 2 * episodes + parts)
        if tickets > MOST_TICKETS or width > pieces.MOST_NEIGHBOURS or episodes > pieces.MOST_LAYOUTS:
            raise UserError(f"{searches:,} searches with {width:,} neighbours each on {episodes:,} layouts: too many")
        score, crowded = np.zeros((2, searches), np.int32)
        first, left = np.full(searches, width, np.int32), np.full(searches, parts, np.int32)
        better = np.zeros((searches, width), np.int32)
        units, touched = np.zeros((searches, episodes), np.int32), np.zeros((searches, episodes, 2), np.uint32)
        marks = np.zeros((searches, width), np.uint32)
        scratch = [units, touched, marks, left, score, first, better, crowded]
        numbers = [episodes, self.scale.most, searches, width, parts, 0]
        shared = kernel.structure(worker.QUESTION)(*self._leaves, *map(_pointer, [*given, *scratch]), *numbers)

        def work() -> None:
            memory = self._memory()
            kernel.functions.first_better(ctypes.byref(shared), _pointer(memory))

        in_threads([work] * workers, workers)
        is_better = first < width
        first[~is_better] = -1
        found = score, first, np.where(is_better, better[np.arange(searches), np.minimum(first, width - 1)], 0)
        again = np.flatnonzero(crowded)
        if len(again):
            rest = jax.tree.map(lambda leaf: np.asarray(leaf)[again], question)
            part = self._enlarged(programs.shape[-1]).first_better(rest, workers)
            for column, new in zip(found, part, strict=True):
                column[again] = new
        return found

    def _kernel(self, programs: Array) -> tuple[Kernel, np.ndarray]:
        """Return the kernel for programs [..., N], and these with as many nodes as it takes."""
        programs = programs[..., : pieces.WIDTHS[-1]]  # behind these there is nothing
        nodes = programs.shape[-1]
        kernel = self._kernel_for(nodes)
        if not isinstance(kernel, Kernel):
            raise kernel.anew()
        width = pieces.width_of(nodes)
        padding = [(0, 0)] * (programs.ndim - 1) + [(0, width - nodes)]
        wide = np.pad(programs, padding) if width > nodes else programs
        return kernel, np.ascontiguousarray(wide, np.int32)

    def _kernel_for(self, nodes: int) -> Kernel | Unavailable | Unsupported:
        machine = Machine(self.task, self.bits, self.words, self.slots)
        try:
            command = compiler.command()
        except Unavailable as reason:
            return reason
        write = proceeding.write if self.proceeds else worker.write
        return kernel_of(write, (machine, pieces.leaves_of(self.layouts), pieces.width_of(nodes)), command)

    @functools.cached_property
    def _arrays(self) -> list[np.ndarray]:
        return pieces.arrays_of(self.layouts)

    @property
    def _leaves(self) -> list[ctypes.c_void_p]:
        return [_pointer(array) for array in self._arrays]

    def _memory(self) -> np.ndarray:
        """Return an empty memory of WHILE for one thread. Runs are numbered from 1 on, so that it begins empty."""
        return np.zeros(SLOT_WORDS * self.slots, np.uint32)

    def _enlarged(self, nodes: int) -> Batches | sequential.Batches:
        """Return the engine with a larger memory; that of XLA if the C compiler has ceased to work."""
        larger = dataclasses.replace(self, slots=GROWTH * self.slots)
        if larger.missing(nodes) is None:
            return larger
        own = self.task, self.layouts, self.scale, self.bits, self.words, larger.slots
        return sequential.Batches(*own, proceeds=self.proceeds)


def prepare(task: Task, layouts: Layout) -> None:
    """Compile what most programs of a task need, in a thread of its own, so that it is ready when the first one comes.

    Args:
      task: the task.
      layouts: stacked layouts.
    """
    key = pieces.usual(task, layouts, Batches.slots)

    def work() -> None:
        with contextlib.suppress(Unavailable):
            kernel_of(worker.write, key, compiler.command())

    # Not a daemon: a process must not end in the middle of what JAX does in C++.
    threading.Thread(target=work, name="prepare").start()


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A compiled text."""

    functions: ctypes.CDLL
    leaves: tuple[str, ...]  # names of the leaves of the layouts

    def structure(self, fields: tuple[tuple[str, ...], tuple[str, ...]]) -> type[ctypes.Structure]:
        """Return the structure through which a function is called: the leaves, and pointers and numbers behind them."""
        return _structure(self.leaves, *fields)


Text = tuple[Machine, pieces.Leaves, int]
"""What a text is made from: what all runs share, the leaves of the layouts, and one of `pieces.WIDTHS`."""


@functools.cache
def _lock() -> threading.Lock:
    return threading.Lock()


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads, one of which may hold the lock
    os.register_at_fork(after_in_child=_lock.cache_clear)


def kernel_of(write: Callable[..., str], text: Text, command: tuple[str, ...]) -> Kernel | Unavailable | Unsupported:
    """Return the kernel of a text, or why there is none.

    Args:
      write: writes the text (`worker.write`, `proceeding.write`).
      text: what it is made from.
      command: the compiler's.
    """
    with _lock():  # a thread that asks for what another one is making waits for it
        return _kernel_of(write, text, command)


@functools.lru_cache(compiler.KEPT)
def _kernel_of(write: Callable[..., str], text: Text, command: tuple[str, ...]) -> Kernel | Unavailable | Unsupported:
    try:
        functions = compiler.load(write(*text), command)
    except (Unavailable, Unsupported) as reason:
        return reason.anew()
    return Kernel(functions, tuple(leaf.name for leaf in text[1].leaves))


@functools.lru_cache(compiler.KEPT)
def _structure(names: Sequence[str], pointers: Sequence[str], numbers: Sequence[str]) -> type[ctypes.Structure]:
    fields = [(name, ctypes.c_void_p) for name in [*names, *pointers]] + [(name, ctypes.c_int32) for name in numbers]
    return type("Structure", (ctypes.Structure,), {"_fields_": fields})


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    """Return the address of an array, which has to be kept as long as it is used."""
    return ctypes.c_void_p(array.ctypes.data)
