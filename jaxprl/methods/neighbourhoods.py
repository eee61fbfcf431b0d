"""Which programs are neighbours: `--neighbourhood`, an option of all methods that mutate programs.

- `grammar`: that of LLM-GS (Liu et al. 2025). A mutated node regrows with the height that it has in its program, and
  random programs have at most 45 tokens.
- `small`: that of the experiments that Carvalho et al. (2024) publish. A mutated node regrows as a small subtree
  wherever it stands, and random programs may have any number of tokens.
- `parts`: that of InnateCoder (Moraes et al. 2025). A mutated node is exchanged for a part of the language model's
  programs, or else regrown as in `grammar` (`parts.py`).

`dsl/sample.py` has the rules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl.parts import TEMPLATE
from jaxprl.errors import UserError, unknown
from jaxprl.methods import parts
from jaxprl.methods.base import Job, Setup, Value, option
from jaxprl.methods.from_programs import answers_identity, check_recorded, llm_programs
from jaxprl.search.hill_climbing import Neighbours, Start
from jaxprl.search.program_space import exchanges, mutations, random_starts
from jaxprl.search.protocol import Search, State, nothing_yet
from jaxprl.types import JSON, PyTree

SHARE = 0.8
"""The probability of a part in InnateCoder."""
_INSTEAD = "--neighbourhood grammar needs no programs"


class Neighbourhood(NamedTuple):
    """What a search needs to know about a neighbourhood."""

    neighbours: Neighbours
    """Draws neighbours."""
    start: Start
    """Draws random programs that climbs start from."""
    by_size: Neighbours | None = None
    """Draws neighbours without the limits of the language, for a search that limits their size; None where these limits
    are part of the neighbourhood."""
    limited: bool = True
    """Whether random programs obey the limits of the language."""
    parts: PyTree = None
    """A template of what neighbours are made of besides the grammar (`State.parts`); None for nothing."""

    def arguments(self) -> Mapping[str, Any]:
        """Return the arguments of `hill_climbing` that concern it, for climbs from random programs."""
        return {"neighbours": self.neighbours, "start": self.start, "parts": self.parts}


def neighbourhood_option() -> Value:
    """Return the field of the option `neighbourhood`."""
    return option(DEFAULT, f"how programs are mutated: {', '.join(_BUILD)}")


def share_option() -> Value:
    """Return the field of the option `parts_share`."""
    return option(SHARE, f"probability of a part with --neighbourhood {PARTS}")


def check_neighbourhood(job: Job) -> None:
    """Raise UserError if a job's neighbourhood is unknown, or cannot be made."""
    name, share = job.options.neighbourhood, job.options.parts_share
    if name not in _BUILD:
        raise unknown("neighbourhood", name, _BUILD)
    if not 0 <= share <= 1:
        raise UserError(f"--parts-share {share:g}: it goes from 0 to 1")
    if name != PARTS and share != SHARE:
        raise UserError(f"--parts-share {share:g} is for --neighbourhood {PARTS} only, not for {name}")
    if name == PARTS:
        if not job.uses_llm:
            raise UserError(
                f"--neighbourhood {PARTS} takes parts of a language model's programs: use --llm recorded or --llm "
                f"openai; {_INSTEAD}"
            )
        check_recorded(job, "--llm openai, or --neighbourhood grammar, which needs no programs")


def llms_with(options: Value) -> tuple[str, ...] | None:
    """Return where a method takes programs from with its options, as `Method.llms_with`."""
    return ("recorded", "openai", "none") if options.neighbourhood == PARTS else None


def identity(job: Job) -> JSON:
    """Return what a resumed run has to have in common with the one before: options and answers."""
    return dict(vars(job.options)) | answers_identity(job)


def neighbourhood(setup: Setup) -> Neighbourhood:
    """Return the neighbourhood of a run."""
    return _BUILD[setup.job.options.neighbourhood](setup)


def with_parts(setup: Setup, search: Search) -> Search:
    """Return a search from random programs with an `init` that gets the parts that its neighbourhood needs, if any."""
    if setup.job.options.neighbourhood != PARTS:
        return search

    def init(keys: jax.Array) -> State:
        rows = llm_programs(setup, f"; {_INSTEAD}")
        evaluated, best = nothing_yet(keys)
        has_some = np.array([len(programs) > 0 for programs in rows])
        best = jnp.where(jnp.asarray(has_some), best, setup.goal)  # a search without a program is over at once
        return search.init(keys, evaluated, best, **parts_argument(setup, rows))

    return search._replace(init=init)


def parts_argument(setup: Setup, rows: list[np.ndarray]) -> Mapping[str, PyTree]:
    """Return the parts that the neighbourhood of a run needs as an argument of `init`, and record them; {} if none.

    Args:
      setup: what the run offers.
      rows: the language model's programs for each search, nodes int32 [K, N].
    """
    if setup.job.options.neighbourhood != PARTS:
        return {}
    found, facts = parts.of_searches(setup.job.task, rows)
    for index, (programs, fact) in enumerate(zip(rows, facts, strict=True)):
        if len(programs):
            setup.log.add_fact(index, PARTS, fact)
    return {"parts": found}


def _grammar(setup: Setup) -> Neighbourhood:
    language = setup.job.task.language
    return Neighbourhood(functools.partial(mutations, language), functools.partial(random_starts, language))


def _small(setup: Setup) -> Neighbourhood:
    language = setup.job.task.language
    return Neighbourhood(
        functools.partial(mutations, language, small=True),
        functools.partial(random_starts, language, limited=False),
        by_size=functools.partial(mutations, language, small=True, limited=False),
        limited=False,
    )


def _parts(setup: Setup) -> Neighbourhood:
    near = functools.partial(exchanges, setup.job.task.language, setup.job.options.parts_share)
    return _grammar(setup)._replace(neighbours=near, parts=TEMPLATE)


DEFAULT = "grammar"
PARTS = "parts"
_BUILD: dict[str, Callable[[Setup], Neighbourhood]] = {DEFAULT: _grammar, "small": _small, PARTS: _parts}
"""What builds each neighbourhood, by its name."""
