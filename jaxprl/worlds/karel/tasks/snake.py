"""Snake: eat food and grow longer without running into your own body (LLM-GS)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxprl.worlds import ops
from jaxprl.worlds.karel.layouts import EAST, border, from_seed, inner_cell, nothing
from jaxprl.worlds.karel.world import BODY, WALL, Event, KarelState, KarelWorld
from jaxprl.worlds.ops import Bool, Int
from jaxprl.worlds.task import Layout, Rewarded, Task

WORLD = KarelWorld(8, 8)
FOOD = 20
"""The number of pieces of food to eat."""
FIRST_SIZE = 2
"""The size of the snake at the start."""
RING = 32
"""The number of slots for cells of the body, of which at most FIRST_SIZE + FOOD are in use."""
STREAM = 1024
"""The number of random draws that a layout holds for new food. Twenty pieces of food need about 35 draws, and a draw
has to be repeated with a probability below 2/3, so no run needs more than these; if one did, the stream would start
over."""


class Progress(NamedTuple):
    """What the reward depends on besides the state.

    The body is a queue of cells, stored in a ring. Cell number k that entered the queue, counted from 0, is in slot
    k % RING; those from `first` to `last` are the body. At most 22 of them are in use, so no slot is overwritten while
    it is needed.
    """

    body: ops.Table  # uint8 [RING], or bytes: the slots
    first: Int  # int32 []: the number of cells that have left the queue
    last: Int  # int32 []: the number of cells that have entered the queue, minus one
    size: Int  # int32 []: the size of the snake, which the length of the queue does not exceed after an action
    food: Int  # int32 []: the cell of the food
    spawns: ops.Table  # uint8 [STREAM], or bytes: the cells drawn for new food, in order
    drawn: Int  # int32 []: the number of them that were used


def generate(rng: np.random.RandomState) -> Layout:
    """Make a layout.

    There are walls on the border. The column ri(2, W-2) of the start is drawn first, then its row ri(1, H-1); the robot
    faces east. For the food, cells (ri(1, H-1), ri(1, W-1)) are drawn until one is not the robot's. New food is drawn
    from a generator with the same seed that starts anew, from its first draw on.
    """
    height, width = WORLD.height, WORLD.width
    # The generator has drawn nothing yet, so a copy of it gives the draws for new food.
    afresh = np.random.RandomState()
    afresh.set_state(rng.get_state())
    drawn = afresh.randint(1, np.tile([height - 1, width - 1], STREAM))  # what `inner_cell` draws, but all at once
    spawns = [WORLD.cell(row, column) for row, column in drawn.reshape(-1, 2).tolist()]
    column = rng.randint(2, width - 2)
    row = rng.randint(1, height - 1)
    food = row, column
    while food == (row, column):
        food = inner_cell(rng, height, width)
    markers = nothing(height, width)
    markers[food] = 1
    state = WORLD.state(border(height, width), (row, column, EAST), markers)
    assert isinstance(state.cells, np.ndarray)
    state.cells[state.cell] |= BODY
    body = np.zeros(RING, np.uint8)
    body[0] = state.cell
    zero = np.int32(0)
    progress = Progress(
        body, zero, zero, np.int32(FIRST_SIZE), np.int32(WORLD.cell(*food)), np.array(spawns, np.uint8), zero
    )
    return Layout(state, progress, np.int32(FOOD))


def reward(world: KarelWorld, progress: Progress, state: KarelState, event: Event) -> Rewarded:
    """Reward eating, and punish running into the body.

    After each action:

    1. If the robot is on the food, the size grows by 1, one marker is taken from the cell of the food, and the reward
       is 1/20. The 20th piece of food ends the run. Otherwise cells are drawn until one is open, not the robot's and
       not in the body; a marker is put there, which is the new food.
    2. If the robot is on a cell of the body other than its last one, the reward is -1 and the run ends. Otherwise, if
       it is not on the last cell of the body, a marker is put on that last cell, and the cell of the robot is appended
       to the body. If the body is then longer than the size, its first cell leaves it, and a marker is taken there.

    Markers are put and taken within the limits of 0..10. The -1 of step 2 replaces the reward of step 1.
    """
    # Step 2 by example: the snake has size 2 and its body is [a b], with the robot on b. It moves to c. A marker is put
    # on b, and the body becomes [a b c]. That is longer than 2, so a leaves, with a marker taken there: [b c]. If c is
    # food, the size is 3 by then, and a stays.
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


def _respawn(progress: Progress, state: KarelState, wanted: Bool) -> Int:
    """Return the number of draws used after drawing a free cell for new food, if one is wanted."""

    # The last of the cells drawn is number drawn - 1. At first none is drawn for this food, so one draw is always due.
    def is_taken(drawn: Int) -> Bool:
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
