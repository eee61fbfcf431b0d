"""One step of a run: the meaning of programs as array code.

A step does an instruction: an action and its reward, then a test. It is written on the scalars of one run. `lanes.py`
steps thousands of runs together, `sequential.py` takes one run after the other; both use this text. `host.py` says the
same in plain Python, one call after the other.

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

from jaxprl.dsl.compile import ALWAYS, HALT, NEVER, PERCEIVE
from jaxprl.vm.memory import key_of
from jaxprl.worlds.task import Layout, Task

RUNNING, TERMINATED, CRASHED, FINISHED, DROPPED = 0, 1, 2, 4, 8
"""How a run ended: bits, since a run can be terminated and crashed; DROPPED: nobody needs its end."""
END_NAMES = {TERMINATED: "T", CRASHED: "C", TERMINATED | CRASHED: "TC", FINISHED: "E"}


class Run(NamedTuple):
    """The state of one run."""

    state: Any  # the world's
    progress: Any  # the task's
    instruction: jax.Array  # uint32 [2]: the next one
    calls: jax.Array  # int32
    actions: jax.Array  # int32: actions that were rewarded
    units: jax.Array  # int32: sum of the rewards, in units of the layout
    end: jax.Array  # int32: how it ended
    counters: jax.Array  # uint32 [words]: REPEAT counters, bit fields
    memory: Any  # of WHILE (`memory.py`)


class Skip(Protocol):
    """`skip(wanted, change, operand)` returns `change(operand, wanted)`, which is `operand` where `wanted` is false:
    where a branch is cheaper than doing nothing, `change` is not run then."""

    def __call__(self, wanted: jax.Array, change: Callable[[Any, Any], Any], operand: Any) -> Any: ...


def start(layouts: Layout, layout: jax.Array, first: jax.Array, memory: Any, *, words: int) -> Run:
    """Return a run at the beginning of its program: on one of the layouts, its first instruction uint32 [2]."""
    state, progress = jax.tree.map(lambda leaf: take(leaf, layout), (layouts.state, layouts.progress))
    zero = jnp.int32(0)
    return Run(state, progress, first, zero, zero, zero, zero, jnp.zeros(words, jnp.uint32), memory)


def take(table: jax.Array, index: jax.Array) -> jax.Array:
    """Return `table[index]`; the index is in range."""
    return jax.lax.dynamic_index_in_dim(table, index, keepdims=False, allow_negative_indices=False)


def step(task: Task, fetch: Callable[[jax.Array], jax.Array], run: Run, *, running, bits: int, skip: Skip) -> Run:
    """Return a run after its next instruction.

    Args:
      task: the task.
      fetch: instruction at an address.
      run: the run.
      running: whether it does anything at all.
      bits: of a REPEAT counter.
      skip: how to leave out what is not wanted.
    """
    world, limit = task.world, task.world.call_limit
    word, targets = run.instruction.astype(jnp.int32)
    word = jnp.where(running, word, 0)
    stalled = run.memory.stalled
    action = jnp.where(stalled, 0, word & 15)

    def act(operand, acts):
        state, progress, calls, actions, units, end = operand
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
        units = units + jnp.where(acts, reward, 0)
        return new_state, new_progress, calls, actions + jnp.where(acts, 1, 0), units, end

    operand = (run.state, run.progress, run.calls, run.actions, run.units, run.end)
    state, progress, calls, actions, units, end = skip(action > 0, act, operand)

    def never(calls, counters):
        return jnp.bool_(False), calls, counters

    def perceive(calls, counters):
        sensed = world.perceive(state, (word >> 6) & 31) ^ ((word & 2048) != 0)
        return stalled | sensed, calls + jnp.where(stalled, 0, 1), counters

    def repeat(calls, counters):
        goes_on, counters = _repeat(counters, word, bits=bits)
        return goes_on, calls, counters

    def always(calls, counters):
        return jnp.bool_(True), calls, counters

    test = jnp.where(running & (end == RUNNING), (word >> 4) & 3, NEVER)
    holds, calls, counters = jax.lax.switch(test, [never, perceive, repeat, always], calls, run.counters)
    end = end | jnp.where((test == PERCEIVE) & ~stalled & (calls == limit), CRASHED, 0)
    remembers = holds & ((word & 4096) != 0) & ((test == PERCEIVE) | (test == ALWAYS)) & (end == RUNNING)

    known, memory = run.memory.remember(lambda: key_of(world, state, (word >> 13) & 511), remembers)
    end = end | jnp.where(known, CRASHED, 0)
    address = jnp.where(holds, targets & 1023, (targets >> 10) & 1023)
    moves_on = running & ~memory.stalled
    end = end | jnp.where((end == RUNNING) & moves_on & (address == HALT), FINISHED, 0)
    instruction = jnp.where(moves_on, fetch(address), run.instruction)
    return Run(state, progress, instruction, calls, actions, units, end, counters, memory)


def _repeat(counters: jax.Array, word: jax.Array, *, bits: int) -> tuple[jax.Array, jax.Array]:
    """Return whether a REPEAT goes on, and the counters.

    A counter holds the iterations begun; it is zero whenever its REPEAT is entered, since leaving clears it.
    """
    unsigned = word.astype(jnp.uint32)
    shift, index = (unsigned >> 20) & 31, (unsigned >> 25) & 31
    total = (unsigned >> 6) & 0x3FFF
    chosen = jnp.arange(counters.shape[0], dtype=jnp.uint32) == index
    counter = (jnp.sum(jnp.where(chosen, counters, 0), dtype=jnp.uint32) >> shift) & ((1 << bits) - 1)
    goes_on = counter < total
    change = jnp.where(goes_on, jnp.uint32(1) << shift, -(counter << shift))
    return goes_on, counters + jnp.where(chosen, change, 0)
