"""Crashable Karel: an action that is not possible changes nothing, is rewarded, and ends the run as crashed."""

import functools

import golden
import numpy as np
import pytest
from compiled import ENGINES
from hypothesis import given, settings
from random_worlds import NOWHERE, Limited, SevenLimited, layout, random_task, reward
from test_engines import EPISODES, FEW, check_random, spelled_parents
from test_interpreters import LAYOUTS, SEEDS, agreed, random_programs
from test_quiet import watch

from jaxprl import check
from jaxprl.dsl import ast
from jaxprl.dsl.text import from_text
from jaxprl.environments import functional
from jaxprl.llm import revision_prompts
from jaxprl.methods.episode import episode
from jaxprl.render import gif
from jaxprl.render.rollout import follow
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.outcomes import End
from jaxprl.vm.trace import trace
from jaxprl.worlds import registry
from jaxprl.worlds.karel.world import COUNT, LANGUAGE, MAX_MARKERS, WALL, KarelWorld
from jaxprl.worlds.make import make
from jaxprl.worlds.task import Task

KAREL = [name for name, task in registry.tasks().items() if task.language.name == "karel"]
AHEAD = (-1, 0), (0, 1), (1, 0), (0, -1)


class Over(Exception):
    """Ends a run of `Twin`; says how."""


class Twin:
    """Crashable Karel in a world of `random_worlds`, and programs in it, written down once more in other words."""

    def __init__(self, world, start):
        cells = np.asarray(start.state.cells).reshape(world.height + 2, world.width + 2)
        self.walls = {(row, column) for row, column in np.argwhere(cells & WALL).tolist()}
        self.piles = {
            (row, column): int(cells[row, column]) & COUNT for row, column in np.argwhere(cells >= 0).tolist()
        }
        self.at, self.facing = divmod(int(start.state.cell), world.width + 2), int(start.state.direction)
        self.goal = divmod(int(start.progress.goal), world.width + 2)
        self.limit, self.most = world.call_limit, int(start.progress.most)
        self.units = self.calls = self.actions = 0
        self.seen = set()

    def run(self, program):
        """Return the units, the calls, the actions and the end of a run."""
        try:
            self.block(program.body, ())
            end = "E"
        except Over as over:
            end = str(over)
        return self.units, self.calls, self.actions, end

    def block(self, body, place):
        for number, statement in enumerate(body):
            self.statement(statement, (*place, number))

    def statement(self, statement, place):
        match statement:
            case ast.Action(name):
                self.act(name)
            case ast.If(condition, body):
                if self.holds(condition):
                    self.block(body, (*place, True))
            case ast.IfElse(condition, body, other):
                holds = self.holds(condition)
                self.block(body if holds else other, (*place, holds))
            case ast.Repeat(count, body):
                for _ in range(count):
                    before = self.calls, len(self.seen)
                    self.block(body, place)
                    if before == (self.calls, len(self.seen)):
                        break
            case ast.While(condition, body):
                while self.holds(condition):
                    key = place, self.at, self.facing, tuple(self.piles.values())
                    if key in self.seen:
                        raise Over("C")
                    self.seen.add(key)
                    self.block(body, place)

    def holds(self, condition):
        match condition:
            case ast.Constant(value):
                return value
            case ast.Not(inner):
                return not self.holds(inner)
            case ast.And(left, right):
                return self.holds(left) and self.holds(right)
            case ast.Or(left, right):
                return self.holds(left) or self.holds(right)
            case ast.Perception(name):
                self.calls += 1
                if self.calls == self.limit:
                    raise Over("C")
                if "arkersPresent" in name:
                    return (self.piles[self.at] > 0) == (name == "markersPresent")
                turn = {"frontIsClear": 0, "rightIsClear": 1, "leftIsClear": 3}[name]
                return self.beside(turn) not in self.walls

    def beside(self, turn):
        row, column = AHEAD[(self.facing + turn) % 4]
        return self.at[0] + row, self.at[1] + column

    def act(self, name):
        self.calls += 1
        self.actions += 1
        at_limit, crashes = self.calls == self.limit, False
        match name:
            case "turnLeft":
                self.facing = (self.facing + 3) % 4
            case "turnRight":
                self.facing = (self.facing + 1) % 4
            case "move":
                crashes = self.beside(0) in self.walls
                if not crashes and not at_limit:
                    self.at = self.beside(0)
            case "putMarker" | "pickMarker":
                change = 1 if name == "putMarker" else -1
                crashes = not 0 <= self.piles[self.at] + change <= MAX_MARKERS
                if not crashes:
                    self.piles[self.at] += change
                    self.units += change
        ends = sum(self.piles.values()) > self.most or self.at == self.goal
        if ends or crashes or at_limit:
            raise Over("T" * ends + "C" * (crashes or at_limit))


def compare(world, programs, seeds, *, quiet=False, engines=ENGINES):
    """Return the ends of runs, having checked that all interpreters and `Twin` agree."""
    task = random_task(world, quiet)
    ours = agreed(task, programs, seeds, engines)
    for program, *rows in zip(programs, *ours, strict=True):
        for seed, *found in zip(seeds, *rows, strict=True):
            expected = Twin(world, task.layout(seed)).run(program)
            assert tuple(each.item() for each in found) == expected, (str(program), seed)
    return ours.ends


@pytest.mark.parametrize("quiet", [False, True])
@settings(max_examples=8)
@given(seed=SEEDS)
def test_random_programs_in_random_worlds(quiet, seed):
    compare(Limited(7, 6, crashable=True), random_programs(seed), range(seed, seed + LAYOUTS), quiet=quiet)


@pytest.mark.full
@settings(max_examples=100)
@given(seed=SEEDS)
def test_many_random_programs(seed):
    compare(Limited(7, 6, crashable=True), random_programs(seed), range(seed, seed + LAYOUTS), quiet=seed % 2 == 0)


def test_random_programs_at_a_small_call_limit():
    world = SevenLimited(7, 6, crashable=True)
    found = [compare(world, random_programs(seed), range(LAYOUTS), engines=ENGINES[:1]) for seed in range(8)]
    assert {*np.concatenate(found).ravel()} == {"T", "C", "TC", "E"}


TURNS = "turnLeft turnRight turnLeft turnRight turnLeft turnRight"
CASES = {
    "a move into a wall": ("turnLeft move putMarker", (0, 2, 2, "C")),
    "a pick from an empty cell": ("pickMarker putMarker", (0, 1, 1, "C")),
    "a put on ten": ("move putMarker move", (0, 2, 2, "C")),
    "a pick from ten": ("move pickMarker", (-1, 2, 2, "E")),
    "what came before counts": ("putMarker turnLeft move", (1, 3, 3, "C")),
    "the last of a pile can be taken": ("putMarker pickMarker pickMarker", (0, 3, 3, "C")),
    "in a WHILE": ("WHILE c( frontIsClear c) w( move pickMarker w)", (-1, 6, 4, "C")),
    "before a WHILE sees a state again": ("WHILE c( True c) w( turnLeft turnRight pickMarker w)", (0, 3, 3, "C")),
    "a WHILE sees a state again": ("WHILE c( True c) w( turnLeft turnRight w)", (0, 2, 2, "C")),
    "in a REPEAT": ("REPEAT R=9 r( move r)", (0, 4, 4, "C")),
    "in a later round of a REPEAT": ("REPEAT R=3 r( putMarker pickMarker pickMarker r)", (0, 3, 3, "C")),
    "in an IF": ("IF c( markersPresent c) i( move i) IF c( noMarkersPresent c) i( pickMarker i)", (0, 3, 1, "C")),
    "in an ELSE": ("IFELSE c( leftIsClear c) i( move i) ELSE e( turnLeft move e)", (0, 3, 2, "C")),
    "the sixth call": ("turnLeft turnLeft turnLeft turnLeft turnLeft pickMarker turnLeft", (0, 6, 6, "C")),
    "at the call limit, a wall": ("turnLeft turnLeft turnLeft turnLeft turnLeft turnLeft move", (0, 7, 7, "C")),
    "at the call limit, an empty cell": (f"{TURNS} pickMarker", (0, 7, 7, "C")),
    "at the call limit, ten": ("move turnLeft turnRight turnLeft turnRight turnLeft putMarker", (0, 7, 7, "C")),
    "at the call limit, what is possible": (f"{TURNS} putMarker", (1, 7, 7, "C")),
}
"""Bodies of programs in `corridor`, and what they come to."""
AT_GOAL = {
    "terminated and crashed": ("pickMarker", (0, 1, 1, "TC")),
    "terminated only": ("turnLeft", (0, 1, 1, "T")),
    "by a later action": ("move turnLeft turnLeft move", (0, 4, 4, "T")),
}
"""The same where the robot starts at a cell that ends the run after every action."""


def corridor(world, seed):
    """Return 1 x 4 cells; the robot is at the left end, facing right, and the second cell has ten markers. On layout 1,
    the cell of the start ends the run."""
    markers = np.array([[0, MAX_MARKERS, 0, 0]], np.uint8)
    goal = world.cell(0, 0) if seed else NOWHERE
    return layout(world, np.zeros((1, 4), bool), (0, 0, 1), markers, 99, goal)


@functools.cache
def corridor_task(quiet):
    world = SevenLimited(1, 4, crashable=True)
    return Task(f"corridor {quiet}", world, functools.partial(corridor, world), reward, quiet=quiet)


@functools.cache
def outcomes(quiet, at_goal):
    cases = AT_GOAL if at_goal else CASES
    programs = [from_text(f"DEF run m( {body} m)", LANGUAGE) for body, _ in cases.values()]
    return agreed(corridor_task(quiet), programs, [int(at_goal)], ENGINES[:2])


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_each_way_to_crash(case, quiet):
    found = [field[list(CASES).index(case)].item() for field in outcomes(quiet, False)]
    assert tuple(found) == CASES[case][1]


@pytest.mark.parametrize("case", AT_GOAL)
def test_an_action_can_terminate_and_crash(case):
    found = [field[list(AT_GOAL).index(case)].item() for field in outcomes(False, True)]
    assert tuple(found) == AT_GOAL[case][1]


class Hiding(KarelWorld):
    terminated_hides_crash = True


def test_a_world_may_hide_a_crash_behind_the_termination():
    world = Hiding(1, 4, crashable=True)
    task = Task("hiding", world, functools.partial(corridor, world), reward)
    program = from_text("DEF run m( pickMarker m)", LANGUAGE)
    assert agreed(task, [program], [0, 1], ENGINES[:1]).ends.tolist() == [["C", "T"]]


@settings(max_examples=4)
@given(seed=SEEDS)
def test_searches_prune_only_what_cannot_be_better(seed):
    check_random(seed, Limited(5, 4, crashable=True), spelled_parents(seed, FEW), engines=ENGINES[:1])


def golden_programs(name, step):
    return [from_text(row.program, LANGUAGE) for row in golden.returns(name)[::step]]


def check_task(name, step, engines):
    """Check that engines agree on golden programs where the task is crashable, and that returns are 1 at most."""
    crashable = make(f"{name}:crashable")
    programs = golden_programs(name, step)
    found = agreed(crashable, programs, range(EPISODES), engines)
    assert found.returns.max() <= 1
    usual = evaluate(make(name), programs, make(name).layouts(range(EPISODES)))
    without = found.ends != "C"  # what does not crash goes as it does where nothing can
    assert (found.returns == usual.returns)[without].all()
    assert (found.calls <= usual.calls).all()
    assert (found.ends == "C").sum() > (usual.ends == "C").sum()


@pytest.mark.parametrize("name", ["DoorKey", "Snake"])
def test_tasks_of_the_package(name):
    check_task(name, 40, ENGINES[:1])


@pytest.mark.full
@pytest.mark.parametrize("name", KAREL)
def test_all_tasks_of_the_package(name):
    check_task(name, 10, ENGINES)
    assert check(make(f"{name}:crashable")) == []


@pytest.mark.parametrize("name", ["DoorKey", "WallAvoider"])
def test_what_glides_does_not_crash(name):
    rows = golden.returns(name)
    watch(f"{name}:crashable", [row.program for row in rows[::40]], range(2))


def test_a_crash_changes_nothing():
    program = from_text("DEF run m( turnLeft move m)", LANGUAGE)
    found = trace(corridor_task(False), program)
    start, turned, crashed = found.moments
    assert (start.crashed, turned.crashed, crashed.crashed) == (None, False, True)
    assert crashed.state == turned.state
    assert (crashed.terminated, found.end, found.crashed_by_action) == (False, End.CRASHED, True)
    assert [row.get("crashed") for row in found.rows()] == [None, True]


WHY = {
    "turnLeft move": revision_prompts.IMPOSSIBLE,
    f"{TURNS} pickMarker": revision_prompts.IMPOSSIBLE,
    f"{TURNS} move": revision_prompts.LIMIT,
    "WHILE c( True c) w( turnLeft turnRight w)": revision_prompts.REPEATED,
    "turnLeft": revision_prompts.FINISHED,
}


@pytest.mark.parametrize("body", WHY)
def test_prompts_say_why_a_run_crashed(body):
    task = corridor_task(False)
    assert episode(task, task.layouts([0]), 0, from_text(f"DEF run m( {body} m)", LANGUAGE)).end == WHY[body]


@pytest.mark.parametrize(
    ("body", "end"),
    [("pickMarker", revision_prompts.TERMINATED_BY_CRASH), ("turnLeft", revision_prompts.TERMINATED)],
)
def test_prompts_say_that_the_task_ended_the_run(body, end):
    task = corridor_task(False)
    assert episode(task, task.layouts([1]), 0, from_text(f"DEF run m( {body} m)", LANGUAGE)).end == end


def test_words_say_what_crashes():
    language = make("DoorKey:crashable").language
    assert language == LANGUAGE  # the same words, so that the same programs and program spaces fit
    for word in ("move", "putMarker", "pickMarker"):
        assert "crashes" in language.meanings[word]
        assert "crashes" not in LANGUAGE.meanings[word]
    assert language.meanings["turnLeft"] == LANGUAGE.meanings["turnLeft"]


def test_pictures_show_a_crash():
    task = make("DoorKey:crashable")
    rollout = follow(task, 0, from_text("DEF run m( pickMarker move m)", LANGUAGE))
    assert (len(rollout.moments), rollout.end.in_words) == (2, "crashed")
    assert len(gif.frames_of(rollout, cell=8)) == 2


def test_functional_environments_end_at_a_crash():
    env = functional.make_env("DoorKey:crashable", layout_seeds=[0])
    state = env.start(0)
    for name, over in [("turnLeft", False), ("pickMarker", True), ("turnLeft", True)]:
        before = state
        state, earned, terminated = env.step(state, env.actions.index(name))
        assert (float(earned), bool(terminated)) == (0.0, over)
    assert int(state.world.direction) == int(before.world.direction)


def test_gymnasium_environments_end_at_a_crash():
    gymnasium = pytest.importorskip("gymnasium")
    from jaxprl.environments import gym

    gym.register("DoorKey:crashable", "jaxprl/CrashableDoorKey-v0")
    env = gymnasium.make("jaxprl/CrashableDoorKey-v0")
    copies = gymnasium.make_vec("jaxprl/CrashableDoorKey-v0", num_envs=2, layout_seeds=[0])
    env.reset(seed=0)
    copies.reset(seed=0)
    pick, turn = (LANGUAGE.action_names.index(name) for name in ("pickMarker", "turnLeft"))
    assert env.step(turn)[2:4] == (False, False)
    assert env.step(pick)[1:4] == (0.0, True, False)
    assert copies.step(np.array([turn, pick]))[2].tolist() == [False, True]
