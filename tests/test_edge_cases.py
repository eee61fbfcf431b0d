"""Runs at the call limit and beyond what sampling makes, on both interpreters."""

import collections

import golden
import numpy as np
import pytest

from jaxprl.dsl.text import from_text
from jaxprl.vm.evaluate import evaluate
from jaxprl.worlds.make import make
from jaxprl.worlds.plain import WorldEnvironment

TASKS = [name for name in golden.TASKS if golden.edge_cases(name)]
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


@pytest.mark.parametrize("name", TASKS)
def test_batched_interpreter(name):
    task = make(name)
    for seeds, rows in cases(name):
        layouts = task.layouts(seeds)
        runs = evaluate(task, [from_text(row.program, task.language) for row in rows], layouts)
        assert golden.differences(rows, golden.batched(runs)) == []
        assert (runs.calls <= task.world.call_limit).all()


@pytest.mark.parametrize("layouts", [2, pytest.param(None, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", TASKS)
def test_plain_interpreter(name, layouts):
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
    runs = evaluate(task, [program], task.layouts(row.seeds))
    assert (exact.calls > published.calls).all()
    assert runs.calls.tolist() == exact.calls.tolist()
    assert golden.batched(runs).ends.tolist() == exact.ends.tolist()


def test_the_start_position_is_a_position_like_any_other():
    name, label = SPELLED_TWICE
    task = make(name)
    [row] = [row for row in golden.edge_cases(name) if row.label == label]
    program = from_text(row.program, task.language)
    exact = golden.plain(task, [program], [task.layout(seed) for seed in row.seeds])
    runs = evaluate(task, [program], task.layouts(row.seeds))
    assert runs.actions.tolist() == exact.actions.tolist()
    assert (exact.ends == "C").any()
    assert (exact.actions <= np.array(row.actions)).all()
    assert (exact.actions < np.array(row.actions)).any()
