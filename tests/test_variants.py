"""Names of variants of tasks, `NAME[@HxW][:crashable]`: where they are taken, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import jaxprl
from jaxprl.cli.main import dispatch
from jaxprl.cli.run import _new_folder
from jaxprl.dsl.text import from_text
from jaxprl.errors import UserError
from jaxprl.experiment.config import Config
from jaxprl.experiment.job import identity, resolve
from jaxprl.llm import prompts
from jaxprl.methods.from_programs import answered_task
from jaxprl.vm.evaluate import evaluate
from jaxprl.worlds import registry, variants
from jaxprl.worlds.karel.layouts import EAST, border, from_seed, nothing
from jaxprl.worlds.karel.world import LANGUAGE, WALL, KarelWorld
from jaxprl.worlds.make import make, short_name
from jaxprl.worlds.task import Layout, Sizes, Task

KAREL = [name for name, task in registry.tasks().items() if task.language.name == "karel"]
MAZES = ("Maze", "MazeSparse")


@pytest.mark.parametrize("name", KAREL)
def test_every_karel_task_can_be_crashable(name):
    task, crashable = make(name), make(f"{name}:crashable")
    assert crashable.name == f"{name}:crashable"
    assert crashable.world == dataclasses.replace(task.world, crashable=True)
    assert (crashable.reward, crashable.quiet, crashable.budget) == (task.reward, task.quiet, task.budget)
    assert jax.tree.all(jax.tree.map(np.array_equal, crashable.layout(3), task.layout(3)))
    assert make(f"{name}:crashable") is crashable
    assert registry.is_of_package(crashable)
    assert not registry.is_own(crashable)


def test_what_is_made_from_a_variant_is_not_of_the_package():
    mine = dataclasses.replace(make("DoorKey:crashable"), budget=3)
    assert not registry.is_of_package(mine)
    assert variants.base_of(mine) is mine


@pytest.mark.parametrize("name", MAZES)
def test_the_size_that_a_task_has_is_the_task_itself(name):
    assert make(f"{name}@8x8") is make(name)
    assert make(f"{name}@8x8:crashable") is make(f"{name}:crashable")
    job = resolve(Config(task=f"{name}@8x8", method="hc"))
    assert identity(job)["task"] == name


def reached(task, seed):
    """Return the cells of a layout that can be reached from its start, and those that are open."""
    state, world = task.layout(seed).state, task.world
    cells = state.cells.reshape(world.height + 2, world.width + 2)
    start = divmod(int(state.cell), world.width + 2)
    found, left = {start}, [start]
    while left:
        row, column = left.pop()
        beside = {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)} - found
        clear = {place for place in beside if not cells[place] & WALL}
        found |= clear
        left += clear
    return found, {tuple(place) for place in np.argwhere((cells & WALL) == 0).tolist()}


@pytest.mark.parametrize("size", [(5, 5), (5, 6), (6, 5), (12, 12), (11, 13), (9, 40), (255, 5)])
def test_mazes_of_any_size_can_be_solved(size):
    height, width = size
    task, dense = (make(f"{name}@{height}x{width}") for name in ("MazeSparse", "Maze"))
    assert task.world == dense.world == KarelWorld(height, width)
    assert f"{height} x {width} cells" in task.words["map"]
    for seed in range(3):
        layout, (found, clear) = task.layout(seed), reached(task, seed)
        assert found == clear
        assert len(clear) == 2 * ((height - 1) // 2) * ((width - 1) // 2) - 1  # a tree of cells and what joins them
        goal = divmod(int(layout.progress.goal), width + 2)
        assert goal in clear - {(height - 1, 2)}
        state = layout.state
        assert divmod(int(state.cell), width + 2) == (height - 1, 2)
        assert (int(state.direction), int(layout.units)) == (EAST, 1)
        assert int(dense.layout(seed).units) == abs(height - 1 - goal[0]) + abs(goal[1] - 2)


FOLLOW_WALL = (
    "DEF run m( WHILE c( noMarkersPresent c) w( IFELSE c( rightIsClear c) i( turnRight move i) ELSE e( IFELSE c( "
    "frontIsClear c) i( move i) ELSE e( turnLeft e) e) w) m)"
)


def test_a_maze_of_the_published_size_is_solved():
    task = make("MazeSparse@12x12:crashable")
    outcomes = evaluate(task, [from_text(FOLLOW_WALL, LANGUAGE)], layout_seeds=range(16))
    assert outcomes.ends.tolist() == [["T"] * 16]
    assert outcomes.returns.tolist() == [[1.0] * 16]


SIZES = r"HxW, 5x5 to 255x255, like 12x12"
REFUSED = {
    **{
        f"Maze@{size}": f"its size cannot be '{size}'; {SIZES}" for size in ("3x3", "4x4", "12x4", "1000x1000", "256x8")
    },
    **{f"MazeSparse@{size}": f"cannot be '{size}'; {SIZES}" for size in ("12", "12X12", "012x12", "0x0", "-5x5", "")},
    "Maze@3x3:crashable": SIZES,
    "DoorKey@12x12": "task DoorKey: no size can be chosen, so it cannot be '12x12'; `jaxprl tasks` shows whose can",
    "DoorKey@8x8:crashable": "no size can be chosen",
    "LavaGap@12x12": "no size can be chosen",
    "LavaGap:crashable": "task LavaGap cannot be crashable: only tasks of Karel's world can",
    "MiniGrid-DoorKey-5x5-v0:crashable": "only tasks of Karel's world can",
    "farama:LavaGap:crashable": "task farama:LavaGap cannot be crashable",
    "farama:LavaGap@9x9": "task farama:LavaGap: no size can be chosen",
    "DoorKey:crashy": r"unknown property 'crashy'; known: crashable, as in NAME\[@HxW\]\[:crashable\]",
    "DoorKey:Crashable": "unknown property 'Crashable'",
    "DoorKey:": "unknown property ''",
    "LavaGap:fast": "unknown property 'fast'; known: crashable",
    "Maze:crashable@12x12": "unknown property 'crashable@12x12'",
    "DoorKey:crashable:crashable": "names a property twice",
    "DoorKay:crashable": "unknown task 'DoorKay', one of 90; similar ones: DoorKey",
    ":crashable": "unknown task ''",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_task_cannot_be_is_said(name):
    if name.startswith("farama:"):
        pytest.importorskip("minigrid")
    with pytest.raises(UserError, match=REFUSED[name]):
        make(name)


def room(rng, world):
    pose = rng.randint(1, world.height - 1), rng.randint(1, world.width - 1), EAST
    walls, markers = border(world.height, world.width), nothing(world.height, world.width)
    return Layout(world.state(walls, pose, markers), (), np.int32(1))


def put_one(world, progress, state, event):
    return state, progress, event.change, event.change != 0


def own_task(height, width):
    world = KarelWorld(height, width)
    sizes = Sizes(own_task, (3, 3), (40, 50))
    return Task("Own", world, from_seed(room, world=world), put_one, {"goal": "Put one."}, sizes=sizes)


def test_tasks_of_ones_own_have_variants():
    with registry.apart():
        task = jaxprl.register(own_task(6, 6))
        variant = make("Own@4x5:crashable")
        assert variant.world == KarelWorld(4, 5, crashable=True)
        assert make("Own@6x6") is task
        assert registry.is_own(variant)
        with pytest.raises(UserError, match=r"'41x5'; HxW, 3x3 to 40x50"):
            make("Own@41x5")
        assert resolve(Config(task="Own:crashable", method="hc")).task is make("Own:crashable")
        program = from_text("DEF run m( pickMarker putMarker m)", LANGUAGE)
        ends = [
            evaluate(make(f"Own{suffix}"), [program], layout_seeds=[0]).ends.item() for suffix in ("", ":crashable")
        ]
        assert ends == ["T", "C"]


@pytest.mark.parametrize("name", ["DoorKey:crashable", "Maze@12x12", "MazeSparse@9x9:crashable"])
def test_a_task_cannot_have_the_name_of_a_variant(name):
    with registry.apart(), pytest.raises(UserError, match="like a variant of"):
        jaxprl.register(dataclasses.replace(make("Seeder"), name=name))


def test_names_may_have_the_signs_of_variants():
    with registry.apart():
        for name in ("Seeder:mine", "Own@home", "DoorKey@8x8"):
            task = jaxprl.register(dataclasses.replace(make("Seeder"), name=name))
            assert make(name) is task
            assert make(f"{name}:crashable").name == f"{name}:crashable"


FILE = """
import dataclasses
from jaxprl.worlds.karel.world import KarelWorld
from jaxprl.worlds.make import make
from jaxprl.worlds.registry import register
register(dataclasses.replace(make("Seeder"), name="Sow"))
register(dataclasses.replace(make("Maze"), name="Sow:maze"))

@dataclasses.dataclass(frozen=True)
class Own(KarelWorld):
    def __init__(self):
        super().__init__(8, 8)

register(dataclasses.replace(make("Seeder"), name="Fixed", world=Own()))
register(dataclasses.replace(make("LavaGap"), name="Gap"))
"""


def test_tasks_in_files_have_variants(tmp_path):
    file = tmp_path / "garden.py"
    file.write_text(FILE)
    task = make(f"{file}:Sow:crashable")
    assert (task.name, task.world) == ("Sow:crashable", KarelWorld(8, 8, crashable=True))
    assert make(f"{file}:Sow:crashable") is task
    assert make(f"{file}:Sow:maze").world == KarelWorld(8, 8)
    assert make(f"{file}:Sow:maze@9x7:crashable").world == KarelWorld(9, 7, crashable=True)
    assert short_name(f"{file}:Sow:crashable") == "garden-Sow:crashable"
    job = resolve(Config(task=f"{file}:Sow:crashable", method="hc"))
    assert identity(job)["task"] == f"{file}:Sow:crashable"
    assert "task file" in identity(job)
    for name, message in {
        "Sow:fast": "task Sow: unknown property 'fast'",
        "Sow@9x9": "task Sow: no size can be chosen",
        "Gap:crashable": "task Gap cannot be crashable",
        "Fixed:crashable": "task Fixed cannot be crashable: its world .*unexpected keyword",
        "Reap:crashable": "has no task 'Reap:crashable'; there is .*:Sow",
    }.items():
        with pytest.raises(UserError, match=message):
            make(f"{file}:{name}")


def test_run_directories_and_answers_are_named_by_the_task():
    for name, folder, answered in [
        ("DoorKey:crashable", "DoorKey-crashable-llm-gs-", "DoorKey"),
        ("MazeSparse@12x12", "MazeSparse-12x12-llm-gs-", "MazeSparse"),
        ("MazeSparse@12x12:crashable", "MazeSparse-12x12-crashable-llm-gs-", "MazeSparse"),
        ("Snake", "Snake-llm-gs-", "Snake"),
    ]:
        job = resolve(Config(task=name, method="llm-gs"))
        assert _new_folder(job).name.startswith(folder)
        assert (job.task_name, answered_task(job)) == (name, answered)


def test_prompts_describe_the_variant():
    task = make("MazeSparse@12x14:crashable")
    system, user = prompts.messages(task.language, task.name, task.words, "python-dsl")
    assert "if a wall is in the way, the robot crashes" in system["content"]
    assert "12 x 14 cells" in user["content"]


def test_the_tasks_are_listed_with_their_variants(capsys):
    assert dispatch(["tasks"]) == 0
    goals = {line.split()[0]: line.split(maxsplit=3)[3] for line in capsys.readouterr().out.splitlines()}
    assert goals["Maze"] == "Reach the marker. [@HxW, :crashable]"
    assert goals["LavaGap"] == make("LavaGap").words["goal"]
    assert {name for name, goal in goals.items() if goal.endswith(":crashable]")} == {*KAREL}
    assert dispatch(["tasks", "--json"]) == 0
    rows = {row["task"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (rows["Maze"]["sizes"], rows["Maze"]["properties"]) == ("5x5 to 255x255", ["crashable"])
    assert (rows["LavaGap"]["sizes"], rows["LavaGap"]["properties"]) == (None, [])


def test_commands_take_variants(tmp_path, capsys):
    programs = tmp_path / "programs"
    programs.write_text("DEF run m( pickMarker m)\n")
    words = ["--task", "DoorKey:crashable", "--layout-seeds", "0", "--programs", str(programs)]
    assert dispatch(["evaluate", *words]) == 0
    assert json.loads(capsys.readouterr().out)["end"] == ["C"]
    words = ["--task", "MazeSparse@12x12:crashable", "--program", "DEF run m( REPEAT R=19 r( move r) m)"]
    assert dispatch(["trace", *words]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.get("crashed") for row in rows] == [None] * (len(rows) - 1) + [True]
    assert len(rows) < 12
    picture = tmp_path / "run.png"
    assert dispatch(["render", *words, "--cell", "8", "--out", str(picture)]) == 0
    assert "crashed" in capsys.readouterr().out
    assert dispatch(["prompt", "--task", "DoorKey:crashable"]) == 0
    assert "Task: DoorKey:crashable" in capsys.readouterr().out
