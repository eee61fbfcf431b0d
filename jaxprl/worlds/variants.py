"""Variants of tasks: `NAME@HxW` is a task at another size, `NAME:crashable` the task in a world where actions crash.

A name may have both, the size first: `MazeSparse@12x12:crashable`. A task says which sizes it can have (`Task.sizes`).
A property is a field of the world, a bool that is False in the task and True in its variant.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable

from jaxprl.errors import UserError
from jaxprl.worlds.task import PythonTask, Task, World

PROPERTIES = {"crashable": "a move into a wall, a pick from an empty cell and a put on a full one end the run"}
"""The properties that a variant may have, and what each means."""
FORM = "NAME[@HxW][:crashable]"
"""How variants are named."""


def split(name: str, known: Iterable[str]) -> tuple[str, str]:
    """Split the name of a task into that of a known task and what makes a variant of it.

    Args:
      name: the name. If it is itself known, it is no variant.
      known: the names of tasks. They may contain colons and at signs; the longest one that fits is taken.

    Returns:
      The name of the task and the rest of the name, which is empty or begins with `@` or `:`. If no known name fits,
      the first part has neither of these signs.

    Example:
      >>> split("Maze@12x12:crashable", ["Maze", "Maze:fast"]), split("Maze:fast", ["Maze", "Maze:fast"])
      (('Maze', '@12x12:crashable'), ('Maze:fast', ''))
    """
    fitting = [each for each in known if name == each or name.startswith((f"{each}@", f"{each}:"))]
    base = max(fitting, key=len) if fitting else re.split("[@:]", name, maxsplit=1)[0]
    return base, name[len(base) :]


def variant(task: Task | PythonTask, suffix: str) -> Task | PythonTask:
    """Return a variant of a task: always the same object for the same task and suffix.

    Args:
      task: the task.
      suffix: what stands behind its name: `@HxW`, `:crashable`, both in this order, or nothing. Where it says what the
        task is anyway, the task itself is returned.

    Raises:
      UserError: the suffix has another form, or the task has no such variant.

    Example:
      >>> from jaxprl.worlds.make import make
      >>> task = variant(make("Maze"), "@12x12:crashable")
      >>> task.name, task.world
      ('Maze@12x12:crashable', KarelWorld(height=12, width=12, crashable=True))
    """
    if not suffix:
        return task
    size, *properties = suffix.split(":")
    if strange := [each for each in properties if each not in PROPERTIES]:
        raise UserError(
            f"task {task.name}: unknown property {strange[0]!r}; known: {', '.join(PROPERTIES)}, as in {FORM}"
        )
    if len({*properties}) < len(properties):
        raise UserError(f"task {task.name}: {suffix!r} names a property twice; a variant is named {FORM}")
    made = _sized(task, size.removeprefix("@")) if size else task
    for name in properties:
        made = _with_property(made, name)
    return made


def base_of(task: Task | PythonTask) -> Task | PythonTask:
    """Return the task of which a task is a variant, or the task itself if it is none."""
    while id(task) in _BASES:
        task = _BASES[id(task)]
    return task


def suffix_of(task: Task | PythonTask) -> str:
    """Return what the name of a variant has behind that of its task; nothing for a task that is no variant."""
    return task.name.removeprefix(base_of(task).name)


def properties_of(task: Task | PythonTask) -> tuple[str, ...]:
    """Return the properties that variants of a task can have."""
    if not isinstance(task, Task) or not dataclasses.is_dataclass(task.world):
        return ()
    return tuple(field.name for field in dataclasses.fields(task.world) if field.name in PROPERTIES)


def _sized(task: Task | PythonTask, size: str) -> Task | PythonTask:
    """Return a task at a size, `HxW`."""
    sizes = task.sizes if isinstance(task, Task) else None
    if not isinstance(task, Task) or sizes is None:
        raise UserError(
            f"task {task.name}: no size can be chosen, so it cannot be {size!r}; `jaxprl tasks` shows whose can"
        )
    match = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", size)
    height, width = (int(match[1]), int(match[2])) if match else (0, 0)
    if not sizes.has(height, width):
        raise UserError(f"task {task.name}: its size cannot be {size!r}; HxW, {sizes.in_words}, like 12x12")
    if (height, width) == (getattr(task.world, "height", None), getattr(task.world, "width", None)):
        return task
    return _remembered(task, f"@{height}x{width}", lambda: sizes.make(height, width))


def _with_property(task: Task | PythonTask, name: str) -> Task | PythonTask:
    """Return a task in a world that has a property."""
    if not isinstance(task, Task) or name not in properties_of(task):
        raise UserError(f"task {task.name} cannot be {name}: only tasks of Karel's world can")
    if getattr(task.world, name):
        return task
    return _remembered(task, f":{name}", lambda: dataclasses.replace(task, world=_changed(task, name)))


def _changed(task: Task, name: str) -> World:
    """Return the world of a task with a property."""
    try:
        return dataclasses.replace(task.world, **{name: True})  # type: ignore[type-var]  # `properties_of` has its fields
    except TypeError as error:  # a class of a user's own that cannot be made from its fields
        raise UserError(f"task {task.name} cannot be {name}: its world {task.world!r}: {error}") from None


def _remembered(task: Task, suffix: str, make: Callable[[], Task]) -> Task:
    """Return the variant of a task, made once: what is compiled for a task is found by the task."""
    key = id(task), suffix
    if key not in _MADE:
        made = dataclasses.replace(make(), name=f"{task.name}{suffix}")
        _MADE[key], _BASES[id(made)] = made, task
    return _MADE[key]


_MADE: dict[tuple[int, str], Task] = {}
_BASES: dict[int, Task] = {}
"""The task of each variant. Both are kept, so that no other object gets their numbers."""
