"""`python -m jaxprl`: look at tasks and run single programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprl.arguments import parse_seeds, use_compilation_cache
from jaxprl.dsl import ast, text
from jaxprl.errors import UserError
from jaxprl.vm import host
from jaxprl.vm.evaluate import Scale, evaluate
from jaxprl.vm.interpreter import END_NAMES
from jaxprl.worlds import registry
from jaxprl.worlds.task import Task


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    options = parser().parse_args(arguments)
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
    return parser


def print_tasks(options: argparse.Namespace) -> int:
    """List the tasks: name, domain, size of the world, and the goal in words."""
    for task in registry.tasks().values():
        size = f"{task.world.height}x{task.world.width}"
        if options.json:
            print(json.dumps({"task": task.name, "domain": task.language.name, "size": size, **task.words}))
        else:
            print(f"{task.name:20} {task.language.name:9} {size:7} {task.words['goal']}")
    return 0


def print_returns(options: argparse.Namespace) -> int:
    """Run every program on every layout; one JSON object a line, in order. A line that is no program gives its
    error, and exit code 1 at the end."""
    task = registry.make(options.task)
    layouts = task.layouts(parse_seeds(options.layout_seeds))
    rows = [_parse(line, task) for line in _read(options.programs)]
    use_compilation_cache()
    programs = [row["ast"] for row in rows if "ast" in row]
    runs = evaluate(task, programs, layouts)
    outcomes = zip(runs.units, runs.calls, runs.actions, runs.end, strict=True)
    scale = Scale.of(layouts)
    for row in rows:
        if "ast" not in row:
            print(json.dumps(row))
            continue
        units, calls, actions, end = next(outcomes)
        found = {
            "program": row["program"],
            "returns": (units / np.asarray(layouts.units)).tolist(),
            "mean": int(scale.scores(units)) / scale.denominator,
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


def _parse(line: str, task: Task) -> dict[str, Any]:
    try:
        return {"program": line, "ast": text.parse(line, task.language)}
    except text.ParseError as error:
        return {"program": line, "error": str(error)}


def print_trace(options: argparse.Namespace) -> int:
    """Follow a program on one layout; a JSON object per call: kind, name, result of a perception, pose after it
    (Karel: row, column, direction; MiniGrid: x, y, direction), reward and terminated of an action."""
    task = registry.make(options.task)
    seeds = parse_seeds(options.layout_seed)
    if len(seeds) != 1:
        raise UserError(f"layout seed {options.layout_seed!r}: a trace follows one layout")
    program = text.parse(options.program, task.language)
    for row in trace(task, seeds[0], program):
        print(json.dumps(row))
    return 0


def trace(task: Task, seed: int, program: ast.Program) -> list[dict[str, Any]]:
    """Return a run's calls as dictionaries (`print_trace`)."""
    environment = host.WorldEnvironment(task, task.layout(seed))
    rows: list[dict[str, Any]] = []

    def observe(call: host.Call) -> None:
        reward = None if call.reward is None else call.reward / environment.units
        rows.append(
            {
                "kind": call.kind,
                "name": call.name,
                "result": call.result,
                "pose": task.world.pose(environment.state),
                "reward": reward,
                "terminated": call.terminated,
            }
        )

    host.run(program, environment, observe)
    return rows
