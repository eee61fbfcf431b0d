"""Programs that begin where others stopped: several calls do what plain Python does in one environment."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import ENGINES, HAS_C_COMPILER
from hypothesis import given, settings
from hypothesis import strategies as st
from random_worlds import Limited, OnceLimited, SevenLimited, random_task
from test_engines import spelled_parents
from test_wide_types import LINE, WIDE, narrow, same

import jaxprl
from jaxprl.dsl import ast, encode, sample
from jaxprl.dsl.parse import parse
from jaxprl.vm import cuda, lanes, plain, sequential
from jaxprl.vm.outcomes import TERMINATED
from jaxprl.worlds import ops, registry
from jaxprl.worlds.karel.world import LANGUAGE
from jaxprl.worlds.make import make
from jaxprl.worlds.plain import WorldEnvironment, plain_layout
from jaxprl.worlds.task import Task

ALL_ENGINES = (*ENGINES, "plain")
COMPILED = tuple(name for name in ENGINES if name != "lanes")
SOME_TASKS = ("DoorKey", "Snake", "LavaGap")
OTHER_TASKS = tuple(name for name in registry.tasks() if name not in SOME_TASKS and isinstance(make(name), Task))
RUNS, ROUNDS = 48, 3
FEW = 24
"""Runs where worlds and programs are random: one number, since XLA compiles each for itself."""
SEEDS = st.integers(0, 2**31 - 1)
for_all_engines = pytest.mark.parametrize("engine", ALL_ENGINES)


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
        assert ended == (environment.state, environment.progress, environment.units)
    assert jax.tree.structure(found.layouts) == jax.tree.structure(starts)
    for leaf, start in zip(jax.tree.leaves(found.layouts), jax.tree.leaves(starts), strict=True):
        assert (type(leaf), leaf.dtype, leaf.shape) == (np.ndarray, start.dtype, start.shape)


def check_sequence(task, layouts, rounds, engine, **options):
    """Check several calls, each of which begins where those runs ended that were not terminated.

    Returns:
      How many were.
    """
    environments = [WorldEnvironment(task, rows_of(layouts, index)) for index in range(len(layouts.units))]
    for nodes in rounds:
        nodes, before = nodes[: len(environments)], jax.tree.map(np.copy, layouts)
        found = jaxprl.proceed(task, nodes, layouts, engine=engine, **options)
        programs = [encode.decode(row, task.language) for row in nodes]
        outcomes = list(map(plain.run, programs, environments))
        check_ends(found, layouts, environments, outcomes)
        jax.tree.map(np.testing.assert_array_equal, layouts, before)  # what was given is left alone
        going = np.flatnonzero(found.outcomes.end & TERMINATED == 0)
        layouts, environments = rows_of(found.layouts, going), [environments[index] for index in going]
    return len(rounds[0]) - len(environments)


def check_task(name, engine):
    task = make(name)
    rounds = [random_programs(task.language, seed) for seed in range(ROUNDS)]
    return check_sequence(task, task.layouts(range(RUNS)), rounds, engine, workers=2)


@for_all_engines
@pytest.mark.parametrize("name", SOME_TASKS)
def test_three_programs_in_one_environment(name, engine):
    assert 0 < check_task(name, engine) < RUNS


@pytest.mark.full
@for_all_engines
@pytest.mark.parametrize("name", OTHER_TASKS)
def test_three_programs_in_one_environment_of_all_tasks(name, engine):
    check_task(name, engine)


def check_random(seed, world, quiet, engines, **options):
    task = random_task(world, quiet)
    rounds = [spelled_parents(seed + number, FEW) for number in range(ROUNDS)]
    for engine in engines:
        check_sequence(task, task.layouts(range(seed, seed + FEW)), rounds, engine, **options)


SHORT_RUNS, ANY_RUNS = SevenLimited(5, 4), Limited(5, 4)


@pytest.mark.parametrize("world", [SHORT_RUNS, ANY_RUNS, OnceLimited(5, 4)], ids=lambda world: type(world).__name__)
@settings(max_examples=6)
@given(seed=SEEDS)
def test_random_programs_in_random_worlds(world, seed):
    """Each run has all its calls, however many the runs before it took."""
    check_random(seed, world, False, ("native", "sequential", "plain") if HAS_C_COMPILER else ("sequential", "plain"))


@pytest.mark.full
@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("world", [SHORT_RUNS, ANY_RUNS], ids=lambda world: type(world).__name__)
@settings(max_examples=30)
@given(seed=SEEDS)
def test_random_programs_in_random_worlds_by_all_engines(world, quiet, seed):
    check_random(seed, world, quiet, ALL_ENGINES)


@pytest.mark.parametrize("engine", [*COMPILED, pytest.param("lanes", marks=pytest.mark.full)])
def test_memories_that_are_too_small(engine, enlarged):
    """A run whose memory is full begins again at its start."""
    check_random(3, ANY_RUNS, False, [engine], slots=2, workers=2)
    assert engine == "lanes" or enlarged[:1] == [32]


@for_all_engines
def test_a_while_remembers_nothing_of_an_earlier_call(engine):
    task = make("StairClimber")
    spin = parse("DEF run m( WHILE c( noMarkersPresent c) w( turnLeft w) m)", task)
    layouts = task.layouts(range(2))
    for _ in range(2):
        found = jaxprl.proceed(task, [spin, spin], layouts, engine=engine)
        assert (found.outcomes.calls.tolist(), found.ends.tolist()) == ([9, 9], ["C", "C"])
        layouts = found.layouts


@for_all_engines
def test_where_the_markers_changed_counts_from_each_call_on(engine):
    """The hash of a state says what has changed since its run began, so ends are starts like any other."""
    task = make("TopOff")
    layouts = task.layouts(range(3))
    put = parse("DEF run m( putMarker m)", task)
    found = jaxprl.proceed(task, [put] * 3, layouts, engine=engine)
    assert (found.layouts.state.cells != layouts.state.cells).any(axis=1).all()
    for leaf, nothing in zip(found.layouts.state.hash, ops.NO_CHANGE, strict=True):
        assert leaf.tolist() == [nothing] * 3


@for_all_engines
def test_nothing_is_run_and_one_program_is(engine):
    task = make("DoorKey")
    none = jaxprl.proceed(task, [], rows_of(task.layouts(range(2)), slice(0)), engine=engine)
    assert none.ends.shape == none.returns.shape == none.outcomes.calls.shape == (0,)
    assert none.layouts.state.cells.shape == (0, 100)
    check_sequence(task, task.layouts([5]), [random_programs(task.language, seed, 1) for seed in range(2)], engine)


@for_all_engines
def test_the_work_can_be_shared_in_any_way(engine, monkeypatch):
    monkeypatch.setattr(sequential, "BLOCK", 32)
    monkeypatch.setattr(lanes, "MOST_LANES", 64)
    monkeypatch.setattr(cuda, "MOST_PROGRAMS", 64)
    task, count = make("DoorKey"), 150
    programs = random_programs(task.language, 4, count)
    layouts = rows_of(task.layouts(range(50)), np.arange(count) % 50)
    found = [jaxprl.proceed(task, programs, layouts, engine=engine, workers=workers) for workers in (1, 3)]
    truth = jaxprl.proceed(task, programs, layouts, engine="plain")
    for each in found:
        same((each.outcomes, each.layouts), (truth.outcomes, truth.layouts))


@pytest.mark.skipif(not HAS_C_COMPILER, reason="there is no C compiler")
def test_more_runs_than_layouts_of_one_call():
    """`evaluate` takes 32,768 layouts at a time."""
    task, count = make("DoorKey"), 40_000
    layouts = rows_of(task.layouts(range(50)), np.arange(count) % 50)
    programs = random_programs(task.language, 4, 50)
    found = jaxprl.proceed(task, programs[np.arange(count) % 50], layouts)
    first = jaxprl.proceed(task, programs, rows_of(layouts, slice(50)), engine="plain")
    same(*(jax.tree.map(lambda leaf: leaf[-50:], (each.outcomes, each.layouts)) for each in (found, first)))


@for_all_engines
def test_large_programs(engine):
    task = make("StairClimber")
    turns = ast.Program((ast.Action("turnLeft"),) * 255)
    found = jaxprl.proceed(task, [turns] * 2, task.layouts(range(2)), engine=engine)
    assert found.outcomes.calls.tolist() == [255, 255]
    with pytest.raises(jaxprl.UserError, match="has 514 nodes; at most 512 are run"):
        jaxprl.proceed(task, [ast.Program((ast.Action("turnLeft"),) * 257)], task.layouts([0]), engine=engine)


@narrow
@pytest.mark.parametrize("wide", WIDE)
@pytest.mark.parametrize("engine", ENGINES)
def test_programs_proceed_the_same_with_wide_types(engine, wide):
    def proceeded(layouts):
        for seed in range(2):
            found = jaxprl.proceed(LINE, random_programs(LINE.language, seed, 8), layouts, engine=engine)
            layouts = found.layouts
        return found.outcomes, layouts

    before = proceeded(LINE.layouts(range(8)))
    with wide():
        same(proceeded(LINE.layouts(range(8))), before)
        same(proceeded(jax.tree.map(jnp.asarray, LINE.layouts(range(8)))), before)


WARM = """
import sys
from pathlib import Path
import jaxprl
from jaxprl.codegen import kept, stablehlo
from jaxprl.vm.kernel import pieces
kept.folder = lambda: Path(sys.argv[1])
traced = []
translate = stablehlo.translate
stablehlo.translate = lambda name, *rest, **more: traced.append(name) or translate(name, *rest, **more)
task = jaxprl.make("Snake")
found = jaxprl.proceed(task, [jaxprl.parse("DEF run m( move m)", task)], task.layouts([0]), engine="native")
print(len(traced), found.outcomes.calls.tolist())
"""


@pytest.mark.skipif(not HAS_C_COMPILER, reason="there is no C compiler")
def test_a_warm_start_traces_nothing(tmp_path):
    def said():
        command = [sys.executable, "-c", WARM, str(tmp_path / "kernels")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert int(said()[0]) > 0
    assert said() == ["0", "[1]"]


@pytest.mark.skipif(not HAS_C_COMPILER, reason="there is no C compiler")
def test_an_engine_that_cannot_run_is_named(monkeypatch):
    task = make("StairClimber")
    rounds = [random_programs(task.language, seed, 2) for seed in range(2)]
    monkeypatch.setenv("JAXPRL_CC", "")
    with pytest.raises(jaxprl.UserError, match="engine 'native' cannot run StairClimber: JAXPRL_CC is empty"):
        jaxprl.proceed(task, rounds[0], task.layouts(range(2)), engine="native")
    check_sequence(task, task.layouts(range(2)), rounds, None)  # another one does it, since none is named


def with_state(layouts, **fields):
    return layouts._replace(state=layouts.state._replace(**fields))


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda task, programs, layouts: ("DoorKey", programs, layouts), "expected a Task; jaxprl.make"),
        (lambda task, programs, layouts: (task, programs[0], layouts), "expected several programs, in a list"),
        (lambda task, programs, layouts: (task, ["move"] * 3, layouts), "program 0: expected a Program"),
        (lambda task, programs, layouts: (task, np.zeros((3, 64)), layouts), "expected nodes int32"),
        (lambda task, programs, layouts: (task, programs, range(3)), "expected those of Task.layouts, or of an earl"),
        (lambda task, programs, layouts: (task, programs[:2], layouts), "2 programs and 3 layouts: each program runs"),
        (lambda task, programs, layouts: (task, [], layouts), "0 programs and 3 layouts"),
        (lambda task, programs, layouts: (task, programs, rows_of(layouts, slice(1))), "3 programs and 1 layouts"),
        (lambda task, programs, layouts: (task, programs, rows_of(layouts, 0)), "expected stacked ones"),
        (lambda task, programs, layouts: (task, programs, layouts._replace(units=[2, 2, 2])), "expected stacked ones"),
        (
            lambda task, programs, layouts: (task, programs, make("Snake").layouts(range(3))),
            "not those of task DoorKey, whose state or progress has other parts",
        ),
        (
            lambda task, programs, layouts: (task, programs, make("LavaGap").layouts(range(3))),
            "not those of task DoorKey",
        ),
        (
            lambda task, programs, layouts: (task, programs, layouts._replace(progress=None)),
            "not those of task DoorKey",
        ),
        (
            lambda task, programs, layouts: (task, programs, with_state(layouts, cell=7)),
            r"state\.cell is int32 \[\]; stacked ones of task DoorKey have int32 \[P\]",
        ),
        (
            lambda task, programs, layouts: (task, programs, with_state(layouts, cells=layouts.state.cells[:, :64])),
            r"state\.cells is uint8 \[3, 64\]; stacked ones of task DoorKey have uint8 \[P, 100\]",
        ),
        (
            lambda task, programs, layouts: (task, programs, with_state(layouts, cell=layouts.state.cell * 0.5)),
            r"state\.cell is float32 \[3\]; stacked ones of task DoorKey have int32 \[P\]",
        ),
        (
            lambda task, programs, layouts: (task, programs, with_state(layouts, cell=layouts.state.cell[:2])),
            "3 programs and 2 layouts",
        ),
    ],
)
def test_a_mistake_is_a_message(attempt, message):
    task = make("DoorKey")
    programs = [parse("DEF run m( move m)", task)] * 3
    with pytest.raises(jaxprl.UserError, match=message):
        jaxprl.proceed(*attempt(task, programs, task.layouts(range(3))))


def test_options_that_make_no_sense():
    task = make("DoorKey")
    given = task, [parse("DEF run m( move m)", task)], task.layouts([0])
    for options, message in (
        ({"engine": "fast"}, "unknown engine 'fast'; known: native"),
        ({"slots": 3}, "slots 3: expected a power of two"),
        ({"slots": 2.0}, r"slots 2\.0: expected a whole number"),
        ({"workers": 0}, "workers 0: expected a whole number from 1 on"),
    ):
        with pytest.raises(jaxprl.UserError, match=message):
            jaxprl.proceed(*given, **options)


@pytest.mark.parametrize("engine", [None, "native", "plain"])
def test_environments_that_are_not_array_code_are_refused(engine):
    task = jaxprl.PythonTask("Elsewhere", LANGUAGE, lambda seed: None)
    program = parse("DEF run m( move m)", LANGUAGE)
    with pytest.raises(jaxprl.UserError, match="task Elsewhere is not array code"):
        jaxprl.proceed(task, [program], task.layouts([0]), engine=engine)
