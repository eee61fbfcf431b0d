"""Load tasks from a user's own Python file: `path.py:NAME` is the task NAME that the file registers.

The file is run once per content and process, and on its own: it can import what is installed, but not the files beside
it. What it registers is known by `path.py:NAME` only; `registry.tasks` does not list it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from pathlib import Path

from jaxprl.errors import UserError
from jaxprl.files import expanded, read_bytes
from jaxprl.output import say
from jaxprl.worlds import registry, variants
from jaxprl.worlds.check import check
from jaxprl.worlds.task import PythonTask, Task

_SUFFIX = ".py"


def names_file(name: str) -> bool:
    """Return whether a name that does not begin with `farama:` is that of a task in a file."""
    return name.endswith(_SUFFIX) or f"{_SUFFIX}:" in name


def make(name: str) -> Task | PythonTask:
    """Return a task from a file, or a variant of one, after it has passed `check`, whose notes go to standard error.

    Args:
      name: `path.py:NAME`; for a variant with `@HxW`, `:crashable` or both behind it.

    Returns:
      The task.

    Raises:
      UserError: there is no such file or task, the task has no such variant, or something goes wrong in the file; then
        the message has its line.
    """
    path, task_name = split(name)
    return _checked(path, _content(path), task_name)


def checksum(name: str) -> str:
    """Return a checksum of the content of the file of `path.py:NAME`, as 16 hexadecimal digits."""
    return hashlib.sha256(_content(split(name)[0])).hexdigest()[:16]


def split(name: str) -> tuple[Path, str]:
    """Split `path.py:NAME` into the path and NAME, either of which may contain colons.

    Example:
      >>> path, task_name = split("tasks/garden.py:Fence")
      >>> path.name, task_name
      ('garden.py', 'Fence')
    """
    stem, _, task_name = (name if f"{_SUFFIX}:" in name else f"{name}:").rpartition(f"{_SUFFIX}:")
    return expanded(f"{stem}{_SUFFIX}"), _text(task_name)


def _text(word: str) -> str:
    """Return a word of the command line as its characters in UTF-8, whatever the encoding of the file system."""
    try:
        word.encode()
    except UnicodeEncodeError:  # bytes that the encoding lacks have become lone surrogates
        return os.fsencode(word).decode(errors="surrogateescape")
    return word


def _content(path: Path) -> bytes:
    """Return the content of a task file."""
    return read_bytes(path, "task file")


@functools.cache
def _checked(path: Path, content: bytes, task_name: str) -> Task | PythonTask:
    """Return a task of a file after checking it, once per process."""
    shown = _text(str(path))
    tasks = _tasks(path.resolve(), content, shown)
    base, suffix = variants.split(task_name, tasks)
    if base not in tasks:
        there = ", ".join(f"{shown}:{known}" for known in tasks)
        mistake = f"has no task {task_name!r}" if task_name else "needs the name of a task"
        raise UserError(f"task file {shown} {mistake}; there is {there}")
    try:
        task = variants.variant(tasks[base], suffix)
        notes = check(task)
    except UserError as error:
        raise UserError(f"{error}{_place(error, shown)}") from None
    for note in notes:
        say(f"note: {note}")
    return task


@functools.cache
def _tasks(path: Path, content: bytes, shown: str) -> dict[str, Task | PythonTask]:
    """Run a file and return the tasks that it registers by name. `shown` is the path of the file in messages."""
    module_name = f"{path.stem}_{hashlib.sha256(os.fsencode(path) + content).hexdigest()[:16]}"
    spec = importlib.machinery.ModuleSpec(module_name, None, origin=str(path))
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        with registry.apart() as registered:
            exec(compile(content, shown, "exec"), module.__dict__)
    except (RecursionError, MemoryError) as error:
        if place := _place(error, shown):
            raise UserError(f"task file {shown}: {_in_words(error)}{place}") from None
        raise UserError(f"task file {shown}: nested too deeply for Python to read") from None
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"task file {error.filename or shown}{where}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise UserError(f"task file {shown}: {_in_words(error)}{_place(error, shown)}") from None
    if not registered:
        raise UserError(f"task file {shown} registers no task: jaxprl.worlds.registry.register(task) does")
    return registered


def _in_words(error: BaseException) -> str:
    """Return the text of an exception on one line. A UserError is shown without the name of its class."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}{': ' * bool(text)}{text}"


def _place(error: BaseException, shown: str) -> str:
    """Return the innermost line of the file that an exception, or its cause, was raised through, in brackets."""
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == shown]
    return f" ({shown}, line {lines[-1]})" if lines else ""
