"""gymnasium and the functions of JAX show the same worlds: `check_env`, golden returns, the views of `minigrid`."""

import ast
import dataclasses
import functools
import importlib.metadata
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import golden
import gymnasium
import jax
import jax.numpy as jnp
import minigrid  # noqa: F401  (registers its environments)
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from minigrid.wrappers import FullyObsWrapper

from jaxprl import render
from jaxprl.dsl import text
from jaxprl.environments import functional
from jaxprl.environments.gym import IDS, WorldEnv, register
from jaxprl.environments.vector import WorldVectorEnv
from jaxprl.errors import UserError
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.plain import run
from jaxprl.worlds import registry
from jaxprl.worlds.from_gym import GymEnvironment, Interface, gym_task
from jaxprl.worlds.karel.world import GATE, KarelWorld
from jaxprl.worlds.make import make as make_task
from jaxprl.worlds.minigrid.world import MiniGridWorld
from jaxprl.worlds.plain import WorldEnvironment

PACKAGE = [task for task in IDS.values() if task.startswith("MiniGrid-")]


def make(id, **options):
    """The environment without gymnasium's wrappers, and without its advice to take a newer version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return gymnasium.make(id, disable_env_checker=True, **options).unwrapped


def test_every_task_has_an_id():
    drawn = (KarelWorld, MiniGridWorld)
    tasks = registry.tasks().items()
    assert set(IDS.values()) == {name for name, task in tasks if isinstance(getattr(task, "world", None), drawn)}
    assert IDS["jaxprl/Karel-DoorKey-v0"] == "DoorKey"
    assert IDS["jaxprl/MiniGrid-LavaGap-v0"] == "LavaGap"
    assert IDS["jaxprl/MiniGrid-DoorKey-5x5-v0"] == "MiniGrid-DoorKey-5x5-v0"
    assert set(IDS) <= set(gymnasium.registry)


SPAWNED = """
import multiprocessing
import sys
import tomllib

import gymnasium


def starts(ids):
    assert "jaxprl" not in sys.modules
    observations = [gymnasium.make(id).reset(seed=3)[0].tolist() for id in ids]
    return observations, gymnasium.make_vec(ids[0], num_envs=2).reset(seed=3)[0].tolist()


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(*pool.apply(starts, [sys.argv[1:]]), sep="\\n")
"""


def test_the_entry_point_registers_the_tasks():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    [(name, value)] = project["entry-points"]["gymnasium.envs"].items()
    del gymnasium.registry["jaxprl/Karel-DoorKey-v0"]
    importlib.metadata.EntryPoint(name, value, "gymnasium.envs").load()()
    assert set(IDS) <= set(gymnasium.registry)


def test_an_id_that_names_the_module_is_known_in_a_spawned_worker(tmp_path):
    """The worker has imported gymnasium alone."""
    file = tmp_path / "spawned.py"
    file.write_text(SPAWNED)
    ids = ["jaxprl.environments:jaxprl/Karel-DoorKey-v0", "jaxprl/MiniGrid-LavaGap-v0"]  # then all are known
    done = subprocess.run([sys.executable, file, *ids], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    singles, copies = map(ast.literal_eval, done.stdout.splitlines())
    assert singles == [make(id).reset(seed=3)[0].tolist() for id in ids]
    assert copies[0] == singles[0]


@pytest.mark.parametrize("id", IDS)
def test_check_env(id):
    check_env(make(id, render_mode="rgb_array", cell=8))


@pytest.mark.parametrize("id", ["jaxprl/MiniGrid-RedBlueDoor-v0", "jaxprl/MiniGrid-GoToDoor-8x8-v0"])
def test_check_env_with_the_view(id):
    check_env(make(id, observation="view", render_mode="rgb_array"))


def test_make_with_gymnasiums_own_wrappers():
    with gymnasium.make("jaxprl/Karel-DoorKey-v0", render_mode="rgb_array", cell=8) as env:
        env.reset(seed=1)
        observation, reward, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        assert isinstance(reward, float)
        np.testing.assert_array_equal(env.render(), render.draw(env.unwrapped.task, env.unwrapped.plain.state, cell=8))


def interface(task):
    """Programs run over the environment through its numbers for actions; what they perceive is asked of its world."""

    def ask(name, env, _):
        return env.plain.perceive(name)

    return Interface(
        actions={name: number for number, name in enumerate(task.language.action_names)},
        perceptions={name: functools.partial(ask, name) for name in task.language.perceptions},
        key=lambda env, _: env.plain.key(),
        call_limit=task.world.call_limit,
        terminated_hides_crash=task.world.terminated_hides_crash,
    )


def sample(name):
    """Golden programs that differ in what they return, those of many calls aside, for they take long."""
    rows = [row for row in golden.returns(name) if max(row.calls) < 1_000]
    return rows[:: max(1, len(rows) // 12)]


EQUAL = ("DoorKey", "OneStroke", "Snake", "LavaGap", "PutNear", "RedBlueDoor")
OTHERS = [pytest.param(name, marks=pytest.mark.full) for name in golden.TASKS if name not in EQUAL]


@pytest.mark.parametrize("name", [*EQUAL, *OTHERS])
def test_golden_programs_have_the_same_returns(name):
    """Three ways: through gymnasium's `step`, by the batched evaluator, and as published."""
    task, rows, seeds = make_task(name), sample(name), range(8)
    programs = [text.from_text(row.program, task.language) for row in rows]
    env = make({task: id for id, task in IDS.items()}[name])
    ours = [[run(program, GymEnvironment(env, interface(task), seed=seed)) for seed in seeds] for program in programs]
    runs = golden.evaluated(name, rows)
    returns = np.array([[outcome.reward for outcome in row] for row in ours])
    np.testing.assert_allclose(returns, runs.returns[:, :8], rtol=0, atol=1e-9)
    np.testing.assert_allclose(returns, [row.returns[:8] for row in rows], rtol=0, atol=1e-9)
    np.testing.assert_array_equal([[outcome.actions for outcome in row] for row in ours], runs.actions[:, :8])
    assert len(np.unique(returns)) > 1


@pytest.mark.parametrize(
    "name", ["DoorKey", "LavaGap", *(pytest.param(n, marks=pytest.mark.full) for n in ("Snake", "PutNear"))]
)
def test_golden_programs_have_the_same_returns_in_copies_and_functions_of_jax(name):
    """The actions of golden programs through `make_vec` and `functional`: the returns are as published."""
    task, seeds = make_task(name), range(4)
    rows = [row for row in golden.returns(name) if 0 < max(row.calls[:4]) < 120]
    rows = sorted(rows, key=lambda row: -np.ptp(row.returns[:4]))[:8]
    ways = [way for row in rows for way in actions_of(task, text.from_text(row.program, task.language), seeds)]
    length = max(map(len, ways))
    actions = np.array([way + [0] * (length - len(way)) for way in ways], np.int32)  # [lanes, length]
    counts = np.arange(length) < np.array([[len(way)] for way in ways])
    published = np.array([row.returns[:4] for row in rows]).ravel()
    assert len(np.unique(published)) > 1

    copies = gymnasium.make_vec({task: id for id, task in IDS.items()}[name], num_envs=len(ways))
    copies.reset(seed=[*seeds] * len(rows))
    rewards = np.stack([copies.step(column)[1] for column in actions.T], axis=1)
    np.testing.assert_allclose((rewards * counts).sum(axis=1), published, rtol=0, atol=1e-6)

    env = functional.make_env(name, layout_seeds=seeds)

    def play(layout, way):
        _, rewards = jax.lax.scan(lambda state, action: env.step(state, action)[:2], env.start(layout), way)
        return rewards

    rewards = jax.jit(jax.vmap(play))(jnp.array([*seeds] * len(rows)), jnp.asarray(actions))
    np.testing.assert_allclose((np.asarray(rewards) * counts).sum(axis=1), published, rtol=0, atol=1e-6)


def actions_of(task, program, seeds):
    """The numbers of the actions of a program on each layout."""
    for seed in seeds:
        taken = []
        run(program, WorldEnvironment(task, task.layout(seed)), lambda call, taken=taken: taken.append(call))
        yield [task.language.action_names.index(call.name) for call in taken if call.kind == "action"]


def test_an_environment_is_a_task_for_searches_too():
    task = make_task("DoorKey")
    wrapped = gym_task("DoorKeyAgain", lambda: make("jaxprl/Karel-DoorKey-v0"), task.language, interface(task), units=2)
    programs = [text.from_text(row.program, task.language) for row in sample("DoorKey")[:4]]
    found, expected = (evaluate(one, programs, one.layouts(range(4))) for one in (wrapped, task))
    np.testing.assert_array_equal(found.returns, expected.returns)
    np.testing.assert_array_equal(
        [found.calls, found.actions, found.end], [expected.calls, expected.actions, expected.end]
    )


def test_karels_planes():
    task = make_task("DoorKey")
    env = make("jaxprl/Karel-DoorKey-v0")
    planes, info = env.reset(seed=4)
    assert planes.shape == (16, 8, 8)
    assert planes.dtype == bool
    assert info == {}
    layout = task.layout(4)
    row, column = task.world.position(int(layout.state.cell))
    assert np.argwhere(planes[:4]).tolist() == [[1, row, column]]  # one robot, facing east
    env.step(1)
    assert np.argwhere(env.step(1)[0][:4]).tolist() == [[3, row, column]]  # two left turns: west
    cells = layout.state.cells.reshape(10, 10)[1:-1, 1:-1]
    np.testing.assert_array_equal(planes[4], (cells & 0x10 != 0) | (cells & GATE != 0))
    np.testing.assert_array_equal(np.argmax(planes[5:], axis=0), cells & 15)
    assert (planes[5:].sum(axis=0) == 1).all()
    opened = functional.observe(task, layout.state._replace(opened=np.bool_(True)), "grid")
    assert planes[4].sum() - opened[4].sum() == 2


@pytest.mark.parametrize("name", PACKAGE)
def test_minigrids_observations_are_the_packages(name):
    """The view is `gen_obs`'s, the grid `FullyObsWrapper`'s, on the way of random actions."""
    theirs = gymnasium.make(gymnasium.registry[name], disable_env_checker=True).unwrapped
    whole = FullyObsWrapper(theirs)
    ours = make(f"jaxprl/{name}", observation="view")
    rng, seen = np.random.default_rng(0), set()
    for seed in range(2):
        expected, _ = theirs.reset(seed=seed)
        found, info = ours.reset(seed=seed)
        for _ in range(30):
            np.testing.assert_array_equal(found, expected["image"])
            assert info["direction"] == expected["direction"]
            grid = functional.observe(ours.task, ours.plain.state, "grid")
            np.testing.assert_array_equal(grid, whole.observation(expected)["image"])
            seen.add(found.tobytes())
            action = int(rng.choice(7, p=[0.15, 0.15, 0.4, 0.1, 0.05, 0.1, 0.05]))
            expected, _, over, *_ = theirs.step(action)
            found, _, _, _, info = ours.step(action)
            if over:
                break
    assert len(seen) > 3


@pytest.mark.parametrize("name", ["LavaGap", "PutNear", "RedBlueDoor"])
def test_views_of_the_published_tasks_are_the_packages(name, monkeypatch):
    theirs = make_task(f"farama:{name}").environment(0).env.unwrapped
    monkeypatch.delattr(theirs, "gen_obs")  # the oracle, which other tests share, leaves its observations out
    ours = make(f"jaxprl/MiniGrid-{name}-v0", observation="view")
    rng = np.random.default_rng(1)
    for seed in range(5):
        expected, _ = theirs.reset(seed=seed)
        found, _ = ours.reset(seed=seed)
        over = False
        while not over:
            np.testing.assert_array_equal(found, expected["image"])
            action = int(rng.integers(6))
            expected, _, ends, truncated, _ = theirs.step(action)
            found, _, terminated, _, _ = ours.step(action)
            over = ends or terminated or truncated


def test_a_view_does_not_depend_on_the_tasks_name():
    tasks = [make_task(name) for name in ("PutNear", "RedBlueDoor")]
    named = [dataclasses.replace(task, name="Mine") for task in tasks]
    for task, mine in zip(tasks, named, strict=True):
        views = [functional.observe(one, task.layout(0).state, "view") for one in (task, mine)]
        np.testing.assert_array_equal(*views)


def test_missions_are_in_the_info():
    fetch = make("jaxprl/MiniGrid-PutNear-6x6-N2-v0")
    _, info = fetch.reset(seed=0)
    mission = fetch.plain.state.mission
    parts = [mission.target & 15, mission.target >> 4, mission.landmark & 15, mission.landmark >> 4]
    assert info["mission"].tolist() == parts
    assert all(parts[::2])
    copies = gymnasium.make_vec("jaxprl/MiniGrid-PutNear-6x6-N2-v0", num_envs=3)
    _, infos = copies.reset(seed=0)
    assert infos["mission"].shape == (3, 4)
    assert infos["mission"][0].tolist() == parts


def test_resets_follow_the_seed():
    env = make("jaxprl/Karel-Maze-v0")
    first, again, other = (env.reset(seed=seed)[0] for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    task = make_task("Maze")
    np.testing.assert_array_equal(first, functional.observe(task, task.layout(5).state, "grid"))
    sequences = []
    for _ in range(2):
        env.reset(seed=5)
        sequences.append([env.reset()[0].tobytes() for _ in range(4)])
    assert sequences[0] == sequences[1]
    assert len(set(sequences[0])) > 1
    few = make("jaxprl/Karel-Maze-v0", layout_seeds=(6,))
    np.testing.assert_array_equal(few.reset()[0], other)


def test_truncation():
    env = make("jaxprl/Karel-DoorKey-v0", max_steps=3)
    for _ in range(2):
        env.reset(seed=0)
        assert [env.step(1)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    assert make("jaxprl/Karel-DoorKey-v0").max_steps == 10_001
    assert make("jaxprl/MiniGrid-LavaGap-v0").max_steps == 1_000


def test_mistakes_are_said():
    with pytest.raises(UserError, match="unknown observation 'view'; known: grid"):
        make("jaxprl/Karel-DoorKey-v0", observation="view")
    with pytest.raises(UserError, match="one step at least"):
        make("jaxprl/Karel-DoorKey-v0", max_steps=0)
    with pytest.raises(UserError, match="only tasks on Karel's and MiniGrid's world"):
        functional.make_env("farama:LavaGap")
    for task, message in (("Mazes", "unknown task 'Mazes'"), (5, "task 5: only tasks")):
        with pytest.raises(UserError, match=message):
            functional.make_env(task)
    for seeds, message in (((), "layout seeds: none"), (5, "expected several seeds"), ((-1,), "from 0 to")):
        with pytest.raises(UserError, match=message):
            functional.make_env("DoorKey", layout_seeds=seeds)
    with pytest.raises(UserError, match="unknown render_mode 'human'"):
        WorldEnv("DoorKey", render_mode="human")
    with pytest.raises(UserError, match="id 'jaxprl/'"):
        register("DoorKey", "jaxprl/")
    with pytest.raises(UserError, match="2 seeds for 3 copies"):
        gymnasium.make_vec("jaxprl/Karel-DoorKey-v0", num_envs=3).reset(seed=[1, 2])
    for env in (make("jaxprl/Karel-DoorKey-v0"), gymnasium.make_vec("jaxprl/Karel-DoorKey-v0", num_envs=2)):
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(env.action_space.sample())
    with pytest.raises(gymnasium.error.ResetNeeded):
        gymnasium.make_vec("jaxprl/Karel-DoorKey-v0", num_envs=2, render_mode="rgb_array").render()


@pytest.mark.parametrize(
    "make", [make, lambda id, **options: gymnasium.make_vec(id, num_envs=2, **options)], ids=["one", "copies"]
)
def test_mistakes_are_the_same_for_one_and_for_copies(make):
    door_key = "jaxprl/Karel-DoorKey-v0"
    with pytest.raises(UserError, match="layout seeds: none"):
        make(door_key, layout_seeds=())
    env = make(door_key, layout_seeds=iter([6, 7]))
    for seed, message in (
        (2**40, "from 0 to 4294967295"),
        (-1, "from 0 to"),
        ([0.5, 0], "expected an integer"),
        (0.5, "expected an integer"),
    ):
        with pytest.raises(UserError, match=message):
            env.reset(seed=seed)
    np.testing.assert_array_equal(env.reset(seed=np.int64(5))[0], env.reset(seed=5)[0])
    env.reset()
    some = env.action_space.sample()
    for wrong in (some * 0 + 5, some * 0 - 1):
        with pytest.raises(UserError, match="they go from 0 to 4"):
            env.step(wrong)
    for wrong in (some * 0.5, np.zeros(3, int)):
        with pytest.raises(UserError, match="expected whole numbers"):
            env.step(wrong)
    env.step(some)


def test_there_is_one_copy_at_least():
    with pytest.raises(UserError, match="num_envs 0"):
        WorldVectorEnv(0, task="DoorKey")


def test_a_terminated_environment_stays_as_it_is():
    env, rng = make("jaxprl/MiniGrid-LavaGap-v0"), np.random.default_rng(0)
    env.reset(seed=0)
    while not (step := env.step(rng.integers(3)))[2]:
        pass
    for action in (0, 1, 2):
        after = env.step(action)
        np.testing.assert_array_equal(after[0], step[0])
        assert after[1:4] == (0.0, True, False)


def test_copies_give_arrays_of_ones_own():
    id = "jaxprl/MiniGrid-PutNear-6x6-N2-v0"
    copies = gymnasium.make_vec(id, num_envs=2, observation="view", max_episode_steps=3)
    copies.action_space.seed(0)  # some actions end an episode of this task before it is truncated
    observations, infos = copies.reset(seed=0)
    assert infos["direction"].tolist() == [
        make(id, observation="view").reset(seed=seed)[1]["direction"] for seed in (0, 1)
    ]
    for array in (observations, *infos.values(), *copies.step(copies.action_space.sample())[:4]):
        assert array.flags.writeable
    copies.step(copies.action_space.sample())
    assert copies.step(copies.action_space.sample())[3].all()  # truncated after three


def test_a_task_of_ones_own():
    register("Harvester", "jaxprl/Mine-v3")
    assert make("jaxprl/Mine-v3").task is make_task("Harvester")
    assert gymnasium.make_vec("jaxprl/Mine-v3", num_envs=2).task is make_task("Harvester")


@pytest.mark.parametrize(
    ("id", "observation"),
    [
        ("jaxprl/Karel-DoorKey-v0", "grid"),
        ("jaxprl/MiniGrid-RedBlueDoor-v0", "view"),
        pytest.param("jaxprl/Karel-Snake-v0", "grid", marks=pytest.mark.full),
        pytest.param("jaxprl/MiniGrid-LavaGap-v0", "grid", marks=pytest.mark.full),
    ],
)
def test_copies_do_what_one_environment_does(id, observation):
    """Also over the ends of episodes: a copy that is over passes a step, and starts again on a layout of the pool."""
    options = {"observation": observation, "max_steps": 25}
    copies = gymnasium.make_vec(id, num_envs=3, layout_seeds=(40, 41), **options)
    singles = [make(id, **options) for _ in range(3)]
    assert copies.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    copies.action_space.seed(0)
    observations, _ = copies.reset(seed=7)
    for copy, single in enumerate(singles):
        np.testing.assert_array_equal(observations[copy], single.reset(seed=7 + copy)[0])
    starts = [singles[0].reset(seed=seed)[0].tobytes() for seed in (40, 41)]
    singles[0].reset(seed=7)
    over, ends, drawn = [False] * 3, 0, set()
    for _ in range(120):
        actions = copies.action_space.sample()
        observations, rewards, terminated, truncated, _ = copies.step(actions)
        assert copies.observation_space.contains(observations)
        for copy, single in enumerate(singles):
            if over[copy]:
                drawn.add(starts.index(observations[copy].tobytes()))
                expected = single.reset(seed=40 + starts.index(observations[copy].tobytes()))[0], 0.0, False, False
            else:
                expected = single.step(actions[copy])[:4]
            np.testing.assert_array_equal(observations[copy], expected[0])
            assert rewards[copy] == pytest.approx(expected[1], abs=1e-6)
            assert (terminated[copy], truncated[copy]) == expected[2:]
            over[copy] = expected[2] or expected[3]
            ends += over[copy]
    assert ends > 6
    assert drawn == {0, 1}


@pytest.mark.parametrize(
    ("id", "options"),
    [
        ("jaxprl/Karel-DoorKey-v0", {}),
        ("jaxprl/MiniGrid-PutNear-6x6-N2-v0", {"observation": "view", "jax_arrays": True}),
    ],
)
def test_a_mask_resets_the_copies_that_gymnasiums_own_resets(id, options):
    """Observations, rewards, ends and infos of seeded resets of some copies, against `SyncVectorEnv`."""
    asarray, shared = jnp.asarray if "jax_arrays" in options else np.asarray, {"max_steps": 4, "layout_seeds": (40,)}
    ours = gymnasium.make_vec(id, num_envs=3, **options, **shared)
    single = functools.partial(make, id, **shared, **{name: options[name] for name in options.keys() - {"jax_arrays"}})
    theirs = gymnasium.vector.SyncVectorEnv([single] * 3, autoreset_mode=ours.metadata["autoreset_mode"])
    rng = np.random.default_rng(0)

    def compare(found, expected):
        *arrays, infos = found
        for one, other in zip(arrays, expected[:-1], strict=True):
            np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), atol=1e-6)
        assert infos.keys() == expected[-1].keys()
        for name, fact in infos.items():
            np.testing.assert_array_equal(fact, expected[-1][name])

    def both(seed, mask=None):
        masks = [{} if mask is None else {"reset_mask": kind(mask)} for kind in (asarray, np.asarray)]
        compare(ours.reset(seed=seed, options=masks[0]), theirs.reset(seed=seed, options=masks[1]))

    both([5, 6, 7])
    both(11)
    waiting = 0
    for seed, mask in (
        (8, [True, False, False]),
        ([-1, 9, 10], [False, True, True]),  # the seed of a copy that stays does not count
        ([None, None, 12], [False, False, True]),
        (2**32 - 2, [True, True, False]),
        (20, [True, True, True]),
    ):
        over = np.zeros(3, bool)
        for _ in range(int(rng.integers(1, 5))):
            actions = rng.integers(3, size=3)
            compare(ours.step(asarray(actions)), expected := theirs.step(actions))
            over = expected[2] | expected[3]
        waiting += (over & ~np.array(mask)).sum()
        both(seed, mask)
        for _ in range(2):  # a copy whose episode was over starts again, unless the mask has started it
            actions = rng.integers(3, size=3)
            compare(ours.step(asarray(actions)), theirs.step(actions))
    assert waiting


def test_a_mask_without_seeds_draws_layouts_and_repeats():
    def play():
        copies = gymnasium.make_vec("jaxprl/Karel-Maze-v0", num_envs=4, layout_seeds=range(40))
        seen = [copies.reset(seed=3)[0], copies.step(np.zeros(4, int))[0]]
        options = {"reset_mask": np.array([False, True, False, True])}
        seen += [copies.reset(options=options)[0] for _ in range(5)]
        assert list(options) == ["reset_mask"]
        return seen

    first, second = play(), play()
    np.testing.assert_array_equal(first, second)
    _, stepped, *resets = first
    for observations in resets:
        np.testing.assert_array_equal(observations[[0, 2]], stepped[[0, 2]])
    assert len({observations[1].tobytes() for observations in resets}) > 1


def test_gymnasiums_statistics_see_the_mask():
    copies = gymnasium.make_vec("jaxprl/Karel-DoorKey-v0", num_envs=2)
    copies = gymnasium.wrappers.vector.RecordEpisodeStatistics(copies)
    copies.reset(seed=0)
    for _ in range(3):
        copies.step(np.ones(2, int))
    copies.reset(options={"reset_mask": np.array([True, False])})
    assert copies.episode_lengths.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([True, False], "one value per copy, not list"),
        (None, "one value per copy, not NoneType"),
        (jnp.array([True, False]), "an array of bool .2., one value per copy, not Array"),
        (np.array([1, 0]), r"not int64 \[2\]"),
        (np.array([True]), r"not bool \[1\]"),
        (np.array([[True, False]]), r"not bool \[1, 2\]"),
        (np.array([False, False]), "it resets no copy"),
    ],
)
def test_a_mask_that_is_none_is_refused_and_nothing_is_reset(mask, message):
    copies = gymnasium.make_vec("jaxprl/Karel-DoorKey-v0", num_envs=2)
    with pytest.raises(gymnasium.error.ResetNeeded, match="of all copies"):
        copies.reset(options={"reset_mask": np.array([True, False])})
    copies.reset(seed=0)
    before = copies.lanes
    with pytest.raises(UserError, match=f"reset_mask: .*{message}"):
        copies.reset(options={"reset_mask": mask})
    for seed, wrong in (([1], "1 seeds for 2 copies"), ([-1, 0], "from 0 to"), ("01", "expected an integer")):
        with pytest.raises(UserError, match=wrong):
            copies.reset(seed=seed, options={"reset_mask": np.array([True, False])})
    assert copies.lanes is before


def test_copies_repeat_render_and_stay_on_the_device():
    def play():
        copies = gymnasium.make_vec("jaxprl/Karel-DoorKey-v0", num_envs=2, max_steps=5, render_mode="rgb_array", cell=8)
        copies.reset(seed=3)
        seen = [copies.step(np.array([step % 5, 0]))[0] for step in range(20)]
        return copies, seen

    (copies, first), (_, second) = play(), play()
    np.testing.assert_array_equal(first, second)
    pictures = copies.render()
    assert len(pictures) == 2
    assert pictures[0].shape == (64, 64, 3)
    assert (pictures[0] != pictures[1]).any()
    on_device = gymnasium.make_vec("jaxprl/Karel-DoorKey-v0", num_envs=2, jax_arrays=True)
    assert isinstance(on_device.reset(seed=3)[0], jax.Array)
    assert all(isinstance(array, jax.Array) for array in on_device.step(jnp.array([0, 1]))[:4])


def test_gymnasiums_own_copies_work_too():
    copies = gymnasium.make_vec("jaxprl/Karel-DoorKey-v0", num_envs=2, vectorization_mode="sync")
    observations, _ = copies.reset(seed=3)
    ours, _ = gymnasium.make_vec("jaxprl/Karel-DoorKey-v0", num_envs=2).reset(seed=3)
    np.testing.assert_array_equal(observations, ours)


@pytest.mark.parametrize("name", ["DoorKey", "LavaGap"])
def test_functions_of_jax_do_what_the_environment_does(name):
    env = functional.make_env(name, layout_seeds=range(4))
    single = make({task: id for id, task in IDS.items()}[name])
    step, observe = jax.jit(env.step), jax.jit(env.observe)
    rng = np.random.default_rng(2)
    for layout in range(4):
        state = env.start(layout)
        found, _ = single.reset(seed=layout)
        over = False
        for _ in range(40):
            np.testing.assert_array_equal(observe(state), found)
            action = int(rng.integers(len(env.actions)))
            before = state
            state, reward, terminated = step(state, action)
            if over:
                assert reward == 0
                assert terminated
                assert jax.tree.all(jax.tree.map(lambda old, new: bool((old == new).all()), before, state))
            else:
                found, expected, over, *_ = single.step(action)
                assert (float(reward), bool(terminated)) == (expected, over)


def test_functions_of_jax_draw_every_layout():
    env = functional.make_env("Maze", layout_seeds=range(5))
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 100))
    observations = jax.vmap(env.observe)(states)
    assert observations.shape == (100, 16, 8, 8)
    assert len(np.unique(np.asarray(observations).reshape(100, -1), axis=0)) == 5
