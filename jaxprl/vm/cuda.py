"""The engine for NVIDIA GPUs: each thread does one run at a time, in kernels made from the rules of every engine.

When its run ends, a thread takes the next one, so that none waits for the longest run of a batch. For `first_better`
all neighbours of all searches are in one launch, and a run that nothing depends on any more is given up
(`kernel/gpu_worker.cu`). Runs whose memory of WHILE becomes full are done again with a larger one.

Several GPUs share the programs, or the searches, of a call.

Axis letters: P programs, E layouts, S searches, B neighbours of a search, N nodes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprl.codegen import launch
from jaxprl.codegen.compiler import Unavailable
from jaxprl.codegen.launch import Launcher
from jaxprl.codegen.stablehlo import Unsupported
from jaxprl.errors import UserError
from jaxprl.search.protocol import Improvements, Neighbourhoods
from jaxprl.types import Array
from jaxprl.vm import lanes
from jaxprl.vm.kernel import gpu, pieces
from jaxprl.vm.kernel.gpu import Answers, Kernel, Memory
from jaxprl.vm.layouts import rows_of
from jaxprl.vm.machine import GROWTH, Machine
from jaxprl.vm.outcomes import COLUMNS, RUNNING, unpack
from jaxprl.vm.sharing import Ended, Work, put
from jaxprl.worlds.task import Layout
from jaxprl.xla import jit

MOST_PROGRAMS = 2**15
"""Programs of one launch."""
FEWEST_PROGRAMS = 64
"""Programs of the smallest launch; larger ones are powers of two, so that few sizes are compiled."""
MOST_RUNS = 2**30
"""Runs of one launch, so that an int32 counts them."""
SPARE = 1
"""Memories of one kind that are kept while nobody uses them."""
AXIS = "gpus"


@dataclasses.dataclass(frozen=True)
class Batches(Work):
    """The engine, for one call."""

    slots: int = 256  # slots of each thread's memory of WHILE, a power of two
    launcher: Launcher | None = None  # where kernels run; None for the GPU that JAX uses

    def missing(self, nodes: int) -> Unavailable | Unsupported | None:
        """Return why the engine cannot run programs with room for `nodes` nodes here; None if it can."""
        try:
            self._kernel(nodes)
        except (Unavailable, Unsupported) as reason:
            return reason
        return None

    def run_programs(self, programs: np.ndarray, workers: int, block: int) -> np.ndarray:
        """Run programs int32 [P, N] on every layout and return packed outcomes, int32 [P, E, COLUMNS].

        The GPU has its own number of threads, so that `workers` and `block` mean nothing here.
        """
        episodes = len(self.layouts.units)
        if not len(programs):
            return np.zeros((0, episodes, COLUMNS), np.int32)
        most = max(1, min(MOST_PROGRAMS, MOST_RUNS // episodes))
        parts = [self._run(programs[first : first + most]) for first in range(0, len(programs), most)]
        found = np.concatenate(parts)
        crowded = np.flatnonzero((unpack(found).end == RUNNING).any(axis=1))
        if len(crowded):
            found[crowded] = self._enlarged(programs.shape[-1]).run_programs(programs[crowded], workers, block)
        return found

    def _run(self, programs: np.ndarray) -> np.ndarray:
        kernel = self._kernel(programs.shape[-1])
        devices = _devices(kernel)
        wide, counts = _shared(kernel, devices, programs)
        with _Borrowed(kernel, len(wide) // len(devices) * len(self.layouts.units)) as borrowed:
            outcomes, borrowed.memory = _run_programs(kernel, devices, self._leaves, wide, counts, borrowed.memory)
            return np.asarray(outcomes)[: len(programs)].copy()

    def proceed(self, programs: np.ndarray, workers: int) -> Ended[np.ndarray]:
        """Run programs int32 [P, N], each on a layout of its own."""
        found = Ended.room(self.layouts)
        for first in range(0, len(programs), MOST_PROGRAMS):
            rows = slice(first, first + MOST_PROGRAMS)
            put(found, rows, self._proceed(programs[rows], rows_of(self.layouts, rows)))
        crowded = np.flatnonzero(unpack(found.outcomes).end == RUNNING)
        if len(crowded):
            rest = dataclasses.replace(self, layouts=rows_of(self.layouts, crowded))
            put(found, crowded, rest._enlarged(programs.shape[-1]).proceed(programs[crowded], workers))
        return found

    def _proceed(self, programs: np.ndarray, starts: Layout) -> Ended[np.ndarray]:
        kernel, count = self._kernel(programs.shape[-1]), len(programs)
        devices = _devices(kernel)
        wide, counts = _shared(kernel, devices, programs)
        rows = np.minimum(np.arange(len(wide)), count - 1)
        leaves, structure = pieces.arrays_of(rows_of(starts, rows)), pieces.leaves_of(starts).structure
        with _Borrowed(kernel, len(wide) // len(devices)) as borrowed:
            outcomes, ends, borrowed.memory = _proceed(kernel, devices, leaves, wide, counts, borrowed.memory)
            leaves = [np.asarray(end)[:count].copy() for end in ends]
            return Ended(np.asarray(outcomes)[:count].copy(), **jax.tree.unflatten(structure, leaves))

    def first_better(self, question: Neighbourhoods, workers: int) -> Improvements:
        """Find the first better neighbour of S programs; see `evaluate.first_better`."""
        kernel = self._kernel(question.programs.shape[-1])
        devices = _devices(kernel)
        searches, width = question.programs.shape[:2]
        padded = -(-searches // len(devices)) * len(devices)
        runs = (1 + width) * (padded // len(devices)) * len(self.layouts.units)
        episodes = len(self.layouts.units)
        if runs > MOST_RUNS or width > pieces.MOST_NEIGHBOURS or episodes > pieces.MOST_LAYOUTS:
            raise UserError(f"{searches:,} searches with {width:,} neighbours each on {episodes:,} layouts: too many")
        wide = _padded(question, padded, kernel.nodes)
        weights = np.asarray(self.scale.weights, np.int32)
        with _Borrowed(kernel, runs) as borrowed:
            answers, borrowed.memory = _first_better(
                kernel, devices, self._leaves, weights, self.scale.most, wide, borrowed.memory
            )
            found, crowded = jax.tree.map(lambda leaf: np.asarray(leaf)[:searches].copy(), answers)
        again = np.flatnonzero(crowded)
        if len(again):
            # The others are idle this time. With fewer searches everything would be compiled anew.
            rest = question._replace(counts=np.where(crowded, np.asarray(question.counts), -1))
            part = self._enlarged(question.programs.shape[-1]).first_better(rest, workers)
            for column, new in zip(found, part, strict=True):
                column[again] = new[again]
        return found

    def mesh(self, nodes: int) -> Mesh | None:
        """Return the devices that share the work on programs with room for `nodes` nodes; None for one."""
        devices = _devices(self._kernel(nodes))
        return Mesh(np.array(devices), (AXIS,)) if len(devices) > 1 else None

    @contextlib.contextmanager
    def answering(self, nodes: int, runs: int) -> Iterator[tuple[Answering, Lent]]:
        """Lend a function that answers questions in array code (`search/rounds.py`), and the memory that it uses.

        Each device answers the questions of its own searches.

        Args:
          nodes: room for nodes in the programs.
          runs: how many runs a device may do before what was lent is given back.
        """
        kernel = self._kernel(nodes)
        with _Borrowed(kernel, runs) as borrowed:
            weights = jnp.asarray(self.scale.weights, jnp.int32)
            lent = Lent((self._leaves, weights), borrowed.memory)
            yield Answering(kernel, self.scale.most), lent
            borrowed.memory = lent.memory

    def _enlarged(self, nodes: int) -> Batches | lanes.Batches:
        """Return the engine with a larger memory; another one if NVRTC has ceased to work."""
        larger = dataclasses.replace(self, slots=GROWTH * self.slots)
        if larger.missing(nodes) is None:
            return larger
        own = self.task, self.layouts, self.scale, self.bits, self.words
        return lanes.Batches(*own, proceeds=self.proceeds)

    def _kernel(self, nodes: int) -> Kernel:
        machine = Machine(self.task, self.bits, self.words, self.slots)
        launcher = self.launcher or launch.here()
        text = machine, pieces.leaves_of(self.layouts), pieces.width_of(nodes)
        return gpu.kernel_of(*text, launcher, proceeds=self.proceeds)

    @functools.cached_property
    def _leaves(self) -> list[jax.Array]:
        return pieces.leaves_on_device(self.layouts)


@dataclasses.dataclass(frozen=True)
class Answering:
    """Answers questions in array code, as `search/rounds.py` asks for it."""

    kernel: Kernel
    most: int  # score of a return of 1 on one layout

    def __call__(
        self, question: Neighbourhoods, given: tuple[list[jax.Array], jax.Array], memory: Memory
    ) -> tuple[Improvements, jax.Array, Memory]:
        """Answer a question; what is given are the leaves of the layouts and the weights of their scores."""
        leaves, weights = given
        answers, memory = gpu.first_better(self.kernel, leaves, weights, self.most, question, _one(memory))
        return answers.improvements, answers.crowded, _several(memory)


@dataclasses.dataclass
class Lent:
    """The arguments of `Answering` that are lent with it."""

    given: tuple[list[jax.Array], jax.Array]
    memory: Memory  # to be replaced by what is handed on


def _padded(question: Neighbourhoods, searches: int, nodes: int) -> Neighbourhoods:
    """Return a question with idle searches at its end, and programs of `nodes` nodes, as numpy arrays."""

    def widened(leaf: Array, fill: int = 0) -> np.ndarray:
        extra = [(0, searches - leaf.shape[0])] + [(0, 0)] * (leaf.ndim - 1)
        return np.pad(np.asarray(leaf, np.int32), extra, constant_values=fill)

    def fitted(leaf: Array) -> np.ndarray:
        cut = widened(leaf)[..., :nodes]  # behind these there is nothing
        return np.pad(cut, [(0, 0)] * (cut.ndim - 1) + [(0, nodes - cut.shape[-1])])

    margins = question.margins
    return Neighbourhoods(
        fitted(question.parents),
        fitted(question.programs),
        widened(question.changed),
        widened(question.counts, -1),
        widened(margins) if margins is not None else None,
    )


def _shared(kernel: Kernel, devices: tuple[jax.Device, ...], programs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return programs with further rows and nodes as a kernel takes them, and how many each device has of them."""
    rows = max(FEWEST_PROGRAMS, 1 << (len(programs) - 1).bit_length())
    rows = -(-rows // len(devices)) * len(devices)
    share = rows // len(devices)
    wide = np.zeros((rows, kernel.nodes), np.int32)
    wide[: len(programs), : programs.shape[1]] = programs[:, : kernel.nodes]
    return wide, np.clip(len(programs) - share * np.arange(len(devices)), 0, share).astype(np.int32)


def _devices(kernel: Kernel) -> tuple[jax.Device, ...]:
    """Return the devices that share the work: all local ones, unless the launcher has fewer."""
    return tuple(jax.local_devices()[: kernel.launcher.devices])


@jit(per="kernel", static_argnames=("kernel", "devices"), donate_argnames="memory")
def _run_programs(
    kernel: Kernel,
    devices: tuple[jax.Device, ...],
    leaves: list[jax.Array],
    programs: jax.Array,
    counts: jax.Array,
    memory: Memory,
) -> tuple[jax.Array, Memory]:
    def share(leaves, programs, counts, memory):
        outcomes, memory = gpu.run_programs(kernel, leaves, programs, counts[0], _one(memory))
        return outcomes, _several(memory)

    return _over(devices, share, "rsss", "ss")(leaves, programs, counts, memory)


@jit(per="kernel", static_argnames=("kernel", "devices"), donate_argnames="memory")
def _proceed(
    kernel: Kernel,
    devices: tuple[jax.Device, ...],
    leaves: list[jax.Array],
    programs: jax.Array,
    counts: jax.Array,
    memory: Memory,
) -> tuple[jax.Array, list[jax.Array], Memory]:
    def share(leaves, programs, counts, memory):
        outcomes, ends, memory = gpu.proceed(kernel, leaves, programs, counts[0], _one(memory))
        return outcomes, ends, _several(memory)

    return _over(devices, share, "ssss", "sss")(leaves, programs, counts, memory)


@jit(per="kernel", static_argnames=("kernel", "devices", "most"), donate_argnames="memory")
def _first_better(
    kernel: Kernel,
    devices: tuple[jax.Device, ...],
    leaves: list[jax.Array],
    weights: jax.Array,
    most: int,
    question: Neighbourhoods,
    memory: Memory,
) -> tuple[Answers, Memory]:
    def share(leaves, weights, question, memory):
        answers, memory = gpu.first_better(kernel, leaves, weights, most, question, _one(memory))
        return answers, _several(memory)

    return _over(devices, share, "rrss", "ss")(leaves, weights, question, memory)


def _one(memory: Memory) -> Memory:
    return Memory(memory.tables, memory.earlier[0])


def _several(memory: Memory) -> Memory:
    return Memory(memory.tables, memory.earlier[None])


def _over(devices: tuple[jax.Device, ...], share, given: str, found: str):
    """Return a function whose arguments are shared out to devices: `s` those that are split, `r` what all have."""
    if len(devices) == 1:
        return share
    specs = {"s": PartitionSpec(AXIS), "r": PartitionSpec()}
    return jax.shard_map(
        share,
        mesh=Mesh(np.array(devices), (AXIS,)),
        in_specs=tuple(specs[letter] for letter in given),
        out_specs=tuple(specs[letter] for letter in found),
        check_vma=False,
    )


class _Borrowed:
    """The memories of a kernel, lent to one call. They are given back unless the call or a launch fails."""

    free: ClassVar[dict[tuple[object, ...], list[tuple[Memory, int]]]] = {}
    lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, kernel: Kernel, runs: int):
        self.kernel, self.runs = kernel, runs
        self.key = kernel.launcher, kernel.slots, kernel.threads

    def __enter__(self) -> _Borrowed:
        with self.lock:
            waiting = self.free.setdefault(self.key, [])
            known = waiting.pop() if waiting else None
        if known is None or known[1] + self.runs >= 2**32:  # numbers of runs would come again
            known = self._new(), 0
        self.memory, self.earlier = known
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            return
        self.memory.earlier.block_until_ready()  # a launch that fails says so here, and not to the next borrower
        with self.lock:
            free = self.free[self.key]
            if len(free) < SPARE:
                free.append((self.memory, self.earlier + self.runs))

    def _new(self) -> Memory:
        devices = _devices(self.kernel)
        mesh = Mesh(np.array(devices), (AXIS,))
        place = NamedSharding(mesh, PartitionSpec(AXIS)) if len(devices) > 1 else devices[0]
        tables = jnp.zeros(self.kernel.memory_words * len(devices), np.uint32, device=place)
        return Memory(tables, jnp.zeros(len(devices), np.uint32, device=place))


def _forget() -> None:
    _Borrowed.free.clear()
    _Borrowed.lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads, one of which may hold the lock
    os.register_at_fork(after_in_child=_forget)
