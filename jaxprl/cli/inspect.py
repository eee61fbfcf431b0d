"""Commands that look at tasks and methods and run single programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxprl.cli.common import check_devices, command_parser, one_seed, parse_seeds, path, prepare_jax, whole
from jaxprl.codegen.stablehlo import Unsupported
from jaxprl.dsl import ast, text
from jaxprl.dsl.parse import parse
from jaxprl.errors import UserError
from jaxprl.files import check_encoding, check_output, read_bytes
from jaxprl.llm import prompts
from jaxprl.methods.base import flag, option_lines
from jaxprl.methods.registry import methods
from jaxprl.render import gif
from jaxprl.render.page import font
from jaxprl.render.rollout import follow, thinned
from jaxprl.render.world import LARGEST, SMALLEST
from jaxprl.vm import cuda, native
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.kernel import gpu_worker, pieces, worker
from jaxprl.vm.trace import trace
from jaxprl.worlds import registry
from jaxprl.worlds.make import make
from jaxprl.worlds.task import Task, World, prompt_name
from jaxprl.worlds.variants import properties_of

MOST_RUNS = 2**26
"""Runs of one `jaxprl evaluate`, whose outcomes are in memory together."""
STANDARD_INPUT = Path("-")
MOST_MOMENTS = 20_000
"""The most moments of a run that a picture shows."""


def list_tasks(arguments: Sequence[str]) -> int:
    """List the tasks: name, domain, size of the world, and the goal in words. In brackets is what can be put behind the
    name: `@HxW` for another size, `:crashable` for a world where actions crash."""
    parser = command_parser("tasks", list_tasks.__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    for task in registry.tasks().values():
        size = _size(task.world) if isinstance(task, Task) else "-"
        sizes, properties = task.sizes.in_words if isinstance(task, Task) and task.sizes else None, properties_of(task)
        if options.json:
            row = {"task": task.name, "domain": task.language.name, "size": size, "sizes": sizes}
            print(json.dumps({**row, "properties": properties, **task.words}))
        else:
            behind = ", ".join([*(["@HxW"] if sizes else []), *(f":{name}" for name in properties)])
            words = f"{task.words.get('goal', '')}{f' [{behind}]' if behind else ''}"
            print(f"{task.name:33} {task.language.name:17} {size:7} {words}")
    return 0


def _size(world: World) -> str:
    """Return the size of a world in cells, or `-` for one without cells."""
    height, width = getattr(world, "height", None), getattr(world, "width", None)
    return f"{height}x{width}" if height and width else "-"


def list_methods(arguments: Sequence[str]) -> int:
    """List the methods: what each does, and its own options with their defaults."""
    parser = command_parser("methods", list_methods.__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    for method in methods().values():
        lines = {flag(name): line for name, line in option_lines(method.options).items()}
        if options.json:
            print(json.dumps({"method": method.name, "summary": method.summary, "options": lines}))
        else:
            print(f"{method.name:27} {method.summary}")
            print("".join(f"    {name:23} {line}\n" for name, line in lines.items()), end="")
    return 0


def evaluate_programs(arguments: Sequence[str]) -> int:
    """Run every program on every layout; one JSON object a line, in order. A line that is no program gives its error,
    and exit code 1 at the end."""
    parser = command_parser("evaluate", evaluate_programs.__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--layout-seeds", default="0-31", help="like 0-31 or 0,3,7-9 (default: %(default)s)")
    parser.add_argument(
        "--programs",
        type=path,
        required=True,
        help="file of programs, one a line in token text, blank lines aside; - is stdin",
    )
    options = parser.parse_args(arguments)
    seeds = parse_seeds(options.layout_seeds)
    texts = None if options.programs == STANDARD_INPUT else _lines_of(options.programs)
    prepare_jax()
    check_devices()
    task = make(options.task)
    lines = [_parsed(line, task.language) for line in (_lines_of(STANDARD_INPUT) if texts is None else texts)]
    programs = [line.program for line in lines if line.program]
    if runs := len(programs) * len(seeds):
        if runs > MOST_RUNS:
            raise UserError(
                f"{len(programs):,} programs on {len(seeds):,} layouts are {runs:,} runs; at most {MOST_RUNS:,} at once"
            )
        outcomes = evaluate(task, programs, layout_seeds=seeds)
    number = 0
    for line in lines:
        if not line.program:
            print(json.dumps({"program": line.text, "error": line.error}))
            continue
        row = {
            "program": line.text,
            "returns": outcomes.returns[number].tolist(),
            "mean": float(outcomes.mean_returns[number]),
            "calls": outcomes.calls[number].tolist(),
            "actions": outcomes.actions[number].tolist(),
            "end": outcomes.ends[number].tolist(),
        }
        number += 1
        print(json.dumps(row))
    return 0 if len(programs) == len(lines) else 1


def show_kernel(arguments: Sequence[str]) -> int:
    """Show the text in C by which the engine `native` runs a task's programs: its rules, and the loop of a thread."""
    parser = command_parser("kernel", show_kernel.__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--cuda", action="store_true", help="the text in CUDA of the engine `cuda`")
    options = parser.parse_args(arguments)
    prepare_jax()
    check_devices()
    task = make(options.task)
    if not isinstance(task, Task):
        raise UserError(f"task {task.name} is not array code: plain Python runs its programs")
    try:
        engine = cuda if options.cuda else native
        usual = pieces.usual(task, task.layouts([0]), engine.Batches.slots)
        print(gpu_worker.write(*usual).text if options.cuda else worker.write(*usual), end="")
    except Unsupported as reason:
        raise UserError(f"the rules of {task.name} cannot be translated: {reason}") from reason
    return 0


class _Line(NamedTuple):
    """A line of a file of programs."""

    text: str
    program: ast.Program | None
    error: str = ""
    """Why it is no program."""


def _lines_of(file: Path) -> list[str]:
    """Return a file's lines that are not blank; a byte that is not UTF-8 spoils its own line only."""
    if file == STANDARD_INPUT:
        if sys.stdin is None:
            raise UserError("programs -: standard input is closed")
        try:
            content = sys.stdin.buffer.read()
        except OSError as error:
            raise UserError(f"programs -: {error.strerror}") from None
        check_encoding(content, "programs on standard input")
    else:
        content = read_bytes(file, "programs")
    lines = content.decode("utf-8-sig", errors="backslashreplace").split("\n")
    return [line.removesuffix("\r") for line in lines if line.strip()]


def _parsed(line: str, language: text.Language) -> _Line:
    try:
        return _Line(line, text.from_text(line, language))
    except UserError as error:
        return _Line(line, None, str(error))


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options that name one run of a program."""
    parser.add_argument("--task", required=True)
    parser.add_argument("--layout-seed", default="0", help="(default: %(default)s)")
    parser.add_argument("--program", required=True, help="token text, or the text of a Python function run()")


def trace_program(arguments: Sequence[str]) -> int:
    """Follow a program on one layout; a JSON object per call: kind, name, line in the program's Python text, result of
    a perception, pose after it (Karel: row, column, direction; MiniGrid: x, y, direction; null in worlds without one),
    reward and terminated of an action. One that crashed also has `"crashed": true`."""
    parser = command_parser("trace", trace_program.__doc__)
    _add_run(parser)
    options = parser.parse_args(arguments)
    seed = one_seed(options.layout_seed)
    prepare_jax()
    task = make(options.task)
    program = parse(options.program, task)
    for row in trace(task, program, seed).rows():
        print(json.dumps(row))
    return 0


def render_program(arguments: Sequence[str]) -> int:
    """Write one run of a program as an animated GIF or as a PNG strip: the world, the program beside it with the
    current line, the calls and the return so far."""
    parser = command_parser("render", render_program.__doc__)
    _add_run(parser)
    parser.add_argument("--out", type=path, required=True, help="run.gif (animated) or run.png (a strip)")
    parser.add_argument(
        "--cell", type=whole(SMALLEST, LARGEST), default=32, help="pixels of a cell's side (default: %(default)s)"
    )
    parser.add_argument(
        "--most-frames",
        type=whole(2, MOST_MOMENTS),
        help="longer runs are thinned; the first, the last and rewarded calls stay "
        f"(default: {gif.MOST_FRAMES}, strips {gif.STRIP_MOMENTS})",
    )
    options = parser.parse_args(arguments)
    suffix = options.out.suffix.lower()
    if suffix not in (".gif", ".png"):
        raise UserError(f"--out {options.out}: a name that ends with .gif or .png")
    check_output(options.out, "--out")
    font(12)  # says what is missing if nothing can be drawn
    seed = one_seed(options.layout_seed)
    prepare_jax()
    task = make(options.task)
    rollout = follow(task, seed, parse(options.program, task))
    most = options.most_frames
    if suffix == ".gif":
        most = gif.MOST_FRAMES if most is None else most
        frames = gif.frames_of(rollout, cell=options.cell, most_frames=most)
        gif.save_gif(frames, options.out)
        shown, image = f"{len(frames)} frames", frames[0].image
    else:
        most = gif.STRIP_MOMENTS if most is None else most
        image = gif.strip_of(rollout, cell=options.cell, most_frames=most)
        gif.save_strip(image, options.out)
        shown = f"{len(thinned(rollout.moments, most))} moments"
    size = f"{image.shape[1]}x{image.shape[0]} pixels, {options.out.stat().st_size / 1000:,.0f} kB"
    last = rollout.moments[-1]
    print(f"{options.out}: {shown} of {last.call:,} calls, {size}; return {last.total:.4f}, {rollout.end.in_words}")
    return 0


def show_prompt(arguments: Sequence[str]) -> int:
    """Show the prompt that asks a language model for a program: the system message, then the user message."""
    parser = command_parser("prompt", show_prompt.__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--style", default="python-dsl", help=f"{', '.join(prompts.STYLES)} (default: %(default)s)")
    options = parser.parse_args(arguments)
    prepare_jax()
    task = make(options.task)
    messages = prompts.messages(task.language, prompt_name(task), task.words, options.style)
    print("\n\n".join(message["content"] for message in messages))
    return 0
