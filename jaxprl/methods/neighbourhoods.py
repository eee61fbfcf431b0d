"""Which programs are neighbours: `--neighbourhood`, an option of all methods that mutate programs.

- `grammar`: that of LLM-GS (Liu et al. 2025). A mutated node regrows with the height that it has in its program, and
  random programs have at most 45 tokens.
- `small`: that of the experiments that Carvalho et al. (2024) publish. A mutated node regrows as a small subtree
  wherever it stands, and random programs may have any number of tokens.

`dsl/sample.py` has the rules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxprl.errors import unknown
from jaxprl.methods.base import Job, Setup, Value, option
from jaxprl.search.hill_climbing import Neighbours, Start
from jaxprl.search.program_space import mutations, random_starts
from jaxprl.types import PyTree


class Neighbourhood(NamedTuple):
    """What a search needs to know about a neighbourhood."""

    neighbours: Neighbours
    """Draws neighbours."""
    start: Start
    """Draws random programs that climbs start from."""
    limits_tokens: bool = True
    """Whether the number of tokens of random programs is limited."""
    parts: PyTree = None
    """A template of what neighbours are made of besides the grammar (`State.parts`); None for nothing."""

    def arguments(self) -> Mapping[str, Any]:
        """Return the arguments of `hill_climbing` that concern it, for climbs from random programs."""
        return {"neighbours": self.neighbours, "start": self.start, "parts": self.parts}


def neighbourhood_option() -> Value:
    """Return the field of the option `neighbourhood`."""
    return option(DEFAULT, f"how programs are mutated: {', '.join(_BUILD)}")


def check_neighbourhood(job: Job) -> None:
    """Raise UserError if a job's neighbourhood is unknown."""
    name = job.options.neighbourhood
    if name not in _BUILD:
        raise unknown("neighbourhood", name, _BUILD)


def neighbourhood(setup: Setup) -> Neighbourhood:
    """Return the neighbourhood of a run."""
    return _BUILD[setup.job.options.neighbourhood](setup)


def _grammar(setup: Setup) -> Neighbourhood:
    language = setup.job.task.language
    return Neighbourhood(functools.partial(mutations, language), functools.partial(random_starts, language))


def _small(setup: Setup) -> Neighbourhood:
    language = setup.job.task.language
    return Neighbourhood(
        functools.partial(mutations, language, alone=True),
        functools.partial(random_starts, language, limits_tokens=False),
        limits_tokens=False,
    )


DEFAULT = "grammar"
_BUILD: dict[str, Callable[[Setup], Neighbourhood]] = {DEFAULT: _grammar, "small": _small}
"""What builds each neighbourhood, by its name."""
