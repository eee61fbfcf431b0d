"""The engine for CPUs: runs one after the other in one compiled loop.

XLA compiles the loop to one piece of machine code with real branches (`jaxprl/xla.py`). So a run costs what its own
steps cost, whatever runs beside it, and a run that is not needed costs nothing. For `first_better` that is most runs
(`pruning.py`).

Axis letters: P programs, E layouts, S searches, B neighbours of a search, N nodes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl.encode import take
from jaxprl.search.protocol import Improvements, Neighbourhoods
from jaxprl.vm import pruning, sharing
from jaxprl.vm.compile import TRACED
from jaxprl.vm.instruction import WORDS
from jaxprl.vm.layouts import rows_of
from jaxprl.vm.machine import GROWTH, Machine, fetch_from
from jaxprl.vm.memory import Direct
from jaxprl.vm.outcomes import COLUMNS, RUNNING, pack, score_to_beat, unpack
from jaxprl.vm.pruning import Scoring, Traces
from jaxprl.vm.sharing import Ended
from jaxprl.worlds.task import Layout
from jaxprl.xla import jit

SMALLEST = 32
"""Programs of the smallest batch. So few sizes are compiled, and rows that are not used cost next to nothing."""
BLOCK = 512
"""Programs of the largest batch of `proceed`."""


@dataclasses.dataclass(frozen=True)
class Batches(sharing.Work):
    """The engine, for one call."""

    slots: int = 4096  # slots of the memory of WHILE, a power of two

    def run_programs(self, programs: np.ndarray, workers: int, block: int) -> np.ndarray:
        """Run programs int32 [P, N] on every layout and return packed outcomes, int32 [P, E, COLUMNS]."""
        return sharing.run_programs(self._run, programs, len(self.layouts.units), workers, block)

    def _run(self, programs: np.ndarray) -> np.ndarray:
        count = len(programs)
        nodes = np.pad(programs, ((0, _room(count) - count), (0, 0)))
        found = np.array(_run_programs(self._machine, nodes, np.int32(count), self.arrays))[:count]
        crowded = np.flatnonzero((unpack(found).end == RUNNING).any(axis=1))
        if len(crowded):
            found[crowded] = self._enlarged()._run(programs[crowded])
        return found

    def proceed(self, programs: np.ndarray, workers: int) -> Ended[np.ndarray]:
        """Run programs int32 [P, N], each on a layout of its own."""
        return sharing.proceed(self._proceed, programs, self.layouts, workers, BLOCK)

    def _proceed(self, programs: np.ndarray, starts: Layout) -> Ended[np.ndarray]:
        count = len(programs)
        rows = np.minimum(np.arange(_room(count)), count - 1)
        found = _proceed(self._machine, programs[rows], np.int32(count), rows_of(starts, rows))
        found = jax.tree.map(lambda leaf: np.array(leaf[:count]), found)
        crowded = np.flatnonzero(unpack(found.outcomes).end == RUNNING)
        if len(crowded):
            sharing.put(found, crowded, self._enlarged()._proceed(programs[crowded], rows_of(starts, crowded)))
        return found

    def first_better(self, question: Neighbourhoods, workers: int) -> Improvements:
        """Find the first better neighbour of S programs; see `evaluate.first_better`."""
        return sharing.first_better(self._answer, question, workers)

    def _answer(self, question: Neighbourhoods) -> Improvements:
        weights, most = self.scale.weights.astype(np.int32), np.int32(self.scale.most)
        found = _first_better(self._machine, question, self.arrays, weights, most)
        *columns, crowded = (np.array(column) for column in found)
        again = np.flatnonzero(crowded)
        if len(again):
            part = self._enlarged()._answer(jax.tree.map(lambda leaf: leaf[again], question))
            for column, new in zip(columns, part, strict=True):
                column[again] = new
        return Improvements(*columns)

    @property
    def _machine(self) -> Machine:
        return Machine(self.task, self.bits, self.words, self.slots)

    def _enlarged(self) -> Batches:
        return dataclasses.replace(self, slots=GROWTH * self.slots)


@jit(per="machine", static_argnames="machine")
def _run_programs(machine: Machine, nodes: jax.Array, count: jax.Array, layouts: Layout) -> jax.Array:
    """Return packed outcomes, int32 [P, E, COLUMNS], of the first `count` programs; zeros for the others."""
    episodes = layouts.units.shape[0]

    def run_program(program, carry):
        fetch = fetch_from(machine.code(take(nodes, program)))

        def run_layout(layout, carry):
            results, memory = carry
            run = machine.run(fetch, layouts, layout, memory)
            place = (program, layout, 0)
            return jax.lax.dynamic_update_slice(
                results, pack(run)[None, None], place, allow_negative_indices=False
            ), run.memory

        return jax.lax.fori_loop(0, episodes, run_layout, carry)

    results = jnp.zeros((nodes.shape[0], episodes, COLUMNS), jnp.int32)
    return jax.lax.fori_loop(0, count, run_program, (results, Direct.empty(machine.slots)))[0]


@jit(per="machine", static_argnames="machine")
def _proceed(machine: Machine, nodes: jax.Array, count: jax.Array, starts: Layout) -> Ended[jax.Array]:
    """Run the first `count` of P programs, int32 [P, N], each on a start of its own; other rows mean nothing."""

    def run_program(program, carry):
        ended, memory = carry
        run = machine.run(fetch_from(machine.code(take(nodes, program))), starts, program, memory)
        row = Ended(pack(run), run.state, run.progress)
        return jax.tree.map(functools.partial(_put, index=program), ended, row), run.memory

    room = Ended(jnp.zeros((nodes.shape[0], COLUMNS), jnp.int32), starts.state, starts.progress)
    return jax.lax.fori_loop(0, count, run_program, (room, Direct.empty(machine.slots)))[0]


def _room(count: int) -> int:
    """Return for how many programs a batch of `count` is compiled."""
    return max(SMALLEST, 1 << (count - 1).bit_length())


class _Parent(NamedTuple):
    """A program whose neighbours are tried, and its runs."""

    nodes: jax.Array  # int32 [N]
    traces: Traces
    score: jax.Array  # int32
    crowded: jax.Array  # bool: whether the memory became full in a run


class _Neighbour(NamedTuple):
    """A program that is tried in the place of its parent."""

    nodes: jax.Array  # int32 [N]
    changed: jax.Array  # int32 [2]: the parent's node whose subtree was replaced, and the size of that subtree
    known: jax.Array  # bool: whether nothing is run (`pruning.is_known`)
    least: jax.Array  # int32: the score that it has to beat: that of its parent, or lower by its margin


class _Climb(NamedTuple):
    """How far the search for a better neighbour of one program has come."""

    tried: jax.Array  # int32: neighbours tried
    first: jax.Array  # int32: index of the first better one, -1 if there is none so far
    better: jax.Array  # int32: its score
    crowded: jax.Array  # bool: whether the memory became full in a run
    memory: Direct


class _Attempt(NamedTuple):
    """How far one neighbour has come."""

    place: jax.Array  # int32: where it is run next (`pruning.next_place`)
    highest: jax.Array  # int32: its score if all remaining runs have a return of 1
    crowded: jax.Array  # bool: whether the memory became full in a run
    memory: Direct


@jit(per="machine", static_argnames="machine")
def _first_better(
    machine: Machine, question: Neighbourhoods, layouts: Layout, weights: jax.Array, most: jax.Array
) -> tuple[jax.Array, ...]:
    """Try the neighbours of S programs until one is better.

    Args:
      machine: what all runs share.
      question: the programs and their neighbours.
      layouts: stacked layouts.
      weights: score of one unit on each layout, int32 [E].
      most: score of a return of 1 on one layout, int32.

    Returns:
      The columns of `Improvements`, and whether the memory became full, bool [S]; then the others mean nothing.
    """
    parents, neighbours, changes, counts, all_margins = jax.tree.map(jnp.asarray, question)
    searches = len(parents)
    marks = jax.vmap(jax.vmap(pruning.mark))(neighbours)
    scoring = Scoring(weights, most, jnp.int32(weights.shape[0]))

    def climb(search, carry):
        found, memory = carry
        programs, changed, own_marks = (take(leaf, search) for leaf in (neighbours, changes, marks))
        margins = None if all_margins is None else take(all_margins, search)
        parent, memory = jax.lax.cond(
            take(counts, search) >= 0,
            lambda memory: _run_parent(machine, take(parents, search), layouts, scoring, memory),
            lambda memory: (_no_parent(parents.shape[1], weights.shape[0]), memory),
            memory,
        )

        def goes_on(state: _Climb) -> jax.Array:
            return (state.tried < take(counts, search)) & (state.first < 0) & ~state.crowded

        def attempt(state: _Climb) -> _Climb:
            index = state.tried
            known = pruning.is_known(parent.nodes, programs, own_marks, margins, index)
            least = parent.score if margins is None else score_to_beat(parent.score, take(margins, index))
            neighbour = _Neighbour(take(programs, index), take(changed, index), known, least)
            end = _attempt(machine, parent, neighbour, layouts, scoring, state.memory)
            beats = (end.highest > least) & ~end.crowded
            first, better = jnp.where(beats, index, -1), jnp.where(beats, end.highest, state.better)
            return _Climb(index + 1, first, better, end.crowded, end.memory)

        zero = jnp.int32(0)
        state = jax.lax.while_loop(goes_on, attempt, _Climb(zero, zero - 1, zero, parent.crowded, memory))
        row = (parent.score, state.first, state.better, state.crowded)
        return tuple(map(functools.partial(_put, index=search), found, row)), state.memory

    columns = (*(jnp.zeros(searches, jnp.int32),) * 3, jnp.zeros(searches, bool))
    return jax.lax.fori_loop(0, searches, climb, (columns, Direct.empty(machine.slots)))[0]


def _put(table: jax.Array, value: jax.Array, *, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(table, value, index, 0, allow_negative_indices=False)


def _no_parent(nodes: int, episodes: int) -> _Parent:
    traces = Traces(jnp.zeros(episodes, jnp.int32), jnp.zeros((episodes, TRACED // 32), jnp.uint32))
    return _Parent(jnp.zeros(nodes, jnp.int32), traces, jnp.int32(0), jnp.bool_(False))


def _run_parent(
    machine: Machine, nodes: jax.Array, layouts: Layout, scoring: Scoring, memory: Direct
) -> tuple[_Parent, Direct]:
    """Run a program, int32 [N], on every layout, and trace which nodes its runs come to."""
    fetch = fetch_from(*machine.traced_code(nodes))

    def run_layout(layout, carry):
        (_, traces, score, crowded), memory = carry
        run = machine.run(fetch, layouts, layout, memory)
        traces = Traces(*map(functools.partial(_put, index=layout), traces, (run.units, run.visited)))
        score = score + run.units * take(scoring.weights, layout)
        return _Parent(nodes, traces, score, crowded | (run.end == RUNNING)), run.memory

    episodes = scoring.weights.shape[0]
    parent = _no_parent(nodes.shape[0], episodes)._replace(nodes=nodes)
    return jax.lax.fori_loop(0, episodes, run_layout, (parent, memory))


def _attempt(
    machine: Machine, parent: _Parent, neighbour: _Neighbour, layouts: Layout, scoring: Scoring, memory: Direct
) -> _Attempt:
    """Run a neighbour until its score is known, or cannot beat `least`.

    Args:
      machine: what all runs share.
      parent: its parent.
      neighbour: the neighbour.
      layouts: stacked layouts.
      scoring: how scores are made.
      memory: the memory that earlier runs have left.

    Returns:
      The attempt at its end; `highest` is the neighbour's score, or a bound of it that is not above `least`.
    """
    nodes, changed, known, least = neighbour
    highest = pruning.highest_score(parent.traces, changed, scoring)
    following = functools.partial(pruning.next_place, parent.traces, changed, scoring)
    code = jax.lax.cond(
        known | (highest <= least),
        lambda: jnp.zeros((nodes.shape[0], WORDS), jnp.uint32),
        lambda: machine.code(nodes),
    )

    def goes_on(state: _Attempt) -> jax.Array:
        return (state.place < 2 * scoring.episodes) & (state.highest > least) & ~state.crowded

    def run_layout(state: _Attempt) -> _Attempt:
        layout = pruning.layout_at(state.place, scoring)
        run = machine.run(fetch_from(code), layouts, layout, state.memory)
        highest = state.highest + run.units * take(scoring.weights, layout) - scoring.most
        return _Attempt(following(state.place + 1), highest, run.end == RUNNING, run.memory)

    start = _Attempt(following(jnp.int32(0)), jnp.where(known, least, highest), jnp.bool_(False), memory)
    return jax.lax.while_loop(goes_on, run_layout, start)
