"""The program VAE learns, resumes exactly, and is a space that can be searched."""

import dataclasses
import functools
import json
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprl.cli import train as command
from jaxprl.dsl import encode, text
from jaxprl.errors import Stopped, UserError
from jaxprl.latent import data, free_run, kinds, sequences, train, vae
from jaxprl.latent.grammar import Grammar, masks
from jaxprl.latent.space import SHIPPED, LatentSpace, Origin
from jaxprl.nn import linear
from jaxprl.runs.checkpoint import Every, flat, rebuilt
from jaxprl.runs.record import RunDirectory, read_lines
from jaxprl.runs.signals import StopRequest
from jaxprl.vm import plain
from jaxprl.worlds.karel.world import LANGUAGE as KAREL
from jaxprl.worlds.plain import WorldEnvironment
from jaxprl.worlds.task import Layout

TASK = data.RANDOM_STATES
GRAMMAR = Grammar.of(KAREL)
RECIPE = train.Recipe(batch=32, draws=128, sizes=kinds.Sizes(24, 16, 16, 8), warm_up=5, runs=2, run_steps=12)


random_states = jax.jit(data.random_states, static_argnums=(0, 2))


@pytest.fixture(scope="module")
def space():
    return LatentSpace(GRAMMAR, vae.init(GRAMMAR, jax.random.key(0), RECIPE.sizes), Origin(steps=3))


class Drawn(NamedTuple):
    """What becomes of a key: programs with their runs, the states that they begin in, and the batch made of them."""

    draw: data.Draw
    states: Any
    which: jax.Array
    batch: vae.Batch


@pytest.fixture(scope="module")
def drawn():
    """All of it from one compilation, which is what takes the time."""

    @jax.jit
    def everything(key):
        draw = data.draw(TASK, key, RECIPE.draws, runs=RECIPE.runs, steps=RECIPE.run_steps)
        _, state_key, which_key = jax.random.split(key, 3)
        states = data.random_states(TASK.world, state_key, RECIPE.draws)
        which = jax.random.randint(which_key, (RECIPE.draws, data.EXECUTIONS), 0, RECIPE.draws, jnp.int32)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, "draw", lambda *arguments, **options: draw)
            return Drawn(draw, states, which, train.batch_of(RECIPE, GRAMMAR, TASK, key))

    return everything(jax.random.key(0))


@pytest.fixture(scope="module")
def batch(drawn):
    return drawn.batch


def test_training_lowers_the_loss():
    state, first = train.advance(RECIPE, GRAMMAR, TASK, train.start(RECIPE, GRAMMAR), 4)
    for _ in range(25):
        state, last = train.advance(RECIPE, GRAMMAR, TASK, state, 4)
    assert float(last["loss"]) < 0.8 * float(first["loss"])
    assert float(last["token_accuracy"]) > float(first["token_accuracy"])
    assert float(last["rows"]) == RECIPE.batch


def test_a_training_goes_on_bit_for_bit():
    state, _ = train.advance(RECIPE, GRAMMAR, TASK, train.start(RECIPE, GRAMMAR), 4)
    kept = flat(state, "")
    whole, _ = train.advance(RECIPE, GRAMMAR, TASK, state, 4)
    resumed = rebuilt(train.start(RECIPE, GRAMMAR), "", kept)
    resumed, _ = train.advance(RECIPE, GRAMMAR, TASK, resumed, 4)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


@pytest.mark.full
def test_a_command_trains_as_many_steps_as_it_is_asked_for(tmp_path):
    """Also when that is no whole number of calls; later calls end at the same steps as ever."""
    directory = RunDirectory(tmp_path / "run", {})
    training, every = command.Training(RECIPE, directory), Every(seconds=1000)
    with StopRequest() as stop:
        with pytest.raises(UserError, match="nothing has been trained yet"):
            training.run(0, float("inf"), every, stop)
        for steps in (2, 4):
            training.run(steps, float("inf"), every, stop)
            assert int(training.state.step) == steps
    assert [row["step"] for row in read_lines(directory.path / "metrics.jsonl")] == [2, 4]
    directory.close()
    whole, _ = train.advance(RECIPE, GRAMMAR, TASK, train.start(RECIPE, GRAMMAR), 4)
    jax.tree.map(np.testing.assert_array_equal, training.state, whole)


def test_a_training_that_a_signal_stops_goes_on_as_if_nothing_had_been(tmp_path):
    def trained(out, *, resume=False, stopped_at=None):
        """The records, times aside, and the state of a training up to 12 steps."""
        directory = RunDirectory(out, {}, resume=resume)
        training = command.Training(RECIPE, directory)
        training.load()
        with StopRequest() as stop:
            record = directory.append

            def append(name, row):
                record(name, row)
                if row["step"] == stopped_at:
                    signal.raise_signal(signal.SIGTERM)
                    while not stop.signal:
                        time.sleep(0.01)

            directory.append = append
            try:
                training.run(12, float("inf"), Every(), stop)
            finally:
                training.checkpoints.close()
                directory.close()
        rows = [row | {"seconds": None} for row in read_lines(out / "metrics.jsonl")]
        return rows, flat(training.state, "")

    rows, state = trained(tmp_path / "whole")
    with pytest.raises(Stopped, match="stopped after 4 steps; --resume goes on") as stopped:
        trained(tmp_path / "out", stopped_at=4)
    assert stopped.value.code == 75
    again, resumed = trained(tmp_path / "out", resume=True)
    assert again == rows
    for name, leaf in state.items():
        np.testing.assert_array_equal(leaf, resumed[name])


def test_packing_changes_nothing(batch):
    params = vae.init(GRAMMAR, jax.random.key(1), RECIPE.sizes)
    longest = int(batch.length.max())
    starts = [0, longest // 2]
    rows = [int((np.asarray(batch.length) > step).sum()) for step in starts]
    packing = (longest // 2, rows[0]), (longest - longest // 2, rows[1])
    short = batch._replace(tokens=batch.tokens[:, :longest], mask=batch.mask[:longest])
    loss = jax.jit(vae.loss, static_argnums=(3, 4))
    plain = loss(params, batch, jax.random.key(2), GRAMMAR)[0]
    packed = loss(params, short, jax.random.key(2), GRAMMAR, packing)[0]
    np.testing.assert_allclose(plain, packed, rtol=1e-5)


def test_the_gradient_through_a_gru_is_right():
    rng = np.random.default_rng(0)
    cell = vae.gru.init(jax.random.key(0), 3, 5)
    inputs, h, weights = (rng.standard_normal(shape, np.float32) for shape in ((4, 2, 15), (2, 5), (4, 2, 5)))

    def plain(w_h, b_h, inputs, h):
        states = []
        for step in inputs:
            h = vae.gru.step({"w_h": w_h, "b_h": b_h}, step, h)
            states.append(h)
        return jnp.stack(states)

    arguments = cell["w_h"], cell["b_h"] + 0.1, inputs, h
    ours, theirs = (
        jax.jit(jax.grad(lambda *args, unroll=unroll: jnp.sum(unroll(*args) * weights), (0, 1, 2, 3)))(*arguments)
        for unroll in (vae.gru.unroll, plain)
    )
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, atol=1e-5)


def test_data_is_what_the_programs_do(drawn):
    """Actions and perceptions of the batched runs, against the plain-Python interpreter."""
    draw, states, which, _ = jax.tree.map(np.asarray, drawn)
    looked_at = 0
    for index in np.flatnonzero(draw.wanted):
        program = encode.decode(draw.programs[index], KAREL)
        for number in range(2):
            start = jax.tree.map(lambda leaf, state=which[index, number]: leaf[state], states)
            rows, ended = _behaviour(program, start)
            wanted = rows + [(5, None)] * ended
            length = draw.executions.length[index, number]
            assert length == min(len(wanted), 12)
            for step, (action, seen) in enumerate(wanted[:12]):
                assert draw.executions.action[index, number, step] == action
                assert seen is None or draw.executions.seen[index, number, step] == seen
            looked_at += len(rows)
    assert looked_at > 100


def _behaviour(program, start) -> tuple[list[tuple[int, int]], bool]:
    """Actions of a program, in plain Python, up to 100, each with the perceptions before it; and whether it ended."""
    environment = WorldEnvironment(TASK, Layout(start, (), np.int32(1)))
    rows: list[tuple[int, int]] = []

    class Enough(Exception):
        pass

    class Watched:
        call_limit, terminated_hides_crash = environment.call_limit, environment.terminated_hides_crash
        perceive, key = environment.perceive, environment.key

        def act(self, action, *, at_limit):
            if len(rows) == kinds.LEAPS.most_actions:
                raise Enough
            seen = sum(environment.perceive(name) << bit for bit, name in enumerate(KAREL.perception_names))
            rows.append((KAREL.action_names.index(action), seen))
            return environment.act(action, at_limit=at_limit)

    try:
        plain.run(program, Watched())
    except Enough:
        return rows, False
    return rows, len(rows) < kinds.LEAPS.most_actions


def test_random_states_are_as_described():
    states = random_states(TASK.world, jax.random.key(0), 4000)
    cells = np.asarray(states.cells).reshape(4000, 10, 10)[:, 1:-1, 1:-1]
    walls, markers = (cells & 0x10) > 0, cells & 0x0F
    assert walls[:, [0, -1]].all()
    assert walls[:, :, [0, -1]].all()
    inner = walls[:, 1:-1, 1:-1]
    assert abs(inner.mean() - 0.1) < 0.005
    assert abs(markers[:, 1:-1, 1:-1][~inner].mean() - 0.1) < 0.005
    assert set(np.unique(markers)) == {0, 1}
    assert not markers[walls].any()
    row, column = TASK.world.position(np.asarray(states.cell))
    assert not walls[np.arange(4000), row, column].any()
    assert set(np.unique(states.direction)) == {0, 1, 2, 3}
    assert len(np.unique(states.cell)) == 36


def test_held_out_programs_are_never_trained_on(batch):
    held_out = data.held_out_programs(TASK, 0, 60)
    assert len(np.unique(held_out, axis=0)) == 60
    assert data.is_held_out(jnp.asarray(held_out)).all()
    np.testing.assert_array_equal(held_out[:20], data.held_out_programs(TASK, 0, 20))
    trained, _ = jax.jit(jax.vmap(functools.partial(sequences.to_nodes, GRAMMAR)))(batch.tokens)
    assert not data.is_held_out(trained).any()
    assert len(np.unique(np.asarray(trained), axis=0)) == RECIPE.batch


def test_programs_whose_branches_are_not_all_exercised_are_left_out():
    programs = [
        "DEF run m( move m)",
        "DEF run m( REPEAT R=0 r( move r) m)",
        "DEF run m( move IF c( not c( frontIsClear c) c) i( turnLeft i) m)",
        "DEF run m( WHILE c( frontIsClear c) w( turnLeft turnRight w) move m)",
        "DEF run m( IF c( markersPresent c) i( IF c( noMarkersPresent c) i( move i) i) m)",
    ]
    nodes = encode.encode_all([text.from_text(program, KAREL) for program in programs], KAREL)
    states = random_states(TASK.world, jax.random.key(0), 4000)
    which = np.arange(len(programs) * 10, dtype=np.int32).reshape(-1, 10)
    run = jax.jit(functools.partial(data.execute, TASK, runs=1, steps=4))
    assert run(nodes, states, which).exercised.tolist() == [True, False, True, True, False]


def test_a_space_decodes_a_batch_as_it_decodes_one(space):
    z = jax.random.normal(jax.random.key(1), (3, 40, space.size), jnp.float32)
    programs, valid = space.decode(z)
    assert programs.shape == (3, 40, encode.WIDTH)
    assert valid.shape == (3, 40)
    for place in ((0, 0), (1, 7), (2, 39)):
        program, fine = space.decode(z[place])
        np.testing.assert_array_equal(program, programs[place])
        assert fine == valid[place]
    for nodes in np.asarray(programs)[np.asarray(valid)]:
        assert text.token_count(encode.decode(nodes, KAREL)) <= 45
    assert len(np.unique(np.asarray(programs).reshape(120, -1), axis=0)) > 20
    assert space.decode(z[:0])[0].shape == (0, 40, encode.WIDTH)


def test_a_sequence_does_not_depend_on_those_beside_it_by_a_single_bit():
    """At the sizes of the model that ships: products of other sizes could be rounded otherwise."""
    shapes = jax.eval_shape(lambda: vae.init(GRAMMAR, jax.random.key(0))["decoder"])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.1 * rng.standard_normal(leaf.shape), jnp.float32), shapes)
    latents = jax.random.normal(jax.random.key(1), (512, kinds.LEAPS.sizes.latent), jnp.float32)
    size = kinds.LEAPS.sizes.decoder

    @jax.jit
    def first_step(latents):
        lanes = free_run.first_lanes(GRAMMAR, params, latents)
        h = vae.gru.step(params["gru"], lanes.always[:, : 3 * size], lanes.h)
        hidden = jnp.tanh(h @ params["hidden"]["w"][:, :size].T + lanes.always[:, -size:])
        return lanes.always, h, linear.apply(params["out"], hidden)

    whole = [np.asarray(leaf) for leaf in first_step(latents)]
    for count in (64, 192):
        rows = rng.permutation(512)[:count]
        for part, leaf in zip(first_step(latents[rows]), whole, strict=True):
            np.testing.assert_array_equal(part, leaf[rows])


@pytest.mark.full
@pytest.mark.skipif(not SHIPPED.exists(), reason="no model yet")
def test_a_latent_decodes_to_the_same_program_in_any_company():
    space = LatentSpace.load()
    latents = np.asarray(jax.random.normal(jax.random.key(2), (600, space.size), jnp.float32))
    programs = np.asarray(space.decode(latents)[0])
    for rows in (np.arange(1), np.arange(70, 130), np.arange(600)[::-2]):
        np.testing.assert_array_equal(space.decode(latents[rows])[0], programs[rows])


def test_free_running_says_what_teacher_forcing_says(space):
    """The decoder under its own tokens, in stages that drop ended sequences, against one pass over them."""
    latent = jax.random.normal(jax.random.key(1), (4 * free_run.FEWEST, space.size), jnp.float32)
    written, ended = jax.jit(free_run.free_run, static_argnums=0)(GRAMMAR, space.params, latent)
    assert ended.all()
    unstaged, _ = jax.jit(functools.partial(free_run.free_run, in_stages=False), static_argnums=0)(
        GRAMMAR, space.params, latent
    )
    np.testing.assert_array_equal(written, unstaged)
    scores = jax.jit(vae.logits)(space.params, latent, vae.inputs_of(GRAMMAR, written))
    allowed = np.asarray(masks(GRAMMAR, written))
    scores = np.where(allowed, scores, -np.inf)
    chosen = np.take_along_axis(scores, np.asarray(written).T[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(chosen, scores.max(axis=2), atol=1e-4)
    lengths = (np.asarray(written) != GRAMMAR.padding).sum(axis=1)
    assert len(set(lengths.tolist())) > 5


def test_a_space_names_what_it_does_not_hold(space):
    def nodes(program):
        return encode.encode(text.from_text(program, KAREL), KAREL, 128)

    assert space.encode(nodes("DEF run m( move m)")).shape == (24,)
    with pytest.raises(UserError, match="more than 45 tokens: DEF run"):
        space.encode(nodes("DEF run m( " + "move " * 42 + "m)"))
    assert space.encode(nodes("DEF run m( " + "move " * 41 + "m)")).shape == (24,)
    with pytest.raises(UserError, match=r"words it never learned \(R=20\)"):
        space.encode(np.stack([nodes("DEF run m( move m)"), nodes("DEF run m( REPEAT R=20 r( move r) m)")]))


def test_a_model_file_keeps_the_space(space, tmp_path):
    file = tmp_path / "model.npz"
    space.save(file)
    loaded = LatentSpace.load(file)
    assert loaded.origin.steps == 3
    z = jax.random.normal(jax.random.key(1), (64, space.size), jnp.float32)
    same = np.asarray(loaded.decode(z)[0] == space.decode(z)[0]).all(axis=1)
    assert same.mean() > 0.9  # weights are kept as float16
    content = dict(np.load(file))
    content["decoder.out.b"] = content["decoder.out.b"] + np.float16(1)
    np.savez(tmp_path / "other.npz", **content)
    with pytest.raises(UserError, match="damaged"):
        LatentSpace.load(tmp_path / "other.npz")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        LatentSpace.load(file)
    with pytest.raises(UserError, match="cannot be read"):
        LatentSpace.load(tmp_path / "none.npz")


@pytest.mark.skipif(not SHIPPED.exists(), reason="no model yet")
def test_the_shipped_model_gives_programs_back():
    space = LatentSpace.load()
    assert space.origin.report["reconstruction"]["programs"] >= 0.8
    held_out = data.held_out_programs(TASK, 0, 250)
    back, valid = space.decode(space.encode(held_out))
    assert valid.all()
    share = np.asarray(back == held_out).all(axis=1).mean()
    assert share >= space.origin.report["reconstruction"]["programs"] - 0.06
    drawn, valid = space.decode(jax.random.normal(jax.random.key(5), (250, space.size), jnp.float32))
    assert valid.mean() >= 0.95
    assert len(np.unique(np.asarray(drawn), axis=0)) > 200


@pytest.mark.full
def test_the_script_trains_resumes_and_exports(tmp_path):
    def script(*words):
        command = [sys.executable, "-m", "jaxprl", "train", "--out", tmp_path / "run", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert script("--steps", "4", "--no-report").returncode == 0
    done = script("--resume", "--steps", "4", "--no-report", "--export", tmp_path / "run" / "bare.npz")
    assert done.returncode == 0, done.stderr
    bare = LatentSpace.load(tmp_path / "run" / "bare.npz").origin
    assert (bare.steps, bare.report) == (4, {})
    assert not (tmp_path / "run" / "report.json").exists()
    done = script("--resume", "--steps", "8", "--export", tmp_path / "m.npz", "--report-programs", "1")
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "run" / "report.json").read_text())
    assert about["steps"] == 8
    assert dataclasses.asdict(LatentSpace.load(tmp_path / "m.npz").origin) == about
    assert "programs back whole" in (tmp_path / "run" / "report.txt").read_text()
