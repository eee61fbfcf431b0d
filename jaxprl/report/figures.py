"""Learning curves as files for a paper, drawn by matplotlib."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxprl.errors import UserError, needed_by
from jaxprl.report.charts import COLOURS, Chart, Line, learning_curves, tick_label
from jaxprl.report.groups import group
from jaxprl.report.reading import read_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")
"""The formats of files."""


def write(paths: Sequence[Path], out: Path, formats: Sequence[str]) -> list[Path]:
    """Write the learning curves of runs, a figure for each task.

    Args:
      paths: run directories, or folders that contain some.
      out: the files are named after it: `report.html` gives `report-DoorKey.png`.
      formats: some of `FORMATS`.

    Returns:
      The files.

    Raises:
      UserError: a format is unknown, a folder contains no run, or matplotlib is not installed.
    """
    check(formats)
    import matplotlib as mpl

    groups, _ = group(read_all(paths))
    files = []
    with mpl.rc_context({"font.size": 8, "pdf.fonttype": 42, "svg.fonttype": "none", "savefig.dpi": 300}):
        for task, charts in learning_curves(groups).items():
            figure = _figure(charts)
            name = re.sub(r"[^\w.+-]+", "-", task)
            for each in formats:
                files.append(out.with_name(f"{out.stem}-{name}.{each}"))
                figure.savefig(files[-1], bbox_inches="tight")
    return files


def check(formats: Sequence[str]) -> None:
    """Raise UserError if a format is unknown, or figures are wanted and matplotlib is not installed."""
    for each in formats:
        if each not in FORMATS:
            raise UserError(f"unknown format {each!r} of figures; known: {', '.join(FORMATS)}")
    if formats:
        with needed_by("--figures", extra="plots"):
            import matplotlib as mpl  # noqa: F401


def _figure(charts: Sequence[Chart]) -> Figure:
    """Draw the charts of a task side by side, with one legend."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.3), layout="constrained")
    panels = figure.subplots(1, len(charts), sharey=True, squeeze=False)[0]
    for axes, chart in zip(panels, charts, strict=True):
        _draw(axes, chart)
    first, lines = panels[0], charts[0].lines
    first.set_ylabel(charts[0].y.label)
    legend = first.legend(frameon=False, fontsize=7)
    for text, line in zip(legend.get_texts(), lines, strict=True):
        text.set(text=_plain(line.label), parse_math=False)
    figure.suptitle(_plain(charts[0].task), fontsize=9, parse_math=False)
    return figure


def _draw(axes: Axes, chart: Chart) -> None:
    x, y = chart.x, chart.y
    for line in chart.lines:
        _draw_line(axes, line)
    if x.log:
        axes.set_xscale("log")
    axes.set(xlim=(x.low, x.high), ylim=(y.low, y.high), xlabel=x.label)
    axes.set_xticks(x.ticks(), [tick_label(value) for value in x.ticks()])
    axes.set_yticks(y.ticks())
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e7eaee", linewidth=0.6)


def _draw_line(axes: Axes, line: Line) -> None:
    at, band, colour = line.curve.at, line.curve.band, COLOURS[line.colour]
    (drawn,) = axes.plot(at, band.middle, color=colour, linewidth=1.2, drawstyle="steps-post", clip_on=False)
    drawn.set_label("-")  # replaced later, since matplotlib leaves out labels that begin with an underscore
    if line.is_dot:
        drawn.set(marker="o", markersize=3)
    if line.has_band:
        axes.fill_between(at, band.low, band.high, step="post", color=colour, alpha=0.18, linewidth=0)


def _plain(name: str) -> str:
    """Return a name without characters that cannot be encoded: a lone surrogate as its number."""
    return name.encode(errors="backslashreplace").decode()
