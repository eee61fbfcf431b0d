"""Runs at the call limit and beyond what sampling makes, on both interpreters."""

import golden
import pytest

from jaxprl.dsl.text import parse
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.host import WorldEnvironment
from jaxprl.worlds import registry

TASKS = [name for name in golden.TASKS if golden.edge_cases(name)]
CONFUSED = ("CleanHouse", "while True")
"""Runs that the published implementation ends early, since it takes two different states for one."""


def cases(name):
    rows = [row for row in golden.edge_cases(name) if (name, row.label) != CONFUSED]
    seeds = rows[0].seeds
    assert all(row.seeds == seeds for row in rows)
    return rows, seeds


@pytest.mark.parametrize("name", TASKS)
def test_batched_interpreter(name):
    task, (rows, seeds) = registry.make(name), cases(name)
    layouts = task.layouts(seeds)
    runs = evaluate(task, [parse(row.program, task.language) for row in rows], layouts)
    assert golden.differences(rows, golden.batched(runs, layouts.units)) == []
    assert (runs.calls <= task.world.call_limit).all()


@pytest.mark.parametrize("name", TASKS)
def test_plain_interpreter(name):
    task, (rows, seeds) = registry.make(name), cases(name)
    programs = [parse(row.program, task.language) for row in rows]
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
    task = registry.make(name)
    [row] = [row for row in golden.edge_cases(name) if row.label == label]
    program = parse(row.program, task.language)
    layouts = [task.layout(seed) for seed in row.seeds]
    published = golden.plain(task, [program], layouts, PublishedComparison)
    assert golden.differences([row], published) == []

    exact = golden.plain(task, [program], layouts)
    runs = evaluate(task, [program], task.layouts(row.seeds))
    assert (exact.calls > published.calls).all()
    assert runs.calls.tolist() == exact.calls.tolist()
    assert golden.batched(runs, task.layouts(row.seeds).units).ends.tolist() == exact.ends.tolist()
