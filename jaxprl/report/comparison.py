"""The runs of a report beside published results: mean returns with standard errors at the published places."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxprl.report import published_results, statistics
from jaxprl.report.groups import Group
from jaxprl.report.published_results import Column, Estimate, Place
from jaxprl.report.reading import Search
from jaxprl.report.statistics import Median

_WIDTH = 120


class Row(NamedTuple):
    """Our result and the published one at a place."""

    theirs: Place
    ours: Estimate
    solved: int
    """How many of our searches had reached return 1."""
    difference: float
    """Ours minus theirs, in combined standard errors: the root of the sum of the squares of both. NaN if one of them is
    not known; infinite if both are 0 and the means differ."""


class Comparison(NamedTuple):
    """A group of searches beside a published column."""

    task: str
    method: str
    column: Column
    searches: int
    """How many of our searches are compared."""
    rows: list[Row]
    """The places that all our searches have come to."""
    median: Median | None
    """After how many programs half of our searches had reached return 1; None before all of them are finished."""
    expected: Median | None
    """The same with the interval in which the median of as many searches as theirs is to be expected."""
    reached: float
    """Programs up to which each of our searches has looked for return 1."""
    other: list[str]
    """In words, what is not the same in both."""

    @property
    def remarks(self) -> list[str]:
        """What is to be known of the comparison, in words."""
        curve = self.column.tasks[self.task]
        found = [f"not the same: {each}" for each in self.other]
        if curve.times != 1:
            found.append(f"theirs times {curve.times}, since the source divides by more than can be reached")
        return [*found, curve.remark] if curve.remark else found


def compare(groups: Sequence[Group]) -> list[Comparison]:
    """Return the comparisons of groups with the published columns that fit them (`published_results.fitting`)."""
    return [
        _compared(group, column, other)
        for group in groups
        if group.recorded
        for column, other in published_results.fitting(group.task, group.runs[0].config)
    ]


def _compared(group: Group, column: Column, other: list[str]) -> Comparison:
    searches, curve = group.recorded, column.tasks[group.task]
    rows = [row for place in curve.places if (row := _row(searches, place))]
    median = expected = None
    if len(group.finished) == len(group.searches):
        programs = [search.solved_after for search in group.finished]
        median, expected = statistics.median(programs), statistics.median(programs, others=column.seeds)
    unsolved = [float(search.evaluated) for search in group.searches if search.solved_after == math.inf]
    reached = min(unsolved, default=math.inf)
    return Comparison(group.task, group.method, column, len(searches), rows, median, expected, reached, other)


def _row(searches: Sequence[Search], place: Place) -> Row | None:
    """Return the results at a place, or None if a search has not come to it."""
    if place.evaluated is None:
        ended = [search.best for search in searches if search.result and search.best is not None]
        returns, last = (ended if len(ended) == len(searches) else []), math.inf
    else:
        last = float(place.evaluated)
        returns = [value for search in searches if (value := _at(search, last)) is not None]
    if len(returns) < len(searches):
        return None
    ours = estimate(returns)
    solved = sum(search.solved_after < math.inf and search.solved_after <= last for search in searches)
    return Row(place, ours, solved, difference(ours, place.returns))


def _at(search: Search, evaluated: float) -> float | None:
    """Return the best return of a search after so many programs, or None if it has not come so far.

    A search that has solved its task keeps its return.
    """
    if search.evaluated < evaluated and search.solved_after == math.inf:
        return None
    value = float(statistics.held(search.steps("evaluated"), np.array([evaluated]))[0])
    return None if math.isnan(value) else value


def estimate(returns: Sequence[float]) -> Estimate:
    """Return the mean of some returns with its standard error, which is NaN for a single one."""
    spread = float(np.std(returns, ddof=1)) if len(returns) > 1 else math.nan
    return Estimate(float(np.mean(returns)), spread / math.sqrt(len(returns)))


def difference(ours: Estimate, theirs: Estimate) -> float:
    """Return the difference of two means in combined standard errors (`Row.difference`)."""
    combined = math.hypot(ours.error, theirs.error)
    apart = ours.mean - theirs.mean
    if combined == 0:
        return 0.0 if abs(apart) < 1e-9 else math.copysign(math.inf, apart)
    return apart / combined


def lines(comparison: Comparison) -> list[str]:
    """Return a comparison as lines of text."""
    column = comparison.column
    title = f"{comparison.task}, {comparison.method}, beside {column.name} ({column.work})"
    found = [title, *textwrap.wrap(f"theirs: {column.source}", _WIDTH, initial_indent="  ", subsequent_indent="  ")]
    if comparison.rows:
        found.append(f"  {'programs':>9}  {'ours':22}  {'theirs':22}  difference in combined standard errors")
    for row in comparison.rows:
        ours, theirs = result(row.ours, row.solved), result(row.theirs.returns, row.theirs.solved)
        found.append(f"  {place(row):>9}  {ours:22}  {theirs:22}  {apart(row)}")
    if not comparison.rows:
        found.append("  not all searches have come to a published place yet")
    if words := to_solve(comparison):
        found.append(f"  {words}")
    for each in comparison.remarks:
        found += textwrap.wrap(each, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return found


def place(row: Row) -> str:
    """Return the place of a row in words."""
    return "at the end" if row.theirs.evaluated is None else f"{row.theirs.evaluated:,}"


def result(returns: Estimate, solved: int | None) -> str:
    """Return a mean with its standard error and, in brackets, the number of searches that had reached return 1."""
    error = "" if math.isnan(returns.error) else f" ± {returns.error:.4f}"
    return f"{returns.mean:.4f}{error}" + ("" if solved is None else f" [{solved}]")


def apart(row: Row) -> str:
    """Return the difference of a row in words."""
    return "-" if math.isnan(row.difference) else f"{row.difference:+.1f}"


def to_solve(comparison: Comparison) -> str:
    """Return the medians of programs to solve in words; empty if neither is known."""
    ours, expected = comparison.median, comparison.expected
    theirs = comparison.column.tasks[comparison.task].median
    if ours is None or expected is None or (math.isinf(ours.middle) and math.isnan(theirs)):
        return ""
    words = f"programs to solve, median: {_count(ours.middle)} (95 % {_count(ours.low)} to {_count(ours.high)})"
    if math.isnan(theirs):
        return words
    if theirs > comparison.reached:
        return f"{words}, theirs {theirs:,.0f}, which is more than was searched here"
    words += f", theirs {theirs:,.0f}, {_where(theirs, ours)} this interval"
    interval = f"{_count(expected.low)} to {_count(expected.high)}"
    return f"{words} and {_where(theirs, expected)} that of {comparison.column.seeds} other searches ({interval})"


def _where(value: float, interval: Median) -> str:
    return "inside" if interval.low <= value <= interval.high else "outside"


def _count(programs: float) -> str:
    return "not reached" if math.isinf(programs) else f"{programs:,.0f}"
