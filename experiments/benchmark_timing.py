"""Times jobs, and says in a row of figures how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
"""A row of a benchmark, or the report of one, as it is printed in JSON."""
Timing = tuple[float, list[float], Any]
"""Seconds of a job's first run, seconds of its later runs, and the last result."""


def timed(job: Callable[[], Any], repeats: int) -> Timing:
    return in_turn([job], repeats)[0]


def in_turn(jobs: Sequence[Callable[[], Any]], repeats: int) -> list[Timing]:
    """Time jobs that are compared with each other. They take turns, so that other load on the machine meets all."""
    rounds: list[list[tuple[float, Any]]] = [[] for _ in jobs]
    for _ in range(1 + repeats):
        for job, times in zip(jobs, rounds, strict=True):
            started = time.perf_counter()
            result = job()
            times.append((time.perf_counter() - started, result))
    return [(times[0][0], [seconds for seconds, _ in times[1:]], times[-1][1]) for times in rounds]


def row(name: str, unit: str, amount: int, first: float, seconds: list[float], *, calls: int = 0, **more: Any) -> Row:
    low, median, high = np.percentile(seconds, [25, 50, 75])
    figures: Row = {"name": name, "unit": unit, "amount": amount, "per second": amount / median}
    figures |= {"quartiles": [amount / high, amount / low], "first run - median, s": max(0.0, first - median)}
    if calls:
        figures |= {"calls": calls, "calls/s": calls / median, "ns/call": median / calls * 1e9}
    return figures | more
