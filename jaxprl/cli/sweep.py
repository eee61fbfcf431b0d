"""Run tasks x methods from one small file, resumable, ending in a report.

jaxprl sweep experiments/sweeps/hc.toml                              # the published hill-climbing column
jaxprl sweep experiments/sweeps/hc.toml --seeds 0-1 --budget 2000 --out runs/look      # the same for a look
jaxprl sweep experiments/sweeps/hc.toml --cell 3                     # the fourth cell alone, without report
jaxprl sweep experiments/sweeps/llm_gs.toml --set llm=openai --set model=gpt-4o --out runs/gpt-4o

The file (TOML or JSON) has `out`, a folder, and any number of `[[grid]]`: `tasks` and `methods`, lists whose pairs are
the cells; `label`, added to their folders' names; all else are options of `jaxprl run`: seeds = "0-31",
budget = 1000, base-url = "http://localhost:8000/v1". A cell is the run directory OUT/TASK-METHOD[-LABEL]. Instead of
`methods` a [[grid]] can have `published`: one or more published settings (`jaxprl published`). Without `tasks` it has
all tasks of each setting. Such a cell is OUT/TASK-PUBLISHED[-LABEL].

Before anything runs, every cell is looked at, and one that cannot be done is named. The same command again skips cells
that are finished and goes on with the others. A cell that fails is named at the end, the others run all the same; exit
code 1 then. SIGTERM and SIGINT save and stop: 75 and 130.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from jaxprl.cli import report
from jaxprl.cli.common import command_parser, path, prepare_jax, run_main, whole
from jaxprl.cli.run import configuration
from jaxprl.cli.run import parser as run_parser
from jaxprl.errors import Stopped, UserError
from jaxprl.experiment import published
from jaxprl.experiment.published import short
from jaxprl.files import expanded, is_word, read_json, read_toml
from jaxprl.output import say
from jaxprl.report.reading import read
from jaxprl.runs.signals import CODES
from jaxprl.types import JSON

RUN = (sys.executable, "-P", "-m", "jaxprl", "run")
"""The command that runs a cell, before its words. With -P, no file of the working directory is imported."""
DONE = "cell.json"
"""File in a finished cell that holds the words of its command."""
OWN = {"task", "method", "published", "out", "resume", "help"}
"""Options of `jaxprl run` that a sweep sets itself."""

_NAMES = ("tasks", "methods", "published", "label")
"""Entries of a [[grid]] that are no options of `jaxprl run`."""


class Cell(NamedTuple):
    """One run of a sweep."""

    name: str
    """Name of its run directory."""
    words: list[str]
    """Words of its command, after `jaxprl run`."""


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    sweep = read_sweep(options.file)
    out = options.out or expanded(sweep.get("out", f"runs/{options.file.stem}"))
    if out.exists() and not out.is_dir():
        raise UserError(f"out {out}: a file, not a folder")
    changed = dict(each.split("=", 1) for each in options.set)
    changed |= {name: value for name in ("seeds", "budget") if (value := getattr(options, name)) is not None}
    prepare_jax()  # before a task is made: one from a file is tried out
    cells = make_cells(sweep["grid"], changed)
    if options.list:
        print("\n".join(f"{index} {cell.name}: {' '.join(cell.words)}" for index, cell in enumerate(cells)))
        return 0
    if options.cell is not None:
        if options.cell >= len(cells):
            raise UserError(f"cell {options.cell}: they go from 0 to {len(cells) - 1}")
        return run_cell(cells[options.cell], out)
    failed = []
    for index, cell in enumerate(cells):
        print(f"[{index + 1} of {len(cells)}] {cell.name}", flush=True)
        if code := run_cell(cell, out):
            failed.append(f"{cell.name} (exit code {code})")
    if failed:
        say(f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}")
    code = run_main(report.main, [str(out)])
    return 1 if failed else code


def read_sweep(file: Path) -> JSON:
    """Return the content of a sweep's file. Raises UserError if it is not one."""
    sweep = read_json(file, "sweep") if file.suffix == ".json" else read_toml(file, "sweep")
    if not isinstance(sweep, dict) or not set(sweep) <= {"out", "grid"}:
        raise UserError(f"{file}: expected `out` and `[[grid]]` alone")
    out = sweep.get("out", "runs")
    if not isinstance(out, str):
        raise UserError(f"{file}: out {out!r} is no folder's name")
    try:
        expanded(out)
    except UserError as error:
        raise UserError(f"{file}: out {out!r} is no folder's name: {error}") from None
    grid = sweep.get("grid")
    if not isinstance(grid, list) or not grid or not all(isinstance(each, dict) for each in grid):
        raise UserError(f"{file}: there is no [[grid]]")
    for each in grid:
        if "published" in each and "methods" in each:
            raise UserError(f"{file}: a [[grid]] has either methods or published, not both")
        needed = {"published"} | ({"tasks"} & set(each)) if "published" in each else {"tasks", "methods"}
        for name in sorted(needed, reverse=True):
            value = [each[name]] if name == "published" and isinstance(each[name], str) else each.get(name)
            if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
                raise UserError(f"{file}: every [[grid]] needs {name}, a list of names")
    return sweep


def make_cells(grid: Sequence[JSON], changed: JSON) -> list[Cell]:
    """Return the cells of a sweep, with some options `changed`. Raises UserError for what `jaxprl run` cannot do."""
    cells: dict[str, Cell] = {}
    for each in grid:
        options = {name: value for name, value in each.items() if name not in _NAMES} | changed
        for task, kind, chosen in _pairs(each):
            words = ["--task", task, f"--{kind}", chosen]
            words += itertools.chain.from_iterable(_words(name, value) for name, value in options.items())
            label = f"-{each['label']}" if "label" in each else ""
            name = re.sub(r"[^\w.+-]+", "-", f"{task}-{chosen}{label}")
            if name in cells:
                raise UserError(f"two cells have the name {name}: give one [[grid]] a label")
            _check(name, words)
            cells[name] = Cell(name, words)
    return list(cells.values())


def _pairs(grid: JSON) -> Iterator[tuple[str, str, str]]:
    """Yield the cells of a [[grid]]: the task, `method` or `published`, and the name of one of these."""
    settings = grid.get("published", ())
    for setting in [settings] if isinstance(settings, str) else settings:
        for task in grid["tasks"] if "tasks" in grid else map(short, published.get(setting).tasks.value):
            yield task, "published", setting
    for task, method in itertools.product(grid.get("tasks", ()), grid.get("methods", ())):
        yield task, "method", method


def _words(name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    if name in OWN:
        raise UserError(f"{name} = {value!r}: this option is the sweep's own")
    if isinstance(value, bool):
        return [option] if value else []
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str | int | float) and is_word(str(each)) for each in values):
        raise UserError(f"{name} = {value!r}: neither text nor a number, yes or no, nor a list of these")
    return [option, ",".join(map(str, values))]


def _check(name: str, words: Sequence[str]) -> None:
    def refuse(message: str) -> NoReturn:
        raise UserError(f"cell {name}: {message}")

    run = run_parser()
    run.error = refuse  # type: ignore[method-assign]
    run.allow_abbrev = False
    asked = run.parse_args(words)
    try:
        configuration(asked)
    except UserError as error:
        refuse(str(error))


def run_cell(cell: Cell, out: Path) -> int:
    """Run or resume a cell and return the exit code of `jaxprl run`. Raises Stopped after a signal to stop."""
    folder = out / cell.name
    if _finished(folder, cell):
        print(f"{folder}: finished before")
        return 0
    signals: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if child:
            child.send_signal(number)

    handlers = {each: signal.signal(each, forward) for each in CODES}
    try:
        # In a group of its own, so that control-C reaches it once, through here.
        words = [*RUN, *cell.words, "--out", str(folder), "--resume"]
        child = subprocess.Popen(words, process_group=0)
        if signals:
            child.send_signal(signals[0])
        code = child.wait()
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    if code == 0:
        (folder / DONE).write_text(json.dumps(cell.words) + "\n")
    if signals:
        ended = "" if code in (0, *CODES.values()) else f" (its run ended with exit code {code})"
        raise Stopped(f"stopped in {cell.name}{ended}; the same command goes on", CODES[signal.Signals(signals[0])])
    return code


def _finished(folder: Path, cell: Cell) -> bool:
    """Return whether the cell has run to its end with the same words, and its results can be read."""
    try:
        same = json.loads((folder / DONE).read_text()) == cell.words
    except (OSError, ValueError, RecursionError):
        return False
    if not same:
        return False
    searches = read(folder).searches
    return bool(searches) and all(search.result for search in searches)


def parser() -> argparse.ArgumentParser:
    parser = command_parser("sweep", __doc__)
    parser.add_argument("file", type=path, help="what to run, TOML or JSON")
    parser.add_argument("--out", type=path, help="folder of the cells (default: the file's)")
    parser.add_argument("--seeds", help="other search seeds for all cells, like 0-1")
    parser.add_argument("--budget", type=int, help="another budget for all cells, in programs")
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any option of `jaxprl run` for all cells",
    )
    parser.add_argument("--cell", type=whole(0), metavar="I", help="run one cell alone, from 0: for job arrays")
    parser.add_argument("--list", action="store_true", help="print the cells and run none")
    return parser


def _setting(text: str) -> str:
    if "=" not in text.strip("="):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return text
