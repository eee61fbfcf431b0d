"""Which programs are neighbours: `--neighbourhood`, an option of all methods that mutate programs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from jaxprl.errors import UserError
from jaxprl.methods.base import Job, Setup, Value, option
from jaxprl.search.hill_climbing import Neighbours, Start
from jaxprl.search.program_space import mutations, random_starts
from jaxprl.types import PyTree


class Neighbourhood(NamedTuple):
    """What a search needs to know about a neighbourhood; the arguments of `hill_climbing` with these names."""

    neighbours: Neighbours
    """Draws neighbours."""
    start: Start
    """Draws random programs that climbs start from."""
    parts: PyTree = None
    """A template of what neighbours are made of besides the grammar (`State.parts`); None for nothing."""


def neighbourhood_option() -> Value:
    """Return the field of the option `neighbourhood`."""
    return option(DEFAULT, f"how programs are mutated: {', '.join(_BUILD)}")


def check_neighbourhood(job: Job) -> None:
    """Raise UserError if a job's neighbourhood is unknown."""
    name = job.options.neighbourhood
    if name not in _BUILD:
        raise UserError(f"--neighbourhood {name!r}: the neighbourhoods are {', '.join(_BUILD)}")


def neighbourhood(setup: Setup) -> Neighbourhood:
    """Return the neighbourhood of a run."""
    return _BUILD[setup.job.options.neighbourhood](setup)


def _grammar(setup: Setup) -> Neighbourhood:
    language = setup.job.task.language
    return Neighbourhood(functools.partial(mutations, language), functools.partial(random_starts, language))


DEFAULT = "grammar"
_BUILD: dict[str, Callable[[Setup], Neighbourhood]] = {DEFAULT: _grammar}
"""What builds each neighbourhood, by its name."""
