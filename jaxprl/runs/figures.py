"""Learning curves as files for a paper, by matplotlib."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprl.errors import UserError
from jaxprl.runs.groups import AXES, Group, by_task, curves, group
from jaxprl.runs.reading import read_all

FORMATS = ("png", "pdf", "svg")
COLOURS = ("#0b6fb8", "#d1521a", "#0f8f6b", "#b5488e", "#b98300", "#3aa0d8", "#6a51a3", "#6b7280")
"""Those of the page."""


def write(paths: Sequence[Path], out: Path, formats: Sequence[str]) -> list[Path]:
    """Write a figure for each task, OUT-TASK.png and so on, and return the files.

    Raises UserError for an unknown format, a folder without a run, and where matplotlib is missing.
    """
    check(formats)
    try:
        import matplotlib as mpl
    except ImportError:
        raise UserError("figures need matplotlib: pip install -e '.[plots]'") from None
    groups, _ = group(read_all(paths))
    names = list(dict.fromkeys(each.method for each in groups))
    files = []
    with mpl.rc_context({"font.size": 8, "pdf.fonttype": 42, "svg.fonttype": "none", "savefig.dpi": 300}):
        for task, alike in by_task(groups).items():
            if any(each.recorded for each in alike):
                figure = _figure(alike, names)
                name = re.sub(r"[^\w.+-]+", "-", task)
                for each in formats:
                    files.append(out.with_name(f"{out.stem}-{name}.{each}"))
                    figure.savefig(files[-1], bbox_inches="tight")
    return files


def check(formats: Sequence[str]) -> None:
    """Raise UserError for an unknown format."""
    for each in formats:
        if each not in FORMATS:
            raise UserError(f"unknown format {each!r} of figures; known: {', '.join(FORMATS)}")


def _figure(groups: list[Group], names: Sequence[str]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.3), layout="constrained")
    for axes, place in zip(figure.subplots(1, 2, sharey=True), AXES, strict=True):
        drawn = curves(groups, place)
        for each, line in drawn:
            colour = COLOURS[names.index(each.method) % len(COLOURS)]
            axes.plot(line.at, line.band.middle, color=colour, linewidth=1.2, drawstyle="steps-post", label="-")
            axes.fill_between(
                line.at, line.band.low, line.band.high, step="post", color=colour, alpha=0.18, linewidth=0
            )
        axes.set_xlabel(AXES[place])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e7eaee", linewidth=0.6)
        if place == "evaluated":
            axes.set_xscale("log")
            axes.set_ylabel("return")
            legend = axes.legend(frameon=False, fontsize=7)
            for text, (each, _) in zip(legend.get_texts(), drawn, strict=True):
                text.set(text=_plain(each.method), parse_math=False)
    figure.suptitle(_plain(groups[0].task), fontsize=9, parse_math=False)
    return figure


def _plain(name: str) -> str:
    """Return a name without what is no text: a lone surrogate as its number."""
    return name.encode(errors="backslashreplace").decode()
