"""The parts of a report's page: tables, curves, programs. All return HTML; what comes from files is escaped."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from jaxprl.runs import groups as groups_of_runs
from jaxprl.runs import published, svg
from jaxprl.runs.groups import AXES, Group, Summary, by_task, summary
from jaxprl.runs.llm_use import llm_use
from jaxprl.runs.reading import Run, Search, in_ranges

Colours = Mapping[str, int]
"""Of methods."""


def table(head: Sequence[str], bodies: Iterable[str], caption: str) -> str:
    """Return a table; names of columns that hold numbers begin with `#`."""
    cells = "".join(
        f'<th class="number">{name[1:]}</th>' if name.startswith("#") else f"<th>{name}</th>" for name in head
    )
    rows = "".join(f'<tbody class="task">{body}</tbody>' for body in bodies)
    told = f'<p class="note">{caption}</p>' if caption else ""
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>{rows}</table></div>{told}'


def results(groups: Sequence[Group], colours: Colours) -> str:
    """Return the table task x method, published results below ours."""
    head = (
        "task", "method", "#seeds", "#mean return<br>&plusmn; s.d.", "#interquartile<br>mean [95&thinsp;%]",
        "each seed",
        "#unseen<br>layouts", "#solved", "#programs to solve<br>median (quartiles)",
    )  # fmt: skip
    least = svg.lowest([search.best for each in groups for search in each.begun if search.best is not None])
    bodies, sources = [], {}
    for task, alike in by_task(groups).items():
        rows = [_result_cells(group, colours[group.method], least) for group in alike]
        for column, mean in published.of_task(task):
            sources[column.name] = column.source
            rows.append(
                f"<td>{escape(column.name)} (published)</td>{number(str(column.seeds))}{number(f'{mean:.2f}')}"
                + "<td></td>" * 5
            )
        first = f'<th rowspan="{len(rows)}" scope="rowgroup">{escape(task)}</th>'
        marked = ["<tr>"] * len(alike) + ['<tr class="published">'] * (len(rows) - len(alike))
        lines = [
            f"{mark}{first if not n else ''}{row}</tr>" for n, (mark, row) in enumerate(zip(marked, rows, strict=True))
        ]
        bodies.append("".join(lines))
    caption = (
        "Mean return of the best program over the layouts that the search saw, averaged over search seeds, with the "
        f"sample standard deviation; a dot for each seed ({least:g} to 1); return of the found programs on layouts "
        "that no search saw; share solved of the searches that are finished; programs evaluated within which a "
        "quarter, half (first number) and three quarters of all searches had reached return 1 (&ndash;: fewer have)."
    )
    told = "".join(f" {escape(name)} (published): {escape(source)}." for name, source in sources.items())
    return f"<h2>Results</h2>{table(head, bodies, caption + told)}"


def _result_cells(group: Group, colour: int, least: float) -> str:
    name = f'<td><span class="key c{colour}"></span>{escape(group.method)}{_running(group)}</td>'
    found = summary(group)
    if not found:
        return (
            name
            + number(str(len(group.searches)))
            + number('<span class="dim">no program yet</span>')
            + "<td></td>" * 5
        )
    returns = [search.best for search in group.begun if search.best is not None]
    seeds = str(found.searches) if found.begun == found.searches else f"{found.begun}/{found.searches}"
    return "".join(
        (
            name,
            number(seeds),
            number(f"{found.mean:.3f} <span class='dim'>&plusmn; {found.deviation:.3f}</span>"),
            number(f"{found.iqm:.3f} <span class='dim'>[{found.low:.3f}, {found.high:.3f}]</span>"),
            f"<td>{svg.strip(returns, colour, least)}</td>",
            number("&ndash;" if math.isnan(found.unseen) else f"{found.unseen:.3f}"),
            number(_solved(found)),
            number(_to_solve(found)),
        )
    )


def _solved(found: Summary) -> str:
    if not found.finished:
        return "&ndash;"
    of = f" <span class='dim'>of {found.finished}</span>" if found.finished < found.searches else ""
    return f"{found.solved / found.finished:.0%}{of}"


def _running(group: Group) -> str:
    done, total = len(group.finished), len(group.searches)
    return f'<span class="badge">{done} of {total} finished</span>' if done < total else ""


def _to_solve(found: Summary) -> str:
    low, middle, high = ("&ndash;" if math.isinf(each) else f"{each:,.0f}" for each in found.quartiles)
    return f"{middle} <span class='dim'>({low}; {high})</span>" if math.isfinite(found.quartiles[0]) else "&ndash;"


def number(text: str) -> str:
    return f'<td class="number">{text}</td>'


def curves(groups: Sequence[Group], colours: Colours) -> str:
    """Return learning curves, a figure for each task."""
    figures = []
    for task, alike in by_task(groups).items():
        if not any(group.recorded for group in alike):
            continue
        found = {place: groups_of_runs.curves(alike, place) for place in AXES}
        least = svg.lowest([float(line.band.low.min()) for lines in found.values() for _, line in lines])
        panels = [
            svg.chart(
                [(colours[group.method], group.method, line) for group, line in lines],
                axis_label=AXES[place],
                log=place == "evaluated",
                least=least,
                title=f"{task}: return against {AXES[place]}",
            )
            for place, lines in found.items()
        ]
        figures.append(f'<figure><h3>{escape(task)}</h3><div class="panels">{"".join(panels)}</div></figure>')
    if not figures:
        return ""
    keys = "".join(
        f'<span><span class="key c{colour}"></span>{escape(name)}</span>' for name, colour in colours.items()
    )
    note = (
        '<p class="note">Best return so far, interquartile mean over search seeds; bands: 95&thinsp;% bootstrap '
        "intervals. A search that solved the task holds its return; a curve ends where the first of its other "
        "searches does. Seconds are counted from the start of the run; "
        "searches of one run go side by side and share its time.</p>"
    )
    return f'<h2>Learning curves</h2><div class="legend">{keys}</div>{"".join(figures)}{note}'


def programs(groups: Sequence[Group], rollouts: Mapping[tuple[str, str], bytes | str]) -> str:
    """Return the best program of each task and method; `rollouts` has a GIF, or why there is none, by these."""
    parts = [
        _program(group, search, search.found, rollouts.get((group.task, group.method)))
        for group in groups
        if (search := group.best) and search.found
    ]
    return f"<h2>Best programs</h2>{''.join(parts)}" if parts else ""


def _program(group: Group, search: Search, found: dict[str, Any], rollout: bytes | str | None) -> str:
    unseen = "" if search.result else " so far"
    if "unseen_return" in found:
        unseen = f", {found['unseen_return']:.3f} on {found.get('unseen_layouts', 0):,} unseen layouts"
    facts = (
        f"return {found['return']:.3f}{unseen} &middot; seed {search.seed} &middot; best after "
        f"{found['found_at']:,} evaluated &middot; from: {escape(str(found.get('source', '?')))}"
    )
    picture, kind = "", "program alone"
    if isinstance(rollout, bytes):
        data = base64.b64encode(rollout).decode()
        alt = f"The program at work on a layout of {group.task}"
        picture = f'<div class="rollout"><img alt="{escape(alt)}" src="data:image/gif;base64,{data}"></div>'
        kind = "program"
    elif rollout:
        picture = f'<p class="note">No rollout: {escape(rollout)}</p>'
    text = f"<pre>{escape(found['program'])}</pre>"
    code = text  # of a search that runs, the record has no more
    if search.result:
        code = f"<pre>{coloured(found['python'])}</pre><details><summary>as token text</summary>{text}</details>"
    return (
        f'<article><h3>{escape(group.task)} <span class="dim">{escape(group.method)}</span></h3>'
        f'<p class="sub">{facts}</p><div class="{kind}"><div>{code}</div>{picture}</div></article>'
    )


def coloured(python: str) -> str:
    """Return a program's Python text with its keywords and perceptions marked."""
    keywords = r"\b(def|while|for|in|range|if|else|not|and|or)\b"
    lines = []
    for line in escape(python, quote=False).split("\n"):
        if re.match(r"\s*(while|if)\b", line):
            line = re.sub(r"\b(?!not\b|and\b|or\b|while\b|if\b)(\w+\([^()]*\))", r"<i>\1</i>", line)
        lines.append(re.sub(keywords, r"<b>\1</b>", line))
    return "\n".join(lines)


def language_model(groups: Sequence[Group], colours: Colours) -> str:
    """Return what the language model was asked and gave; nothing if no search used one."""
    used = [(group, use) for group in groups if (use := llm_use(group))]
    if not used:
        return ""
    head = (
        "task",
        "method",
        "#asked for",
        "#looked at",
        "#accepted",
        "rejected",
        "requests",
        "#tokens in / out",
        "#cost",
    )
    bodies = []
    for group, use in used:
        about = "~" if use.estimated else ""
        tokens = f"{about}{use.prompt_tokens:,} / {about}{use.completion_tokens:,}" if use.requests else "&ndash;"
        share = f" <span class='dim'>{use.accepted / use.looked_at:.0%}</span>" if use.looked_at else ""
        bodies.append(
            f"<tr><th>{escape(group.task)}</th><td><span class='key c{colours[group.method]}'></span>"
            f"{escape(group.method)}</td>{number(f'{use.asked:,}' if use.requests else 'recorded')}"
            f"{number(f'{use.looked_at:,}')}{number(f'{use.accepted:,}{share}')}"
            f'<td class="wrap">{counted(use.rejected)}</td><td class="wrap">{counted(use.requests)}</td>'
            f"{number(tokens)}{number('&ndash;' if use.cost is None else f'${use.cost:,.4f}')}</tr>"
        )
    caption = (
        "Answers asked for from a server, looked at, and accepted: those that gave a program; the others by the reason "
        "why they gave none. ~: the server did not tell, estimated."
    )
    configs = [run.config for group, _ in used for run in group.runs]
    if any(config.get("llm") == "recorded" and not config.get("settings") for config in configs):
        caption += (
            " <strong>Recorded answers that ship with the package are stand-ins</strong>, written by a language model "
            "in one sitting and no independent samples: neither their acceptance nor what searches make of them is to "
            "be quoted as a model's."
        )
    return f"<h2>Language model</h2>{table(head, bodies, caption)}"


def counted(counts: Mapping[str, int]) -> str:
    """Return counts in words, the largest first."""
    named = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{escape(name)} <span class='dim'>&times;{count:,}</span>" for name, count in named) or "&ndash;"


def configurations(runs: Sequence[Run]) -> str:
    """Return the runs with their configuration and versions, in full on request."""
    head = ("run", "task", "method", "seeds", "#budget", "layouts", "LLM", "git", "jax", "python", "device")
    bodies, full = [], []
    for run in runs:
        config, env = run.config, run.environment
        device = ", ".join(dict.fromkeys(str(env[name]) for name in ("device", "processor") if env.get(name)))
        packages = env.get("packages")
        jax = packages.get("jax", "?") if isinstance(packages, dict) else "?"
        cells = [run.path.as_posix(), run.task, run.method, _ranges(config.get("seeds"))]
        cells += [_ranges(config.get("layouts")), config.get("llm", ""), str(env.get("git") or "?")[:9]]
        cells += [jax, env.get("python", "?"), device]
        told = [f"<td>{escape(str(each))}</td>" for each in cells]
        budget = config.get("budget")
        told.insert(4, number(f"{budget:,}" if isinstance(budget, int) else "?"))
        bodies.append(f"<tr>{''.join(told)}</tr>")
        text = json.dumps({"config": config, "environment": env}, indent=1)
        name = escape(run.path.as_posix())
        full.append(f"<details><summary>{name}</summary><pre>{escape(text)}</pre></details>")
    return f"<h2>Configuration and versions</h2>{table(head, bodies, '')}{''.join(full)}"


def _ranges(value: Any) -> str:
    whole = isinstance(value, list) and all(isinstance(each, int) for each in value)
    return in_ranges(value) if whole else "?"


def notices(troubles: Sequence[str]) -> str:
    """Return what is missing or damaged; nothing if all is whole."""
    if not troubles:
        return ""
    items = "".join(f"<li>{escape(each)}</li>" for each in troubles)
    return f'<div class="notices" role="note"><strong>Not everything is there</strong><ul>{items}</ul></div>'
