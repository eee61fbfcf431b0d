"""Simulated annealing from random programs (`search/annealing.py`)."""

from __future__ import annotations

import dataclasses

from jaxprl.errors import UserError
from jaxprl.methods import neighbourhoods
from jaxprl.methods.base import Job, Method, Setup, option
from jaxprl.search.annealing import Cooling, annealing
from jaxprl.search.protocol import Search

TEMPERATURES = (1e-6, 1e6)
"""The least and the largest temperature at the start. Colder searches take no worse program, hotter ones take any."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of simulated annealing."""

    start_temperature: float = option(0.1, "temperature at the start of a run, in units of the mean return")
    cooling: float = option(0.9999, "factor that the temperature is multiplied by after each program")
    restarts: int = option(9, "fresh starts, evenly over the budget")
    neighbourhood: str = neighbourhoods.neighbourhood_option()
    parts_share: float = neighbourhoods.share_option()


def check(job: Job) -> None:
    neighbourhoods.check_neighbourhood(job)
    options = job.options
    if not TEMPERATURES[0] <= options.start_temperature <= TEMPERATURES[1]:
        least, most = TEMPERATURES
        raise UserError(f"--start-temperature {options.start_temperature:g}: it goes from {least:g} to {most:g}")
    if not 0 < options.cooling <= 1:
        raise UserError(f"--cooling {options.cooling:g}: it is above 0 and at most 1")
    if not 0 <= options.restarts < job.budget:
        raise UserError(f"--restarts {options.restarts}: from 0 to one less than the budget of {job.budget}")


def build(setup: Setup) -> Search:
    job, options = setup.job, setup.job.options
    search = annealing(
        **neighbourhoods.neighbourhood(setup).arguments(),
        cooling=Cooling(options.start_temperature, options.cooling),
        steps=max(1, -(-job.budget // (options.restarts + 1)) - 1),  # a run's start is evaluated too
        budget=job.budget,
        goal=setup.goal,
    )
    return neighbourhoods.with_parts(setup, search)


ANNEALING = Method(
    name="annealing",
    summary="simulated annealing: take a worse neighbour with probability exp(difference / temperature)",
    options=Options,
    check=check,
    build=build,
    llms_with=neighbourhoods.llms_with,
    identity=neighbourhoods.identity,
)
