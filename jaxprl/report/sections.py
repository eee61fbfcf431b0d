"""The parts of a report page: tables, charts and programs. All return HTML, in which text from files is escaped."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from jaxprl.report import charts, comparison, published_results, svg
from jaxprl.report.charts import Chart
from jaxprl.report.comparison import Comparison
from jaxprl.report.groups import Group, Summary, by_task, summary
from jaxprl.report.llm_use import LLMUse, llm_use
from jaxprl.report.reading import Run, Search, in_ranges
from jaxprl.types import JSON

Colours = Mapping[str, int]
"""For each method, the index of its colour (`charts.colours`)."""
_STAND_INS = (
    " <strong>The recorded answers that ship with the package are stand-ins</strong>: a language model wrote them in "
    "one sitting, so they are not independent samples. Do not quote their acceptance rate, or what searches achieve "
    "with them, as results of a model."
)


def table(head: Sequence[str], bodies: Iterable[str], caption: str) -> str:
    """Return a table.

    Args:
      head: names of the columns. Those of columns of numbers begin with `#`.
      bodies: the rows `<tr>` of each group of rows, which are set apart by a line.
      caption: text below the table, or empty.
    """
    cells = "".join(
        f'<th class="number">{name[1:]}</th>' if name.startswith("#") else f"<th>{name}</th>" for name in head
    )
    rows = "".join(f'<tbody class="task">{body}</tbody>' for body in bodies)
    note = f'<p class="note">{caption}</p>' if caption else ""
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>{rows}</table></div>{note}'


def results(groups: Sequence[Group], colours: Colours) -> str:
    """Return the table of results by task and method. Published results follow those of the runs."""
    head = (
        "task", "method", "#seeds", "#mean return<br>&plusmn; s.d.", "#interquartile<br>mean [95&thinsp;%]",
        "each seed",
        "#unseen<br>layouts", "#solved", "#programs to solve<br>median (quartiles)",
    )  # fmt: skip
    lowest = charts.lowest([search.best for each in groups for search in each.begun if search.best is not None])
    bodies, sources = [], {}
    for task, alike in by_task(groups).items():
        published = published_results.of_task(task)
        sources.update({column.name: column.source for column, _ in published})
        rows = [("<tr>", _result_cells(group, colours[group.method], lowest)) for group in alike]
        rows += [('<tr class="published">', _published_cells(column, mean)) for column, mean in published]
        name = f'<th rowspan="{len(rows)}" scope="rowgroup">{escape(task)}</th>'
        bodies.append("".join(f"{mark}{'' if n else name}{cells}</tr>" for n, (mark, cells) in enumerate(rows)))
    caption = (
        "Mean return: return of the best program, averaged over the layouts of the search and over the search seeds, "
        "with the sample standard deviation. Interquartile mean: with a 95&thinsp;% bootstrap interval (BCa). Dots: a "
        f"dot for each seed, from {lowest:g} to 1. Unseen layouts: mean return of the best programs on layouts that no "
        "search has seen. Solved: share of the finished searches that reached return 1. Programs to solve: within how "
        "many evaluated programs half of all searches had reached return 1, in parentheses a quarter and three "
        "quarters; &ndash;: fewer have."
    )
    cited = "".join(f" {escape(name)} (published): {escape(source)}." for name, source in sources.items())
    return f"<h2>Results</h2>{table(head, bodies, caption + cited)}"


def _published_cells(column: published_results.Column, mean: float) -> str:
    name = f"<td>{escape(column.name)} (published)</td>"
    return name + number(str(column.seeds or "?")) + number(f"{mean:.2f}") + "<td></td>" * 5


def _result_cells(group: Group, colour: int, lowest: float) -> str:
    name = f'<td><span class="key c{colour}"></span>{escape(group.method)}{_running(group)}</td>'
    outcome = summary(group)
    if not outcome:
        return (
            name
            + number(str(len(group.searches)))
            + number('<span class="dim">no program yet</span>')
            + "<td></td>" * 5
        )
    returns = [search.best for search in group.begun if search.best is not None]
    spread, interval = f" &plusmn; {outcome.deviation:.3f}", f" [{outcome.low:.3f}, {outcome.high:.3f}]"
    if math.isnan(outcome.deviation):
        spread = interval = ""
    seeds = str(outcome.searches) if outcome.begun == outcome.searches else f"{outcome.begun}/{outcome.searches}"
    return "".join(
        (
            name,
            number(seeds),
            number(f"{outcome.mean:.3f}<span class='dim'>{spread}</span>"),
            number(f"{outcome.iqm:.3f}<span class='dim'>{interval}</span>"),
            f"<td>{svg.strip(returns, colour, lowest)}</td>",
            number("&ndash;" if math.isnan(outcome.unseen) else f"{outcome.unseen:.3f}"),
            number(_solved(outcome)),
            number(_to_solve(outcome)),
        )
    )


def _solved(outcome: Summary) -> str:
    if not outcome.finished:
        return "&ndash;"
    of = f" <span class='dim'>of {outcome.finished}</span>" if outcome.finished < outcome.searches else ""
    return f"{outcome.solved / outcome.finished:.0%}{of}"


def _running(group: Group) -> str:
    done, total = len(group.finished), len(group.searches)
    return f'<span class="badge">{done} of {total} finished</span>' if done < total else ""


def _to_solve(outcome: Summary) -> str:
    low, middle, high = ("&ndash;" if math.isinf(each) else f"{each:,.0f}" for each in outcome.quartiles)
    return f"{middle} <span class='dim'>({low}; {high})</span>" if math.isfinite(outcome.quartiles[0]) else "&ndash;"


def number(text: str) -> str:
    """Return a cell of a table that holds a number."""
    return f'<td class="number">{text}</td>'


def beside_published(compared: Sequence[Comparison], colours: Colours) -> str:
    """Return the table of results beside published ones at the same places. Empty if there are none."""
    if not compared:
        return ""
    head = ("task", "method", "published", "#programs", "#ours", "#theirs", "#difference")
    caption = (
        "Mean return after so many programs, with its standard error, and in brackets how many searches had reached "
        "return 1. Difference: ours minus theirs in combined standard errors. Programs to solve: with a 95&thinsp;% "
        "bootstrap interval. "
    )
    sources = dict.fromkeys(f"{each.column.name} ({each.column.work}): {each.column.source}." for each in compared)
    bodies = [_beside(each, colours[each.method]) for each in compared]
    return f"<h2>Beside published results</h2>{table(head, bodies, caption + escape(' '.join(sources)))}"


def _beside(each: Comparison, colour: int) -> str:
    """Return the rows of a comparison."""
    cells = [
        (
            number(comparison.place(row)),
            number(comparison.result(row.ours, row.solved)),
            number(comparison.result(row.theirs.returns, row.theirs.solved)),
            number(comparison.apart(row)),
        )
        for row in each.rows
    ]
    notes = [comparison.to_solve(each), *each.remarks]
    if not cells:
        notes.insert(0, "not all searches have come to a published place yet")
    bodies = ["".join(row) for row in cells] + [f'<td class="wrap" colspan="4">{escape(n)}</td>' for n in notes if n]
    span = f'rowspan="{len(bodies)}"'
    name = (
        f'<th {span} scope="rowgroup">{escape(each.task)}</th><td {span}><span class="key c{colour}"></span>'
        f"{escape(each.method)} ({each.searches})</td><td {span}>{escape(each.column.name)} "
        f"({each.column.seeds or '?'})</td>"
    )
    return "".join(f"<tr>{'' if n else name}{body}</tr>" for n, body in enumerate(bodies))


def curves(charts_of_tasks: Mapping[str, Sequence[Chart]], colours: Colours) -> str:
    """Return the learning curves, a figure for each task. Empty if there are none."""
    if not charts_of_tasks:
        return ""
    figures = [
        f'<figure><h3>{escape(task)}</h3><div class="panels">{"".join(map(svg.chart, panels))}</div></figure>'
        for task, panels in charts_of_tasks.items()
    ]
    keys = "".join(
        f'<span><span class="key c{colour}"></span>{escape(name)}</span>' for name, colour in colours.items()
    )
    note = (
        '<p class="note">Best return so far: interquartile mean over search seeds, with 95&thinsp;% bootstrap '
        "intervals (BCa) as bands. A search that has solved the task keeps its return; apart from these, a curve ends "
        "where the first of its searches ends. Seconds are counted from the start of the run. The searches of a run "
        "proceed side by side and share its time.</p>"
    )
    return f'<h2>Learning curves</h2><div class="legend">{keys}</div>{"".join(figures)}{note}'


def programs(groups: Sequence[Group], rollouts: Mapping[tuple[str, str], bytes | str]) -> str:
    """Return the best program of each task and method.

    Args:
      groups: the groups.
      rollouts: for tasks and methods, a GIF of the program at work, or the reason why there is none.
    """
    parts = [
        _program(group, search, search.best_program, rollouts.get((group.task, group.method)))
        for group in groups
        if (search := group.best) and search.best_program
    ]
    return f"<h2>Best programs</h2>{''.join(parts)}" if parts else ""


def _program(group: Group, search: Search, program: JSON, rollout: bytes | str | None) -> str:
    picture, kind = "", "program alone"
    if isinstance(rollout, bytes):
        data = base64.b64encode(rollout).decode()
        alt = f"The program at work on a layout of {group.task}"
        picture = f'<div class="rollout"><img alt="{escape(alt)}" src="data:image/gif;base64,{data}"></div>'
        kind = "program"
    elif rollout:
        picture = f'<p class="note">No rollout: {escape(rollout)}</p>'
    text = f"<pre>{escape(program['program'])}</pre>"
    code = text  # the record of an unfinished search has no Python text
    if search.result:
        code = f"<pre>{coloured(program['python'])}</pre><details><summary>as token text</summary>{text}</details>"
    return (
        f'<article><h3>{escape(group.task)} <span class="dim">{escape(group.method)}</span></h3>'
        f'<p class="sub">{_facts(search, program)}</p><div class="{kind}"><div>{code}</div>{picture}</div></article>'
    )


def _facts(search: Search, program: JSON) -> str:
    """Return the line above a program."""
    unseen = "" if search.result else " so far"
    if "unseen_return" in program:
        unseen = f", {program['unseen_return']:.3f} on {program.get('unseen_layouts', 0):,} unseen layouts"
    return (
        f"return {program['return']:.3f}{unseen} &middot; seed {search.seed} &middot; best after "
        f"{program['found_at']:,} evaluated &middot; from: {escape(str(program.get('source', '?')))}"
    )


def coloured(python: str) -> str:
    """Return the Python text of a program with its keywords in `<b>` and its perceptions in `<i>`."""
    keywords = r"\b(def|while|for|in|range|if|else|not|and|or)\b"
    lines = []
    for line in escape(python, quote=False).split("\n"):
        if re.match(r"\s*(while|if)\b", line):
            line = re.sub(r"\b(?!not\b|and\b|or\b|while\b|if\b)(\w+\([^()]*\))", r"<i>\1</i>", line)
        lines.append(re.sub(keywords, r"<b>\1</b>", line))
    return "\n".join(lines)


def language_model(groups: Sequence[Group], colours: Colours) -> str:
    """Return the table of how searches have used a language model. Empty if none has."""
    used = [(group, use) for group in groups if (use := llm_use(group))]
    if not used:
        return ""
    head = (
        "task", "method", "#requested", "#read", "#accepted", "rejected", "stopped", "requests", "#tokens in / out",
        "#cost",
    )  # fmt: skip
    bodies = [_use_row(group, use, colours[group.method]) for group, use in used]
    caption = (
        "Answers that were requested from a server, that were read, and that were accepted because they gave a "
        "program; the others are counted by the reason why they gave none. Stopped: why the model stopped, in the "
        'server\'s words; "length" means that the answer was cut off. ~: estimated, since the server did not '
        "report the number."
    )
    configs = [run.config for group, _ in used for run in group.runs]
    if any(config.get("llm") == "recorded" and not config.get("settings") for config in configs):
        caption += _STAND_INS
    return f"<h2>Language model</h2>{table(head, bodies, caption)}"


def _use_row(group: Group, use: LLMUse, colour: int) -> str:
    about = "~" if use.estimated else ""
    tokens = f"{about}{use.prompt_tokens:,} / {about}{use.completion_tokens:,}" if use.requests else "&ndash;"
    share = f" <span class='dim'>{use.accepted / use.looked_at:.0%}</span>" if use.looked_at else ""
    return (
        f"<tr><th>{escape(group.task)}</th><td><span class='key c{colour}'></span>"
        f"{escape(group.method)}</td>{number(f'{use.asked:,}' if use.requests else 'recorded')}"
        f"{number(f'{use.looked_at:,}')}{number(f'{use.accepted:,}{share}')}"
        f'<td class="wrap">{counted(use.rejected)}</td><td class="wrap">{counted(use.finish_reasons)}</td>'
        f'<td class="wrap">{counted(use.requests)}</td>'
        f"{number(tokens)}{number('&ndash;' if use.cost is None else f'${use.cost:,.4f}')}</tr>"
    )


def counted(counts: Mapping[str, int]) -> str:
    """Return named counts, the largest first."""
    named = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{escape(name)} <span class='dim'>&times;{count:,}</span>" for name, count in named) or "&ndash;"


def configurations(runs: Sequence[Run]) -> str:
    """Return the table of runs with their configuration and versions, which can be unfolded in full."""
    head = ("run", "task", "method", "seeds", "#budget", "layouts", "LLM", "git", "jax", "python", "device")
    rows = [_run_row(run) for run in runs]
    full = []
    for run in runs:
        text = json.dumps({"config": run.config, "environment": run.environment}, indent=1)
        name = escape(run.path.as_posix())
        full.append(f"<details><summary>{name}</summary><pre>{escape(text)}</pre></details>")
    return f"<h2>Configuration and versions</h2>{table(head, rows, '')}{''.join(full)}"


def _run_row(run: Run) -> str:
    config, environment = run.config, run.environment
    devices = [str(environment[name]) for name in ("device", "processor") if environment.get(name)]
    packages = environment.get("packages")
    jax = packages.get("jax", "?") if isinstance(packages, dict) else "?"
    values = [run.path.as_posix(), run.task, run.method, _ranges(config.get("seeds"))]
    values += [_ranges(config.get("layouts")), config.get("llm", ""), str(environment.get("git") or "?")[:9]]
    values += [jax, environment.get("python", "?"), ", ".join(dict.fromkeys(devices))]
    cells = [f"<td>{escape(str(each))}</td>" for each in values]
    budget = config.get("budget")
    cells.insert(4, number(f"{budget:,}" if isinstance(budget, int) else "?"))
    return f"<tr>{''.join(cells)}</tr>"


def _ranges(value: object) -> str:
    if isinstance(value, list) and all(isinstance(each, int) for each in value):
        return in_ranges(value)
    return "?"


def notices(problems: Sequence[str]) -> str:
    """Return the list of what is missing or damaged. Empty if nothing is."""
    if not problems:
        return ""
    items = "".join(f"<li>{escape(each)}</li>" for each in problems)
    return f'<div class="notices" role="note"><strong>Incomplete or damaged</strong><ul>{items}</ul></div>'
