"""What a run knows of its searches: best programs, answers used, records and results."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import numpy as np

from jaxprl.dsl import encode
from jaxprl.errors import UserError
from jaxprl.experiment.evaluator import Evaluator
from jaxprl.experiment.job import UNSEEN
from jaxprl.llm.programs import Answers, total
from jaxprl.methods.base import Job
from jaxprl.output import say
from jaxprl.runs.progress import Progress
from jaxprl.runs.record import ANSWERS, ROUNDS, UPDATES, RunDirectory
from jaxprl.search.protocol import Event
from jaxprl.types import JSON


class Ledger:
    """Writes down what the searches of a run find, whatever their method (`methods.base.Log`). Searches are identified
    by their index."""

    def __init__(self, job: Job, directory: RunDirectory, evaluator: Evaluator):
        self.job, self.directory, self.evaluator = job, directory, evaluator
        self.seeds = list(job.seeds)
        self.task = job.task
        self.unseen = self.task.layouts(UNSEEN)
        self.progress = Progress()
        self.started = time.monotonic()
        self.bests: dict[int, tuple[Event, np.ndarray]] = {}
        """The best program of each search: how it was found, and its nodes int32 [N]."""
        self.answers: dict[int, JSON] = {}
        """What became of the language model's answers to each search (`Answers.counts`)."""
        self.left_out: set[int] = set()
        """Searches that have no program to start from: they are not run and have no result."""
        finished = directory.finished()
        self.written = {index for index, seed in enumerate(self.seeds) if seed in finished}
        """Searches whose result is written."""

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, those before it was resumed included."""
        return time.monotonic() - self.started

    def best(self, search: int) -> np.ndarray:
        """Return the best program of a search so far, nodes int32 [N]."""
        return self.bests[search][1]

    def record(self, event: Event) -> None:
        """Record a new best program, or how far a search has come."""
        seed, best = self.seeds[event.search], self.evaluator.mean_return(event.score)
        if event.score > self.evaluator.goal:
            raise UserError(f"task {self.task.name}: a program has a mean return of {best:g}; no return may exceed 1")
        if event.program is not None:
            self.bests[event.search] = event, event.program
            text = str(encode.decode(event.program, self.task.language))
            row = {"seed": seed, "evaluated": event.evaluated, "program": text, "return": best, "source": event.source}
            self.directory.append("programs.jsonl", row)
        row = {"seed": seed, "evaluated": event.evaluated, "best": best, "seconds": round(self.seconds, 3)}
        self.directory.append("metrics.jsonl", row)

    def record_answers(self, search: int, answers: Answers) -> None:
        """Record answers of the language model that a search has used or rejected."""
        for row in answers.rows:
            self.directory.append(ANSWERS, row)
        before = self.answers.get(search)
        counts = total([*([before] if before else []), answers.counts()])
        self.answers[search] = {**(before or {}), **counts}  # with the facts that were added

    def add_fact(self, search: int, name: str, value: JSON) -> None:
        """Add facts to those of a search's answers in its result."""
        self.answers[search][name] = value

    def record_round(self, search: int, row: JSON) -> None:
        """Record what one occasion of asking brought."""
        self.directory.append(ROUNDS, {"seed": self.seeds[search], **row})

    def record_update(self, search: int, row: JSON) -> None:
        """Record what an update of a search's policy was like."""
        self.directory.append(UPDATES, {"seed": self.seeds[search], **row})

    def leave_out(self, search: int, why: str) -> None:
        """Leave out a search that has no program to start from. Raises UserError if no search is left."""
        self.left_out.add(search)
        reason = f"seed {self.seeds[search]}: {why}"
        if len(self.left_out) == len(self.seeds):
            raise UserError(reason)
        say(f"WARNING: {reason}; it has no result, the others go on")

    def show(self, evaluated: Sequence[int], done: Sequence[bool], *, final: bool = False) -> None:
        """Show how far the searches are: programs evaluated and whether it has ended, of each."""
        note = f" | {sum(map(bool, done))} of {len(done)} searches done" if len(done) > 1 else ""
        best = max((self.evaluator.mean_return(event.score) for event, _ in self.bests.values()), default=None)
        self.progress.show(best, int(sum(evaluated)), note=note, final=final)

    def finish(self, index: int, evaluated: int, stop: str | None = None, facts: JSON | None = None) -> None:
        """Write a search's result, unless it is written, with its best program's return on layouts that no search sees.

        Args:
          index: the search.
          evaluated: programs that it evaluated.
          stop: why it has stopped, if for neither return 1 nor the budget.
          facts: what the result says besides.
        """
        if index in self.written or index in self.left_out:
            return
        event, nodes = self.bests[index]
        program = encode.decode(nodes, self.task.language)
        unseen = self.evaluator.evaluate_on(nodes[None], self.unseen).mean_returns[0]
        result = {
            "seed": self.seeds[index],
            "task": self.task.name,
            "method": self.job.method.name,
            "return": self.evaluator.mean_return(event.score),
            "unseen_return": float(unseen),
            "unseen_layouts": len(UNSEEN),
            "evaluated": evaluated,
            "found_at": event.evaluated,
            "stop": stop or ("solved" if event.score >= self.evaluator.goal else "budget"),
            "source": event.source,
            "program": str(program),
            "python": program.to_python(),
            "seconds": round(self.seconds, 3),
        }
        result |= facts or {}
        if index in self.answers:
            result["llm"] = self.answers[index]
        self.directory.write_json(f"seed-{self.seeds[index]}/result.json", result)
        self.written.add(index)

    def results(self) -> list[JSON]:
        """Return the results, by seed, of the searches that had a program."""
        found = self.directory.finished()
        return [found[seed] for seed in self.seeds if seed in found]

    def saved(self) -> tuple[dict[str, np.ndarray], JSON]:
        """Return the best programs as arrays, and the rest as JSON, for a checkpoint."""
        bests = [self.bests.get(index) for index in range(len(self.seeds))]
        nodes = {f"best.{index}": best[1] for index, best in enumerate(bests) if best}
        events = [best and [best[0].evaluated, best[0].score, best[0].source] for best in bests]
        counts = [self.answers.get(index) for index in range(len(self.seeds))]
        facts = {"seconds": self.seconds, "best": events, "llm": counts, "left out": sorted(self.left_out)}
        return nodes, json.loads(json.dumps(facts))

    def restore(self, nodes: dict[str, np.ndarray], facts: JSON) -> None:
        """Go back to what was `saved`."""
        for index, event in enumerate(facts["best"]):
            if event:
                evaluated, score, source = event
                program = nodes[f"best.{index}"]
                self.bests[index] = Event(index, evaluated, score, program, source), program
        self.answers = {index: counts for index, counts in enumerate(facts["llm"]) if counts}
        self.left_out = set(facts["left out"])
        self.started -= facts["seconds"]
        self.progress.started -= facts["seconds"]
