"""A native scalar interpreter, a yardstick of the machine: one run after the other on one core, nothing shared.

It runs the instructions of `jaxprl/dsl/compile.py` in a few Karel tasks, with real branches, as one would write it for
speed in C, and returns what `evaluate` returns. It needs numba, which the package does not.

    code = np.asarray(instructions(nodes, bits=counter_bits(nodes)))
    found = run_programs("DoorKey", code, task.layouts(range(32)))

The kernel holds no lock of Python's, so threads may share the programs.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from jaxprl.dsl.compile import HALT, NEVER, PERCEIVE, REPEATS
from jaxprl.vm.interpreter import CRASHED, FINISHED, TERMINATED
from jaxprl.worlds import registry
from jaxprl.worlds.karel.world import COUNT, GATE, LEFT, MARKERS, MAX_MARKERS, MOVE, PUT, RIGHT, WALL
from jaxprl.worlds.task import Layout

KEY_AND_DOOR, COLLECT, COLLECT_SPARSE = range(3)
RULES = {
    "DoorKey": KEY_AND_DOOR,
    "Harvester": COLLECT,
    "CleanHouse": COLLECT,
    "HarvesterSparse": COLLECT_SPARSE,
    "CleanHouseSparse": COLLECT_SPARSE,
}
"""How each task rewards a change of the markers; none of them rewards anything else."""
SLOT_BITS = 9
"""Bits of a slot of the WHILE table at the start of a run: a small table stays in the nearest cache."""
MEMORY_BITS = 15
"""The same of the largest table, which no run fills by half: it remembers no more than a state for every call."""
SPREAD = np.uint64(0x9E3779B97F4A7C15)

at = np.uint64
"""Makes an index unsigned, which spares numba the look for negative ones."""


def run_programs(task_name: str, code: np.ndarray, layouts: Layout) -> np.ndarray:
    """Return (units, calls, actions, end) of every run, int32 [P, E, 4].

    Args:
      task_name: one of `RULES`.
      code: instructions of the programs, uint32 [P, N, 3].
      layouts: E layouts of the task.
    """
    world, rule = registry.make(task_name).world, RULES[task_name]
    state, progress = layouts.state, layouts.progress
    # An action's code goes where its instruction's first word is empty.
    words = np.stack([code[..., 0] | code[..., 2], code[..., 1]], axis=-1)
    programs = np.ascontiguousarray(words, dtype="<u4").view("<u8")[..., 0]
    marks = np.stack([progress.key, progress.goal] if rule == KEY_AND_DOOR else [progress.initial] * 2)
    salts = np.random.default_rng(0).integers(1 << 64, size=state.cells.shape[1], dtype=np.uint64)
    found = np.zeros((*programs.shape[:1], len(layouts.units), 4), np.int32)
    cells = np.ascontiguousarray(state.cells, np.uint8)
    poses = np.stack([state.cell, state.direction]).astype(np.int64)
    _run_all(programs, cells, poses, progress.total.astype(np.int64), marks.astype(np.int64), salts,
             _looks(world.stride), rule, world.call_limit, found)  # fmt: skip
    return found


def _looks(stride: int) -> np.ndarray:
    """Return how far from the robot's cell a perception looks, int64 [perceptions * directions]."""
    ahead = [-stride, 1, stride, -1]
    turned = [[ahead[(direction + turn) & 3] for direction in range(4)] for turn in (0, 3, 1)]
    return np.array([*turned, [0] * 4, [0] * 4], np.int64).ravel()


@njit(nogil=True)
def _run_all(programs, cells, poses, totals, marks, salts, looks, rule, limit, found):
    memory = np.zeros(4 << MEMORY_BITS, np.uint64)
    counters = np.zeros(1024, np.int64)
    grid = np.zeros(cells.shape[1], np.uint8)
    number = np.uint64(0)
    for p in range(len(programs)):
        code = programs[p]
        deepest = 0
        for word in code:
            if (word >> at(4)) & at(3) == REPEATS:
                deepest = max(deepest, np.int64((word >> at(20)) & at(1023)) + 1)
        for e in range(len(cells)):
            grid[:] = cells[e]
            counters[:deepest] = 0
            number += at(1)
            found[p, e] = _run(
                code, grid, poses[0, e], poses[1, e], totals[e], marks[0, e], marks[1, e], salts, looks, rule, limit,
                memory, number, counters,
            )  # fmt: skip


@njit(nogil=True)
def _run(code, grid, cell, direction, total, mark, goal, salts, looks, rule, limit, memory, number, counters):
    """Return (units, calls, actions, end) of a run.

    `memory` has the WHILE tables of all sizes: the one of n slots begins at slot n. A slot is a key and the number of
    its run; those of other runs count as empty.
    """
    closed, opened = WALL | GATE, False
    units = calls = actions = address = used = 0
    grid_hash = at(0)
    bits, slots = SLOT_BITS, 1 << SLOT_BITS
    while True:
        word = np.int64(code[at(address)])
        action = word & 15
        if action:
            calls += 1
            actions += 1
            if action == MOVE:
                ahead = cell + looks[at(direction)]
                if grid[at(ahead)] & closed or calls == limit:
                    direction ^= 2
                else:
                    cell = ahead
            elif action == LEFT:
                direction = (direction + 3) & 3
            elif action == RIGHT:
                direction = (direction + 1) & 3
            else:
                count = np.int64(grid[at(cell)]) & COUNT
                change = np.int64(count < MAX_MARKERS) if action == PUT else -np.int64(count > 0)
                if change:
                    grid[at(cell)] += change
                    grid_hash += salts[at(cell)] * at(change)
                    total += change
                    reward, terminated = _reward(rule, cell, count + change, change, total, mark, goal, opened)
                    units += reward
                    if terminated:
                        return units, calls, actions, TERMINATED | (CRASHED if calls == limit else 0)
                    if rule == KEY_AND_DOOR and reward:
                        closed, opened = WALL, True
            if calls == limit:
                return units, calls, actions, CRASHED
        test = (word >> 4) & 3
        if test == NEVER:
            holds = False
        elif test == REPEATS:
            counter = (word >> 20) & 1023
            holds = counters[at(counter)] < (word >> 6) & 0x3FFF
            counters[at(counter)] = counters[at(counter)] + 1 if holds else 0
        else:
            holds = True
            if test == PERCEIVE:
                calls += 1
                if calls == limit:
                    return units, calls, actions, CRASHED
                perception = (word >> 6) & 31
                byte = grid[at(cell + looks[at(perception * 4 + direction)])]
                flip = (word & 2048) != 0
                if perception == MARKERS:
                    flip = not flip
                holds = ((byte & (COUNT if perception >= MARKERS else closed)) == 0) != flip
            if holds and word & 4096:
                place = (((word >> 13) & 511) * len(grid) + cell) * 4 + direction
                key = grid_hash + at(place)
                slot = slots + np.int64((key * SPREAD) >> at(64 - bits))
                while memory[at(2 * slot + 1)] == number:
                    if memory[at(2 * slot)] == key:
                        return units, calls, actions, CRASHED
                    slot = slots + ((slot + 1) & (slots - 1))
                memory[at(2 * slot)] = key
                memory[at(2 * slot + 1)] = number
                used += 1
                if 2 * used > slots:
                    _enlarge(memory, bits, number)
                    bits, slots = bits + 1, 2 * slots
        address = (word >> 32) & 1023 if holds else (word >> 42) & 1023
        if address == HALT:
            return units, calls, actions, FINISHED


@njit(nogil=True)
def _reward(rule, cell, count, change, total, mark, goal, opened):
    """Return the units and whether the run ends, after the markers of the robot's cell have changed."""
    if rule == COLLECT:
        return (-mark, True) if change > 0 else (1, total == 0)
    if rule == COLLECT_SPARSE:
        return (-1, True) if total > mark else (np.int64(total == 0), total == 0)
    if opened:
        topped = change > 0 and count == 2 and cell == goal
        return (1, True) if topped else (-2, True)
    if total > 2:
        return -2, True
    return np.int64(change < 0 and count == 0 and cell == mark), False


@njit(nogil=True)
def _enlarge(memory, bits, number):
    """Put the keys of a run's table into the table of twice its size."""
    slots = 2 << bits
    for old in range(slots // 2, slots):
        if memory[2 * old + 1] == number:
            slot = slots + np.int64((memory[2 * old] * SPREAD) >> at(63 - bits))
            while memory[2 * slot + 1] == number:
                slot = slots + ((slot + 1) & (slots - 1))
            memory[2 * slot] = memory[2 * old]
            memory[2 * slot + 1] = number
