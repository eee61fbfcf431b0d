"""Revision by a language model (LLM-GS, section on LLM revision): it is asked for programs, told how they did, and
asked again. `Reviser.rounds` is a search of nothing else; `joining` lets its answers join a hill climbing that stalls,
which the published system lacks.

Where the source leaves it open: the best program is the best of all rounds so far; no more programs are asked for than
the budget has left; after a round without a program the next prompt shows the last one that had some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprl import starts
from jaxprl.dsl import ast, encode
from jaxprl.dsl.python import statement_lines
from jaxprl.errors import unknown
from jaxprl.llm import prompts, revision
from jaxprl.llm.revision import METHODS, MOST_STEPS, TRACED, Episode, Past, Start, Step
from jaxprl.search.driver import Event
from jaxprl.search.hill_climbing import State, stalled
from jaxprl.search.types import UNKNOWN, Search
from jaxprl.starts import Answers, Ask
from jaxprl.vm import host
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.runs import Runs, Scale
from jaxprl.worlds import picture, registry
from jaxprl.worlds.task import Environment, HostTask, Layout, Task

ROUNDS = 5
"""Rounds in which programs are revised, after the first."""
NO_PROGRAM = "no program"
"""Why a search stops whose first round brings none."""
ON_STALL = "program-and-execution-trace"
"""Method whose prompt a hill climbing that stalls sends."""


class Round(NamedTuple):
    """What one occasion of asking brought, evaluated."""

    answers: Answers
    """The programs, rows for the record, and how the requests went."""
    nodes: np.ndarray
    """int32 [P, N]: the programs as arrays."""
    scores: np.ndarray
    """int64 [K]: scores (`Scale.scores`) of the first K programs, all or up to the first with return 1."""
    units: np.ndarray
    """int32 [K, E]: their returns on every layout."""
    evaluated: int
    """Programs evaluated so far, these included."""
    bests: list[Event]
    """New best programs, in order; of search 0."""
    stop: str | None
    """Why no round follows: "solved", "budget", "rounds", `NO_PROGRAM`, or None if one does."""


class _Best(NamedTuple):
    program: ast.Program
    score: int
    units: np.ndarray  # int32 [E]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Reviser:
    """Asks a language model about one task. Everything follows from the answers and the search seed, so a search that
    was cut off goes on by going through its rounds again with the same answers."""

    task: Task | HostTask
    layouts: Layout
    ask: Ask
    budget: int
    """Programs that a search may evaluate, duplicates included."""
    method: str = ON_STALL
    """Of the rounds: one of `llm.revision.METHODS`."""
    programs: int = starts.LLM_PROGRAMS
    """Programs wanted at a time."""
    style: str = "python-dsl"
    """One of `llm.prompts.STYLES`."""
    evaluate: Callable[..., Runs] = evaluate
    """(task, nodes int32 [P, N], layouts) -> outcomes."""

    def __post_init__(self):
        if self.method not in METHODS:
            raise unknown("revision method", self.method, METHODS)

    @property
    def scale(self) -> Scale:
        return Scale.of(self.layouts)

    def rounds(self, seed: int, revisions: int = ROUNDS) -> Iterator[Round]:
        """Yield a search's rounds: until a program has return 1, the budget is used up, or the last one is over; one
        round if it brings no program at all."""
        task, goal = self.task, self.scale.denominator
        messages = prompts.messages(task.language, registry.told_name(task), task.words, self.style)
        best: _Best | None = None
        last: list[tuple[ast.Program, int]] = []
        evaluated = 0
        for number in range(revisions + 1):
            found = self.asked(messages, seed, f"round {number}", self.budget - evaluated)
            if number == 0 and not found.answers.programs:
                yield found._replace(stop=NO_PROGRAM)
                return
            last = list(zip(found.answers.programs, found.scores.tolist(), strict=False)) or last
            bests = _new_bests(0, found, evaluated, best.score if best else UNKNOWN)
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
        """Return what the language model answers when no climb improves the best program, int32 [N]: it is shown that
        program where it does worst. At most `left` programs are evaluated; that program, evaluated again to know where
        it does worst, is not counted."""
        program = encode.decode(nodes, self.task.language)
        units = self.evaluate(self.task, nodes[None], self.layouts).units
        score = int(self.scale.scores(units)[0])
        messages = self.messages(ON_STALL, [(program, score)], _Best(program, score, units[0]))
        return self.asked(messages, seed, f"climb {climb}", left)

    def asked(self, messages: list[dict[str, str]], seed: int, occasion: str, left: int) -> Round:
        """Ask for programs, at most `left`, and evaluate them, up to the first with return 1."""
        task, wanted = self.task, min(self.programs, left)
        found = starts.asked_answers(messages, task.language, self.ask, seed=seed, occasion=occasion, wanted=wanted)
        nodes = encode.encode_all(found.programs, task.language)
        units = np.zeros((0, len(self.layouts.units)), np.int32)
        if len(nodes):
            units = self.evaluate(task, nodes, self.layouts).units
        solved = np.flatnonzero(self.scale.scores(units) >= self.scale.denominator)
        units = units[: solved[0] + 1] if len(solved) else units
        return Round(found, nodes, self.scale.scores(units), units, len(units), [], None)

    def messages(self, method: str, last: Sequence[tuple[ast.Program, int]], best: _Best) -> list[dict[str, str]]:
        """Return what the language model is asked after programs with their scores."""
        task, denominator = self.task, self.scale.denominator
        scored = [(program, score / denominator) for program, score in last]
        worst = int(np.argmin(best.units * self.scale.weights))
        shown = episode(task, self.layouts, worst, best.program) if method in TRACED else None
        past = Past(scored, len(best.units), best.program, best.score / denominator, shown)
        return revision.messages(
            method, past, language=task.language, name=registry.told_name(task), words=task.words, style=self.style
        )

    def summary(self, found: Round) -> dict[str, Any]:
        """Return a round for the record."""
        requests, returns = found.answers.requests, found.scores / self.scale.denominator
        distinct = len(set(found.answers.programs))
        asked = {"requests": len(requests), "fruitless": requests.count(0), "distinct": distinct}
        return {"evaluated": found.evaluated, "returns": returns.tolist(), **asked, **found.answers.counts()}


def episode(task: Task | HostTask, layouts: Layout, index: int, program: ast.Program) -> Episode:
    """Return a program's run on one of the layouts, in words."""
    environment, units = host.environment(task, layouts, index)
    lines, start = statement_lines(program), _picture(environment)
    steps: list[Step] = []

    def observe(call: host.Call) -> None:
        if len(steps) < MOST_STEPS:
            reward = None if call.reward is None else call.reward / units
            steps.append(Step(call.name, call.result, reward, lines[call.statement], *_place(environment)))

    outcome = host.run(program, environment, observe)
    return Episode(
        outcome.reward / units,
        start and Start(start.pose, start.grid(), (picture.SIGNS, *start.signs)),
        steps,
        outcome.calls,
        _end(outcome, environment),
    )


def _picture(environment: Environment) -> picture.Picture | None:
    return environment.picture() if hasattr(environment, "picture") else None


def _place(environment: Environment) -> tuple[str | None, str | None]:
    """Return the agent's pose and the cells around it in words, as far as the environment tells."""
    seen = _picture(environment)
    if seen:
        return seen.pose, seen.around()
    pose = environment.pose()
    return None if pose is None else str(pose), None


def _end(outcome: host.Outcome, environment: Environment) -> str:
    if outcome.end == "C":
        return revision.LIMIT if outcome.calls == environment.call_limit else revision.REPEATED
    return {"T": revision.TERMINATED, "TC": revision.LAST_CALL, "E": revision.FINISHED}[outcome.end]


Propose = Callable[[int, int, int], Round]
"""(index of a search, its climb that is about to start, programs left in its budget) -> what may join it."""


def joining(
    search: Search, propose: Propose, *, climbs: int, budget: int, goal: int
) -> Callable[[State], tuple[State, list[Event]]]:
    """Return a `between` of `driver.drive`: after `climbs` climbs in a row without a new best, a search is given
    programs, which count as evaluated and are the next climbs' start programs, best first; then the others go on in
    their turn, and the new ones have their place among them (`starts.joined`). The searches have a `starts.Pool`."""

    def between(state: State) -> tuple[State, list[Event]]:
        where = np.asarray(stalled(state, climbs))
        if not where.any():
            return state, []
        before, climb, best = (np.asarray(leaf) for leaf in (state.evaluated, state.climb, state.best))
        nobody = np.zeros((0, state.current.shape[1]), np.int32), np.zeros(0, np.int64)
        proposed = [nobody] * len(where)
        events = []
        for index in np.flatnonzero(where).tolist():
            found = propose(index, int(climb[index]), int(budget - before[index]))
            proposed[index] = found.nodes[: len(found.scores)], found.scores
            events += _new_bests(index, found, int(before[index]), int(best[index]))
        fresh = _fresh(proposed, budget - before, goal)
        pool = starts.joined(state.pool, climb - 1, fresh)
        assert search.join is not None
        return search.join(state, where, fresh.evaluated, fresh.best, pool), events

    return between


def _fresh(proposed: list[tuple[np.ndarray, np.ndarray]], left: np.ndarray, goal: int) -> starts.Starts:
    """Return the programs and scores that were proposed to each search, best first."""
    programs, counts = starts.stacked([nodes for nodes, _ in proposed])
    scores = np.full(programs.shape[:2], UNKNOWN, np.int32)
    for row, (_, known) in zip(scores, proposed, strict=True):
        row[: len(known)] = known
    return starts.best_first(programs, counts, scores, left, goal)


def _new_bests(index: int, found: Round, before: int, best: int) -> list[Event]:
    """Return the programs that are better than `best` and all before them, after `before` programs."""
    events = []
    for number, score in enumerate(found.scores.tolist()):
        if score > best:
            best = score
            events.append(Event(index, before + number + 1, score, found.nodes[number], "llm"))
    return events
