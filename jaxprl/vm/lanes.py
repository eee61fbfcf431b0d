"""The engine for accelerators: many runs step together, one in each lane.

After a chunk of steps, lanes whose run has ended hand in their outcome, and the others move into a smaller batch.
Memories are enlarged when enough lanes need it.

For `first_better`, a program is dropped as soon as it cannot be better any more, since a return is at most 1; so are
the programs behind a better one. No decision of a search changes.

Axis letters: P programs, E layouts, L lanes, S searches, N nodes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprl.search.protocol import Improvements, Neighbourhoods
from jaxprl.vm import interpreter, sharing
from jaxprl.vm.compile import instructions
from jaxprl.vm.instruction import WORDS, Instruction
from jaxprl.vm.interpreter import Run
from jaxprl.vm.layouts import rows_of
from jaxprl.vm.memory import Lockstep
from jaxprl.vm.outcomes import COLUMNS, DROPPED, FINISHED, RUNNING, Outcomes, pack, score_to_beat, unpack
from jaxprl.vm.sharing import Ended
from jaxprl.worlds.task import Layout, Task
from jaxprl.xla import jit

MOST_LANES = 2**15
"""Runs that start together, at most."""
CROWDED = 0.2
"""Share of the lanes of a batch whose memory may be full before all memories are enlarged."""
SMALLEST = 64
"""Lanes of the smallest batch."""
GROWTH = 4
"""How many times larger the memories become."""
MEMORY_BYTES = 2**28
"""Memory of WHILE that one batch may take; larger batches are halved."""
ANY = -(2**31)
"""Score to beat of a program whose score is needed in any case; it is below every score."""


class Contest(NamedTuple):
    """Which of P programs' scores are needed."""

    beat: np.ndarray  # int32 [P]: only higher scores are needed, or all for `ANY`
    group: np.ndarray  # int32 [P], below P: in a group, programs behind the first with a higher score are not needed

    @classmethod
    def none(cls, programs: int) -> Contest:
        """Return the contest in which every score is needed."""
        return cls(np.full(programs, ANY, np.int32), np.zeros(programs, np.int32))


class Lanes(NamedTuple):
    """L runs; every leaf has a leading axis [L]."""

    run: Run[Lockstep]
    program: jax.Array  # int32: row of its instructions
    result: jax.Array  # int32: row of its outcome; -1, the last row, for lanes that only fill the batch


@dataclasses.dataclass(frozen=True)
class Batches(sharing.Work):
    """The engine, for one call."""

    slots: int = 64  # slots of the first memory, a power of two
    steps: int = 32  # steps of a chunk

    def first_better(self, question: Neighbourhoods, workers: int) -> Improvements:
        """Find the first better neighbour of S programs; see `evaluate.first_better`."""
        return sharing.first_better(self._answer, question, workers)

    def _answer(self, question: Neighbourhoods) -> Improvements:
        """Answer a question, or a share of it.

        All neighbours run at once, so that the lanes are full. Those of one search are a group of a contest: as soon as
        the third neighbour has beaten its parent, say, the fourth and the following ones are dropped, and the search
        only waits for the first two.
        """
        parents, programs, margins = question.parents, question.programs, question.margins
        score = self.scale.scores(unpack(self._run(np.asarray(parents))).units).astype(np.int32)
        wanted = np.arange(programs.shape[1]) < question.counts[:, None]
        least = np.broadcast_to(score[:, None], wanted.shape)
        if margins is not None:
            least = score_to_beat(least, np.asarray(margins))
            wanted &= (programs != parents[:, None]).any(axis=-1)  # a program is not better than itself
        group = np.nonzero(wanted)[0].astype(np.int32)
        rows = self._run(np.asarray(programs[wanted]), Contest(least[wanted], group))
        runs = Outcomes(*unpack(rows), np.asarray(self.layouts.units))
        better = np.full(wanted.shape, ANY, np.int32)
        better[wanted] = np.where(runs.complete, self.scale.scores(runs.units), ANY)
        beats = better > least
        first = np.where(beats.any(axis=1), beats.argmax(axis=1), -1)
        return Improvements(score, first.astype(np.int32), np.take_along_axis(better, first[:, None], axis=1)[:, 0])

    def run_programs(self, programs: np.ndarray, workers: int, block: int) -> np.ndarray:
        """Run programs int32 [P, N] on every layout and return packed outcomes, int32 [P, E, COLUMNS]."""
        return sharing.run_programs(self._run, programs, len(self.layouts.units), workers, block)

    def _run(self, programs: np.ndarray, contest: Contest | None = None) -> np.ndarray:
        """Run programs on every layout.

        Args:
          programs: int32 [P, N].
          contest: which scores are needed; by default all.

        Returns:
          Packed outcomes, int32 [P, E, COLUMNS]; runs that are not needed may be DROPPED.
        """
        count, episodes = len(programs), len(self.layouts.units)
        if not count:
            return np.zeros((0, episodes, COLUMNS), np.int32)
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
        sizes = {"size": size, "words": self.words, "slots": self.slots}
        lanes = _spread(_start(self.arrays, code, jnp.int32(count), **sizes, proceeds=False))
        results = Ended(jnp.zeros((padded * episodes + 1, COLUMNS), jnp.int32), (), ())
        rows = np.asarray(self._finished(code, wanted, lanes, results).outcomes)
        return rows[: count * episodes].reshape(count, episodes, COLUMNS)

    def proceed(self, programs: np.ndarray, workers: int) -> Ended[np.ndarray]:
        """Run programs int32 [P, N], each on a layout of its own."""
        return sharing.proceed(self._proceed, programs, self.layouts, workers, MOST_LANES)

    def _proceed(self, programs: np.ndarray, starts: Layout) -> Ended[np.ndarray]:
        count = len(programs)
        size = _batch_size(count)
        rows = np.minimum(np.arange(size + 1), count - 1)  # the last result is for lanes that only fill the batch
        code = instructions(jnp.asarray(programs[rows[:-1]]), bits=self.bits)
        begun = jax.tree.map(jnp.asarray, rows_of(starts, rows))
        sizes = {"size": size, "words": self.words, "slots": self.slots}
        lanes = _spread(_start(begun, code, jnp.int32(count), **sizes, proceeds=True))
        room = Ended(jnp.zeros((size + 1, COLUMNS), jnp.int32), begun.state, begun.progress)
        found = self._finished(code, None, lanes, room)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], found)

    def _finished(
        self, code: jax.Array, wanted: _Wanted | None, lanes: Lanes, results: Ended[jax.Array]
    ) -> Ended[jax.Array]:
        """Return the results with what became of the runs of a batch."""
        waiting = [lanes]
        while waiting:
            results = self._finish(code, wanted, waiting.pop(), results, waiting)
        return results

    def _finish(
        self, code: jax.Array, wanted: _Wanted | None, lanes: Lanes, results: Ended[jax.Array], waiting: list[Lanes]
    ) -> Ended[jax.Array]:
        """Step a batch until all its runs have ended, and return the results with their outcomes.

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
    """Return the lanes shared out over all local devices; jit copies what all lanes need to each device."""
    devices = jax.local_devices()
    if len(devices) == 1 or len(lanes.program) % len(devices):
        return lanes
    return jax.device_put(lanes, NamedSharding(Mesh(np.array(devices), ("lanes",)), PartitionSpec("lanes")))


def _halves(lanes: Lanes) -> tuple[Lanes, Lanes]:
    middle = len(lanes.program) // 2
    return jax.tree.map(lambda leaf: leaf[middle:], lanes), jax.tree.map(lambda leaf: leaf[:middle], lanes)


def _batch_size(lanes: int) -> int:
    """Return the lanes of the smallest batch that has room: a power of two, of four for small ones.

    So few sizes are compiled. Small batches cost about the same at any size.
    """
    size = max(SMALLEST, 1 << max(0, lanes - 1).bit_length())
    return size if size >= 1024 or size.bit_length() % 2 else 2 * size


@jit(static_argnames=("size", "words", "slots", "proceeds"))
def _start(
    layouts: Layout, code: jax.Array, count: jax.Array, *, size: int, words: int, slots: int, proceeds: bool
) -> Lanes:
    """Return the lanes of `count` programs, filled up to `size` with runs that have ended.

    Each program runs on all layouts, or, if it `proceeds`, on its own.
    """
    episodes = 1 if proceeds else len(layouts.units)
    index = jnp.arange(size, dtype=jnp.int32)
    used = index < count * episodes
    program = jnp.where(used, index // episodes, 0)
    begin = functools.partial(interpreter.start, layouts, memory=Lockstep.empty(slots), words=words)
    layout = program if proceeds else index % episodes
    run = jax.vmap(begin)(layout, jax.vmap(functools.partial(_fetch, code, address=jnp.int32(0)))(program))
    run = run._replace(end=jnp.where(used, RUNNING, FINISHED))
    return Lanes(run, program, jnp.where(used, index, -1))


@jit(per="task", static_argnames=("task", "bits", "steps"), donate_argnames=("lanes", "results"))
def _advance(
    task: Task,
    code: jax.Array,
    wanted: _Wanted | None,
    lanes: Lanes,
    results: Ended[jax.Array],
    *,
    bits: int,
    steps: int,
) -> tuple[Lanes, Ended[jax.Array], jax.Array]:
    """Do a chunk of steps.

    Args:
      task: the task.
      code: words of the instructions, uint32 [P, N, WORDS].
      wanted: which scores are needed; None if programs proceed, so that states are wanted.
      lanes: the lanes.
      results: packed outcomes so far, int32 [P * E + 1, COLUMNS], and with each the state and the progress if programs
        proceed; the last row is for lanes that fill the batch.
      bits: bits of a REPEAT counter.
      steps: how many steps.

    Returns:
      The lanes and the results afterwards, and int32 [2]: how many lanes go on, and how many of these wait for a larger
      memory.
    """

    def step(run: Run[Lockstep], program: jax.Array) -> Run[Lockstep]:
        running = (run.end == RUNNING) & ~run.memory.is_full
        fetch = functools.partial(_fetch, code, program)
        run = interpreter.act(task, run, run.chain, running & (run.chain != 0))  # the only action of its instruction
        return interpreter.test(task, fetch, run, running=running, bits=bits)

    run = jax.lax.fori_loop(0, steps, lambda _, run: jax.vmap(step)(run, lanes.program), lanes.run)
    ends = (run.state, run.progress) if wanted is None else ((), ())
    new = Ended(pack(run), *ends)
    results = jax.tree.map(lambda table, rows: table.at[lanes.result].set(rows), results, new)
    end = run.end
    if wanted is not None:
        dropped = _settled(wanted, results.outcomes[:-1])[lanes.program]
        end = jnp.where((run.end == RUNNING) & dropped, DROPPED, run.end)
    alive = end == RUNNING
    full = alive & jax.vmap(lambda memory: memory.is_full)(run.memory)
    return lanes._replace(run=run._replace(end=end)), results, jnp.stack([jnp.sum(alive), jnp.sum(full)])


def _fetch(code: jax.Array, program: jax.Array, address: jax.Array) -> Instruction:
    words = code[program, jnp.minimum(address, code.shape[1] - 1)]
    return Instruction(*(words[word] for word in range(WORDS)))


def _settled(wanted: _Wanted, results: jax.Array) -> jax.Array:
    """Return for which programs the runs that still go on do not matter, bool [P].

    A program's score is at most that of its ended runs plus a return of 1 for each of the others. If this is not above
    the score to beat, the program is settled. So is one behind a program of its group that has ended and is better.
    """
    programs, episodes = wanted.beat.shape[0], wanted.weights.shape[0]
    runs = unpack(results.reshape(programs, episodes, COLUMNS))
    ended = (runs.end != RUNNING) & (runs.end != DROPPED)
    score = jnp.sum(jnp.where(ended, runs.units * wanted.weights[None, :], 0), axis=1)
    highest = score + jnp.sum(~ended, axis=1) * wanted.most
    beats = jnp.all(ended, axis=1) & (score > wanted.beat) & (wanted.beat != ANY)
    index = jnp.arange(programs)
    first = jax.ops.segment_min(jnp.where(beats, index, programs), wanted.group, num_segments=programs)
    return (highest <= wanted.beat) | (index > first[wanted.group])


@jit(static_argnames=("size", "slots"))
def _compact(lanes: Lanes, *, size: int, slots: int) -> Lanes:
    """Return the lanes that go on, in a batch of `size` with memories of `slots`."""
    alive = lanes.run.end == RUNNING
    (kept,) = jnp.nonzero(alive, size=size, fill_value=0)
    filler = jnp.arange(size) >= jnp.sum(alive)
    run, program, result = jax.tree.map(lambda leaf: leaf[kept], lanes)
    run = run._replace(end=jnp.where(filler, FINISHED, run.end))
    if slots > run.memory.table.shape[1]:
        run = run._replace(memory=jax.vmap(lambda memory: memory.enlarged(slots))(run.memory))
    return Lanes(run, program, jnp.where(filler, -1, result))
