"""Groups of searches that differ only in their seed, from any number of runs, and the statistics of a group."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxprl.report import statistics
from jaxprl.report.reading import Run, Search, in_ranges
from jaxprl.types import JSON

POINTS = 240
"""At how many places a learning curve is computed."""
AXES = {"evaluated": "programs evaluated", "seconds": "seconds"}
"""What learning curves are drawn against, with the labels of the axes."""
_SHARED = {"task", "method", "seeds", "published"}
"""Entries of the configuration in which the runs of a group may differ, or that already tell groups apart. A published
setting says where a configuration comes from, not what it is."""


@dataclasses.dataclass
class Group:
    """The searches of one method on one task, with the same configuration but for the seed."""

    task: str
    method: str
    """The method, followed by what distinguishes the group from others of the same method: `hc (budget 1000)`."""
    runs: list[Run]
    """The runs, with only those searches and answers that are counted. Every seed is counted once."""
    searches: list[Search]

    @property
    def begun(self) -> list[Search]:
        """The searches that have evaluated a program."""
        return [search for search in self.searches if search.best is not None]

    @property
    def finished(self) -> list[Search]:
        """The searches that have a result."""
        return [search for search in self.searches if search.result]

    @property
    def recorded(self) -> list[Search]:
        """The searches that have a learning curve."""
        return [search for search in self.searches if search.rows]

    @property
    def best(self) -> Search | None:
        """The search with the best program so far: by return, then by return on unseen layouts, then by length."""

        def rank(search: Search) -> tuple[float, float, int]:
            program = search.best_program or {}
            return program["return"], program.get("unseen_return", 0.0), -len(program["program"])

        return max((search for search in self.searches if search.best_program), key=rank, default=None)


class Summary(NamedTuple):
    """The statistics of a group. Returns are over all searches that have begun, unfinished ones as they stand."""

    searches: int
    begun: int
    finished: int
    mean: float
    deviation: float
    """Sample standard deviation of the returns; NaN for one search, like the ends of the interval."""
    iqm: float
    """Interquartile mean of the returns."""
    low: float
    """Lower end of its 95 % confidence interval."""
    high: float
    """Upper end."""
    unseen: float
    """Mean return of the programs of finished searches on layouts that no search has seen; NaN if there are none."""
    solved: int
    """How many of the finished searches have reached return 1."""
    quartiles: tuple[float, ...]
    """Within how many programs a quarter, half and three quarters of the searches had reached return 1; infinity if
    fewer have."""
    programs: int
    """Programs evaluated by all searches."""


def group(runs: list[Run]) -> tuple[list[Group], list[str]]:
    """Group the searches of runs by task, method and configuration.

    Args:
      runs: any runs.

    Returns:
      The groups, ordered by task and method, and a line for every run of which searches are left out because another
      run has the same seeds.
    """
    kinds: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in runs:
        settings = json.dumps(_settings(run.config), sort_keys=True)
        kinds.setdefault((run.task, run.method), {}).setdefault(settings, []).append(run)
    groups: list[Group] = []
    problems: list[str] = []
    for (task, method), variants in sorted(kinds.items()):
        for text, alike in variants.items():
            differing = _differences(json.loads(text), [json.loads(other) for other in variants])
            counted = _each_seed_once(alike, problems)
            searches = [search for run in counted for search in run.searches]
            groups.append(Group(task, f"{method} ({differing})" if differing else method, counted, searches))
    return groups, problems


def _settings(config: JSON) -> JSON:
    """Return what distinguishes runs of a method, with the settings of the language model on the same level."""
    entries = {name: value for name, value in config.items() if name not in _SHARED}
    settings = entries.get("settings")
    if isinstance(settings, dict):
        del entries["settings"]
        entries = settings | entries
    return {name: value for name, value in entries.items() if value is not None}


def _each_seed_once(runs: Sequence[Run], problems: list[str]) -> list[Run]:
    """Return the runs with the searches that are counted.

    Of several searches with one seed, the first that has a result is counted, or else the first. A run without any
    counted search is left out. What is left out is added to `problems`.
    """
    chosen: dict[int, Search] = {}
    for search in (search for run in runs for search in run.searches):
        if search.seed not in chosen or (search.result and not chosen[search.seed].result):
            chosen[search.seed] = search
    counted = []
    for run in runs:
        searches = [search for search in run.searches if chosen[search.seed] is search]
        seeds = {search.seed for search in searches}
        repeated = [search.seed for search in run.searches if search.seed not in seeds]
        if repeated:
            problems.append(f"{run.path}: seeds {in_ranges(repeated)} left out: another run has them")
        if searches or not repeated:
            answers = [row for row in run.answers if row["seed"] in seeds]
            counted.append(dataclasses.replace(run, searches=searches, answers=answers))
    return counted


def _differences(settings: JSON, others: list[JSON]) -> str:
    """Return the entries in which a configuration differs from any of the others, in words."""
    names = [name for name in sorted(settings) if any(other.get(name) != settings[name] for other in others)]
    return ", ".join(f"{name} {_brief(settings[name])}" for name in names)


def _brief(value: object) -> str:
    if isinstance(value, list) and value and all(isinstance(each, int) for each in value):
        return in_ranges(value)
    if isinstance(value, dict | list):
        return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{16,}", value):
        return value[:8]  # a checksum
    return f"{value:,}" if isinstance(value, int) else str(value)


def by_task(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups of each task."""
    tasks: dict[str, list[Group]] = {}
    for each in groups:
        tasks.setdefault(each.task, []).append(each)
    return tasks


def summary(group: Group) -> Summary | None:
    """Return the statistics of a group, or None if no search has begun."""
    if not group.begun:
        return None
    returns = np.array([search.best for search in group.begun])
    results = [search.result for search in group.finished if search.result]
    unseen = [result["unseen_return"] for result in results if "unseen_return" in result]
    middle, low, high = (ends.item() for ends in statistics.band(returns[None]))
    several = len(returns) > 1  # one search says nothing about how much searches differ
    return Summary(
        searches=len(group.searches),
        begun=len(group.begun),
        finished=len(group.finished),
        mean=float(returns.mean()),
        deviation=float(returns.std(ddof=1)) if several else math.nan,
        iqm=middle,
        low=low if several else math.nan,
        high=high if several else math.nan,
        unseen=float(np.mean(unseen)) if unseen else float("nan"),
        solved=sum(search.solved_after < math.inf for search in group.finished),
        quartiles=tuple(
            statistics.to_solve([search.solved_after for search in group.searches], share)
            for share in (0.25, 0.5, 0.75)
        ),
        programs=sum(search.evaluated for search in group.searches),
    )


class Curve(NamedTuple):
    """The learning curve of a group."""

    at: np.ndarray  # float64 [X]: programs evaluated or seconds
    band: statistics.Band  # of the best returns so far, at these places
    searches: int  # how many searches the curve is over


def curves(groups: Sequence[Group], against: str) -> list[tuple[Group, Curve]]:
    """Return the learning curves of groups of one task.

    A curve begins where all searches of its group have a value. A search that has solved the task keeps its return up
    to the end of the longest search of all groups. Apart from these, a curve ends where the first search of its group
    does.

    Args:
      groups: groups of one task. Those without a recorded search have no curve.
      against: a key of `AXES`.

    Returns:
      The groups that have a curve, each with its curve.
    """
    ends = [search.steps(against)[-1][0] for group in groups for search in group.recorded]
    return [(group, _curve(group.recorded, against, max(ends))) for group in groups if group.recorded]


def _curve(searches: Sequence[Search], against: str, end: float) -> Curve:
    steps = [search.steps(against) for search in searches]
    first = max(each[0][0] for each in steps)
    unsolved = [each[-1][0] for search, each in zip(searches, steps, strict=True) if search.solved_after == math.inf]
    last = min([end, *unsolved])
    if against == "evaluated":
        first, last = max(first, 1.0), max(last, 1.0)
    last = max(first, last)
    at = np.linspace(first, last, POINTS)
    if against == "evaluated":
        at = np.round(np.geomspace(first, last, POINTS))
    at = np.unique(at)
    values = np.stack([statistics.held(each, at) for each in steps], axis=1)
    return Curve(at, statistics.band(values), len(steps))
