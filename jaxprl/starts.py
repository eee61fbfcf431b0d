"""Programs that climbs start from: those of a language model, best first, or random ones."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import ast, sample
from jaxprl.dsl.language import Language
from jaxprl.dsl.text import to_text
from jaxprl.errors import UserError
from jaxprl.llm import answers, extract
from jaxprl.search.types import UNKNOWN

LLM_PROGRAMS = 32
"""Programs that LLM-GS starts from."""
_BEFORE = 2**31
"""Name of what is drawn before a search's first program, in `fold_in`; its programs have the names 0, 1, 2, .."""
_CLIMBS = 2**31 + 1
"""Name of the random programs that climbs start from."""


class Answers(NamedTuple):
    """What a search took from a language model's answers."""

    programs: list[ast.Program]
    rows: list[dict[str, Any]]
    """For the record, every answer that was looked at: its index, text, program if any, and rejections."""

    def counts(self) -> dict[str, Any]:
        """Return how many answers were looked at and gave a program, and rejections by block and reason."""
        rejected: dict[str, dict[str, int]] = {}
        reasons = collections.Counter((each["block"], each["reason"]) for row in self.rows for each in row["rejected"])
        for (block, reason), number in sorted(reasons.items()):
            rejected.setdefault(block, {})[reason] = number
        return {"answers": len(self.rows), "accepted": len(self.programs), "rejected": rejected}


def recorded_answers(task_name: str, language: Language, seed: int) -> Answers:
    """Return `LLM_PROGRAMS` programs from the recorded answers, in an order drawn by the search seed.

    Of an answer with two valid programs, one is drawn. Raises UserError if no answer holds a program.
    """
    rng = np.random.default_rng([seed, _BEFORE])
    texts = answers.recorded(task_name)
    found = Answers([], [])
    for index in rng.permutation(len(texts)).tolist():
        if len(found.programs) == LLM_PROGRAMS:
            break
        extraction = extract.extract(texts[index], language)
        program = extract.choose(extraction, int(rng.integers(2)))
        rejected = [dataclasses.asdict(rejection) for rejection in extraction.rejections]
        text = to_text(program) if program else None
        found.rows.append({"seed": seed, "index": index, "text": texts[index], "program": text, "rejected": rejected})
        if program:
            found.programs.append(program)
    if not found.programs:
        raise UserError(f"none of the {len(texts)} recorded answers for {task_name} holds a program")
    return found


def drawn_instead(language: Language, key: jax.Array) -> np.ndarray:
    """Return `LLM_PROGRAMS` random programs, int32 [K, N], in the place of a language model's."""
    keys = jax.random.split(jax.random.fold_in(key, _BEFORE), LLM_PROGRAMS)
    return np.asarray(sample.random_programs(language, keys))


class Starts(NamedTuple):
    """What LLM-GS has before its first climb, for S searches."""

    programs: np.ndarray  # int32 [S, K, N]: best first, ties in their order
    counts: np.ndarray  # int32 [S]: how many there are
    evaluated: np.ndarray  # int32 [S]: programs evaluated: all within the budget, or up to the first with return 1
    best: np.ndarray  # int32 [S]: highest score among those


def stacked(chosen: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return programs int32 [S, K, N], padded, and how many each search has, int32 [S]."""
    counts = np.array([len(nodes) for nodes in chosen], np.int32)
    programs = np.zeros((len(chosen), counts.max(), max(nodes.shape[1] for nodes in chosen)), np.int32)
    for row, nodes in zip(programs, chosen, strict=True):
        row[: len(nodes), : nodes.shape[1]] = nodes
    return programs, counts


def best_first(programs: np.ndarray, counts: np.ndarray, scores: np.ndarray, budget: int, goal: int) -> Starts:
    """Return the start programs of searches from their scores int32 [S, K], in the order they were evaluated in."""
    within = np.minimum(counts, budget)
    solves = (scores >= goal) & (np.arange(scores.shape[1]) < within[:, None])
    evaluated = np.where(solves.any(axis=1), solves.argmax(axis=1) + 1, within).astype(np.int32)
    seen = np.arange(scores.shape[1]) < evaluated[:, None]
    best = np.where(seen, scores, UNKNOWN).max(axis=1).astype(np.int32)
    used = np.arange(scores.shape[1]) < counts[:, None]
    order = np.argsort(-np.where(used, scores.astype(np.int64), UNKNOWN), axis=1, kind="stable")
    return Starts(np.take_along_axis(programs, order[:, :, None], axis=1), counts, evaluated, best)


def random_starts(language: Language, keys: jax.Array, climb: jax.Array) -> jax.Array:
    """Return the random programs int32 [S, N] that the climbs number `climb`, int32 [S], start from."""
    named = jax.vmap(lambda key, number: jax.random.fold_in(jax.random.fold_in(key, _CLIMBS), number))(keys, climb)
    return sample.random_programs(language, named)


def given_starts(programs: jax.Array, counts: jax.Array, keys: jax.Array, climb: jax.Array) -> jax.Array:
    """Return each search's start program for its climb: the first, the second, ..., the first again."""
    del keys
    return jnp.take_along_axis(programs, (climb % counts)[:, None, None], axis=1)[:, 0]
