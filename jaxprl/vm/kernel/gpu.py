"""Runs programs by kernels on a GPU, as array code: it can be part of any jitted function.

Nothing here waits for the host. Whoever calls it looks whether a memory became full (`Answers.crowded`, or outcomes
that are still RUNNING) and runs these again with a larger one.

Axis letters: P programs, E layouts, S searches, B neighbours of a search, N nodes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.codegen.compiler import Unavailable
from jaxprl.codegen.launch import Call, Launcher
from jaxprl.codegen.stablehlo import Unsupported
from jaxprl.search.protocol import Improvements, Neighbourhoods
from jaxprl.vm.compile import TRACED
from jaxprl.vm.instruction import WORDS
from jaxprl.vm.kernel import gpu_worker, pieces
from jaxprl.vm.kernel.gpu_worker import BLOCKS, THREADS
from jaxprl.vm.machine import Machine
from jaxprl.vm.memory import SLOT_WORDS
from jaxprl.vm.outcomes import COLUMNS, score_to_beat

MEMORY_BYTES = 2**30
"""Memory of WHILE that one launch may take."""
CACHE_BYTES = 200_000
"""Cache of a multiprocessor, in bytes, that the arrays of its runs may fill. This limits the number of blocks."""
COMPILING = 8192
"""Threads that make instructions, at most: each of them takes some kilobytes."""


class Memory(NamedTuple):
    """The memories of WHILE of all threads, which launch after launch uses without clearing them."""

    tables: jax.Array  # uint32 [threads * slots * SLOT_WORDS]
    earlier: jax.Array  # uint32: runs that have used them


class Answers(NamedTuple):
    """The answer to a question, as far as the memories went."""

    improvements: Improvements
    crowded: jax.Array  # bool [S]: whether a memory became full, so that the answer means nothing


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The compiled kernels of a task."""

    code: str
    launcher: Launcher
    slots: int  # slots of each thread's memory of WHILE
    nodes: int  # one of `pieces.WIDTHS`
    run_bytes: int  # arrays of a run
    scratch: int  # bytes that it takes to make the instructions of a program

    @property
    def threads(self) -> int:
        """Threads of a launch, at most."""
        if self.launcher.most_threads is not None:
            return self.launcher.most_threads
        blocks = max(2, min(BLOCKS, CACHE_BYTES // (THREADS * max(1, self.run_bytes))))
        threads = self.launcher.multiprocessors * blocks * THREADS
        return max(THREADS, min(threads, MEMORY_BYTES // (4 * SLOT_WORDS * self.slots) // THREADS * THREADS))

    def call(self, name: str, count: int, most: int) -> Call:
        """Return the launch of a kernel with a thread for each of `count` things, or with `most` threads."""
        block = min(THREADS, most)
        blocks = -(-min(count, most) // block)
        if self.launcher.most_threads is not None:
            blocks = most // block
        return Call(name, blocks, block)

    @property
    def memory_words(self) -> int:
        """Words of the memories of all threads of a device."""
        return self.threads * self.slots * SLOT_WORDS


def kernel_of(
    machine: Machine, layouts: pieces.Leaves, nodes: int, launcher: Launcher, *, proceeds: bool = False
) -> Kernel:
    """Return the kernels of a task.

    Args:
      machine: what all runs share.
      layouts: the leaves of the task's layouts.
      nodes: nodes of a program, one of `pieces.WIDTHS`.
      launcher: where they run.
      proceeds: whether they are those for `proceed`, or for the rest.

    Raises:
      Unsupported: a rule of the task has an operation that is not translated.
      Unavailable: they cannot be compiled or launched here.
    """
    found = _kernel_of(machine, layouts, nodes, launcher, proceeds)
    if not isinstance(found, Kernel):
        raise found.anew()
    return found


@functools.lru_cache(256)
def _kernel_of(
    machine: Machine, layouts: pieces.Leaves, nodes: int, launcher: Launcher, proceeds: bool
) -> Kernel | Unavailable | Unsupported:
    try:
        written = gpu_worker.write(machine, layouts, nodes, proceeds=proceeds)
        code = launcher.compiled(written.text)
    except (Unavailable, Unsupported) as reason:
        return reason.anew()
    return Kernel(code, launcher, machine.slots, nodes, written.run_bytes, written.scratch)


def forget() -> None:
    """Forget all kernels, so that they are made anew, with other constants for instance."""
    _kernel_of.cache_clear()


def _launch(
    kernel: Kernel,
    call: Call,
    operands: list[jax.Array],
    results: list[jax.ShapeDtypeStruct],
    *,
    changed: Sequence[jax.Array] = (),
) -> list[jax.Array]:
    """Launch a kernel whose first results are the arrays `changed`, which it changes in place."""
    aliases = tuple((len(operands) + number, number) for number in range(len(changed)))
    like = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in changed]
    call = dataclasses.replace(call, aliases=aliases)
    return kernel.launcher.launch(kernel.code, call, [*operands, *changed], [*like, *results])


def _shape(*shape: int, dtype: type = np.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def run_programs(
    kernel: Kernel, leaves: list[jax.Array], programs: jax.Array, count: jax.Array, memory: Memory
) -> tuple[jax.Array, Memory]:
    """Run programs on every layout.

    Args:
      kernel: the kernels.
      leaves: the leaves of the layouts, [E, ...].
      programs: int32 [P, N].
      count: int32, how many of the programs are run.
      memory: the memories, which are used up.

    Returns:
      Packed outcomes, int32 [P, E, COLUMNS], RUNNING where a memory became full, and the memories.
    """
    rows, episodes = programs.shape[0], leaves[0].shape[0]
    running = kernel.call("run_programs", rows * episodes, kernel.threads)
    workers = running.blocks * running.threads
    sizes = jnp.stack([count, jnp.int32(episodes), jnp.int32(workers)])
    codes, tickets = _codes(kernel, sizes, programs)
    operands = [*leaves, sizes, codes, memory.earlier.reshape(1)]
    results = [_shape(rows, episodes, COLUMNS)]
    _, tables, outcomes = _launch(kernel, running, operands, results, changed=[tickets, memory.tables])
    used = (count * episodes).astype(np.uint32)
    return outcomes, Memory(tables, memory.earlier + used)


def _codes(kernel: Kernel, sizes: jax.Array, programs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the instructions of programs, uint32 [P, N, WORDS], and the counter of tickets.

    Args:
      kernel: the kernels.
      sizes: int32 [3]: how many of the programs are run, on how many layouts each, and by how many threads.
      programs: int32 [P, N].
    """
    rows = programs.shape[0]
    compiling = kernel.call("compile_programs", rows, min(COMPILING, kernel.threads))
    scratch = compiling.blocks * compiling.threads * kernel.scratch
    results = [_shape(rows, kernel.nodes, WORDS, dtype=np.uint32), _shape(1), _shape(scratch, dtype=np.uint8)]
    codes, tickets, _ = _launch(kernel, compiling, [sizes, programs], results)
    return codes, tickets


def proceed(
    kernel: Kernel, leaves: list[jax.Array], programs: jax.Array, count: jax.Array, memory: Memory
) -> tuple[jax.Array, list[jax.Array], Memory]:
    """Run programs, each on a start of its own.

    Args:
      kernel: the kernels.
      leaves: the leaves of the starts, [P, ...].
      programs: int32 [P, N].
      count: int32, how many of the programs are run.
      memory: the memories, which are used up.

    Returns:
      Packed outcomes, int32 [P, COLUMNS], RUNNING where a memory became full; the leaves of the states and the progress
      in which the runs ended, [P, ...]; and the memories.
    """
    rows = programs.shape[0]
    running = kernel.call("proceed_programs", rows, kernel.threads)
    sizes = jnp.stack([count, jnp.int32(1), jnp.int32(running.blocks * running.threads)])
    codes, tickets = _codes(kernel, sizes, programs)
    operands = [*leaves, sizes, codes, memory.earlier.reshape(1)]
    results = [_shape(rows, COLUMNS), *(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)]
    _, tables, outcomes, *ends = _launch(kernel, running, operands, results, changed=[tickets, memory.tables])
    return outcomes, ends, Memory(tables, memory.earlier + count.astype(np.uint32))


def first_better(
    kernel: Kernel,
    leaves: list[jax.Array],
    weights: jax.Array,
    most: int,
    question: Neighbourhoods,
    memory: Memory,
) -> tuple[Answers, Memory]:
    """Find the first better neighbour of S programs; see `evaluate.first_better`.

    Args:
      kernel: the kernels.
      leaves: the leaves of the layouts, [E, ...].
      weights: score of one unit on each layout, int32 [E].
      most: score of a return of 1 on one layout.
      question: the question, arrays.
      memory: the memories, which are used up.

    Returns:
      The answer and the memories.
    """
    episodes = leaves[0].shape[0]
    searches, width, nodes = question.programs.shape
    margins = jnp.zeros((searches, width), np.int32) if question.margins is None else jnp.asarray(question.margins)
    rows = (1 + width) * searches
    running = kernel.call("first_better", rows * episodes, kernel.threads)
    sizes = jnp.array([episodes, searches, width, most, running.blocks * running.threads], np.int32)
    preparing = kernel.call("prepare_question", rows, min(COMPILING, kernel.threads))
    scratch = preparing.blocks * preparing.threads * kernel.scratch
    codes, traces, marks, *state, _ = _launch(
        kernel,
        preparing,
        [sizes, question.parents, question.programs, question.counts],
        [
            _shape(1 + width, searches, nodes, WORDS, dtype=np.uint32),
            _shape(searches, nodes, TRACED // 32, dtype=np.uint32),
            _shape(searches, width, dtype=np.uint32),
            *(_shape(1 + width, searches) for _ in ("highest", "left")),
            *(_shape(searches) for _ in ("first", "crowded")),
            _shape(searches, episodes),
            _shape(1),
            _shape(scratch, dtype=np.uint8),
        ],
    )
    (state[0],) = _launch(
        kernel,
        kernel.call("leave_out_known", rows, kernel.threads),
        [sizes, question.parents, question.programs, margins, marks],
        [],
        changed=state[:1],
    )
    highest, left, _, crowded, _, _, tables, _ = _launch(
        kernel,
        running,
        [*leaves, sizes, weights, codes, traces, question.changed, margins, memory.earlier.reshape(1)],
        [_shape(searches, episodes, TRACED // 32, dtype=np.uint32)],
        changed=[*state, memory.tables],
    )
    score = highest[0]
    least = score_to_beat(jnp.broadcast_to(score, (width, searches)), margins.T)
    beats = (left[1:] == 0) & (highest[1:] > least)
    first = jnp.where(jnp.any(beats, axis=0), jnp.argmax(beats, axis=0), -1).astype(np.int32)
    better = jnp.take_along_axis(highest[1:], jnp.maximum(first, 0)[None], axis=0)[0]
    found = Improvements(score, first, jnp.where(first >= 0, better, 0))
    idle = jnp.asarray(question.counts) < 0
    found = Improvements(*(jnp.where(idle, 0, jnp.asarray(column)) for column in found))
    earlier = memory.earlier + np.uint32(rows * episodes)
    return Answers(found, (crowded != 0) & ~idle), Memory(tables, earlier)
