"""Several rounds of searches in one jitted function, for engines whose answers are array code.

A round is a question, its answer, and what the searches make of it. On a GPU nothing in it waits for the host, which
looks at the searches only now and then (`driver.py`).

Axis letters: S searches, R rounds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.search.protocol import Asked, Bests, Improvements, Neighbourhoods, Search, State, select
from jaxprl.types import Array, PyTree


class Answer(Protocol):
    """Answers questions in array code."""

    def __hash__(self) -> int: ...

    def __call__(
        self, question: Neighbourhoods, given: PyTree, carry: PyTree
    ) -> tuple[Improvements, jax.Array, PyTree]:
        """Answer a question.

        Args:
          question: the question.
          given: what it needs besides.
          carry: what it changes, and hands on to the next call.

        Returns:
          The answer; for which searches it means nothing, bool [S]; and what is handed on.
        """
        ...


class Device(Protocol):
    """Where whole rounds are done."""

    def several(self, search: Search, state: State, width: int) -> tuple[State, Rounds] | None:
        """Do several rounds; None if that cannot be done in this state.

        Args:
          search: the kind of search.
          state: its state.
          width: room for candidates of each search.
        """
        ...


class Round(NamedTuple):
    """What happened in a round. Leaves have a leading axis [S]."""

    bests: Bests
    evaluated: Array  # int32: programs evaluated afterwards
    best: Array  # int32: best score afterwards


class Rounds(NamedTuple):
    """What happened in up to R rounds."""

    rows: jax.Array  # int32 [R, ...]: a `Round` each, all its numbers in one row, which takes one launch to write
    done: jax.Array  # int32: how many rounds were done
    stopped: jax.Array  # bool: whether the last round has searches without an answer, which are where they were

    def unpacked(self, nodes: int) -> Iterator[Round]:
        """Yield the rounds that were done, of numpy arrays.

        Args:
          nodes: N, the room for nodes in a program.
        """
        rows = np.asarray(self.rows)[: int(self.done)]
        searches = rows.shape[1] // (2 * nodes + 10)
        pair = np.zeros((searches, 2), np.int32)
        number, yes = pair[:, 0], pair.astype(bool)
        like = Round(Bests(yes, pair, pair, np.zeros((searches, 2, nodes), np.int32), yes), number, number)
        leaves, structure = jax.tree.flatten(like)
        for row in rows:
            parts = np.split(row, np.cumsum([leaf.size for leaf in leaves])[:-1])
            found = [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
            yield jax.tree.unflatten(structure, found)


def _packed(round: Round) -> jax.Array:
    return jnp.concatenate([leaf.reshape(-1).astype(np.int32) for leaf in jax.tree.leaves(round)])


@functools.partial(jax.jit, static_argnames=("ask", "tell", "answer", "width", "most"), donate_argnames=("carry",))
def several(
    state: State,
    given: PyTree,
    carry: PyTree,
    *,
    ask: Callable[[State, int], Asked],
    tell: Callable[..., tuple[State, Bests]],
    answer: Answer,
    width: int,
    most: int,
) -> tuple[State, Rounds, PyTree]:
    """Do rounds until all searches are done, one of them gets no answer, or there were `most` rounds.

    Args:
      state: the state to start from.
      given, carry: what `answer` takes; the carry is used up.
      ask, tell: those of a search with `in_array_code`.
      answer: answers the questions.
      width: room for candidates of each search.
      most: R.

    Returns:
      The state, what happened, and what `answer` has handed on.
    """

    def round(state: State, carry: PyTree) -> tuple[State, Bests, jax.Array, PyTree]:
        asked = ask(state, width)
        found, missing, carry = answer(asked.question, given, carry)
        new, bests = tell(state, asked, found)
        bests = bests._replace(found=bests.found & ~missing[:, None])
        return select(~missing, new._replace(pool=None), state._replace(pool=None)), bests, missing, carry

    pool = state.pool

    def goes_on(carried: tuple[State, Rounds, PyTree]) -> jax.Array:
        state, rounds, _ = carried
        return (rounds.done < most) & ~rounds.stopped & ~jnp.all(state.done)

    def advance(carried: tuple[State, Rounds, PyTree]) -> tuple[State, Rounds, PyTree]:
        state, rounds, carry = carried
        state, bests, missing, carry = round(state._replace(pool=pool), carry)
        row = _packed(Round(bests, state.evaluated, state.best))
        rows = jax.lax.dynamic_update_index_in_dim(rounds.rows, row, rounds.done, 0, allow_negative_indices=False)
        return state, Rounds(rows, rounds.done + 1, jnp.any(missing)), carry

    shape = jax.eval_shape(lambda: _packed(Round(round(state, carry)[1], state.evaluated, state.best)))
    rounds = Rounds(jnp.zeros((most, *shape.shape), np.int32), jnp.int32(0), jnp.bool_(False))
    state, rounds, carry = jax.lax.while_loop(goes_on, advance, (state._replace(pool=None), rounds, carry))
    return state._replace(pool=pool), rounds, carry
