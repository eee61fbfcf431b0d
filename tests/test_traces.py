"""Runs step by step: every call, what it gave, and the world after it."""

import functools
import json

import golden
import gymnasium
import pytest

from jaxprl.dsl.language import Language
from jaxprl.dsl.text import from_text
from jaxprl.vm.outcomes import End
from jaxprl.vm.trace import follow, trace
from jaxprl.worlds.from_gym import Interface, gym_task
from jaxprl.worlds.karel.world import COUNT, KarelState
from jaxprl.worlds.make import make
from jaxprl.worlds.minigrid.farama import COLOR_NAMES, TYPE_NAMES
from jaxprl.worlds.plain import WorldEnvironment

RECORDED = 400
"""Steps that a golden trace holds at most."""


def summary(state):
    """Return the fifth column of a golden step: markers in the world, or the type and colour that is carried."""
    if isinstance(state, KarelState):
        return sum(byte & COUNT for byte in state.cells)
    return [TYPE_NAMES[state.carrying & 15], COLOR_NAMES[state.carrying >> 4 & 7]] if state.carrying else None


def steps_of(found):
    """Return the steps of a trace in the form of the golden ones."""
    return [
        [moment.kind, moment.name, moment.result, moment.pose, summary(moment.state), moment.reward, moment.terminated]
        for moment in found.moments[1:]
    ]


@pytest.mark.parametrize("name", golden.TASKS)
def test_steps(name):
    task = make(name)
    for row in golden.load("traces")["tasks"][name]:
        found = trace(task, from_text(row["program"], task.language), row["seed"])
        steps, recorded = steps_of(found), row["steps"]
        assert len(recorded) == min(row["total_steps"], RECORDED)
        assert len(steps) == found.calls

        # The published run goes on with perceptions after a crash; ours stops there.
        shared = min(len(steps), RECORDED)
        for ours, (*golden_step, crashed) in zip(steps[:shared], recorded[:shared], strict=True):
            assert ours[:5] == golden_step[:5]
            assert ours[5] == pytest.approx(golden_step[5], abs=golden.TOLERANCE)
            assert ours[6] == golden_step[6]
            assert not crashed or ours is steps[-1]
        assert all(kind == "perception" and crashed for kind, *_, crashed in recorded[shared:])

        assert (found.actions, found.end.letters) == (row["n_actions"], row["end"])
        assert found.value == pytest.approx(row["ret"], abs=golden.TOLERANCE)
        assert found.moments[-1].total == found.value
        if row["end"] != "C":
            assert found.calls == row["total_steps"]


def test_rows_are_what_json_holds():
    task = make("DoorKey")
    found = trace(task, from_text(WALK, task.language), 3)
    rows = found.rows()
    assert json.loads(json.dumps(rows)) == rows
    for row, moment in zip(rows, found.moments[1:], strict=True):
        assert list(row) == ["kind", "name", "result", "pose", "reward", "terminated", "line"]
        assert all(getattr(moment, name) == value for name, value in row.items())


WALK = "DEF run m( WHILE c( frontIsClear c) w( move w) turnLeft move m)"


def test_a_trace_begins_before_all_calls_and_can_be_cut():
    task = make("DoorKey")
    program = from_text(WALK, task.language)
    whole = trace(task, program, 3)
    first = whole.moments[0]
    assert (first.call, first.kind, first.name, first.line, first.total) == (0, "start", "", 0, 0.0)
    assert first.state == WorldEnvironment(task, task.layout(3)).state
    assert [moment.call for moment in whole.moments] == list(range(whole.calls + 1))
    assert whole.moments[1].picture is None
    cut = follow(program, WorldEnvironment(task, task.layout(3)), most=2, pictures=True)
    assert cut.moments == [moment._replace(picture=task.world.picture(moment.state)) for moment in whole.moments[:3]]
    assert (cut.calls, cut.actions, cut.end) == (whole.calls, whole.actions, End.FINISHED)


def test_a_trace_in_an_environment_of_gymnasium():
    lake = Language("lake", {"down": 0.5, "right": 0.5}, {"can_go_down": 1.0}, 0.5)
    interface = Interface(
        actions={"down": 1, "right": 2},
        perceptions={"can_go_down": lambda env, cell: cell < 12 and env.desc.flat[cell + 4] != b"H"},
        pose=lambda env: [int(env.s)],
    )
    task = gym_task("Lake", functools.partial(gymnasium.make, "FrozenLake-v1", is_slippery=False), lake, interface)
    found = trace(task, from_text("DEF run m( IF c( can_go_down c) i( down i) right m)", lake), 0)
    assert [list(row.values()) for row in found.rows()] == [
        ["perception", "can_go_down", True, [0], None, None, 2],
        ["action", "down", None, [4], 0.0, False, 3],
        ["action", "right", None, [5], 0.0, True, 4],
    ]
    assert [moment.state for moment in found.moments] == [None] * 4
    assert found.end == End.TERMINATED
