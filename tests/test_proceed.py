"""Programs that begin where others stopped: several calls do what plain Python does in one environment."""

import jax
import numpy as np
import pytest
from compiled import ENGINES

import jaxprl
from jaxprl.dsl import encode, sample
from jaxprl.vm import plain
from jaxprl.vm.outcomes import TERMINATED
from jaxprl.worlds import registry
from jaxprl.worlds.make import make
from jaxprl.worlds.plain import WorldEnvironment, plain_layout
from jaxprl.worlds.task import Task

ALL_ENGINES = (*ENGINES, "plain")
SOME_TASKS = ("DoorKey", "Snake", "LavaGap")
OTHER_TASKS = tuple(name for name in registry.tasks() if name not in SOME_TASKS and isinstance(make(name), Task))
RUNS, ROUNDS = 48, 3


def random_programs(language, seed, count=RUNS):
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(sample.random_programs(language, keys))


def rows_of(layouts, rows):
    return jax.tree.map(lambda leaf: leaf[rows], layouts)


def check_ends(found, starts, environments, outcomes):
    """Check what `proceed` returns against plain Python's runs in environments."""
    columns = [[getattr(each, name) for each in outcomes] for name in ("reward", "calls", "actions", "end")]
    assert np.array_equal(np.stack(found.outcomes), np.array(columns, np.int32))
    assert found.ends.tolist() == [each.end.letters for each in outcomes]
    assert found.returns.tolist() == (np.array(columns[0]) / starts.units).tolist()
    assert all(column.dtype == np.int32 and column.shape == (len(outcomes),) for column in found.outcomes)
    for index, environment in enumerate(environments):
        ended = plain_layout(rows_of(found.layouts, index))
        assert (ended.state, ended.progress, ended.units) == (
            environment.state, environment.progress, environment.units
        )  # fmt: skip
    assert jax.tree.structure(found.layouts) == jax.tree.structure(starts)
    for leaf, start in zip(jax.tree.leaves(found.layouts), jax.tree.leaves(starts), strict=True):
        assert (type(leaf), leaf.dtype, leaf.shape) == (np.ndarray, start.dtype, start.shape)


def check_sequence(task, layouts, rounds, engine, **options):
    """Check several calls, each of which begins where those runs ended that were not terminated."""
    environments = [WorldEnvironment(task, rows_of(layouts, index)) for index in range(len(layouts.units))]
    ended = 0
    for nodes in rounds:
        nodes, before = nodes[: len(environments)], jax.tree.map(np.copy, layouts)
        found = jaxprl.proceed(task, nodes, layouts, engine=engine, **options)
        programs = [encode.decode(row, task.language) for row in nodes]
        outcomes = list(map(plain.run, programs, environments))
        check_ends(found, layouts, environments, outcomes)
        jax.tree.map(np.testing.assert_array_equal, layouts, before)  # what was given is left alone
        going = np.flatnonzero(found.outcomes.end & TERMINATED == 0)
        ended += len(environments) - len(going)
        layouts, environments = rows_of(found.layouts, going), [environments[index] for index in going]
    return ended


def check_task(name, engine):
    task = make(name)
    rounds = [random_programs(task.language, seed) for seed in range(ROUNDS)]
    return check_sequence(task, task.layouts(range(RUNS)), rounds, engine, workers=2)


@pytest.mark.parametrize("engine", ALL_ENGINES)
@pytest.mark.parametrize("name", SOME_TASKS)
def test_three_programs_in_one_environment(name, engine):
    assert 0 < check_task(name, engine) < RUNS


@pytest.mark.full
@pytest.mark.parametrize("engine", ALL_ENGINES)
@pytest.mark.parametrize("name", OTHER_TASKS)
def test_three_programs_in_one_environment_of_all_tasks(name, engine):
    check_task(name, engine)
