"""Creates, checks and slices stacked layouts."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jax
import numpy as np

from jaxprl.errors import UserError
from jaxprl.types import PyTree
from jaxprl.worlds.seeds import checked_seeds
from jaxprl.worlds.task import Layout, PythonTask, Task
from jaxprl.xla import KEPT


def layouts_of(task: Task | PythonTask, seeds: Iterable[int]) -> Layout:
    """Return the stacked layouts of seeds.

    Raises:
      UserError: there is no seed, or one is not an integer from 0 to 2**32 - 1.
    """
    return task.layouts(checked_seeds(seeds, "layout seed"))


def check_stacked(layouts: Layout) -> None:
    """Raise UserError unless there is at least one layout, with the leading axis of stacked ones."""
    if not isinstance(layouts, Layout):
        raise UserError(f"layouts {layouts!r}: expected those of Task.layouts; or name layout_seeds")
    if np.ndim(layouts.units) != 1:
        raise UserError("layouts: expected stacked ones, as Task.layouts gives them")
    if not len(layouts.units):
        raise UserError("layouts: none; programs are run on one layout at least")


def check_starts(task: Task, layouts: Layout, count: int) -> None:
    """Raise UserError unless the layouts are stacked ones of a task, one for each of `count` programs."""
    if not isinstance(layouts, Layout):
        raise UserError(f"layouts {layouts!r}: expected those of Task.layouts, or of an earlier call")
    units = layouts.units
    if not isinstance(units, np.ndarray | jax.Array) or units.ndim != 1 or units.dtype.kind not in "iu":
        raise UserError("layouts: expected stacked ones, as Task.layouts gives them")
    expected, structure = _start_of(task)
    start = layouts.state, layouts.progress
    if jax.tree.structure(start) != structure:
        raise UserError(f"layouts: they are not those of task {task.name}, whose state or progress has other parts")
    found = [(path, np.shape(leaf), _dtype_of(leaf)) for path, leaf in jax.tree_util.tree_flatten_with_path(start)[0]]
    for (path, shape, dtype), (own_shape, own_dtype) in zip(found, expected, strict=True):
        if (shape[1:], dtype) != (own_shape, own_dtype) or not shape:
            name = ("state", "progress")[path[0].idx] + jax.tree_util.keystr(path[1:])
            own = f"{own_dtype} {['P', *own_shape]}".replace("'", "")
            raise UserError(f"layouts: {name} is {dtype} {list(shape)}; stacked ones of task {task.name} have {own}")
    wrong = {len(units), *(shape[0] for _, shape, _ in found)} - {count}
    if wrong:
        raise UserError(f"{count} programs and {wrong.pop()} layouts: each program runs on a layout of its own")


@functools.lru_cache(KEPT)
def _start_of(task: Task) -> tuple[list[tuple[tuple[int, ...], np.dtype]], jax.tree_util.PyTreeDef]:
    """Return the shape and the type of each leaf that a run in a task starts from, and their structure."""
    layout = task.layout(0)
    leaves, structure = jax.tree.flatten((layout.state, layout.progress))
    return [(np.shape(leaf), _dtype_of(leaf)) for leaf in leaves], structure


def _dtype_of(leaf: PyTree) -> np.dtype:
    return jax.dtypes.canonicalize_dtype(np.asarray(leaf).dtype)


def rows_of(layouts: Layout, rows: int | slice | np.ndarray) -> Layout:
    """Return some of the layouts, of which the rows are given; without a leading axis for a single row."""
    return jax.tree.map(lambda leaf: leaf[rows], layouts)


def part_of(layouts: Layout, first: int, count: int) -> Layout:
    """Return `count` layouts from the `first` one on; fewer at the end."""
    return rows_of(layouts, slice(first, first + count))
