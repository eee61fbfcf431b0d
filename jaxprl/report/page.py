"""A report on any number of runs: a single HTML page, and tables as CSV files.

The page contains no script and refers to no address, and its security policy forbids every request. It can therefore be
opened from a disk at any later time.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from jaxprl.errors import UserError
from jaxprl.report import charts, sections
from jaxprl.report.charts import Chart
from jaxprl.report.comparison import compare
from jaxprl.report.groups import AXES, Group, group, summary
from jaxprl.report.reading import Run, read_all, whole
from jaxprl.runs.record import write_whole
from jaxprl.types import JSON

Rollout = Callable[[JSON, int, str], bytes]
"""Draws a program at work: from the configuration of its run, a layout seed and its token text to an animated GIF.
Raises UserError if it cannot be drawn."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy of the page."""
Charts = Mapping[str, Sequence[Chart]]
"""The charts of each task (`charts.learning_curves`)."""


def write(paths: Sequence[Path], out: Path, *, rollout: Rollout | None = None) -> list[Path]:
    """Write a report on runs.

    Args:
      paths: run directories, or folders that contain some.
      out: the HTML page, such as `report.html`. The tables are written to files beside it: `report.csv` has a row for
        each search, `report-table.csv` a row for each task and method, `report-curves.csv` the learning curves.
      rollout: draws the best programs at work. By default there are no pictures.

    Returns:
      The files.

    Raises:
      UserError: a folder contains no run.
    """
    runs = read_all(paths)
    groups, repeated = group(runs)
    drawn = charts.learning_curves(groups)
    problems = [problem for run in runs for problem in run.problems] + repeated
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page(runs, groups, drawn, problems, rollout=rollout))
    tables = {"": _search_rows(groups), "-table": _table_rows(groups), "-curves": _curve_rows(drawn)}
    files = [out]
    for name, rows in tables.items():
        files.append(out.with_name(f"{out.stem}{name}.csv"))
        write_whole(files[-1], _csv(rows))
    return files


def page(
    runs: Sequence[Run],
    groups: Sequence[Group],
    drawn: Charts,
    problems: Sequence[str],
    *,
    rollout: Rollout | None = None,
) -> str:
    """Return a report as HTML.

    Args:
      runs: the runs.
      groups: their groups.
      drawn: the charts of the groups.
      problems: what is missing or damaged, in words.
      rollout: draws the best programs at work. By default there are no pictures.
    """
    colours = charts.colours(groups)
    tasks = list(dict.fromkeys(each.task for each in groups))
    searches = sum(len(each.searches) for each in groups)
    title = tasks[0] if len(tasks) == 1 else _counted(len(tasks), "task")
    contents = (_counted(searches, "search", "searches"), _counted(len(runs), "run"), f"methods: {', '.join(colours)}")
    body = "".join(
        (
            f'<h1>Program search: {escape(title)}</h1><p class="sub">{escape(", ".join(contents))}</p>',
            sections.notices(problems),
            sections.results(groups, colours),
            sections.beside_published(compare(groups), colours),
            sections.curves(drawn, colours),
            sections.programs(groups, _rollouts(groups, rollout)),
            sections.language_model(groups, colours),
            sections.configurations(runs),
            f'<p class="note">Made by jaxprl, {time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}.</p>',
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)} | jaxprl</title><link rel="icon" href="data:,"><style>{_style()}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def _style() -> str:
    """Return the style sheet with the colours of curves, `--c0` and so on."""
    light, dark = (
        "".join(f"--c{n}: {colour}; " for n, colour in enumerate(palette))
        for palette in (charts.COLOURS, charts.DARK_COLOURS)
    )
    sheet = resources.files("jaxprl.report").joinpath("report.css").read_text(encoding="utf-8")
    return f"{sheet}:root {{ {light}}}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n"


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _rollouts(groups: Sequence[Group], rollout: Rollout | None) -> dict[tuple[str, str], bytes | str]:
    """Draw the best program of each task and method on the first layout of its run.

    Returns:
      By task and method, the GIFs, or the reasons why there are none.
    """
    pictures: dict[tuple[str, str], bytes | str] = {}
    for each in groups if rollout else ():
        best = each.best
        if not best or not best.best_program or not rollout:
            continue
        config = each.runs[0].config
        try:
            pictures[each.task, each.method] = rollout(config, _first_layout(config), best.best_program["program"])
        except UserError as error:
            pictures[each.task, each.method] = str(error)
    return pictures


def _first_layout(config: JSON) -> int:
    layouts = config.get("layouts")
    seed = layouts[0] if isinstance(layouts, list) and layouts else 0
    if not whole(seed) or not 0 <= seed < 2**32:
        raise UserError("the configuration's layouts are not layout seeds")
    return seed


def _search_rows(groups: Iterable[Group]) -> list[JSON]:
    columns = ("return", "unseen_return", "evaluated", "found_at", "stop", "seconds", "source", "program")
    rows = []
    for each in groups:
        for search in each.searches:
            row: JSON = {"task": each.task, "method": each.method, "seed": search.seed}
            row["state"] = "finished" if search.result else "unfinished"
            values = (search.best_program or {}) | {"return": search.best, "evaluated": search.evaluated or None}
            rows.append(row | {name: values.get(name) for name in columns})
    return rows


def _table_rows(groups: Iterable[Group]) -> list[JSON]:
    rows = []
    for each in groups:
        outcome = summary(each)
        if outcome:
            values = outcome._asdict()
            quartiles = zip(("solve_q25", "solve_median", "solve_q75"), values.pop("quartiles"), strict=True)
            rows.append({"task": each.task, "method": each.method} | values | dict(quartiles))
    return rows


def _curve_rows(drawn: Charts) -> list[JSON]:
    rows = []
    for chart in (
        chart for against in AXES for panels in drawn.values() for chart in panels if chart.against == against
    ):
        for line in chart.lines:
            for at, *band in zip(line.curve.at, *line.curve.band, strict=True):
                row = {"task": chart.task, "method": line.label, "against": chart.against, "at": round(float(at), 3)}
                rows.append(row | dict(zip(("iqm", "low", "high"), map(float, band), strict=True)))
    return rows


def _csv(rows: Sequence[JSON]) -> str:
    """Return rows with the same columns as CSV. Numbers that are not finite are left empty."""

    def finite(value: object) -> object:
        return "" if isinstance(value, float) and not math.isfinite(value) else value

    lines = io.StringIO()
    writer = csv.DictWriter(lines, rows[0] if rows else ["task", "method"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: finite(value) for name, value in row.items()} for row in rows)
    return lines.getvalue()
