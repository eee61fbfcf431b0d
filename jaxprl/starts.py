"""Programs that climbs start from: those of a language model, best first, or random ones."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
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
FRUITLESS = 3
"""Requests in a row that bring no program, after which a language model is not asked again for the same."""
_BEFORE = 2**31
"""Name of what is drawn before a search's first program, in `fold_in`; its programs have the names 0, 1, 2, .."""
_CLIMBS = 2**31 + 1
"""Name of the random programs that climbs start from."""


Ask = Callable[[list[dict[str, str]], int, str], list[str]]
"""(chat messages, answers wanted, name of the request within the run) -> the raw answers that could be had. The name
tells requests with the same messages apart, like "seed 3, round 1, ask 0"."""


class Answers(NamedTuple):
    """What a search took from a language model's answers."""

    programs: list[ast.Program]
    rows: list[dict[str, Any]]
    """For the record, every answer that was looked at: its index, text, program or the reason why there is none, and
    what was rejected in blocks that are there."""
    requests: list[int]
    """Programs that each request brought, if the language model was asked."""

    def take(
        self,
        texts: Iterable[tuple[int, str]],
        language: Language,
        *,
        rng: np.random.Generator,
        wanted: int,
        row: Mapping[str, Any],
    ) -> None:
        """Look at answers, given with their indices, until `wanted` programs are there; `row` goes into every row.

        Of an answer with two valid programs, one is drawn.
        """
        for index, text in texts:
            if len(self.programs) == wanted:
                return
            extraction = extract.extract(text, language)
            program = extract.choose(extraction, int(rng.integers(2)))
            told = {
                "program": to_text(program) if program else None,
                "reason": extraction.reason,
                "rejected": [dataclasses.asdict(rejection) for rejection in extraction.slips],
            }
            self.rows.append({**row, "index": index, "text": text, **told})
            if program:
                self.programs.append(program)

    def lack(self) -> str:
        """Return in words that none holds a program, and what was wrong with them."""
        reasons = ", ".join(f"{number} {reason}" for reason, number in self.counts()["rejected"].items())
        return f"none of {len(self.rows)} answers holds a program" + (f": {reasons}" if reasons else "")

    def counts(self) -> dict[str, Any]:
        """Return how many answers were looked at and gave a program; the others by reason; and of those that gave one,
        what was wrong with their other block ("python: bad count")."""
        rejected = collections.Counter(row["reason"] for row in self.rows if not row["program"])
        slips = collections.Counter(
            f"{each['block']}: {each['reason']}" for row in self.rows if row["program"] for each in row["rejected"]
        )
        by_reason = {"rejected": dict(sorted(rejected.items())), "slips": dict(sorted(slips.items()))}
        return {"answers": len(self.rows), "accepted": len(self.programs), **by_reason}


def total(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of several `Answers.counts`."""
    summed: dict[str, Any] = {name: sum(each[name] for each in counts) for name in ("answers", "accepted")}
    for name in ("rejected", "slips"):
        added = sum((collections.Counter(each[name]) for each in counts), collections.Counter())
        summed[name] = dict(sorted(added.items()))
    return summed


def recorded_answers(task_name: str, language: Language, seed: int) -> Answers:
    """Return `LLM_PROGRAMS` programs from the recorded answers, in an order drawn by the search seed.

    Of an answer with two valid programs, one is drawn. Raises UserError if no answer holds a program.
    """
    rng = np.random.default_rng([seed, _BEFORE])
    texts = answers.recorded(task_name)
    found, order = Answers([], [], []), rng.permutation(len(texts)).tolist()
    looked_at = ((index, texts[index]) for index in order)
    found.take(looked_at, language, rng=rng, wanted=LLM_PROGRAMS, row={"seed": seed})
    if not found.programs:
        raise UserError(f"recorded answers for {task_name}: {found.lack()}")
    return found


def asked_answers(
    messages: list[dict[str, str]], language: Language, ask: Ask, *, seed: int, occasion: str, wanted: int
) -> Answers:
    """Return `wanted` programs of a language model: it is asked for one and a half times as many answers as programs
    are missing, until none is or until `FRUITLESS` requests in a row bring none.

    The same answers give the same programs: what is drawn follows from the search seed and the occasion ("round 0").
    """
    rng = np.random.default_rng([seed, _BEFORE, zlib.crc32(occasion.encode())])
    found = Answers([], [], [])
    while len(found.programs) < wanted and found.requests[-FRUITLESS:] != [0] * FRUITLESS:
        before = len(found.programs)
        name = f"seed {seed}, {occasion}, ask {len(found.requests)}"
        texts = ask(messages, math.ceil(1.5 * (wanted - before)), name)
        found.take(enumerate(texts), language, rng=rng, wanted=wanted, row={"seed": seed, "request": name})
        found.requests.append(len(found.programs) - before)
    return found


def drawn_instead(language: Language, key: jax.Array) -> np.ndarray:
    """Return `LLM_PROGRAMS` random programs, int32 [K, N], in the place of a language model's."""
    keys = jax.random.split(jax.random.fold_in(key, _BEFORE), LLM_PROGRAMS)
    return np.asarray(sample.random_programs(language, keys))


class Starts(NamedTuple):
    """What a search has before its first climb that starts from given programs, for S searches."""

    programs: Any  # int32 [S, K, N], or Points [S, K]: best first, ties in their order
    counts: np.ndarray  # int32 [S]: how many there are
    evaluated: np.ndarray  # int32 [S]: programs evaluated: all within the budget, or up to the first with return 1
    best: np.ndarray  # int32 [S]: highest score among those


def stacked(chosen: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return programs int32 [S, K, N] (or other rows), padded, and how many each search has, int32 [S]."""
    counts = np.array([len(nodes) for nodes in chosen], np.int32)
    shape = len(chosen), max(1, counts.max()), max(nodes.shape[1] for nodes in chosen)
    programs = np.zeros(shape, chosen[0].dtype)
    for row, nodes in zip(programs, chosen, strict=True):
        row[: len(nodes), : nodes.shape[1]] = nodes
    return programs, counts


def best_first(programs: Any, counts: np.ndarray, scores: np.ndarray, budget: int | np.ndarray, goal: int) -> Starts:
    """Return the start programs of searches from their scores int32 [S, K], in the order they were evaluated in.

    `programs`: int32 [S, K, N], or `Point`. `budget`: programs that each search may evaluate.
    """
    within = np.minimum(counts, budget)
    solves = (scores >= goal) & (np.arange(scores.shape[1]) < within[:, None])
    evaluated = np.where(solves.any(axis=1), solves.argmax(axis=1) + 1, within).astype(np.int32)
    seen = np.arange(scores.shape[1]) < evaluated[:, None]
    best = np.where(seen, scores, UNKNOWN).max(axis=1).astype(np.int32)
    used = np.arange(scores.shape[1]) < counts[:, None]
    order = np.argsort(-np.where(used, scores.astype(np.int64), UNKNOWN), axis=1, kind="stable")
    ordered = jax.tree.map(lambda leaf: np.take_along_axis(leaf, order[:, :, None], axis=1), programs)
    return Starts(ordered, counts, evaluated, best)


@functools.partial(jax.jit, static_argnums=0)
def random_starts(language: Language, keys: jax.Array, climb: jax.Array) -> jax.Array:
    """Return the random programs int32 [S, N] that the climbs number `climb`, int32 [S], start from."""
    named = jax.vmap(lambda key, number: jax.random.fold_in(jax.random.fold_in(key, _CLIMBS), number))(keys, climb)
    return sample.random_programs(language, named)


def mutations(
    language: Language, programs: jax.Array, keys: jax.Array, counts: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return neighbours as `hill_climbing` asks for them: `sample.neighbours`, for every key."""
    del counts
    return sample.neighbours(language, programs, keys)


class Pool(NamedTuple):
    """Start programs that can become more while S searches go on; it is part of their state."""

    programs: Any  # int32 [S, K, N], or Points [S, K]
    counts: jax.Array  # int32 [S]: how many there are
    shift: jax.Array  # int32 [S]: climb number c starts from program number (c + shift) mod count

    @classmethod
    def of(cls, found: Starts) -> Pool:
        counts = jnp.asarray(np.maximum(found.counts, 1))  # a search without a program starts no climb
        return cls(jax.tree.map(jnp.asarray, found.programs), counts, jnp.zeros_like(counts))


def pooled_starts(pool: Pool, keys: jax.Array, climb: jax.Array) -> Any:
    """Return each search's start program for its climb: the first, the second, ..., the first again."""
    del keys
    turn = (climb + pool.shift) % pool.counts
    return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, turn[:, None, None], axis=1)[:, 0], pool.programs)


def joined(pool: Pool, climb: np.ndarray, fresh: Starts) -> Pool:
    """Return the pool with fresh programs, best first, before the program that climb number `climb`, int32 [S], would
    start from: the next climbs start from them, and then the turn goes on where it was. A search of which `fresh` has
    none keeps its turn."""
    counts, added = np.asarray(pool.counts), fresh.counts
    turn = (climb + np.asarray(pool.shift)) % counts
    rows = [
        np.concatenate([old[:place], new[:more], old[place:count]])
        for old, new, place, count, more in zip(
            *_as_wide(np.asarray(pool.programs), fresh.programs), turn, counts, added, strict=True
        )
    ]
    programs, total = stacked(rows)
    room = (1 << (programs.shape[1] - 1).bit_length()) - programs.shape[1]  # few sizes are compiled
    programs = np.pad(programs, ((0, 0), (0, room), (0, 0)))
    shift = np.where(added > 0, turn - climb, np.asarray(pool.shift)).astype(np.int32)
    return Pool(jnp.asarray(programs), jnp.asarray(total), jnp.asarray(shift))


def _as_wide(*arrays: np.ndarray) -> list[np.ndarray]:
    """Return arrays of nodes [..., N] padded to the same N."""
    widest = max(array.shape[-1] for array in arrays)
    return [np.pad(array, [*[(0, 0)] * (array.ndim - 1), (0, widest - array.shape[-1])]) for array in arrays]
