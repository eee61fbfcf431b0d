"""A chain of programs that accepts ties and never starts again (`search/chain.py`)."""

from __future__ import annotations

import dataclasses

from jaxprl.errors import UserError
from jaxprl.methods import neighbourhoods
from jaxprl.methods.base import Job, Method, Setup, option
from jaxprl.search.chain import chain
from jaxprl.search.protocol import Search

MOST = 41
"""Largest `max_nodes`: a program of 45 tokens, four of which are `DEF run m( m)`, has no more nodes."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the chain."""

    max_nodes: int = option(20, "statements, conditions and counts that a program may have")
    neighbourhood: str = neighbourhoods.neighbourhood_option()
    parts_share: float = neighbourhoods.share_option()


def check(job: Job) -> None:
    neighbourhoods.check_neighbourhood(job)
    if not 1 <= job.options.max_nodes <= MOST:
        raise UserError(f"--max-nodes {job.options.max_nodes}: it goes from 1 to {MOST}")


def build(setup: Setup) -> Search:
    job = setup.job
    chosen = neighbourhoods.neighbourhood(setup)
    if chosen.by_size is not None:
        chosen = chosen._replace(neighbours=chosen.by_size)
    search = chain(**chosen.arguments(), max_nodes=job.options.max_nodes, budget=job.budget, goal=setup.goal)
    return neighbourhoods.with_parts(setup, search)


CHAIN = Method(
    name="chain",
    summary="one program and one neighbour at a time: move when the return is not lower, never start again",
    options=Options,
    check=check,
    build=build,
    llms_with=neighbourhoods.llms_with,
    identity=neighbourhoods.identity,
)
