"""Simulated annealing over programs (Kirkpatrick, Gelatt and Vecchi 1983).

A run starts from a random program and looks at one neighbour after the other. It moves to a neighbour whose return is
higher; to one whose return is not, it moves with probability exp(difference / temperature). The temperature of the t-th
neighbour of a run is T cooling^t, t = 0, 1, ... After a fixed number of neighbours the next run starts.

The n-th program of a search, and whether a worse one is taken, follow from the key `fold_in(search key, n)`. A move
with probability exp(d / T) is one with u < exp(d / T) for a u drawn from (0, 1), that is d > T log u: the smallest
return that is taken is known before the neighbour is run, so an engine may stop a run as soon as it cannot be reached.
That bound is computed in float64 on the host, so accelerators and CPUs agree on it.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.search.hill_climbing import Neighbours, Start, State, hill_climbing
from jaxprl.search.names import ACCEPTANCE
from jaxprl.search.protocol import Search
from jaxprl.search.schedule import Constant
from jaxprl.types import PyTree
from jaxprl.xla import jit

AHEAD = 16
"""Neighbours drawn at a time. It is small, since a hot search moves often and a move discards what was drawn ahead."""


@dataclasses.dataclass(frozen=True)
class Cooling:
    """The course of the temperature, in units of the mean return."""

    start: float
    """Temperature of a run's first neighbour."""
    factor: float
    """What it is multiplied by after each neighbour."""

    def temperature(self, tried: np.ndarray) -> np.ndarray:
        """Return the temperatures, float64 [...], of the neighbours number `tried`, int [...], counted from 0."""
        return self.start * self.factor ** tried.astype(np.float64)


def annealing(
    *,
    neighbours: Neighbours,
    start: Start,
    cooling: Cooling,
    steps: int,
    budget: int,
    goal: int,
    parts: PyTree = None,
) -> Search:
    """Return the search.

    Args:
      neighbours, start, parts: as `hill_climbing` takes them.
      cooling: the course of the temperature.
      steps: neighbours of a run.
      budget: programs that a search may evaluate.
      goal: score of return 1.
    """
    return hill_climbing(
        neighbours=neighbours,
        start=start,
        parts=parts,
        schedule=Constant(steps),
        budget=budget,
        goal=goal,
        margins=functools.partial(metropolis, cooling, goal),
        renew=False,
        ahead=AHEAD,
    )


def metropolis(cooling: Cooling, goal: int, state: State, keys: jax.Array) -> np.ndarray:
    """Return how far below the current score each neighbour may be and still be taken, int32 [S, B].

    A neighbour is taken if its score is above the current one minus the margin: a difference of scores d, negative or
    0, is taken if d > -margin, and here if d / goal > T log u.

    Args:
      cooling: the course of the temperature.
      goal: score of return 1.
      state: of S searches.
      keys: of the neighbours, typed [S, B].
    """
    uniform = (np.asarray(_bits(keys)).astype(np.float64) + 0.5) / 2**32
    tried = np.asarray(state.tried)[:, None] + np.arange(keys.shape[1])[None, :]
    with np.errstate(over="ignore", under="ignore"):
        slack = -cooling.temperature(tried) * np.log(uniform) * goal
    # At least 1, since exp(0 / T) = 1 takes a tie however cold it is; at most what an int32 holds.
    return np.clip(np.ceil(slack), 1, 2**31 - 1).astype(np.int32)


@jit()
def _bits(keys: jax.Array) -> jax.Array:
    """Return a random uint32 for every key, typed [S, B]."""

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(key, ACCEPTANCE), (), jnp.uint32)

    return jax.vmap(jax.vmap(draw))(keys)
