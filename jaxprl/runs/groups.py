"""Searches of one method on one task, from any number of runs, and what they come to."""

from __future__ import annotations

import dataclasses
import json
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
    searches: list[Search]

    @property
    def begun(self) -> list[Search]:
        """Searches that have evaluated a program."""
        return [search for search in self.searches if search.best is not None]

    @property
    def finished(self) -> list[Search]:
        return [search for search in self.searches if search.result]

    @property
    def best(self) -> Search | None:
        """The search with the best program that is done: by its return, that on unseen layouts, and its length."""

        def rank(search: Search) -> tuple[float, float, int]:
            result = search.result or {}
            return result["return"], result.get("unseen_return", 0.0), -len(result["program"])

        return max(self.finished, key=rank, default=None)


class Summary(NamedTuple):
    """What a group comes to. Returns are over all searches that have begun, unfinished ones as they stand."""

    searches: int
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
    quartiles: tuple[float, ...]
    """Programs within which a quarter, half and three quarters of the searches had solved the task; infinite if fewer
    did."""
    programs: int
    """Programs evaluated by all."""


def group(runs: list[Run]) -> tuple[list[Group], list[str]]:
    """Return the groups by task and method, and in words which searches were left out since they are there twice."""
    kinds: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in runs:
        asked = {name: value for name, value in run.config.items() if name not in _NO_DIFFERENCE}
        kinds.setdefault((run.task, run.method), {}).setdefault(json.dumps(asked, sort_keys=True), []).append(run)
    groups, troubles = [], []
    for (task, method), variants in sorted(kinds.items()):
        for asked_text, alike in variants.items():
            told = _differences(json.loads(asked_text), [json.loads(text) for text in variants])
            found: dict[int, Search] = {}
            for run in alike:
                twice = [search.seed for search in run.searches if search.seed in found]
                if twice:
                    troubles.append(f"{run.path}: seeds {in_ranges(twice)} left out: another run has them")
                found = {search.seed: search for search in run.searches} | found
            groups.append(Group(task, f"{method} ({told})" if told else method, alike, list(found.values())))
    return groups, troubles


def _differences(asked: dict[str, Any], others: list[dict[str, Any]]) -> str:
    """Return in words how a configuration differs from others."""
    names = [name for name in sorted(asked) if any(other.get(name) != asked[name] for other in others)]
    return ", ".join(f"{name} {_brief(asked[name])}" for name in names)


def _brief(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(each, int) for each in value):
        return in_ranges(value)
    if isinstance(value, dict | list):
        return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"
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
    after = [search.solved_after for search in group.searches]
    middle, low, high = (ends.item() for ends in statistics.band(returns[None]))
    return Summary(
        searches=len(group.searches),
        finished=len(group.finished),
        mean=float(returns.mean()),
        deviation=float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        iqm=middle,
        low=low,
        high=high,
        unseen=float(np.mean(unseen)) if unseen else float("nan"),
        solved=int(np.isfinite(after).sum()),
        quartiles=tuple(statistics.to_solve(after, share) for share in (0.25, 0.5, 0.75)),
        programs=sum(search.evaluated for search in group.searches),
    )


class Curve(NamedTuple):
    """Return against programs evaluated or seconds."""

    at: np.ndarray  # float64 [X]
    band: statistics.Band
    searches: int


def curves(groups: list[Group], place: str) -> list[tuple[Group, Curve]]:
    """Return the learning curves of one task's groups, but those that have not begun, over a place of `AXES`.

    A search that has ended holds its last value, up to the end of the longest; a curve goes as far as every unfinished
    search of its group has come. It begins where all have a value.
    """
    ends = [search.steps(place)[-1][0] for group in groups for search in group.begun]
    return [(group, _curve(group, place, max(ends))) for group in groups if group.begun]


def _curve(group: Group, place: str, end: float) -> Curve:
    steps = [search.steps(place) for search in group.begun]
    first = max(each[0][0] for each in steps)
    last = min([end, *(search.steps(place)[-1][0] for search in group.begun if not search.result)])
    if place == "evaluated":
        first, last = max(first, 1.0), max(last, 1.0)
    last = max(first, last)
    at = np.linspace(first, last, POINTS)
    if place == "evaluated":
        at = np.round(np.geomspace(first, last, POINTS))
    at = np.unique(at)
    values = np.stack([statistics.held(each, at) for each in steps], axis=1)
    return Curve(at, statistics.band(values), len(steps))
