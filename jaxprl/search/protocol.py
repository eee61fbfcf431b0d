"""What a search is: a record of pure functions over one pytree of state that holds many searches side by side.

A search asks (`Search.ask`), somebody evaluates the programs that it asks about, and the search is told the outcome
(`Search.tell`). There are two kinds of question: `Neighbourhoods`, which wants the first neighbour that is better than
its parent, and `Candidates`, which wants every score.

A *score* is an exact mean return: the numerator, an int32, of a fraction whose denominator all programs of a run share
(`vm.outcomes.Scale`). The score of a mean return of 1 is called the goal.

Axis letters: S searches, B candidates of one batch, N nodes of a program, D dimensions of a latent.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.types import JSON, Array, PyTree
from jaxprl.worlds.seeds import checked_seed
from jaxprl.xla import jit

UNKNOWN = -(2**31)
"""Score of a program that has not been evaluated; it is below every other score."""


def search_keys(seeds: Sequence[int]) -> jax.Array:
    """Return the random keys of searches, typed [S]. The generator is the same wherever JAX runs.

    Args:
      seeds: search seeds, 0 to 2**32 - 1.

    Raises:
      UserError: one of them is not such an integer.
    """
    return _keys(np.array([checked_seed(seed) for seed in seeds], np.uint32))


@jit()
def _keys(seeds: jax.Array) -> jax.Array:
    return jax.vmap(functools.partial(jax.random.key, impl="threefry2x32"))(seeds)


class Point(NamedTuple):
    """A point of a learned program space: a latent and the program that it decodes to. The leading axes are free.

    In program space a point is its program alone, an int32 array [..., N].
    """

    programs: jax.Array  # int32 [..., N]: nodes
    latents: jax.Array  # float32 [..., D]


Points = PyTree
"""Points of either space: a `Point`, or programs int32 [..., N]."""
State = PyTree
"""State of searches, a pytree: `evaluated` int32 [S], `best` int32 [S] and `done` bool [S] among its fields."""


def programs_of(points: Points) -> Array:
    """Return the programs int32 [..., N] of points."""
    return points.programs if isinstance(points, Point) else points


class Neighbourhoods(NamedTuple):
    """The question which neighbour is the first that is better than its parent, for S searches.

    Better means a higher score. With a margin m, a neighbour is also taken if its score is lower by less than m: with 1
    a tie is enough. A neighbour that equals its parent is never taken, since that would change nothing.
    """

    parents: Array  # int32 [S, N]
    programs: Array  # int32 [S, B, N]: neighbours, in the order in which they count
    changed: Array  # int32 [S, B, 2]: the parent's node whose subtree was replaced, and the size of that subtree
    counts: Array  # int32 [S]: the first `counts` neighbours matter, the rest is padding; -1: this search is idle
    margins: Array | None = None  # int32 [S, B], not negative; None for 0 everywhere


class Improvements(NamedTuple):
    """The answer to `Neighbourhoods`; where a search is idle, the values mean nothing."""

    score: Array  # int32 [S]: the parent's score
    first: Array  # int32 [S]: index of the first neighbour that is taken, -1 if there is none
    better: Array  # int32 [S]: that neighbour's score


class Candidates(NamedTuple):
    """The question for the scores of programs. The answer is int32 [S, B]; where a score is not wanted it is 0."""

    programs: Array  # int32 [S, B, N], in the order in which they count
    wanted: Array  # bool [S, B]


class Asked(NamedTuple):
    """A question, and what the search needs again when it is told the answer."""

    question: PyTree  # Neighbourhoods or Candidates
    points: Points  # [S, B, ...]: the points of the question's programs


class Bests(NamedTuple):
    """Programs that were the best of their search when they were evaluated, in order; leading axes [S, M]."""

    found: Array  # bool: whether there is one
    evaluated: Array  # int32: programs evaluated by then, this one included
    score: Array  # int32
    programs: Array  # int32 [S, M, N]
    start: Array  # bool: whether a climb started from it (otherwise it was a candidate)


@dataclasses.dataclass(frozen=True)
class Event:
    """An entry in a search's record: a new best program or, with `program` None, how far the search has come."""

    search: int
    """Index of the search."""
    evaluated: int
    """Programs evaluated by then."""
    score: int
    """Best score by then."""
    program: np.ndarray | None = None
    """Nodes int32 [N] of the new best program."""
    source: str | None = None
    """Where that program came from: "llm", "random", "mutation" or "policy"."""


def no_stop_reason(state: State, search: int) -> None:
    """Return None: a search that is done has reached return 1 or its budget (`Search.stop_reason`)."""


def no_facts(state: State, search: int) -> JSON:
    """Return an empty object: the result says nothing besides the best program (`Search.facts`)."""
    return {}


class Search(NamedTuple):
    """A kind of search. What each of the S searches does depends on its key alone, not on those beside it.

    Example:
      >>> import functools
      >>> from jaxprl.search import hill_climbing, program_space, schedule
      >>> from jaxprl.worlds.make import make
      >>> language = make("DoorKey").language
      >>> search = hill_climbing.hill_climbing(
      ...     neighbours=functools.partial(program_space.mutations, language),
      ...     start=functools.partial(program_space.random_starts, language),
      ...     schedule=schedule.Constant(250), budget=1000, goal=32)
      >>> state = search.init(search_keys([0, 1]))  # two searches
      >>> search.ask(state, 64).question.programs.shape  # searches, neighbours, nodes
      (2, 64, 64)
    """

    init: Callable[..., State]
    """`init(keys)` returns the state of new searches, from their keys typed [S]. Searches that can be given programs
    before they start also take `evaluated` int32 [S], `best` int32 [S] and a `pool`."""
    ask: Callable[[State, int], Asked]
    """`ask(state, width)` returns the next question, with room for `width` candidates of each search."""
    tell: Callable[..., tuple[State, Bests]]
    """`tell(state, asked, answer)` returns the next state and the new best programs."""
    template: State | None
    """A state with the right structure and meaningless leaves: a checkpoint is read back into it. None for searches
    that have no checkpoints: a resumed run starts from `init`, and repeats what it did before from the answers that it
    had. Only such searches may do more in `ask` than compute."""
    join: Callable[..., State] | None = None
    """`join(state, where, evaluated, best, pool)` returns the state after programs from elsewhere have joined."""
    between: Callable[[State], tuple[State, Sequence[Event]]] | None = None
    """Called after every batch; returns the state to go on from, and the new bests among programs that it evaluated."""
    start_source: str = "random"
    """`Event.source` of the programs that climbs start from."""
    in_array_code: bool = False
    """Whether `ask` and `tell` can be part of a jitted function (`rounds.py`)."""
    stop_reason: Callable[[State, int], str | None] = no_stop_reason
    """Why a search that is done has stopped, if for neither return 1 nor its budget."""
    facts: Callable[[State, int], JSON] = no_facts
    """What the result of a search says besides its best program."""


def select(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """Choose between two states search by search.

    Args:
      condition: bool [S].
      new, old: pytrees of one structure whose leaves have a leading axis [S].

    Returns:
      The leaves of `new` where the condition holds, those of `old` elsewhere.
    """

    def choose(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, new, old)


def started(start: Callable[..., Points], pool: PyTree, keys: jax.Array, climb: jax.Array) -> Points:
    """Return the points [S] that the climbs number `climb`, int32 [S], start from; `pool` is None for no pool."""
    return start(keys, climb) if pool is None else start(pool, keys, climb)


def nothing_yet(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return `evaluated` and `best`, int32 [S], of searches that have evaluated nothing."""
    return jnp.asarray(np.zeros(len(keys), np.int32)), jnp.asarray(np.full(len(keys), UNKNOWN, np.int32))
