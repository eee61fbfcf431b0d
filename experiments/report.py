"""Make a report on runs: one HTML page that needs nothing else, tables as CSV beside it, figures on demand.

python experiments/report.py runs/maze                           # -> runs/maze/report.html, report*.csv
python experiments/report.py runs/maze-hc runs/maze-llm-gs --out maze.html
python experiments/report.py runs --figures png,pdf              # all runs below a folder

Pictures of programs at work, and figures, need the extra `plots`.
Runs that still go on are shown as they stand; what is damaged is named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprl.arguments import prepare_jax, run_main
from jaxprl.dsl import text
from jaxprl.errors import UserError
from jaxprl.render import gif_bytes, page
from jaxprl.runs import figures, report
from jaxprl.worlds import files, registry

CELL, MOST_FRAMES = 28, 120
"""Pixels of a cell, and frames at most, of a rollout."""


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    out = options.out or (options.runs[0] / "report.html" if len(options.runs) == 1 else Path("report.html"))
    if out.suffix != ".html":
        raise UserError(f"--out {out}: a name that ends with .html; the tables are beside it")
    formats = options.figures.split(",") if options.figures else []
    figures.check(formats)
    prepare_jax()
    if not options.no_rollouts:
        try:
            page.font(12)
        except UserError as error:
            print(f"warning: no pictures of programs at work: {error}", file=sys.stderr)
    written = report.write(options.runs, out, rollout=None if options.no_rollouts else rollout)
    if formats:
        written += figures.write(options.runs, out, formats)
    print("\n".join(map(str, written)).encode(errors="backslashreplace").decode())
    return 0


def rollout(config: dict[str, Any], seed: int, program: str) -> bytes:
    """Return the program at work as an animated GIF. Raises UserError if it cannot be drawn, and for a task file that
    is not the run's, before it is run."""
    name = str(config["task"])
    in_file = files.names_file(name) and not name.startswith(registry.FARAMA)
    if in_file and files.checksum(name) != config.get("task file"):
        raise UserError(f"{files.split(name)[0]} has changed since")
    task = registry.make(name)
    return gif_bytes(task, seed, text.parse(program, task.language), cell=CELL, most_frames=MOST_FRAMES)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories, or folders that hold some")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the folder, if it is one)")
    parser.add_argument("--figures", help=f"also write learning curves as {', '.join(figures.FORMATS)}: png,pdf")
    parser.add_argument("--no-rollouts", action="store_true", help="leave out the pictures of programs at work")
    return parser


if __name__ == "__main__":
    sys.exit(run_main(main))
