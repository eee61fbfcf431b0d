"""Answers of language models that ship with the package: `recorded/README.md` says what they are and are not."""

from __future__ import annotations

import importlib.resources
import json

from jaxprl.errors import UserError

_FOLDER = importlib.resources.files("jaxprl.llm") / "recorded"


def recorded(task_name: str) -> list[str]:
    """Return the recorded answers to the task's prompt, raw, in their order.

    Raises UserError with the tasks that have some if this one has none.
    """
    files = {file.name.removesuffix(".jsonl"): file for file in _FOLDER.iterdir() if file.name.endswith(".jsonl")}
    if task_name not in files:
        raise UserError(f"no recorded answers for task {task_name!r}; there are some for {', '.join(sorted(files))}")
    answers = [json.loads(line) for line in files[task_name].read_text(encoding="utf-8").splitlines()]
    return [answer["text"] for answer in sorted(answers, key=lambda answer: answer["index"])]
