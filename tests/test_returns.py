"""Every golden program on every layout, on both interpreters."""

import golden
import numpy as np
import pytest

from jaxprl.dsl.text import from_text
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.outcomes import Scale
from jaxprl.worlds.make import make

SEEDS = range(32)


@pytest.mark.parametrize("name", golden.TASKS)
def test_batched_interpreter(name):
    task, rows = make(name), golden.returns(name)
    layouts = task.layouts(SEEDS)
    runs = evaluate(task, [from_text(row.program, task.language) for row in rows], layouts)
    assert golden.differences(rows, golden.batched(runs)) == []

    scale = Scale.of(layouts)
    full_success = [np.mean(row.returns) > 1 - golden.TOLERANCE for row in rows]
    assert (scale.scores(runs.units) == scale.denominator).tolist() == full_success


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.full) for first in range(1, 10))])
@pytest.mark.parametrize("name", golden.TASKS)
def test_plain_interpreter(name, first):
    task, rows = make(name), golden.returns(name)[first::10]
    programs = [from_text(row.program, task.language) for row in rows]
    outcomes = golden.plain(task, programs, [task.layout(seed) for seed in SEEDS])
    assert golden.differences(rows, outcomes) == []
