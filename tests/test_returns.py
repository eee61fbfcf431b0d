"""Every golden program on every layout, on both interpreters; runs at the call limit and beyond what sampling makes."""

import collections

import golden
import numpy as np
import pytest
from compiled import MISSING

from jaxprl.dsl.text import from_text
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.outcomes import Scale
from jaxprl.worlds.make import make
from jaxprl.worlds.plain import WorldEnvironment


@pytest.mark.parametrize("name", golden.TASKS)
def test_batched_interpreter(name):
    rows, runs = golden.returns(name), golden.evaluated(name, golden.returns(name))
    assert runs.units.shape == (len(rows), 32)
    assert golden.differences(rows, golden.batched(runs)) == []

    scale = Scale.of(make(name).layouts(golden.LAYOUTS))
    full_success = [np.mean(row.returns) > 1 - golden.TOLERANCE for row in rows]
    assert (scale.scores(runs.units) == scale.denominator).tolist() == full_success


FEW = "DoorKey", "CleanHouse", "Snake", "StairClimber", "LavaGap", "RedBlueDoor"


@pytest.mark.skipif("cuda" in MISSING, reason="there is no C++ compiler")
@pytest.mark.parametrize(
    ("name", "step"),
    [
        *((name, 6) for name in FEW),
        *(pytest.param(name, 1, marks=pytest.mark.full) for name in golden.TASKS),
    ],
)
def test_kernels_for_gpus(name, step):
    """The text in CUDA, compiled for a CPU and run by eight threads, where there is no GPU."""
    task, rows = make(name), golden.returns(name)[::step]
    programs = [from_text(row.program, task.language) for row in rows]
    runs = evaluate(task, programs, layout_seeds=golden.LAYOUTS, engine="cuda")
    assert golden.differences(rows, golden.batched(runs)) == []


@pytest.mark.parametrize(
    ("first", "layouts"), [(0, 8), *(pytest.param(first, None, marks=pytest.mark.full) for first in range(10))]
)
@pytest.mark.parametrize("name", golden.TASKS)
def test_plain_interpreter(name, first, layouts):
    task, rows = make(name), golden.on_first(golden.returns(name)[first::10], layouts)
    programs = [from_text(row.program, task.language) for row in rows]
    outcomes = golden.plain(task, programs, [task.layout(seed) for seed in rows[0].seeds])
    assert golden.differences(rows, outcomes) == []


EDGY_TASKS = [name for name in golden.TASKS if golden.edge_cases(name)]
CONFUSED = ("CleanHouse", "while True")
"""Runs that the published implementation ends early, since it takes two different states for one."""
SPELLED_TWICE = ("LavaGap", "there and back (hash spelling)")
"""Runs that it ends late, since it writes the start position in another way than a visited one."""


def cases(name, layouts=None):
    """Return a task's rows by the layouts they were run on, the first of them if that is enough."""
    groups = collections.defaultdict(list)
    for row in golden.on_first(golden.edge_cases(name), layouts):
        if (name, row.label) not in (CONFUSED, SPELLED_TWICE):
            groups[row.seeds].append(row)
    return groups.items()


@pytest.mark.parametrize("name", EDGY_TASKS)
def test_batched_interpreter_at_the_edges(name):
    task = make(name)
    for seeds, rows in cases(name):
        runs = golden.evaluated(name, rows)
        assert runs.units.shape == (len(rows), len(seeds))
        assert golden.differences(rows, golden.batched(runs)) == []
        assert (runs.calls <= task.world.call_limit).all()


@pytest.mark.parametrize("layouts", [1, pytest.param(None, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", EDGY_TASKS)
def test_plain_interpreter_at_the_edges(name, layouts):
    task = make(name)
    for seeds, rows in cases(name, layouts):
        programs = [from_text(row.program, task.language) for row in rows]
        outcomes = golden.plain(task, programs, [task.layout(seed) for seed in seeds])
        assert golden.differences(rows, outcomes) == []
        assert (outcomes.calls <= task.world.call_limit).all()


class PublishedComparison(WorldEnvironment):
    """States are compared by decimal digits written without separators, which takes (1, 12) for (11, 2)."""

    def key(self):
        row, column = self.task.world.position(self.state.cell)
        return f"{row}{column}{self.state.direction}", bytes(byte & 0x0F for byte in self.state.cells)


def test_states_that_share_their_digits_are_different():
    name, label = CONFUSED
    task = make(name)
    [row] = [row for row in golden.edge_cases(name) if row.label == label]
    program = from_text(row.program, task.language)
    layouts = [task.layout(seed) for seed in row.seeds]
    published = golden.plain(task, [program], layouts, PublishedComparison)
    assert golden.differences([row], published) == []

    exact = golden.plain(task, [program], layouts)
    runs = golden.evaluated(name, [row])
    assert (exact.calls > published.calls).all()
    assert runs.calls.tolist() == exact.calls.tolist()
    assert golden.batched(runs).ends.tolist() == exact.ends.tolist()


def test_the_start_position_is_a_position_like_any_other():
    name, label = SPELLED_TWICE
    task = make(name)
    [row] = [row for row in golden.edge_cases(name) if row.label == label]
    program = from_text(row.program, task.language)
    exact = golden.plain(task, [program], [task.layout(seed) for seed in row.seeds])
    runs = golden.evaluated(name, [row])
    assert runs.actions.tolist() == exact.actions.tolist()
    assert (exact.ends == "C").any()
    assert (exact.actions <= np.array(row.actions)).all()
    assert (exact.actions < np.array(row.actions)).any()
