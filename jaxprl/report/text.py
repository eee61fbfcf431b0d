"""A report as text: a line for each task and method, and the results beside published ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from jaxprl.report.comparison import compare, estimate, lines, result
from jaxprl.report.groups import Group, group, summary
from jaxprl.report.reading import read_all


def text(paths: Sequence[Path]) -> str:
    """Return a report on runs as text.

    Args:
      paths: run directories, or folders that contain some.

    Raises:
      UserError: a folder contains no run.
    """
    runs = read_all(paths)
    groups, repeated = group(runs)
    problems = [problem for run in runs for problem in run.problems] + repeated
    blocks = ["\n".join(map(_line, groups)), *("\n".join(lines(each)) for each in compare(groups))]
    if problems:
        blocks.append("\n".join(["incomplete or damaged:", *(f"  {problem}" for problem in problems)]))
    return "\n\n".join(blocks)


def _line(group: Group) -> str:
    """Return the result of a group in words."""
    outcome = summary(group)
    name = f"{group.task}, {group.method}:"
    if not outcome:
        return f"{name} no program yet"
    returns = estimate([search.best for search in group.begun if search.best is not None])
    known = "" if math.isnan(outcome.unseen) else f", {outcome.unseen:.4f} on unseen layouts"
    running = "" if outcome.finished == outcome.searches else f", {outcome.finished} finished"
    return (
        f"{name} {result(returns, None)}{known}; {outcome.solved} solved of {outcome.searches} searches{running}; "
        f"{outcome.programs:,} programs"
    )
