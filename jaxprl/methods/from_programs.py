"""Searches that climb from given programs: a language model's, or random ones in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode
from jaxprl.dsl.language import Language
from jaxprl.errors import UserError
from jaxprl.llm import answers, prompts
from jaxprl.llm.programs import LLM_PROGRAMS, Answers, asked_answers, recorded_answers
from jaxprl.methods.base import Job, Setup
from jaxprl.methods.revision import without_program
from jaxprl.search import pool
from jaxprl.search.names import BEFORE
from jaxprl.search.pool import Pool, Starts
from jaxprl.search.program_space import random_programs
from jaxprl.search.protocol import UNKNOWN, Event, Points, Search, State, programs_of
from jaxprl.types import JSON, PyTree
from jaxprl.worlds import variants
from jaxprl.worlds.task import FARAMA, prompt_name


def check_recorded(job: Job, instead: str = "--llm openai, --llm none or --method hc") -> None:
    """Raise UserError if the bundled answers are to be used and there are none for the task.

    Args:
      job: the job.
      instead: what to use instead.
    """
    if job.bundled and answered_task(job) not in answers.tasks():
        known = ", ".join(answers.tasks())
        raise UserError(f"no recorded answers for {job.task_name}: use {instead} (there are some for {known})")


def answered_task(job: Job) -> str:
    """Return the name of the task whose recorded answers are used.

    For a variant it is the task of which it is one, and for a real environment the same task on our world.
    """
    return job.task_name.removesuffix(variants.suffix_of(job.task)).removeprefix(FARAMA)


def answers_identity(job: Job) -> JSON:
    """Return checksums of the recorded answers, by index, if a job uses those that ship with the package."""
    if not job.bundled:
        return {}
    texts = answers.recorded(answered_task(job))
    return {"answer": {str(n): hashlib.sha256(text.encode()).hexdigest()[:16] for n, text in enumerate(texts)}}


def from_programs(
    setup: Setup,
    search: Search,
    points: Callable[[int, np.ndarray], Points] = lambda index, programs: programs,
    *,
    limited: bool = True,
    arguments: Callable[[list[np.ndarray]], Mapping[str, PyTree]] = lambda rows: {},
) -> Search:
    """Return the search with an `init` that first gets each search programs and evaluates them.

    Args:
      setup: what the run offers.
      search: climbs from a pool.
      points: (index of a search, its programs int32 [K, N]) -> the points [K] that it may start from.
      limited: whether random programs obey the limits of the language.
      arguments: each search's programs -> further arguments of its `init`, by name.
    """
    source = "llm" if setup.job.uses_llm else "random"

    def init(keys: jax.Array) -> State:
        rows = _programs(setup, keys, limited)
        starts = _evaluated(setup, rows, points, source)
        best = np.where(starts.counts, starts.best, setup.goal)  # a search without a program is over at once
        return search.init(keys, jnp.asarray(starts.evaluated), jnp.asarray(best), Pool.of(starts), **arguments(rows))

    return search._replace(init=init, start_source=source)


def _programs(setup: Setup, keys: jax.Array, limited: bool) -> list[np.ndarray]:
    """Return the programs that each search is given, int32 [K, N] each."""
    job = setup.job
    if not job.uses_llm:
        return [drawn_instead(job.task.language, key, limited=limited) for key in keys]
    return llm_programs(setup)


def llm_programs(setup: Setup, instead: str = "") -> list[np.ndarray]:
    """Return the programs of the language model for each search, int32 [K, N] each, and record the answers.

    Args:
      setup: what the run offers.
      instead: what to do if there are none, added to the message.
    """
    found = []
    for index, seed in enumerate(setup.job.seeds):
        taken = _answers(setup, seed)
        setup.log.record_answers(index, taken)
        if not taken.programs:
            setup.log.leave_out(index, without_program(setup, taken) + instead)
        found.append(encode.encode_all(taken.programs, setup.job.task.language))
    return found


def _answers(setup: Setup, seed: int) -> Answers:
    """Return what a search takes from the language model's answers."""
    job, task = setup.job, setup.job.task
    if setup.language_model is None:
        return recorded_answers(answered_task(job), task.language, seed)
    messages = prompts.messages(task.language, prompt_name(task), task.words, job.style)
    return asked_answers(
        messages, task.language, setup.language_model, seed=seed, occasion="round 0", wanted=LLM_PROGRAMS
    )


def drawn_instead(language: Language, key: jax.Array, *, limited: bool = True) -> np.ndarray:
    """Return `LLM_PROGRAMS` random programs, int32 [K, N], that take the place of a language model's."""
    keys = jax.random.split(jax.random.fold_in(key, BEFORE), LLM_PROGRAMS)
    return np.asarray(random_programs(language, keys, limited=limited))


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
    found = pool.best_first(stacked, counts, scores, setup.job.budget, setup.goal)
    for index, evaluated in enumerate(found.evaluated.tolist()):
        best = UNKNOWN
        for n in range(evaluated):
            if scores[index, n] > best:
                best = int(scores[index, n])
                setup.log.record(Event(index, n + 1, best, programs[index, n], source))
    return found
