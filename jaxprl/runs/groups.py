"""Searches of one method on one task, from any number of runs, and what they come to."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprl.runs import statistics
from jaxprl.runs.reading import Run, Search, in_ranges

POINTS = 240
"""Places at which a learning curve is drawn."""
AXES = {"evaluated": "programs evaluated", "seconds": "seconds"}
"""What returns are drawn against."""
_NO_DIFFERENCE = {"task", "method", "seeds"}
"""What may differ between runs of one method."""


@dataclasses.dataclass
class Group:
    """Searches that differ in their seeds alone."""

    task: str
    method: str
    """With what tells it apart from other runs of the same method: `hc (budget 1000)`."""
    runs: list[Run]
    """With the searches and answers that count: of two searches with one seed, one does."""
    searches: list[Search]

    @property
    def begun(self) -> list[Search]:
        """Searches that have evaluated a program."""
        return [search for search in self.searches if search.best is not None]

    @property
    def finished(self) -> list[Search]:
        return [search for search in self.searches if search.result]

    @property
    def recorded(self) -> list[Search]:
        """Searches that have a learning curve."""
        return [search for search in self.searches if search.rows]

    @property
    def best(self) -> Search | None:
        """The search with the best program so far: by its return, that on unseen layouts, and its length."""

        def rank(search: Search) -> tuple[float, float, int]:
            found = search.found or {}
            return found["return"], found.get("unseen_return", 0.0), -len(found["program"])

        return max((search for search in self.searches if search.found), key=rank, default=None)


class Summary(NamedTuple):
    """What a group comes to. Returns are over all searches that have begun, unfinished ones as they stand."""

    searches: int
    begun: int
    finished: int
    mean: float
    deviation: float
    """Sample standard deviation over search seeds; 0 for one."""
    iqm: float
    low: float
    high: float
    """Interquartile mean and its bootstrap interval."""
    unseen: float
    """Mean return of the finished searches' programs on layouts that no search sees; NaN if there is none."""
    solved: int
    """Of the finished ones."""
    quartiles: tuple[float, ...]
    """Programs within which a quarter, half and three quarters of the searches had solved the task; infinite if fewer
    did."""
    programs: int
    """Programs evaluated by all."""


def group(runs: list[Run]) -> tuple[list[Group], list[str]]:
    """Return the groups by task and method, and in words which searches were left out since they are there twice."""
    kinds: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in runs:
        asked = json.dumps(_asked(run.config), sort_keys=True)
        kinds.setdefault((run.task, run.method), {}).setdefault(asked, []).append(run)
    groups: list[Group] = []
    troubles: list[str] = []
    for (task, method), variants in sorted(kinds.items()):
        for asked_text, alike in variants.items():
            told = _differences(json.loads(asked_text), [json.loads(text) for text in variants])
            counted = _each_seed_once(alike, troubles)
            searches = [search for run in counted for search in run.searches]
            groups.append(Group(task, f"{method} ({told})" if told else method, counted, searches))
    return groups, troubles


def _asked(config: dict[str, Any]) -> dict[str, Any]:
    """Return what tells runs of a method apart, the language model's settings beside the rest."""
    asked = {name: value for name, value in config.items() if name not in _NO_DIFFERENCE}
    settings = asked.get("settings")
    if isinstance(settings, dict):
        del asked["settings"]
        asked = settings | asked
    return {name: value for name, value in asked.items() if value is not None}


def _each_seed_once(runs: Sequence[Run], troubles: list[str]) -> list[Run]:
    """Return the runs with the searches that count: of two with one seed the one that has a result, else the first.
    A run that nothing is left of is left out; what is, is named."""
    chosen: dict[int, Search] = {}
    for search in (search for run in runs for search in run.searches):
        if search.seed not in chosen or (search.result and not chosen[search.seed].result):
            chosen[search.seed] = search
    counted = []
    for run in runs:
        searches = [search for search in run.searches if chosen[search.seed] is search]
        seeds = {search.seed for search in searches}
        twice = [search.seed for search in run.searches if search.seed not in seeds]
        if twice:
            troubles.append(f"{run.path}: seeds {in_ranges(twice)} left out: another run has them")
        if searches or not twice:
            answers = [row for row in run.answers if row["seed"] in seeds]
            counted.append(dataclasses.replace(run, searches=searches, answers=answers))
    return counted


def _differences(asked: dict[str, Any], others: list[dict[str, Any]]) -> str:
    """Return in words how a configuration differs from others."""
    names = [name for name in sorted(asked) if any(other.get(name) != asked[name] for other in others)]
    return ", ".join(f"{name} {_brief(asked[name])}" for name in names)


def _brief(value: Any) -> str:
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
    """Return what a group comes to, None if no search has begun."""
    if not group.begun:
        return None
    returns = np.array([search.best for search in group.begun])
    results = [search.result for search in group.finished if search.result]
    unseen = [result["unseen_return"] for result in results if "unseen_return" in result]
    middle, low, high = (ends.item() for ends in statistics.band(returns[None]))
    return Summary(
        searches=len(group.searches),
        begun=len(group.begun),
        finished=len(group.finished),
        mean=float(returns.mean()),
        deviation=float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        iqm=middle,
        low=low,
        high=high,
        unseen=float(np.mean(unseen)) if unseen else float("nan"),
        solved=sum(search.solved_after < math.inf for search in group.finished),
        quartiles=tuple(
            statistics.to_solve([search.solved_after for search in group.searches], share)
            for share in (0.25, 0.5, 0.75)
        ),
        programs=sum(search.evaluated for search in group.searches),
    )


class Curve(NamedTuple):
    """Return against programs evaluated or seconds."""

    at: np.ndarray  # float64 [X]
    band: statistics.Band
    searches: int


def curves(groups: list[Group], place: str) -> list[tuple[Group, Curve]]:
    """Return the learning curves of one task's groups, but those without records, over a place of `AXES`.

    A search that has solved the task holds its return, up to the end of the longest; a curve goes as far as every
    other search of its group has come. It begins where all have a value.
    """
    ends = [search.steps(place)[-1][0] for group in groups for search in group.recorded]
    return [(group, _curve(group.recorded, place, max(ends))) for group in groups if group.recorded]


def _curve(searches: Sequence[Search], place: str, end: float) -> Curve:
    steps = [search.steps(place) for search in searches]
    first = max(each[0][0] for each in steps)
    unsolved = [each[-1][0] for search, each in zip(searches, steps, strict=True) if search.solved_after == math.inf]
    last = min([end, *unsolved])
    if place == "evaluated":
        first, last = max(first, 1.0), max(last, 1.0)
    last = max(first, last)
    at = np.linspace(first, last, POINTS)
    if place == "evaluated":
        at = np.round(np.geomspace(first, last, POINTS))
    at = np.unique(at)
    values = np.stack([statistics.held(each, at) for each in steps], axis=1)
    return Curve(at, statistics.band(values), len(steps))
