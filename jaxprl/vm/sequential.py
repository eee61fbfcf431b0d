"""Runs one after the other in one compiled loop: the engine for CPUs.

XLA compiles the loop to one piece of machine code with real branches (`loops.py`), so a run costs what its own steps
cost, whatever runs beside it, and what need not be run is not begun. Of a neighbourhood that is most of it
(`first_better`), and no decision of a search changes:

- Neighbours behind the first better one are not run; nor is one that equals the program or an earlier neighbour.
- On a layout where the program's run never comes to the changed subtree, the neighbour's run is the same.
- A return is at most 1. A neighbour is left as soon as the layouts that remain cannot make it better; the layouts
  where the program itself falls short come first, since there it has to gain.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode
from jaxprl.dsl.compile import CHAIN, TRACED, has_idle_repeat, instructions_of
from jaxprl.vm import interpreter
from jaxprl.vm.interpreter import RUNNING, Instruction, Run, take
from jaxprl.vm.memory import Direct
from jaxprl.vm.runs import Improvements, Neighbourhoods, Scale
from jaxprl.worlds import ops
from jaxprl.worlds.task import Layout, Task

GROWTH = 16
"""How much larger the WHILE memory is for runs that need more."""
SMALLEST = 32
"""Programs of the smallest batch: few sizes are compiled, and room that is not used costs next to nothing."""


@dataclasses.dataclass(frozen=True)
class Batches:
    """What the batches of one call share."""

    task: Task
    layouts: Layout
    scale: Scale
    bits: int
    words: int
    slots: int = 4096
    """Slots of the WHILE memory, a power of two."""

    def run_programs(self, programs: np.ndarray) -> np.ndarray:
        """Return units, calls, actions and end of the programs' runs, int32 [P, E, 4]."""
        count = len(programs)
        nodes = np.pad(programs, ((0, max(SMALLEST, 1 << (count - 1).bit_length()) - count), (0, 0)))
        found = np.array(_run_programs(self._machine, nodes, np.int32(count), self.layouts))[:count]
        crowded = np.flatnonzero((found[:, :, 3] == RUNNING).any(axis=1))
        if len(crowded):
            found[crowded] = self._enlarged().run_programs(programs[crowded])
        return found

    def first_better(self, question: Neighbourhoods) -> Improvements:
        """Return how the neighbourhoods of S programs fare."""
        weights, most = self.scale.weights.astype(np.int32), np.int32(self.scale.most)
        found = _first_better(self._machine, question, self.layouts, weights, most)
        *columns, crowded = (np.array(column) for column in found)
        again = np.flatnonzero(crowded)
        if len(again):
            part = self._enlarged().first_better(Neighbourhoods(*(leaf[again] for leaf in question)))
            for column, new in zip(columns, part, strict=True):
                column[again] = new
        return Improvements(*columns)

    @property
    def _machine(self) -> _Machine:
        return _Machine(self.task, self.bits, self.words, self.slots)

    def _enlarged(self) -> Batches:
        return dataclasses.replace(self, slots=GROWTH * self.slots)


@dataclasses.dataclass(frozen=True)
class _Machine:
    """What a run needs besides its program and layout, static under jit."""

    task: Task
    bits: int
    words: int
    slots: int

    def code(self, nodes: jax.Array) -> jax.Array:
        """Return the instructions of a program, uint32 [N, 3]."""
        return instructions_of(nodes, encode.length(nodes), bits=self.bits, longest=CHAIN)[0]

    def traced_code(self, nodes: jax.Array) -> jax.Array:
        """Return the instructions with their nodes, uint32 [N, 5]: their run tells which nodes it came to."""
        parts = instructions_of(nodes, encode.length(nodes), bits=self.bits, longest=CHAIN)
        return jnp.concatenate(parts, axis=1)

    def run(self, code: jax.Array, layouts: Layout, layout: jax.Array, memory: Direct) -> Run:
        """Return the run of a program at its end, or where its memory became full (RUNNING)."""
        fetch = functools.partial(_fetch, code)

        def goes_on(run: Run) -> jax.Array:
            return (run.end == RUNNING) & ~run.memory.is_full

        def act(run: Run) -> Run:
            return interpreter.act(self.task, run, fetch(run.address).chain, jnp.bool_(True))

        def test(run: Run) -> Run:
            return interpreter.test(self.task, fetch, run, running=jnp.bool_(True), bits=self.bits)

        def act_and_test(run: Run) -> Run:
            return test(jax.lax.while_loop(_acts, act, run))

        def glide_act_and_test(run: Run) -> Run:
            run = interpreter.glide(self.task, fetch, run, bits=self.bits)
            return test(jax.lax.cond(_acts(run), act, lambda run: run, run))

        run = interpreter.start(layouts, layout, fetch(jnp.int32(0)), memory.next_run(), words=self.words)
        return jax.lax.while_loop(goes_on, glide_act_and_test if self.task.quiet else act_and_test, run)


def _acts(run: Run) -> jax.Array:
    return (run.chain != 0) & (run.end == RUNNING)


def _fetch(code: jax.Array, address: jax.Array) -> Instruction:
    test, targets, chain = (_word(code, address, word) for word in range(3))
    return Instruction(test, targets, chain, take(code, address)[3:] if code.shape[1] > 3 else ())


def _word(code: jax.Array, address: jax.Array, word: int) -> jax.Array:
    # One by one, since XLA would keep a row of words in memory; unsigned, since that spares the look for negative ones.
    place = address.astype(jnp.uint32), np.uint32(word)
    return jax.lax.dynamic_slice(code, place, (1, 1), allow_negative_indices=False)[0, 0]


def _bits(first: jax.Array, count) -> jax.Array:
    """Return the bits first .. first + count - 1 of 64, uint32 [2]."""
    index = jnp.arange(32, dtype=jnp.int32)
    place = jnp.stack([index, index + 32])
    inside = (place >= first) & (place < first + count)
    return jnp.sum(jnp.where(inside, jnp.uint32(1) << index.astype(jnp.uint32)[None, :], 0), axis=1, dtype=jnp.uint32)


@functools.partial(jax.jit, static_argnums=0)
def _run_programs(machine: _Machine, nodes: jax.Array, count: jax.Array, layouts: Layout) -> jax.Array:
    """Return the outcomes, int32 [P, E, 4], of the first `count` programs."""
    episodes = layouts.units.shape[0]

    def run_program(program, carry):
        code = machine.code(take(nodes, program))

        def run_layout(layout, carry):
            results, memory = carry
            run = machine.run(code, layouts, layout, memory)
            row = jnp.stack([run.units, run.calls, run.actions, run.end])
            place = (program, layout, 0)
            return jax.lax.dynamic_update_slice(
                results, row[None, None], place, allow_negative_indices=False
            ), run.memory

        return jax.lax.fori_loop(0, episodes, run_layout, carry)

    results = jnp.zeros((nodes.shape[0], episodes, 4), jnp.int32)
    return jax.lax.fori_loop(0, count, run_program, (results, Direct.empty(machine.slots)))[0]


class _Parent(NamedTuple):
    """A program whose neighbours are tried, and its runs."""

    nodes: jax.Array  # int32 [N]
    units: jax.Array  # int32 [E]
    touched: jax.Array  # uint32 [E, 2]: nodes that each run came to, bits
    score: jax.Array  # int32
    crowded: jax.Array  # bool: a run's memory became full


class _Climb(NamedTuple):
    """How far a neighbourhood is."""

    tried: jax.Array  # int32: neighbours
    first: jax.Array  # int32: the first better one, -1
    better: jax.Array  # int32: its score
    crowded: jax.Array  # bool
    memory: Direct


class _Attempt(NamedTuple):
    """How far a neighbour is."""

    place: jax.Array  # int32: layouts looked at, in two rounds
    highest: jax.Array  # int32: score if all other runs bring the most
    crowded: jax.Array  # bool
    memory: Direct


@functools.partial(jax.jit, static_argnums=0)
def _first_better(machine: _Machine, question: Neighbourhoods, layouts: Layout, weights: jax.Array, most: jax.Array):
    """Return score, first and better, int32 [S], and whether a run's memory became full, bool [S]."""
    searches = len(question.programs)
    marks = jax.vmap(jax.vmap(_mark))(question.programs)

    def climb(search, carry):
        found, memory = carry
        programs, changed, own_marks = (take(leaf, search) for leaf in (question.programs, question.changed, marks))
        parent, memory = jax.lax.cond(
            take(question.counts, search) >= 0,
            lambda memory: _run_parent(machine, take(question.parents, search), layouts, weights, memory),
            lambda memory: (_no_parent(question.parents.shape[1], weights.shape[0]), memory),
            memory,
        )

        def goes_on(state: _Climb):
            return (state.tried < take(question.counts, search)) & (state.first < 0) & ~state.crowded

        def attempt(state: _Climb) -> _Climb:
            index = state.tried
            nodes = take(programs, index)
            known = jnp.all(nodes == parent.nodes) | _seen(own_marks, programs, index)
            highest, crowded, memory = _attempt(
                machine, parent, nodes, take(changed, index), known, layouts, weights, most, state.memory
            )
            beats = (highest > parent.score) & ~crowded
            first, better = jnp.where(beats, index, -1), jnp.where(beats, highest, state.better)
            return _Climb(index + 1, first, better, crowded, memory)

        zero = jnp.int32(0)
        state = jax.lax.while_loop(goes_on, attempt, _Climb(zero, zero - 1, zero, parent.crowded, memory))
        row = (parent.score, state.first, state.better, state.crowded)
        return tuple(map(functools.partial(_put, index=search), found, row)), state.memory

    columns = (*(jnp.zeros(searches, jnp.int32),) * 3, jnp.zeros(searches, bool))
    return jax.lax.fori_loop(0, searches, climb, (columns, Direct.empty(machine.slots)))[0]


def _put(table: jax.Array, value: jax.Array, *, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(table, value, index, 0, allow_negative_indices=False)


def _no_parent(nodes: int, episodes: int) -> _Parent:
    row = jnp.zeros(episodes, jnp.int32)
    return _Parent(jnp.zeros(nodes, jnp.int32), row, jnp.zeros((episodes, 2), jnp.uint32), row[0], jnp.bool_(False))


def _run_parent(machine: _Machine, nodes: jax.Array, layouts: Layout, weights: jax.Array, memory: Direct):
    """Run a program on every layout and return (what is known of it, memory)."""
    code = machine.traced_code(nodes)
    traceable = (nodes.shape[0] <= TRACED) & ~has_idle_repeat(nodes)

    def run_layout(layout, carry):
        parent, memory = carry
        run = machine.run(code, layouts, layout, memory)
        touched = jnp.where(traceable, run.visited, jnp.uint32(0xFFFFFFFF))
        parent = parent._replace(
            units=_put(parent.units, run.units, index=layout),
            touched=_put(parent.touched, touched, index=layout),
            score=parent.score + run.units * take(weights, layout),
            crowded=parent.crowded | (run.end == RUNNING),
        )
        return parent, run.memory

    parent = _no_parent(nodes.shape[0], weights.shape[0])._replace(nodes=nodes)
    return jax.lax.fori_loop(0, weights.shape[0], run_layout, (parent, memory))


def _attempt(machine: _Machine, parent: _Parent, nodes, changed, known, layouts: Layout, weights, most, memory: Direct):
    """Return the neighbour's score, or a bound of it that is not above the program's; whether a run's memory became
    full; and the memory."""
    episodes = weights.shape[0]
    node, size = changed
    differs = jnp.any((parent.touched & _bits(node, size)[None, :]) != 0, axis=1) | (node + size > TRACED)
    falls_short = parent.units * weights < most
    highest = jnp.sum(jnp.where(differs, most, parent.units * weights))
    code = jax.lax.cond(
        known | (highest <= parent.score),
        lambda: jnp.zeros((nodes.shape[0], 3), jnp.uint32),
        lambda: machine.code(nodes),
    )

    def goes_on(state: _Attempt):
        return (state.place < 2 * episodes) & (state.highest > parent.score) & ~state.crowded

    def look(state: _Attempt) -> _Attempt:
        layout = state.place % episodes
        wanted = take(differs, layout) & (take(falls_short, layout) == (state.place < episodes))

        def run_layout(memory):
            run = machine.run(code, layouts, layout, memory)
            return run.units * take(weights, layout) - most, run.end == RUNNING, run.memory

        loss, crowded, memory = jax.lax.cond(
            wanted, run_layout, lambda memory: (jnp.int32(0), jnp.bool_(False), memory), state.memory
        )
        return _Attempt(state.place + 1, state.highest + loss, crowded, memory)

    start = jnp.where(known, parent.score, highest)
    end = jax.lax.while_loop(goes_on, look, _Attempt(jnp.int32(0), start, jnp.bool_(False), memory))
    return end.highest, end.crowded, end.memory


def _mark(nodes: jax.Array) -> jax.Array:
    """Return a number by which equal programs are found, uint32."""
    salts = ops.mixed(jnp.arange(nodes.shape[0], dtype=jnp.int32), 0x9E3779B1)
    return jnp.sum(salts * nodes.astype(jnp.uint32), dtype=jnp.uint32)


def _seen(marks: jax.Array, programs: jax.Array, index: jax.Array) -> jax.Array:
    """Return whether a program equals one before it."""
    alike = (marks == take(marks, index)) & (jnp.arange(len(marks)) < index)
    return jnp.any(alike) & jnp.all(take(programs, jnp.argmax(alike)) == take(programs, index))
