"""Make a report on runs: one HTML page that needs nothing else, tables as CSV beside it, figures on demand.

jaxprl report runs/maze                           # -> runs/maze/report.html, report*.csv
jaxprl report runs/maze-hc runs/maze-llm-gs --out maze.html
jaxprl report runs --figures png,pdf              # all runs below a folder
jaxprl report runs/maze --text                    # as text on the screen, and no files

Pictures of programs at work, and figures, need the extra `plots`.
Runs that still go on are shown as they stand; what is damaged is named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxprl.cli.common import command_parser, path, prepare_jax
from jaxprl.dsl.text import from_text
from jaxprl.errors import UserError
from jaxprl.files import check_output
from jaxprl.output import say
from jaxprl.render import gif_bytes
from jaxprl.render.page import font
from jaxprl.report import figures, page
from jaxprl.report.text import text
from jaxprl.types import JSON
from jaxprl.worlds import task_files
from jaxprl.worlds.make import is_in_file, make

CELL, MOST_FRAMES = 28, 120
"""Pixels of a cell, and frames at most, of a rollout."""


def main(arguments: Sequence[str]) -> int:
    return write(parser().parse_args(arguments))


def write(options: argparse.Namespace) -> int:
    """Write or print the report that the options ask for, and return the exit code."""
    if options.text:
        if options.out or options.figures:
            raise UserError("--text writes no files: leave --out and --figures away")
        print(text(options.runs))
        return 0
    out = options.out or (options.runs[0] / "report.html" if len(options.runs) == 1 else Path("report.html"))
    if out.suffix != ".html":
        raise UserError(f"--out {out}: a name that ends with .html; the tables are beside it")
    formats = options.figures.split(",") if options.figures else []
    figures.check(formats)
    if out.parent.is_dir():  # otherwise it is made
        check_output(out, "--out")
    prepare_jax()
    if not options.no_rollouts:
        try:
            font(12)
        except UserError as error:
            say(f"warning: no pictures of programs at work: {error}")
    written = page.write(options.runs, out, rollout=None if options.no_rollouts else rollout)
    if formats:
        written += figures.write(options.runs, out, formats)
    say("\n".join(map(str, written)), stream=sys.stdout)
    return 0


def rollout(config: JSON, seed: int, program: str) -> bytes:
    """Return the program at work as an animated GIF. Raises UserError if it cannot be drawn, and for a task file that
    is not the run's, before it is run."""
    name = str(config["task"])
    if is_in_file(name) and task_files.checksum(name) != config.get("task file"):
        raise UserError(f"{task_files.split(name)[0]} has changed since")
    task = make(name)
    return gif_bytes(task, seed, from_text(program, task.language), cell=CELL, most_frames=MOST_FRAMES)


def parser() -> argparse.ArgumentParser:
    parser = command_parser("report", __doc__)
    parser.add_argument("runs", type=path, nargs="+", metavar="RUN", help="run directories, or folders that hold some")
    parser.add_argument("--out", type=path, help="the page (default: report.html in the folder, if it is one)")
    parser.add_argument("--figures", help=f"also write learning curves as {', '.join(figures.FORMATS)}: png,pdf")
    parser.add_argument("--text", action="store_true", help="print the report as text, and write no files")
    parser.add_argument("--no-rollouts", action="store_true", help="leave out the pictures of programs at work")
    return parser
