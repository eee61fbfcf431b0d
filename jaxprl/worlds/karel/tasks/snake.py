"""Snake: eat food, grow longer, do not bite yourself (LLM-GS)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed, inner_cell, nothing
from jaxprl.worlds.karel.world import BODY, WALL, Event, Geometry, Karel
from jaxprl.worlds.task import Layout, Task

WORLD = Geometry(8, 8)
FOOD = 20
FIRST_SIZE = 2
RING = 32
"""Slots of the queue of body cells; at most FIRST_SIZE + FOOD are in use."""
STREAM = 1024
"""Respawn draws kept per layout. Twenty respawns need about 35, and each needs another one with probability below
2/3, so a run that needs more does not occur; the stream would start over."""


class Progress(NamedTuple):
    body: Any  # uint8 [RING] or bytes: cells of the body, a queue in a ring
    first: Any  # int32: how many cells have left the queue
    last: Any  # int32: how many have entered it, minus one
    size: Any  # int32
    food: Any  # int32: the food's cell
    spawns: Any  # uint8 [STREAM] or bytes: cells that respawns draw, in order
    drawn: Any  # int32: how many of them were drawn


def generate(rng: np.random.RandomState) -> Layout:
    """Border; the start's column ri(2, W-2) is drawn first, then its row ri(1, H-1); facing east. Food: drawn
    (ri(1, H-1), ri(1, W-1)) until not the robot's cell. Respawns read the seed's own stream from its first draw."""
    height, width = WORLD.height, WORLD.width
    afresh = np.random.RandomState()
    afresh.set_state(rng.get_state())
    spawns = [WORLD.cell(*inner_cell(afresh, height, width)) for _ in range(STREAM)]
    column = rng.randint(2, width - 2)
    row = rng.randint(1, height - 1)
    food = row, column
    while food == (row, column):
        food = inner_cell(rng, height, width)
    markers = nothing(height, width)
    markers[food] = 1
    state = WORLD.state(border(height, width), (row, column, EAST), markers)
    state.cells[state.cell] |= BODY
    body = np.zeros(RING, np.uint8)
    body[0] = state.cell
    zero = np.int32(0)
    progress = Progress(
        body, zero, zero, np.int32(FIRST_SIZE), np.int32(WORLD.cell(*food)), np.array(spawns, np.uint8), zero
    )
    return Layout(state, progress, np.int32(FOOD))


def reward(world: Geometry, progress: Progress, state: Karel, event: Event):
    """1/20 for each food eaten, -1 for biting the body. After each action:

    1. Robot on the food: size + 1, one marker leaves the food's cell, 1/20; the 20th ends the run; otherwise cells are
       drawn until one is open, not the robot's and not in the body: a marker is put there, the new food.
    2. Robot in the body except its last element: -1 and end. Otherwise, if it is not on the body's last cell: a
       marker is put on that last cell and the robot's cell appended; if the body is then longer than its size, its
       first cell leaves and a marker is taken there.
    """
    last_cell = ops.read(progress.body, progress.last % RING)
    eats = state.cell == progress.food
    size = progress.size + ops.where(eats, 1, 0)
    full = eats & (size == FIRST_SIZE + FOOD)
    state = world.add_markers(state, progress.food, ops.where(eats, -1, 0))
    drawn = _respawn(progress, state, eats & ops.invert(full))
    spawned = drawn != progress.drawn
    food = ops.where(spawned, ops.read(progress.spawns, (drawn - 1) % STREAM), progress.food)
    state = world.add_markers(state, food, ops.where(spawned, 1, 0))

    moved_on = state.cell != last_cell
    bites = moved_on & ((ops.read(state.cells, state.cell) & BODY) != 0)
    grows = moved_on & ops.invert(bites)
    state = world.add_markers(state, last_cell, ops.where(grows, 1, 0))
    state = world.flag(state, state.cell, BODY, ops.where(grows, 1, 0))
    last = progress.last + ops.where(grows, 1, 0)
    body = ops.write(progress.body, last % RING, ops.where(grows, state.cell, last_cell))
    drops = grows & (last - progress.first + 1 > size)
    first_cell = ops.read(body, progress.first % RING)
    state = world.flag(state, first_cell, BODY, ops.where(drops, -1, 0))
    state = world.add_markers(state, first_cell, ops.where(drops, -1, 0))

    now = progress._replace(
        body=body, first=progress.first + ops.where(drops, 1, 0), last=last, size=size, food=food, drawn=drawn
    )
    return state, now, ops.where(bites, -FOOD, ops.where(eats, 1, 0)), bites | full


def _respawn(progress: Progress, state: Karel, wanted):
    """Return how many draws there were after drawing a free cell, if one is wanted."""

    def is_taken(drawn):
        cell = ops.read(progress.spawns, (drawn - 1) % STREAM)
        byte = ops.read(state.cells, cell)
        return wanted & ((drawn == progress.drawn) | (cell == state.cell) | ((byte & (WALL | BODY)) != 0))

    return ops.loop(is_taken, lambda drawn: drawn + 1, progress.drawn)


TASKS = (
    Task(
        "Snake", WORLD, from_seed(generate), reward,
        {
            "map": "8 x 8 cells, open inside, with one marker as food. The robot is the head of a snake whose body "
            "(shown as markers) follows it; eating food makes the body one cell longer and new food appears in a "
            "random free cell.",
            "agent": "On a random cell, facing east.",
            "goal": "Eat 20 pieces of food without running into the body.",
            "returns": "0.05 for each piece eaten by stepping on it. Running into the body ends the episode with -1.",
        },
    ),
)  # fmt: skip
