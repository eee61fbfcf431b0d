"""The registry of tasks by name: those of the package, and those that users add.

`make.py` turns any name into a task, including names in files and names of real `minigrid` environments.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator

from jaxprl.errors import UserError
from jaxprl.worlds import variants
from jaxprl.worlds.task import PythonTask, Task

_TASK_FILES = {
    "karel": (
        "stair_climber", "maze", "four_corners", "top_off", "harvester", "clean_house",
        "door_key", "one_stroke", "seeder", "snake", "path_follow", "wall_avoider",
    ),
    "minigrid": (
        "lava_gap", "put_near", "red_blue_door", "reach_goal", "unlock", "pick_up", "fetch", "go_to", "memory",
    ),
}  # fmt: skip
_TASKS: dict[str, Task | PythonTask] = {}


def register(task: Task | PythonTask) -> Task | PythonTask:
    """Add a task to the registry.

    Args:
      task: the task. Its name must not be taken.

    Returns:
      The task.

    Raises:
      UserError: it is not a task, or a task of that name exists already, or it is named like a variant of one.

    Example:
      >>> import dataclasses
      >>> with apart():  # so that this example leaves the registry as it was
      ...     task = register(dataclasses.replace(tasks()["DoorKey"], name="DoorKeyShort", budget=1_000))
      ...     tasks()["DoorKeyShort"].budget
      1000
    """
    if not isinstance(task, Task | PythonTask):
        raise UserError(f"register takes a Task or a PythonTask, not {task!r}")
    if not isinstance(task.name, str) or not task.name.strip():
        raise UserError(f"a task is named {task.name!r}; its name is a text that is not blank")
    if task.name in _TASKS:
        raise UserError(f"there is already a task {task.name!r}")
    if base := _named_like(task.name):
        raise UserError(f"a task is named {task.name!r}, like a variant of {base}; it needs another name")
    _TASKS[task.name] = task
    return task


def _named_like(name: str) -> str | None:
    """Return the name of the task of which a name means a variant, or None if it means none."""
    base, suffix = variants.split(name, _TASKS)
    with contextlib.suppress(UserError):
        return base if base in _TASKS and variants.variant(_TASKS[base], suffix) else None
    return None


@contextlib.contextmanager
def apart() -> Iterator[dict[str, Task | PythonTask]]:
    """Use another registry for the length of a `with` block. It holds the tasks of the package and what the block adds.

    Yields:
      A dictionary that, after the block, holds the added tasks by name.
    """
    global _TASKS
    kept, known = _TASKS, {name: _TASKS[name] for name in _OF_PACKAGE}
    registered = _TASKS = dict(known)
    try:
        yield registered
    finally:
        _TASKS = kept
        for name in known:
            del registered[name]


def tasks() -> dict[str, Task | PythonTask]:
    """Return the registered tasks by name.

    Example:
      >>> tasks()["DoorKey"].budget
      1000000
    """
    return dict(_TASKS)


def is_own(task: Task | PythonTask) -> bool:
    """Return whether a task, or that of which it is a variant, was registered in this process, and is not one of the
    package."""
    base = variants.base_of(task)
    return base.name not in _OF_PACKAGE and _TASKS.get(base.name) is base


def is_of_package(task: Task | PythonTask) -> bool:
    """Return whether a task is one of the package or a variant of one, not one of a user or one made from it."""
    base = variants.base_of(task)
    return base.name in _OF_PACKAGE and _TASKS.get(base.name) is base


for _domain, _files in _TASK_FILES.items():
    for _file in _files:
        for _task in importlib.import_module(f"jaxprl.worlds.{_domain}.tasks.{_file}").TASKS:
            register(_task)
_OF_PACKAGE = tuple(_TASKS)
