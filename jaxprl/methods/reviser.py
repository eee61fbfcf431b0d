"""Asking a language model for better programs (LLM-GS, section on LLM revision).

The language model is asked for programs, shown how they did, and asked again. `revision.py` makes searches of it that
do nothing else; `joining.py` lets its answers join a hill climbing that stalls, which the published system lacks.

Where the paper leaves it open: the best program is the best of all rounds so far; no more programs are asked for than
the budget has left; after a round without a program, the next prompt shows the last one that had some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxprl.dsl import ast, encode
from jaxprl.errors import unknown
from jaxprl.llm import prompts, revision_prompts
from jaxprl.llm.programs import LLM_PROGRAMS, Answers, Ask, asked_answers
from jaxprl.llm.revision_prompts import METHODS, TRACED, Past
from jaxprl.methods.episode import episode
from jaxprl.search.protocol import UNKNOWN, Event
from jaxprl.types import JSON
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.outcomes import Outcomes, Scale
from jaxprl.worlds.task import Layout, PythonTask, Task, prompt_name

ROUNDS = 5
"""Rounds of revision, after the first round."""
NO_PROGRAM = "no program"
"""`Round.stop` of a search whose first round gives no program."""
ON_STALL = "program-and-execution-trace"
"""Method that makes the prompt of a hill climbing that stalls."""


class Round(NamedTuple):
    """The programs from one occasion of asking, evaluated. K of the P programs count: all, or up to the first one with
    return 1."""

    answers: Answers
    """The answers that were used or rejected."""
    nodes: np.ndarray  # int32 [P, N]: the programs
    scores: np.ndarray  # int64 [K]: their scores
    units: np.ndarray  # int32 [K, E]: their returns in units of the layouts
    evaluated: int
    """Programs that the search has evaluated by then, these included."""
    bests: list[Event]
    """The new best programs, in order, as events of search 0."""
    stop: str | None
    """Why the search stops: "solved", "budget", "rounds" or `NO_PROGRAM`; None if another round follows."""


class _Best(NamedTuple):
    program: ast.Program
    score: int
    units: np.ndarray  # int32 [E]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Reviser:
    """Asks a language model for programs for one task and evaluates them.

    Everything follows from the answers and the search seed, so a search that was interrupted goes on by going through
    its rounds again with the same answers.
    """

    task: Task | PythonTask
    layouts: Layout
    ask: Ask
    budget: int
    """Programs that a search may evaluate, duplicates included."""
    method: str = ON_STALL
    """What later rounds show the language model, one of `llm.revision_prompts.METHODS`."""
    programs: int = LLM_PROGRAMS
    """Programs to get on each occasion."""
    style: str = "python-dsl"
    """Style of the prompts, one of `llm.prompts.STYLES`."""
    evaluate: Callable[..., Outcomes] = evaluate
    """(task, nodes int32 [P, N], layouts) -> outcomes."""

    def __post_init__(self):
        if self.method not in METHODS:
            raise unknown("revision method", self.method, METHODS)

    @property
    def scale(self) -> Scale:
        return Scale.of(self.layouts)

    def rounds(self, seed: int, revisions: int = ROUNDS) -> Iterator[Round]:
        """Yield the rounds of a search, evaluated.

        The search stops when a program has return 1, when the budget is used up, or after the last round; and after the
        first round if that gives no program at all.

        Args:
          seed: the search seed.
          revisions: rounds after the first.
        """
        task, goal = self.task, self.scale.denominator
        messages = prompts.messages(task.language, prompt_name(task), task.words, self.style)
        best: _Best | None = None
        last: list[tuple[ast.Program, int]] = []
        evaluated = 0
        for number in range(revisions + 1):
            found = self.asked(messages, seed, f"round {number}", self.budget - evaluated)
            if number == 0 and not found.answers.programs:
                yield found._replace(stop=NO_PROGRAM)
                return
            last = list(zip(found.answers.programs, found.scores.tolist(), strict=False)) or last
            bests = new_bests(0, found, evaluated, best.score if best else UNKNOWN)
            if bests:
                index = bests[-1].evaluated - evaluated - 1
                best = _Best(found.answers.programs[index], bests[-1].score, found.units[index])
            assert best is not None
            evaluated += len(found.scores)
            reasons = {"solved": best.score >= goal, "budget": evaluated >= self.budget, "rounds": number == revisions}
            stop = next((reason for reason, holds in reasons.items() if holds), None)
            yield found._replace(evaluated=evaluated, bests=bests, stop=stop)
            if stop:
                return
            messages = self.messages(self.method, last, best)

    def stalled(self, nodes: np.ndarray, *, seed: int, climb: int, left: int) -> Round:
        """Ask for better programs than one that no climb improves.

        The language model is shown that program on the layout where it does worst. Evaluating it again to know that
        layout does not count.

        Args:
          nodes: the best program, int32 [N].
          seed: the search seed.
          climb: number of the next climb, which names the occasion.
          left: programs that the search may still evaluate.
        """
        program = encode.decode(nodes, self.task.language)
        units = self.evaluate(self.task, nodes[None], self.layouts).units
        score = int(self.scale.scores(units)[0])
        messages = self.messages(ON_STALL, [(program, score)], _Best(program, score, units[0]))
        return self.asked(messages, seed, f"climb {climb}", left)

    def asked(self, messages: list[dict[str, str]], seed: int, occasion: str, left: int) -> Round:
        """Ask for programs, at most `left`, and evaluate them, up to the first one with return 1."""
        task, wanted = self.task, min(self.programs, left)
        found = asked_answers(messages, task.language, self.ask, seed=seed, occasion=occasion, wanted=wanted)
        nodes = encode.encode_all(found.programs, task.language)
        units = np.zeros((0, len(self.layouts.units)), np.int32)
        if len(nodes):
            units = self.evaluate(task, nodes, self.layouts).units
        solved = np.flatnonzero(self.scale.scores(units) >= self.scale.denominator)
        units = units[: solved[0] + 1] if len(solved) else units
        return Round(found, nodes, self.scale.scores(units), units, len(units), [], None)

    def messages(self, method: str, last: Sequence[tuple[ast.Program, int]], best: _Best) -> list[dict[str, str]]:
        """Return the chat messages that show programs with their scores, and the best program so far."""
        task, denominator = self.task, self.scale.denominator
        scored = [(program, score / denominator) for program, score in last]
        worst = int(np.argmin(best.units * self.scale.weights))
        shown = episode(task, self.layouts, worst, best.program) if method in TRACED else None
        past = Past(scored, len(best.units), best.program, best.score / denominator, shown)
        return revision_prompts.messages(
            method, past, language=task.language, name=prompt_name(task), words=task.words, style=self.style
        )

    def summary(self, found: Round) -> JSON:
        """Return what is recorded of a round."""
        requests, returns = found.answers.requests, found.scores / self.scale.denominator
        distinct = len(set(found.answers.programs))
        asked = {"requests": len(requests), "fruitless": requests.count(0), "distinct": distinct}
        return {"evaluated": found.evaluated, "returns": returns.tolist(), **asked, **found.answers.counts()}


def new_bests(index: int, found: Round, before: int, best: int) -> list[Event]:
    """Return the new best programs of a round as events.

    Args:
      index: the search.
      found: the round.
      before: programs that the search evaluated before the round.
      best: best score before the round.
    """
    events = []
    for number, score in enumerate(found.scores.tolist()):
        if score > best:
            best = score
            events.append(Event(index, before + number + 1, score, found.nodes[number], "llm"))
    return events
