"""LLM-GS: scheduled hill climbing from the programs of a language model (Liu et al. 2025).

The language model's programs are evaluated first. Climbs start from the best of them, the second best, and so on; the
neighbourhood grows from 32 to 2048 programs over the budget. With `revise_every`, which the published system lacks, a
search whose climbs stall asks the language model for better programs, and climbs from those next.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from jaxprl.errors import UserError
from jaxprl.methods.base import Job, Method, Setup, option
from jaxprl.methods.from_programs import check_recorded, from_programs
from jaxprl.methods.joining import joining
from jaxprl.methods.neighbourhoods import (
    check_neighbourhood,
    identity,
    llms_with,
    neighbourhood,
    neighbourhood_option,
    parts_argument,
    share_option,
)
from jaxprl.methods.reviser import Reviser, Round
from jaxprl.methods.revision import reviser
from jaxprl.search import pool
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.pool import pooled_starts
from jaxprl.search.protocol import Search
from jaxprl.search.schedule import Growing


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of LLM-GS."""

    revise_every: int | None = option(None, "ask again after so many climbs in a row without a new best (with --model)")
    neighbourhood: str = neighbourhood_option()
    parts_share: float = share_option()


def check(job: Job) -> None:
    check_neighbourhood(job)
    check_recorded(job)
    climbs = job.options.revise_every
    if climbs is not None:
        if climbs < 1:
            raise UserError(f"--revise-every {climbs}: it takes 1 climb or more")
        if not job.asks:
            raise UserError("--revise-every asks a language model again: name it with --model")


def build(setup: Setup) -> Search:
    job = setup.job
    chosen = neighbourhood(setup)
    search = hill_climbing(
        neighbours=chosen.neighbours,
        parts=chosen.parts,
        start=pooled_starts,
        schedule=Growing(job.budget),
        budget=job.budget,
        goal=setup.goal,
        pool=pool.TEMPLATE,
        in_array_code=True,
    )
    search = from_programs(setup, search, limited=chosen.limited, arguments=functools.partial(parts_argument, setup))
    climbs = job.options.revise_every
    if not climbs:
        return search
    between = joining(search, _propose(setup), climbs=climbs, budget=job.budget, goal=setup.goal)
    return search._replace(between=between)


def _propose(setup: Setup) -> Callable[[int, int, int], Round]:
    model: Reviser = reviser(setup)

    def propose(search: int, climb: int, left: int) -> Round:
        """Ask the language model for programs that may join a search that stalls."""
        seed = setup.job.seeds[search]
        found = model.stalled(setup.log.best(search), seed=seed, climb=climb, left=left)
        setup.log.record_answers(search, found.answers)
        setup.log.record_round(search, {"climb": climb, **model.summary(found)})
        return found

    return propose


LLM_GS = Method(
    name="llm-gs",
    summary="scheduled hill climbing from 32 programs of a language model, best first (LLM-GS)",
    options=Options,
    check=check,
    build=build,
    llms=("recorded", "openai", "none"),
    llms_with=llms_with,
    identity=identity,
)
