"""Searches in a learned program space, with their published parameters: LEAPS, CEM, CEBS and latent hill climbing.

`leaps` is CEM with the parameters that LEAPS published for each task (Trivedi et al. 2021, appendix). Sparse tasks take
those of the dense ones, variants of tasks those of the tasks, and a task that LEAPS does not have takes those of
DoorKey, the ones that occur most often.
`cem` is the same search with the same parameters for every task, by default DoorKey's. `cebs` and `latent-hc` have one
published set each (Carvalho et al. 2024).

The searches start from random latents, or with `--llm` from the latents of a language model's programs. In a space of
kind `hprl`, whose latents lie in (-1, 1)^D, they search among actions; a latent is the tanh of one (`ActionSpace`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode
from jaxprl.dsl.language import Language
from jaxprl.errors import UserError
from jaxprl.latent.space import SHIPPED, SHIPPED_HPRL, LatentSpace
from jaxprl.methods.base import Job, Method, Setup, option
from jaxprl.methods.from_programs import answers_identity, check_recorded, from_programs
from jaxprl.search.cem import Parameters, around_each, around_mean, cross_entropy
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.latent import neighbours, random_starts
from jaxprl.search.pool import TEMPLATE, pooled_starts
from jaxprl.search.protocol import Point, Search
from jaxprl.search.schedule import Constant
from jaxprl.types import JSON, Array
from jaxprl.worlds import variants

GENERIC = Parameters(32, 3, 0.25)
PUBLISHED = {
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
"""LEAPS's parameters by task."""
MOST = 2**15
"""Most candidates of a generation."""
SIGMAS = (1e-6, 1e6)
"""The least and the largest sigma. float32 loses smaller steps when they are added to a latent."""
DRAWS = 64
"""Draws from N(0, I) of which at least one must decode to a program, or a space is refused."""
SPACE_HELP = "program space: a model file, or leaps or hprl, which ship (default: leaps)"
_SHIPPED = {"leaps": SHIPPED, "hprl": SHIPPED_HPRL}
"""The model files that ship, by the names of their kinds."""
SIGMA_HELP = "standard deviation of the candidates around their centre"
PATIENCE_HELP = "generations in a row without a better elite after which a new run starts"
MOST_PATIENCE = 2**20
"""Largest patience."""


class Space(Protocol):
    """A learned program space of D dimensions."""

    @property
    def size(self) -> int:
        """D."""

    def decode(self, latents: Array) -> tuple[jax.Array, jax.Array]:
        """Return the programs of latents and which are valid (`search.latent.Decode`)."""

    def encode(self, programs: Array) -> jax.Array:
        """Return the latents float32 [..., D] of programs, nodes int32 [..., N].

        Raises UserError for a program that the space does not hold.
        """

    def outside(self, program: np.ndarray) -> str | None:
        """Return why a program, nodes int32 [N], is not in the space, or None if it is."""


@dataclasses.dataclass(frozen=True)
class LeapsOptions:
    """Options of LEAPS; its parameters are the published ones of the task."""

    space: Path | None = option(None, SPACE_HELP)


@dataclasses.dataclass(frozen=True)
class CEMOptions:
    """Options of CEM."""

    k: int = option(GENERIC.k, "candidates of a generation")
    elite: int = option(GENERIC.e, "the best candidates, around whose mean the next generation lies")
    sigma: float = option(GENERIC.sigma, SIGMA_HELP)
    patience: int = option(GENERIC.patience, PATIENCE_HELP)
    space: Path | None = option(None, SPACE_HELP)


@dataclasses.dataclass(frozen=True)
class CEBSOptions:
    """Options of CEBS."""

    k: int = option(64, "candidates of a generation")
    elite: int = option(16, "the best candidates, around each of which lie k / elite of the next generation")
    sigma: float = option(0.25, SIGMA_HELP)
    patience: int = option(1, PATIENCE_HELP)
    space: Path | None = option(None, SPACE_HELP)


@dataclasses.dataclass(frozen=True)
class LatentHCOptions:
    """Options of latent hill climbing."""

    k: int = option(250, "neighbours to look at before a climb ends")
    sigma: float = option(0.25, SIGMA_HELP)
    space: Path | None = option(None, SPACE_HELP)


def parameters(job: Job) -> Parameters:
    """Return the parameters of a job: the chosen ones, or those that LEAPS published for the task."""
    options = job.options
    if isinstance(options, LeapsOptions):
        return PUBLISHED.get(variants.base_of(job.task).name.removesuffix("Sparse"), GENERIC)
    return Parameters(options.k, getattr(options, "elite", 0), options.sigma, getattr(options, "patience", 1))


def program_space(job: Job, default: Path = SHIPPED) -> LatentSpace:
    """Return the program space of a job. Raises UserError if it is not of the task's language."""
    chosen = job.options.space or default
    return _loaded(_SHIPPED.get(str(chosen), chosen), job.task.language)


@functools.cache
def _loaded(file: Path, language: Language) -> LatentSpace:
    return LatentSpace.load(file, language)


class ActionSpace:
    """The actions of a program space as a `Space`: latents are their `LatentSpace.latent_of`.

    Latents themselves would leave a space of kind `hprl`, since the searches draw from N(0, I) and add noise.

    Args:
      space: the program space.
    """

    def __init__(self, space: LatentSpace):
        self.space, self.size, self.outside = space, space.size, space.outside

    def decode(self, actions: Array) -> tuple[jax.Array, jax.Array]:
        return self.space.decode(self.space.latent_of(actions))

    def encode(self, programs: Array) -> jax.Array:
        return self.space.action_of(self.space.encode(programs))


def check(job: Job) -> None:
    check_recorded(job)
    k, elite, sigma, patience = dataclasses.astuple(parameters(job))
    has_elite = not isinstance(job.options, LatentHCOptions)
    if not 1 <= k <= MOST:
        raise UserError(f"k {k}: it goes from 1 to {MOST}")
    if has_elite and not 1 <= elite <= k:
        raise UserError(f"k {k}, elite {elite}: the elite goes from 1 to k")
    if not SIGMAS[0] <= sigma <= SIGMAS[1]:
        raise UserError(f"sigma {sigma:g}: it goes from {SIGMAS[0]:g} to {SIGMAS[1]:g}")
    if isinstance(job.options, CEBSOptions) and k % elite:
        raise UserError(f"k {k}, elite {elite}: each of the elite has k / elite candidates, so k is a multiple of it")
    if not 1 <= patience <= MOST_PATIENCE:
        raise UserError(f"--patience {patience}: it goes from 1 to {MOST_PATIENCE:,} generations")
    program_space(job)


def identity(job: Job) -> JSON:
    k, elite, sigma, patience = dataclasses.astuple(parameters(job))
    own = {"k": k, "elite": elite, "sigma": sigma, "patience": patience, "space": program_space(job).checksum[:16]}
    return own | answers_identity(job)


def build(setup: Setup, make: Callable[..., Search]) -> Search:
    """Return the search of a run in the learned program space.

    Args:
      setup: what the run offers.
      make: (space, parameters, start=, pool=, budget=, goal=) -> Search.
    """
    job = setup.job
    space = ActionSpace(program_space(job))
    limits = {"budget": job.budget, "goal": setup.goal}
    if not job.uses_llm:
        return make(space, parameters(job), start=random_latents(space), pool=None, **limits)
    pool = TEMPLATE._replace(programs=Point("programs", "latents"))  # type: ignore[arg-type]
    search = make(space, parameters(job), start=pooled_starts, pool=pool, **limits)
    return from_programs(setup, search, functools.partial(_encoded, setup, space))


def random_latents(space: Space) -> Callable[[jax.Array, jax.Array], Point]:
    """Return the starts of searches that are given no programs: draws from N(0, I) that decode.

    Raises UserError for a space of which random latents decode to nothing.
    """
    latents = jax.random.normal(jax.random.key(0, impl="threefry2x32"), (DRAWS, space.size), jnp.float32)
    if not space.decode(latents)[1].any():
        raise UserError(f"program space: none of {DRAWS} random latents decodes to a program")
    return functools.partial(random_starts, space.decode, space.size)


def cem(space: Space, chosen: Parameters, **options: Any) -> Search:
    """Return CEM in a program space; `options` are those of `cross_entropy`."""
    return cross_entropy(space.decode, around_mean, chosen, **options)


def cebs(space: Space, chosen: Parameters, **options: Any) -> Search:
    """Return CEBS in a program space; `options` are those of `cross_entropy`."""
    return cross_entropy(space.decode, around_each, chosen, **options)


def latent_hc(space: Space, chosen: Parameters, **options: Any) -> Search:
    """Return hill climbing in a program space; `options` are those of `hill_climbing`."""
    near = functools.partial(neighbours, space.decode, chosen.sigma)
    point = Point("programs", "latents")  # type: ignore[arg-type]
    search = hill_climbing(neighbours=near, schedule=Constant(chosen.k), point=point, **options)
    return search._replace(join=None)


def _encoded(setup: Setup, space: Space, index: int, programs: np.ndarray) -> Point:
    """Return the points of a search's programs int32 [K, N], and record which of them have none."""
    language = setup.job.task.language
    points, kept, outside = encoded(space, programs)
    points = jax.tree.map(np.asarray, points)
    if not len(programs):
        return points
    if not kept:
        why = f"none of the {len(programs)} programs is in the learned program space: {outside[0]}, ..."
        setup.log.leave_out(index, why)

    def text(nodes: np.ndarray) -> str:
        return str(encode.decode(nodes, language))

    same = [text(programs[n]) == text(found) for n, found in zip(kept, points.programs, strict=True)]
    named = [{"program": text(programs[n]), "reason": why} for n, why in outside.items()]
    setup.log.add_fact(index, "space", {"encoded": len(kept), "unchanged": sum(same), "outside": named})
    return points


def encoded(space: Space, programs: Iterable[np.ndarray]) -> tuple[Point, list[int], dict[int, str]]:
    """Encode programs, each alone, and decode them again.

    A point's program is what its latent decodes to, which may differ from the program that was encoded.

    Args:
      space: the program space.
      programs: nodes int32 [N] each.

    Returns:
      The points [K] of the programs that a search can start from, the indices of those programs, and for the index of
      every other program why a search cannot start from it.
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


def _method(name: str, summary: str, options: type, make: Callable[..., Search]) -> Method:
    return Method(
        name=name,
        summary=summary,
        options=options,
        check=check,
        build=functools.partial(build, make=make),
        llms=("none", "recorded", "openai"),
        identity=identity,
    )


LEAPS = _method("leaps", "CEM in a learned program space with the parameters that LEAPS published", LeapsOptions, cem)
CEM = _method("cem", "cross-entropy method in a learned program space", CEMOptions, cem)
CEBS = _method("cebs", "cross-entropy beam search in a learned program space", CEBSOptions, cebs)
LATENT_HC = _method("latent-hc", "hill climbing in a learned program space", LatentHCOptions, latent_hc)
