"""Revision: what a language model is told, read back from the prompts, and the search that does nothing but ask."""

import functools
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import strategies

from jaxprl.dsl import ast, encode
from jaxprl.dsl.ast import call_text
from jaxprl.dsl.language import Language
from jaxprl.dsl.python import from_python, statement_lines
from jaxprl.dsl.text import from_text
from jaxprl.errors import UserError
from jaxprl.llm import prompts, revision_prompts
from jaxprl.llm.extract import normalise
from jaxprl.llm.programs import FRUITLESS, Answer, asked_answers, recorded_answers, total
from jaxprl.llm.revision_prompts import MARK, METHODS, MOST_STEPS, TRACED
from jaxprl.methods.episode import episode
from jaxprl.methods.reviser import NO_PROGRAM, ON_STALL, ROUNDS, Reviser
from jaxprl.vm import plain
from jaxprl.vm.outcomes import Outcomes
from jaxprl.worlds.from_gym import Interface, gym_task
from jaxprl.worlds.karel.world import COUNT, GATE, WALL
from jaxprl.worlds.make import make
from jaxprl.worlds.minigrid import words
from jaxprl.worlds.minigrid.farama import make_world
from jaxprl.worlds.minigrid.world import item
from jaxprl.worlds.picture import Picture
from jaxprl.worlds.plain import environment_of
from jaxprl.worlds.task import Task

WORDS = {"map": "4 x 4 cells.", "agent": "In a corner.", "goal": "Get to the other one.", "returns": "1 there."}
LAKE = Language(
    "lake",
    {"down": 0.5, "right": 0.5},
    {"can_go_down": 1.0},
    0.5,
    world=("A frozen lake.",),
    meanings={"down": "go down.", "right": "go right.", "can_go_down": "there is ice below."},
)
ON_LAKE = Interface(
    actions={"down": 1, "right": 2},
    perceptions={"can_go_down": lambda env, cell: cell < 12 and env.desc.flat[cell + 4] != b"H"},
    reward=lambda env, action, reward, terminated: reward / 2 - 0.01 * (action == 1),
)
DOOR_KEY = from_text(
    "DEF run m( WHILE c( noMarkersPresent c) w( move turnRight turnLeft IF c( leftIsClear c) i( turnLeft turnRight "
    "move i) IF c( frontIsClear c) i( turnLeft i) w) pickMarker WHILE c( noMarkersPresent c) w( move move turnLeft w) "
    "putMarker m)",
    make("DoorKey").language,
)
"""It solves DoorKey."""


def lake(interface=ON_LAKE):
    make_env = functools.partial(gymnasium.make, "FrozenLake-v1", is_slippery=False)
    return gym_task("Lake", make_env, LAKE, interface, words=WORDS)


@functools.cache
def task_of(name):
    return lake() if name == "Lake" else make(name)


def evaluate(task, nodes, layouts):
    """Run programs one after the other in plain Python, without a compiler."""
    if not isinstance(task, Task):
        return plain.evaluate(task, nodes, layouts)
    rows = []
    for row in nodes:
        program = encode.decode(row, task.language)
        starts = (environment_of(task, layouts, index)[0] for index in range(len(layouts.units)))
        rows.append([round(plain.run(program, start).reward) for start in starts])
    units = np.array(rows, np.int32)
    return Outcomes(units, units, units, units, np.asarray(layouts.units))


def answer(program):
    return f"Here it is:\n```python\n{program.to_python()}\n```\nThat is all."


ROW = ["seed", "index", "text", "finish", "program", "reason", "rejected"]


class Script:
    """A language model that gives prepared answers, a list a request, and keeps what it was asked."""

    def __init__(self, *batches):
        self.batches, self.asked = list(batches), []

    def __call__(self, messages, count, name):
        self.asked.append((messages, count, name))
        return [Answer(text) for text in self.batches.pop(0)] if self.batches else []

    @property
    def prompts(self):
        return [messages[1]["content"] for messages, *_ in self.asked]


def reviser(name, ask, method=ON_STALL, *, layouts=range(6), **options):
    options = {"budget": 1000, "programs": 3, **options}
    task = task_of(name)
    return Reviser(task=task, layouts=task.layouts(layouts), ask=ask, method=method, evaluate=evaluate, **options)


def random_programs(task, count, seed=0):
    """Return programs in the form in which they come out of an answer."""
    rng, found = np.random.default_rng(seed), {}
    while len(found) < count:
        program = strategies.random_program(rng, task.language, counts=range(1, 4), depth=3, sequence=4)
        found[normalise(program, task.language)] = None
    return list(found)


def returns(task, programs, layouts):
    """Return on every layout, [P, E]."""
    return evaluate(task, encode.encode_all(programs, task.language), layouts).units / np.asarray(layouts.units)


def read_programs(prompt, language):
    return [from_python(code, language) for code in re.findall(r"^```python\n(.*?)\n```$", prompt, re.DOTALL | re.M)]


# Which line a call is on


def test_every_statement_has_its_line():
    task = task_of("DoorKey")
    keywords = {ast.While: "while ", ast.If: "if ", ast.IfElse: "if ", ast.Repeat: "for i in range("}
    for program in random_programs(task, 50):
        lines, found = program.to_python().splitlines(), statement_lines(program)
        statements = list(ast.statements(program.body))
        assert len(found) == len(statements) == len(set(found))
        for number, statement in zip(found, statements, strict=True):
            word = statement.name if isinstance(statement, ast.Action) else keywords[type(statement)]
            assert lines[number - 1].strip().startswith(word)


def test_calls_come_from_their_lines():
    condition = "and c( not c( frontIsClear c) c) c( or c( leftIsClear c) c( rightIsClear c) c)"
    program = from_text(
        f"DEF run m( move REPEAT R=3 r( IFELSE c( {condition} c) i( turnLeft i) ELSE e( move e) r) "
        "WHILE c( frontIsClear c) w( move w) turnRight m)",
        task_of("DoorKey").language,
    )
    task, calls = task_of("DoorKey"), []
    plain.run(program, environment_of(task, task.layouts([1]), 0)[0], calls.append)
    lines, text = statement_lines(program), program.to_python().splitlines()
    found = [(lines[call.statement], call.name) for call in calls]
    assert all(call_text(name) in text[line - 1] for line, name in found)
    assert found[:3] == [(2, "move"), (4, "frontIsClear"), (4, "leftIsClear")]
    assert {line for line, _ in found} == {2, 4, 5, 7, 8, 9, 10}


# Pictures


def read_grid(grid):
    """Return the words of a grid without the arrow, where the arrow is, and the arrow."""
    rows = [line.split() for line in grid.splitlines()]
    [(place, arrow)] = [
        ((row, column), word[0])
        for row, line in enumerate(rows)
        for column, word in enumerate(line)
        if word[0] in "^>v<" and word != "x"
    ]
    rows[place[0]][place[1]] = rows[place[0]][place[1]][1:]
    return rows, place, arrow


@pytest.mark.parametrize("name", ["DoorKey", "CleanHouse", "Maze", "TopOff", "WallAvoider"])
def test_karel_is_read_back_from_its_picture(name):
    task = task_of(name)
    for seed in range(3):
        environment, _ = environment_of(task, task.layouts([seed]), 0)
        rows, (row, column), arrow = read_grid(environment.picture().grid())
        walls = np.array([[word == "#" for word in line] for line in rows])
        markers = np.array([[int(word) if word.isdigit() else 0 for word in line] for line in rows], np.uint8)
        state = task.world.state(walls, (row, column, "^>v<".index(arrow)), markers)
        closed = bytes(byte & COUNT | (WALL if byte & (WALL | GATE) else 0) for byte in environment.state.cells)
        assert state.cells.astype(np.uint8).tobytes() == closed
        assert task.world.pose(state) == environment.pose()
        north = "facing " + ("north", "east", "south", "west")[state.direction]
        assert environment.picture().pose == f"row {row}, column {column}, {north}"


def test_a_gate_that_opens_is_seen():
    task = task_of("DoorKey")
    environment, _ = environment_of(task, task.layouts([3]), 0)
    plain.run(DOOR_KEY, environment)
    rows, *_ = read_grid(environment.picture().grid())
    assert [row for row, line in enumerate(rows) if line[4] != "#"] == [2, 3]


def read_object(word):
    """Return the number of an object from its sign."""
    match = re.fullmatch(r"([a-z-]+)(?:\((.*)\))?", word)
    *parts, kind = match[1].split("-")
    contents = read_object(match[2]) if match[2] else 0
    fixed = {"lava": "red", "goal": "green"}
    state = words.DOORS.index(parts[0]) if kind == "door" else 0
    return item(kind, fixed.get(kind) or parts[-1], state, contents)


def read_world(task, picture):
    """Return the state that a MiniGrid picture shows."""
    rows, (y, x), arrow = read_grid(picture.grid())
    cells = {(i, j): word for j, line in enumerate(rows) for i, word in enumerate(line) if word != words.EMPTY}
    objects = {place: item("wall", "grey") if word == "#" else read_object(word) for place, word in cells.items()}
    carried = re.fullmatch(rf"x {x}, y {y}, facing \w+, carrying (\S+)", picture.pose)[1]
    held = 0 if carried == "nothing" else read_object(carried)
    return make_world(task.world, objects, (x, y, ">v<^".index(arrow)), held)


@pytest.mark.parametrize(
    "name", ["LavaGap", "PutNear", "RedBlueDoor", "MiniGrid-ObstructedMaze-1Dlhb-v0", "MiniGrid-UnlockPickup-v0"]
)
def test_minigrid_is_read_back_and_looks_like_the_real_one(name):
    task, real, rng = task_of(name), task_of(f"farama:{name}"), np.random.default_rng(0)
    carried = set()
    for seed in range(3):
        ours = environment_of(task, task.layouts([seed]), 0)[0]
        theirs = environment_of(real, real.layouts([seed]), 0)[0]
        for _ in range(150):
            assert ours.picture() == theirs.picture()
            world = read_world(task, ours.picture())
            assert tuple(world.cells.tolist()) == ours.state.cells
            assert (world.carrying, task.world.pose(world)) == (ours.state.carrying, ours.pose())
            carried.add(int(world.carrying))
            action = rng.choice(["left", "right", "forward", "forward", "pickup", "toggle", "drop"])
            theirs.act(action, at_limit=False)
            if ours.act(action, at_limit=False)[1]:
                break
    assert name in ("LavaGap", "RedBlueDoor") or len(carried) > 1


def test_cells_beyond_the_grid_are_said_to_be():
    picture = Picture([["1", "2"], ["3", "4"]], (0, 1), "^", "", ())
    assert picture.grid() == "1 ^2\n3 4"
    assert picture.around() == "x x  x\n1 ^2 x\n3 4  x"
    assert picture._replace(agent=(1, 0), arrow="<").around() == "x 1  2\nx <3 4\nx x  x"
    assert picture._replace(agent=(2, 2), arrow="<").around() == "4 x  x\nx <x x\nx x  x"


# What the methods say


@pytest.mark.parametrize("name", ["DoorKey", "LavaGap", "Lake"])
@pytest.mark.parametrize("style", prompts.STYLES)
@pytest.mark.parametrize("method", METHODS)
def test_the_prompt_is_the_usual_one_with_something_between(name, style, method):
    task = task_of(name)
    programs = random_programs(task, 3)
    script = Script(*[[answer(program) for program in programs]] * 2)
    list(reviser(name, script, method, style=style).rounds(0, 1))
    first, second = (messages for messages, *_ in script.asked)
    assert first == prompts.messages(task.language, task.name, task.words, style)
    assert second[0] == first[0]
    before, request = first[1]["content"].rsplit("\n\n", 1)
    assert second[1]["content"].startswith(f"{before}\n\n")
    assert second[1]["content"].endswith(f"\n\n{request}")


@pytest.mark.parametrize("method", METHODS)
def test_who_is_asked_for_dsl_is_shown_dsl(method):
    task = task_of("LavaGap")
    program = from_text("DEF run m( IF c( not c( front_object_type h( lava h) c) c) i( forward i) m)", task.language)
    script = Script([f"```\n{program!s}\n```"])
    list(reviser("LavaGap", script, method, style="dsl", programs=1).rounds(0, 1))
    prompt = script.prompts[1]
    assert f"```\n{program!s}\n```" in prompt
    assert "python" not in prompt.lower()
    if method in TRACED:
        assert f"```\n{program.to_python()}\n```" in prompt  # the lines that steps name
        assert "line 2: front_object_type h( lava h) is " in prompt


@pytest.mark.parametrize("name", ["DoorKey", "LavaGap", "Lake"])
def test_regeneration_shows_the_distinct_programs_of_the_last_round(name):
    task = task_of(name)
    a, b, c, d = random_programs(task, 4)
    script = Script([answer(a), answer(b), answer(a)], [answer(d), answer(c), answer(c)], [])
    list(reviser(name, script, "regeneration").rounds(0, 2))
    assert read_programs(script.prompts[1], task.language) == [a, b]
    assert read_programs(script.prompts[2], task.language) == [d, c]
    assert "Your program must be different from every one of them." in script.prompts[1]
    assert "return" not in script.prompts[1].split("written for this task before")[1].split("Your program")[0]


@pytest.mark.parametrize("name", ["DoorKey", "LavaGap", "Lake"])
def test_regeneration_with_reward_shows_returns_best_first(name):
    task = task_of(name)
    layouts = task.layouts(range(6))
    programs = [each for each in random_programs(task, 16, seed=3) if returns(task, [each], layouts).mean() < 1][:12]
    script = Script([answer(program) for program in [*programs, programs[4]]])
    search = reviser(name, script, "regeneration-with-reward", programs=13)
    list(search.rounds(0, 1))
    values = returns(task, programs, search.layouts).mean(axis=1)
    assert len(set(values)) > 1
    shown = read_programs(script.prompts[1], task.language)
    assert shown == [programs[index] for index in np.argsort(-values, kind="stable")]
    told = [float(value) for value in re.findall(r"^Program \d+, mean return (.*):$", script.prompts[1], re.M)]
    assert told == [round(float(value), 4) for value in -np.sort(-values)]
    assert f"over {len(search.layouts.units)} layouts" in " ".join(script.prompts[1].split())


def after_best(name, method, programs, layouts=range(6)):
    """Return the search and the prompt of its second round."""
    script = Script([answer(program) for program in programs])
    search = reviser(name, script, method, layouts=layouts, programs=len(programs))
    list(search.rounds(0, 1))
    return search, script.prompts[1]


def sections(prompt):
    """Return what a prompt tells of every step: its first line and the lines below it."""
    blocks = re.findall(r"^Step \d+, .*(?:\n.+)*", prompt, re.M)
    return [(block.splitlines()[0], block.splitlines()[1:]) for block in blocks]


LONG = {
    "DoorKey": "DEF run m( turnLeft REPEAT R=19 r( IFELSE c( frontIsClear c) i( move i) ELSE e( turnLeft e) r) "
    "REPEAT R=19 r( turnRight r) m)",
    "LavaGap": "DEF run m( REPEAT R=19 r( left IF c( not c( front_object_type h( lava h) c) c) i( toggle i) r) m)",
    "farama:LavaGap": "DEF run m( REPEAT R=19 r( left IF c( not c( front_is_clear c) c) i( forward i) right r) m)",
    "Lake": "DEF run m( REPEAT R=19 r( IF c( can_go_down c) i( down i) right r) m)",
}


@pytest.mark.parametrize("method", TRACED)
@pytest.mark.parametrize("name", LONG)
def test_a_trace_is_of_the_best_program_where_it_does_worst(name, method):
    task = task_of(name)
    programs = [*random_programs(task, 6, seed=2), from_text(LONG[name], task.language)]
    search, prompt = after_best(name, method, programs)
    values = returns(task, programs, search.layouts)
    best = programs[int(values.mean(axis=1).argmax())]
    assert read_programs(prompt, task.language) == [best]
    row = values[programs.index(best)]
    flat = " ".join(prompt.split())
    assert f"Its mean return over 6 layouts (different maps or starts) is {row.mean():.4f};" in flat
    assert f"On the layout where it does worst its return is {row.min():.4f}." in flat

    worst = int(row.argmin())
    start = environment_of(task, search.layouts, worst)[0]
    assert search.layouts.units[worst] == search.layouts.units[0]
    calls, looks, picture = [], [], start.picture()

    def observe(call):
        calls.append(call)
        looks.append(start.picture())

    outcome = plain.run(best, start, observe)
    if name != "Lake":
        assert f"with the agent at {picture.pose}:\n{picture.grid()}\nThe arrow" in prompt
        assert all(sign in flat for sign in picture.signs)
    lines, code = statement_lines(best), best.to_python().splitlines()
    units = 1 if name in ("Lake", "farama:LavaGap") else int(search.layouts.units[worst])
    for (first, below), call, look in zip(sections(prompt), calls, looks, strict=False):
        line = lines[call.statement]
        effect = f"reward {call.reward / units:.4f}" if call.kind == "action" else f"is {call.result}"
        assert re.fullmatch(rf"Step \d+, line {line}: {re.escape(call_text(call.name))},? {effect}(; .*)?", first)
        marked = [MARK + text if n == line else " " * len(MARK) + text for n, text in enumerate(code, 1)]
        cells = [f"    {text}" for text in look.around().splitlines()] if look else []
        assert below == (marked if method == "program-and-execution-trace" else []) + cells
        assert first.endswith(f"; agent at {look.pose}" if look else effect)
    assert len(sections(prompt)) == min(MOST_STEPS, len(calls))
    assert f"\n\nAfter {outcome.calls:,} steps it ended: " in prompt


@pytest.mark.parametrize("name", LONG)
def test_no_more_than_the_first_fifty_steps_are_told(name):
    task = task_of(name)
    found = episode(task, task.layouts([0]), 0, from_text(LONG[name], task.language))
    past = revision_prompts.Past([], 1, from_text(LONG[name], task.language), 0.0, found)
    prompt = METHODS["execution-trace"](past)
    numbers = [int(first.split(",")[0].split()[1]) for first, _ in sections(prompt)]
    if found.calls > MOST_STEPS:
        assert numbers == list(range(1, MOST_STEPS + 1))
        assert f"the first 50 of {found.calls} steps" in " ".join(prompt.split())
    else:
        assert (name, numbers) == ("Lake", list(range(1, found.calls + 1)))


def test_the_marked_line_moves():
    _, prompt = after_best(
        "DoorKey", "program-and-execution-trace", [from_text(LONG["DoorKey"], task_of("DoorKey").language)]
    )
    marked = [[line for line in below if line.startswith(MARK)] for _, below in sections(prompt)]
    assert all(len(lines) == 1 for lines in marked)
    assert {lines[0].removeprefix(MARK).strip() for lines in marked} == {
        "turnLeft()", "if frontIsClear():", "move()", "turnRight()",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "program", "end"),
    [
        ("DoorKey", "DEF run m( WHILE c( noMarkersPresent c) w( turnLeft w) m)", revision_prompts.REPEATED),
        ("DoorKey", "DEF run m( putMarker m)", revision_prompts.TERMINATED),
        ("DoorKey", "DEF run m( turnLeft m)", revision_prompts.FINISHED),
        ("DoorKey", "DEF run m( REPEAT R=11000 r( turnLeft r) m)", revision_prompts.LIMIT),
        ("DoorKey", "DEF run m( REPEAT R=0 r( turnLeft r) m)", revision_prompts.FINISHED),
        ("Lake", "DEF run m( REPEAT R=3 r( right r) down m)", revision_prompts.TERMINATED),
    ],
)
def test_how_an_episode_ends(name, program, end):
    task = task_of(name)
    program = from_text(program, task.language)
    found = episode(task, task.layouts([0]), 0, program)
    assert found.end == end
    prompt = METHODS["execution-trace"](revision_prompts.Past([], 1, program, 0.0, found))
    assert prompt.count(end) == 1
    assert ("There the program does nothing" in prompt) == (found.calls == 0)


class Bare:
    """A world that shows nothing of itself."""

    def __init__(self, world):
        self.world = world

    def __getattr__(self, name):
        if name in ("pose", "picture"):
            raise AttributeError(name)
        return getattr(self.world, name)


class Quiet:
    """An environment of a user's own that shows its pose and nothing else."""

    call_limit, terminated_hides_crash = 100, True

    def act(self, action, *, at_limit):
        return 0.0, False

    def perceive(self, perception):
        return False

    def key(self):
        return 0

    def pose(self):
        return [3, 4]


def test_worlds_without_pictures_are_told_of_without():
    door_key = task_of("DoorKey")
    bare = Task("bare", Bare(door_key.world), door_key.generate, door_key.reward)
    program = from_text("DEF run m( turnLeft turnLeft IF c( frontIsClear c) i( move i) m)", door_key.language)
    found = episode(bare, bare.layouts([0]), 0, program)
    shown = METHODS["execution-trace"](revision_prompts.Past([], 1, program, 0.0, found))
    assert sections(shown)[:2] == [
        ("Step 1, line 2: turnLeft(), reward 0.0000", []),
        ("Step 2, line 3: turnLeft(), reward 0.0000", []),
    ]
    assert sections(shown)[2][0].startswith("Step 3, line 4: frontIsClear() is ")
    assert not re.search("agent|arrow|3x3|cells", shown)

    task = task_of("Lake")
    quiet = type(task)("quiet", LAKE, lambda seed: Quiet(), words=WORDS)
    program = from_text("DEF run m( down m)", LAKE)
    found = episode(quiet, quiet.layouts([0]), 0, program)
    shown = METHODS["execution-trace"](revision_prompts.Past([], 1, program, 0.0, found))
    assert sections(shown) == [("Step 1, line 2: down(), reward 0.0000; agent at [3, 4]", [])]
    assert "3x3" not in shown


def test_an_unknown_method_names_the_known():
    with pytest.raises(UserError, match="unknown revision method 'guess'; known: regeneration, regeneration-with"):
        reviser("DoorKey", Script(), "guess")


# The search


def several(task, count, **options):
    """Return answers with programs that do not solve the task."""
    return [answer(program) for program in random_programs(task, count, **options)]


@pytest.mark.parametrize("method", METHODS)
def test_a_search_goes_on_for_its_rounds(method):
    task = task_of("DoorKey")
    script = Script(*[several(task, 5, seed=number) for number in range(6)])
    search = reviser("DoorKey", script, method)
    rounds = list(search.rounds(3))
    assert [found.stop for found in rounds] == [None] * ROUNDS + ["rounds"]
    assert [found.evaluated for found in rounds] == [3 * (number + 1) for number in range(6)]
    assert [(count, name) for _, count, name in script.asked] == [
        (5, f"seed 3, round {number}, ask 0") for number in range(6)
    ]
    programs = [program for found in rounds for program in found.answers.programs]
    values = returns(task, programs, search.layouts).mean(axis=1)
    assert np.concatenate([found.scores for found in rounds]).tolist() == pytest.approx(
        values * search.scale.denominator
    )
    expected = [n for n in range(len(values)) if values[n] > max([-9, *values[:n]])]
    events = [event for found in rounds for event in found.bests]
    assert [event.evaluated - 1 for event in events] == expected
    assert [encode.decode(event.program, task.language) for event in events] == [programs[n] for n in expected]
    assert {event.source for event in events} == {"llm"}


def test_a_search_stops_at_return_one():
    task = task_of("DoorKey")
    second = [*several(task, 1, seed=1), answer(DOOR_KEY), *several(task, 1, seed=2)]
    script = Script(several(task, 3), second, several(task, 3))
    search = reviser("DoorKey", script, layouts=range(32))
    first, last = search.rounds(0)
    assert (first.stop, last.stop) == (None, "solved")
    assert (last.evaluated, len(last.scores), len(script.asked)) == (5, 2, 2)
    assert last.bests[-1].score == search.scale.denominator
    assert search.summary(last)["returns"][-1] == 1.0


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 9])
def test_the_budget_is_met_exactly(budget):
    task = task_of("LavaGap")
    program = several(task, 1)
    script = Script(*[program * 5] * 10)  # duplicates count
    rounds = list(reviser("LavaGap", script, budget=budget).rounds(0))
    assert rounds[-1].evaluated == sum(len(found.scores) for found in rounds) == budget
    assert [found.stop for found in rounds] == [None] * (len(rounds) - 1) + ["budget"]
    assert [count for _, count, _ in script.asked][-1] == int(np.ceil(1.5 * ((budget - 1) % 3 + 1)))


def test_the_same_answers_give_the_same_search():
    def played(seed):
        texts = [f"{answer(a)}\n```\n{b!s}\n```" for a, b in zip(programs[:15], programs[15:], strict=True)]
        script = Script(texts[:5], texts[5:10], texts[10:])
        search = reviser("DoorKey", script)
        return [search.summary(found) for found in search.rounds(seed, 2)], script.asked

    programs = random_programs(task_of("DoorKey"), 30)
    first, asked = played(0)
    assert played(0) == (first, asked)
    assert any(played(seed)[0] != first for seed in range(1, 4))  # which of an answer's two programs


def test_what_is_missing_is_asked_for_again():
    task = task_of("DoorKey")
    good = several(task, 12)
    script = Script(["no", good[0], "```python\nfoo()\n```"], good[1:3], [], [], good[3:12])
    found = asked_answers([], task.language, script, seed=0, occasion="round 0", wanted=10)
    assert [count for _, count, _ in script.asked] == [15, 14, 11, 11, 11]
    assert [name for *_, name in script.asked] == [f"seed 0, round 0, ask {number}" for number in range(5)]
    assert (found.requests, len(found.programs)) == ([1, 2, 0, 0, 7], 10)
    assert [(row["request"][-1], row["index"]) for row in found.rows] == [
        *(("0", n) for n in range(3)), *(("1", n) for n in range(2)), *(("4", n) for n in range(7)),
    ]  # fmt: skip
    assert found.counts()["rejected"] == {"no block": 1, "no function": 1}
    assert found.counts()["slips"] == {}
    assert found.counts()["answers"] == 12


def test_requests_in_vain_come_to_an_end_and_are_counted():
    task = task_of("DoorKey")
    good = several(task, 1)
    script = Script(good, ["?"], ["?"], [], ["?"], *[["?"]] * 100)
    search = reviser("DoorKey", script, "regeneration")
    rounds = list(search.rounds(0, 2))
    assert [found.answers.requests for found in rounds] == [[1] + [0] * FRUITLESS, [0] * FRUITLESS, [0] * FRUITLESS]
    assert [search.summary(found)["fruitless"] for found in rounds] == [FRUITLESS] * 3
    assert [found.evaluated for found in rounds] == [1, 1, 1]
    assert rounds[-1].stop == "rounds"
    shown = read_programs(script.prompts[-1], task.language)
    assert shown == rounds[0].answers.programs  # an empty round leaves what was there
    assert search.summary(rounds[2])["rejected"] == {"no block": 3}


def test_nothing_at_all_ends_a_search():
    for script, message in (
        (Script(), "none of 0 answers holds a program"),
        (Script(["?"]), "none of 1 answers holds a program: 1 no block"),
    ):
        [found] = reviser("DoorKey", script).rounds(0)
        assert (found.stop, len(found.nodes)) == (NO_PROGRAM, 0)
        assert found.answers.without_program() == message


def test_an_answer_has_one_reason_and_slips_are_counted_apart():
    task = task_of("DoorKey")
    good, bad = several(task, 1)[0], "```python\ndef run():\n    fly()\n```"
    texts = [good, f"{good}\nDEF run m( fly m)", f"{bad}\nDEF run m( m)", bad, "?"]
    found = asked_answers([], task.language, Script(texts), seed=0, occasion="round 0", wanted=9)
    assert found.counts() == {
        "answers": 5,
        "accepted": 2,
        "rejected": {"no block": 1, "unknown name": 2},
        "slips": {"dsl: unknown name": 1},
        "finish_reasons": {},
    }
    assert total([found.counts()] * 2)["slips"] == {"dsl: unknown name": 2}


def test_recorded_answers_give_rows_and_programs_as_before():
    found = recorded_answers("Snake", task_of("Snake").language, 4)
    assert [list(row) for row in found.rows[:1]] == [ROW]
    assert found.requests == []


def test_a_stalled_search_shows_its_best_program():
    task = task_of("DoorKey")
    best, *others = random_programs(task, 4, seed=5)
    script = Script([answer(program) for program in others])
    search = reviser("DoorKey", script)
    found = search.stalled(encode.encode(best, task.language), seed=2, climb=17, left=2)
    assert found.answers.programs == others[:2]
    assert len(found.scores) == len(found.nodes) == 2
    [(_, count, name)] = script.asked
    assert (count, name) == (3, "seed 2, climb 17, ask 0")
    assert read_programs(script.prompts[0], task.language) == [best]
    assert MARK in script.prompts[0]


def test_layouts_differ_in_units():
    """The worst layout is that of the lowest return, not of the fewest units."""
    task = task_of("TopOff")
    layouts = task.layouts(range(6))
    text = "DEF run m( WHILE c( noMarkersPresent c) w( move w) putMarker m)"
    program = from_text(text, task.language)
    units = evaluate(task, [encode.encode(program, task.language)], layouts).units[0]
    values = units / layouts.units
    worst = int(values.argmin())
    assert int(units.argmin()) != worst
    _, prompt = after_best("TopOff", "execution-trace", [program])
    assert f"its return is {values[worst]:.4f}." in prompt
    assert environment_of(task, layouts, worst)[0].picture().grid() in prompt


def test_no_names_of_tasks_or_languages_in_the_code():
    source = Path(revision_prompts.__file__).read_text().lower()
    assert not re.search("karel|minigrid|marker|robot|lava", source)
