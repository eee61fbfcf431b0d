"""Does whole rounds of searches on a GPU, so that the host looks at them only now and then."""

from __future__ import annotations

import numpy as np

from jaxprl.search.protocol import Search, State, programs_of
from jaxprl.search.rounds import Rounds, several
from jaxprl.vm import cuda
from jaxprl.vm.compile import COUNT_BITS, counter_bits, counter_words
from jaxprl.vm.kernel.pieces import MOST_LAYOUTS, WIDTHS
from jaxprl.vm.outcomes import Scale
from jaxprl.worlds.task import Layout, Task

ROUNDS = 16
"""Rounds that are done before the host looks at the searches again."""


def several_rounds(
    task: Task, layouts: Layout, scale: Scale, search: Search, state: State, width: int
) -> tuple[State, Rounds] | None:
    """Do several rounds of searches.

    Args:
      task: the task.
      layouts: E layouts of the task.
      scale: the scale of the scores.
      search: a search in array code.
      state: its state.
      width: room for candidates of each search.

    Returns:
      The state and what happened; None if kernels cannot be used here, there are too many runs or layouts, several
      GPUs cannot share the searches evenly, or a program does not fit: its width is not one of `WIDTHS`, or its
      REPEATs have larger counts or are nested deeper than kernels have room for. All programs that are drawn fit.
    """
    current = programs_of(state.current)
    nodes = current.shape[-1]
    if nodes not in WIDTHS or not all(map(_fits, _programs(state))):
        return None
    batches = cuda.Batches(task, layouts, scale, COUNT_BITS, 1)
    if batches.missing(nodes) is not None:
        return None
    mesh, searches = batches.mesh(nodes), len(current)
    if mesh is not None and searches % mesh.size:
        return None
    runs = (1 + width) * searches * len(layouts.units)
    if runs > cuda.MOST_RUNS or len(layouts.units) > MOST_LAYOUTS:
        return None
    count = min(ROUNDS, cuda.MOST_RUNS // runs)
    with batches.answering(nodes, count * runs) as (answer, lent):
        state, rounds, lent.memory = several(
            state, lent.given, lent.memory, ask=search.ask, tell=search.tell, answer=answer, width=width, count=count,
            mesh=mesh,
        )  # fmt: skip
    return state, rounds


def _programs(state: State) -> list[np.ndarray]:
    """Return the programs that searches are at and those that they may start from."""
    pool = [] if state.pool is None else [programs_of(state.pool.programs)]
    return [np.asarray(nodes) for nodes in (programs_of(state.current), *pool)]


def _fits(programs: np.ndarray) -> bool:
    return counter_bits(programs) <= COUNT_BITS and counter_words(programs, COUNT_BITS) == 1
