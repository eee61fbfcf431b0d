"""Several rounds of searches in one jitted function, for engines whose answers are array code.

A round is a question, its answer, and what the searches make of it. On a GPU nothing in it waits for the host, which
looks at the searches only now and then (`driver.py`).

Axis letters: S searches, R rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxprl.search.protocol import Asked, Bests, Improvements, Neighbourhoods, Search, State, select
from jaxprl.types import Array, PyTree
from jaxprl.xla import jit


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
    """What happened in R rounds."""

    rows: jax.Array  # int32 [R, S, ..]: a `Round` each, all its numbers in one row, which takes one launch to write
    missing: jax.Array  # bool [S]: whether a search had no answer in some round, in which it stayed where it was

    def unpacked(self, nodes: int) -> Iterator[Round]:
        """Yield the rounds, of numpy arrays.

        Args:
          nodes: N, the room for nodes in a program.
        """
        for row in np.asarray(self.rows):
            pair = np.zeros((len(row), 2), np.int32)
            number, yes = pair[:, 0], pair.astype(bool)
            like = Round(Bests(yes, pair, pair, np.zeros((len(row), 2, nodes), np.int32), yes), number, number)
            leaves, structure = jax.tree.flatten(like)
            parts = np.split(row, np.cumsum([leaf[0].size for leaf in leaves])[:-1], axis=1)
            found = [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
            yield jax.tree.unflatten(structure, found)


def _packed(round: Round) -> jax.Array:
    rows = [leaf.reshape(leaf.shape[0], -1).astype(np.int32) for leaf in jax.tree.leaves(round)]
    return jnp.concatenate(rows, axis=1)


@jit(
    per=("ask", "tell", "answer"),
    static_argnames=("ask", "tell", "answer", "width", "count", "mesh"),
    donate_argnames="carry",
)
def several(
    state: State,
    given: PyTree,
    carry: PyTree,
    *,
    ask: Callable[[State, int], Asked],
    tell: Callable[..., tuple[State, Bests]],
    answer: Answer,
    width: int,
    count: int,
    mesh: Mesh | None = None,
) -> tuple[State, Rounds, PyTree]:
    """Do some rounds. A search that is done stays as it is.

    Args:
      state: the state to start from.
      given, carry: what `answer` takes; the carry is used up.
      ask, tell: those of a search with `in_array_code`.
      answer: answers the questions.
      width: room for candidates of each search.
      count: R.
      mesh: devices that share the searches, as many for each of them, and the carry; None for one device.

    Returns:
      The state, what happened, and what `answer` has handed on.
    """

    nothing = {"pool": None, "parts": None}

    def round(carried: tuple[State, jax.Array, PyTree], given: PyTree, fixed: dict) -> tuple[Any, jax.Array]:
        state, missing, carry = carried
        asked = ask(state._replace(**fixed), width)
        found, unknown, carry = answer(asked.question, given, carry)
        new, bests = tell(state._replace(**fixed), asked, found)
        bests = bests._replace(found=bests.found & ~unknown[:, None])
        state = select(~unknown, new._replace(**nothing), state)
        return (state, missing | unknown, carry), _packed(Round(bests, state.evaluated, state.best))

    def rounds(state: State, given: PyTree, carry: PyTree) -> tuple[State, tuple[jax.Array, jax.Array], PyTree]:
        fixed = {"pool": state.pool, "parts": state.parts}  # no round changes them
        start = state._replace(**nothing), jnp.zeros_like(state.done), carry
        carried, rows = jax.lax.scan(lambda carried, _: round(carried, given, fixed), start, length=count)
        state, missing, carry = carried
        return state._replace(**fixed), (rows, missing), carry

    if mesh is not None:
        (axis,) = mesh.axis_names
        split = PartitionSpec(axis)
        rounds = jax.shard_map(
            rounds,
            mesh=mesh,
            in_specs=(split, PartitionSpec(), split),
            out_specs=(split, (PartitionSpec(None, axis), split), split),
            check_vma=False,
        )
    state, happened, carry = rounds(state, given, carry)
    return state, Rounds(*happened), carry
