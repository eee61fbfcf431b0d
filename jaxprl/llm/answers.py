"""Recorded answers of language models that ship with the package (see `recorded/README.md` for what they are)."""

from __future__ import annotations

import importlib.resources
import json

from jaxprl.errors import UserError

_FOLDER = importlib.resources.files("jaxprl.llm") / "recorded"


def tasks() -> tuple[str, ...]:
    """Return the names of the tasks with recorded answers, sorted.

    Example:
      >>> "DoorKey" in tasks()
      True
    """
    return tuple(sorted(file.name.removesuffix(".jsonl") for file in _FOLDER.iterdir() if file.name.endswith(".jsonl")))


def recorded(task_name: str) -> list[str]:
    """Return the recorded answers to a task's first prompt.

    Args:
      task_name: the name of the task.

    Returns:
      The raw texts, in the order in which they were recorded.

    Raises:
      UserError: if the task has no recorded answers; the message lists the tasks that do.

    Example:
      >>> print(recorded("DoorKey")[0][:9])
      ```python
    """
    if task_name not in tasks():
        raise UserError(f"no recorded answers for task {task_name!r}; there are some for {', '.join(tasks())}")
    lines = (_FOLDER / f"{task_name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [answer["text"] for answer in sorted(map(json.loads, lines), key=lambda answer: answer["index"])]
