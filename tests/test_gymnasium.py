"""Environments that are not JAX: the real `minigrid` as the oracle of our world, and any gymnasium environment."""

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import golden
import gymnasium
import jax.numpy as jnp
import minigrid  # noqa: F401  (registers the environments)
import numpy as np
import pytest
import questions
import strategies

from jaxprl.cli.main import dispatch
from jaxprl.dsl import encode
from jaxprl.dsl.language import Language
from jaxprl.dsl.text import from_text
from jaxprl.errors import UserError
from jaxprl.experiment import ledger
from jaxprl.experiment.config import Config
from jaxprl.experiment.run import run
from jaxprl.search.driver import drive
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.program_space import mutations, random_starts
from jaxprl.search.protocol import UNKNOWN, Neighbourhoods, search_keys
from jaxprl.search.schedule import Constant
from jaxprl.vm import plain
from jaxprl.vm.evaluate import evaluate, first_better
from jaxprl.vm.outcomes import Scale
from jaxprl.vm.trace import trace
from jaxprl.worlds import registry
from jaxprl.worlds.from_gym import GymEnvironment, Interface, gym_task, observed
from jaxprl.worlds.make import make
from jaxprl.worlds.task import PythonTask

ROOT = Path(__file__).parent.parent
PUBLISHED = ("LavaGap", "PutNear", "RedBlueDoor")
TWINS = tuple(name for name in registry.tasks() if name.startswith("MiniGrid-"))
SOME_TWINS = tuple(
    f"MiniGrid-{name}-v0"
    for name in ("PutNear-6x6-N2", "Fetch-5x5-N2", "GoToDoor-5x5", "GoToObject-6x6-N2", "UnlockPickup", "MemoryS7")
)
OBSTACLES = "MiniGrid-Dynamic-Obstacles-5x5-v0"


def farama(name):
    return make(f"farama:{name}")


def programs_of(rows, task):
    return [from_text(row.program, task.language) for row in rows]


def some_or_all(values):
    """Return parameters of two sizes: small ones, and whole ones in the full suite."""
    values = list(values)
    return [*((name, False) for name in values), *(pytest.param(name, True, marks=pytest.mark.full) for name in values)]


@pytest.mark.parametrize(("name", "whole"), some_or_all(PUBLISHED))
def test_the_real_environments_give_the_golden_results_and_ours(name, whole):
    task, rows = farama(name), golden.returns(name)
    rows = rows if whole else golden.on_first(rows[::8], 8)
    layouts, programs = task.layouts(rows[0].seeds), programs_of(rows, task)
    runs = evaluate(task, programs, layouts)
    assert golden.differences(rows, golden.batched(runs)) == []

    our_runs = golden.evaluated(name, rows)
    assert runs.returns.tolist() == our_runs.returns.tolist()
    for field, our_field in zip(runs.columns[1:], our_runs.columns[1:], strict=True):
        assert field.tolist() == our_field.tolist()


@pytest.mark.parametrize(("name", "whole"), some_or_all(name for name in PUBLISHED if golden.edge_cases(name)))
def test_edge_cases_on_the_real_environments(name, whole):
    task, ours = farama(name), make(name)
    for row in golden.edge_cases(name) if whole else golden.on_first(golden.edge_cases(name), 2):
        [program], layouts = programs_of([row], task), task.layouts(row.seeds)
        found = golden.batched(evaluate(task, [program], layouts))
        same = golden.plain(ours, [program], [ours.layout(seed) for seed in row.seeds])
        assert [field.tolist() for field in found] == [field.tolist() for field in same], row.label
        assert "spelling" in row.label or golden.differences([row], found) == []


def compare_traces(name, seeds, count):
    """Every call of random programs gives the same on the real environment and on ours, pose and reward included."""
    task, ours = farama(name), make(name)
    rng = np.random.default_rng(len(name))
    for seed in seeds:
        for _ in range(count):
            program = strategies.random_program(rng, task.language, counts=range(20), depth=3, sequence=5)
            assert trace(task, program, seed).rows() == trace(ours, program, seed).rows(), (name, seed, program)


@pytest.mark.parametrize("name", PUBLISHED)
def test_random_programs_call_by_call(name):
    compare_traces(name, range(20), 5)


@pytest.mark.parametrize("name", SOME_TWINS)
def test_registered_environments_call_by_call(name):
    compare_traces(name, range(4), 10)


@pytest.mark.full
@pytest.mark.parametrize("name", TWINS)
def test_every_registered_environment_call_by_call(name):
    compare_traces(name, range(10), 10)


def records(config, folder):
    """Return what a run leaves, without times and the task's name."""
    results = run(config, folder)
    lines = (folder / "programs.jsonl").read_text().splitlines()
    kept = [{key: value for key, value in result.items() if key not in ("task", "seconds")} for result in results]
    return kept, list(map(json.loads, lines))


@pytest.mark.parametrize(
    ("name", "seeds", "budget", "bests"),
    [("LavaGap", (3, 5), 80, 6), pytest.param("PutNear", (2,), 90, 4, marks=pytest.mark.full)],
)
def test_a_search_on_the_real_environment_is_the_same_search(tmp_path, monkeypatch, name, seeds, budget, bests):
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_032))
    config = Config(name, "hc", seeds, budget)
    ours = records(config, tmp_path / "ours")
    assert records(dataclasses.replace(config, task=f"farama:{name}"), tmp_path / "real") == ours
    assert len(ours[1]) >= bests


def test_recorded_answers_serve_the_real_environment(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / "run.py", "--task", "farama:LavaGap", "--layouts", "0-3"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    [folder] = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("farama-LavaGap-llm-gs-")
    result = json.loads((folder / "seed-0" / "result.json").read_text())
    assert (result["task"], result["return"], result["llm"]["accepted"]) == ("farama:LavaGap", 1, 32)


def search(task, layouts, first_better, seeds=(1,), budget=320):
    """Return the record of a hill climbing with k = 20."""
    climbing = hill_climbing(
        neighbours=functools.partial(mutations, task.language),
        start=functools.partial(random_starts, task.language),
        schedule=Constant(20),
        budget=budget,
        goal=Scale.of(layouts).denominator,
    )
    zero, events = jnp.zeros(len(seeds), jnp.int32), []

    def record(event):
        events.append((event.search, event.evaluated, event.score, event.program.tobytes()))

    drive(climbing, climbing.init(search_keys(seeds), zero, zero + UNKNOWN), first_better, record=record)
    return events


@pytest.fixture
def ran(monkeypatch):
    """The layouts of the runs in plain Python so far, by program, in order."""
    found = []
    outcome = plain._outcome

    def counted(task, program, seed, bound):
        found.append((program, seed))
        return outcome(task, program, seed, bound)

    monkeypatch.setattr(plain, "_outcome", counted)
    return found


def test_leaving_runs_out_changes_no_search(ran):
    task = farama("LavaGap")
    layouts = task.layouts(range(4))
    found = search(task, layouts, lambda question: first_better(task, Neighbourhoods(*question), layouts))
    few = len(ran)
    assert found == search(task, layouts, functools.partial(questions.answered, task, layouts))
    assert 0 < few < (len(ran) - few) / 4


def test_answers_are_those_of_full_evaluation():
    task, rows = farama("LavaGap"), golden.returns("LavaGap")
    layouts = task.layouts(range(8))
    nodes = encode.encode_all(programs_of(rows, task), task.language)
    rng = np.random.default_rng(0)
    parents, near = rng.integers(0, len(rows), 30), rng.integers(0, len(rows), (30, 20))
    counts = np.array([0, -1, 1, *[20] * 27], np.int32)
    question = Neighbourhoods(nodes[parents], nodes[near], np.zeros((30, 20, 2), np.int32), counts)
    truth = questions.answered(task, layouts, question)
    questions.check(first_better(task, question, layouts), truth, question)
    assert 5 < np.count_nonzero(truth.first > 0) < np.count_nonzero(counts > 0) - 5


def test_what_does_not_matter_is_not_run(ran):
    task = farama("LavaGap")
    layouts, seeds = task.layouts(range(8)), range(8)
    rows = sorted(golden.returns("LavaGap"), key=lambda row: np.mean(row.returns[:8]))
    bad, best = programs_of([rows[0], rows[-1]], task)
    poor = next(row for row in rows if 0.3 < np.mean(row.returns[:8]) < 0.9)
    [parent] = programs_of([poor], task)
    nodes = encode.encode_all([parent, parent, bad, bad, best, bad, best], task.language)
    changed, counts = np.zeros((1, 6, 2), np.int32), np.array([6], np.int32)
    found = first_better(task, Neighbourhoods(nodes[:1], nodes[None, 1:], changed, counts), layouts)
    assert found.first.tolist() == [3]
    # The parent runs, once; of the bad one what it takes to know; the best one, and nothing behind it.
    assert [seed for program, seed in ran if program == parent] == list(seeds)
    assert [seed for program, seed in ran if program == best] == list(seeds)
    losses = np.cumsum(1 - np.array(rows[0].returns[:8]))
    enough = int(np.argmax(8 - losses <= np.sum(poor.returns[:8]))) + 1
    assert 0 < enough < 8
    assert [seed for program, seed in ran if program == bad] == list(range(enough))
    assert len(ran) == 16 + enough


def test_dynamic_obstacles_run():
    task, seeds = farama(OBSTACLES), range(20)
    go = from_text("DEF run m( REPEAT R=2 r( WHILE c( front_is_clear c) w( forward w) right r) m)", task.language)
    bump = from_text("DEF run m( WHILE c( True c) w( forward w) m)", task.language)
    runs = evaluate(task, [go, bump], task.layouts(seeds))
    assert set(runs.units.ravel()) <= {-1, 0, 1}
    assert (runs.units[1] == -1).all()  # into the wall, or a ball on the way
    assert evaluate(task, [go, bump], task.layouts(seeds)).calls.tolist() == runs.calls.tolist()
    for seed in seeds:
        env = gymnasium.make(OBSTACLES, disable_env_checker=True)  # with its observations and its time limit
        env.reset(seed=seed)
        for call in trace(task, go, seed).rows():
            if call["kind"] == "action":
                _, reward, terminated, _, _ = env.step(getattr(env.unwrapped.actions, call["name"]))
                assert (call["reward"], call["terminated"]) == (np.sign(reward), terminated)
                assert call["pose"] == [*env.unwrapped.agent_pos, env.unwrapped.agent_dir]


def test_resets_print_nothing(capsys):
    task = farama("BabyAI-PutNextLocal-v0")
    for seed in range(20):
        task.environment(seed)
    assert capsys.readouterr() == ("", "")


WAYS = {"west": 0, "south": 1, "east": 2, "north": 3}
LAKE = Language("frozen lake", dict.fromkeys(WAYS, 0.25), {f"is_safe h( {way} h)": 0.25 for way in WAYS}, 0.1)


def is_safe(way, env, cell):
    """That way is neither a hole nor the border of FrozenLake, whose observation is the cell."""
    [(_, ahead, _, _)] = env.P[cell][WAYS[way]]
    return ahead != cell and env.desc.flat[ahead] != b"H"


ON_LAKE = Interface(actions=WAYS, perceptions={f"is_safe h( {way} h)": functools.partial(is_safe, way) for way in WAYS})


def lake(name="FrozenLake", interface=ON_LAKE, **options):
    make_env = functools.partial(gymnasium.make, "FrozenLake-v1", is_slippery=False)
    return gym_task(name, make_env, LAKE, interface, **options)


@pytest.fixture
def own_tasks(monkeypatch):
    """Tasks registered by a test are gone after it."""
    monkeypatch.setattr(registry, "_TASKS", registry.tasks())


@pytest.mark.usefixtures("own_tasks")
def test_another_environment_is_searched(tmp_path):
    registry.register(lake())
    config = Config("FrozenLake", "hc", seeds=(0, 1), budget=10_000, layouts=(0,))
    for result in run(config, tmp_path / "out"):
        assert (result["return"], result["unseen_return"], result["stop"]) == (1, 1, "solved")
        assert result["evaluated"] > 1


def test_a_time_limit_ends_no_run():
    limited = gym_task(
        "short", lambda: gymnasium.make("FrozenLake-v1", is_slippery=False, max_episode_steps=2), LAKE, ON_LAKE
    )
    program = from_text("DEF run m( south south east south east east m)", LAKE)
    runs = evaluate(limited, [program], limited.layouts([0]))
    assert [field.item() for field in runs.columns] == [1_000_000, 6, 6, 1]


class Counting(gymnasium.Env):
    """Rewards every step with the same number."""

    def __init__(self, reward):
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return {"steps": 0}, {}

    def step(self, action):
        self.steps += 1
        return {"steps": self.steps}, self.reward, False, False, {}


STEP = Language("steps", {"step": 1.0}, {"is_even": 1.0}, 0.1)
STEPS = Interface(actions={"step": None}, perceptions={"is_even": lambda env, seen: seen["steps"] % 2 == 0})


def counting(reward, **options):
    return gym_task("Steps", lambda: Counting(reward), STEP, STEPS, **options)


@pytest.mark.parametrize(("reward", "units"), [(1 / 3, 1_000_000), (-0.7, -2_100_000), (0.1234567, 370_370)])
def test_returns_are_taken_to_the_nearest_unit(reward, units):
    task = counting(reward)
    runs = evaluate(task, [from_text("DEF run m( step step step m)", STEP)], task.layouts([0, 1]))
    assert runs.units.tolist() == [[units] * 2]


@pytest.mark.parametrize(
    ("reward", "units", "message"),
    [
        (0.34, 1_000_000, "task Steps: a return of 1.02 on layout 7; returns go up to 1: scale the rewards"),
        (float("nan"), 1_000_000, "a return of nan on layout 7; returns go up to 1"),
        (-1e3, 1_000_000, "a return of -3000 on layout 7; the lowest that fits 1,000,000 units is -1073.74"),
        (0.1, 2**31 - 1, "2 layouts of 2,147,483,647 units; at most 1,073,741,823 each fit"),
    ],
)
def test_returns_that_do_not_fit_are_refused(reward, units, message):
    task = counting(reward, units=units)
    nodes = encode.encode_all([from_text("DEF run m( step step step m)", STEP)], STEP)
    question = Neighbourhoods(nodes, nodes[None], np.zeros((1, 1, 2), np.int32), np.array([1], np.int32))
    with pytest.raises(UserError, match=message):
        first_better(task, question, task.layouts([7, 8]))


def test_missing_words_are_named():
    with pytest.raises(UserError, match=r"lacks is_safe h\( north h\), north, west of language frozen lake"):
        lake(interface=Interface(
            actions={"south": 1, "east": 2},
            perceptions={name: rule for name, rule in ON_LAKE.perceptions.items() if "north" not in name},
        ))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "near"), [("MiniGrid-DoorKey-5x5", "MiniGrid-DoorKey-5x5-v0"), ("LavGap", "LavaGap"), ("Chess!", "none")]
)
def test_an_unknown_environment_lists_similar_ones(name, near):
    with pytest.raises(UserError, match=f"unknown environment of minigrid '{name}', .*; similar ones: .*{near}"):
        farama(name)


def test_observations_of_any_shape_are_compared():
    array = np.arange(6, dtype=np.uint8)
    different = [
        3, "go", None, array, array.reshape(2, 3), (array, 1), (array, 2), {"image": array, "text": "go"},
        {"image": array, "text": "no"}, ((1, 2), 3), (1, (2, 3)),
    ]  # fmt: skip
    keys = [observed(None, observation) for observation in different]
    assert len(set(keys)) == len(keys)
    assert keys == [observed(None, observation) for observation in different]
    assert observed(None, {"a": array, "b": 1}) == observed(None, {"b": 1, "a": array.copy()})
    with pytest.raises(UserError, match="cannot be compared; give the interface a key"):
        observed(None, object())


def test_a_state_seen_twice_crashes():
    env = GymEnvironment(Counting(0.0), STEPS, seed=0)
    first = env.key()
    env.act("step", at_limit=False)
    assert env.key() != first == GymEnvironment(Counting(0.0), STEPS, seed=0).key()
    assert env.pose() is None
    task = PythonTask("stuck", STEP, lambda seed: GymEnvironment(Counting(0.0), blind, seed=seed))
    blind = Interface(actions=STEPS.actions, perceptions=STEPS.perceptions, key=lambda env, observation: 0)
    runs = evaluate(task, [from_text("DEF run m( WHILE c( True c) w( step w) m)", STEP)], task.layouts([0]))
    assert [field.item() for field in runs.columns] == [0, 1, 1, 2]


@pytest.mark.usefixtures("own_tasks")
def test_host_tasks_are_listed(capsys):
    registry.register(lake(words={"goal": "Get over the ice."}))
    assert dispatch(["tasks"]) == 0
    lines = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    assert ["FrozenLake", "frozen", "lake", "-       Get over the ice."] in lines
