"""The tasks by name. `register` is the whole plugin story.

`farama:NAME` are the real `minigrid` environments, `path.py:NAME` is what a Python file registers (`files.py`).
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator

from jaxprl.errors import UserError, unknown
from jaxprl.worlds.task import HostTask, Task

FARAMA = "farama:"
"""What names of tasks on the real `minigrid` environments begin with; they are not listed."""

_TASK_FILES = {
    "karel": (
        "stair_climber", "maze", "four_corners", "top_off", "harvester", "clean_house",
        "door_key", "one_stroke", "seeder", "snake", "path_follow", "wall_avoider",
    ),
    "minigrid": (
        "lava_gap", "put_near", "red_blue_door", "reach_goal", "unlock", "pick_up", "fetch", "go_to", "memory",
    ),
}  # fmt: skip
_TASKS: dict[str, Task | HostTask] = {}


def register(task: Task | HostTask) -> Task | HostTask:
    """Make a task known by its name and return it; two tasks with one name are refused."""
    if not isinstance(task, Task | HostTask):
        raise UserError(f"register takes a Task or a HostTask, not {task!r}")
    if task.name in _TASKS:
        raise UserError(f"there is already a task {task.name!r}")
    _TASKS[task.name] = task
    return task


@contextlib.contextmanager
def apart() -> Iterator[dict[str, Task | HostTask]]:
    """Within, `register` fills the dictionary that is given, and the tasks of the package are the only others."""
    global _TASKS
    kept, known = _TASKS, {name: _TASKS[name] for name in _OF_PACKAGE}
    found = _TASKS = dict(known)
    try:
        yield found
    finally:
        _TASKS = kept
        for name in known:
            del found[name]


def tasks() -> dict[str, Task | HostTask]:
    """Return all tasks by name."""
    return dict(_TASKS)


def make(name: str) -> Task | HostTask:
    """Return the task of that name. Raises UserError with the list of known ones.

    One from a file is tried out first (`check.py`): so `loops.prefer_whole_loops` comes before, if it is called.
    """
    if name.startswith(FARAMA):
        from jaxprl.worlds.minigrid.real import real

        return real(name.removeprefix(FARAMA))
    from jaxprl.worlds import files

    if files.names_file(name):
        return files.make(name)
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    return _TASKS[name]


def short_name(name: str) -> str:
    """Return a task's name for people: of one in a file, without the folders, `FILE-NAME`."""
    from jaxprl.worlds import files

    if name.startswith(FARAMA) or not files.names_file(name):
        return name
    path, task_name = files.split(name)
    return f"{path.stem}-{task_name}"


def told_name(task: Task | HostTask) -> str:
    """Return a task's name as a language model is told it: on the real environments that of the same task on ours."""
    return task.name.removeprefix(FARAMA)


for _domain, _files in _TASK_FILES.items():
    for _file in _files:
        for _task in importlib.import_module(f"jaxprl.worlds.{_domain}.tasks.{_file}").TASKS:
            register(_task)
_OF_PACKAGE = tuple(_TASKS)
