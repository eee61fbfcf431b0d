"""Reading run directories for a report, finished or not. Missing and damaged files are listed and end nothing."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from jaxprl.errors import UserError
from jaxprl.runs.record import ANSWERS, REQUESTS
from jaxprl.types import JSON

_DEEPEST = 4
"""How many levels of folders are searched for run directories: a sweep has cells, and a cell the runs of its hosts."""


@dataclasses.dataclass
class Search:
    """One search of a run."""

    seed: int
    rows: list[JSON] = dataclasses.field(default_factory=list)
    """The undamaged rows of metrics.jsonl: evaluated, best, seconds."""
    result: JSON | None = None
    """The content of result.json. None if the search is not finished or the file is damaged."""
    program: JSON | None = None
    """The last row of programs.jsonl: evaluated, program, return, source."""

    @property
    def best(self) -> float | None:
        """The best return so far, or None if no program has been evaluated."""
        if self.result:
            return float(self.result["return"])
        known = [row["best"] for row in self.rows[-1:]] + ([self.program["return"]] if self.program else [])
        return max(map(float, known), default=None)

    @property
    def evaluated(self) -> int:
        """How many programs have been evaluated."""
        if self.result:
            return int(self.result["evaluated"])
        return max((int(row["evaluated"]) for row in (*self.rows[-1:], self.program) if row), default=0)

    @property
    def solved_after(self) -> float:
        """How many programs had been evaluated when the return reached 1; infinity if it has not."""
        if self.result:
            return float(self.result["found_at"]) if self.result.get("stop") == "solved" else math.inf
        return next((float(row["evaluated"]) for row in self.rows if row["best"] >= 1), math.inf)

    @property
    def best_program(self) -> JSON | None:
        """The best program so far with its return, its source and `found_at`, or None if there is none.

        It comes from the result or, while the search runs, from the record of programs.
        """
        if self.result or not self.program:
            return self.result
        row = {name: value for name, value in self.program.items() if name != "evaluated"}
        return row | {"found_at": self.program["evaluated"]}

    def steps(self, against: str) -> list[tuple[float, float]]:
        """Return the learning curve.

        Args:
          against: `evaluated` or `seconds`.

        Returns:
          Places and best returns, ordered by place. The last one is the end of the search, if it is finished.
        """
        steps = [(float(row[against]), float(row["best"])) for row in self.rows]
        if self.result and self.best is not None and against in self.result:
            steps.append((float(self.result[against]), self.best))
        return sorted(steps, key=lambda step: step[0])


@dataclasses.dataclass
class Run:
    """The content of a run directory."""

    path: Path
    config: JSON
    environment: JSON
    searches: list[Search]
    requests: list[JSON]
    """The requests to a language model's server (`llm/client.py`)."""
    answers: list[JSON]
    """The answers of the language model that were read, each with its seed, and with a program or the reason why there
    is none."""
    problems: list[str]
    """What is missing or damaged, in words."""

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.config.get("task", "?"))

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.config.get("method", "?"))


def read_all(paths: Sequence[Path]) -> list[Run]:
    """Read run directories.

    Args:
      paths: run directories, or folders that contain some. A directory that is named twice is read once.

    Returns:
      The runs.

    Raises:
      UserError: a folder does not exist or contains no run.
    """
    runs: dict[Path, Run] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such folder")
        directories = list(_directories(path, _DEEPEST))
        if not directories:
            raise UserError(f"{path} is no run directory and holds none: there is no config.json")
        for directory in directories:
            runs.setdefault(directory.resolve(), read(directory))
    return list(runs.values())


def _directories(path: Path, deepest: int) -> Iterable[Path]:
    if (path / "config.json").is_file():
        yield path
    elif path.is_dir() and deepest:
        for inner in sorted(path.iterdir()):
            yield from _directories(inner, deepest - 1)


def read(path: Path) -> Run:
    """Read a run directory.

    Args:
      path: a directory that has a config.json.

    Returns:
      The run. What is missing or damaged is listed in its `problems`.
    """
    problems: list[str] = []
    config = _read_object(path / "config.json", problems)
    environment = _read_object(path / "env.json", problems)
    searches = _searches(path, config, problems)
    requests = [row for row in _rows(path / REQUESTS, {}, problems) if "outcome" in row]
    answers = _rows(path / ANSWERS, _ANSWERS, problems)
    return Run(path, config, environment, searches, requests, answers, problems)


def _searches(path: Path, config: JSON, problems: list[str]) -> list[Search]:
    """Return the searches of a run, those of its configuration and those that its records have, by seed."""
    seeds = config.get("seeds", [])
    if not isinstance(seeds, list) or not all(map(whole, seeds)):
        problems.append(f"{path / 'config.json'}: the seeds are not a list of integers")
        seeds = []
    searches = {seed: Search(seed) for seed in seeds}
    for row in _rows(path / "metrics.jsonl", _METRICS, problems):
        searches.setdefault(row["seed"], Search(row["seed"])).rows.append(row)
    for row in _rows(path / "programs.jsonl", _PROGRAMS, problems):
        searches.setdefault(row["seed"], Search(row["seed"])).program = row
    for file in sorted(path.glob("seed-*/result.json")):
        result = _read_object(file, problems)
        if result and not _fits(result, {**_RESULT, **{name: _UNSEEN[name] for name in _UNSEEN if name in result}}):
            problems.append(f"{file}: not a search's result")
        elif result:
            searches.setdefault(result["seed"], Search(result["seed"])).result = result
    unfinished = [search.seed for search in searches.values() if not search.result]
    if unfinished:
        problems.append(f"{path}: no result yet of {_named(unfinished)}")
    bare = [search.seed for search in searches.values() if search.result and not search.rows]
    if bare:
        problems.append(f"{path / 'metrics.jsonl'}: no rows, so no curve, of {_named(bare)}")
    return [searches[seed] for seed in sorted(searches)]


def _named(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {in_ranges(seeds)}"


def whole(value: object) -> TypeGuard[int]:
    """Return whether a value from a file is an integer that a float can represent."""
    return isinstance(value, int) and number(value)


def number(value: object) -> TypeGuard[float]:
    """Return whether a value from a file is a finite number below 2**53."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def _text(value: object) -> bool:
    return isinstance(value, str)


def _objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


Columns = Mapping[str, Callable[[object], bool]]
"""The values that a row needs, each with a check."""
_METRICS: Columns = {"seed": whole, "evaluated": whole, "best": number, "seconds": number}
_PROGRAMS: Columns = {"seed": whole, "evaluated": whole, "program": _text, "return": number}
_ANSWERS: Columns = {"seed": whole, "rejected": _objects}
_RESULT: Columns = {
    "seed": whole, "return": number, "evaluated": whole, "found_at": whole, "seconds": number, "stop": _text,
    "program": _text, "python": _text,
}  # fmt: skip
_UNSEEN: Columns = {"unseen_return": number, "unseen_layouts": whole}
"""Values that only some results have."""


def _fits(row: JSON, needed: Columns) -> bool:
    return all(fit(row.get(name)) for name, fit in needed.items())


def _read_object(file: Path, problems: list[str]) -> JSON:
    """Return the JSON object in a file. If there is none, return an empty one and add to `problems`."""
    try:
        value = json.loads(file.read_bytes())
    except OSError as error:
        problems.append(f"{file}: {error.strerror}")
        return {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        problems.append(f"{file}: damaged, not a JSON object")
        return {}
    return value


def _rows(file: Path, needed: Columns, problems: list[str]) -> list[JSON]:
    """Return the undamaged rows of a JSON-lines file, and add the numbers of the others to `problems`."""
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
        problems.append(f"{file}: damaged, left out: line{'s' * (len(damaged) > 1)} {in_ranges(damaged)}")
    if last:
        problems.append(f"{file}: the last line is torn")
    return rows


def in_ranges(numbers: Iterable[int]) -> str:
    """Return integers as ranges: `0-31,40`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
