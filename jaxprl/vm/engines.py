"""Which engine runs programs: the table of all of them, and the choice of the fastest one that can."""

from __future__ import annotations

import contextlib
import functools
import shlex
import warnings
from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np

from jaxprl.codegen import compiler, launch
from jaxprl.codegen.compiler import Unavailable
from jaxprl.codegen.launch import Gpu
from jaxprl.codegen.threads import cores
from jaxprl.errors import UserError, unknown
from jaxprl.search.protocol import Improvements, Neighbourhoods
from jaxprl.vm import cuda, lanes, native, plain, sequential
from jaxprl.vm.compile import counter_bits, counter_words
from jaxprl.vm.outcomes import Scale
from jaxprl.vm.sharing import Ended
from jaxprl.worlds.task import Layout, PythonTask, Task
from jaxprl.xla import has_whole_loops


class Engine(Protocol):
    """One way to run programs, for one call of `evaluate`, `first_better` or `proceed`."""

    def missing(self, nodes: int) -> Exception | None:
        """Return why the engine cannot run programs with room for `nodes` nodes here; None if it can."""
        ...

    def run_programs(self, programs: np.ndarray, workers: int, block: int) -> np.ndarray:
        """Run programs int32 [P, N] on every layout and return packed outcomes, int32 [P, E, COLUMNS].

        Args:
          programs: the programs.
          workers: threads.
          block: programs of one batch, at most.
        """
        ...

    def first_better(self, question: Neighbourhoods, workers: int) -> Improvements:
        """Find the first better neighbour of S programs, with so many threads; 0 where a search is idle."""
        ...

    def proceed(self, programs: np.ndarray, workers: int) -> Ended[np.ndarray]:
        """Run programs int32 [P, N], at least one, each on a layout of its own, with so many threads."""
        ...


ENGINES: dict[str, Callable[..., Engine]] = {
    "native": native.Batches,
    "sequential": sequential.Batches,
    "cuda": cuda.Batches,
    "lanes": lanes.Batches,
    "plain": plain.Batches,
}


def check_engine(task: Task | PythonTask, engine: str | None) -> None:
    """Raise UserError if a task cannot be run by an engine, as far as that is known before something is compiled."""
    if engine is None:
        return
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if isinstance(task, PythonTask) and engine != "plain":
        raise UserError(
            f"engine {engine!r}: task {task.name} is not array code, so the engine 'plain' runs its programs"
        )


def engine_in_words(task: Task | PythonTask, engine: str | None) -> str:
    """Return in words what runs the programs of a task, as far as that is known before something is compiled.

    Raises:
      UserError: as `check_engine`.
    """
    check_engine(task, engine)
    engine = engine or ("plain" if isinstance(task, PythonTask) else expected_engine())
    if engine == "plain":
        return "the engine plain, in plain Python"
    with contextlib.suppress(Unavailable):
        if engine == "native":
            return f"the engine native, compiled by {shlex.join(compiler.command())}"
    if engine == "cuda":
        try:
            launch.here()
        except Unavailable as reason:
            raise UserError(f"engine 'cuda' cannot run {task.name}: {reason}") from None
        return "the engine cuda, compiled by NVRTC"
    return f"the engine {engine}, compiled by XLA"


def expected_engine() -> str:
    """Return the engine that is chosen where none is named, unless the C compiler fails."""
    if jax.default_backend() != "cpu":
        with contextlib.suppress(Unavailable):
            Gpu.present()
            return "cuda"
        return "lanes"
    try:
        compiler.command()
    except Unavailable:
        return "sequential" if has_whole_loops() else "lanes"
    return "native"


def engine_for(
    task: Task,
    programs: np.ndarray,
    layouts: Layout,
    scale: Scale,
    engine: str | None,
    slots: int | None,
    *,
    proceeds: bool = False,
) -> Engine:
    """Return the engine for one call.

    Args:
      task: the task.
      programs: all programs that will be run, int32 [P, N].
      layouts: the layouts, or the starts, of their runs.
      scale: the scale of the returns on the layouts.
      engine: the engine's name; by default the fastest one that can run the programs here.
      slots: slots of the first memory of WHILE; by default the engine's own number.
      proceeds: whether the call is one of `proceed`.

    Raises:
      UserError: the engine that is named cannot run the programs here.
    """
    bits = counter_bits(programs)
    options = {"bits": bits, "words": counter_words(programs, bits), "proceeds": proceeds}
    options |= {"slots": slots} if slots else {}
    fastest = _fastest()
    batches = ENGINES[engine or fastest](task, layouts, scale, **options)
    missing = batches.missing(programs.shape[-1])
    if missing is None:
        return batches
    if engine is not None:
        raise UserError(f"engine {engine!r} cannot run {task.name}: {missing}")
    if not isinstance(missing, Unavailable) or not missing.expected:
        _say_once(f"the engine {fastest!r} cannot run {task.name}, so a slower one does: {missing}", 6)
    return ENGINES[_next_engine()](task, layouts, scale, **options)


def _fastest() -> str:
    """Return the fastest engine for what JAX uses, if it can run here."""
    return "native" if jax.default_backend() == "cpu" else "cuda"


def _next_engine() -> str:
    """Return the faster one of the engines that XLA compiles."""
    if has_whole_loops():
        return "sequential"
    if jax.default_backend() == "cpu":
        _say_once(
            "programs run slower than they could on this CPU, because XLA compiles loops in pieces: call "
            "jaxprl.prefer_whole_loops() before JAX compiles anything",
            7,
        )
    return "lanes"


@functools.cache
def _say_once(message: str, level: int) -> None:
    """Warn of something once, in the name of the line that called the door, `level` calls above."""
    warnings.warn(message, stacklevel=level)


def default_workers() -> int:
    """Return how many threads run programs where no number is given."""
    if jax.default_backend() != "cpu":
        return 1
    return cores()
