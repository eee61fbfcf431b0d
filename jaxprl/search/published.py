"""Latent searches by their names, with the published parameters.

`leaps` is CEM with the parameters that LEAPS published for each task (Trivedi et al. 2021, appendix; sparse tasks take
those of their dense ones); for a task that it does not have, those of DoorKey, which are the ones it uses most. `cem`
is the same search with the same parameters for every task, which the user may choose, by default again DoorKey's.
`cebs` and `latent-hc` have one published set (Carvalho et al. 2024), and the user may choose others.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.errors import UserError, unknown
from jaxprl.search.cem import Parameters, around_each, around_mean, cross_entropy
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.latent import neighbours, random_starts
from jaxprl.search.schedule import Constant
from jaxprl.search.types import Point, Search

METHODS = ("leaps", "cem", "cebs", "latent-hc")
GENERIC = Parameters(32, 3, 0.25)
LEAPS = {
    "StairClimber": Parameters(32, 2, 0.25),
    "CleanHouse": Parameters(32, 2, 0.25),
    "Maze": Parameters(16, 2, 0.1),
    "FourCorners": Parameters(64, 13, 0.5),
    "TopOff": Parameters(64, 3, 0.25),
    "Harvester": Parameters(32, 3, 0.5),
    "DoorKey": GENERIC,
    "Seeder": GENERIC,
    "OneStroke": Parameters(64, 3, 0.5),
    "Snake": Parameters(32, 6, 0.25),
}
DEFAULTS = {"cem": GENERIC, "cebs": Parameters(64, 16, 0.25), "latent-hc": Parameters(250, 0, 0.25)}
MOST = 2**15
"""Candidates of a generation, at most."""
DRAWS = 64
"""Draws from N(0, I) of which one must decode, otherwise a space is refused."""


class Space(Protocol):
    """A learned program space of D dimensions."""

    @property
    def size(self) -> int:
        """D."""

    def decode(self, latents: Any) -> tuple[jax.Array, jax.Array]:
        """As `latent.Decode`."""

    def encode(self, programs: Any) -> jax.Array:
        """Return the latents float32 [..., D] of programs, nodes int32 [..., N].

        Raises UserError for what the space does not hold.
        """

    def outside(self, program: np.ndarray) -> str | None:
        """Return why a program, nodes int32 [N], is not in the space, None if it is."""


def parameters(
    method: str, task_name: str, *, k: int | None = None, e: int | None = None, sigma: float | None = None
) -> Parameters:
    """Return the parameters of a method on a task, those that are given in the place of the published ones.

    Raises UserError for an unknown method, and for parameters that the method does not have.
    """
    if method not in METHODS:
        raise unknown("latent search", method, METHODS)
    given: dict[str, Any] = {name: value for name, value in (("k", k), ("e", e), ("sigma", sigma)) if value is not None}
    if method == "leaps":
        if given:
            names = ", ".join("elite" if name == "e" else name for name in given)
            raise UserError(f"leaps has the published {names} of the task; cem takes others")
        return LEAPS.get(task_name.removesuffix("Sparse"), GENERIC)
    if method == "latent-hc" and "e" in given:
        raise UserError("latent-hc has no elite; it has k and sigma")
    return dataclasses.replace(DEFAULTS[method], **given)


def check(method: str, chosen: Parameters) -> None:
    """Raise UserError for an unknown method, and for parameters that do not fit together."""
    k, e, sigma = dataclasses.astuple(chosen)
    if method not in METHODS:
        raise unknown("latent search", method, METHODS)
    if not 1 <= k <= MOST:
        raise UserError(f"k {k}: it goes from 1 to {MOST}")
    if method != "latent-hc" and not 1 <= e <= k:
        raise UserError(f"k {k}, elite {e}: the elite goes from 1 to k")
    if not 0 < sigma < float("inf"):
        raise UserError(f"sigma {sigma:g}: it is above 0")
    if method == "cebs" and k % e:
        raise UserError(f"k {k}, elite {e}: each of the elite has k / elite candidates, so k is a multiple of it")


def latent_search(
    method: str,
    chosen: Parameters,
    space: Space,
    *,
    budget: int,
    goal: int,
    start: Callable[..., Point] | None = None,
) -> Search:
    """Return a search in a learned program space.

    Args:
      method: one of `METHODS`.
      chosen: `parameters(method, task name)`.
      space: the program space.
      budget: programs that a search may evaluate.
      goal: score of return 1.
      start: what runs start from (`cem.cross_entropy`), by default draws from N(0, I).

    Raises UserError for an unknown method, parameters that do not fit together, and a space of which random latents
    decode to nothing.
    """
    check(method, chosen)
    start = start or functools.partial(random_starts, space.decode, _fine(space).size)
    if method != "latent-hc":
        centres = around_each if method == "cebs" else around_mean
        return cross_entropy(space.decode, centres, chosen, start=start, budget=budget, goal=goal)
    near = functools.partial(neighbours, space.decode, chosen.sigma)
    search = hill_climbing(neighbours=near, start=start, schedule=Constant(chosen.k), budget=budget, goal=goal)
    return search._replace(join=None)


def encoded(space: Space, programs: Iterable[np.ndarray]) -> tuple[Point, list[int], dict[int, str]]:
    """Return where programs lie, nodes int32 [N] each: points [K] of those that a search can start from, their indices
    among the programs, and by the index of every other one why it cannot.

    A point's program is what its latent decodes to, which may be another program than the one that was encoded.
    """
    latents: dict[int, jax.Array] = {}
    rejected: dict[int, str] = {}
    for index, nodes in enumerate(programs):
        why = space.outside(nodes)
        if why is None:
            latents[index] = space.encode(nodes)
        else:
            rejected[index] = why
    where = jnp.stack(list(latents.values())) if latents else jnp.zeros((0, space.size), jnp.float32)
    decoded, valid = space.decode(where)
    kept = [index for index, fine in zip(latents, np.asarray(valid).tolist(), strict=True) if fine]
    rejected |= {index: "its latent decodes to nothing" for index in latents if index not in kept}
    return Point(decoded[valid], where[valid]), kept, dict(sorted(rejected.items()))


def _fine(space: Space) -> Space:
    _, valid = space.decode(jax.random.normal(jax.random.key(0, impl="threefry2x32"), (DRAWS, space.size), jnp.float32))
    if not valid.any():
        raise UserError(f"program space: none of {DRAWS} random latents decodes to a program")
    return space
