"""The tasks by name. `register` is the whole plugin story; `farama:NAME` are the real `minigrid` environments."""

from __future__ import annotations

import importlib

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
    """Make a task known by its name; two tasks with one name are refused."""
    if task.name in _TASKS:
        raise UserError(f"there is already a task {task.name!r}")
    _TASKS[task.name] = task
    return task


def tasks() -> dict[str, Task | HostTask]:
    """Return all tasks by name."""
    return dict(_TASKS)


def make(name: str) -> Task | HostTask:
    """Return the task of that name. Raises UserError with the list of known ones."""
    if name.startswith(FARAMA):
        from jaxprl.worlds.minigrid.real import real

        return real(name.removeprefix(FARAMA))
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    return _TASKS[name]


for _domain, _files in _TASK_FILES.items():
    for _file in _files:
        for _task in importlib.import_module(f"jaxprl.worlds.{_domain}.tasks.{_file}").TASKS:
            register(_task)
