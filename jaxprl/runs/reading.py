"""Run directories as a report sees them: read as far as they go. What is missing or damaged is named, never fatal."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxprl.errors import UserError
from jaxprl.runs.record import ANSWERS, REQUESTS

_DEEPEST = 4
"""Folders below a given one in which run directories are looked for: a sweep, a cell, a host."""


@dataclasses.dataclass
class Search:
    """One search seed of a run."""

    seed: int
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Of metrics.jsonl, as far as they are whole: evaluated, best, seconds."""
    result: dict[str, Any] | None = None
    """None while it runs, or if its file is damaged."""
    program: dict[str, Any] | None = None
    """The last row of programs.jsonl: evaluated, program, return, source."""

    @property
    def best(self) -> float | None:
        """Its best return, None if no program was evaluated yet."""
        if self.result:
            return float(self.result["return"])
        return float(self.rows[-1]["best"]) if self.rows else None

    @property
    def evaluated(self) -> int:
        if self.result:
            return int(self.result["evaluated"])
        return int(self.rows[-1]["evaluated"]) if self.rows else 0

    @property
    def solved_after(self) -> float:
        """Programs evaluated until return 1; infinite if there was none."""
        if self.result:
            return float(self.result["found_at"]) if self.result.get("stop") == "solved" else math.inf
        return next((float(row["evaluated"]) for row in self.rows if row["best"] >= 1), math.inf)

    def steps(self, place: str) -> list[tuple[float, float]]:
        """Return places (`evaluated` or `seconds`) and best returns, its end included."""
        steps = [(float(row[place]), float(row["best"])) for row in self.rows]
        if self.result and self.best is not None and place in self.result:
            steps.append((float(self.result[place]), self.best))
        return sorted(steps, key=lambda step: step[0])


@dataclasses.dataclass
class Run:
    """A run directory."""

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    searches: list[Search]
    requests: list[dict[str, Any]]
    """The log of requests to a language model's server (`llm/client.py`)."""
    answers: list[dict[str, Any]]
    """Answers that were looked at, each with its seed, program and rejections."""
    troubles: list[str]
    """What is missing or damaged, in words."""

    @property
    def task(self) -> str:
        return str(self.config.get("task", "?"))

    @property
    def method(self) -> str:
        return str(self.config.get("method", "?"))


def read_all(paths: Sequence[Path]) -> list[Run]:
    """Return the runs in the given folders: run directories, or folders that hold some.

    Raises UserError for a folder that holds none.
    """
    found: dict[Path, Run] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such folder")
        directories = list(_directories(path, _DEEPEST))
        if not directories:
            raise UserError(f"{path} is no run directory and holds none: there is no config.json")
        for directory in directories:
            found.setdefault(directory.resolve(), read(directory))
    return list(found.values())


def _directories(path: Path, deepest: int) -> Iterable[Path]:
    if (path / "config.json").is_file():
        yield path
    elif path.is_dir() and deepest:
        for inner in sorted(path.iterdir()):
            yield from _directories(inner, deepest - 1)


def read(path: Path) -> Run:
    """Return the run in a directory that has a config.json."""
    troubles: list[str] = []
    config = _read_object(path / "config.json", troubles)
    environment = _read_object(path / "env.json", troubles)
    searches = {int(seed): Search(int(seed)) for seed in config.get("seeds", []) if isinstance(seed, int)}
    needed = {"seed": int, "evaluated": int, "best": float, "seconds": float}
    for row in _rows(path / "metrics.jsonl", needed, troubles):
        searches.setdefault(row["seed"], Search(row["seed"])).rows.append(row)
    needed = {"seed": int, "evaluated": int, "program": str, "return": float}
    for row in _rows(path / "programs.jsonl", needed, troubles):
        searches.setdefault(row["seed"], Search(row["seed"])).program = row
    for file in sorted(path.glob("seed-*/result.json")):
        result = _read_object(file, troubles)
        if result and not _fits(result, _RESULT):
            troubles.append(f"{file}: not a search's result")
        elif result:
            searches.setdefault(result["seed"], Search(result["seed"])).result = result
    unfinished = [search.seed for search in searches.values() if not search.result]
    if unfinished:
        troubles.append(f"{path}: no result yet of seed{'s' * (len(unfinished) > 1)} {in_ranges(unfinished)}")
    requests = [row for row in _rows(path / REQUESTS, {}, troubles) if "outcome" in row]
    return Run(
        path,
        config,
        environment,
        [searches[seed] for seed in sorted(searches)],
        requests,
        _rows(path / ANSWERS, {"rejected": list}, troubles),
        troubles,
    )


_RESULT = {
    "seed": int, "return": float, "evaluated": int, "found_at": int, "seconds": float, "stop": str, "program": str,
    "python": str,
}  # fmt: skip


def _fits(row: dict[str, Any], needed: dict[str, type]) -> bool:
    """Return whether a row has these columns with values of these types."""

    def fits(value: object, kind: type) -> bool:
        if kind is float:
            return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return isinstance(value, kind) and not isinstance(value, bool)

    return all(fits(row.get(name), kind) for name, kind in needed.items())


def _read_object(file: Path, troubles: list[str]) -> dict[str, Any]:
    """Return the JSON object in a file, an empty one if there is none, which is named."""
    try:
        value = json.loads(file.read_bytes())
    except OSError as error:
        troubles.append(f"{file}: {error.strerror}")
        return {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        troubles.append(f"{file}: damaged, no JSON object")
        return {}
    return value


def _rows(file: Path, needed: dict[str, type], troubles: list[str]) -> list[dict[str, Any]]:
    """Return the whole rows of a JSON-lines file; others are counted and named."""
    if not file.is_file():
        return []
    rows, damaged = [], []
    *lines, last = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and _fits(row, needed):
            rows.append(row)
        else:
            damaged.append(number)
    if damaged:
        troubles.append(f"{file}: damaged, left out: line{'s' * (len(damaged) > 1)} {in_ranges(damaged)}")
    if last:
        troubles.append(f"{file}: the last line is torn")
    return rows


def in_ranges(numbers: Iterable[int]) -> str:
    """Return numbers in words: `0-31,40`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
