"""What a run knows of its searches, whatever its method: best programs, answers taken, records and results."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl import starts
from jaxprl.config import UNSEEN, Config
from jaxprl.dsl import encode
from jaxprl.dsl.python import to_python
from jaxprl.dsl.text import to_text
from jaxprl.errors import UserError
from jaxprl.runs.progress import Progress
from jaxprl.runs.record import ANSWERS, RunDirectory
from jaxprl.search.driver import Event
from jaxprl.search.types import Answer, Candidates, Question
from jaxprl.starts import Answers
from jaxprl.vm.evaluate import evaluate, first_better, scores
from jaxprl.vm.runs import Neighbourhoods, Runs, Scale, mean_return
from jaxprl.worlds import registry
from jaxprl.worlds.task import Task


class Ledger:
    """Evaluates for the searches of a run, and writes down what they find. Searches go by their index."""

    def __init__(self, config: Config, directory: RunDirectory, *, workers: int | None):
        self.config, self.directory, self.workers = config, directory, workers
        self.seeds = list(config.seeds)
        self.task = registry.make(config.task)
        self.layouts = self.task.layouts(config.layouts)
        if isinstance(self.task, Task):
            self.layouts = jax.tree.map(jnp.asarray, self.layouts)  # once, not for every question
        self.unseen = self.task.layouts(UNSEEN)
        self.scale = Scale.of(self.layouts)
        self.goal = self.scale.denominator
        self.progress = Progress()
        self.started = time.monotonic()
        self.best: dict[int, tuple[Event, np.ndarray]] = {}
        self.counts: dict[int, dict[str, Any]] = {}
        """What became of the language model's answers (`starts.Answers.counts`)."""
        self.lacking: set[int] = set()
        """Searches that the language model gave no program for: they are not searched and have no result."""
        finished = directory.finished()
        self.written = {index for index, seed in enumerate(self.seeds) if seed in finished}

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, those before it was resumed included."""
        return time.monotonic() - self.started

    def evaluate(self, *arguments: Any) -> Runs:
        return evaluate(*arguments, workers=self.workers)

    def answer(self, question: Question | Candidates) -> Answer | np.ndarray:
        """Return the answer to a question of the searches (`search.driver.Evaluate`)."""
        if isinstance(question, Candidates):
            programs, wanted = map(np.asarray, question)
            return scores(self.task, programs, wanted, self.layouts, workers=self.workers)
        return Answer(*first_better(self.task, Neighbourhoods(*question), self.layouts, workers=self.workers))

    def value(self, score: int) -> float:
        """Return the mean return that a score stands for."""
        return score / self.scale.denominator

    def record(self, event: Event) -> None:
        """Write down a new best program, or how far a search is."""
        seed, best = self.seeds[event.search], self.value(event.score)
        if event.score > self.goal:
            raise UserError(f"task {self.task.name}: a program has a mean return of {best:g}; no return may exceed 1")
        if event.program is not None:
            self.best[event.search] = event, event.program
            text = to_text(encode.decode(event.program, self.task.language))
            row = {"seed": seed, "evaluated": event.evaluated, "program": text, "return": best, "source": event.source}
            self.directory.append("programs.jsonl", row)
        row = {"seed": seed, "evaluated": event.evaluated, "best": best, "seconds": round(self.seconds, 3)}
        self.directory.append("metrics.jsonl", row)

    def take(self, index: int, answers: Answers) -> None:
        """Write down answers of the language model that a search has looked at."""
        for row in answers.rows:
            self.directory.append(ANSWERS, row)
        before = [self.counts[index]] if index in self.counts else []
        self.counts[index] = starts.total([*before, answers.counts()])

    def lack(self, index: int, why: str) -> None:
        """Leave out a search without a program. Raises UserError if there is none with one."""
        self.lacking.add(index)
        told = f"seed {self.seeds[index]}: {why}"
        if len(self.lacking) == len(self.seeds):
            raise UserError(told)
        print(f"WARNING: {told}; it has no result, the others go on", file=sys.stderr)

    def show(self, evaluated: Sequence[int], done: Sequence[bool], *, final: bool = False) -> None:
        """Show how far the searches are: programs evaluated and whether it has ended, of each."""
        note = f" | {sum(map(bool, done))} of {len(done)} searches done" if len(done) > 1 else ""
        best = max((self.value(event.score) for event, _ in self.best.values()), default=None)
        self.progress.show(best, int(sum(evaluated)), note=note, final=final)

    def finish(self, index: int, evaluated: int, stop: str | None = None) -> None:
        """Write a search's result, if it is not there, with its best program's return on layouts that no search sees.

        `stop`: why the search has ended, if it is neither return 1 nor the budget.
        """
        if index in self.written or index in self.lacking:
            return
        event, nodes = self.best[index]
        program = encode.decode(nodes, self.task.language)
        unseen = self.evaluate(self.task, nodes[None], self.unseen).units[0]
        result = {
            "seed": self.seeds[index],
            "task": self.task.name,
            "method": self.config.method,
            "return": self.value(event.score),
            "unseen_return": mean_return(unseen, self.unseen),
            "unseen_layouts": len(UNSEEN),
            "evaluated": evaluated,
            "found_at": event.evaluated,
            "stop": stop or ("solved" if event.score >= self.goal else "budget"),
            "source": event.source,
            "program": to_text(program),
            "python": to_python(program),
            "seconds": round(self.seconds, 3),
        }
        if index in self.counts:
            result["llm"] = self.counts[index]
        self.directory.write_json(f"seed-{self.seeds[index]}/result.json", result)
        self.written.add(index)

    def results(self) -> list[dict[str, Any]]:
        """Return the results, by seed, of the searches that had a program."""
        found = self.directory.finished()
        return [found[seed] for seed in self.config.seeds if seed in found]

    def saved(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the best programs as arrays, and the rest as JSON, for a checkpoint."""
        bests = [self.best.get(index) for index in range(len(self.seeds))]
        nodes = {f"best.{index}": best[1] for index, best in enumerate(bests) if best}
        events = [best and [best[0].evaluated, best[0].score, best[0].source] for best in bests]
        counts = [self.counts.get(index) for index in range(len(self.seeds))]
        facts = {"seconds": self.seconds, "best": events, "llm": counts, "lacking": sorted(self.lacking)}
        return nodes, json.loads(json.dumps(facts))

    def restore(self, nodes: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Go back to what was `saved`."""
        for index, event in enumerate(facts["best"]):
            if event:
                evaluated, score, source = event
                program = nodes[f"best.{index}"]
                self.best[index] = Event(index, evaluated, score, program, source), program
        self.counts = {index: counts for index, counts in enumerate(facts["llm"]) if counts}
        self.lacking = set(facts.get("lacking", ()))
        self.started -= facts["seconds"]
        self.progress.started -= facts["seconds"]
