"""Tasks from a user's own Python file: `path.py:NAME` is the task NAME that the file registers.

The file is run once per content and process, by itself: it imports what is installed, not the files beside it. What it
registers is known by `path.py:NAME` only; `registry.tasks` does not list it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
import sys
import traceback
from pathlib import Path

from jaxprl.errors import UserError
from jaxprl.worlds import registry
from jaxprl.worlds.check import check
from jaxprl.worlds.task import HostTask, Task

_SUFFIX = ".py"


def names_file(name: str) -> bool:
    """Return whether a task's name, which is not one of `farama:`, is that of one in a file."""
    return name.endswith(_SUFFIX) or f"{_SUFFIX}:" in name


def make(name: str) -> Task | HostTask:
    """Return the task that `path.py:NAME` names, after it has passed `check`, whose notes go to standard error.

    Raises UserError if there is no such file or task, and with file and line for what goes wrong in the file.
    """
    path, task_name = split(name)
    return _checked(path, _content(path), task_name)


def checksum(name: str) -> str:
    """Return the checksum of the content of the file that `path.py:NAME` names."""
    return hashlib.sha256(_content(split(name)[0])).hexdigest()[:16]


def split(name: str) -> tuple[Path, str]:
    """Return the path and the NAME of `path.py:NAME`; both may have colons."""
    stem, _, task_name = (name if f"{_SUFFIX}:" in name else f"{name}:").rpartition(f"{_SUFFIX}:")
    return Path(f"{stem}{_SUFFIX}"), task_name


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"task file {path}: {error.strerror or error}") from None


@functools.cache
def _checked(path: Path, content: bytes, task_name: str) -> Task | HostTask:
    tasks = _tasks(path.resolve(), content, str(path))
    if task_name not in tasks:
        there = ", ".join(f"{path}:{known}" for known in tasks)
        mistake = f"has no task {task_name!r}" if task_name else "needs the name of a task"
        raise UserError(f"task file {path} {mistake}; there is {there}")
    try:
        notes = check(tasks[task_name])
    except UserError as error:
        raise UserError(f"{error}{_place(error, str(path))}") from None
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return tasks[task_name]


@functools.cache
def _tasks(path: Path, content: bytes, shown: str) -> dict[str, Task | HostTask]:
    """Run a file and return the tasks that it registers; `shown` is its name in errors."""
    module_name = f"{path.stem}_{hashlib.sha256(str(path).encode() + content).hexdigest()[:16]}"
    spec = importlib.machinery.ModuleSpec(module_name, None, origin=str(path))
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        with registry.apart() as found:
            exec(compile(content, shown, "exec"), module.__dict__)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"task file {error.filename or shown}{where}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise UserError(f"task file {shown}: {_in_words(error)}{_place(error, shown)}") from None
    if not found:
        raise UserError(f"task file {shown} registers no task: jaxprl.worlds.registry.register(task) does")
    return found


def _in_words(error: BaseException) -> str:
    """Return an exception as a line: a UserError's message as it is."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}{': ' * bool(text)}{text}"


def _place(error: BaseException, shown: str) -> str:
    """Return the innermost line of the file that an exception, or what caused it, came through."""
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == shown]
    return f" ({shown}, line {lines[-1]})" if lines else ""
