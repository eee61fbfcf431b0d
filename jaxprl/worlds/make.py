"""Turn a name into a task. A name is resolved once; from there on the task itself is passed along.

- `DoorKey` is a task of the package, or one that was registered (`registry.py`).
- `farama:NAME` is a real `minigrid` environment (`minigrid/real.py`). `registry.tasks` does not list these.
- `path.py:NAME` is a task that a Python file registers (`task_files.py`).

Behind a name, `@HxW` and `:crashable` choose a variant of the task (`variants.py`).
"""

from __future__ import annotations

from jaxprl.errors import UserError, needed_by, unknown
from jaxprl.worlds import registry, task_files, variants
from jaxprl.worlds.task import FARAMA, PythonTask, Task


def make(name: str) -> Task | PythonTask:
    """Return the task of a name.

    A task from a file is checked first (`check.py`). That compiles something, so `jaxprl.prefer_whole_loops`, if it is
    used, has to be called before.

    Args:
      name: `DoorKey`, `farama:LavaGap` or `path.py:NAME`; for a variant with `@HxW`, `:crashable` or both behind it.

    Returns:
      The task.

    Raises:
      UserError: there is no such task, and the message lists the known ones, or those with similar names; or it has no
        such variant, and the message says what is allowed.

    Example:
      >>> make("DoorKey").language.action_names
      ('move', 'turnLeft', 'turnRight', 'putMarker', 'pickMarker')
      >>> make("MazeSparse@12x12:crashable").world
      KarelWorld(height=12, width=12, crashable=True)
    """
    if not isinstance(name, str):
        raise UserError(f"task {name!r}: expected a name, like DoorKey")
    if name.startswith(FARAMA):
        with needed_by(f"task {name}"):
            from jaxprl.worlds.minigrid.real import NAMES, real  # imports gymnasium and minigrid
        base, suffix = variants.split(name.removeprefix(FARAMA), NAMES)
        return variants.variant(real(base), suffix) if base in NAMES else real(base + suffix)
    if task_files.names_file(name):
        return task_files.make(name)
    tasks = registry.tasks()
    base, suffix = variants.split(name, tasks)
    if base not in tasks:
        raise unknown("task", base, tasks)
    return variants.variant(tasks[base], suffix)


def is_in_file(name: str) -> bool:
    """Return whether a name is that of a task in a user's file."""
    return not name.startswith(FARAMA) and task_files.names_file(name)


def short_name(name: str) -> str:
    """Return the name of a task without folders, for the name of a run directory: `FILE-NAME` for one in a file.

    Example:
      >>> short_name("tasks/garden.py:Fence")
      'garden-Fence'
    """
    if not is_in_file(name):
        return name
    path, task_name = task_files.split(name)
    return f"{path.stem}-{task_name}"
