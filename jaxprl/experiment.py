"""A whole run: task, method and seeds in; a run directory with records and results out. Everything meets here."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl import starts
from jaxprl.dsl import encode, sample
from jaxprl.dsl.python import to_python
from jaxprl.dsl.text import to_text
from jaxprl.errors import Stopped, UserError, unknown
from jaxprl.llm import answers
from jaxprl.runs import checkpoint
from jaxprl.runs.checkpoint import EVERY, Checkpoints, Every, Saved
from jaxprl.runs.progress import Progress
from jaxprl.runs.record import RunDirectory
from jaxprl.runs.signals import CODES, StopRequest
from jaxprl.search.driver import Event, drive
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.schedule import Constant, Growing
from jaxprl.search.types import UNKNOWN, Answer, Question, search_keys
from jaxprl.starts import Starts, given_starts, random_starts
from jaxprl.vm.evaluate import evaluate, first_better
from jaxprl.vm.lanes import MOST_LANES
from jaxprl.vm.runs import Neighbourhoods, Scale
from jaxprl.worlds import files, registry
from jaxprl.worlds.task import Task

METHODS = ("llm-gs", "hc")
LLMS = ("recorded", "none")
NEIGHBOURHOOD = 250
"""k of plain hill climbing."""
UNSEEN = range(1_000_000, 1_001_000)
"""Layout seeds that no search sees: the best program's return on them is reported."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run is asked to do."""

    task: str = "DoorKey"
    method: str = "llm-gs"
    seeds: tuple[int, ...] = (0,)
    budget: int = 1_000_000
    layouts: tuple[int, ...] = tuple(range(32))
    llm: str = "recorded"

    @property
    def answered(self) -> str:
        """Name of the task whose recorded answers are used: on the real environments, that of the same task on ours."""
        return self.task.removeprefix(registry.FARAMA)

    def check(self) -> None:
        """Raise UserError if it cannot be done."""
        registry.make(self.task)
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if self.llm not in LLMS:
            raise unknown("source of LLM answers", self.llm, LLMS)
        if not 1 <= self.budget < 2**30:
            raise UserError(f"budget {self.budget}: it goes from 1 to {2**30 - 1} programs")
        if not set(self.layouts).isdisjoint(UNSEEN):
            raise UserError(f"layouts {UNSEEN.start}-{UNSEEN.stop - 1} are kept for the final test")
        if len(self.layouts) > MOST_LANES:
            raise UserError(f"{len(self.layouts)} layouts; a search evaluates on at most {MOST_LANES}")
        if self.method == "llm-gs" and self.llm == "recorded" and self.answered not in answers.tasks():
            there = ", ".join(name for name in registry.tasks() if name in answers.tasks())
            raise UserError(
                f"no recorded answers for {self.task}: use --llm none or --method hc (there are some for {there})"
            )


def run(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    every: Every = EVERY,
    stop: StopRequest | None = None,
) -> list[dict[str, Any]]:
    """Run the searches of a configuration and return their results, by seed.

    Args:
      config: what to do.
      out: the run directory.
      resume: go on in a directory that holds a run of the same configuration, from its newest checkpoint.
      workers: threads (`vm/evaluate.py`).
      every: how often to save a checkpoint; it changes no result.
      stop: says when to save and stop early.

    Raises UserError for what cannot be done, and Stopped.
    """
    config.check()
    if workers is not None and not 1 <= workers <= 1024:
        raise UserError(f"devices {workers}: it goes from 1 to 1024 threads")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(contextlib.closing(RunDirectory(out, _asked(config), resume=resume)))
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(directory)))
        return _Run(config, directory, checkpoints, workers=workers, every=every, stop=stop).results()


def _asked(config: Config) -> dict[str, Any]:
    """Return what a resumed run must have in common with the one before: the configuration, and checksums of the file
    that the task is from, if it is, and of the LLM answers by their indices."""
    asked = dataclasses.asdict(config)
    if not config.task.startswith(registry.FARAMA) and files.names_file(config.task):
        asked["task file"] = files.checksum(config.task)
    if config.method == "llm-gs" and config.llm == "recorded":
        texts = answers.recorded(config.answered)
        asked["answer"] = {str(n): hashlib.sha256(text.encode()).hexdigest()[:16] for n, text in enumerate(texts)}
    return asked


class _Run:
    """The parts of a run that need each other."""

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        checkpoints: Checkpoints,
        *,
        workers: int | None,
        every: Every,
        stop: StopRequest | None,
    ):
        self.config, self.directory, self.checkpoints = config, directory, checkpoints
        self.workers, self.every, self.stop = workers, every, stop
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
        self.saved_at = 0.0, 0  # seconds and programs
        self.best: dict[int, tuple[Event, np.ndarray]] = {}  # by index of the search
        self.llm: dict[int, dict[str, Any]] = {}  # counts of answers, by index of the search
        finished = directory.finished()
        self.written = {index for index, seed in enumerate(self.seeds) if seed in finished}

    def results(self) -> list[dict[str, Any]]:
        if len(self.written) < len(self.seeds):
            self.progress.show(None, 0, note=" | compiling")
            self._search()
        results = self.directory.finished()
        return [results[seed] for seed in self.config.seeds]

    def _search(self) -> None:
        saved = self.checkpoints.load()
        if self.directory.resumed and saved is None:
            print(f"no checkpoint in {self.directory.path} yet: the searches start again", file=sys.stderr)
        self.directory.cut(saved.facts["records"] if saved else {})
        keys = search_keys(self.seeds)
        before = self._before(keys) if saved is None else self._restore(saved)
        schedule: Callable[[int], int] = Constant(NEIGHBOURHOOD)
        start = functools.partial(random_starts, self.task.language)
        if self.config.method == "llm-gs":
            schedule = Growing(self.config.budget)
            start = functools.partial(given_starts, jnp.asarray(before.programs), jnp.asarray(before.counts))
        search = hill_climbing(
            neighbours=functools.partial(sample.neighbours, self.task.language),
            start=start,
            schedule=schedule,
            budget=self.config.budget,
            goal=self.goal,
        )
        state = search.init(keys, jnp.asarray(before.evaluated), jnp.asarray(before.best))
        if saved:
            state = checkpoint.like(state, "state", saved.arrays)
        tick = functools.partial(self.tick, before)
        tick(state)
        state = drive(search, state, self.first_better, record=self.record, progress=tick, start_source=self.source)
        self.progress.show(self._best_return(), int(np.sum(np.asarray(state.evaluated))), final=True)

    @property
    def source(self) -> str:
        """Where the programs that climbs start from come from."""
        return "llm" if (self.config.method, self.config.llm) == ("llm-gs", "recorded") else "random"

    def _before(self, keys: jax.Array) -> Starts:
        """Return what the searches have before their first climb."""
        if self.config.method == "llm-gs":
            return self._llm_starts(keys)
        zero = np.zeros(len(self.seeds), np.int32)
        return Starts(zero, zero, zero, zero + UNKNOWN)

    def first_better(self, question: Question) -> Answer:
        found = first_better(self.task, Neighbourhoods(*question), self.layouts, workers=self.workers)
        return Answer(*found)

    def record(self, event: Event) -> None:
        seed, best = self.seeds[event.search], self.value(event.score)
        if event.score > self.goal:
            raise UserError(f"task {self.task.name}: a program has a mean return of {best:g}; no return may exceed 1")
        if event.program is not None:
            self.best[event.search] = event, event.program
            text = to_text(encode.decode(event.program, self.task.language))
            row = {"seed": seed, "evaluated": event.evaluated, "program": text, "return": best, "source": event.source}
            self.directory.append("programs.jsonl", row)
        seconds = round(time.monotonic() - self.started, 3)
        row = {"seed": seed, "evaluated": event.evaluated, "best": best, "seconds": seconds}
        self.directory.append("metrics.jsonl", row)

    def tick(self, before: Starts, state: Any) -> None:
        """After a batch: save if it is time to, stop if told to, and show how the searches are."""
        seconds, programs = time.monotonic() - self.started, int(np.sum(np.asarray(state.evaluated)))
        told = self.stop.signal if self.stop else None
        since = seconds - self.saved_at[0], programs - self.saved_at[1]
        if told or since[0] >= self.every.seconds or since[1] >= self.every.programs:
            self.checkpoints.save(self._content(before, state, seconds))
            self.saved_at = time.monotonic() - self.started, programs
        if told:
            raise Stopped(f"{told.name}: saved; --resume --out {self.directory.path} goes on", CODES[told])
        self.show(state)

    def _content(self, before: Starts, state: Any, seconds: float) -> Saved:
        """Return all that searches go on from, but their records, which the checkpoint refers to."""
        nothing = np.zeros_like(np.asarray(state.current[0]))
        bests = [self.best.get(index, (None, nothing)) for index in range(len(self.seeds))]
        arrays = checkpoint.flat(state, "state") | checkpoint.flat(before, "before")
        arrays["best"] = np.stack([nodes for _, nodes in bests])
        events = [event and [event.evaluated, event.score, event.source] for event, _ in bests]
        return Saved(arrays, {"seconds": seconds, "best": events, "llm": [self.llm.get(i) for i in range(len(bests))]})

    def _restore(self, saved: Saved) -> Starts:
        """Go back to what was saved, and return what the searches had before their first climb."""
        arrays, facts = saved
        for index, event in enumerate(facts["best"]):
            if event:
                evaluated, score, source = event
                nodes = arrays["best"][index]
                self.best[index] = Event(index, evaluated, score, nodes, source), nodes
        self.llm = {index: counts for index, counts in enumerate(facts["llm"]) if counts}
        self.started -= facts["seconds"]
        self.progress.started -= facts["seconds"]
        self.saved_at = facts["seconds"], int(arrays["state.evaluated"].sum())
        return Starts(*(arrays[f"before.{name}"] for name in Starts._fields))

    def value(self, score: int) -> float:
        """Return the mean return that a score stands for."""
        return score / self.scale.denominator

    def show(self, state: Any) -> None:
        """Show how far the searches are, and write the results of those that have ended."""
        done, evaluated = np.asarray(state.done), np.asarray(state.evaluated)
        note = f" | {done.sum()} of {len(done)} searches done" if len(done) > 1 else ""
        self.progress.show(self._best_return(), int(evaluated.sum()), note=note)
        for index in np.flatnonzero(done).tolist():
            if index not in self.written:
                self._write_result(index, int(evaluated[index]))
                self.written.add(index)

    def _best_return(self) -> float | None:
        return max((self.value(event.score) for event, _ in self.best.values()), default=None)

    def _llm_starts(self, keys: jax.Array) -> Starts:
        """Evaluate each search's start programs in order, until one has return 1, and sort them best first."""
        if self.source == "random":
            chosen = [starts.drawn_instead(self.task.language, key) for key in keys]
        else:
            chosen = [self._answers(index) for index in range(len(self.seeds))]
        programs, counts = starts.stacked(chosen)
        used = np.arange(programs.shape[1]) < counts[:, None]
        scores = np.full(used.shape, UNKNOWN, np.int32)
        runs = evaluate(self.task, programs[used], self.layouts, workers=self.workers)
        scores[used] = self.scale.scores(runs.units)
        found = starts.best_first(programs, counts, scores, self.config.budget, self.goal)
        for index, evaluated in enumerate(found.evaluated.tolist()):
            best = UNKNOWN
            for n in range(evaluated):
                if scores[index, n] > best:
                    best = int(scores[index, n])
                    self.record(Event(index, n + 1, best, programs[index, n], self.source))
        return found

    def _answers(self, index: int) -> np.ndarray:
        """Return a search's start programs from the recorded answers, int32 [K, N], and write the answers down."""
        found = starts.recorded_answers(self.config.answered, self.task.language, self.seeds[index])
        for row in found.rows:
            self.directory.append("llm/answers.jsonl", row)
        self.llm[index] = found.counts()
        return encode.encode_all(found.programs, self.task.language)

    def _write_result(self, index: int, evaluated: int) -> None:
        """Write a search's result, with its best program's return on layouts that no search sees."""
        event, nodes = self.best[index]
        program = encode.decode(nodes, self.task.language)
        scale = Scale.of(self.unseen)
        unseen = scale.scores(evaluate(self.task, nodes[None], self.unseen, workers=self.workers).units)
        result = {
            "seed": self.seeds[index],
            "task": self.task.name,
            "method": self.config.method,
            "return": self.value(event.score),
            "unseen_return": int(unseen[0]) / scale.denominator,
            "unseen_layouts": len(UNSEEN),
            "evaluated": evaluated,
            "found_at": event.evaluated,
            "stop": "solved" if event.score >= self.goal else "budget",
            "source": event.source,
            "program": to_text(program),
            "python": to_python(program),
            "seconds": round(time.monotonic() - self.started, 3),
        }
        if index in self.llm:
            result["llm"] = self.llm[index]
        self.directory.sync()  # a result without its record would not be searched for again
        self.directory.write_json(f"seed-{result['seed']}/result.json", result)
