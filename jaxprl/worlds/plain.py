"""A world in plain Python: the same rules as on arrays, applied to Python values one call at a time.

This is the reference that the array code is tested against. It also makes traces, prompts and pictures, which look at
one state after the other.
"""

from __future__ import annotations

from collections.abc import Hashable

import jax
import numpy as np

from jaxprl.types import PyTree
from jaxprl.worlds.picture import Picture
from jaxprl.worlds.task import Layout, PythonEnvironment, PythonTask, Task


def plain_layout(layout: Layout) -> Layout:
    """Convert the layout of one seed to Python values.

    Args:
      layout: a layout without a leading axis, of numpy or JAX values (`Task.layout`).

    Returns:
      The layout with uint8 tables as `bytes`, other tables as tuples, and scalars as `int` or `bool`. A field `hash` of
      the state becomes None, since plain Python compares states exactly.

    Example:
      >>> from jaxprl.worlds.make import make
      >>> layout = plain_layout(make("Seeder").layout(0))
      >>> layout.state.cell, layout.state.direction, layout.state.hash, layout.units
      (73, 1, None, 36)
    """
    plain = jax.tree.map(_plain, layout)
    return plain._replace(state=plain.state._replace(hash=None)) if hasattr(plain.state, "hash") else plain


def arrays_of(state: PyTree, progress: PyTree, layout: Layout) -> tuple[PyTree, PyTree]:
    """Convert a plain state and progress to numpy values: the inverse of `plain_layout`.

    Args:
      state: the state, of Python values.
      progress: the progress, of Python values.
      layout: a layout of the task without a leading axis, of numpy values. It has the types, and the hash.

    Returns:
      The state and the progress.
    """
    plain = with_hash_of(state, layout.state), progress
    return jax.tree.map(_array, (layout.state, layout.progress), plain)


def with_hash_of(state: PyTree, start: PyTree) -> PyTree:
    """Return a state with the hash of another one, if the states of its world have a field `hash`.

    A run may begin with any hash: it says what has changed since then.
    """
    return state._replace(hash=start.hash) if hasattr(state, "hash") else state


def _array(leaf: np.ndarray, value: PyTree) -> np.ndarray:
    """Return a Python value as an array with the type of a leaf."""
    return np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value, leaf.dtype)


def _plain(leaf: PyTree) -> PyTree:
    """Return a leaf of a layout as a Python value."""
    array = np.asarray(leaf)
    if array.ndim:
        return array.tobytes() if array.dtype == np.uint8 else tuple(array.tolist())
    return array.item()


class WorldEnvironment:
    """One layout of an array task as a `PythonEnvironment`.

    Its rewards are whole numbers: units of the layout, of which `units` make a return of 1. `crashed` says whether the
    latest action crashed the run.

    Args:
      task: the task.
      layout: a layout of it, without a leading axis.
    """

    def __init__(self, task: Task, layout: Layout):
        self.task = task
        self.call_limit, self.terminated_hides_crash = task.world.call_limit, task.world.terminated_hides_crash
        self.state, self.progress, self.units = plain_layout(layout)
        self.crashed = False
        self.actions = {name: code for code, name in enumerate(task.language.action_names, 1)}
        self.perceptions = {name: code for code, name in enumerate(task.language.perception_names)}

    def act(self, action: str, *, at_limit: bool) -> tuple[int, bool]:
        step = self.task.step(self.state, self.progress, self.actions[action], at_limit)
        self.state, self.progress, units, terminated, self.crashed = step
        return units, terminated

    def perceive(self, perception: str) -> bool:
        return self.task.world.perceive(self.state, self.perceptions[perception])

    def key(self) -> Hashable:
        return self.task.world.key(self.state)

    def pose(self) -> list[int] | None:
        return self.task.world.pose(self.state) if hasattr(self.task.world, "pose") else None

    def picture(self) -> Picture | None:
        return self.task.world.picture(self.state) if hasattr(self.task.world, "picture") else None


def environment_of(task: Task | PythonTask, layouts: Layout, index: int) -> tuple[PythonEnvironment, int]:
    """Return an environment at the start of one of a task's layouts.

    Args:
      task: the task.
      layouts: E layouts of it, stacked.
      index: which of them, 0 .. E - 1.

    Returns:
      The environment, and the number of its reward units that make a return of 1.
    """
    if isinstance(task, PythonTask):
        return task.environment(int(layouts.state[index])), 1
    layout = jax.tree.map(lambda leaf: np.asarray(leaf)[index], layouts)
    return WorldEnvironment(task, layout), int(layout.units)
