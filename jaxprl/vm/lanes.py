"""Runs in lanes that step together: the engine for accelerators.

A lane is one run. After a chunk of steps the lanes that have ended hand in their result and the others move into a
smaller batch; memories grow when enough lanes need it.

Of a neighbourhood, a program is dropped as soon as its ended runs leave no way to be better, since a return is at most
1, and those behind a better one are dropped. No decision of a search changes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprl.dsl.compile import instructions
from jaxprl.vm import interpreter
from jaxprl.vm.interpreter import DROPPED, FINISHED, RUNNING, Instruction, Run
from jaxprl.vm.memory import Lockstep
from jaxprl.vm.runs import Improvements, Neighbourhoods, Runs, Scale
from jaxprl.worlds.task import Layout, Task

MOST_LANES = 2**15
"""Runs that start together, at most."""
CROWDED = 0.2
"""Share of a batch's lanes whose memory may be full before all memories grow."""
SMALLEST = 64
"""Lanes of the smallest batch."""
GROWTH = 4
MEMORY_BYTES = 2**28
"""WHILE memory that one batch may take; larger batches are halved."""


ANY = -(2**31)
"""Score to beat of a program whose score is wanted exactly."""


class Contest(NamedTuple):
    """What is wanted of P programs."""

    beat: Any  # int32 [P]: only programs with a higher score matter
    group: Any  # int32 [P], below P: of one group only the first that beats its score matters, and those before it

    @classmethod
    def none(cls, programs: int) -> Contest:
        """Every return is wanted."""
        return cls(np.full(programs, ANY, np.int32), np.zeros(programs, np.int32))


class Lanes(NamedTuple):
    """L runs; every leaf has a leading axis [L]."""

    run: Run
    program: jax.Array  # int32: row of the instructions
    result: jax.Array  # int32: which result this lane fills


@dataclasses.dataclass(frozen=True)
class Batches:
    """What the batches of one call share."""

    task: Task
    layouts: Layout
    scale: Scale
    bits: int
    words: int
    slots: int = 64
    """Slots of the first WHILE memory, a power of two."""
    steps: int = 32
    """Steps of a chunk."""

    def first_better(self, question: Neighbourhoods) -> Improvements:
        """Return how the neighbourhoods of S programs fare."""
        score = self.scale.scores(self.run_programs(question.parents)[..., 0]).astype(np.int32)
        wanted = np.arange(question.programs.shape[1]) < question.counts[:, None]
        group = np.nonzero(wanted)[0].astype(np.int32)
        runs = Runs(*np.moveaxis(self.run_programs(question.programs[wanted], Contest(score[group], group)), -1, 0))
        better = np.full(wanted.shape, ANY, np.int32)
        better[wanted] = np.where(runs.complete, self.scale.scores(runs.units), ANY)
        beats = better > score[:, None]
        first = np.where(beats.any(axis=1), beats.argmax(axis=1), -1)
        return Improvements(score, first.astype(np.int32), np.take_along_axis(better, first[:, None], axis=1)[:, 0])

    def run_programs(self, programs: np.ndarray, contest: Contest | None = None) -> np.ndarray:
        """Return units, calls, actions and end of the programs' runs, int32 [P, E, 4]; of a contest, what is wanted."""
        count, episodes = len(programs), len(self.layouts.units)
        if not count:
            return np.zeros((0, episodes, 4), np.int32)
        contest = contest or Contest.none(count)
        size = _batch_size(count * episodes)
        padded = -(-size // episodes)
        code = instructions(jnp.asarray(np.pad(programs, ((0, padded - count), (0, 0)))), bits=self.bits)
        wanted = _Wanted(
            jnp.asarray(np.pad(contest.beat, (0, padded - count), constant_values=ANY)),
            jnp.asarray(np.pad(contest.group, (0, padded - count))),
            jnp.asarray(self.scale.weights, jnp.int32),
            jnp.int32(self.scale.most),
        )
        lanes = _spread(_start(self.layouts, code, jnp.int32(count), size=size, words=self.words, slots=self.slots))
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
            size, slots, _ = lanes.run.memory.table.shape
            target = min(size, _batch_size(alive))
            if full > alive * CROWDED:
                slots *= GROWTH
            if target < size or slots > lanes.run.memory.table.shape[1]:
                lanes = _compact(lanes, size=target, slots=slots)
            if target > SMALLEST and lanes.run.memory.table.nbytes > MEMORY_BYTES:
                rest, lanes = _halves(lanes)
                waiting.append(rest)


class _Wanted(NamedTuple):
    """A contest and the scale of its scores, on the device."""

    beat: jax.Array  # int32 [P]
    group: jax.Array  # int32 [P]
    weights: jax.Array  # int32 [E]
    most: jax.Array  # int32: score of a return of 1 on one layout


def _spread(lanes: Lanes) -> Lanes:
    """Return the lanes shared out over all local devices; what all lanes need is copied to each by itself."""
    devices = jax.local_devices()
    if len(devices) == 1 or len(lanes.program) % len(devices):
        return lanes
    return jax.device_put(lanes, NamedSharding(Mesh(np.array(devices), ("lanes",)), PartitionSpec("lanes")))


def _halves(lanes: Lanes) -> tuple[Lanes, Lanes]:
    middle = len(lanes.program) // 2
    return jax.tree.map(lambda leaf: leaf[middle:], lanes), jax.tree.map(lambda leaf: leaf[:middle], lanes)


def _batch_size(lanes: int) -> int:
    """Return the lanes of the smallest batch that has room: a power of two, of four for small ones.

    Few sizes are compiled; a small batch costs about the same at any size.
    """
    size = max(SMALLEST, 1 << max(0, lanes - 1).bit_length())
    return size if size >= 1024 or size.bit_length() % 2 else 2 * size


@functools.partial(jax.jit, static_argnames=("size", "words", "slots"))
def _start(layouts: Layout, code: jax.Array, count: jax.Array, *, size: int, words: int, slots: int) -> Lanes:
    """Return the lanes of `count` programs on all layouts, filled up to `size` with ended ones."""
    episodes = len(layouts.units)
    index = jnp.arange(size, dtype=jnp.int32)
    used = index < count * episodes
    program = jnp.where(used, index // episodes, 0)
    begin = functools.partial(interpreter.start, layouts, memory=Lockstep.empty(slots), words=words)
    run = jax.vmap(begin)(index % episodes, jax.vmap(functools.partial(_fetch, code, address=jnp.int32(0)))(program))
    run = run._replace(end=jnp.where(used, RUNNING, FINISHED))
    return Lanes(run, program, jnp.where(used, index, -1))


@functools.partial(jax.jit, static_argnames=("task", "bits", "steps"), donate_argnames=("lanes", "results"))
def _advance(
    task: Task, code: jax.Array, wanted: _Wanted, lanes: Lanes, results: jax.Array, *, bits: int, steps: int
) -> tuple[Lanes, jax.Array, jax.Array]:
    """Return the lanes after a chunk of steps, the results int32 [runs + 1, 4] so far (the last row is for fillers),
    and int32 [2]: how many lanes go on, and how many of them wait for a larger memory."""

    def step(run: Run, program: jax.Array) -> Run:
        running = (run.end == RUNNING) & ~run.memory.is_full
        fetch = functools.partial(_fetch, code, program)
        run = interpreter.act(task, run, run.chain, running & (run.chain != 0))  # the only action of its instruction
        return interpreter.test(task, fetch, run, running=running, bits=bits)

    run = jax.lax.fori_loop(0, steps, lambda _, run: jax.vmap(step)(run, lanes.program), lanes.run)
    rows = jnp.stack([run.units, run.calls, run.actions, run.end], axis=-1)
    results = results.at[lanes.result].set(rows)
    dropped = _settled(wanted, results[:-1])[lanes.program]
    end = jnp.where((run.end == RUNNING) & dropped, DROPPED, run.end)
    alive = end == RUNNING
    full = alive & jax.vmap(lambda memory: memory.is_full)(run.memory)
    return lanes._replace(run=run._replace(end=end)), results, jnp.stack([jnp.sum(alive), jnp.sum(full)])


def _fetch(code: jax.Array, program: jax.Array, address: jax.Array) -> Instruction:
    words = code[program, jnp.minimum(address, code.shape[1] - 1)]
    return Instruction(words[0], words[1], words[2])


def _settled(wanted: _Wanted, results: jax.Array) -> jax.Array:
    """Return for which programs the rest of their runs does not matter, bool [P]."""
    programs, episodes = wanted.beat.shape[0], wanted.weights.shape[0]
    units, end = results[:, 0].reshape(programs, episodes), results[:, 3].reshape(programs, episodes)
    ended = (end != RUNNING) & (end != DROPPED)
    score = jnp.sum(jnp.where(ended, units * wanted.weights[None, :], 0), axis=1)
    highest = score + jnp.sum(~ended, axis=1) * wanted.most
    beats = jnp.all(ended, axis=1) & (score > wanted.beat) & (wanted.beat != ANY)
    index = jnp.arange(programs)
    first = jax.ops.segment_min(jnp.where(beats, index, programs), wanted.group, num_segments=programs)
    return (highest <= wanted.beat) | (index > first[wanted.group])


@functools.partial(jax.jit, static_argnames=("size", "slots"))
def _compact(lanes: Lanes, *, size: int, slots: int) -> Lanes:
    """Return the lanes that go on in a batch of `size` with a memory of `slots`."""
    alive = lanes.run.end == RUNNING
    (kept,) = jnp.nonzero(alive, size=size, fill_value=0)
    filler = jnp.arange(size) >= jnp.sum(alive)
    run, program, result = jax.tree.map(lambda leaf: leaf[kept], lanes)
    run = run._replace(end=jnp.where(filler, FINISHED, run.end))
    if slots > run.memory.table.shape[1]:
        run = run._replace(memory=jax.vmap(lambda memory: memory.enlarged(slots))(run.memory))
    return Lanes(run, program, jnp.where(filler, -1, result))
