"""LLM-GS: scheduled hill climbing from the programs of a language model (Liu et al. 2025).

The language model's programs are evaluated first. Climbs start from the best of them, the second best, and so on; the
neighbourhood grows from 32 to 2048 programs over the budget. With `revise_every`, which the published system lacks, a
search whose climbs stall asks the language model for better programs, and climbs from those next.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode, sample
from jaxprl.dsl.language import Language
from jaxprl.errors import UserError
from jaxprl.llm import answers, prompts
from jaxprl.llm.programs import LLM_PROGRAMS, Answers, asked_answers, recorded_answers
from jaxprl.methods.base import Method, Request, Setup, option
from jaxprl.methods.joining import joining
from jaxprl.methods.reviser import Reviser, Round
from jaxprl.methods.revision import reviser, without_program
from jaxprl.search import pool
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.pool import Pool, Starts, pooled_starts
from jaxprl.search.program_space import BEFORE, mutations
from jaxprl.search.protocol import UNKNOWN, Event, Points, Search, State, programs_of
from jaxprl.search.schedule import Growing
from jaxprl.worlds.task import FARAMA, prompt_name


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of LLM-GS."""

    revise_every: int | None = option(None, "ask again after so many climbs in a row without a new best (with --model)")


def check(request: Request) -> None:
    check_recorded(request)
    climbs = request.options.revise_every
    if climbs is not None:
        if climbs < 1:
            raise UserError(f"--revise-every {climbs}: it takes 1 climb or more")
        if not request.asks:
            raise UserError("--revise-every asks a language model again: name it with --model")


def check_recorded(request: Request) -> None:
    """Raise UserError if the bundled answers are to be used and there are none for the task."""
    if request.bundled and answered_task(request) not in answers.tasks():
        known = ", ".join(answers.tasks())
        raise UserError(
            f"no recorded answers for {request.task_name}: use --llm openai, --llm none or --method hc (there are some "
            f"for {known})"
        )


def answered_task(request: Request) -> str:
    """Return the task whose recorded answers are used: for a real environment, that of the same task on our world."""
    return request.task_name.removeprefix(FARAMA)


def build(setup: Setup) -> Search:
    request = setup.request
    search = hill_climbing(
        neighbours=functools.partial(mutations, request.task.language),
        start=pooled_starts,
        schedule=Growing(request.budget),
        budget=request.budget,
        goal=setup.goal,
        pool=pool.TEMPLATE,
    )
    search = from_programs(setup, search)
    climbs = request.options.revise_every
    if not climbs:
        return search
    between = joining(search, _propose(setup), climbs=climbs, budget=request.budget, goal=setup.goal)
    return search._replace(between=between)


def _propose(setup: Setup) -> Callable[[int, int, int], Round]:
    model: Reviser = reviser(setup)

    def propose(search: int, climb: int, left: int) -> Round:
        """Ask the language model for programs that may join a search that stalls."""
        seed = setup.request.seeds[search]
        found = model.stalled(setup.log.best(search), seed=seed, climb=climb, left=left)
        setup.log.take(search, found.answers)
        setup.log.round(search, {"climb": climb, **model.summary(found)})
        return found

    return propose


def from_programs(
    setup: Setup, search: Search, points: Callable[[int, np.ndarray], Points] = lambda index, programs: programs
) -> Search:
    """Return the search with an `init` that first gets each search programs and evaluates them.

    Args:
      setup: what the run offers.
      search: climbs from a pool.
      points: (index of a search, its programs int32 [K, N]) -> the points [K] that it may start from.
    """
    source = "llm" if setup.request.uses_llm else "random"

    def init(keys: jax.Array) -> State:
        starts = _evaluated(setup, _programs(setup, keys), points, source)
        best = np.where(starts.counts, starts.best, setup.goal)  # a search without a program is over at once
        return search.init(keys, jnp.asarray(starts.evaluated), jnp.asarray(best), Pool.of(starts))

    return search._replace(init=init, start_source=source)


def _programs(setup: Setup, keys: jax.Array) -> list[np.ndarray]:
    """Return the programs that each search is given, int32 [K, N] each."""
    request = setup.request
    if not request.uses_llm:
        return [drawn_instead(request.task.language, key) for key in keys]
    found = []
    for index, seed in enumerate(request.seeds):
        taken = _answers(setup, seed)
        setup.log.take(index, taken)
        if not taken.programs:
            setup.log.leave_out(index, without_program(setup, taken))
        found.append(encode.encode_all(taken.programs, request.task.language))
    return found


def _answers(setup: Setup, seed: int) -> Answers:
    """Return what a search takes from the language model's answers."""
    request, task = setup.request, setup.request.task
    if setup.ask is None:
        return recorded_answers(answered_task(request), task.language, seed)
    messages = prompts.messages(task.language, prompt_name(task), task.words, request.style)
    return asked_answers(messages, task.language, setup.ask, seed=seed, occasion="round 0", wanted=LLM_PROGRAMS)


def drawn_instead(language: Language, key: jax.Array) -> np.ndarray:
    """Return `LLM_PROGRAMS` random programs, int32 [K, N], that take the place of a language model's."""
    keys = jax.random.split(jax.random.fold_in(key, BEFORE), LLM_PROGRAMS)
    return np.asarray(sample.random_programs(language, keys))


def _evaluated(
    setup: Setup, rows: list[np.ndarray], points: Callable[[int, np.ndarray], Points], source: str
) -> Starts:
    """Evaluate each search's programs in order, until one has return 1, record the new bests, and sort them."""
    given = [points(index, programs) for index, programs in enumerate(rows)]
    stacked = jax.tree.map(lambda *leaves: pool.stacked(list(leaves))[0], *given)
    programs, counts = pool.stacked([np.asarray(programs_of(each)) for each in given])
    used = np.arange(programs.shape[1]) < counts[:, None]
    scores = np.full(used.shape, UNKNOWN, np.int32)
    scores[used] = setup.scale.scores(setup.evaluate(programs[used]).units)
    found = pool.best_first(stacked, counts, scores, setup.request.budget, setup.goal)
    for index, evaluated in enumerate(found.evaluated.tolist()):
        best = UNKNOWN
        for n in range(evaluated):
            if scores[index, n] > best:
                best = int(scores[index, n])
                setup.log.record(Event(index, n + 1, best, programs[index, n], source))
    return found


LLM_GS = Method(
    name="llm-gs",
    summary="scheduled hill climbing from 32 programs of a language model, best first (LLM-GS)",
    options=Options,
    check=check,
    build=build,
    llms=("recorded", "openai", "none"),
)
