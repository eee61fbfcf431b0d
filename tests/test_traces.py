"""Runs step by step: every call, what it gave, and the world after it."""

import golden
import pytest

from jaxprl.dsl.text import parse
from jaxprl.vm.host import WorldEnvironment, run
from jaxprl.worlds import registry
from jaxprl.worlds.karel.world import COUNT, Karel
from jaxprl.worlds.minigrid.farama import COLOR_NAMES, TYPE_NAMES

RECORDED = 400
"""Steps that a golden trace holds at most."""


def summary(state):
    """Return the fifth column of a golden step: markers in the world, or the type and colour that is carried."""
    if isinstance(state, Karel):
        return sum(byte & COUNT for byte in state.cells)
    return [TYPE_NAMES[state.carrying & 15], COLOR_NAMES[state.carrying >> 4 & 7]] if state.carrying else None


def observed(task, trace):
    """Return the outcome of a run and its steps in the form of the golden ones."""
    environment = WorldEnvironment(task, task.layout(trace["seed"]))
    steps = []

    def observe(call):
        state = environment.state
        reward = None if call.reward is None else call.reward / environment.units
        steps.append(
            [
                call.kind,
                call.name,
                call.result,
                task.world.pose(state),
                summary(state),
                reward,
                call.terminated,
            ]
        )

    return run(parse(trace["program"], task.language), environment, observe), steps


@pytest.mark.parametrize("name", golden.TASKS)
def test_steps(name):
    task = registry.make(name)
    for trace in golden.load("traces")["tasks"][name]:
        outcome, steps = observed(task, trace)
        recorded = trace["steps"]
        assert len(recorded) == min(trace["total_steps"], RECORDED)
        assert len(steps) == outcome.calls

        # The published run goes on with perceptions after a crash; ours stops there.
        shared = min(len(steps), RECORDED)
        for ours, (*golden_step, crashed) in zip(steps[:shared], recorded[:shared], strict=True):
            assert ours[:5] == golden_step[:5]
            assert ours[5] == pytest.approx(golden_step[5], abs=golden.TOLERANCE)
            assert ours[6] == golden_step[6]
            assert not crashed or ours is steps[-1]
        assert all(kind == "perception" and crashed for kind, *_, crashed in recorded[shared:])

        assert (outcome.actions, outcome.end) == (trace["n_actions"], trace["end"])
        assert outcome.reward / task.layout(trace["seed"]).units == pytest.approx(trace["ret"], abs=golden.TOLERANCE)
        if trace["end"] != "C":
            assert outcome.calls == trace["total_steps"]
