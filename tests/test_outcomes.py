"""How runs end, exact means, and what `evaluate` refuses."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprl.dsl import encode
from jaxprl.dsl.parse import parse
from jaxprl.errors import UserError
from jaxprl.vm import outcomes
from jaxprl.vm.evaluate import evaluate, first_better
from jaxprl.vm.outcomes import COLUMNS, End, Outcomes, Scale, pack, score_to_beat, unpack
from jaxprl.vm.trace import trace
from jaxprl.worlds.make import make
from jaxprl.worlds.task import Layout

SPELLINGS = {
    End.RUNNING: ("", ""),
    End.TERMINATED: ("T", "terminated"),
    End.CRASHED: ("C", "crashed"),
    End.TERMINATED | End.CRASHED: ("TC", "terminated, crashed"),
    End.FINISHED: ("E", "end of the program"),
    End.DROPPED: ("", ""),
}


def test_ends_are_spelled_in_letters_and_in_words():
    assert {end: (end.letters, end.in_words) for end in SPELLINGS} == SPELLINGS
    assert len(End.__members__) == 5


@pytest.mark.parametrize("name", list(End.__members__))
def test_array_code_has_the_same_codes_as_integers(name):
    code = getattr(outcomes, name)
    assert type(code) is int
    assert End[name] == code


def some_outcomes():
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 9, (5, 3)).astype(np.int32) for _ in range(3)]
    end = rng.choice([end.value for end in SPELLINGS], (5, 3)).astype(np.int32)
    return Outcomes(*columns, end, np.array([2, 3, 7], np.int32))


def test_columns_are_packed_and_unpacked():
    runs = some_outcomes()
    rows = np.asarray(pack(runs))
    assert rows.shape == (5, 3, COLUMNS)
    for column, (one, other) in enumerate(zip(unpack(rows), runs.columns, strict=True)):
        assert (one == other).all()
        assert (one == rows[..., column]).all()
    assert unpack(jnp.asarray(rows)).end.tolist() == runs.end.tolist()


def test_ends_and_complete_programs():
    runs = some_outcomes()
    letters = [[End(code).letters for code in row] for row in runs.end.tolist()]
    assert runs.ends.tolist() == letters
    assert runs.complete.tolist() == [all(row) for row in letters]
    assert set(runs.complete.tolist()) == {False, True}


UNITS = st.sampled_from([1, 2, 3, 7, 36, 97, 1_000_000, 2**31 - 1])


@given(st.lists(st.tuples(UNITS, st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=2)), min_size=1))
def test_mean_returns_are_exact_and_rounded_once(columns):
    layout_units = np.array([units for units, _ in columns], np.int32)
    units = np.array([values for _, values in columns], np.int32).T
    runs = Outcomes(units, units, units, units, layout_units)
    exact = [
        sum(Fraction(value, all_of_it) for value, all_of_it in zip(row, layout_units.tolist(), strict=True))
        for row in units.tolist()
    ]
    assert runs.mean_returns.tolist() == [float(total / len(columns)) for total in exact]
    assert runs.mean_returns.dtype == np.float64
    assert (runs.returns == units / layout_units).all()


def test_means_of_a_scale_are_those_of_outcomes():
    rng = np.random.default_rng(1)
    layout_units = rng.choice([2, 3, 4, 36], 8).astype(np.int32)
    units = rng.integers(-5, 2, (20, 8)).astype(np.int32)
    scale = Scale.of(Layout((), (), layout_units))
    means = Outcomes(units, units, units, units, layout_units).mean_returns
    assert (scale.scores(units) / scale.denominator).tolist() == means.tolist()


def test_a_score_to_beat_never_runs_over():
    lowest = -(2**31)
    scores = np.array([lowest, lowest, -5, 10, 2**31 - 1], np.int32)
    margins = np.array([0, 2**30, 3, 0, 2**30], np.int32)
    expected = [lowest + 1, lowest + 1, -8, 10, 2**30 - 1]
    assert score_to_beat(scores, margins).tolist() == expected
    assert score_to_beat(jnp.asarray(scores), jnp.asarray(margins)).tolist() == expected


TASK = make("DoorKey")
PROGRAM = parse("DEF run m( move m)", TASK)
LAYOUTS = TASK.layouts(range(2))
NODES = encode.encode_all([PROGRAM], TASK.language)


@pytest.mark.parametrize(
    ("programs", "options", "message"),
    [
        ([PROGRAM], {"engine": "fast"}, "unknown engine 'fast'; known: native, sequential, cuda, lanes, plain"),
        ([PROGRAM], {"workers": 0}, "workers 0: expected a whole number from 1 on"),
        ([PROGRAM], {"workers": "2"}, "workers '2': expected a whole number from 1 on"),
        ([PROGRAM], {"block": 0}, "block 0: expected"),
        ([PROGRAM], {"block": 1.5}, r"block 1\.5: expected a whole number"),
        ([PROGRAM], {"slots": 0}, "slots 0: expected"),
        ([PROGRAM], {"slots": 12}, "slots 12: expected a power of two"),
        ([PROGRAM], {"layouts": TASK.layout(0)}, "stacked"),
        ([PROGRAM], {"layout_seeds": ()}, "layout seeds: none"),
        ([PROGRAM], {"layout_seeds": [0, -1]}, "layout seed -1: seeds go from 0 to 4294967295"),
        ([PROGRAM], {"layout_seeds": [0.5]}, "layout seed 0.5: expected an integer"),
        (PROGRAM, {}, "expected several programs, in a list"),
        ("DEF run m( move m)", {}, "expected several programs, in a list"),
        (["DEF run m( move m)"], {}, "program 0: expected a Program, got"),
        ([PROGRAM, parse("DEF run m( forward m)", make("LavaGap"))], {}, "program 1: 'forward' is not an action"),
        (NODES[0], {}, r"got int32 \[64\]"),
        (NODES.astype(float), {}, "got float64"),
    ],
)
def test_mistakes_are_said(programs, options, message):
    with pytest.raises(UserError, match=message):
        evaluate(TASK, programs, **options)


def test_a_trace_needs_the_seed_of_a_layout():
    with pytest.raises(UserError, match="layout seed -1"):
        trace(TASK, PROGRAM, -1)


def test_no_layouts_are_a_mistake():
    nothing = Layout(*(LAYOUTS[:2]), LAYOUTS.units[:0])
    with pytest.raises(UserError, match="layouts: none"):
        evaluate(TASK, [PROGRAM], nothing)
    with pytest.raises(UserError, match="workers -1"):
        first_better(TASK, None, LAYOUTS, workers=-1)


def test_layouts_are_those_given_or_those_of_the_seeds():
    runs = evaluate(TASK, [PROGRAM], LAYOUTS, layout_seeds=range(5))
    assert runs.units.shape == (1, 2)
    assert evaluate(TASK, [PROGRAM], layout_seeds=iter(range(2))).units.shape == (1, 2)
    assert evaluate(TASK, [PROGRAM]).units.shape == (1, 32)
    assert evaluate(TASK, jnp.asarray(NODES), LAYOUTS).calls.tolist() == runs.calls.tolist() == [[1, 1]]
