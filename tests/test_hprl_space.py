"""The program space of kind `hprl`: its programs, against a plain-Python twin, and its latents."""

import collections
import dataclasses
import functools
import json
import random
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import SIGNIFICANCE, p_value

from jaxprl.cli.main import main
from jaxprl.dsl import encode
from jaxprl.dsl.language import COUNTS
from jaxprl.dsl.sample import random_programs
from jaxprl.dsl.text import from_text
from jaxprl.errors import UserError
from jaxprl.latent import data, kinds, train, vae
from jaxprl.latent.grammar import Grammar
from jaxprl.latent.simplify import simplified
from jaxprl.latent.space import SHIPPED_HPRL, LatentSpace
from jaxprl.methods.latent import ActionSpace, random_latents
from jaxprl.runs.record import RunDirectory
from jaxprl.search.latent import neighbours
from jaxprl.search.protocol import search_keys
from jaxprl.worlds.karel.world import LANGUAGE as KAREL
from jaxprl.worlds.karel.world import WALL

LANGUAGE = kinds.HPRL.language(KAREL)
GRAMMAR = Grammar.of(LANGUAGE)
SIZES = kinds.Sizes(8, 16, 16, 8)
DROPPED = None
DRAWN = 6000


def twin(text: str) -> str | None:
    """Simplify a program's text in plain Python; None if it is dropped."""
    words = text.split()
    opposites = [{"turnLeft", "turnRight"}, {"pickMarker", "putMarker"}]
    place = 0
    while place + 1 < len(words):
        if {words[place], words[place + 1]} in opposites:
            del words[place : place + 2]
            place = 0
        else:
            place += 1
    text = " ".join(words)
    empty = re.search(r"([mwire])\( \1\)", text)
    only_markers = re.search(r"w\(( (pick|put)Marker)+ w\)", text)
    forced = {"DEF", "run", "m(", "c(", "c)", "w(", "i(", "r(", "ELSE", "e("}
    choices = " " + " ".join(word for word in words if word not in forced)
    repeats = re.search(r"(( \S+)+?)\1{8}(?= |$)", choices)
    return DROPPED if empty or only_markers or repeats else text


def drawn_text(rng: random.Random) -> str:
    """Draw a program in plain Python with the probabilities of HPRL, within the limits of the language."""
    longest = tallest = 0

    def choice(weights):
        return rng.choices(list(weights), list(weights.values()))[0]

    def condition(*, plain):
        perception = choice(KAREL.perceptions)
        return f"not c( {perception} c)" if not plain and rng.random() < 0.1 else perception

    def block(height):
        return statement(1, height + 1)

    def statement(position, height):
        nonlocal longest, tallest
        longest, tallest = max(longest, position if position < 6 else 1), max(tallest, height)
        weights = {"While": 0.15, "Repeat": 0.03, "Concat": 0.4, "If": 0.08, "IfElse": 0.04, "Action": 0.3}
        if height >= 4:
            weights = {"Concat": 0.4, "Action": 0.3}
        if position >= 6:
            del weights["Concat"]
        match choice(weights):
            case "While":
                return f"WHILE c( {condition(plain=False)} c) w( {block(height)} w)"
            case "If":
                return f"IF c( {condition(plain=False)} c) i( {block(height)} i)"
            case "IfElse":
                test = condition(plain=True)
                return f"IFELSE c( {test} c) i( {block(height)} i) ELSE e( {block(height)} e)"
            case "Repeat":
                return f"REPEAT R={rng.randint(2, 5)} r( {block(height)} r)"
            case "Concat":
                return f"{statement(6, height)} {statement(position + 1, height)}"
        return choice(KAREL.actions)

    while True:
        text = f"DEF run m( {statement(1, 1)} m)"
        if len(text.split()) <= 40:
            return text


@functools.cache
def simplify():
    return jax.jit(functools.partial(simplified, GRAMMAR))


def ours(nodes):
    """Simplify programs by array code; returns their texts."""
    found, kept = (np.asarray(leaf) for leaf in simplify()(nodes))
    assert not found[~kept].any()
    return [str(encode.decode(row, KAREL)) if fine else DROPPED for row, fine in zip(found, kept, strict=True)]


@functools.cache
def drawn():
    """Return random programs as texts, and simplified."""
    nodes = np.asarray(random_programs(LANGUAGE, jax.random.split(jax.random.key(0), DRAWN)))
    return [str(encode.decode(row, KAREL)) for row in nodes], ours(nodes)


STAYS = object()
BRANCH = "IFELSE c( frontIsClear c) i( move i) ELSE e( turnLeft e) "
HAND_MADE = {
    "turnLeft turnRight move": "move",
    "turnRight turnLeft move": "move",
    "pickMarker putMarker move": "move",
    "putMarker pickMarker move": "move",
    "turnLeft turnLeft turnRight turnRight move": "move",
    "turnLeft pickMarker putMarker turnRight move": "move",
    "turnLeft move pickMarker putMarker turnRight": "turnLeft move turnRight",
    "turnLeft turnLeft turnRight": "turnLeft",
    "turnLeft turnLeft turnLeft": STAYS,
    "pickMarker turnLeft putMarker": STAYS,
    "turnLeft turnRight": DROPPED,
    "turnLeft IF c( frontIsClear c) i( turnRight i) turnLeft": STAYS,
    "IF c( frontIsClear c) i( turnLeft turnRight i) move": DROPPED,
    "IFELSE c( frontIsClear c) i( move i) ELSE e( turnLeft turnRight e)": DROPPED,
    "IFELSE c( frontIsClear c) i( turnLeft turnRight i) ELSE e( move e)": DROPPED,
    "IFELSE c( frontIsClear c) i( turnLeft i) ELSE e( turnRight e)": STAYS,
    "REPEAT R=2 r( putMarker pickMarker r)": DROPPED,
    "WHILE c( markersPresent c) w( pickMarker w)": DROPPED,
    "WHILE c( not c( markersPresent c) c) w( putMarker putMarker w) move": DROPPED,
    "WHILE c( markersPresent c) w( pickMarker move w)": STAYS,
    "WHILE c( frontIsClear c) w( pickMarker turnLeft turnRight w)": DROPPED,
    "WHILE c( frontIsClear c) w( move WHILE c( markersPresent c) w( pickMarker w) w)": DROPPED,
    "WHILE c( frontIsClear c) w( IF c( markersPresent c) i( pickMarker i) w)": STAYS,
    "IF c( markersPresent c) i( pickMarker i)": STAYS,
    " ".join(["move"] * 8 + ["turnLeft"]): STAYS,
    " ".join(["move"] * 9): DROPPED,
    " ".join(["turnLeft"] + ["move"] * 9 + ["turnLeft"]): DROPPED,
    " ".join(["move turnLeft"] * 8 + ["move"]): STAYS,
    " ".join(["move turnLeft"] * 9): DROPPED,
    " ".join(["putMarker move turnLeft"] * 9): DROPPED,
    " ".join(["move putMarker pickMarker"] * 9): DROPPED,
    " ".join(["move turnLeft turnLeft pickMarker"] * 8): STAYS,
    "REPEAT R=7 r( move r)": DROPPED,  # not a word of the space
}


def test_programs_are_simplified_and_dropped_by_the_rules():
    wanted = {f"DEF run m( {body} m)": new for body, new in HAND_MADE.items()}
    wanted = {old: old if new is STAYS else new and f"DEF run m( {new} m)" for old, new in wanted.items()}
    found = ours(encode.encode_all([from_text(text, KAREL) for text in wanted], KAREL))
    assert dict(zip(wanted, found, strict=True)) == wanted
    assert [twin(text) for text in wanted][:-1] == found[:-1]


def test_random_programs_are_simplified_as_in_plain_python():
    texts, found = drawn()
    assert found == [twin(text) for text in texts]
    assert DRAWN / 100 < found.count(DROPPED) < DRAWN / 5
    changed = [new for text, new in zip(texts, found, strict=True) if new not in (DROPPED, text)]
    assert len(changed) > DRAWN / 100
    assert all(len(text.split()) <= 40 for text in texts)
    assert max(len(text.split()) for text in texts) > 35


def first_statement(text):
    word = text.split()[3]
    return word if word.isupper() else "action"


STATISTICS = {
    "tokens": lambda texts: [len(text.split()) for text in texts],
    "first statement": lambda texts: [first_statement(text) for text in texts],
    "counts": lambda texts: [word for text in texts for word in text.split() if word.startswith("R=")],
    "while": lambda texts: [text.count("WHILE") for text in texts],
    "two words": lambda texts: [tuple(text.split()[3:5]) for text in texts],
}


@pytest.mark.parametrize("statistic", STATISTICS)
def test_training_programs_are_distributed_as_those_drawn_in_plain_python(statistic):
    rng = random.Random(0)
    theirs = [text for text in (twin(drawn_text(rng)) for _ in range(DRAWN)) if text is not DROPPED]
    counters = [
        collections.Counter(STATISTICS[statistic](texts))
        for texts in (theirs, [text for text in drawn()[1] if text is not DROPPED])
    ]
    assert sum(count >= 20 for count in counters[0].values()) >= 4
    assert p_value(*counters) > SIGNIFICANCE


def test_states_for_it_have_more_walls():
    states = jax.jit(lambda key: data.random_states(data.RANDOM_STATES.world, key, 4000, walls=kinds.HPRL.walls))
    cells = np.asarray(states(jax.random.key(0)).cells).reshape(4000, 10, 10)[:, 2:-2, 2:-2]
    assert abs((cells & WALL > 0).mean() - 0.15) < 0.005


def test_latents_are_the_tanh_of_actions():
    params = vae.init(GRAMMAR, jax.random.key(0), SIZES, kinds.HPRL)
    hprl, leaps = (LatentSpace(GRAMMAR, params, kind=kind) for kind in ("hprl", "leaps"))
    assert (hprl.kind, leaps.kind) == ("hprl", "leaps")
    action = 2 * jax.random.normal(jax.random.key(1), (50, 8), jnp.float32)
    latent = hprl.latent_of(action)
    np.testing.assert_allclose(latent, np.tanh(np.asarray(action)), rtol=1e-5)
    np.testing.assert_allclose(hprl.action_of(latent), action, atol=2e-2)
    np.testing.assert_array_equal(jax.jit(hprl.latent_of)(action), latent)
    np.testing.assert_array_equal(leaps.latent_of(action), action)
    np.testing.assert_array_equal(leaps.action_of(action), action)
    assert np.isfinite(hprl.action_of(jnp.array([-1.0, 1.0], jnp.float32))).all()
    texts = [text for text in drawn()[1] if text is not DROPPED][:30]
    programs = encode.encode_all([from_text(text, KAREL) for text in texts], KAREL)
    np.testing.assert_allclose(hprl.encode(programs), np.tanh(leaps.encode(programs)), rtol=1e-5)
    with pytest.raises(UserError, match=r"never learned \(R=7\)"):
        hprl.encode(encode.encode(from_text("DEF run m( REPEAT R=7 r( move r) m)", KAREL), KAREL))
    with pytest.raises(UserError, match="more than 40 tokens"):
        hprl.encode(encode.encode(from_text(f"DEF run m( {4 * BRANCH}m)", KAREL), KAREL))


def test_the_noise_of_a_training_is_a_tenth_and_squashed():
    """Where the mean is 0 and log sigma too, latents are the tanh of a tenth of the noise."""
    mean = jnp.zeros((2000, 4), jnp.float32)
    noise = kinds.HPRL.noise * jax.random.normal(jax.random.key(0), mean.shape, jnp.float32)
    latent = kinds.HPRL.latent_of(mean + noise)
    assert abs(float(latent.std()) - 0.1) < 0.003
    params = vae.init(GRAMMAR, jax.random.key(0), SIZES, kinds.HPRL)
    assert not np.asarray(params["encoder"]["log_sigma"]["b"]).any()


def test_a_model_file_says_its_kind(tmp_path):
    params = vae.init(GRAMMAR, jax.random.key(0), SIZES, kinds.HPRL)
    file = tmp_path / "model.npz"
    LatentSpace(GRAMMAR, params, kind="hprl").save(file)
    loaded = LatentSpace.load(file)
    assert (loaded.kind, loaded.size, loaded.grammar.language) == ("hprl", 8, LANGUAGE)
    arrays = dict(np.load(file))
    about = json.loads(arrays["about"].tobytes())
    for kind, message in (
        ("hprl2", "of kind 'hprl2'; this version knows leaps, hprl"),
        (["hprl"], r"of kind \['hprl'\]; this version knows"),
        (None, "of kind None; this version knows"),
        ("leaps", "has other words"),
    ):
        arrays["about"] = np.frombuffer(json.dumps(about | {"kind": kind}).encode(), np.uint8)
        np.savez(tmp_path / "other.npz", **arrays)
        with pytest.raises(UserError, match=message):
            LatentSpace.load(tmp_path / "other.npz")


def test_a_training_does_not_go_on_with_another_kind(tmp_path, capsys):
    RunDirectory(tmp_path / "run", dataclasses.asdict(train.Recipe.of(kinds.HPRL))).close()
    assert main(["train", "--out", str(tmp_path / "run"), "--resume", "--steps", "1"]) == 2
    assert "space_kind was 'hprl', is 'leaps'" in capsys.readouterr().err
    assert main(["train", "--out", str(tmp_path / "other"), "--space-kind", "other"]) == 2
    assert "'leaps', 'hprl'" in capsys.readouterr().err


def test_a_language_has_counts_of_its_own():
    assert list(LANGUAGE.counts) == [2, 3, 4, 5]
    assert KAREL.counts == COUNTS
    for counts in (range(0), range(60, 65), range(-1, 3)):
        with pytest.raises(UserError, match="at least one count, from 0 to 63"):
            dataclasses.replace(KAREL, counts=counts)


@pytest.mark.skipif(not SHIPPED_HPRL.exists(), reason="no model yet")
def test_the_shipped_model_gives_programs_back_and_can_be_searched():
    space = LatentSpace.load(SHIPPED_HPRL)
    report = space.origin.report["reconstruction"]["programs"]
    assert (space.kind, space.size) == ("hprl", 64)
    assert report >= 0.7
    draw = jax.jit(lambda key: data.draw(data.RANDOM_STATES, key, 832, runs=1, steps=1, kind=kinds.HPRL))
    known = draw(jax.random.key(0))
    programs = np.asarray(known.programs)[np.asarray(known.wanted)]
    assert len(np.unique(programs, axis=0)) == len(programs) > 250
    assert not data.is_held_out(jnp.asarray(programs)).any()
    texts = [str(encode.decode(row, KAREL)) for row in programs]
    assert [twin(text) for text in texts] == texts
    latents = space.encode(programs)
    assert (np.abs(np.asarray(latents)) < 1).all()
    back, valid = space.decode(latents)
    assert valid.all()
    assert np.asarray(back == programs).all(axis=1).mean() >= report - 0.06
    np.testing.assert_array_equal(space.decode(latents[100:130])[0], back[100:130])
    actions = 3 * jax.random.normal(jax.random.key(5), (250, space.size), jnp.float32)
    drawn_ones, valid = space.decode(space.latent_of(actions))
    assert valid.mean() >= 0.95
    assert len(np.unique(np.asarray(drawn_ones), axis=0)) > 200

    searched = ActionSpace(space)
    point = random_latents(searched)(search_keys([0, 1]), jnp.zeros(2, jnp.int32))
    keys = jax.vmap(lambda key: jax.random.split(key, 20))(search_keys([0, 1]))
    near, _ = neighbours(searched.decode, 2.0, point, keys, jnp.array([20, 20]))
    assert float(jnp.abs(near.latents).max()) > 1  # actions, whose latents are within bounds
    again, _ = space.decode(space.latent_of(near.latents))
    np.testing.assert_array_equal(again, near.programs)
    same, _ = searched.decode(searched.encode(programs))
    assert np.asarray(same == back).all(axis=1).mean() >= 0.99


@pytest.mark.full
def test_the_script_trains_resumes_and_exports_a_space_of_this_kind(tmp_path):
    def script(*words):
        command = [sys.executable, "-m", "jaxprl", "train", "--space-kind", "hprl", "--out", tmp_path / "run", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert script("--steps", "4", "--no-report").returncode == 0
    done = script("--resume", "--steps", "8", "--export", tmp_path / "m.npz", "--report-programs", "16")
    assert done.returncode == 0, done.stderr
    space = LatentSpace.load(tmp_path / "m.npz")
    assert (space.kind, space.size, space.origin.steps) == ("hprl", 64, 8)
    assert space.origin.command == "jaxprl train --space-kind hprl --seed 0 --steps 8"
    assert space.origin.report["valid"] > 0.9
    whole = [sys.executable, "-m", "jaxprl", "train", "--space-kind", "hprl", "--out", tmp_path / "whole"]
    subprocess.run([*whole, "--steps", "8", "--no-report", "--export", tmp_path / "w.npz"], check=True)
    assert LatentSpace.load(tmp_path / "w.npz").checksum == space.checksum
