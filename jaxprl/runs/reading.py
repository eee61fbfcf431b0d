"""Run directories as a report sees them: read as far as they go. What is missing or damaged is named, never fatal."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

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
        known = [row["best"] for row in self.rows[-1:]] + ([self.program["return"]] if self.program else [])
        return max(map(float, known), default=None)

    @property
    def evaluated(self) -> int:
        if self.result:
            return int(self.result["evaluated"])
        return max((int(row["evaluated"]) for row in (*self.rows[-1:], self.program) if row), default=0)

    @property
    def solved_after(self) -> float:
        """Programs evaluated until return 1; infinite if there was none."""
        if self.result:
            return float(self.result["found_at"]) if self.result.get("stop") == "solved" else math.inf
        return next((float(row["evaluated"]) for row in self.rows if row["best"] >= 1), math.inf)

    @property
    def found(self) -> dict[str, Any] | None:
        """Its best program, with its return, source and place: the result, or of a search that runs what it has."""
        if self.result or not self.program:
            return self.result
        row = {name: value for name, value in self.program.items() if name != "evaluated"}
        return row | {"found_at": self.program["evaluated"]}

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
    """Answers that were looked at, each with its seed, and its program or the reason why there is none."""
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
    seeds = config.get("seeds", [])
    if not isinstance(seeds, list) or not all(map(whole, seeds)):
        troubles.append(f"{path / 'config.json'}: the seeds are no list of numbers")
        seeds = []
    searches = {seed: Search(seed) for seed in seeds}
    for row in _rows(path / "metrics.jsonl", _METRICS, troubles):
        searches.setdefault(row["seed"], Search(row["seed"])).rows.append(row)
    for row in _rows(path / "programs.jsonl", _PROGRAMS, troubles):
        searches.setdefault(row["seed"], Search(row["seed"])).program = row
    for file in sorted(path.glob("seed-*/result.json")):
        result = _read_object(file, troubles)
        if result and not _fits(result, {**_RESULT, **{name: _UNSEEN[name] for name in _UNSEEN if name in result}}):
            troubles.append(f"{file}: not a search's result")
        elif result:
            searches.setdefault(result["seed"], Search(result["seed"])).result = result
    unfinished = [search.seed for search in searches.values() if not search.result]
    if unfinished:
        troubles.append(f"{path}: no result yet of seed{'s' * (len(unfinished) > 1)} {in_ranges(unfinished)}")
    bare = [search.seed for search in searches.values() if search.result and not search.rows]
    if bare:
        troubles.append(
            f"{path / 'metrics.jsonl'}: no rows, so no curve, of seed{'s' * (len(bare) > 1)} {in_ranges(bare)}"
        )
    requests = [row for row in _rows(path / REQUESTS, {}, troubles) if "outcome" in row]
    return Run(
        path,
        config,
        environment,
        [searches[seed] for seed in sorted(searches)],
        requests,
        _rows(path / ANSWERS, _ANSWERS, troubles),
        troubles,
    )


def whole(value: object) -> TypeGuard[int]:
    """Return whether a value from a file is an integer, and one that a float can hold."""
    return isinstance(value, int) and number(value)


def number(value: object) -> TypeGuard[float]:
    """Return whether a value from a file is a finite number below 2**53."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def _text(value: object) -> bool:
    return isinstance(value, str)


def _objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


Columns = Mapping[str, Callable[[object], bool]]
"""What a row needs, and what its values have to be."""
_METRICS: Columns = {"seed": whole, "evaluated": whole, "best": number, "seconds": number}
_PROGRAMS: Columns = {"seed": whole, "evaluated": whole, "program": _text, "return": number}
_ANSWERS: Columns = {"seed": whole, "rejected": _objects}
_RESULT: Columns = {
    "seed": whole, "return": number, "evaluated": whole, "found_at": whole, "seconds": number, "stop": _text,
    "program": _text, "python": _text,
}  # fmt: skip
_UNSEEN: Columns = {"unseen_return": number, "unseen_layouts": whole}
"""What a result may have too."""


def _fits(row: dict[str, Any], needed: Columns) -> bool:
    return all(fit(row.get(name)) for name, fit in needed.items())


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


def _rows(file: Path, needed: Columns, troubles: list[str]) -> list[dict[str, Any]]:
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
