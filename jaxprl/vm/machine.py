"""Runs one program on one layout from start to end, as array code: a loop with real branches around the interpreter.

The engines that do one run after the other share it: `sequential.py` has XLA compile it, and `kernel/` a C compiler.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode
from jaxprl.dsl.encode import take
from jaxprl.vm import interpreter
from jaxprl.vm.compile import TRACED, has_idle_repeat, instructions_of
from jaxprl.vm.instruction import CHAIN, WORDS, Instruction
from jaxprl.vm.interpreter import Fetch, Run
from jaxprl.vm.memory import Direct
from jaxprl.vm.outcomes import RUNNING
from jaxprl.worlds.task import Layout, Task

GROWTH = 16
"""How many times larger the memory of WHILE becomes for runs that need more."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """What all runs of one call share, static under jit."""

    task: Task
    bits: int
    words: int
    slots: int

    def code(self, nodes: jax.Array) -> jax.Array:
        """Return the instructions of a program, uint32 [N, WORDS]."""
        return instructions_of(nodes, encode.length(nodes), bits=self.bits, longest=CHAIN)[0]

    def traced_code(self, nodes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the instructions of a program and the nodes of each as bits, uint32 [N, TRACED / 32].

        A run that fetches both collects the nodes that it comes to (`Run.visited`). If these cannot be traced, because
        there are too many or one is an idle REPEAT, it comes to all of them.
        """
        code, marks = instructions_of(nodes, encode.length(nodes), bits=self.bits, longest=CHAIN)
        traceable = (nodes.shape[0] <= TRACED) & ~has_idle_repeat(nodes)
        return code, jnp.where(traceable, marks, jnp.uint32(0xFFFFFFFF))

    def run(self, fetch: Fetch, layouts: Layout, layout: jax.Array, memory: Direct) -> Run[Direct]:
        """Run a program on one layout.

        Args:
          fetch: returns the instruction at an address (`fetch_from`).
          layouts: stacked layouts.
          layout: index of the layout, int32.
          memory: the memory that earlier runs have left.

        Returns:
          The run at its end; or still RUNNING, where its memory became full.
        """

        def act_and_test(run: Run[Direct]) -> Run[Direct]:
            return self._test(fetch, jax.lax.while_loop(_acts, functools.partial(self._act, fetch), run))

        def glide_act_and_test(run: Run[Direct]) -> Run[Direct]:
            run = interpreter.glide(self.task, fetch, run, bits=self.bits)
            return self._test(fetch, self._act_if_due(fetch, run))

        run = self.start(fetch, layouts, layout, memory)
        return jax.lax.while_loop(goes_on, glide_act_and_test if self.task.quiet else act_and_test, run)

    def start(self, fetch: Fetch, layouts: Layout, layout: jax.Array, memory: Direct) -> Run[Direct]:
        """Return a run at the beginning of its program; the arguments are those of `run`."""
        return interpreter.start(layouts, layout, fetch(jnp.int32(0)), memory.next_run(), words=self.words)

    def step(self, fetch: Fetch, run: Run[Direct], may_test: jax.Array) -> Run[Direct]:
        """Do a run's next action, if one is left, and then its test, if none is left.

        Threads of a GPU do this together, each for its own run: 32 of them go through the same text at the same time,
        and wait for each other in loops.

        Args:
          fetch: returns the instruction at an address.
          run: a run that goes on (`goes_on`).
          may_test: bool, whether the test is done in this step, or in a later one.
        """
        run = self._act_if_due(fetch, run)
        # A run that has ended comes to the nodes of its instruction.
        is_due = ((run.chain == 0) & may_test) | (run.end != RUNNING)
        return jax.lax.cond(is_due, functools.partial(self._test, fetch), lambda run: run, run)

    def _act(self, fetch: Fetch, run: Run[Direct]) -> Run[Direct]:
        return interpreter.act(self.task, run, fetch(run.address).chain, jnp.bool_(True))

    def _act_if_due(self, fetch: Fetch, run: Run[Direct]) -> Run[Direct]:
        return jax.lax.cond(_acts(run), functools.partial(self._act, fetch), lambda run: run, run)

    def _test(self, fetch: Fetch, run: Run[Direct]) -> Run[Direct]:
        return interpreter.test(self.task, fetch, run, running=jnp.bool_(True), bits=self.bits)


def goes_on(run: Run[Direct]) -> jax.Array:
    """Return whether a run has not ended and its memory has room, bool."""
    return (run.end == RUNNING) & ~run.memory.is_full


def _acts(run: Run[Direct]) -> jax.Array:
    return (run.chain != 0) & (run.end == RUNNING)


def fetch_from(code: jax.Array, marks: jax.Array | None = None) -> Fetch:
    """Return a function that fetches instructions.

    Args:
      code: uint32 [N, WORDS].
      marks: the nodes of each, if the run is to be traced (`Machine.traced_code`).
    """

    def fetch(address: jax.Array) -> Instruction:
        test, targets, chain = (_word(code, address, word) for word in range(WORDS))
        return Instruction(test, targets, chain, () if marks is None else take(marks, address))

    return fetch


def _word(code: jax.Array, address: jax.Array, word: int) -> jax.Array:
    # One by one, since XLA would keep a row of words in memory; unsigned, since that spares a check for negative ones.
    place = address.astype(jnp.uint32), np.uint32(word)
    return jax.lax.dynamic_slice(code, place, (1, 1), allow_negative_indices=False)[0, 0]
