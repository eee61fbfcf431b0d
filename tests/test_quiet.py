"""What `Task.quiet` and `World.glide` claim: actions that only change a pose go without reward, progress or end."""

import golden
import pytest

from jaxprl.dsl.text import from_text
from jaxprl.vm import plain
from jaxprl.worlds import registry
from jaxprl.worlds.make import make
from jaxprl.worlds.plain import WorldEnvironment

QUIET = [name for name in golden.TASKS if make(name).quiet]
PACKAGE = [
    name
    for name, task in registry.tasks().items()
    if getattr(task, "quiet", False) and task.language.name == "minigrid-extended"
]
WALK = (
    "DEF run m( left right REPEAT R=12 r( WHILE c( front_is_clear c) w( forward left forward right forward w) "
    "pickup toggle left REPEAT R=3 r( forward pickup drop toggle right r) forward done r) m)"
)
"""Goes about a room and handles what it finds; in `minigrid-extended`."""


class Watched(WorldEnvironment):
    """Checks every action; `glides` counts those that claim to change a pose only, `others` the rest."""

    glides = others = 0

    def act(self, action, *, at_limit):
        before = self.state, self.progress
        glided, quiet = self.task.world.glide(self.state, self.actions[action])
        units, ended = super().act(action, at_limit=at_limit)
        if at_limit:
            return units, ended
        if quiet:
            assert (self.state, self.progress, units, ended) == (glided, before[1], 0, False)
            Watched.glides += 1
        else:
            assert glided == before[0]
            Watched.others += 1
        return units, ended


def watch(name, programs, seeds):
    task = make(name)
    Watched.glides = Watched.others = 0
    for program in programs:
        for seed in seeds:
            plain.run(from_text(program, task.language), Watched(task, task.layout(seed)))
    assert Watched.glides > 0
    assert Watched.others > 0


@pytest.mark.parametrize("name", QUIET)
def test_in_golden_runs(name):
    rows = golden.returns(name)
    best = sorted(rows, key=lambda row: sum(row.returns), reverse=True)
    watch(name, [row.program for row in (*best[:6], *rows[::40])], range(2))


@pytest.mark.full
@pytest.mark.parametrize("name", QUIET)
def test_in_all_golden_runs(name):
    watch(name, [row.program for row in golden.returns(name)], range(8))


@pytest.mark.parametrize("name", PACKAGE)
def test_in_walks(name):
    watch(name, [WALK], range(4))


def test_tasks_that_reward_poses_are_not_quiet():
    loud = {name for name in golden.TASKS if name not in QUIET}
    assert loud == {
        "LavaGap",
        "StairClimber", "StairClimberSparse", "Maze", "MazeSparse", "OneStroke", "PathFollow", "Snake"
    }  # fmt: skip
