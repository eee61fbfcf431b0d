"""`python -m jaxprl`: look at tasks and run single programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprl.arguments import parse_seeds, prepare_jax
from jaxprl.dsl import ast, text
from jaxprl.dsl.python import statement_lines
from jaxprl.errors import UserError
from jaxprl.llm import prompts
from jaxprl.render import files as pictures
from jaxprl.render.rollout import ENDS, follow, thinned
from jaxprl.vm import host
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.interpreter import END_NAMES
from jaxprl.vm.runs import mean_return
from jaxprl.worlds import registry
from jaxprl.worlds.task import HostTask, Task


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    options = parser().parse_args(arguments)
    prepare_jax()  # before a task is made: one from a file is tried out
    return options.command(options)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jaxprl", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    tasks = commands.add_parser("tasks", help="list the tasks", description=print_tasks.__doc__)
    tasks.set_defaults(command=print_tasks)
    tasks.add_argument("--json", action="store_true", help="one JSON object a line")

    evaluate = commands.add_parser("evaluate", help="run programs on layouts", description=print_returns.__doc__)
    evaluate.set_defaults(command=print_returns)
    evaluate.add_argument("--task", required=True)
    evaluate.add_argument("--layout-seeds", default="0-31", help="like 0-31 or 0,3,7-9 (default: %(default)s)")
    evaluate.add_argument(
        "--programs", required=True, help="file of programs, one a line in token text, blank lines aside; - is stdin"
    )

    trace = commands.add_parser("trace", help="follow one run", description=print_trace.__doc__)
    trace.set_defaults(command=print_trace)
    trace.add_argument("--task", required=True)
    trace.add_argument("--layout-seed", default="0", help="(default: %(default)s)")
    trace.add_argument("--program", required=True, help="token text")

    render = commands.add_parser("render", help="show one run in pictures", description=write_pictures.__doc__)
    render.set_defaults(command=write_pictures)
    render.add_argument("--task", required=True)
    render.add_argument("--layout-seed", default="0", help="(default: %(default)s)")
    render.add_argument("--program", required=True, help="token text")
    render.add_argument("--out", required=True, help="run.gif (animated) or run.png (a strip)")
    render.add_argument("--cell", type=int, default=32, help="pixels of a cell's side (default: %(default)s)")
    render.add_argument(
        "--most-frames", type=int, help="longer runs are thinned; the first, the last and rewarded calls stay "
        f"(default: {pictures.MOST_FRAMES}, strips {pictures.STRIP_MOMENTS})",
    )  # fmt: skip

    prompt = commands.add_parser("prompt", help="show what a language model is asked", description=print_prompt.__doc__)
    prompt.set_defaults(command=print_prompt)
    prompt.add_argument("--task", required=True)
    prompt.add_argument("--style", default="python-dsl", help=f"{', '.join(prompts.STYLES)} (default: %(default)s)")
    return parser


def print_tasks(options: argparse.Namespace) -> int:
    """List the tasks: name, domain, size of the world, and the goal in words."""
    for task in registry.tasks().values():
        world: Any = None if isinstance(task, HostTask) else task.world
        size = f"{world.height}x{world.width}" if hasattr(world, "height") else "-"
        if options.json:
            print(json.dumps({"task": task.name, "domain": task.language.name, "size": size, **task.words}))
        else:
            print(f"{task.name:33} {task.language.name:17} {size:7} {task.words.get('goal', '')}")
    return 0


def print_returns(options: argparse.Namespace) -> int:
    """Run every program on every layout; one JSON object a line, in order. A line that is no program gives its
    error, and exit code 1 at the end."""
    task = registry.make(options.task)
    layouts = task.layouts(parse_seeds(options.layout_seeds))
    rows = [_parse(line, task) for line in _read(options.programs)]
    programs = [row["ast"] for row in rows if "ast" in row]
    runs = evaluate(task, programs, layouts)
    outcomes = zip(runs.units, runs.calls, runs.actions, runs.end, strict=True)
    for row in rows:
        if "ast" not in row:
            print(json.dumps(row))
            continue
        units, calls, actions, end = next(outcomes)
        found = {
            "program": row["program"],
            "returns": (units / np.asarray(layouts.units)).tolist(),
            "mean": mean_return(units, layouts),
            "calls": calls.tolist(),
            "actions": actions.tolist(),
            "end": [END_NAMES[code] for code in end.tolist()],
        }
        print(json.dumps(found))
    return 0 if len(programs) == len(rows) else 1


def _read(name: str) -> list[str]:
    """Return a file's lines that are not blank; a byte that is not UTF-8 spoils its own line only."""
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UserError(f"programs {name}: {error.strerror}") from None
    lines = content.decode("utf-8-sig", errors="backslashreplace").split("\n")
    return [line.removesuffix("\r") for line in lines if line.strip()]


def _parse(line: str, task: Task | HostTask) -> dict[str, Any]:
    try:
        return {"program": line, "ast": text.parse(line, task.language)}
    except text.ParseError as error:
        return {"program": line, "error": str(error)}


def print_trace(options: argparse.Namespace) -> int:
    """Follow a program on one layout; a JSON object per call: kind, name, line in the program's Python text, result of
    a perception, pose after it (Karel: row, column, direction; MiniGrid: x, y, direction; null in worlds without one),
    reward and terminated of an action."""
    task = registry.make(options.task)
    program = text.parse(options.program, task.language)
    for row in trace(task, _one_seed(options.layout_seed), program):
        print(json.dumps(row))
    return 0


def trace(task: Task | HostTask, seed: int, program: ast.Program) -> list[dict[str, Any]]:
    """Return a run's calls as dictionaries (`print_trace`)."""
    environment, units = host.environment(task, task.layouts([seed]), 0)
    lines = statement_lines(program)
    rows: list[dict[str, Any]] = []

    def observe(call: host.Call) -> None:
        reward = None if call.reward is None else call.reward / units
        rows.append(
            {
                "kind": call.kind,
                "name": call.name,
                "result": call.result,
                "pose": environment.pose(),
                "reward": reward,
                "terminated": call.terminated,
                "line": lines[call.statement],
            }
        )

    host.run(program, environment, observe)
    return rows


def write_pictures(options: argparse.Namespace) -> int:
    """Write one run of a program as an animated GIF or as a PNG strip: the world, the program beside it with the
    current line, the calls and the return so far."""
    suffix = Path(options.out).suffix.lower()
    if suffix not in (".gif", ".png"):
        raise UserError(f"--out {options.out}: a name that ends with .gif or .png")
    task = registry.make(options.task)
    rollout = follow(task, _one_seed(options.layout_seed), text.parse(options.program, task.language))
    if suffix == ".gif":
        frames = pictures.frames_of(
            rollout, cell=options.cell, most_frames=_given(options.most_frames, pictures.MOST_FRAMES)
        )
        pictures.save_gif(frames, options.out)
        shown, image = f"{len(frames)} frames", frames[0].image
    else:
        most = _given(options.most_frames, pictures.STRIP_MOMENTS)
        image = pictures.strip_of(rollout, cell=options.cell, most_frames=most)
        pictures.save_strip(image, options.out)
        shown = f"{len(thinned(rollout.moments, most))} moments"
    size = f"{image.shape[1]}x{image.shape[0]} pixels, {Path(options.out).stat().st_size / 1000:,.0f} kB"
    last = rollout.moments[-1]
    print(f"{options.out}: {shown} of {last.call:,} calls, {size}; return {last.total:.4f}, {ENDS[rollout.end]}")
    return 0


def _given(number: int | None, default: int) -> int:
    return default if number is None else number


def _one_seed(words: str) -> int:
    seeds = parse_seeds(words)
    if len(seeds) != 1:
        raise UserError(f"layout seed {words!r}: a run is on one layout")
    return seeds[0]


def print_prompt(options: argparse.Namespace) -> int:
    """Show the prompt that asks a language model for a program: the system message, then the user message."""
    task = registry.make(options.task)
    messages = prompts.messages(task.language, registry.told_name(task), task.words, options.style)
    print("\n\n".join(message["content"] for message in messages))
    return 0
