"""The revision methods of LLM-GS: no local search, the language model is asked, shown how it did, and asked again.

A method decides what the language model is shown between the task and the request (`llm/revision_prompts.py`). The
searches of a run take their turn one after the other. Everything follows from the answers and the search seed, so a run
that goes on goes through its rounds again with the answers that it had; it needs no checkpoint.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from jaxprl.errors import UserError
from jaxprl.llm import revision_prompts
from jaxprl.llm.programs import Answers
from jaxprl.methods.base import Job, Method, Setup
from jaxprl.methods.reviser import NO_PROGRAM, ON_STALL, Reviser, Round
from jaxprl.search.protocol import UNKNOWN, Asked, Bests, Candidates, Search


class State(NamedTuple):
    """S searches, as numpy arrays on the host."""

    evaluated: np.ndarray  # int32 [S]: programs evaluated so far
    best: np.ndarray  # int32 [S]: highest score so far
    done: np.ndarray  # bool [S]
    round: np.ndarray  # int32 [S]: rounds so far
    stop: tuple[str | None, ...]
    """Why each search stopped."""


def check(job: Job) -> None:
    if not job.asks:
        raise UserError(
            f"method {job.method.name} asks a language model again and again: use --llm openai, or --llm recorded "
            "with the --model that was asked before (the answers that ship with jaxprl are to the first prompt only)"
        )


def reviser(setup: Setup, method: str = ON_STALL) -> Reviser:
    """Return what asks for programs in a run; `method` is one of `revision_prompts.METHODS`."""
    assert setup.language_model is not None
    job = setup.job
    return Reviser(
        task=job.task,
        layouts=setup.layouts,
        ask=setup.language_model,
        budget=job.budget,
        style=job.style,
        evaluate=lambda task, nodes, layouts: setup.evaluate(nodes),
        method=method,
    )


def without_program(setup: Setup, answers: Answers) -> str:
    """Return in words why a search has no program to start from."""
    trouble = getattr(setup.language_model, "trouble", "")
    return answers.without_program() + (f" ({trouble})" if trouble else "")


def build(setup: Setup, method: str) -> Search:
    """Return the searches of a run by one of `revision_prompts.METHODS`."""
    model = reviser(setup, method)
    seeds = setup.job.seeds
    rounds: list[Iterator[Round]] = [model.rounds(seed) for seed in seeds]

    def init(keys: jax.Array) -> State:
        zero = np.zeros(len(keys), np.int32)
        return State(zero, zero + np.int32(UNKNOWN), zero > 0, zero, (None,) * len(keys))

    def ask(state: State, width: int) -> Asked:
        """Ask the language model for the next round of the first search that is not done. It is evaluated at once."""
        del width
        found = next(rounds[int(np.argmin(state.done))])
        nothing = np.zeros((len(seeds), 0, found.nodes.shape[1]), np.int32)
        return Asked(Candidates(nothing, nothing.any(axis=-1)), found)

    def tell(state: State, asked: Asked, scores: np.ndarray) -> tuple[State, Bests]:
        del scores
        found, index = asked.points, int(np.argmin(state.done))
        setup.log.record_answers(index, found.answers)
        setup.log.record_round(index, {"round": int(state.round[index]), **model.summary(found)})
        if found.stop == NO_PROGRAM:
            setup.log.leave_out(index, without_program(setup, found.answers))
        state = State(
            evaluated=_put(state.evaluated, index, found.evaluated),
            best=_put(state.best, index, max([state.best[index], *(event.score for event in found.bests)])),
            done=_put(state.done, index, found.stop is not None),
            round=_put(state.round, index, state.round[index] + 1),
            stop=(*state.stop[:index], found.stop, *state.stop[index + 1 :]),
        )
        return state, _bests(found, index, len(seeds))

    def stop_reason(state: State, search: int) -> str | None:
        return state.stop[search]

    return Search(init, ask, tell, None, start_source="llm", stop_reason=stop_reason)


def _put(array: np.ndarray, index: int, value: object) -> np.ndarray:
    """Return a copy of an array with another value at an index."""
    array = array.copy()
    array[index] = value
    return array


def _bests(found: Round, index: int, searches: int) -> Bests:
    """Return the new best programs of one search's round."""
    count = len(found.bests)
    bests = Bests(
        found=np.zeros((searches, count), bool),
        evaluated=np.zeros((searches, count), np.int32),
        score=np.zeros((searches, count), np.int32),
        programs=np.zeros((searches, count, found.nodes.shape[1]), np.int32),
        start=np.ones((searches, count), bool),
    )
    for place, event in enumerate(found.bests):
        for column, value in zip(bests, (True, event.evaluated, event.score, event.program), strict=False):
            column[index, place] = value
    return bests


def _method(name: str, summary: str) -> Method:
    build_it = functools.partial(build, method=name)
    return Method(name=name, summary=summary, build=build_it, check=check, llms=("recorded", "openai"))


_SUMMARIES = {
    "regeneration": "ask a language model five more times for programs that differ from those of the last round",
    "regeneration-with-reward": "the same, and show the programs of the last round with their mean returns",
    "execution-trace": "the same, and show what the best program does, step by step, where it does worst",
    "program-and-execution-trace": "the same, and mark the current line of the program at every step",
}
REVISIONS = tuple(_method(name, _SUMMARIES[name]) for name in revision_prompts.METHODS)
