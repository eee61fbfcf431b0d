"""The command `jaxprl`, also `python -m jaxprl`. A command's module is imported when it is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from jaxprl import __version__
from jaxprl.cli.common import run_process
from jaxprl.errors import UserError, unknown
from jaxprl.output import say

COMMANDS = {
    "run": ("run:main", "search programs for a task; alone, LLM-GS on DoorKey"),
    "evaluate": ("inspect:evaluate_programs", "run programs on layouts of a task"),
    "trace": ("inspect:trace_program", "follow one run of a program, call by call"),
    "render": ("inspect:render_program", "show one run of a program as GIF or PNG"),
    "prompt": ("inspect:show_prompt", "show what a language model is asked for a task"),
    "tasks": ("inspect:list_tasks", "list the tasks"),
    "methods": ("inspect:list_methods", "list the methods and their options"),
    "published": ("published:main", "list the published settings, or show one"),
    "kernel": ("inspect:show_kernel", "show the text in C or CUDA that a task's programs are run by"),
    "report": ("report:main", "make a report on runs"),
    "sweep": ("sweep:main", "run tasks x methods from a file, resumable"),
    "train": ("train:main", "train the model of a learned program space"),
    "convert": ("convert:main", "read the model of a learned program space from PyTorch weights"),
}
"""Where each command is, and what it does."""
SAVING = {"run", "sweep", "train"}
"""The commands whose results are files: they go on if nothing can be printed any more."""


def usage() -> str:
    """Return the commands, a line each."""
    lines = (f"  {name:9} {summary}" for name, (_, summary) in COMMANDS.items())
    return "\n".join(
        (
            "usage: jaxprl COMMAND ...",
            "",
            *lines,
            "",
            "`jaxprl COMMAND --help` says more; `jaxprl --version` the version.",
        )
    )


def dispatch(arguments: Sequence[str]) -> int:
    """Run the command that the first word names and return its exit code."""
    name, *rest = arguments or [""]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"jaxprl {__version__}")
        return 0
    if not name:
        say(usage())
        return 2
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    module, function = COMMANDS[name][0].split(":")
    try:
        importlib.import_module("jax")  # JAX checks its environment variables when it is imported
    except (ImportError, ValueError) as error:
        raise UserError(f"JAX cannot be imported: {error}") from None
    return getattr(importlib.import_module(f"jaxprl.cli.{module}"), function)(rest) or 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default that of the process, and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_process(dispatch, words, saves=bool(words) and words[0] in SAVING)
