"""One step of a run, as array code: the meaning of programs.

An instruction is a chain of actions, then a test (`instruction.py`). `act` does the next action and rewards it; `test`
does the test, which leads to the next instruction. Both are written for one run, and the engines decide which runs step
when: `lanes.py` steps thousands of runs together, `sequential.py` does one run after the other. `plain.py` gives
programs the same meaning in plain Python.

- A call is one action or one perception. `calls` counts them; `not`, `and`, `or`, REPEAT and constants cost nothing.
- An action changes the state, then the task rewards it. If the task says so, the run is terminated.
- The call number `call_limit` crashes the run. An action that is this call still happens and is rewarded.
- In some worlds an action can crash the run by itself. It is rewarded, too.
- When the test of a WHILE holds, the state is compared with every state in which the test of the same WHILE held
  earlier in the run, also before the WHILE was last entered. If it was there before, the run crashes and the body is
  not done.
- A program that runs off its end is finished.
- An action can terminate and crash the run at once; in some worlds this counts as terminated only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxprl.dsl.encode import take
from jaxprl.types import PyTree
from jaxprl.vm.instruction import ALWAYS, HALT, NEVER, PERCEIVE, REPEATS, Instruction, after_action, next_action
from jaxprl.vm.memory import Memory, key_of
from jaxprl.vm.outcomes import CRASHED, FINISHED, RUNNING, TERMINATED
from jaxprl.worlds.task import Layout, Task, World

M = TypeVar("M", bound=Memory)


class Run(NamedTuple, Generic[M]):
    """The state of one run, with the columns of `outcomes.Columns` so far."""

    state: PyTree  # the world's state
    progress: PyTree  # what the reward depends on besides (`Layout.progress`)
    address: jax.Array  # int32: the instruction that the run is at
    chain: jax.Array  # uint32: what is left of its actions
    calls: jax.Array  # int32
    perceptions: jax.Array  # int32: calls that were perceptions
    units: jax.Array  # int32: sum of the rewards, in units of the layout
    end: jax.Array  # int32: code of `outcomes.End`
    counters: jax.Array  # uint32 [words]: the counters of REPEATs, several to a word
    memory: M  # of WHILE
    visited: jax.Array | tuple[()] = ()  # uint32 [2]: the nodes that the run came to, as bits, if it is traced

    @property
    def actions(self) -> jax.Array:
        """How many actions were done, int32."""
        return self.calls - self.perceptions


Fetch = Callable[[jax.Array], Instruction]
"""Returns the instruction at an address, int32."""


def start(layouts: Layout, layout: jax.Array, first: Instruction, memory: M, *, words: int) -> Run[M]:
    """Return a run at the beginning of its program.

    Args:
      layouts: stacked layouts.
      layout: index of the run's layout, int32.
      first: the program's first instruction.
      memory: an empty memory.
      words: words that the REPEAT counters need (`compile.counter_words`).
    """
    state, progress = jax.tree.map(lambda leaf: take(leaf, layout), (layouts.state, layouts.progress))
    zero, counters, visited = jnp.int32(0), jnp.zeros(words, jnp.uint32), jax.tree.map(jnp.zeros_like, first.nodes)
    return Run(state, progress, zero, first.chain, zero, zero, zero, zero, counters, memory, visited)


def act(task: Task, run: Run[M], chain: jax.Array, acts: jax.Array) -> Run[M]:
    """Do a run's next action and reward it.

    Args:
      task: the task.
      run: the run; where `acts` holds, an action of its instruction is left.
      chain: the actions of its instruction, uint32: a chain with rounds begins again with them.
      acts: whether to do anything, bool.

    Returns:
      The run after the action; the same run where `acts` does not hold.
    """
    world, state, progress = task.world, run.state, run.progress
    action = jnp.where(acts, next_action(run.chain), 0)
    calls = run.calls + jnp.where(acts, 1, 0)
    at_limit = acts & (calls == world.call_limit)
    new_state, new_progress, reward, terminated, by_action = task.step(state, progress, action, at_limit)
    new_progress = jax.tree.map(
        lambda new, old: old if new is old else jnp.where(acts, new, old), new_progress, progress
    )
    new_state, new_progress = jax.tree.map(
        lambda new, old: jnp.asarray(new).astype(old.dtype), (new_state, new_progress), (state, progress)
    )
    terminated = acts & terminated
    # In a world where no action crashes the run this is the value False, for which nothing is computed.
    crashed = at_limit if by_action is False else at_limit | (acts & by_action)
    crashed = crashed & ~terminated if world.terminated_hides_crash else crashed
    return run._replace(
        state=new_state,
        progress=new_progress,
        chain=jnp.where(acts, after_action(run.chain, chain), run.chain),
        calls=calls,
        units=run.units + jnp.where(acts, reward, 0),
        end=run.end | jnp.where(terminated, TERMINATED, 0) | jnp.where(crashed, CRASHED, 0),
    )


def test(task: Task, fetch: Fetch, run: Run[M], *, running: jax.Array, bits: int) -> Run[M]:
    """Do the test of a run's instruction and go on to the next one.

    Args:
      task: the task.
      fetch: returns the instruction at an address.
      run: the run.
      running: whether to do anything, bool.
      bits: bits of a REPEAT counter.

    Returns:
      The run after the test; the same run if actions are left or it has ended.
    """
    world, now, stalled = task.world, fetch(run.address), run.memory.stalled
    tests = running & (run.end == RUNNING) & (run.chain == 0)
    kind = jnp.where(tests, now.kind, NEVER)
    # Inside a conditional the perception is computed once. XLA would otherwise repeat it in every place that uses it.
    sensed = jax.lax.cond(kind == PERCEIVE, lambda: _sensed(world, run.state, now), lambda: jnp.bool_(False))
    found = _decided(run, now, kind, stalled | sensed, bits=bits)
    perceives = (kind == PERCEIVE) & ~stalled
    calls = run.calls + jnp.where(perceives, 1, 0)
    end = run.end | jnp.where(perceives & (calls == world.call_limit), CRASHED, 0)
    remembers = found.remembers & (end == RUNNING)
    known, memory = run.memory.remember(lambda: key_of(world, run.state, now.loop), remembers)
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


def glide(task: Task, fetch: Fetch, run: Run[M], *, bits: int) -> Run[M]:
    """Do those of a run's next actions and tests that change nothing but a pose, in a `quiet` task.

    Nothing is rewarded or remembered and little is carried from round to round, which is several times as fast as `act`
    and `test`. These take over where `glide` stops: at an action that does more, a WHILE that remembers the state, the
    call that crashes the run, or the program's end.

    Args:
      task: a task with `quiet` set.
      fetch: returns the instruction at an address.
      run: the run.
      bits: bits of a REPEAT counter.

    Returns:
      The run where it stopped.
    """
    world, limit = task.world, task.world.call_limit

    def goes_on(carry: tuple[Run[M], jax.Array]) -> jax.Array:
        return carry[1]

    def advance(carry: tuple[Run[M], jax.Array]) -> tuple[Run[M], jax.Array]:
        now = fetch(carry[0].address)
        run = _glided(world, carry[0], now.chain)
        kind = now.kind
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


def _glided(world: World, run: Run[M], chain: jax.Array) -> Run[M]:
    """Do the next actions of an instruction while they change only the pose, and stop before the call at the limit.

    Args:
      world: the world.
      run: the run.
      chain: all actions of the instruction, uint32.
    """

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
    target: jax.Array  # int32: address of the next instruction
    counters: jax.Array  # uint32 [words]


def _decided(run: Run[M], now: Instruction, kind: jax.Array, sensed: jax.Array, *, bits: int) -> _Decision:
    """Return what the test of an instruction comes to.

    Args:
      run: the run.
      now: its instruction.
      kind: kind of the test, int32; NEVER where no test is done.
      sensed: bool, whether a perception test holds.
      bits: bits of a REPEAT counter.
    """
    repeats, counters = _repeat(run.counters, now, kind == REPEATS, bits=bits)
    holds = ((kind == PERCEIVE) & sensed) | repeats | (kind == ALWAYS)
    remembers = holds & now.record & (kind != REPEATS)
    return _Decision(remembers, now.target(holds), counters)


def _sensed(world: World, state: PyTree, instruction: Instruction) -> jax.Array:
    """Return whether a perception test holds in a state, bool."""
    return world.perceive(state, instruction.perception) ^ instruction.negate


def _repeat(
    counters: jax.Array, instruction: Instruction, repeats: jax.Array, *, bits: int
) -> tuple[jax.Array, jax.Array]:
    """Return whether a REPEAT goes on, bool, and the counters after its test, uint32 [words].

    Its counter holds the rounds begun. It is 0 whenever the REPEAT is entered, since the test that leaves it clears it.
    With `bits` 5 the counter at shift 10 of a word 0x00000C00 is 3: a REPEAT of 19 goes on and adds 1 << 10, a REPEAT
    of 3 is left and subtracts 3 << 10.

    Args:
      counters: uint32 [words].
      instruction: the instruction.
      repeats: bool, whether its test is that of a REPEAT; if not, False and the same counters are returned.
      bits: bits of a counter.
    """
    shift = instruction.counter_shift
    chosen = (jnp.arange(counters.shape[0], dtype=jnp.uint32) == instruction.counter_word) & repeats
    counter = (jnp.sum(jnp.where(chosen, counters, 0), dtype=jnp.uint32) >> shift) & ((1 << bits) - 1)
    goes_on = repeats & (counter < instruction.repeat_count)
    change = jnp.where(goes_on, jnp.uint32(1) << shift, -(counter << shift))
    return goes_on, counters + jnp.where(chosen, change, 0)
