"""Training data, generated as it is used: random programs and what they do on random Karel states.

Programs are drawn from the grammar (`dsl/sample.py`) and, for a space of kind `hprl`, simplified (`simplify.py`). Each
is run on `EXECUTIONS` random 8x8 states, for up to 100 actions per run (50 for `hprl`). Only programs whose branches
are all exercised are kept: every action of the text has to be done in at least one of the runs. Of equal programs in a
draw only one is kept; otherwise a third of the data would consist of the five programs with one action.

Whether a program is held out depends on a hash of its nodes. So no held-out program is ever trained on, however long
the training, and nothing has to be stored.

Axis letters: D drawn programs, P programs, N nodes, R runs per program, T actions per run.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode
from jaxprl.dsl.encode import ACTION
from jaxprl.dsl.sample import random_programs
from jaxprl.errors import UserError
from jaxprl.latent.grammar import Grammar
from jaxprl.latent.kinds import LEAPS, Kind
from jaxprl.latent.simplify import simplified
from jaxprl.types import PyTree
from jaxprl.vm import interpreter
from jaxprl.vm.compile import COUNT_BITS, instructions_of
from jaxprl.vm.instruction import Instruction, next_action
from jaxprl.vm.interpreter import Run, take
from jaxprl.vm.memory import Direct
from jaxprl.vm.outcomes import RUNNING
from jaxprl.worlds import ops
from jaxprl.worlds.karel.world import WALL, KarelState, KarelWorld
from jaxprl.worlds.seeds import checked_seed
from jaxprl.worlds.task import Layout, Task
from jaxprl.xla import guarded, jit

EXECUTIONS = 10
"""Runs of each program."""
MOST_STEPS = 400
"""The most instructions of a run: nested REPEATs can perceive for a long time without an action."""
MARKER_PROBABILITY = 0.1
HELD_OUT = 64
"""One program in this many is held out."""
_SLOTS = 1024
"""Slots of the memory of WHILE."""


class Executions(NamedTuple):
    """The runs of programs: P programs, R runs of each, the first T actions of every run."""

    action: jax.Array  # int32 [P, R, T]: index of the action; behind the last one the number of actions
    seen: jax.Array  # uint32 [P, R, T]: the perceptions before the action, one bit each
    length: jax.Array  # int32 [P, R]: actions taken, plus one for the end if the program reached it
    exercised: jax.Array  # bool [P]: whether every action of the text was taken in one of the runs


@guarded
def random_states(world: KarelWorld, key: jax.Array, count: int, *, walls: float = LEAPS.walls) -> KarelState:
    """Draw random Karel states (LEAPS, appendix on the dataset).

    The border consists of walls. Every other cell is a wall with the given probability, and an open cell has a single
    marker with probability 0.1. The robot stands on an open cell and faces any direction.

    Args:
      world: the size of the states.
      key: a JAX random key.
      count: number of states.
      walls: the probability of a wall.

    Returns:
      The states, with a leading axis [count].
    """
    wall_key, marker_key, cell_key, direction_key = jax.random.split(key, 4)
    shape = count, world.height, world.width
    row, column = jnp.arange(world.height), jnp.arange(world.width)
    inner = ((row > 0) & (row < world.height - 1))[:, None] & ((column > 0) & (column < world.width - 1))[None, :]
    is_wall = jax.random.bernoulli(wall_key, walls, shape) | ~inner[None]
    markers = jax.random.bernoulli(marker_key, MARKER_PROBABILITY, shape) & ~is_wall
    lottery = jnp.where(is_wall, -1.0, jax.random.uniform(cell_key, shape))
    place = jnp.argmax(lottery.reshape(count, -1), axis=1).astype(jnp.int32)
    cells = jnp.full((count, world.height + 2, world.stride), WALL, jnp.uint8)
    cells = cells.at[:, 1:-1, 1:-1].set(jnp.where(is_wall, WALL, markers.astype(jnp.int32)).astype(jnp.uint8))
    return KarelState(
        cell=(place // world.width + 1) * world.stride + place % world.width + 1,
        direction=jax.random.randint(direction_key, (count,), 0, 4),
        opened=jnp.zeros(count, bool),
        cells=cells.reshape(count, -1),
        hash=(jnp.zeros(count, jnp.uint32),) * 2,
    )


def _nothing(world: PyTree, progress: PyTree, state: PyTree, event: PyTree) -> tuple[PyTree, PyTree, int, bool]:
    """Reward nothing and never end."""
    return state, progress, 0, False


def _no_layout(seed: int) -> Layout:
    """Refuse: layouts of this task do not come from seeds."""
    raise NotImplementedError("random states are drawn by `random_states`")


RANDOM_STATES = Task("RandomStates", KarelWorld(8, 8), _no_layout, _nothing)
"""Karel's world without a goal."""


@guarded
def execute(
    task: Task,
    programs: jax.Array,
    states: PyTree,
    which: jax.Array,
    *,
    runs: int,
    steps: int,
    most_actions: int = LEAPS.most_actions,
) -> Executions:
    """Run programs and record their actions and perceptions.

    Args:
      task: the task; its rewards are ignored.
      programs: int32 [P, N], nodes; N is at most 64.
      states: world states with a leading axis.
      which: int32 [P, EXECUTIONS], index of the state that each run starts from.
      runs: R, how many of the runs are returned.
      steps: T, how many of their actions are returned.
      most_actions: the most actions of a run.

    Returns:
      The runs. `exercised` refers to all `EXECUTIONS` runs.
    """
    layouts = Layout(states, (), jnp.zeros(0, jnp.int32))
    actions = len(task.language.actions)

    def run_on(
        code: jax.Array, marks: jax.Array, state: jax.Array, memory: Direct
    ) -> tuple[_Log, jax.Array, PyTree, Direct]:
        """Run a program on one state; return its log, its length, the nodes it visited, as bits, and the memory."""
        fetch = functools.partial(_fetch, code, marks)
        run = interpreter.start(layouts, state, fetch(jnp.int32(0)), memory.next_run(), words=1)
        empty = jnp.full(steps, actions, jnp.int32), jnp.zeros(steps, jnp.uint32)

        def goes_on(carry: tuple[Run[Direct], _Log, jax.Array]) -> jax.Array:
            run, _, taken = carry
            return (run.end == RUNNING) & ~run.memory.is_full & (taken < MOST_STEPS) & (run.actions < most_actions)

        def advance(carry: tuple[Run[Direct], _Log, jax.Array]) -> tuple[Run[Direct], _Log, jax.Array]:
            run, log, taken = carry
            action = next_action(run.chain)
            acts, place = action > 0, jnp.where(run.actions < steps, run.actions, steps - 1)
            logged = acts & (run.actions < steps)
            # The conditional is a fence for XLA, as in `ops.read`: the perceptions are computed once, before the action
            # changes the state. Otherwise the old state would be copied at every step.
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

    def run_program(memory: Direct, inputs: tuple[jax.Array, jax.Array]) -> tuple[Direct, PyTree]:
        nodes, layouts_of = inputs
        code, marks = instructions_of(nodes, encode.length(nodes), bits=COUNT_BITS, longest=1)

        def run_one(carry: tuple[jax.Array, Direct], layout: jax.Array) -> tuple[tuple[jax.Array, Direct], PyTree]:
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


_Log = tuple[jax.Array, jax.Array]
"""The columns `action` and `seen` of one run, [T] each."""


def _perceptions(task: Task, run: Run[Direct]) -> jax.Array:
    """Return all perceptions as the bits of a uint32."""
    bits = [
        task.world.perceive(run.state, jnp.int32(code)).astype(jnp.uint32) << code
        for code in range(len(task.language.perceptions))
    ]
    return functools.reduce(jnp.bitwise_or, bits)


def _fetch(code: jax.Array, marks: jax.Array, address: jax.Array) -> Instruction:
    """Return the instruction at an address, with the nodes that it was compiled from."""
    words = take(code, address)
    return Instruction(words[0], words[1], words[2], nodes=take(marks, address))


def marks(programs: jax.Array) -> jax.Array:
    """Return a hash of each program.

    Args:
      programs: int32 [P, N], nodes.

    Returns:
      uint32 [P].
    """
    salts = ops.mixed(jnp.arange(programs.shape[1], dtype=jnp.int32), 0x9E3779B1)
    mixed = ops.mixed(programs + 977 * jnp.arange(programs.shape[1], dtype=jnp.int32)[None, :], 0x85EBCA6B)
    return jnp.sum(salts[None, :] * mixed, axis=1, dtype=jnp.uint32)


def is_held_out(programs: jax.Array) -> jax.Array:
    """Return which programs int32 [P, N] are held out from training, bool [P]."""
    return (marks(programs) >> 7) % HELD_OUT == 0


class Draw(NamedTuple):
    """D random programs and their runs."""

    programs: jax.Array  # int32 [D, N]: nodes
    executions: Executions
    wanted: jax.Array  # bool [D]: whether a program is exercised, the first of its kind, and held out or not as asked


@guarded
def draw(
    task: Task, key: jax.Array, count: int, *, held_out: bool = False, runs: int, steps: int, kind: Kind = LEAPS
) -> Draw:
    """Draw programs from the grammar and run them on random states.

    Args:
      task: the task whose world and language are used.
      key: a JAX random key.
      count: D, number of programs.
      held_out: whether held-out programs are wanted, instead of those for training.
      runs: as in `execute`.
      steps: as in `execute`.
      kind: the kind of program space that they are for.

    Returns:
      The programs and their runs.
    """
    program_key, state_key, which_key = jax.random.split(key, 3)
    language = kind.language(task.language)
    programs, kept = random_programs(language, jax.random.split(program_key, count)), jnp.ones(count, bool)
    if kind.simplifies:
        programs, kept = simplified(Grammar.of(language), programs)
    assert isinstance(task.world, KarelWorld)
    states = random_states(task.world, state_key, count, walls=kind.walls)
    which = jax.random.randint(which_key, (count, EXECUTIONS), 0, count)
    hashes = marks(programs)
    order = jnp.argsort(hashes, stable=True)
    again = jnp.append(jnp.zeros(1, bool), hashes[order][1:] == hashes[order][:-1])
    first = jnp.zeros(count, bool).at[order].set(~again)
    wanted = kept & first & (is_held_out(programs) == held_out)
    # Unwanted programs are replaced by empty ones, which end at once.
    chosen = jnp.where(wanted[:, None], programs, 0)
    limits = {"runs": runs, "steps": steps, "most_actions": kind.most_actions}
    executions = execute(task, chosen, states, which, **limits)
    return Draw(programs, executions, wanted & executions.exercised)


@guarded
def held_out_programs(task: Task, seed: int, count: int, kind: Kind = LEAPS) -> np.ndarray:
    """Return distinct held-out programs.

    Args:
      task: the task whose world and language are used.
      seed: determines the programs, an integer from 0 to 2**32 - 1.
      count: number of programs, 1 or more.
      kind: the kind of program space that they are for.

    Returns:
      int32 [count, N], nodes.

    Raises:
      UserError: the seed or the number is not one.
    """
    if count < 1:
        raise UserError(f"{count} held-out programs: at least one is needed")
    seed = checked_seed(seed)
    distinct: dict[bytes, np.ndarray] = {}
    for number in range(10**6):
        part = _draw_held_out(task, kind, jax.random.fold_in(jax.random.key(seed), number))
        for program in np.asarray(part.programs)[np.asarray(part.wanted)]:
            distinct.setdefault(program.tobytes(), program)
        if len(distinct) >= count:
            break
    return np.stack(list(distinct.values())[:count])


@jit(per=("task", "kind"), static_argnames=("task", "kind"))
def _draw_held_out(task: Task, kind: Kind, key: jax.Array) -> Draw:
    return draw(task, key, 2**13, held_out=True, runs=1, steps=1, kind=kind)
