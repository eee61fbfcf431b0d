"""Hill climbing from random programs (Carvalho et al. 2024), the baseline of LLM-GS."""

from __future__ import annotations

import dataclasses

from jaxprl.errors import UserError
from jaxprl.methods import neighbourhoods
from jaxprl.methods.base import Job, Method, Setup, option
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.protocol import Search
from jaxprl.search.schedule import Constant

MOST = 2**15
"""Largest neighbourhood."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of hill climbing."""

    k: int = option(250, "neighbours to look at before a climb ends")
    neighbourhood: str = neighbourhoods.neighbourhood_option()
    parts_share: float = neighbourhoods.share_option()


def check(job: Job) -> None:
    neighbourhoods.check_neighbourhood(job)
    if not 1 <= job.options.k <= MOST:
        raise UserError(f"--k {job.options.k}: a neighbourhood has 1 to {MOST} programs")


def build(setup: Setup) -> Search:
    search = hill_climbing(
        **neighbourhoods.neighbourhood(setup).arguments(),
        schedule=Constant(setup.job.options.k),
        budget=setup.job.budget,
        goal=setup.goal,
        in_array_code=True,
    )
    return neighbourhoods.with_parts(setup, search)


HC = Method(
    name="hc",
    summary="hill climbing from random programs: move to the first better of up to k neighbours, else start again",
    options=Options,
    check=check,
    build=build,
    llms_with=neighbourhoods.llms_with,
    identity=neighbourhoods.identity,
)
