"""With `jax_enable_x64` everything gives the same, whoever sets it and when."""

import contextlib
import dataclasses
import functools
import itertools
import signal
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import ENGINES
from test_checkpoints import left_by

import jaxprl
import jaxprl.environments
from jaxprl.dsl import sample
from jaxprl.dsl.language import Language
from jaxprl.errors import Stopped
from jaxprl.experiment import ledger
from jaxprl.experiment.run import run
from jaxprl.latent.space import LatentSpace
from jaxprl.search.protocol import Neighbourhoods
from jaxprl.vm.evaluate import first_better
from jaxprl.worlds.karel.world import LANGUAGE


class Place(NamedTuple):
    number: jax.Array


@dataclasses.dataclass(frozen=True)
class Line:
    """A world whose rules name no types: JAX chooses those of sums, counts and indices."""

    language = Language("line", {"left": 0.5, "right": 0.5}, {"at_wall": 1.0}, 0.5)
    call_limit, terminated_hides_crash, poses = 50, True, 8

    def act(self, state, action, at_limit):
        steps = jnp.array([0, -1, 1])
        number = jnp.clip(state.number + steps[action], 0, jnp.arange(8).max())
        return Place(number), number - state.number

    def perceive(self, state, perception):
        return jnp.argmax(jnp.arange(8) == state.number) == 0

    def key(self, state):
        return state.number, None

    def pose(self, state):
        return None


def at_the_end(world, progress, state, event):
    gained = jnp.sum(jnp.array([True, False])) * event
    return state, progress + jnp.where(event != 0, 1, 0), gained, state.number == 7


def generate(seed, place=np.int32):
    return jaxprl.Layout(Place(place(seed)), np.int32(0), np.int32(8))


LINE = jaxprl.Task("Line", Line(), generate, at_the_end)


@contextlib.contextmanager
def everywhere():
    """Set the option as a user's script does, for all threads."""
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


WIDE = [pytest.param(everywhere, id="config"), pytest.param(lambda: jax.enable_x64(True), id="context")]
narrow = pytest.mark.skipif(jax.enable_x64.value, reason="everything runs with 64 bits")


def same(ours, theirs):
    """Compare pytrees of arrays, their types included."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert our.dtype == their.dtype
        np.testing.assert_array_equal(our, their)


def outcomes(task, engine):
    keys = jax.random.split(jax.random.key(3), 12)
    programs = np.asarray(sample.random_programs(task.language, keys))
    found = jaxprl.evaluate(task, programs, layout_seeds=range(4), engine=engine)
    return found.units, found.calls, found.actions, found.end


def answers(task, engine):
    keys = jax.random.split(jax.random.key(5), (2, 8))
    parents = sample.random_programs(task.language, keys[:, 0])
    programs, changed = sample.neighbours(task.language, parents, keys)
    question = Neighbourhoods(*map(np.asarray, (parents, programs, changed)), np.array([8, 5], np.int32))
    return first_better(task, question, task.layouts(range(4)), engine=engine)


@narrow
@pytest.mark.parametrize("wide", WIDE)
@pytest.mark.parametrize("engine", ENGINES)
def test_programs_do_the_same(engine, wide):
    for task in (LINE, jaxprl.make("Seeder")) if engine == "native" else (LINE,):
        before = outcomes(task, engine), answers(task, engine)
        with wide():
            after = outcomes(task, engine), answers(task, engine)
        same(after, before)
    assert before[0][0].any()


@narrow
@pytest.mark.parametrize("wide", WIDE)
def test_programs_drawn_are_the_same_also_in_a_users_function(wide):
    def drawn():
        keys = jax.random.split(jax.random.key(1), (3, 5))
        programs = sample.random_programs(LANGUAGE, keys[:, 0])
        inside = jax.jit(lambda keys: sample.random_programs(LANGUAGE, keys))(keys[:, 0])
        return programs, inside, sample.neighbours(LANGUAGE, programs, keys)

    before = drawn()
    with wide():
        same(drawn(), before)


@narrow
@pytest.mark.parametrize("wide", WIDE)
def test_environments_do_the_same_also_in_a_users_function(wide):
    def played(name, observation):
        env = jaxprl.make_env(name, layout_seeds=range(4), observation=observation)
        actions = jnp.asarray(
            np.random.default_rng(0).integers(0, len(env.actions), (6, 3))
        )  # of 64 bits, if there are

        def play(state, action):
            state, reward, terminated = jax.vmap(env.step)(state, action)
            return state, (jax.vmap(env.observe)(state), reward, terminated)

        start = jax.vmap(env.reset)(jax.random.split(jax.random.key(2), 3))
        one = env.step(env.start(jnp.argmax(jnp.arange(4))), jnp.argmin(actions[0]))
        return start, jax.jit(lambda start: jax.lax.scan(play, start, actions))(start), one

    def stepped():
        envs = gymnasium.make_vec("jaxprl/Karel-Seeder-v0", num_envs=3, layout_seeds=range(4), jax_arrays=True)
        rows = [envs.reset(seed=7)[0]]
        return rows + [envs.step(jnp.argmax(jnp.eye(5)[row], axis=1))[:4] for row in jnp.array([[0, 1, 2], [3, 4, 0]])]

    before = played("LavaGap", "view"), stepped()
    with wide():
        same((played("LavaGap", "view"), stepped()), before)


@narrow
@pytest.mark.parametrize("wide", WIDE)
def test_a_learned_space_is_the_same(wide):
    def decoded():
        space = LatentSpace.load()
        latents = np.random.default_rng(0).standard_normal((40, space.size))
        programs, valid = space.decode(latents)
        again = space.decode(jnp.asarray(latents))  # of 64 bits, if there are
        return programs, valid, again, space.encode(np.asarray(programs)[np.asarray(valid)])

    before = decoded()
    with wide():
        same(decoded(), before)


@narrow
def test_a_task_is_checked_as_ever():
    other = dataclasses.replace(LINE, generate=functools.partial(generate, place=np.int64))
    for wide in (contextlib.nullcontext, everywhere):
        with wide():
            assert isinstance(jaxprl.check(jaxprl.make("Seeder")), list)
            with pytest.raises(jaxprl.UserError, match="numpy scalar or one-dimensional array of bool, uint8, int32"):
                jaxprl.check(other)


class Later:
    """Asks a run to stop after some batches."""

    def __init__(self):
        self.asked = itertools.count()

    @property
    def signal(self):
        return signal.SIGTERM if next(self.asked) > 3 else None


@narrow
@pytest.mark.parametrize("method", ["hc", "cebs"])
def test_a_run_goes_on_with_the_other_types(method, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_004))
    config = jaxprl.Config(task="Seeder", method=method, seeds=range(2), budget=600, layouts=range(4))
    run(config, tmp_path / "whole")
    whole = left_by(tmp_path / "whole")
    assert whole["seed-0"]["evaluated"] == 600
    for name, first, then in (
        ("wider", contextlib.nullcontext, everywhere),
        ("narrower", everywhere, contextlib.nullcontext),
    ):
        with first(), pytest.raises(Stopped):
            run(config, tmp_path / name, stop=Later())
        with then():
            run(config, tmp_path / name, resume=True)
        assert left_by(tmp_path / name) == whole
