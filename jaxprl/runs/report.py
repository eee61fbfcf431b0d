"""A report on any number of runs: one HTML page that needs nothing else, tables as CSV, figures for a paper.

The page holds no script and names no address; its security policy forbids every request. It opens from a disk, years
later, as it does today.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from jaxprl.errors import UserError
from jaxprl.runs import sections, svg
from jaxprl.runs.groups import AXES, Group, by_task, curves, group, summary
from jaxprl.runs.reading import Run, read_all, whole
from jaxprl.runs.record import write_whole

Rollout = Callable[[dict[str, Any], int, str], bytes]
"""Configuration of a run, layout seed, program's token text -> animated GIF; raises UserError where there is none."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write(paths: Sequence[Path], out: Path, *, rollout: Rollout | None = None) -> list[Path]:
    """Write the report on the runs in some folders, and return its files: `out` and three tables beside it.

    OUT.csv has a row for each search, OUT-table.csv one for each task and method, OUT-curves.csv the learning curves.
    Raises UserError for a folder that holds no run.
    """
    runs = read_all(paths)
    groups, twice = group(runs)
    troubles = [trouble for run in runs for trouble in run.troubles] + twice
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page(runs, groups, troubles, rollout=rollout))
    tables = {"": _search_rows(groups), "-table": _table_rows(groups), "-curves": _curve_rows(groups)}
    files = [out]
    for name, rows in tables.items():
        files.append(out.with_name(f"{out.stem}{name}.csv"))
        write_whole(files[-1], _csv(rows))
    return files


def page(
    runs: Sequence[Run], groups: Sequence[Group], troubles: Sequence[str], *, rollout: Rollout | None = None
) -> str:
    """Return the report as HTML."""
    colours = {name: n % svg.COLOURS for n, name in enumerate(dict.fromkeys(each.method for each in groups))}
    tasks = list(dict.fromkeys(each.task for each in groups))
    searches = sum(len(each.searches) for each in groups)
    title = tasks[0] if len(tasks) == 1 else _counted(len(tasks), "task")
    told = ", ".join(
        (_counted(searches, "search", "searches"), _counted(len(runs), "run"), f"methods: {', '.join(colours)}")
    )
    body = "".join(
        (
            f'<h1>Program search: {escape(title)}</h1><p class="sub">{escape(told)}</p>',
            sections.notices(troubles),
            sections.results(groups, colours),
            sections.curves(groups, colours),
            sections.programs(groups, _rollouts(groups, rollout)),
            sections.language_model(groups, colours),
            sections.configurations(runs),
            f'<p class="note">Made by jaxprl, {time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}.</p>',
        )
    )
    style = resources.files("jaxprl.runs").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)} | jaxprl</title><link rel="icon" href="data:,"><style>{style}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _rollouts(groups: Sequence[Group], rollout: Rollout | None) -> dict[tuple[str, str], bytes | str]:
    """Return the GIFs of the best programs on their run's first layout, or why there is none, by task and method."""
    found: dict[tuple[str, str], bytes | str] = {}
    for each in groups if rollout else ():
        best = each.best
        if not best or not best.found or not rollout:
            continue
        config = each.runs[0].config
        try:
            found[each.task, each.method] = rollout(config, _first_layout(config), best.found["program"])
        except UserError as error:
            found[each.task, each.method] = str(error)
    return found


def _first_layout(config: dict[str, Any]) -> int:
    layouts = config.get("layouts")
    seed = layouts[0] if isinstance(layouts, list) and layouts else 0
    if not whole(seed) or not 0 <= seed < 2**32:
        raise UserError("the configuration's layouts are no layout seeds")
    return seed


def _search_rows(groups: Iterable[Group]) -> list[dict[str, Any]]:
    columns = ("return", "unseen_return", "evaluated", "found_at", "stop", "seconds", "source", "program")
    rows = []
    for each in groups:
        for search in each.searches:
            row: dict[str, Any] = {"task": each.task, "method": each.method, "seed": search.seed}
            row["state"] = "finished" if search.result else "unfinished"
            found = (search.found or {}) | {"return": search.best, "evaluated": search.evaluated or None}
            rows.append(row | {name: found.get(name) for name in columns})
    return rows


def _table_rows(groups: Iterable[Group]) -> list[dict[str, Any]]:
    rows = []
    for each in groups:
        found = summary(each)
        if found:
            facts = found._asdict()
            quartiles = zip(("solve_q25", "solve_median", "solve_q75"), facts.pop("quartiles"), strict=True)
            rows.append({"task": each.task, "method": each.method} | facts | dict(quartiles))
    return rows


def _curve_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    rows = []
    for place, alike in itertools.product(AXES, by_task(groups).values()):
        for each, line in curves(alike, place):
            for at, *values in zip(line.at, *line.band, strict=True):
                row = {"task": each.task, "method": each.method, "against": place, "at": round(float(at), 3)}
                rows.append(row | dict(zip(("iqm", "low", "high"), (float(value) for value in values), strict=True)))
    return rows


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows with equal columns as a table; what is not a finite number is left empty."""

    def plain(value: Any) -> Any:
        return "" if isinstance(value, float) and not math.isfinite(value) else value

    lines = io.StringIO()
    writer = csv.DictWriter(lines, rows[0] if rows else ["task", "method"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: plain(value) for name, value in row.items()} for row in rows)
    return lines.getvalue()
