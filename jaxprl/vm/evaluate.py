"""Programs x layouts -> returns: the one door to the batched interpreter.

All runs go in lanes that step together, a chunk of steps at a time. After a chunk the lanes that have ended hand in
their result and the others move into a smaller batch; memories grow when enough lanes need it. None of the sizes
changes any result.

A search wants less than all returns (`Contest`): whether a program beats a score, and which one is the first. Since a
return is at most 1, a program is dropped as soon as its ended runs leave no way to beat the score; and once a program
has beaten it, those behind it in its group are dropped. Both are exact: no decision of a search changes.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import math
import os
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import ast, encode
from jaxprl.dsl.compile import counter_bits, counter_words, instructions
from jaxprl.vm import host, interpreter
from jaxprl.vm.interpreter import Lanes
from jaxprl.worlds.task import HostTask, Layout, Task

BLOCK = 512
"""Programs whose runs start together, at most."""
MOST_LANES = 2**15
"""Runs that start together, at most."""
FIRST_SLOTS = 64
"""Slots of the first WHILE memory, a power of two."""
STEPS = 32
"""Steps of a chunk."""
CROWDED = 0.2
"""Share of a batch's lanes whose memory may be full before all memories grow."""
SMALLEST = 64
"""Lanes of the smallest batch."""
GROWTH = 4
MEMORY_BYTES = 2**28
"""WHILE memory that one batch may take; larger batches are halved."""


class Runs(NamedTuple):
    """Outcome of every run: numpy int32 arrays [P, E]."""

    units: np.ndarray
    """Return in units of the layout (`Layout.units` make a return of 1)."""
    calls: np.ndarray
    actions: np.ndarray
    end: np.ndarray
    """Code in `interpreter.END_NAMES`; RUNNING or DROPPED where the run was not needed to its end."""

    @property
    def complete(self) -> np.ndarray:
        """bool [P]: all runs of the program have ended."""
        return ((self.end != interpreter.RUNNING) & (self.end != interpreter.DROPPED)).all(axis=1)


class Scale(NamedTuple):
    """Exact arithmetic of mean returns: a mean is `score / denominator`, both integers."""

    weights: np.ndarray  # int64 [E]
    denominator: int

    @classmethod
    def of(cls, layouts: Layout) -> Scale:
        units = np.asarray(layouts.units, np.int64)
        common = math.lcm(*units.tolist())
        return cls(common // units, common * len(units))

    @property
    def most(self) -> int:
        """Score of a return of 1 on one layout."""
        return self.denominator // len(self.weights)

    def scores(self, units: np.ndarray) -> np.ndarray:
        """Return the mean returns of units [..., E] as int64 numerators [...]."""
        return units.astype(np.int64) @ self.weights


class Contest(NamedTuple):
    """What a search wants to know of P programs."""

    beat: np.ndarray
    """int32 [P]: only programs with a higher score matter (`Scale.scores`); `ANY`: it is wanted exactly."""
    group: np.ndarray
    """int32 [P]: of one group only the first program that beats its score matters, and those before it."""


ANY = -(2**31)
"""Score to beat of a program whose score is wanted exactly."""


def evaluate(
    task: Task | HostTask,
    programs: np.ndarray | Iterable[ast.Program],
    layouts: Layout,
    *,
    contest: Contest | None = None,
    block: int = BLOCK,
    steps: int = STEPS,
    slots: int = FIRST_SLOTS,
    workers: int | None = None,
) -> Runs:
    """Run every program on every layout.

    Args:
      task: the task.
      programs: nodes int32 [P, N] (`dsl/encode.py`), or programs.
      layouts: E layouts of the task (`Task.layouts`).
      contest: what is wanted of the programs; by default every return.
      block: programs whose runs start together.
      steps: steps of a chunk.
      slots: slots of the first WHILE memory, a power of two.
      workers: threads that run blocks; by default one per CPU core on CPU, else one.

    Returns: the outcome of the P x E runs. It depends on none of `block`, `steps`, `slots` and `workers`, except for
    which of the programs that do not matter are incomplete.
    """
    if isinstance(task, HostTask):
        return Runs(*host.evaluate(task, programs, layouts, *(contest or ())))
    if not isinstance(programs, np.ndarray):
        programs = encode.encode_all(programs, task.language)
    count, episodes = len(programs), len(layouts.units)
    if episodes > MOST_LANES and contest is None:
        again = functools.partial(evaluate, task, programs, block=block, steps=steps, slots=slots, workers=workers)
        runs = [again(_layout_slice(layouts, first, MOST_LANES)) for first in range(0, episodes, MOST_LANES)]
        return Runs(*(np.concatenate(columns, axis=1) for columns in zip(*runs, strict=True)))
    contest = contest or Contest(np.full(count, ANY, np.int32), np.zeros(count, np.int32))
    bits = counter_bits(programs)
    batches = _Batches(
        task, jax.tree.map(jnp.asarray, layouts), Scale.of(layouts), steps, slots, bits, counter_words(programs, bits)
    )
    workers = workers or _workers()
    block = max(1, min(block, MOST_LANES // episodes))
    parts = max(-(-count // block), min(workers, count))
    shares = [slice(part, None, parts) for part in range(parts)]
    found = np.zeros((count, episodes, 4), np.int32)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(batches.evaluate, programs[part], *(leaf[part] for leaf in contest)) for part in shares]
        for part, job in zip(shares, jobs, strict=True):
            found[part] = job.result()
    return Runs(*np.moveaxis(found, -1, 0))


def _layout_slice(layouts: Layout, first: int, count: int) -> Layout:
    return jax.tree.map(lambda leaf: leaf[first : first + count], layouts)


def contest_scores(
    task: Task | HostTask,
    programs: np.ndarray,
    layouts: Layout,
    scale: Scale,
    contest: Contest,
    *,
    workers: int | None = None,
) -> np.ndarray:
    """Return the programs' scores, int32 [P]; `ANY`, below every score, for those that do not matter."""
    runs = evaluate(task, programs, layouts, contest=contest, workers=workers)
    return np.where(runs.complete, scale.scores(runs.units), ANY).astype(np.int32)


def _workers() -> int:
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class _Batches:
    """What the batches of one call share."""

    task: Task
    layouts: Layout
    scale: Scale
    steps: int
    slots: int
    bits: int
    words: int

    def evaluate(self, programs: np.ndarray, beat: np.ndarray, group: np.ndarray) -> np.ndarray:
        """Return units, calls, actions and end of a block's runs, int32 [P, E, 4]."""
        count, episodes = len(programs), len(self.layouts.units)
        size = _batch_size(count * episodes)
        padded = -(-size // episodes)
        extra = padded - count
        code = instructions(jnp.asarray(np.pad(programs, ((0, extra), (0, 0)))), bits=self.bits)
        wanted = _Wanted(
            jnp.asarray(np.pad(beat, (0, extra), constant_values=ANY)),
            jnp.asarray(np.pad(group, (0, extra))),
            jnp.asarray(self.scale.weights, jnp.int32),
            jnp.int32(self.scale.most),
        )
        lanes = _start(self.layouts, jnp.int32(count), size=size, words=self.words, slots=self.slots)
        results = jnp.zeros((padded * episodes + 1, 4), jnp.int32)
        waiting = [lanes]
        while waiting:
            results = self._finish(code, wanted, waiting.pop(), results, waiting)
        return np.asarray(results)[: count * episodes].reshape(count, episodes, 4)

    def _finish(self, code: jax.Array, wanted: _Wanted, lanes: Lanes, results: jax.Array, waiting: list[Lanes]):
        """Step a batch until all its lanes have ended, and return the results with theirs.

        Where a batch would take too much memory, half of its lanes are put into `waiting`.
        """
        while True:
            lanes, results, counts = _advance(self.task, code, wanted, lanes, results, bits=self.bits, steps=self.steps)
            alive, full = np.asarray(counts).tolist()
            if not alive:
                return results
            size, slots, _ = lanes.memory.shape
            target = min(size, _batch_size(alive))
            if full > alive * CROWDED:
                slots *= GROWTH
            if target < size or slots > lanes.memory.shape[1]:
                lanes = _compact(lanes, size=target, slots=slots)
            if target > SMALLEST and lanes.memory.nbytes > MEMORY_BYTES:
                rest, lanes = _halves(lanes)
                waiting.append(rest)


class _Wanted(NamedTuple):
    """A block's `Contest` and `Scale`, on the device."""

    beat: jax.Array  # int32 [P]
    group: jax.Array  # int32 [P]
    weights: jax.Array  # int32 [E]
    most: jax.Array  # int32


def _halves(lanes: Lanes) -> tuple[Lanes, Lanes]:
    middle = len(lanes.end) // 2
    return jax.tree.map(lambda leaf: leaf[middle:], lanes), jax.tree.map(lambda leaf: leaf[:middle], lanes)


def _batch_size(lanes: int) -> int:
    """Return the lanes of the smallest batch that has room: a power of two, of four for small ones.

    Few sizes are compiled; a small batch costs about the same at any size.
    """
    size = max(SMALLEST, 1 << max(0, lanes - 1).bit_length())
    return size if size >= 1024 or size.bit_length() % 2 else 2 * size


@functools.partial(jax.jit, static_argnames=("size", "words", "slots"))
def _start(layouts: Layout, count: jax.Array, *, size: int, words: int, slots: int) -> Lanes:
    """Return the lanes of `count` programs on all layouts, filled up to `size` with ended ones."""
    episodes = len(layouts.units)
    index = jnp.arange(size, dtype=jnp.int32)
    used = index < count * episodes
    run = jnp.where(used, index, -1)
    program = jnp.where(used, index // episodes, 0)
    lanes = interpreter.start(layouts, program, index % episodes, run, words=words, slots=slots)
    return lanes._replace(end=jnp.where(used, interpreter.RUNNING, interpreter.FINISHED))


@functools.partial(jax.jit, static_argnames=("task", "bits", "steps"), donate_argnames=("lanes", "results"))
def _advance(
    task: Task, code: jax.Array, wanted: _Wanted, lanes: Lanes, results: jax.Array, *, bits: int, steps: int
) -> tuple[Lanes, jax.Array, jax.Array]:
    """Return the lanes after a chunk of steps, the results int32 [runs + 1, 4] so far (the last row is for fillers),
    and int32 [2]: how many lanes go on, and how many of them wait for a larger memory."""
    lanes = interpreter.run(task, code, lanes, bits=bits, steps=steps)
    rows = jnp.stack([lanes.units, lanes.calls, lanes.actions, lanes.end], axis=-1)
    results = results.at[lanes.run].set(rows)
    dropped = _settled(wanted, results[:-1])[lanes.program]
    end = jnp.where((lanes.end == interpreter.RUNNING) & dropped, interpreter.DROPPED, lanes.end)
    lanes = lanes._replace(end=end)
    alive = lanes.end == interpreter.RUNNING
    return lanes, results, jnp.stack([jnp.sum(alive), jnp.sum(alive & interpreter.is_full(lanes))])


def _settled(wanted: _Wanted, results: jax.Array) -> jax.Array:
    """Return for which programs the rest of their runs does not matter, bool [P]."""
    programs, episodes = wanted.beat.shape[0], wanted.weights.shape[0]
    units, end = results[:, 0].reshape(programs, episodes), results[:, 3].reshape(programs, episodes)
    ended = (end != interpreter.RUNNING) & (end != interpreter.DROPPED)
    score = jnp.sum(jnp.where(ended, units * wanted.weights[None, :], 0), axis=1)
    highest = score + jnp.sum(~ended, axis=1) * wanted.most
    beats = jnp.all(ended, axis=1) & (score > wanted.beat) & (wanted.beat != ANY)
    index = jnp.arange(programs)
    first = jax.ops.segment_min(jnp.where(beats, index, programs), wanted.group, num_segments=programs)
    return (highest <= wanted.beat) | (index > first[wanted.group])


@functools.partial(jax.jit, static_argnames=("size", "slots"))
def _compact(lanes: Lanes, *, size: int, slots: int) -> Lanes:
    """Return the lanes that go on in a batch of `size` with a memory of `slots`."""
    alive = lanes.end == interpreter.RUNNING
    (kept,) = jnp.nonzero(alive, size=size, fill_value=0)
    filler = jnp.arange(size) >= jnp.sum(alive)
    lanes = jax.tree.map(lambda leaf: leaf[kept], lanes)
    lanes = lanes._replace(run=jnp.where(filler, -1, lanes.run), end=jnp.where(filler, interpreter.FINISHED, lanes.end))
    return interpreter.enlarge(lanes, slots=slots) if slots > lanes.memory.shape[1] else lanes
