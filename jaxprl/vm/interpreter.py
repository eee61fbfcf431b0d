"""One step of every lane: the meaning of programs as array code.

A lane is one program on one layout. A step does an instruction: an action and its reward, then a test; all lanes step
together; lanes that have ended stand still. `host.py` says the same in plain Python, one call after the other.

- A call is one action or one perception. `calls` counts them; `not`, `and`, `or`, REPEAT and constants cost nothing.
- Action: changes the state, then the task gives (units, terminated). Termination ends the run (T).
- The call number `call_limit` crashes the run (C): an action there still happens and its reward counts.
- WHILE: when its test holds, the state is compared with every state at which this WHILE node's test held earlier in
  the run; the memory is never cleared on re-entry. Seen before: crashed (C), the body is not entered.
- The program runs off its end: E. Both T and C at one action: TC, or T where the world says so.

The WHILE memory is an open-addressing hash table per lane. Its key is 64 bits of (WHILE node, pose, linear hash of the
grid), so two different states are taken for one with a probability of about 2^-63 per pair. A lane whose slot is taken
by another key stays where it is for a step and tries the next slot.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprl.dsl.compile import ALWAYS, HALT, NEVER, PERCEIVE, REPEATS
from jaxprl.worlds import ops
from jaxprl.worlds.task import Layout, Task

RUNNING, TERMINATED, CRASHED, FINISHED, DROPPED = 0, 1, 2, 4, 8
"""How a run ended: bits, since a run can be terminated and crashed; DROPPED: nobody needs its end."""
END_NAMES = {TERMINATED: "T", CRASHED: "C", TERMINATED | CRASHED: "TC", FINISHED: "E"}


class Lanes(NamedTuple):
    """The state of L runs; every leaf has a leading axis [L]."""

    state: Any  # the world's
    progress: Any  # the task's
    program: jax.Array  # int32: row of the instructions
    run: jax.Array  # int32: which result this lane fills
    address: jax.Array  # int32: the next instruction
    probe: jax.Array  # int32: slots tried so far for the key at hand
    remembered: jax.Array  # int32: keys in the memory
    calls: jax.Array  # int32
    actions: jax.Array  # int32: actions that were rewarded
    units: jax.Array  # int32: sum of the rewards, in units of the layout
    end: jax.Array  # int32: how it ended
    counters: jax.Array  # uint32 [words]: REPEAT counters, bit fields
    memory: jax.Array  # uint32 [slots, 2]: keys of WHILE states, 0 where empty


def start(layouts: Layout, program: jax.Array, layout: jax.Array, run: jax.Array, *, words: int, slots: int) -> Lanes:
    """Return lanes at the beginning of their programs: `program`, `layout` and `run` are int32 [L]."""
    state, progress = jax.tree.map(lambda leaf: jnp.asarray(leaf)[layout], (layouts.state, layouts.progress))
    zero = jnp.zeros_like(program)
    count = program.shape[0]
    return Lanes(
        state, progress, program, run, address=zero, probe=zero, remembered=zero, calls=zero, actions=zero, units=zero,
        end=zero, counters=jnp.zeros((count, words), jnp.uint32), memory=jnp.zeros((count, slots, 2), jnp.uint32),
    )  # fmt: skip


def run(task: Task, code: jax.Array, lanes: Lanes, *, bits: int, steps: int) -> Lanes:
    """Return the lanes after `steps` steps of `code`, uint32 [P, N, 2]; counters have `bits` bits each."""
    one = functools.partial(step, task, code, bits=bits)
    return jax.lax.fori_loop(0, steps, lambda _, lanes: jax.vmap(one)(lanes), lanes)


def step(task: Task, code: jax.Array, lane: Lanes, *, bits: int) -> Lanes:
    """Return one lane after its next instruction."""
    world, limit = task.world, task.world.call_limit
    running = (lane.end == RUNNING) & ~is_full(lane)
    stalled = lane.probe > 0
    word, targets = code[lane.program, lane.address].astype(jnp.int32)
    word = jnp.where(running, word, 0)

    action = jnp.where(stalled, 0, word & 15)
    acts = action > 0
    calls = lane.calls + _one(acts)
    state, event = world.act(lane.state, action, acts & (calls == limit))
    state, progress, units, terminated = task.reward(world, lane.progress, state, event)
    units, terminated = jnp.where(acts, units, 0), acts & terminated
    progress = jax.tree.map(lambda new, old: old if new is old else jnp.where(acts, new, old), progress, lane.progress)
    state, progress = jax.tree.map(
        lambda new, old: new.astype(old.dtype), (state, progress), (lane.state, lane.progress)
    )
    crashed = acts & (calls == limit)
    if world.terminated_hides_crash:
        crashed &= ~terminated
    going = running & ~crashed & ~terminated

    test = jnp.where(going, (word >> 4) & 3, NEVER)
    perceives = (test == PERCEIVE) & ~stalled
    calls = calls + _one(perceives)
    sensed = world.perceive(state, (word >> 6) & 31) ^ ((word & 2048) != 0)
    crashed |= perceives & (calls == limit)
    repeats, counters = _repeat(lane.counters, word, test == REPEATS, bits=bits)
    holds = stalled | (test == ALWAYS) | ((test == PERCEIVE) & sensed) | repeats

    remembers = holds & ((word & 4096) != 0) & ((test == PERCEIVE) | (test == ALWAYS)) & ~crashed
    known, full, memory = _remember(lane, world.key(state), world.poses, (word >> 13) & 511, remembers)
    crashed |= known
    address = jnp.where(holds, targets & 1023, (targets >> 10) & 1023)
    moves_on = running & ~full
    finished = going & ~crashed & moves_on & (address == HALT)
    end = jnp.where(terminated, TERMINATED, 0) | jnp.where(crashed, CRASHED, 0) | jnp.where(finished, FINISHED, 0)
    return lane._replace(
        state=state,
        progress=progress,
        address=jnp.where(moves_on, address, lane.address),
        probe=jnp.where(full, lane.probe + 1, 0),
        remembered=lane.remembered + _one(remembers & ~known & ~full),
        calls=calls,
        actions=lane.actions + _one(acts),
        units=lane.units + units,
        end=lane.end | end,
        counters=counters,
        memory=memory,
    )


def _one(condition: jax.Array) -> jax.Array:
    return condition.astype(jnp.int32)


def is_full(lanes: Lanes) -> jax.Array:
    """Return whether a memory is three quarters full: its lane waits until it is enlarged."""
    return lanes.remembered >= lanes.memory.shape[-2] * 3 // 4


def _repeat(counters: jax.Array, word: jax.Array, tests: jax.Array, *, bits: int) -> tuple[jax.Array, jax.Array]:
    """Return whether a REPEAT goes on, and the counters.

    A counter holds the iterations begun; it is zero whenever its REPEAT is entered, since leaving clears it.
    """
    unsigned = word.astype(jnp.uint32)
    shift, index = (unsigned >> 20) & 31, (unsigned >> 25) & 31
    total = (unsigned >> 6) & 0x3FFF
    chosen = jnp.arange(counters.shape[0], dtype=jnp.uint32) == index
    counter = (jnp.sum(jnp.where(chosen, counters, 0), dtype=jnp.uint32) >> shift) & ((1 << bits) - 1)
    goes_on = tests & (counter < total)
    change = jnp.where(goes_on, jnp.uint32(1) << shift, -(counter << shift))
    return goes_on, counters + jnp.where(tests & chosen, change, 0)


def _remember(lane: Lanes, key, poses: int, loop: jax.Array, wanted: jax.Array):
    """Look a state up in the memory and put it in if its slot is empty: returns (known, slot taken, memory)."""
    pose, grid_hash = key
    place = loop * poses + pose
    salts = jnp.stack([ops.mixed(place, 0x27D4EB2F), ops.mixed(place, 0x165667B1)])
    key = (grid_hash + salts) | jnp.array([1, 0], jnp.uint32)
    slots = lane.memory.shape[0]
    home = key[1] >> (33 - slots.bit_length())
    slot = (home.astype(jnp.int32) + lane.probe) & (slots - 1)
    found = lane.memory.at[slot].get(mode="promise_in_bounds")
    empty, same = found[0] == 0, jnp.all(found == key)
    memory = lane.memory.at[slot].set(jnp.where(wanted & empty, key, found), mode="promise_in_bounds")
    return wanted & same, wanted & ~empty & ~same, memory


@functools.partial(jax.jit, static_argnames="slots")
def enlarge(lanes: Lanes, *, slots: int) -> Lanes:
    """Return the lanes with a memory of `slots` slots, their keys put in anew."""

    def put(memory, key):
        home = (key[1] >> (33 - slots.bit_length())).astype(jnp.int32)
        slot = jax.lax.while_loop(lambda i: (key[0] != 0) & (memory[i, 0] != 0), lambda i: (i + 1) & (slots - 1), home)
        return jnp.where(key[0] != 0, memory.at[slot].set(key), memory), None

    def rehash(memory):
        return jax.lax.scan(put, jnp.zeros((slots, 2), jnp.uint32), memory)[0]

    # A lane in the middle of a search for a slot begins again at its first one, which is `slots` slots further.
    return lanes._replace(memory=jax.vmap(rehash)(lanes.memory), probe=jnp.where(lanes.probe > 0, slots, 0))
