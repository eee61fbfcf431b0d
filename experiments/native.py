"""A native scalar interpreter, as a yardstick: one run after the other on one core, with nothing shared between them.

It runs the instructions of `jaxprl/vm/compile.py` in a few Karel tasks, with real branches, as one would write it for
speed in C, and its outcomes are those of `evaluate`. It needs numba, which the package does not.

    code = np.asarray(instructions(nodes, bits=counter_bits(nodes)))
    found = run_programs("DoorKey", code, task.layouts(range(32)))

The kernel releases Python's lock, so threads may share the programs.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from jaxprl.vm import instruction
from jaxprl.vm.instruction import HALT, NEVER, PERCEIVE, REPEATS
from jaxprl.vm.outcomes import COLUMNS, CRASHED, FINISHED, TERMINATED
from jaxprl.worlds.karel.world import COUNT, GATE, LEFT, MARKERS, MAX_MARKERS, MOVE, PUT, RIGHT, WALL
from jaxprl.worlds.make import make
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
"""The WHILE table has 2 ** SLOT_BITS slots at the start of a run: a small table stays in the nearest cache."""
MEMORY_BITS = 15
"""The largest table has 2 ** MEMORY_BITS slots. No run fills half of it: it remembers at most one state a call."""

# An instruction is one word of 64 bits here: the word `test` with an action in its free bits, then the word `targets`.
# numba takes module-level integers for constants, so these are the shifts and masks of the fields.
ACTION_MASK = instruction.FREE.most
KIND, KIND_MASK = instruction.KIND.shift, instruction.KIND.most
PERCEPTION, PERCEPTION_MASK = instruction.PERCEPTION.shift, instruction.PERCEPTION.most
NEGATE = instruction.NEGATE.put(1)
RECORD = instruction.RECORD.put(1)
LOOP, LOOP_MASK = instruction.LOOP.shift, instruction.LOOP.most
REPEAT_COUNT, REPEAT_COUNT_MASK = instruction.REPEAT_COUNT.shift, instruction.REPEAT_COUNT.most
HOLDS, HOLDS_MASK = 32 + instruction.HOLDS.shift, instruction.HOLDS.most
FAILS, FAILS_MASK = 32 + instruction.FAILS.shift, instruction.FAILS.most
# Word and shift of a counter, which are neighbouring fields, are the number of the counter.
COUNTER = instruction.COUNTER_SHIFT.shift
COUNTER_MASK = (1 << instruction.COUNTER_SHIFT.bits + instruction.COUNTER_WORD.bits) - 1

SPREAD = np.uint64(0x9E3779B97F4A7C15)

at = np.uint64
"""Makes an index unsigned, so that numba need not check for a negative one."""


def run_programs(task_name: str, code: np.ndarray, layouts: Layout) -> np.ndarray:
    """Run programs on every layout.

    Args:
      task_name: one of `RULES`.
      code: instructions of the programs, uint32 [P, N, WORDS].
      layouts: E layouts of the task.

    Returns:
      Packed outcomes (`outcomes.unpack`), int32 [P, E, COLUMNS].
    """
    world, rule = make(task_name).world, RULES[task_name]
    state, progress = layouts.state, layouts.progress
    test, targets, chain = (code[..., word] for word in range(instruction.WORDS))
    words = np.stack([test | instruction.FREE.put(chain), targets], axis=-1)
    programs = np.ascontiguousarray(words, dtype="<u4").view("<u8")[..., 0]
    marks = np.stack([progress.key, progress.goal] if rule == KEY_AND_DOOR else [progress.initial] * 2)
    salts = np.random.default_rng(0).integers(1 << 64, size=state.cells.shape[1], dtype=np.uint64)
    found = np.zeros((len(programs), len(layouts.units), COLUMNS), np.int32)
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
    counters = np.zeros(COUNTER_MASK + 1, np.int64)
    grid = np.zeros(cells.shape[1], np.uint8)
    number = np.uint64(0)
    for p in range(len(programs)):
        code = programs[p]
        deepest = 0
        for word in code:
            if (word >> at(KIND)) & at(KIND_MASK) == REPEATS:
                deepest = max(deepest, np.int64((word >> at(COUNTER)) & at(COUNTER_MASK)) + 1)
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
    """Return units, calls, actions and end of a run.

    `memory` has the WHILE tables of all sizes: the table of n slots begins at slot n. A slot is a key and the number of
    its run; slots of other runs count as empty.
    """
    closed, opened = WALL | GATE, False
    units = calls = actions = address = used = 0
    grid_hash = at(0)
    bits, slots = SLOT_BITS, 1 << SLOT_BITS
    while True:
        word = np.int64(code[at(address)])
        action = word & ACTION_MASK
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
        test = (word >> KIND) & KIND_MASK
        if test == NEVER:
            holds = False
        elif test == REPEATS:
            counter = (word >> COUNTER) & COUNTER_MASK
            holds = counters[at(counter)] < (word >> REPEAT_COUNT) & REPEAT_COUNT_MASK
            counters[at(counter)] = counters[at(counter)] + 1 if holds else 0
        else:
            holds = True
            if test == PERCEIVE:
                calls += 1
                if calls == limit:
                    return units, calls, actions, CRASHED
                perception = (word >> PERCEPTION) & PERCEPTION_MASK
                byte = grid[at(cell + looks[at(perception * 4 + direction)])]
                flip = (word & NEGATE) != 0
                if perception == MARKERS:
                    flip = not flip
                holds = ((byte & (COUNT if perception >= MARKERS else closed)) == 0) != flip
            if holds and word & RECORD:
                place = (((word >> LOOP) & LOOP_MASK) * len(grid) + cell) * 4 + direction
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
        address = (word >> HOLDS) & HOLDS_MASK if holds else (word >> FAILS) & FAILS_MASK
        if address == HALT:
            return units, calls, actions, FINISHED


@njit(nogil=True)
def _reward(rule, cell, count, change, total, mark, goal, opened):
    """Return the reward in units and whether the run ends, after the markers on the robot's cell have changed."""
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
    """Copy the keys of a run's table, of 2 ** bits slots, to the table of twice the size."""
    slots = 2 << bits
    for old in range(slots // 2, slots):
        if memory[2 * old + 1] == number:
            slot = slots + np.int64((memory[2 * old] * SPREAD) >> at(63 - bits))
            while memory[2 * slot + 1] == number:
                slot = slots + ((slot + 1) & (slots - 1))
            memory[2 * slot] = memory[2 * old]
            memory[2 * slot + 1] = number
