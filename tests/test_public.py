"""The public face: what `import jaxprl` offers, and what it says to those who use it wrongly."""

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprl
from jaxprl.experiment import ledger
from jaxprl.search.driver import drive
from jaxprl.search.protocol import search_keys
from jaxprl.vm import engines
from jaxprl.worlds import registry

WALK = "DEF run m( WHILE c( frontIsClear c) w( move w) m)"


@pytest.mark.parametrize("name", jaxprl.__all__)
def test_every_exported_name_has_an_example(name):
    assert ">>>" in (inspect.getdoc(getattr(jaxprl, name)) or ""), f"jaxprl.{name} has no example"


def modules_with_examples():
    for module in pkgutil.walk_packages(jaxprl.__path__, "jaxprl."):
        source = importlib.util.find_spec(module.name).origin
        with open(source, encoding="utf-8") as file:
            if ">>>" in file.read():
                yield module.name


@pytest.mark.parametrize("name", ["jaxprl", *modules_with_examples()])
def test_examples_say_the_truth(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert tried
    assert not failed


def test_names_are_found_and_others_are_not():
    assert set(jaxprl.__all__) <= set(dir(jaxprl))
    assert len(set(jaxprl.__all__)) == len(jaxprl.__all__) >= 18
    with pytest.raises(AttributeError, match="'jaxprl' has no attribute 'nonsense'"):
        _ = jaxprl.nonsense
    assert jaxprl.__version__ == "0.2.0"


@pytest.mark.parametrize("first", ["import jaxprl.methods.registry", "import jaxprl", "import jaxprl.experiment.run"])
def test_methods_can_be_listed_whatever_is_imported_first(first):
    code = f"{first}\nimport jaxprl, jaxprl.methods.hc as hc\nassert jaxprl.methods()['hc'] is hc.HC"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_program_is_read_from_either_notation_and_printed():
    task = jaxprl.make("DoorKey")
    program = jaxprl.parse(WALK, task)
    assert isinstance(program, jaxprl.Program)
    assert str(program) == WALK
    assert jaxprl.parse(program.to_python(), task.language) == program
    with pytest.raises(jaxprl.UserError, match="token 3: expected a statement"):
        jaxprl.parse("DEF run m( walk m)", task)
    with pytest.raises(jaxprl.UserError, match="'walk' is not an action"):
        jaxprl.parse("def run():\n    walk()", task)


def test_outcomes_have_named_columns():
    task = jaxprl.make("StairClimber")
    programs = [jaxprl.parse(text, task) for text in (WALK, "DEF run m( turnLeft move m)")]
    outcomes = jaxprl.evaluate(task, programs, layout_seeds=range(3))
    assert isinstance(outcomes, jaxprl.Outcomes)
    assert outcomes.returns.shape == outcomes.calls.shape == outcomes.ends.shape == (2, 3)
    assert outcomes.mean_returns.tolist() == pytest.approx(outcomes.returns.mean(axis=1).tolist())
    assert set(outcomes.ends.ravel()) <= {"T", "C", "TC", "E"}
    same = jaxprl.evaluate(task, programs, task.layouts(range(3)), engine="lanes")
    assert (same.returns == outcomes.returns).all()


def test_the_trace_adds_up_to_the_return():
    task = jaxprl.make("DoorKey")
    program = jaxprl.parse(WALK, task)
    found = jaxprl.trace(task, program, layout_seed=3)
    assert isinstance(found, jaxprl.Trace)
    outcomes = jaxprl.evaluate(task, [program], layout_seeds=[3])
    rows = found.rows()
    assert len(rows) == outcomes.calls.item()
    assert sum(row["reward"] or 0 for row in rows) == outcomes.returns.item()


def test_an_environment_is_traced_once():
    env = jaxprl.make_env("DoorKey", layout_seeds=range(2))
    step = jax.jit(chex.assert_max_traces(env.step, n=1))
    state = env.reset(jax.random.key(0))
    for action in range(4):
        state, reward, terminated = step(state, jnp.int32(action))
    chex.assert_shape([reward, terminated], ())
    assert jaxprl.draw(env.task, jax.device_get(state.world), cell=4).shape[2] == 3


def test_a_search_is_traced_once():
    """Its questions keep their shapes, whatever happens to the searches: what is compiled once serves to the end."""
    task = jaxprl.make("DoorKey")
    setup = jaxprl.methods()["hc"]

    @jax.jit
    @chex.assert_max_traces(n=1)
    def scored(programs, parents):
        return jnp.sum(programs % 7, axis=-1), jnp.sum(parents % 7, axis=-1)

    def answer(question):
        scores, parents = map(np.asarray, scored(question.programs, question.parents))
        wanted = np.arange(scores.shape[1]) < question.counts[:, None]
        beats = wanted & (scores > parents[:, None])
        first = np.where(beats.any(axis=1), beats.argmax(axis=1), -1).astype(np.int32)
        return type_of_answer(parents, first, scores[np.arange(len(first)), first])

    from jaxprl.search.hill_climbing import hill_climbing
    from jaxprl.search.program_space import mutations, random_starts
    from jaxprl.search.protocol import Improvements as type_of_answer  # noqa: N813
    from jaxprl.search.schedule import Constant

    assert setup.options().k == 250
    language = task.language
    search = hill_climbing(
        neighbours=lambda *given: mutations(language, *given),
        start=lambda *given: random_starts(language, *given),
        schedule=Constant(30),
        budget=300,
        goal=10**6,
    )
    state = drive(search, search.init(search_keys([0, 1])), answer, record=lambda event: None)
    assert state.evaluated.tolist() == [300, 300]


def test_a_run_from_python(tmp_path):
    config = jaxprl.Config(task="StairClimber", method="hc", seeds=range(2), budget=150, layouts=range(2))
    results = jaxprl.run(config, out=str(tmp_path / "out"))
    assert [result["seed"] for result in results] == [0, 1]
    assert (tmp_path / "out" / "seed-1" / "result.json").exists()
    with pytest.raises(jaxprl.UserError, match="is not empty"):
        jaxprl.run(config, out=tmp_path / "out")


def test_a_state_that_breaks_its_promise_is_refused():
    class Broken:
        evaluated, best, done = np.zeros(2, np.int64), np.zeros(2, np.int32), np.zeros(2, bool)

    with pytest.raises(AssertionError):
        drive(None, Broken(), None, record=None)


def test_a_slow_way_to_run_is_warned_of_once(monkeypatch):
    task = jaxprl.make("StairClimber")
    program = jaxprl.parse("DEF run m( move m)", task)
    monkeypatch.setenv("JAXPRL_CC", "")
    monkeypatch.setattr(engines, "has_whole_loops", lambda: False)
    for cached in vars(engines).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()
    with pytest.warns(UserWarning, match="prefer_whole_loops"):
        jaxprl.evaluate(task, [program], layout_seeds=[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxprl.evaluate(task, [program], layout_seeds=[0])


@pytest.mark.parametrize("method", ["hc", "leaps"])
def test_a_tasks_name_is_resolved_once(method, tmp_path, monkeypatch):
    """From then on the task itself is passed along."""
    resolved = []
    tasks = registry.tasks
    monkeypatch.setattr(registry, "tasks", lambda: resolved.append(1) or tasks())
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_002))
    jaxprl.run(jaxprl.Config("Seeder", method, budget=40, layouts=(0, 1)), tmp_path / "out")
    assert len(resolved) == 1


def task_and_program():
    task = jaxprl.make("DoorKey")
    return task, jaxprl.parse(WALK, task)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda task, program: jaxprl.evaluate("DoorKey", [program]), "expected a Task; jaxprl.make"),
        (lambda task, program: jaxprl.trace("DoorKey", program), "expected a Task; jaxprl.make"),
        (lambda task, program: jaxprl.parse(WALK, "DoorKey"), "expected a task or a Language"),
        (lambda task, program: jaxprl.parse(3, task), "program 3: expected text"),
        (lambda task, program: jaxprl.make(task), "expected a name, like DoorKey"),
        (lambda task, program: jaxprl.make("DoorKay"), "unknown task 'DoorKay'"),
        (lambda task, program: jaxprl.run("DoorKey", "out"), "'DoorKey': expected a Config"),
        (lambda task, program: jaxprl.run(jaxprl.Config(task), "out"), "expected a name, like DoorKey"),
        (lambda task, program: jaxprl.evaluate(task, program), "expected several programs, in a list"),
        (lambda task, program: jaxprl.evaluate(task, None), "expected several programs, in a list"),
        (lambda task, program: jaxprl.evaluate(task, [WALK]), "program 0: expected a Program"),
        (lambda task, program: jaxprl.evaluate(task, [jaxprl.Program(())]), "a block without a statement"),
        (lambda task, program: jaxprl.evaluate(task, [program], [0, 1]), "expected those of Task.layouts"),
        (lambda task, program: jaxprl.evaluate(task, [program], layout_seeds=5), "expected several seeds, like range"),
        (lambda task, program: jaxprl.evaluate(task, [program], layout_seeds=()), "layout seeds: none"),
        (
            lambda task, program: jaxprl.trace(jaxprl.make("LavaGap"), program),
            "program: 'frontIsClear' is not a perception of the language minigrid; known: front_is_clear",
        ),
        (lambda task, program: jaxprl.trace(task, WALK), "expected a Program, got 'DEF run"),
        (lambda task, program: jaxprl.draw(task, task.layout(0)), "expected one of this 8x8 KarelWorld"),
        (lambda task, program: jaxprl.draw(task, jaxprl.make("TopOff").layout(0).state), "this 8x8 KarelWorld"),
        (lambda task, program: jaxprl.draw(jaxprl.make("LavaGap"), task.layout(0).state), "MiniGridWorld, like"),
        (lambda task, program: jaxprl.register(3), "register takes a Task"),
        (lambda task, program: jaxprl.make_env("farama:LavaGap"), "farama:LavaGap"),
        (
            lambda task, program: jaxprl.methods()["annealing"].make_options({"start-temperature": 1.0}),
            "method annealing has no option --start-temperature; its options: --start-temperature, --cooling",
        ),
        (lambda task, program: jaxprl.methods()["hc"].make_options([3]), "expected a dictionary of names and values"),
    ],
)
def test_a_mistake_is_a_message(attempt, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(jaxprl.UserError, match=message):
        attempt(*task_and_program())


def test_options_may_be_an_instance():
    options = jaxprl.methods()["hc"].options(k=7)
    assert jaxprl.methods()["hc"].make_options(options) is options


def test_a_task_of_the_session_is_tried_out_before_a_run(tmp_path, monkeypatch):
    door_key = jaxprl.make("DoorKey")

    def generous(world, progress, state, event):
        return state, progress, 2, False

    with registry.apart():
        jaxprl.register(dataclasses.replace(door_key, name="Generous", reward=generous, quiet=False))
        with pytest.raises(jaxprl.UserError, match=r"'Generous': random actions .* returns go up to 1"):
            jaxprl.run(jaxprl.Config("Generous", "hc", budget=10), tmp_path / "out")
    assert not (tmp_path / "out").exists()
