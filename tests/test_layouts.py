"""Every layout of seeds 0..63: grid, robot, and what the tasks remember."""

import golden
import jax
import numpy as np
import pytest

from jaxprl.worlds import ops
from jaxprl.worlds.karel.tasks.snake import STREAM
from jaxprl.worlds.karel.world import BODY, COUNT, GATE, TARGET, WALL
from jaxprl.worlds.make import make


def records(name):
    """Return the golden layouts with ours: (record, layout) by seed."""
    task = make(name)
    return [(record, task.layout(record["seed"])) for record in golden.load("layouts_karel")["tasks"][name]]


def grid(name, layout):
    """Return the inner cells [H, W] of a layout, having checked the ring around them."""
    world = make(name).world
    cells = layout.state.cells.reshape(world.height + 2, world.stride)
    inner = cells[1:-1, 1:-1].copy()
    cells = cells.copy()
    cells[1:-1, 1:-1] = WALL
    assert (cells == WALL).all()
    return inner


def positions(cells, bits):
    return {(int(row), int(column)) for row, column in np.argwhere(cells & bits)}


def pairs(cells):
    return {tuple(cell) for cell in cells}


@pytest.mark.parametrize("name", golden.KAREL_TASKS)
def test_grid_and_robot(name):
    world = make(name).world
    found = records(name)
    assert [record["seed"] for record, _ in found] == list(range(64))
    for record, layout in found:
        assert (world.height, world.width) == (record["H"], record["W"])
        cells = grid(name, layout)
        walls = np.array([[symbol == "#" for symbol in line] for line in record["walls"]])
        assert (((cells & (WALL | GATE)) != 0) == walls).all()
        assert ((cells & COUNT) == record["markers"]).all()
        state = layout.state
        assert [*world.position(state.cell), state.direction] == record["agent"]
        assert (state.cells[state.cell] & WALL != 0) == record["agent_on_wall"]
        assert state.hash == ops.NO_CHANGE


def total(record):
    return int(np.sum(record["markers"]))


def distance(world, private, record, sparse):
    goal = world.cell(*private["marker_position"])
    assert private["previous_distance"] == private["initial_distance"]
    d = private["initial_distance"]
    return (1 if sparse else d), {"goal": goal, "units": 1 if sparse else d, "distance": d}


def corners(world, private, record, sparse):
    progress = {"corners": private["num_previous_correct_markers"], "total": total(record)}
    return (1 if sparse else len(private["goal_markers"])), progress


def top_off(world, private, record, sparse):
    n = private["num_markers"]
    progress = {"targets": n, "topped": private["num_previous_correct_markers"], "total": total(record)}
    return (1 if sparse else n), progress


def collect(world, private, record, sparse):
    n = private["initial_number_of_markers"]
    return (1 if sparse else n), {"initial": n, "total": private["previous_number_of_markers"]}


def seed(world, private, record, sparse):
    n = private["max_number_of_markers"]
    return n, {"initial": n, "total": private["previous_number_of_markers"]}


def door_key(world, private, record, sparse):
    key, goal = world.cell(*private["key_cell"]), world.cell(*private["end_marker_cell"])
    return 2, {"key": key, "goal": goal, "total": total(record)}


def one_stroke(world, private, record, sparse):
    last = world.cell(private["prev_agent_y"], private["prev_agent_x"])
    return private["max_number_cells"], {"last": last, "moves": private["number_cells_visited"]}


def snake(world, private, record, sparse):
    [head] = private["body_list"]
    return 20, {
        "body": [world.cell(*head)],
        "first": 0,
        "last": 0,
        "size": private["body_size"],
        "food": world.cell(*private["marker_position"]),
        "spawns": [world.cell(*pair) for pair in record["snake_spawn_stream"]],
        "drawn": 0,
    }


REMEMBERED = {
    "StairClimber": distance, "Maze": distance, "FourCorners": corners, "TopOff": top_off, "Harvester": collect,
    "CleanHouse": collect, "DoorKey": door_key, "OneStroke": one_stroke, "Seeder": seed, "Snake": snake,
    "WallAvoider": seed, "PathFollow": collect,
}  # fmt: skip


@pytest.mark.parametrize("name", golden.KAREL_TASKS)
def test_units_and_what_the_task_remembers(name):
    world = make(name).world
    for record, layout in records(name):
        private = record["private"]
        units, progress = REMEMBERED[name.removesuffix("Sparse")](world, private, record, name.endswith("Sparse"))
        assert layout.units == units
        assert progress.keys() == set(layout.progress._fields)
        for field, value in progress.items():
            ours = getattr(layout.progress, field)
            length = len(value) if isinstance(value, list) else None
            assert (ours[:length].tolist() if length else ours) == value, field


TARGETS = {
    "StairClimber": lambda private, width: pairs(private["valid_positions"]),
    "FourCorners": lambda private, width: pairs(private["goal_markers"]),
    "TopOff": lambda private, width: pairs(private["markers"]),
    "WallAvoider": lambda private, width: positions(np.array(private["illegal_positions"]).astype(np.uint8), 1),
    "PathFollow": lambda private, width: {divmod(cell, width) for cell in private["legal_pos"]},
}


@pytest.mark.parametrize("name", golden.KAREL_TASKS)
def test_flagged_cells(name):
    for record, layout in records(name):
        private = record["private"]
        cells = grid(name, layout)
        targets = TARGETS.get(name.removesuffix("Sparse"), lambda private, width: set())(private, record["W"])
        assert positions(cells, TARGET) == targets
        assert positions(cells, GATE) == pairs(private.get("door_cells", ()))
        assert positions(cells, BODY) == pairs(private.get("body_list", ()))
        assert layout.state.opened == (not private.get("door_locked", True))


def test_path_follow_markers_lie_on_the_path():
    for record, layout in records("PathFollow"):
        row, column = record["H"] - 2, 1
        path = {(row, column)}
        for step in record["private"]["path"]:
            row, column = (row, column + 1) if step else (row - 1, column)
            path.add((row, column))
        assert positions(grid("PathFollow", layout), COUNT) == path


def test_snake_has_enough_respawns():
    for record, layout in records("Snake"):
        assert len(record["snake_spawn_stream"]) == 256
        assert layout.progress.spawns.shape == (STREAM,)


@pytest.mark.parametrize("name", golden.KAREL_TASKS)
def test_layouts_are_stacked_leaf_by_leaf(name):
    task = make(name)
    stacked, *single = (jax.tree.leaves(layout) for layout in (task.layouts([5, 3]), task.layout(5), task.layout(3)))
    for leaf, first, second in zip(stacked, *single, strict=True):
        assert leaf.dtype == first.dtype == second.dtype
        assert leaf.tolist() == [first.tolist(), second.tolist()]
