"""HPRL: what an episode is, against plain Python; probes with a known answer; whole runs; mistakes."""

import dataclasses
import itertools
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from records import left_by

from jaxprl.cli import report
from jaxprl.dsl import ast, encode, sample
from jaxprl.dsl.join import joined
from jaxprl.errors import Stopped, UserError
from jaxprl.experiment import ledger
from jaxprl.experiment.config import Config
from jaxprl.experiment.evaluator import Evaluator
from jaxprl.experiment.job import identity, resolve
from jaxprl.experiment.run import run
from jaxprl.methods.hprl import LayoutsAhead, policy_of
from jaxprl.rl.observers import StateObserver, StepObserver
from jaxprl.rl.ppo import Settings
from jaxprl.runs.record import read_lines
from jaxprl.search import hprl as search_module
from jaxprl.search.driver import drive
from jaxprl.search.episodes import FIRST_LAYOUT, INVALID, ProgramEnvironment, StepOutcome
from jaxprl.search.hprl import GROUPS, hprl
from jaxprl.search.protocol import UNKNOWN, search_keys
from jaxprl.vm import plain
from jaxprl.vm.outcomes import CRASHED, TERMINATED, End
from jaxprl.vm.proceed import proceed
from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, nothing
from jaxprl.worlds.karel.world import LANGUAGE, KarelWorld
from jaxprl.worlds.make import make
from jaxprl.worlds.plain import environment_of
from jaxprl.worlds.task import Layout, PythonTask, Task

ROOT = Path(__file__).parent.parent
SMALL = {"episodes": 32, "epochs": 1}
"""An update every 32 episodes, so that there are some in a short search."""


def programs(*texts):
    return encode.encode_all([ast.Program(tuple(map(ast.Action, text.split()))) for text in texts], LANGUAGE)


def random_programs(count, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return np.array(sample.random_programs(LANGUAGE, keys))


class Table:
    """A space of D dimensions and 2^D programs, of which the signs of the dimensions choose one."""

    def __init__(self, rows, invalid=()):
        self.rows, self.size = rows, int(np.log2(len(rows)))
        self.valid = ~np.isin(np.arange(len(rows)), invalid)

    def decode(self, actions):
        number = (np.asarray(actions) > 0) @ (1 << np.arange(self.size))
        return self.rows[number], self.valid[number]


def program_environment(task, space, steps, episodes, ends=TERMINATED):
    def run_programs(nodes, layouts):
        found = proceed(task, nodes, layouts)
        return StepOutcome(found.returns.astype(np.float32), found.outcomes.end & ends != 0, found.layouts)

    return ProgramEnvironment(
        layouts=task.layouts, decode=space.decode, run=run_programs, steps=steps, episodes=episodes
    )


def rollout(env, observer, task, *, budget, seeds=(0,), goal=2**30, size=2, **settings):
    """Run searches that are done at their budget; return the last state and the rows of their updates."""
    rows = []
    policy = policy_of(observer, Settings(**settings), size)
    search = hprl(env, policy, budget=budget, goal=goal, record=lambda index, row: rows.append((index, row)))
    evaluator = Evaluator(task, (0, 1))
    state = drive(search, search.init(search_keys(seeds)), evaluator.answer, record=lambda event: None)
    return state, rows


def corridor():
    """A task in a corridor: a third for each of the next two cells, and a third for a marker in the second of them."""
    world = KarelWorld(3, 6)

    def generate(seed):
        return Layout(world.state(border(3, 6), (1, 1, EAST), nothing(3, 6)), np.int32(0), np.int32(3))

    def reward(world, progress, state, event):
        _, column = world.position(state.cell)
        new = event.moved & (column == progress + 2) & (progress < 2)
        put = (event.change == 1) & (progress == 2) & (column == 3)
        units = ops.where(new | put, 1, 0)
        return state, progress + units, units, put

    return Task("Corridor", world, generate, reward)


def choice():
    """A task in which a marker has to be picked where there is one, and put where there is none."""
    world = KarelWorld(5, 5)

    def generate(seed):
        markers = nothing(5, 5)
        markers[2, 2] = seed % 2
        return Layout(world.state(border(5, 5), (2, 2, EAST), markers), np.int32(seed % 2), np.int32(1))

    def reward(world, progress, state, event):
        right = event.change == ops.where(progress == 1, -1, 1)
        return state, progress, ops.where(right, 1, 0), event.change != 0

    return Task("Choice", world, generate, reward)


FAST = {"learning_rate": 1e-2, "entropy_weight": 0.0}


def test_the_policy_finds_the_obvious_sequence_of_programs():
    """Of four programs a random policy chooses the right one at each of three steps in one episode of 64."""
    task, space = corridor(), Table(programs("pickMarker", "move", "turnLeft", "putMarker"))
    observer = StepObserver(3)
    state, rows = rollout(program_environment(task, space, 3, 8), observer, task, budget=128 * 18, **FAST)
    returns = [row["policy_return"] for _, row in rows]
    assert returns[0] < 0.5
    assert returns[-1] > 0.95
    actions = np.asarray(state.episodes.acted.actions)[0].reshape(-1, 3, 2)
    chosen = (actions > 0) @ [1, 2]
    assert (chosen == [1, 1, 3]).all(axis=1).mean() > 0.9


def test_what_the_policy_is_shown_matters():
    """Without the state of the world it can do no better than always the same."""
    task, space = choice(), Table(programs("pickMarker", "putMarker"))
    last = {}
    for observer in (StepObserver(1), StateObserver(task.world)):
        _, rows = rollout(program_environment(task, space, 1, 8), observer, task, budget=128 * 7, size=1, **FAST)
        last[observer.needs_state] = rows[-1][1]["policy_return"]
    assert last[False] < 0.7
    assert last[True] > 0.9


def plain_episode(task, seed, actions, space):
    """Play an episode in plain Python; return the rewards of its steps and the program that its programs make."""
    environment, units = environment_of(task, task.layouts([seed]), 0)
    rewards, body = [], ()
    for action in actions:
        (nodes,), (valid,) = space.decode(action[None])
        if not valid:
            rewards.append(INVALID)
            continue
        program = encode.decode(nodes, task.language)
        outcome = plain.run(program, environment)
        rewards.append(outcome.reward / units)
        body += program.body
        if End.TERMINATED in outcome.end:
            break
    return rewards, body


@pytest.mark.parametrize("name", ["DoorKey", "TopOff", "Snake"])
def test_an_episode_is_its_programs_run_one_after_the_other(name):
    task, steps = make(name), 5
    rows = random_programs(64)
    rows[5] = encode.encode(ast.Program((ast.While(ast.Constant(True), (ast.Action("turnLeft"),)),)), LANGUAGE)
    space = Table(rows, invalid=[1, 2, 3])
    search = hprl(
        program_environment(task, space, steps, 8),
        policy_of(StepObserver(steps), Settings(), 6),
        budget=100,
        goal=2**30,
    )
    state = search.init(search_keys([4, 9]))
    asked = search.ask(state, 1)
    found = asked.points
    endings = set()
    for index in range(2):
        for number in range(32):
            actions = found.acted.actions[index, number]
            rewards, body = plain_episode(task, FIRST_LAYOUT + number, actions, space)
            taken = found.taken[index, number]
            assert taken.tolist() == [step < len(rewards) for step in range(steps)]
            np.testing.assert_allclose(found.rewards[index, number][taken], rewards, rtol=1e-6)
            assert (found.rewards[index, number][~taken] == 0).all()
            nodes = asked.question.programs[index, number]
            assert asked.question.wanted[index, number] == bool(body)
            assert not body or str(encode.decode(nodes, LANGUAGE)) == str(ast.Program(body))
            endings.add(len(rewards))
    assert steps in endings
    assert len(endings) > 1 or name == "TopOff"
    np.testing.assert_array_equal(asked.question.wanted[:, 100:], False)  # behind the budget


def test_programs_are_joined_as_their_bodies_are():
    rows = random_programs(60, seed=3).reshape(12, 5, -1)
    kept = np.random.default_rng(0).random((12, 5)) < 0.7
    kept[0], kept[1] = True, False
    rows[0] = rows[0][np.argsort(np.count_nonzero(rows[0], axis=1))]
    found = joined(rows, kept)
    for row, keep, nodes in zip(rows, kept, found, strict=True):
        bodies = [encode.decode(program, LANGUAGE).body for program in row[keep]]
        if not bodies:
            assert not nodes.any()
            continue
        whole = ast.Program(tuple(statement for body in bodies for statement in body))
        np.testing.assert_array_equal(nodes, encode.encode(whole, LANGUAGE, len(nodes)))


def test_invalid_programs_cost_something_and_a_search_without_any_other_is_left_out():
    task, told = corridor(), []
    space = Table(programs("move", "move"), invalid=[0, 1])
    policy = policy_of(StepObserver(2), Settings(), 1)
    search = hprl(program_environment(task, space, 2, 2), policy, budget=31, goal=3, without_program=told.append)
    state = search.init(search_keys([0]))
    state = drive(search, state, Evaluator(task, (0,)).answer, record=lambda event: pytest.fail("no program"))
    assert told == [0]
    assert (int(state.evaluated[0]), int(state.best[0]), bool(state.done[0])) == (31, UNKNOWN, True)
    facts = search.facts(state, 0)["policy"]
    assert facts == {"updates": 0, "policy_return": pytest.approx(2 * INVALID), "programs": 62, "invalid": 1.0}


@pytest.fixture
def few_unseen(monkeypatch):
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_002))


def test_a_search_whose_policy_diverges_ends_and_says_so(few_unseen, tmp_path):
    """With these options the standard deviations of the actions grow beyond all bounds."""
    options = {"episodes": 16, "programs": 1, "learning_rate": 1.0, "entropy": 100.0}
    [result] = run(Config("StairClimber", "hprl", budget=600, layouts=(0, 1), options=options), tmp_path)
    *before, last = read_lines(tmp_path / "updates.jsonl")
    assert result["stop"] == "the policy diverged"
    assert result["evaluated"] == last["evaluated"] == 16 * len(before) + 16 < 600
    assert last["entropy"] is None
    assert all(np.isfinite(list(row.values())).all() for row in before)
    assert "NaN" not in (tmp_path / "updates.jsonl").read_text()


def test_a_crash_can_end_an_episode():
    """A run that is cut, here by a WHILE that comes to the same state again, goes on with the next program."""
    task = corridor()
    turn = ast.Program((ast.While(ast.Constant(True), (ast.Action("pickMarker"),)), ast.Action("move")))
    space = Table(np.stack([encode.encode(turn, LANGUAGE)] * 2))
    for ends, taken in ((TERMINATED, 2), (TERMINATED | CRASHED, 1)):
        search = hprl(
            program_environment(task, space, 2, 2, ends), policy_of(StepObserver(2), Settings(), 1), budget=32, goal=9
        )
        assert (search.ask(search.init(search_keys([0])), 1).points.taken.sum(axis=-1) == taken).all()


class AfterSixRounds:
    """Asks a run to stop."""

    def __init__(self):
        self.asked = itertools.count()

    @property
    def signal(self):
        return signal.SIGTERM if next(self.asked) >= 6 else None


def test_rounds_threads_and_other_seeds_change_nothing(tmp_path, monkeypatch, few_unseen):
    limits = {"budget": 145, "layouts": (0, 1), "options": SMALL}
    results = run(Config("Seeder", "hprl", seeds=(3, 0), **limits), tmp_path / "whole", workers=1)
    assert [result["evaluated"] for result in results] == [145, 145]
    monkeypatch.setattr(search_module, "TOGETHER", 8)
    alone = Config("Seeder", "hprl", seeds=(0,), **limits)
    with pytest.raises(Stopped):
        run(alone, tmp_path / "alone", workers=2, stop=AfterSixRounds())
    assert len(read_lines(tmp_path / "alone" / "updates.jsonl")) == 1  # in the middle of the episodes of the second one
    run(alone, tmp_path / "alone", workers=2, resume=True)
    want = left_by(tmp_path / "whole", 0)
    assert left_by(tmp_path / "alone", 0) == want
    updates = want["updates.jsonl"]
    assert [row["evaluated"] for row in updates] == [32, 64, 96, 128]
    assert [row["updates"] for row in updates] == [1, 2, 3, 4]
    policy = want["seed-0"]["policy"]
    assert policy["policy_return"] == updates[-1]["policy_return"]
    assert policy["programs"] > updates[-1]["programs"] > 128
    assert policy["invalid"] == 0
    assert {row["source"] for row in want["programs.jsonl"]} == {"policy"}
    assert report.main([str(tmp_path / "whole"), "--out", str(tmp_path / "page.html")]) == 0
    assert "hprl" in (tmp_path / "page.html").read_text()


def test_layouts_are_fresh_and_are_those_of_their_seeds_however_they_are_made():
    task = make("Maze")
    ahead = LayoutsAhead(task)
    for seeds in ([5, 6], [7, 8], [20, 21, 22]):
        for mine, plain_leaf in zip(*map(jax.tree.leaves, (ahead(seeds), task.layouts(seeds))), strict=True):
            np.testing.assert_array_equal(mine, plain_leaf)
    seen = []
    env = program_environment(task, Table(programs("move", "turnLeft")), 1, 4)
    env = dataclasses.replace(env, layouts=lambda seeds: seen.extend(seeds) or task.layouts(seeds))
    rollout(env, StepObserver(1), task, budget=GROUPS * 4 - 1, size=1)
    assert seen[0] == FIRST_LAYOUT
    assert sorted(set(seen)) == list(range(FIRST_LAYOUT, FIRST_LAYOUT + GROUPS * 4))


def coin(seed):
    raise AssertionError("no program is run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "PutNear"}, "the task, minigrid, has other words; methods without a program space, like hc"),
        ({"task": f"{ROOT / 'experiments' / 'custom_task.py'}:Lift"}, "the task, lift, has other words"),
        ({"observe": "pixels"}, "unknown --observe 'pixels'; known: step, state"),
        ({"programs": 0}, "--programs 0: it goes from 1 to 7"),
        ({"programs": 8}, "--programs 8: it goes from 1 to 7"),
        ({"episodes": 40}, "--episodes 40: expected a multiple of 16"),
        ({"episodes": 0}, "--episodes 0: it goes from 16 to 65536"),
        ({"episodes": 1}, "--episodes 1: it goes from 16 to 65536"),
        ({"epochs": 0}, "--epochs 0: it goes from 1 to"),
        ({"learning_rate": 0.0}, r"--learning-rate 0: it goes from 1e-09 to 1"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: it goes from"),
        ({"entropy": -0.1}, r"--entropy -0\.1: it goes from 0 to"),
        ({"space": Path("no.npz")}, r"model no\.npz cannot be read"),
        ({"sigma": 0.1}, "method hprl has no option --sigma; its options: --observe"),
        ({"layouts": [3, 2**31 + 5]}, "layout seed 2147483653: the episodes of hprl take the seeds from 2147483648 on"),
        ({"seeds": range(2000)}, "2,000 search seeds; a run of hprl has at most 1,024"),
        ({"llm": "openai"}, "needs the --model"),
    ],
)
def test_what_cannot_be_done_is_said(options, message):
    own = {name: value for name, value in options.items() if name not in ("task", "seeds", "layouts", "llm")}
    shared = {name: value for name, value in options.items() if name not in own}
    with pytest.raises(UserError, match=message):
        resolve(Config(**{"task": "Seeder", "method": "hprl", **shared}, options=own))


def test_a_world_in_plain_python_is_refused_by_name():
    task = PythonTask("Coin", LANGUAGE, coin)
    job = dataclasses.replace(resolve(Config("Seeder", "hprl")), task=task)
    with pytest.raises(UserError, match="takes a task in array code; Coin is in plain Python"):
        job.method.check(job)


def test_the_identity_has_the_options_and_the_space():
    own = identity(resolve(Config("Seeder", "hprl", options={"observe": "state"})))
    assert (own["observe"], own["episodes"], own["learning_rate"]) == ("state", 2560, 1e-5)
    assert len(own["space"]) == 16
