"""Creates, checks and slices stacked layouts."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import numpy as np

from jaxprl.errors import UserError
from jaxprl.worlds.seeds import checked_seeds
from jaxprl.worlds.task import Layout, PythonTask, Task


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


def part_of(layouts: Layout, first: int, count: int) -> Layout:
    """Return `count` layouts from the `first` one on; fewer at the end."""
    return jax.tree.map(lambda leaf: leaf[first : first + count], layouts)
