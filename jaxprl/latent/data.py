"""Training data, made as it is used: random programs and what they do on random Karel states.

Programs come from the grammar (`dsl/sample.py`). Each is run on `EXECUTIONS` random 8x8 states, up to 100 actions a
run. Kept are programs whose branches are all exercised: every action of the text is done in at least one of the runs.
Of equal programs of one draw only one is kept, otherwise a third of the data would be the five programs of one action.

Which programs are held out is a property of the program: a hash of its nodes. So none of them is ever trained on,
however long the training, and nothing has to be stored.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode
from jaxprl.dsl.compile import COUNT_BITS, instructions_of
from jaxprl.dsl.encode import ACTION
from jaxprl.dsl.sample import random_programs
from jaxprl.vm import interpreter
from jaxprl.vm.interpreter import RUNNING, Instruction, Run, take
from jaxprl.vm.memory import Direct
from jaxprl.worlds import ops
from jaxprl.worlds.karel.world import WALL, Geometry, Karel
from jaxprl.worlds.task import Layout, Task

EXECUTIONS = 10
MOST_ACTIONS = 100
MOST_STEPS = 400
"""Instructions of a run, at most: nested REPEATs can look around for long without an action."""
WALL_PROBABILITY = MARKER_PROBABILITY = 0.1
HELD_OUT = 64
"""One program in so many is held out."""
_SLOTS = 1024


class Executions(NamedTuple):
    """What programs did; P programs, R runs each, the first T actions of a run."""

    action: jax.Array  # int32 [P, R, T]: index of the action, behind the last one the number of actions
    seen: jax.Array  # uint32 [P, R, T]: the perceptions before it, one bit each
    length: jax.Array  # int32 [P, R]: actions done, and one for the end if the program came to it
    exercised: jax.Array  # bool [P]


def random_states(world: Any, key: jax.Array, count: int) -> Karel:
    """Return random Karel states [count]: a border of walls, walls and single markers inside with probability .1, the
    robot on an open cell, in any direction (LEAPS, appendix on the dataset)."""
    wall_key, marker_key, cell_key, direction_key = jax.random.split(key, 4)
    shape = count, world.height, world.width
    row, column = jnp.arange(world.height), jnp.arange(world.width)
    inner = ((row > 0) & (row < world.height - 1))[:, None] & ((column > 0) & (column < world.width - 1))[None, :]
    walls = jax.random.bernoulli(wall_key, WALL_PROBABILITY, shape) | ~inner[None]
    markers = jax.random.bernoulli(marker_key, MARKER_PROBABILITY, shape) & ~walls
    lottery = jnp.where(walls, -1.0, jax.random.uniform(cell_key, shape))
    place = jnp.argmax(lottery.reshape(count, -1), axis=1).astype(jnp.int32)
    cells = jnp.full((count, world.height + 2, world.stride), WALL, jnp.uint8)
    cells = cells.at[:, 1:-1, 1:-1].set(jnp.where(walls, WALL, markers.astype(jnp.int32)).astype(jnp.uint8))
    return Karel(
        cell=(place // world.width + 1) * world.stride + place % world.width + 1,
        direction=jax.random.randint(direction_key, (count,), 0, 4),
        opened=jnp.zeros(count, bool),
        cells=cells.reshape(count, -1),
        hash=(jnp.zeros(count, jnp.uint32),) * 2,
    )


def _nothing(world: Any, progress: Any, state: Any, event: Any):
    return state, progress, 0, False


def _no_layout(seed: int) -> Layout:
    raise NotImplementedError("random states are drawn by `random_states`")


RANDOM_STATES = Task("RandomStates", Geometry(8, 8), _no_layout, _nothing)
"""Karel without a goal."""


def execute(task: Task, programs: jax.Array, states: Any, which: jax.Array, *, runs: int, steps: int) -> Executions:
    """Return what programs int32 [P, N] do on the states `which`, int32 [P, EXECUTIONS].

    Args:
      task: its rewards are not looked at.
      programs: nodes; at most 64.
      states: world states, stacked.
      which: state of each run.
      runs: how many of the runs are returned.
      steps: how many of their actions.
    """
    layouts = Layout(states, (), jnp.zeros(0, jnp.int32))
    actions = len(task.language.actions)

    def run_on(code: jax.Array, marks: jax.Array, state: jax.Array, memory: Direct):
        fetch = functools.partial(_fetch, code, marks)
        run = interpreter.start(layouts, state, fetch(jnp.int32(0)), memory.next_run(), words=1)
        empty = jnp.full(steps, actions, jnp.int32), jnp.zeros(steps, jnp.uint32)

        def goes_on(carry):
            run, _, taken = carry
            return (run.end == RUNNING) & ~run.memory.is_full & (taken < MOST_STEPS) & (run.actions < MOST_ACTIONS)

        def advance(carry):
            run, log, taken = carry
            action = interpreter.next_action(run.chain)
            acts, place = action > 0, jnp.where(run.actions < steps, run.actions, steps - 1)
            logged = acts & (run.actions < steps)
            # The conditional is a fence, as in `ops.read`.
            seen = jax.lax.cond(logged, lambda: _perceptions(task, run), lambda: jnp.uint32(0))
            row = action - 1, seen
            log = tuple(
                jax.lax.dynamic_update_index_in_dim(table, jnp.where(logged, new, take(table, place)), place, 0)
                for table, new in zip(log, row, strict=True)
            )
            always = jnp.bool_(True)
            run = jax.lax.cond(acts, lambda run: interpreter.act(task, run, run.chain, always), lambda run: run, run)
            return interpreter.test(task, fetch, run, running=always, bits=COUNT_BITS), log, taken + 1

        run, log, _ = jax.lax.while_loop(goes_on, advance, (run, empty, jnp.int32(0)))
        ended = run.end != RUNNING
        return log, jnp.minimum(run.actions + ended.astype(jnp.int32), steps), run.visited, run.memory

    def run_program(memory: Direct, inputs):
        nodes, layouts_of = inputs
        code, marks = instructions_of(nodes, encode.length(nodes), bits=COUNT_BITS, longest=1)

        def run_one(carry, layout):
            done, memory = carry
            log, length, new, memory = run_on(code, marks, layout, memory)
            return (done | new, memory), (*log, length)

        zero = jnp.zeros(2, jnp.uint32)
        (done, memory), logs = jax.lax.scan(run_one, (zero, memory), layouts_of)
        index = jnp.arange(nodes.shape[0], dtype=jnp.int32)
        is_action = encode.kinds(nodes) == ACTION
        reached = (done[index >> 5] >> (index & 31).astype(jnp.uint32)) & 1
        return memory, (*jax.tree.map(lambda leaf: leaf[:runs], logs), jnp.all((reached == 1) | ~is_action))

    _, (action, seen, length, exercised) = jax.lax.scan(run_program, Direct.empty(_SLOTS), (programs, which))
    return Executions(action, seen, length, exercised)


def _perceptions(task: Task, run: Run) -> jax.Array:
    """Return all perceptions as bits of a uint32."""
    bits = [
        task.world.perceive(run.state, jnp.int32(code)).astype(jnp.uint32) << code
        for code in range(len(task.language.perceptions))
    ]
    return functools.reduce(jnp.bitwise_or, bits)


def _fetch(code: jax.Array, marks: jax.Array, address: jax.Array) -> Instruction:
    words = take(code, address)
    return Instruction(words[0], words[1], words[2], nodes=take(marks, address))


def marks(programs: jax.Array) -> jax.Array:
    """Return a hash of each program int32 [P, N], uint32 [P]."""
    salts = ops.mixed(jnp.arange(programs.shape[1], dtype=jnp.int32), 0x9E3779B1)
    mixed = ops.mixed(programs + 977 * jnp.arange(programs.shape[1], dtype=jnp.int32)[None, :], 0x85EBCA6B)
    return jnp.sum(salts[None, :] * mixed, axis=1, dtype=jnp.uint32)


def is_held_out(programs: jax.Array) -> jax.Array:
    """Return which programs int32 [P, N] are kept from training, bool [P]."""
    return (marks(programs) >> 7) % HELD_OUT == 0


class Draw(NamedTuple):
    """Programs and what they do; D programs."""

    programs: jax.Array  # int32 [D, N]
    executions: Executions
    wanted: jax.Array  # bool [D]: exercised, the first of its kind in this draw, and on the wanted side


def draw(task: Task, key: jax.Array, count: int, *, held_out: bool = False, runs: int, steps: int) -> Draw:
    """Return `count` programs drawn from the grammar with their executions on random states (see `execute`)."""
    program_key, state_key, which_key = jax.random.split(key, 3)
    programs = random_programs(task.language, jax.random.split(program_key, count))
    states = random_states(task.world, state_key, count)
    which = jax.random.randint(which_key, (count, EXECUTIONS), 0, count)
    hashes = marks(programs)
    order = jnp.argsort(hashes, stable=True)
    again = jnp.append(jnp.zeros(1, bool), hashes[order][1:] == hashes[order][:-1])
    first = jnp.zeros(count, bool).at[order].set(~again)
    wanted = first & (is_held_out(programs) == held_out)
    # Programs that nobody wants are not run: an empty program ends at once.
    executions = execute(task, jnp.where(wanted[:, None], programs, 0), states, which, runs=runs, steps=steps)
    return Draw(programs, executions, wanted & executions.exercised)


def held_out_programs(task: Task, seed: int, count: int) -> np.ndarray:
    """Return `count` distinct programs of the held-out set, int32 [count, N], the same for the same seed."""
    found: dict[bytes, np.ndarray] = {}
    for number in range(10**6):
        part = _draw_held_out(task, jax.random.fold_in(jax.random.key(seed), number))
        for program in np.asarray(part.programs)[np.asarray(part.wanted)]:
            found.setdefault(program.tobytes(), program)
        if len(found) >= count:
            break
    return np.stack(list(found.values())[:count])


@functools.partial(jax.jit, static_argnums=0)
def _draw_held_out(task: Task, key: jax.Array) -> Draw:
    return draw(task, key, 2**13, held_out=True, runs=1, steps=1)
