"""Published results that a report shows beside those of the runs."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A column of a published table."""

    name: str
    """Name of the method."""
    source: str
    """What the numbers are, and where they were published."""
    seeds: int
    """How many searches each mean is over."""
    means: dict[str, float]
    """Mean returns by task."""


LEAPS = Published(
    "LEAPS",
    "mean return over 5 seeds; LEAPS, as reported by Liu et al., ICML 2023 (HPRL)",
    5,
    {
        "StairClimberSparse": 1.00, "MazeSparse": 1.00, "FourCorners": 0.45, "TopOff": 0.81, "CleanHouse": 0.18,
        "Harvester": 0.45, "DoorKey": 0.50, "OneStroke": 0.65, "Seeder": 0.51, "Snake": 0.21,
    },
)  # fmt: skip
COLUMNS = (LEAPS,)
"""The columns that a report shows."""


def of_task(task: str) -> list[tuple[Published, float]]:
    """Return the published columns that have a task, each with its mean return on it."""
    return [(column, column.means[task]) for column in COLUMNS if task in column.means]
