"""Published results that a report shows beside ours."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A column of a published table: mean returns by task."""

    name: str
    source: str
    seeds: int
    """Searches a mean is over."""
    means: dict[str, float]


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


def of_task(task: str) -> list[tuple[Published, float]]:
    """Return the published results on a task."""
    return [(column, column.means[task]) for column in COLUMNS if task in column.means]
