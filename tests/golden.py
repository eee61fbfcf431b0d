"""What the published implementation returned (`tests/data`), and the rules by which runs are compared with it."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprl.dsl import ast
from jaxprl.dsl.text import from_text
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.outcomes import Outcomes
from jaxprl.vm.plain import run
from jaxprl.worlds import registry
from jaxprl.worlds.make import make
from jaxprl.worlds.plain import WorldEnvironment
from jaxprl.worlds.task import Task

DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-9


class Row(NamedTuple):
    """One program on E layouts. Returns are float64 sums, good to `TOLERANCE`."""

    label: str
    program: str
    seeds: tuple[int, ...]
    returns: tuple[float, ...]
    calls: tuple[int, ...]
    """Meaningless where a run ends as C: the published counter goes on after the crash."""
    actions: tuple[int, ...]
    ends: tuple[str, ...]


class Results(NamedTuple):
    """What our interpreters make of P programs on E layouts: arrays [P, E]."""

    returns: np.ndarray
    calls: np.ndarray
    actions: np.ndarray
    ends: np.ndarray


@functools.cache
def load(name: str) -> Any:
    """Return the contents of a golden file; it is shared, so nobody may change it."""
    with gzip.open(DATA / f"{name}.json.gz") as file:
        return json.load(file)


_MEASURED = {name for domain in ("karel", "minigrid") for name in load(f"returns_{domain}")["tasks"]}
TASKS = tuple(name for name in registry.tasks() if name in _MEASURED)
"""The tasks that the published implementation has values of."""
KAREL_TASKS = tuple(name for name in TASKS if make(name).language.name == "karel")


@functools.cache
def returns(task: str) -> tuple[Row, ...]:
    """Return the task's programs on layouts 0..31, with the results of exact state comparison."""
    golden = load(f"returns_{make(task).language.name}")["tasks"][task]
    return tuple(_exact(program, golden["seeds"]) for program in golden["programs"])


def _exact(program: dict, seeds: list[int]) -> Row:
    exact = {diff["seed"]: diff["exact"] for diff in program["diffs"]}
    published = zip(program["returns"], program["num_calls"], program["n_actions"], program["end"], strict=True)
    runs = [exact.get(seed, run) for seed, run in zip(seeds, published, strict=True)]
    return Row(program["kind"], program["program"], tuple(seeds), *zip(*runs, strict=True))


@functools.cache
def edge_cases(task: str) -> tuple[Row, ...]:
    """Return the task's runs at the call limit, with constants, `and`, `or`, odd counts and the like."""
    rows = [row for row in load("edge_cases")["rows"] if row["task"] == task]
    columns = "seeds", "returns", "num_calls", "n_actions", "end"
    return tuple(Row(row["label"], row["program"], *(tuple(row[column]) for column in columns)) for row in rows)


def on_first(rows: Sequence[Row], layouts: int | None) -> list[Row]:
    """Return the rows on their first layouts only, on all if no number is given."""
    return [Row(row.label, row.program, *(column[:layouts] for column in row[2:])) for row in rows]


def programs(domain: str) -> list[str]:
    """Return the text of every distinct golden program of a domain."""
    tasks = [name for name in TASKS if make(name).language.name == domain]
    texts = [row.program for task in tasks for row in (*returns(task), *edge_cases(task))]
    texts += [trace["program"] for task in tasks for trace in load("traces")["tasks"][task]]
    texts += [text for parent in load("grammar")[domain]["neighbours"] for text, _ in parent["top20"]]
    return list(dict.fromkeys([*texts, *load("grammar")[domain]["first_50"]]))


LAYOUTS = range(32)
"""Those of `returns`; the runs of `edge_cases` are on the first of them."""
BLOCK = 64
"""Programs that are evaluated together: another number than anywhere else, so that nothing else compiles this size."""


@contextlib.contextmanager
def all_optimizations() -> Iterator[None]:
    """Have compiled what is run for the first time as users have it (`conftest.py`)."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, False)
    try:
        yield
    finally:
        jax.config.update(name, before)


@functools.cache
def _evaluated(task: str) -> tuple[dict[str, int], Outcomes]:
    """Return the places of all golden programs by their texts, and their outcomes on all layouts, evaluated once."""
    places: dict[str, int] = {}
    for row in (*returns(task), *edge_cases(task)):
        places.setdefault(row.program, len(places))
    programs = [from_text(text, make(task).language) for text in places]
    with all_optimizations():
        return places, evaluate(make(task), programs, make(task).layouts(LAYOUTS), block=BLOCK)


def evaluated(task: str, rows: Sequence[Row], layouts: int | None = None) -> Outcomes:
    """Return the batched interpreter's outcomes of golden programs, on the first layouts or on those of their rows."""
    places, runs = _evaluated(task)
    if layouts is None:
        [seeds] = {row.seeds for row in rows}
        layouts = len(seeds)
        assert seeds == tuple(LAYOUTS[:layouts])
    index = [places[row.program] for row in rows]
    return Outcomes(*(column[index, :layouts] for column in runs.columns), runs.layout_units[:layouts])


def batched(runs: Outcomes) -> Results:
    """Return the outcomes of the batched interpreter."""
    return Results(runs.returns, runs.calls, runs.actions, runs.ends)


def plain(task: Task, programs: Sequence[ast.Program], layouts: Sequence, environment=WorldEnvironment) -> Results:
    """Return the outcomes of the plain-Python interpreter."""
    outcomes = [[run(program, environment(task, layout)) for layout in layouts] for program in programs]
    units = np.array([layout.units for layout in layouts])
    fields = [[[getattr(run, name) for run in row] for row in outcomes] for name in ("reward", "calls", "actions")]
    ends = np.array([[run.end.letters for run in row] for row in outcomes])
    return Results(np.array(fields[0]) / units, np.array(fields[1]), np.array(fields[2]), ends)


def differences(rows: Sequence[Row], outcomes: Results) -> list[str]:
    """Return a line for every run that is not as it should be."""
    lines = []
    for row, *ours in zip(rows, *outcomes, strict=True):
        runs = zip(row.seeds, *row[3:], *ours, strict=True)
        for seed, value, calls, actions, end, our_value, our_calls, our_actions, our_end in runs:
            same = abs(our_value - value) < TOLERANCE and our_actions == actions and our_end == end
            if not (same and (end == "C" or our_calls == calls)):
                want, got = (value, calls, actions, end), (our_value, int(our_calls), int(our_actions), our_end)
                lines.append(f"{row.label}, layout {seed}: want {want}, got {got}: {row.program}")
    return lines
