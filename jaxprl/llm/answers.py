"""Answers of language models that ship with the package: `recorded/README.md` says what they are and are not."""

from __future__ import annotations

import importlib.resources
import json

from jaxprl.errors import UserError

_FOLDER = importlib.resources.files("jaxprl.llm") / "recorded"


def tasks() -> tuple[str, ...]:
    """Return the names of the tasks that have recorded answers."""
    return tuple(sorted(file.name.removesuffix(".jsonl") for file in _FOLDER.iterdir() if file.name.endswith(".jsonl")))


def recorded(task_name: str) -> list[str]:
    """Return the recorded answers to the task's prompt, raw, in their order.

    Raises UserError with the tasks that have some if this one has none.
    """
    if task_name not in tasks():
        raise UserError(f"no recorded answers for task {task_name!r}; there are some for {', '.join(tasks())}")
    lines = (_FOLDER / f"{task_name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [answer["text"] for answer in sorted(map(json.loads, lines), key=lambda answer: answer["index"])]
