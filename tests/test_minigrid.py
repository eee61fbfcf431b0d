"""The MiniGrid world against Farama's: every registered environment, both stepped with the same random actions."""

import functools

import gymnasium
import jax
import jax.numpy as jnp
import minigrid  # noqa: F401  (registers the environments)
import numpy as np
import pytest
from golden import load
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.world_object import Ball, Box, Door, Goal, Key, WorldObj
from minigrid.minigrid_env import MiniGridEnv

from jaxprl.errors import UserError
from jaxprl.worlds.make import make
from jaxprl.worlds.minigrid import act, from_farama, to_farama
from jaxprl.worlds.minigrid.world import BOX, COLORS, TYPES

DONE = 6
LEFT_OUT = ("Dynamic-Obstacles", "WFC")
"""Environments whose own step moves balls about, and those whose pattern files the package does not ship."""
IDS = sorted(
    name
    for name, spec in gymnasium.registry.items()
    if str(spec.entry_point).startswith("minigrid.") and not any(word in name for word in LEFT_OUT)
)


OF_RARE_SIZES = {
    "BabyAI-GoToObjS4-v0", "BabyAI-KeyCorridorS3R2-v0", "BabyAI-MoveTwoAcrossS8N9-v0", "BabyAI-OneRoomS12-v0",
    "BabyAI-OneRoomS20-v0", "BabyAI-PutNextS4N1-v0", "BabyAI-PutNextS7N4-v0", "BabyAI-PutNextS7N4Carrying-v0",
    "BabyAI-SynthS5R2-v0", "BabyAI-UnlockToUnlock-v0", "MiniGrid-KeyCorridorS3R2-v0", "MiniGrid-MemoryS17Random-v0",
    "MiniGrid-RedBlueDoors-6x6-v0",
}  # fmt: skip
"""Environments of known families, for whose sizes our world would be compiled for them alone."""


def snapshot(env):
    """Return what Farama's environment shows: grid uint8 [W, H, 3], position, direction, carried object."""
    cells = [(OBJECT_TO_IDX["empty"], 0, 0) if item is None else item.encode() for item in env.grid.grid]
    grid = np.array(cells, np.uint8).reshape(env.grid.height, env.grid.width, 3).transpose(1, 0, 2)
    carrying = None if env.carrying is None else (env.carrying.type, env.carrying.color)
    return grid, tuple(map(int, env.agent_pos)), int(env.agent_dir), carrying


def farama_run(env, seed, count, monkeypatch):
    """Reset an environment and step it with random actions.

    Returns our state of its start, the actions that reached the base step, and after each what the environment shows
    and whether the base rules ended the episode. An agent that has left through a door of the outer wall and looks out
    of the grid ends it: the package itself fails then.
    """
    env.reset(seed=seed)
    state = from_farama(env)
    seen = []

    def base_step(self, action, original=MiniGridEnv.step):
        result = original(self, action)
        seen.append((int(action), bool(result[2])))
        return result

    monkeypatch.setattr(MiniGridEnv, "step", base_step)
    monkeypatch.setattr(MiniGridEnv, "gen_obs", lambda self: {})
    shown = []
    for action in np.random.default_rng(seed).integers(0, 7, count):
        x, y = env.front_pos
        if not (0 <= x < env.grid.width and 0 <= y < env.grid.height):
            break
        env.step(action)
        shown.append(snapshot(env))
    monkeypatch.undo()
    return state, [action for action, _ in seen], shown, [ended for _, ended in seen]


@functools.partial(jax.jit)
def rollouts(states, actions):
    """Return the states after every one of the actions int32 [S, T], for S states."""

    def advance(state, action):
        state = act(state, action)
        return state, state

    return jax.vmap(lambda state, row: jax.lax.scan(advance, state, row)[1])(states, actions)


def check(name, seeds, count, monkeypatch):
    env = gymnasium.make(name).unwrapped
    runs = [farama_run(env, seed, count, monkeypatch) for seed in seeds]
    by_size = {}
    for run in runs:
        by_size.setdefault((run[0].width, run[0].height), []).append(run)
    for group in by_size.values():
        states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(run[0] for run in group))
        padded = [run[1] + [DONE] * (count - len(run[1])) for run in group]
        ours = jax.tree.map(np.asarray, rollouts(states, jnp.array(padded, jnp.int32)))
        for index, (_, actions, shown, ended) in enumerate(group):
            assert len(actions) == len(shown) == count or "GoToDoor" in name
            for step in range(len(shown)):
                got = to_farama(jax.tree.map(lambda leaf, i=index, t=step: leaf[i, t], ours))
                grid, *rest = shown[step]
                assert np.array_equal(got.grid, grid), (name, index, step)
                assert [got.agent_pos, got.agent_dir, got.carrying] == rest, (name, index, step)
                assert got.terminated == ended[step], (name, index, step)


def test_there_are_environments_to_compare_with():
    assert len(IDS) > 100
    assert set(IDS) > OF_RARE_SIZES
    assert {"MiniGrid-DoorKey-8x8-v0", "MiniGrid-MemoryS7-v0", "MiniGrid-LockedRoom-v0"} <= set(IDS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.full] if name in OF_RARE_SIZES else []) for name in IDS]
)
def test_every_environment_for_a_while(name, monkeypatch):
    check(name, range(2), 40, monkeypatch)


@pytest.mark.full
@pytest.mark.parametrize("name", IDS)
def test_every_environment_for_long(name, monkeypatch):
    check(name, range(20), 300, monkeypatch)


def test_numbers_are_faramas():
    assert {name: OBJECT_TO_IDX[name] for name in TYPES} == TYPES
    assert {name: COLOR_TO_IDX[name] for name in COLORS} == COLORS


def room(*items, carrying=None):
    """Return an empty room of the package with objects ahead of the agent, the first one next to it."""
    env = gymnasium.make("MiniGrid-Empty-8x8-v0").unwrapped
    env.reset(seed=0)
    for x, item in enumerate(items, 2):
        env.grid.set(x, 1, item)
    env.carrying = carrying
    return env


def test_the_snapshot_is_the_packages_encoding():
    env = room(Door("red", is_locked=True), Box("green", Key("blue")), Ball("grey"))
    assert np.array_equal(snapshot(env)[0], env.grid.encode())


def nested_box(depth):
    return Box("red", nested_box(depth - 1)) if depth > 1 else Key("yellow")


@pytest.mark.parametrize(
    ("items", "carrying", "actions"),
    [
        ([Box("green", Key("red")), Door("red", is_locked=True)], None, [5, 3, 2, 5, 2, 5, 5]),
        ([Door("blue", is_locked=True)], Key("red"), [5, 2, 4, 5]),
        ([Door("blue", is_locked=True)], Key("blue"), [5, 5, 5, 2, 2]),
        ([nested_box(3)], None, [5, 5, 3, 1, 4]),
        ([Box("grey", Ball("red"))], None, [3, 1, 4, 5, 5]),
        ([Ball("red"), Ball("blue")], None, [3, 2, 3, 4, 0, 4, 4]),
        ([Goal()], Ball("red"), [4, 2, 2, 5, 6]),
    ],
)
def test_objects_in_a_room(items, carrying, actions):
    env = room(*items, carrying=carrying)
    state = from_farama(env)
    for action in actions:
        ended = env.step(action)[2]
        state = act(state, action)
        grid, *rest = snapshot(env)
        got = to_farama(state)
        assert np.array_equal(got.grid, grid)
        assert [got.agent_pos, got.agent_dir, got.carrying] == rest
        assert got.terminated == ended


class Chest(WorldObj):
    def __init__(self):
        super().__init__("box", "red")


def overfull_ball():
    ball = Ball("red")
    ball.contains = Key("red")
    return ball


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Chest(), "Chest is no object that the world knows"),
        (nested_box(4), "boxes within boxes"),
        (Door("red", is_open=True, is_locked=True), "both open and locked"),
        (overfull_ball(), "only boxes can"),
    ],
)
def test_what_a_state_cannot_hold_is_refused(item, message):
    with pytest.raises(UserError, match=message):
        from_farama(room(item))
    with pytest.raises(UserError, match=message):
        from_farama(room(carrying=item))


def test_an_environment_that_is_not_reset_or_too_large_is_refused():
    env = gymnasium.make("MiniGrid-Empty-5x5-v0").unwrapped
    with pytest.raises(UserError, match="reset it first"):
        from_farama(env)
    env.reset(seed=0)
    env.grid = Grid(1100, 1000)
    with pytest.raises(UserError, match="1100 x 1000 cells"):
        from_farama(env)


@pytest.mark.parametrize("name", ["LavaGap", "PutNear", "RedBlueDoor"])
def test_layouts_of_every_seed(name):
    task = make(name)
    for row in load("layouts_minigrid")["tasks"][name]:
        layout = task.layout(row["seed"])
        cells = layout.state.cells.reshape(task.world.width + 2, task.world.stride)[1:-1, 1:-1]
        grid = np.array(row["grid"])
        assert ((cells & 15) == np.where(grid[..., 0] == 1, 0, grid[..., 0])).all()
        assert ((cells >> 4) & 7 == np.where(cells == 0, 0, grid[..., 1])).all()
        assert (cells >> 7 == grid[..., 2]).all()
        assert task.world.pose(layout.state) == [*row["agent_pos"], row["agent_dir"]]
        private = row["private"]
        if name == "PutNear":
            assert task.world.position(layout.progress.box) == tuple(private["target_pos"])
            assert layout.state.cells[layout.progress.box] & 15 == BOX
        if name == "RedBlueDoor":
            assert task.world.position(layout.progress.red) == tuple(private["red_door_pos"])
            assert task.world.position(layout.progress.blue) == tuple(private["blue_door_pos"])
