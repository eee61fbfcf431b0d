"""Published results that a report shows beside those of the runs: the columns of `published.toml`."""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Mapping
from fractions import Fraction
from importlib import resources
from typing import NamedTuple

from jaxprl.types import JSON


class Estimate(NamedTuple):
    """A mean return over searches."""

    mean: float
    error: float
    """Standard error of the mean; NaN if it is not known."""


class Place(NamedTuple):
    """A published result of a task."""

    evaluated: int | None
    """Programs that a search had evaluated; None for the end of a search."""
    returns: Estimate
    solved: int | None
    """How many searches had reached return 1; None if it is not stated."""


class Curve(NamedTuple):
    """The published results of a task."""

    places: tuple[Place, ...]
    median: float
    """After how many programs half of the searches had reached return 1; NaN if it is not stated."""
    times: Fraction
    """What the published returns were multiplied by, so that they can be compared."""
    remark: str
    """What is to be known of the comparison; empty for nothing."""
    options: Mapping[str, object]
    """Options of the method that are another on this task."""


class Column(NamedTuple):
    """The published results of one method."""

    name: str
    work: str
    """Who published them."""
    source: str
    """What the numbers are, and where they were published."""
    seeds: int | None
    """How many searches each mean is over; None if it is not stated."""
    setting: str | None
    """Name of the published setting that they belong to."""
    method: str | None
    """Our name of the method; None for a method that we have not."""
    options: Mapping[str, object]
    """The method's options, and `llm` where it matters: where programs of a language model come from."""
    layouts: int | None
    """Layouts that programs were evaluated on, those of the seeds from 0 on."""
    shown: bool
    """Whether every table of results shows the column."""
    tasks: Mapping[str, Curve]
    """The results by task."""

    @property
    def means(self) -> dict[str, float]:
        """The mean returns at the last places, by task."""
        return {task: curve.places[-1].returns.mean for task, curve in self.tasks.items()}


@functools.cache
def columns() -> tuple[Column, ...]:
    """Return the published columns. The file is read once."""
    text = resources.files("jaxprl.report").joinpath("published.toml").read_text(encoding="utf-8")
    return tuple(map(_column, tomllib.loads(text)["column"]))


def _column(entry: JSON) -> Column:
    return Column(
        name=entry["name"],
        work=entry["work"],
        source=entry["source"],
        seeds=entry.get("seeds"),
        setting=entry.get("setting"),
        method=entry.get("method"),
        options=entry.get("options", {}),
        layouts=entry.get("layouts"),
        shown=entry.get("shown", False),
        tasks={task: _curve(entry, task, values) for task, values in entry["tasks"].items()},
    )


def _curve(column: JSON, task: str, values: JSON) -> Curve:
    """Return the results of a task, from its line and those of its column."""
    times = Fraction(column.get("times", {}).get(task, "1"))
    evaluations = values.get("evaluations", column["evaluations"]) or [None]
    unknown = [None] * len(evaluations)
    errors = values.get("error", unknown)
    if "deviation" in values and "seeds" in column:
        errors = [deviation / math.sqrt(column["seeds"]) for deviation in values["deviation"]]
    places = (
        Place(evaluated, Estimate(mean * float(times), math.nan if error is None else error * float(times)), solved)
        for evaluated, mean, error, solved in zip(
            evaluations, values["mean"], errors, values.get("solved", unknown), strict=True
        )
    )
    remark = column.get("remarks", {}).get(task, "")
    return Curve(tuple(places), values.get("median", math.nan), times, remark, values.get("options", {}))


def of_task(task: str) -> list[tuple[Column, float]]:
    """Return the published columns that every table shows and that have a task, each with its mean return on it."""
    return [(column, column.means[task]) for column in columns() if column.shown and task in column.means]


def fitting(task: str, config: JSON) -> list[tuple[Column, list[str]]]:
    """Return the published columns that a run can be compared with.

    Args:
      task: name of the task.
      config: configuration of the run.

    Returns:
      The columns of the same task and method of which the run either follows the published setting, or has the same
      options and layouts. With each, in words, what is not the same.
    """
    found = []
    for column in columns():
        if task in column.tasks and column.method is not None and column.method == config.get("method"):
            other = _differences(column, task, config)
            if not other or config.get("published") == column.setting is not None:
                found.append((column, other))
    return found


def _differences(column: Column, task: str, config: JSON) -> list[str]:
    """Return in words the options and the layouts of a run that are not those of a column."""
    named = [
        f"{name} {config.get(name)} instead of {value}"
        for name, value in {**column.options, **column.tasks[task].options}.items()
        if config.get(name) != value
    ]
    if column.layouts is not None and not _are_first(config.get("layouts"), column.layouts):
        named.append(f"layouts other than 0-{column.layouts - 1}")
    return named


def _are_first(layouts: object, count: int) -> bool:
    """Return whether the layouts of a configuration are those of the seeds from 0 on, in any order."""
    return isinstance(layouts, list) and len(layouts) == count and all(seed in layouts for seed in range(count))
