"""One step of a run: the meaning of programs as array code.

A step does actions of an instruction and their rewards, and after the last one its test. It is written on the scalars
of one run. `lanes.py` steps thousands of runs together, `sequential.py` takes one run after the other; both use this
text. `host.py` says the same in plain Python, one call after the other.

- A call is one action or one perception. `calls` counts them; `not`, `and`, `or`, REPEAT and constants cost nothing.
- Action: changes the state, then the task gives (units, terminated). Termination ends the run (T).
- The call number `call_limit` crashes the run (C): an action there still happens and its reward counts.
- WHILE: when its test holds, the state is compared with every state at which this WHILE node's test held earlier in
  the run; the memory is never cleared on re-entry. Seen before: crashed (C), the body is not entered.
- The program runs off its end: E. Both T and C at one action: TC, or T where the world says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

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


Act = Callable[[Any, jax.Array, jax.Array], Any]
"""`act(operand, action, acts)` does an action where `acts` holds: it takes and returns (state, progress, calls, units,
end)."""


class Each(Protocol):
    """`each(act, operand, run, chain)` does one or more of the actions that are left to a run, in an instruction whose
    actions are `chain`, and returns (operand, what is left)."""

    def __call__(self, act: Act, operand: Any, run: Run, chain: jax.Array) -> tuple[Any, jax.Array]: ...


def start(layouts: Layout, layout: jax.Array, first: Instruction, memory: Any, *, words: int) -> Run:
    """Return a run at the beginning of its program, on one of the layouts."""
    state, progress = jax.tree.map(lambda leaf: take(leaf, layout), (layouts.state, layouts.progress))
    zero, counters, visited = jnp.int32(0), jnp.zeros(words, jnp.uint32), jax.tree.map(jnp.zeros_like, first.nodes)
    return Run(state, progress, zero, first.chain, zero, zero, zero, zero, counters, memory, visited)


def take(table: jax.Array, index: jax.Array) -> jax.Array:
    """Return `table[index]`; the index is in range."""
    return jax.lax.dynamic_index_in_dim(table, index, keepdims=False, allow_negative_indices=False)


def step(task: Task, fetch: Fetch, run: Run, *, running, bits: int, each: Each) -> Run:
    """Return a run after its next step.

    Args:
      task: the task.
      fetch: instruction at an address.
      run: the run.
      running: whether it does anything at all.
      bits: of a REPEAT counter.
      each: how many actions are done at once.
    """
    world, limit = task.world, task.world.call_limit
    now = fetch(run.address)
    stalled = run.memory.stalled
    acts = running & ~stalled
    acting = run._replace(chain=jnp.where(acts, run.chain, jnp.uint32(0)))

    def act(operand, action, acts):
        state, progress, calls, units, end = operand
        calls = calls + jnp.where(acts, 1, 0)
        at_limit = acts & (calls == limit)
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
        end = end | jnp.where(terminated, TERMINATED, 0) | jnp.where(crashed, CRASHED, 0)
        return new_state, new_progress, calls, units + jnp.where(acts, reward, 0), end

    operand = (run.state, run.progress, run.calls, run.units, run.end)
    (state, progress, calls, units, end), chain = each(act, operand, acting, now.chain)
    chain = jnp.where(acts, chain, run.chain)

    # The conditional is a fence, as in `ops.read`.
    tests = running & (end == RUNNING) & (chain == 0)
    test = jnp.where(tests, _test_of(now), NEVER)
    sensed = jax.lax.cond(test == PERCEIVE, lambda: _sensed(world, state, now), lambda: jnp.bool_(False))
    goes_on, counters = _repeat(run.counters, now, test == REPEATS, bits=bits)
    holds = ((test == PERCEIVE) & (stalled | sensed)) | goes_on | (test == ALWAYS)
    perceives = jnp.where((test == PERCEIVE) & ~stalled, 1, 0)
    calls = calls + perceives
    end = end | jnp.where((perceives == 1) & (calls == limit), CRASHED, 0)

    remembers = holds & _remembers(now) & (end == RUNNING)
    known, memory = run.memory.remember(lambda: key_of(world, state, _loop(now)), remembers)
    end = end | jnp.where(known, CRASHED, 0)
    address = _target(now, holds)
    moves_on = tests & ~memory.stalled
    end = end | jnp.where((end == RUNNING) & moves_on & (address == HALT), FINISHED, 0)
    address = jnp.where(moves_on, address, run.address)
    return run._replace(
        state=state,
        progress=progress,
        address=address,
        chain=jnp.where(moves_on, fetch(address).chain, chain),
        calls=calls,
        perceptions=run.perceptions + perceives,
        units=units,
        end=end,
        counters=counters,
        memory=memory,
        visited=_with_nodes(run.visited, now),
    )


def glide(task: Task, fetch: Fetch, run: Run, *, bits: int) -> Run:
    """Return a run after those of its next steps that change no more of the world than a pose; the task is `quiet`.

    Nothing is written in them that they read, so XLA keeps a run in few registers. The run stops before an action that
    does more, before a WHILE remembers, before the call that crashes it and before its end: `step` goes on from there.
    """
    world, limit = task.world, task.world.call_limit

    def goes_on(carry):
        return carry[1]

    def advance(carry):
        run, _ = carry
        now = fetch(run.address)
        state, chain, calls = _glide_along(world, run, now.chain)
        test = _test_of(now)
        repeats, counters = _repeat(run.counters, now, test == REPEATS, bits=bits)
        perceives = test == PERCEIVE
        holds = (perceives & _sensed(world, state, now)) | repeats | (test == ALWAYS)
        target = _target(now, holds)
        remembers = holds & _remembers(now)
        moves_on = (chain == 0) & (calls + 1 < limit) & ~remembers & (target != HALT)
        address = jnp.where(moves_on, target, run.address)
        perceptions = jnp.where(moves_on & perceives, 1, 0)
        run = run._replace(
            state=state,
            address=address,
            chain=jnp.where(moves_on, fetch(address).chain, chain),
            calls=calls + perceptions,
            perceptions=run.perceptions + perceptions,
            counters=jnp.where(moves_on, counters, run.counters),
            visited=_with_nodes(run.visited, now),
        )
        return run, moves_on

    return jax.lax.while_loop(goes_on, advance, (run, run.end == RUNNING))[0]


def _glide_along(world: Any, run: Run, chain: jax.Array):
    """Return state, actions left and calls of a run before the first action of its chain that changes more than its
    pose."""

    def goes_on(carry):
        _, left, calls, quiet = carry
        return (left != 0) & quiet & (calls + 1 < world.call_limit)

    def advance(carry):
        state, left, calls, _ = carry
        new_state, quiet = world.glide(state, next_action(left))
        return new_state, jnp.where(quiet, after_action(left, chain), left), calls + jnp.where(quiet, 1, 0), quiet

    return jax.lax.while_loop(goes_on, advance, (run.state, run.chain, run.calls, jnp.bool_(True)))[:3]


def next_action(left: jax.Array) -> jax.Array:
    """Return the code of the first action that is left, int32; 0 for none."""
    return (left & 15).astype(jnp.int32)


def after_action(left: jax.Array, chain: jax.Array) -> jax.Array:
    """Return what is left of an instruction's actions after the first one that was left."""
    actions = (1 << ROUNDS) - 1
    following, rounds = (left & actions) >> 4, left >> ROUNDS
    again = (following == 0) & (rounds > 0)
    return jnp.where(again, (chain & actions) | (rounds - 1) << ROUNDS, following | rounds << ROUNDS)


def _test_of(instruction: Instruction) -> jax.Array:
    return ((instruction.test >> 4) & 3).astype(jnp.int32)


def _sensed(world: Any, state: Any, instruction: Instruction) -> jax.Array:
    """Return whether a perception test holds."""
    perception = ((instruction.test >> 6) & 31).astype(jnp.int32)
    return world.perceive(state, perception) ^ ((instruction.test & 2048) != 0)


def _remembers(instruction: Instruction) -> jax.Array:
    """Return whether a WHILE remembers the state if the test holds."""
    return ((instruction.test & 4096) != 0) & (_test_of(instruction) != REPEATS)


def _loop(instruction: Instruction) -> jax.Array:
    """Return the number of the WHILE node that remembers, int32."""
    return ((instruction.test >> 13) & 511).astype(jnp.int32)


def _target(instruction: Instruction, holds: jax.Array) -> jax.Array:
    """Return the address at which a run goes on, int32."""
    targets = instruction.targets
    return jnp.where(holds, targets & 1023, (targets >> 10) & 1023).astype(jnp.int32)


def _with_nodes(visited: Any, instruction: Instruction) -> Any:
    return jax.tree.map(jnp.bitwise_or, visited, instruction.nodes)


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
