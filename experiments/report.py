"""Make a report on runs: one HTML page that needs nothing else, tables as CSV beside it, figures on demand.

python experiments/report.py runs/maze                           # -> runs/maze/report.html, report*.csv
python experiments/report.py runs/maze-hc runs/maze-llm-gs --out maze.html
python experiments/report.py runs --figures png,pdf              # all runs below a folder; needs the extra `plots`

Runs that still go on are shown as they stand; what is damaged is named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxprl.arguments import prepare_jax, run_main
from jaxprl.dsl import text
from jaxprl.render import gif_bytes
from jaxprl.runs import figures, report
from jaxprl.worlds import registry

CELL, MOST_FRAMES = 28, 120
"""Pixels of a cell, and frames at most, of a rollout."""


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    prepare_jax()
    out = options.out or (options.runs[0] / "report.html" if len(options.runs) == 1 else Path("report.html"))
    files = report.write(options.runs, out, rollout=None if options.no_rollouts else rollout)
    if options.figures:
        files += figures.write(options.runs, out, options.figures.split(","))
    print("\n".join(map(str, files)))
    return 0


def rollout(task_name: str, seed: int, program: str) -> bytes:
    """Return the program at work as an animated GIF. Raises UserError if it cannot be drawn."""
    task = registry.make(task_name)
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
