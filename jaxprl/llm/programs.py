"""Turns the answers of a language model into the programs that a search starts from, with the reasons of rejections."""

from __future__ import annotations

import collections
import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language
from jaxprl.errors import UserError
from jaxprl.llm import answers, extract
from jaxprl.types import JSON

LLM_PROGRAMS = 32
"""Number of programs that LLM-GS starts from."""
BEFORE = 2**31
"""Stands beside the search seed in the random seeds of draws before a search's first program is evaluated."""
FRUITLESS = 3
"""After so many requests in a row without a program, the language model is not asked again for the same."""
_COUNTED = ("rejected", "slips", "finish_reasons")
"""The counts by name in `Answers.counts`."""


class Answer(NamedTuple):
    """A raw answer of a language model."""

    text: str
    finish: str | None = None
    """Why the model stopped, in the server's words: "stop", "length", ... None if nobody says."""


Ask = Callable[[list[dict[str, str]], int, str], list[Answer]]
"""Asks a language model: (chat messages, number of answers, name of the request within the run) -> raw answers.

There may be fewer answers than requested. The name distinguishes requests with the same messages, for example
"seed 3, round 1, ask 0"."""


class Answers(NamedTuple):
    """The answers that a search has read, and the programs in them."""

    programs: list[ast.Program]
    rows: list[JSON]
    """One row for every answer that was read, for the run's record: its index and text, why the model stopped, its
    program or the reason why it has none, and the rejections of blocks that are present."""
    requests: list[int]
    """Number of programs from each request, if the language model was asked."""

    def take(
        self,
        answers: Iterable[tuple[int, Answer]],
        language: Language,
        *,
        rng: np.random.Generator,
        wanted: int,
        row: JSON,
    ) -> None:
        """Read answers until there are `wanted` programs.

        If an answer has two valid programs, one of them is drawn.

        Args:
          answers: the answers with their indices.
          language: the language of the programs.
          rng: draws between two programs.
          wanted: number of programs, those of earlier answers included.
          row: fields that are added to the row of every answer.
        """
        for index, answer in answers:
            if len(self.programs) == wanted:
                return
            extraction = extract.extract(answer.text, language, answer.finish)
            program = extract.choose(extraction, int(rng.integers(2)))
            outcome = {
                "finish": answer.finish,
                "program": str(program) if program else None,
                "reason": extraction.reason,
                "rejected": [dataclasses.asdict(rejection) for rejection in extraction.slips],
            }
            self.rows.append({**row, "index": index, "text": answer.text, **outcome})
            if program:
                self.programs.append(program)

    def without_program(self) -> str:
        """Return a sentence that says that no answer holds a program, with the reasons and their numbers."""
        rejected = self.counts()["rejected"]
        reasons = ", ".join(f"{number} {reason}" for reason, number in rejected.items())
        hint = "; a larger --max-tokens leaves room for whole answers" if "cut off" in rejected else ""
        return f"none of {len(self.rows)} answers holds a program" + (f": {reasons}{hint}" if reasons else "")

    def counts(self) -> JSON:
        """Count the outcomes of the answers.

        Returns:
          `answers`: the number of answers that were read. `accepted`: the number of programs. `rejected`: the number of
          answers without a program, by reason. `slips`: what was wrong with the other block of answers that have a
          program, like "python: bad count", and how often. `finish_reasons`: why the model stopped, in the server's
          words, and how often.
        """
        rejected = collections.Counter(row["reason"] for row in self.rows if not row["program"])
        slips = collections.Counter(
            f"{each['block']}: {each['reason']}" for row in self.rows if row["program"] for each in row["rejected"]
        )
        finish = collections.Counter(row["finish"] for row in self.rows if row["finish"])
        by_reason = zip(_COUNTED, (rejected, slips, finish), strict=True)
        counts = {name: dict(sorted(counter.items())) for name, counter in by_reason}
        return {"answers": len(self.rows), "accepted": len(self.programs), **counts}


def total(counts: Sequence[JSON]) -> JSON:
    """Return the sum of several `Answers.counts`."""
    summed: JSON = {name: sum(each[name] for each in counts) for name in ("answers", "accepted")}
    for name in _COUNTED:
        added: collections.Counter[str] = sum(
            (collections.Counter(each.get(name, {})) for each in counts), collections.Counter()
        )
        summed[name] = dict(sorted(added.items()))
    return summed


def recorded_answers(task_name: str, language: Language, seed: int) -> Answers:
    """Read `LLM_PROGRAMS` programs from the recorded answers for a task, in random order.

    Args:
      task_name: the name of the task.
      language: the language of the programs.
      seed: the search seed, which determines the order and the draws between two programs of one answer.

    Returns:
      The programs and the answers that were read. There are fewer programs if the recorded answers do not hold as many.

    Raises:
      UserError: if there are no recorded answers for the task, or if none of them holds a program.
    """
    rng = np.random.default_rng([seed, BEFORE])
    texts = answers.recorded(task_name)
    taken, order = Answers([], [], []), rng.permutation(len(texts)).tolist()
    shuffled = ((index, Answer(texts[index])) for index in order)
    taken.take(shuffled, language, rng=rng, wanted=LLM_PROGRAMS, row={"seed": seed})
    if not taken.programs:
        raise UserError(f"recorded answers for {task_name}: {taken.without_program()}")
    return taken


def asked_answers(
    messages: list[dict[str, str]], language: Language, ask: Ask, *, seed: int, occasion: str, wanted: int
) -> Answers:
    """Ask a language model for programs.

    Every request asks for one and a half times as many answers as programs are missing: for 32 programs 48 answers,
    and if 20 of them hold a program, 18 more. It ends when there are enough programs, or when `FRUITLESS` requests in a
    row have brought none.

    Args:
      messages: the chat messages.
      language: the language of the programs.
      ask: asks the language model.
      seed: the search seed.
      occasion: why the language model is asked, like "round 0". Seed and occasion determine the random draws, so the
        same answers always give the same programs.
      wanted: number of programs.

    Returns:
      At most `wanted` programs, and the answers that were read.
    """
    rng = np.random.default_rng([seed, BEFORE, zlib.crc32(occasion.encode())])
    taken = Answers([], [], [])
    while len(taken.programs) < wanted and taken.requests[-FRUITLESS:] != [0] * FRUITLESS:
        before = len(taken.programs)
        name = f"seed {seed}, {occasion}, ask {len(taken.requests)}"
        found = ask(messages, math.ceil(1.5 * (wanted - before)), name)
        taken.take(enumerate(found), language, rng=rng, wanted=wanted, row={"seed": seed, "request": name})
        taken.requests.append(len(taken.programs) - before)
    return taken
