"""A run, action by action and test by test: the meaning of programs as array code.

An instruction is a chain of actions, then a test. `act` does the next action with its reward, `test` the test, which
leads to the next instruction. Both are written on the scalars of one run: `lanes.py` takes thousands of runs together,
`sequential.py` one run after the other. `host.py` says the same in plain Python, one call after the other.

- A call is one action or one perception. `calls` counts them; `not`, `and`, `or`, REPEAT and constants cost nothing.
- Action: changes the state, then the task gives (units, terminated). Termination ends the run (T).
- The call number `call_limit` crashes the run (C): an action there still happens and its reward counts.
- WHILE: when its test holds, the state is compared with every state at which this WHILE node's test held earlier in
  the run; the memory is never cleared on re-entry. Seen before: crashed (C), the body is not entered.
- The program runs off its end: E. Both T and C at one action: TC, or T where the world says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprl.dsl.compile import ALWAYS, HALT, NEVER, PERCEIVE, REPEATS, ROUNDS
from jaxprl.vm.memory import key_of
from jaxprl.worlds.task import Layout, Task

RUNNING, TERMINATED, CRASHED, FINISHED, DROPPED = 0, 1, 2, 4, 8
"""How a run ended: bits, since a run can be terminated and crashed; DROPPED: nobody needs its end."""
END_NAMES = {TERMINATED: "T", CRASHED: "C", TERMINATED | CRASHED: "TC", FINISHED: "E"}


class Instruction(NamedTuple):
    """One instruction of a program (`dsl/compile.py`)."""

    test: jax.Array  # uint32
    targets: jax.Array  # uint32
    chain: jax.Array  # uint32: actions
    nodes: Any = ()  # uint32 [2]: its nodes, bits, where they are asked for


class Run(NamedTuple):
    """The state of one run."""

    state: Any  # the world's
    progress: Any  # the task's
    address: jax.Array  # int32: of the instruction that the run is at
    chain: jax.Array  # uint32: what is left of its actions
    calls: jax.Array  # int32
    perceptions: jax.Array  # int32: calls that were perceptions
    units: jax.Array  # int32: sum of the rewards, in units of the layout
    end: jax.Array  # int32: how it ended
    counters: jax.Array  # uint32 [words]: REPEAT counters, bit fields
    memory: Any  # of WHILE (`memory.py`)
    visited: Any = ()  # uint32 [2]: nodes that the run came to, bits, where they are asked for

    @property
    def actions(self) -> jax.Array:
        """How many actions were rewarded, int32."""
        return self.calls - self.perceptions


Fetch = Callable[[jax.Array], Instruction]
"""Gives the instruction at an address."""


def start(layouts: Layout, layout: jax.Array, first: Instruction, memory: Any, *, words: int) -> Run:
    """Return a run at the beginning of its program, on one of the layouts."""
    state, progress = jax.tree.map(lambda leaf: take(leaf, layout), (layouts.state, layouts.progress))
    zero, counters, visited = jnp.int32(0), jnp.zeros(words, jnp.uint32), jax.tree.map(jnp.zeros_like, first.nodes)
    return Run(state, progress, zero, first.chain, zero, zero, zero, zero, counters, memory, visited)


def take(table: jax.Array, index: jax.Array) -> jax.Array:
    """Return `table[index]`; the index is in range."""
    return jax.lax.dynamic_index_in_dim(table, index, keepdims=False, allow_negative_indices=False)


def act(task: Task, run: Run, chain: jax.Array, acts: jax.Array) -> Run:
    """Return a run after the next action of its instruction, whose actions are `chain`; the same run where `acts` does
    not hold. Where it does, an action is left."""
    world, state, progress = task.world, run.state, run.progress
    action = jnp.where(acts, next_action(run.chain), 0)
    calls = run.calls + jnp.where(acts, 1, 0)
    at_limit = acts & (calls == world.call_limit)
    new_state, event = world.act(state, action, at_limit)
    new_state, new_progress, reward, terminated = task.reward(world, progress, new_state, event)
    new_progress = jax.tree.map(
        lambda new, old: old if new is old else jnp.where(acts, new, old), new_progress, progress
    )
    new_state, new_progress = jax.tree.map(
        lambda new, old: jnp.asarray(new).astype(old.dtype), (new_state, new_progress), (state, progress)
    )
    terminated = acts & terminated
    crashed = at_limit & ~terminated if world.terminated_hides_crash else at_limit
    return run._replace(
        state=new_state,
        progress=new_progress,
        chain=jnp.where(acts, after_action(run.chain, chain), run.chain),
        calls=calls,
        units=run.units + jnp.where(acts, reward, 0),
        end=run.end | jnp.where(terminated, TERMINATED, 0) | jnp.where(crashed, CRASHED, 0),
    )


def test(task: Task, fetch: Fetch, run: Run, *, running: jax.Array, bits: int) -> Run:
    """Return a run after the test of its instruction, at the next one; the same run if actions are left, or at its end.

    Args:
      task: the task.
      fetch: instruction at an address.
      run: the run.
      running: whether it does anything at all.
      bits: of a REPEAT counter.
    """
    world, now, stalled = task.world, fetch(run.address), run.memory.stalled
    tests = running & (run.end == RUNNING) & (run.chain == 0)
    kind = jnp.where(tests, _kind(now), NEVER)
    # A conditional, since its result is kept: what is fused into several places is computed in each.
    sensed = jax.lax.cond(kind == PERCEIVE, lambda: _sensed(world, run.state, now), lambda: jnp.bool_(False))
    found = _decided(run, now, kind, stalled | sensed, bits=bits)
    perceives = (kind == PERCEIVE) & ~stalled
    calls = run.calls + jnp.where(perceives, 1, 0)
    end = run.end | jnp.where(perceives & (calls == world.call_limit), CRASHED, 0)
    remembers = found.remembers & (end == RUNNING)
    known, memory = run.memory.remember(lambda: key_of(world, run.state, _loop(now)), remembers)
    end = end | jnp.where(known, CRASHED, 0)
    moves_on = tests & ~memory.stalled
    end = end | jnp.where((end == RUNNING) & moves_on & (found.target == HALT), FINISHED, 0)
    address = jnp.where(moves_on, found.target, run.address)
    return run._replace(
        address=address,
        chain=jnp.where(moves_on, fetch(address).chain, run.chain),
        calls=calls,
        perceptions=run.perceptions + jnp.where(perceives, 1, 0),
        end=end,
        counters=found.counters,
        memory=memory,
        visited=jax.tree.map(jnp.bitwise_or, run.visited, now.nodes),
    )


def glide(task: Task, fetch: Fetch, run: Run, *, bits: int) -> Run:
    """Return a run of a `quiet` task after those of its next actions and tests that change no more than its pose.

    Little is carried along and nothing is written: that is several times as fast as `act` and `test`. They go on from
    where it stops: before an action that does more, a WHILE that remembers, the call that crashes the run, or its end.
    """
    world, limit = task.world, task.world.call_limit

    def goes_on(carry: tuple[Run, jax.Array]) -> jax.Array:
        return carry[1]

    def advance(carry: tuple[Run, jax.Array]) -> tuple[Run, jax.Array]:
        now = fetch(carry[0].address)
        run = _glided(world, carry[0], now.chain)
        kind = _kind(now)
        found = _decided(run, now, kind, _sensed(world, run.state, now), bits=bits)
        moves_on = (run.chain == 0) & (run.calls + 1 < limit) & ~found.remembers & (found.target != HALT)
        address = jnp.where(moves_on, found.target, run.address)
        perceptions = jnp.where(moves_on & (kind == PERCEIVE), 1, 0)
        run = run._replace(
            address=address,
            chain=jnp.where(moves_on, fetch(address).chain, run.chain),
            calls=run.calls + perceptions,
            perceptions=run.perceptions + perceptions,
            counters=jnp.where(moves_on, found.counters, run.counters),
            visited=jax.tree.map(jnp.bitwise_or, run.visited, now.nodes),
        )
        return run, moves_on

    return jax.lax.while_loop(goes_on, advance, (run, run.end == RUNNING))[0]


def _glided(world: Any, run: Run, chain: jax.Array) -> Run:
    """Return a run after those of the next actions of its instruction that only change its pose, but for the call that
    crashes it."""

    def goes_on(carry):
        _, left, calls, quiet = carry
        return (left != 0) & quiet & (calls + 1 < world.call_limit)

    def advance(carry):
        old, left, calls, _ = carry
        state, quiet = world.glide(old, next_action(left))
        state = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), state, old)
        return state, jnp.where(quiet, after_action(left, chain), left), calls + jnp.where(quiet, 1, 0), quiet

    start = run.state, run.chain, run.calls, jnp.bool_(True)
    state, left, calls, _ = jax.lax.while_loop(goes_on, advance, start)
    return run._replace(state=state, chain=left, calls=calls)


class _Decision(NamedTuple):
    """What a test comes to."""

    remembers: jax.Array  # bool: whether a WHILE compares and remembers the state
    target: jax.Array  # int32: where the run goes on
    counters: jax.Array  # uint32 [words]


def _decided(run: Run, now: Instruction, kind: jax.Array, sensed: jax.Array, *, bits: int) -> _Decision:
    """Return what the test of an instruction comes to, int32 kind, if its perception gives `sensed`, bool."""
    repeats, counters = _repeat(run.counters, now, kind == REPEATS, bits=bits)
    holds = ((kind == PERCEIVE) & sensed) | repeats | (kind == ALWAYS)
    remembers = holds & ((now.test & 4096) != 0) & (kind != REPEATS)
    target = jnp.where(holds, now.targets & 1023, (now.targets >> 10) & 1023).astype(jnp.int32)
    return _Decision(remembers, target, counters)


def _kind(instruction: Instruction) -> jax.Array:
    return ((instruction.test >> 4) & 3).astype(jnp.int32)


def next_action(left: jax.Array) -> jax.Array:
    """Return the code of the first action that is left, int32; 0 for none."""
    return (left & 15).astype(jnp.int32)


def after_action(left: jax.Array, chain: jax.Array) -> jax.Array:
    """Return what is left of an instruction's actions after the first one that was left."""
    actions = (1 << ROUNDS) - 1
    following, rounds = (left & actions) >> 4, left >> ROUNDS
    again = (following == 0) & (rounds > 0)
    return jnp.where(again, (chain & actions) | (rounds - 1) << ROUNDS, following | rounds << ROUNDS)


def _sensed(world: Any, state: Any, instruction: Instruction) -> jax.Array:
    """Return whether a perception test holds."""
    perception = ((instruction.test >> 6) & 31).astype(jnp.int32)
    return world.perceive(state, perception) ^ ((instruction.test & 2048) != 0)


def _loop(instruction: Instruction) -> jax.Array:
    """Return the number of the WHILE node that remembers, int32."""
    return ((instruction.test >> 13) & 511).astype(jnp.int32)


def _repeat(
    counters: jax.Array, instruction: Instruction, wanted: jax.Array, *, bits: int
) -> tuple[jax.Array, jax.Array]:
    """Return whether a REPEAT goes on, and the counters; where that is not wanted, False and the same counters.

    A counter holds the iterations begun; it is zero whenever its REPEAT is entered, since leaving clears it.
    """
    word = instruction.test
    shift, index = (word >> 20) & 31, (word >> 25) & 31
    total = (word >> 6) & 0x3FFF
    chosen = (jnp.arange(counters.shape[0], dtype=jnp.uint32) == index) & wanted
    counter = (jnp.sum(jnp.where(chosen, counters, 0), dtype=jnp.uint32) >> shift) & ((1 << bits) - 1)
    goes_on = wanted & (counter < total)
    change = jnp.where(goes_on, jnp.uint32(1) << shift, -(counter << shift))
    return goes_on, counters + jnp.where(chosen, change, 0)
