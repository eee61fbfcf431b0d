"""Tasks from a user's own file: the worked examples run, and what can be wrong in a file is said in words."""

import json
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from llm_server import completion, serving
from test_interpreters import agreed, random_programs

from jaxprl.cli.main import dispatch
from jaxprl.dsl.language import Language
from jaxprl.dsl.text import from_text
from jaxprl.errors import UserError
from jaxprl.experiment import ledger
from jaxprl.experiment.config import Config
from jaxprl.experiment.job import resolve
from jaxprl.experiment.language_model import LLMAccess
from jaxprl.experiment.run import run
from jaxprl.llm.settings import Settings
from jaxprl.vm.evaluate import evaluate
from jaxprl.worlds import registry, task_files
from jaxprl.worlds.check import check
from jaxprl.worlds.make import make

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "experiments" / "custom_task.py"
NAMES = ("Fence", "Lift", "MountainCar")

CORRIDOR = """
import dataclasses, functools, jax.numpy as jnp
from typing import Any, NamedTuple
import numpy as np
from jaxprl.dsl.language import Language
from jaxprl.worlds import ops
from jaxprl.worlds.registry import register
from jaxprl.worlds.task import Layout, Task

class State(NamedTuple):
    place: Any

@dataclasses.dataclass(frozen=True)
class Corridor:
    language = Language("corridor", {"left": 0.5, "right": 0.5}, {"at_wall": 1.0}, 0.5)
    call_limit = 100
    terminated_hides_crash = True
    poses = 8

    def act(self, state, action, at_limit):
        place = state.place + ops.where(action == 2, 1, 0) - ops.where(action == 1, 1, 0)
        place = ops.at_most(ops.at_least(place, 0), 7)
        return State(place), place - state.place

    def perceive(self, state, perception):
        return state.place == 0

    def key(self, state):
        return state.place, None

    def pose(self, state):
        return [state.place]

def generate(seed):
    return Layout(State(np.int32(seed % 8)), (), np.int32(8))

def reward(world, progress, state, step):
    return state, progress, step, state.place == 7

register(Task("Walk", Corridor(), generate, reward))
"""


def load(folder, text=CORRIDOR, name="Walk", file="mine.py"):
    """Return the task of a file with that text."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return make(f"{path}:{name}")


@pytest.fixture
def few_unseen(monkeypatch):
    """As many as most searches here have layouts: what is compiled for these serves."""
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_032))


@pytest.mark.usefixtures("few_unseen")
def test_an_example_from_the_command_line(tmp_path, monkeypatch, capsys, command):
    task = f"{EXAMPLES}:Lift"
    monkeypatch.chdir(tmp_path)
    assert command.main(["--task", task, "--method", "hc"]) == 0
    assert "note:" not in capsys.readouterr().err
    [folder] = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("custom_task-Lift-hc-")
    result = json.loads((folder / "seed-0" / "result.json").read_text())
    assert (result["task"], result["return"], result["stop"]) == ("Lift", 1, "solved")
    config = json.loads((folder / "config.json").read_text())
    assert (config["task"], config["task file"]) == (task, task_files.checksum(task))


@pytest.mark.usefixtures("few_unseen")
@pytest.mark.parametrize("method", ["hc", "llm-gs"])
def test_another_task_in_karels_world(tmp_path, method):
    config = Config(f"{EXAMPLES}:Fence", method, budget=20_000, llm="none")
    [result] = run(config, tmp_path / "out")
    assert (result["return"], result["stop"]) == (1, "solved")
    assert result["unseen_return"] > 0.9


@pytest.mark.usefixtures("few_unseen")
def test_an_environment_of_gymnasium(tmp_path):
    config = Config(f"{EXAMPLES}:MountainCar", "hc", (1,), budget=500, layouts=(0, 1))
    [result] = run(config, tmp_path / "out")
    assert (result["return"], result["stop"]) == (1, "solved")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("style", ["python-dsl", "dsl"])
def test_prompts_are_complete(capsys, name, style):
    task = make(f"{EXAMPLES}:{name}")
    assert dispatch(["prompt", "--task", f"{EXAMPLES}:{name}", "--style", style]) == 0
    prompt = " ".join(capsys.readouterr().out.split())
    said = (f"Task: {name}", *task.words.values(), *task.language.world)
    words = (*task.language.actions, *task.language.perceptions)
    for text in (*said, *words, *(task.language.meanings[word] for word in words)):
        assert text in prompt


@pytest.mark.usefixtures("few_unseen")
def test_the_commands_of_the_documentation_run_as_they_are(tmp_path, monkeypatch, capsys, command):
    tutorial = (ROOT / "docs" / "own_tasks.md").read_text()
    lines = tutorial.split("```bash\n")[1].split("```")[0].splitlines()
    monkeypatch.chdir(ROOT)
    searched = 0
    for _, name, *words in map(shlex.split, lines):
        if name == "prompt":
            assert dispatch([name, *words]) == 0
            assert "Fetch everybody who waits" in capsys.readouterr().out
        else:
            assert command.main([*words, "--budget", "35", "--out", str(tmp_path / f"{searched}")]) == 0
            searched += 1
    assert (searched, len(lines)) == (3, 4)


@pytest.mark.usefixtures("few_unseen")
@pytest.mark.parametrize("method", ["llm-gs", "execution-trace"])
@pytest.mark.parametrize(
    ("name", "layouts", "line", "seen"),
    [
        ("Lift", range(32), "    go_up()", "agent at floor "),
        ("MountainCar", (0, 1), "    push_left()", ", velocity -0.00"),
    ],
)
def test_a_language_model_is_asked_about_an_own_task(tmp_path, name, layouts, line, seen, method):
    def model(request, number):
        bodies = ("\n".join([line] * (1 + n % 3)) for n in range(request["n"]))
        return completion(*(f"```python\ndef run():\n{body}\n```" for body in bodies))

    with serving(model) as server:
        settings = Settings("m", server.url)
        config = Config(
            f"{EXAMPLES}:{name}", method, budget=34, layouts=tuple(layouts), llm="openai", settings=settings
        )
        [result] = run(config, tmp_path / "out", llm_access=LLMAccess(tmp_path / "answers.sqlite"))
    assert result["evaluated"] == 34
    prompts = [request["messages"][1]["content"] for request in server.requests]
    assert f"Task: {name}\n" in prompts[0]
    if method == "execution-trace":
        assert len(prompts) == 2
        assert seen in prompts[1]


@pytest.mark.parametrize("name", ["Lift", pytest.param("Fence", marks=pytest.mark.full)])
def test_the_interpreters_agree(name):
    task = make(f"{EXAMPLES}:{name}")
    programs = random_programs(len(name), task.language, counts=range(20), depth=3, sequence=5)[-16:]
    ends = agreed(task, programs, range(4)).ends
    assert {"E", "T", "C"} <= set(ends.ravel())


def test_a_pose_that_says_it_all_needs_no_hash(tmp_path):
    task = load(tmp_path)
    ends = agreed(task, random_programs(3, task.language, counts=range(20), depth=3)[-16:], range(4)).ends
    assert {"E", "T", "C"} <= set(ends.ravel())


def test_the_other_commands_take_the_task_too(capsys, tmp_path):
    load(tmp_path)
    name, program = f"{tmp_path}/mine.py:Walk", "DEF run m( right right m)"
    (tmp_path / "programs.txt").write_text(program)
    assert (
        dispatch(["evaluate", "--task", name, "--layout-seeds", "0-1", "--programs", f"{tmp_path}/programs.txt"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["returns"] == [0.25, 0.25]
    words = [sys.executable, "-m", "jaxprl", "trace", "--task", "mine.py:Walk", "--layout-seed", "4"]
    done = subprocess.run([*words, "--program", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert [json.loads(line)["pose"] for line in done.stdout.splitlines()] == [[5], [6]], done.stderr
    with pytest.raises(UserError, match="lacks words that a prompt needs: world, left, right, at_wall"):
        dispatch(["prompt", "--task", name])


def test_a_file_is_run_once_and_by_itself(tmp_path):
    text = CORRIDOR + f"\nwith open({str(tmp_path / 'ran')!r}, 'a') as file: file.write('x')\n"
    task = load(tmp_path, text)
    assert make(f"{tmp_path}/mine.py:Walk") is task
    assert (tmp_path / "ran").read_text() == "x"
    assert "Walk" not in registry.tasks()
    changed = load(tmp_path, text + "# changed\n")
    assert changed is not task
    assert changed.name == "Walk"


def test_a_file_whose_tasks_are_registered_already(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_TASKS", registry.tasks())
    exec(CORRIDOR, {"__name__": "imported"})
    assert "Walk" in registry.tasks()
    assert load(tmp_path) is not make("Walk")
    assert "Walk" in registry.tasks()


@pytest.mark.parametrize("file", ["C:/mine.py", "a b/my:file.py", "mine.py:odd.py"])
def test_paths_with_colons_and_blanks(tmp_path, file):
    assert load(tmp_path, file=file).name == "Walk"


@pytest.mark.usefixtures("few_unseen")
def test_odd_names_make_no_odd_folders(tmp_path, monkeypatch, command):
    load(tmp_path, CORRIDOR.replace('"Walk"', '"Walk/50%: far"'), "Walk/50%: far")
    monkeypatch.chdir(tmp_path)
    words = ["--task", "mine.py:Walk/50%: far", "--layouts", "6,14", "--method", "hc", "--budget", "20"]
    assert command.main(words) == 0
    [folder] = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("mine-Walk-50-far-hc-")


@pytest.mark.usefixtures("few_unseen")
def test_a_changed_file_is_not_resumed(tmp_path):
    load(tmp_path)
    config = Config(f"{tmp_path}/mine.py:Walk", "hc", budget=50, layouts=(0, 1))
    first = run(config, tmp_path / "out")
    assert run(config, tmp_path / "out", resume=True) == first
    load(tmp_path, CORRIDOR.replace("call_limit = 100", "call_limit = 90"))
    with pytest.raises(UserError, match=r"another configuration: task file was '[0-9a-f]{16}', is '[0-9a-f]{16}'"):
        run(config, tmp_path / "out", resume=True)


def test_there_are_no_recorded_answers(tmp_path):
    load(tmp_path)
    with pytest.raises(UserError, match=r"for .*mine.py:Walk: use --llm openai, --llm none or --method hc"):
        resolve(Config(f"{tmp_path}/mine.py:Walk"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such.py:Walk", "task file no/such.py: No such file"),
        ("Walk.py", "task file Walk.py: No such file"),
        (f"{EXAMPLES}:Fense", f"has no task 'Fense'; there is {EXAMPLES}:Fence, {EXAMPLES}:Lift, {EXAMPLES}:Mount"),
        (str(EXAMPLES), f"needs the name of a task; there is {EXAMPLES}:Fence"),
        ("farama:no.py:Walk", "unknown environment of minigrid 'no.py:Walk'"),
        ("nowhere", "unknown task 'nowhere'"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(UserError) as found:
        make(name)
    assert message in str(found.value)


MISTAKES = {
    "syntax": ("def reward(", "def reward((", "mine.py, line 37: "),
    "NUL": ("import", "\0import", "null bytes"),
    "import": (
        "import dataclasses",
        "import nonesuch, dataclasses",
        "ModuleNotFoundError: No module named 'nonesuch' ({file}, line 2)",
    ),
    "exit": ("import dataclasses", "raise SystemExit(3)\nimport dataclasses", "{file}: SystemExit: 3 ({file}, line 2)"),
    "nothing": ("register(Task", "(Task", "registers no task"),
    "no task": (
        'register(Task("Walk", Corridor(), generate, reward))',
        "register(3)",
        "register takes a Task or a PythonTa",
    ),
    "taken": ('Task("Walk"', 'Task("Maze"', "there is already a task 'Maze' ({file}, line 40)"),
    "keyword": ('"left": 0.5', '"while": 0.5', "language corridor: 'while' cannot be a word of programs"),
    "two words": ('"at_wall": 1.0', '"at the wall": 1.0', "'at the wall' cannot be a word of programs; a perception's"),
    "probability": ('"right": 0.5', '"right": -0.5', "probabilities of its actions are not numbers from 0 up"),
    "world": ("    poses = 8\n", "", "task 'Walk': its world lacks poses (jaxprl/worlds/task.py, World)"),
    "not frozen": ("(frozen=True)", "()", "hash(world) raises TypeError: unhashable type: 'Corridor'"),
    "limit": ("call_limit = 100", "call_limit = 0", "call_limit is 0; it is a whole number above 0"),
    "words": ("reward))", "reward, {'gaol': 'x'}))", "words has gaol; prompts use map, agent, goal, returns"),
    "budget": ("reward))", "reward, budget=1e4))", "budget 10000.0; it goes from 1 to"),
    "no layout": ("return Layout(", "return (", "generate(0) gives a tuple, not a Layout"),
    "Python int": ("np.int32(seed % 8)", "seed % 8", "state.place is a Python int; it is a numpy scalar"),
    "int64": ("np.int32(seed % 8)", "np.int64(seed % 8)", "the layout of seed 0: state.place is int64"),
    "two axes": (
        "(), np",
        "np.zeros((2, 2), np.uint8), np",
        "progress is uint8 [2, 2]; it is a numpy scalar or one-dim",
    ),
    "units": ("np.int32(8))", "np.float32(8))", "units is float32"),
    "no units": ("np.int32(8))", "np.int32(0))", "units is 0; 1 to 67,108,863 are allowed"),
    "shapes": (
        "(), np",
        "np.zeros(seed + 1, np.uint8), np",
        "the layout of seed 1: progress is uint8 [2], in that of seed 0",
    ),
    "unseeded": ("seed % 8", "np.random.default_rng().integers(99)", "gives another layout each time; draw from"),
    "generate": (
        "def generate(seed):",
        "def generate(seed):\n    seed.x",
        "generate(0) raises AttributeError: 'int' object has no attribute 'x' ({file}, line 35)",
    ),
    "if": (
        "        place = ops.at_most",
        "        if action == 2: pass\n        place = ops.at_most",
        "act(state, action, at_limit) asks for the value of an array: on arrays there is no if, and",
    ),
    "no event": ("return State(place), place - state.place", "return State(place)", "act(..) does not give a pair"),
    "other state": (
        "return State(place),",
        "return (place,),",
        "the state from act(..) is PyTreeDef((*,)), the one before",
    ),
    "float state": (
        "return State(place),",
        "return State(jnp.float32(1)),",
        "the state from act(..): place is float32, in the one",
    ),
    "perceive": ("return state.place == 0", "return state.place", "perceive(..) gives int32, not a bool"),
    "key": ("return state.place, None", "return state.place", "key(..) does not give (pose, hash)"),
    "hash": (
        "return state.place, None",
        "return state.place, state.place",
        "key(..) gives a hash of int32; it is two uint32 or None",
    ),
    "pose": ("poses = 8", "poses = 4", "the pose of key(..) is"),
    "float units": (
        "progress, step,",
        "progress, step / 8,",
        "reward(..) gives units of float32; they are whole numbers",
    ),
    "three": ("progress, step,", "progress,", "reward(..) does not give state, progress, units, terminated"),
    "terminated": ("state.place == 7\n\nreg", "step\n\nreg", "reward(..) gives terminated as int32, not as a bool"),
    "above 1": ("progress, step,", "progress, 5 + step,", "of them a return of 1"),
    "KeyError": (
        "    return state, progress, step",
        "    return state, {}[3], step",
        "reward(world, progress, state, event) raises KeyError: 3 ({file}, line 38)",
    ),
    "disagreement": (
        "ops.where(action == 2, 1, 0)",
        "ops.where(action == 2, 1, 0) * (2 if type(action) is int else 1)",
        "right the last, the state differs: State(place=",
    ),
    "no glide": ("reward))", "reward, quiet=True))", "the task is quiet, but its world has no glide(..)"),
    "not quiet": (
        "register(Task(",
        "Corridor.glide = lambda self, state, action: (self.act(state, action, False)[0], action == 2)\n"
        "Task = functools.partial(Task, quiet=True)\nregister(Task(",
        "does not do what glide(..) says, or the task is not quiet",
    ),
    "glide on arrays": (
        "register(Task(",
        "def glide(self, state, action):\n"
        "    return (self.act(state, action, False)[0] if action == 1 else state), action == 1\n"
        "Corridor.glide, Task = glide, functools.partial(Task, quiet=True)\nregister(Task(",
        "glide(state, action) asks for the value of an array",
    ),
    "quiet": ("reward))", "reward, quiet=1))", "quiet is 1; it is True or False"),
    "plain only": (
        "return state.place == 0",
        "return (state.place == 0) if type(state.place) is not int else [][0]",
        "in plain Python: act, reward, perceive or key raises IndexError: list index out of range ({file}, line 26)",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_in_a_file(tmp_path, case):
    old, new, message = MISTAKES[case]
    assert old in CORRIDOR
    with pytest.raises(UserError) as found:
        load(tmp_path, CORRIDOR.replace(old, new))
    assert message.format(file=tmp_path / "mine.py") in str(found.value)
    assert "\n" not in str(found.value)


WHEEL = """
import numpy as np
from jaxprl.dsl.language import Language
from jaxprl.worlds.registry import register
from jaxprl.worlds.task import PythonTask
from jaxprl.worlds.make import make

class Wheel:
    call_limit, terminated_hides_crash = 100, True
    def __init__(self, seed):
        self.rng, self.place = np.random.default_rng(seed), 0
    def act(self, action, *, at_limit):
        self.place += int(self.rng.integers(3))
        return (1.0 if self.place > 50 else 0.0), self.place > 50
    def perceive(self, perception):
        return self.place > 9
    def key(self):
        return self.place
    def pose(self):
        return None

register(PythonTask("Walk", Language("wheel", {"spin": 1.0}, {"is_far": 1.0}, 0.5), Wheel))
"""
HOST_MISTAKES = {
    "unseeded": ("default_rng(seed)", "default_rng()", "go otherwise the second time; all that is random"),
    "environment": (
        "self.rng, self.place =",
        "self.rng, self.place, self.x =",
        "environment(0) raises ValueError: not enough",
    ),
    "act": ("self.place > 50\n", "\n", "the layout of seed 0: spin raises"),
    "perceive": ("return self.place > 9", "return self.place", "is_far gives 2, not a bool"),
    "key": ("return self.place\n", "return [self.place]\n", "key raises TypeError: unhashable type: 'list'"),
    "lacking": ("def pose", "def posing", "its environment lacks pose (jaxprl/worlds/task.py, PythonEnvironment)"),
    "above 1": ("(1.0 if", "(1.5 if", "a return of 1.5; returns go up to 1: scale the rewards"),
    "nan": ("(1.0 if", "(float('nan') if", "a return of nan; returns go up to 1"),
    "units": ("Wheel))", "Wheel, units=0.5))", "units is 0.5; 1 to 67,108,863 are allowed"),
}


def test_a_world_that_is_not_array_code(tmp_path, capsys):
    assert load(tmp_path, WHEEL).name == "Walk"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("case", HOST_MISTAKES)
def test_mistakes_in_a_world_that_is_not_array_code(tmp_path, case):
    old, new, message = HOST_MISTAKES[case]
    assert old in WHEEL
    with pytest.raises(UserError) as found:
        load(tmp_path, WHEEL.replace(old, new))
    assert message in str(found.value)


def test_words_without_effect_are_noted_once(tmp_path, capsys):
    text = CORRIDOR.replace('"right": 0.5', '"right": 0.5, "hop": 0.1').replace("state.place == 0", "state.place > 99")
    load(tmp_path, text)
    make(f"{tmp_path}/mine.py:Walk")
    [note] = capsys.readouterr().err.splitlines()
    assert note.startswith("note: task 'Walk', in ")
    assert note.endswith(" random actions: did nothing: hop; always False: at_wall")


def test_a_return_above_one_stops_the_search(tmp_path):
    load(tmp_path, CORRIDOR.replace("np.int32(8))", "np.int32(1 if seed == 8 else 8))"))  # not among those tried out
    config = Config(f"{tmp_path}/mine.py:Walk", "hc", budget=2_000, layouts=(8, 0))
    with pytest.raises(UserError, match=r"task Walk: a program has a mean return of .*; no return may exceed 1"):
        run(config, tmp_path / "out")


@pytest.mark.usefixtures("few_unseen")
def test_layouts_of_different_units(tmp_path):
    """Their common unit can be too fine for a search; the final test takes any."""
    units = "np.int32((1, 2, 3, 5, 7, 11, 13, 17, 19, 23)[seed % 10] * 1_000_003)"
    load(tmp_path, CORRIDOR.replace("np.int32(8))", f"{units} if seed > 9 else np.int32(8))"))
    name = f"{tmp_path}/mine.py:Walk"
    with pytest.raises(UserError, match=r"30 layouts whose units \(8, 1000003, .*least common multiple"):
        run(Config(name, "hc", budget=10, layouts=tuple(range(30))), tmp_path / "none")
    [result] = run(Config(name, "hc", budget=10, layouts=(0, 1)), tmp_path / "out")
    task, program = make(name), from_text(result["program"], make(name).language)
    unseen = task.layouts(ledger.UNSEEN)
    units = evaluate(task, [program], unseen).units[0].tolist()
    returns = [Fraction(mine, int(whole)) for mine, whole in zip(units, unseen.units, strict=True)]
    assert result["unseen_return"] == float(sum(returns) / len(returns)) > 0
    (tmp_path / "programs.txt").write_text(result["program"])
    assert dispatch(["evaluate", "--task", name, "--programs", f"{tmp_path}/programs.txt"]) == 0


@pytest.mark.parametrize("name", ["CleanHouse", "Snake", "PutNear", "MiniGrid-UnlockPickup-v0", "farama:LavaGap"])
def test_tasks_of_the_package_pass(name):
    assert all(note.startswith(f"task {name!r}, in ") for note in check(make(name)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actions": {}}, "0 actions and 1 perceptions"),
        ({"actions": {f"a{n}": 1 for n in range(15)}}, "15 actions and 1 perceptions; 1 to 14 and 1 to 32 fit"),
        ({"actions": {"see": 1}}, "see: both an action and a perception"),
        ({"actions": {"go h( left h)": 1}}, "'go h( left h)' cannot be a word of programs; an action's like go_up"),
        ({"statements": {"While": 1.0}}, "statements has probabilities for While, Repeat, Concat"),
        ({"not_probability": 2}, "not_probability is 2; it goes from 0 to 1"),
        ({"complements": {"see": "hear"}}, "complements speaks of hear, which are no perceptions"),
        ({"max_tokens": 60}, "max_tokens is 60; it goes from 5 to 45"),
    ],
)
def test_languages_that_cannot_be(options, message):
    given = {"name": "mine", "actions": {"go": 1.0}, "perceptions": {"see": 1.0}, "not_probability": 0.5, **options}
    with pytest.raises(UserError, match="language mine: ") as found:
        Language(**given)
    assert message in str(found.value)
