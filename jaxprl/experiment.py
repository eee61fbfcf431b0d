"""A whole run: task, method and seeds in; a run directory with records and results out. Everything meets here."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import ast, encode, sample
from jaxprl.dsl.python import to_python
from jaxprl.dsl.text import to_text
from jaxprl.errors import UserError, unknown
from jaxprl.llm import answers, extract
from jaxprl.runs.progress import Progress
from jaxprl.runs.record import RunDirectory
from jaxprl.search.driver import Event, drive
from jaxprl.search.hill_climbing import UNKNOWN, hill_climbing
from jaxprl.search.schedule import Constant, Growing
from jaxprl.vm.evaluate import ANY, Contest, Scale, evaluate
from jaxprl.worlds import registry

METHODS = ("llm-gs", "hc")
LLMS = ("recorded", "none")
NEIGHBOURHOOD = 250
"""k of plain hill climbing."""
LLM_PROGRAMS = 32
"""Programs that LLM-GS starts from."""
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


class _Starts(NamedTuple):
    """What LLM-GS has before its first climb, for S searches."""

    programs: np.ndarray  # int32 [S, K, N]: best first
    counts: np.ndarray  # int32 [S]: how many there are
    evaluated: np.ndarray  # int32 [S]: programs evaluated, until one had return 1
    best: np.ndarray  # int32 [S]: highest score


def run(config: Config, out: Path, *, resume: bool = False, workers: int | None = None) -> list[dict[str, Any]]:
    """Run the searches of a configuration and return their results, by seed.

    Args:
      config: what to do.
      out: the run directory.
      resume: go on in a directory that holds a run of the same configuration.
      workers: threads (`vm/evaluate.py`).

    Raises UserError for what cannot be done.
    """
    config.check()
    if workers is not None and not 1 <= workers <= 1024:
        raise UserError(f"devices {workers}: it goes from 1 to 1024 threads")
    directory = RunDirectory(out, dataclasses.asdict(config), resume=resume)
    return _Run(config, directory, workers).results()


class _Run:
    """The parts of a run that need each other."""

    def __init__(self, config: Config, directory: RunDirectory, workers: int | None):
        self.config, self.directory, self.workers = config, directory, workers
        self.finished = directory.finished()
        self.seeds = [seed for seed in config.seeds if seed not in self.finished]
        self.task = registry.make(config.task)
        self.layouts = self.task.layouts(config.layouts)
        self.unseen = self.task.layouts(UNSEEN)
        self.scale = Scale.of(self.layouts)
        self.goal = self.scale.denominator
        self.progress = Progress()
        self.started = time.monotonic()
        self.best: dict[int, tuple[Event, np.ndarray]] = {}  # by index of the search
        self.written: set[int] = set()

    def results(self) -> list[dict[str, Any]]:
        if self.seeds:
            self._search()
        results = self.directory.finished()
        return [results[seed] for seed in self.config.seeds]

    def _search(self) -> None:
        keys = jax.vmap(jax.random.key)(jnp.asarray(self.seeds, jnp.uint32))
        zero = np.zeros(len(self.seeds), np.int32)
        schedule: Callable[[int], int] = Constant(NEIGHBOURHOOD)
        start = functools.partial(random_starts, self.task.language)
        before = _Starts(np.zeros(0), zero, zero, zero + UNKNOWN)
        source = "random"
        if self.config.method == "llm-gs":
            schedule = Growing(self.config.budget)
            before, source = self._llm_starts(keys)
            start = functools.partial(given_starts, jnp.asarray(before.programs), jnp.asarray(before.counts))
        search = hill_climbing(
            neighbours=functools.partial(sample.neighbours, self.task.language),
            start=start,
            schedule=schedule,
            budget=self.config.budget,
            goal=self.goal,
        )
        state = search.init(keys, jnp.asarray(before.evaluated), jnp.asarray(before.best))
        self.show(state)
        state = drive(search, state, self.scores, record=self.record, progress=self.show, start_source=source)
        self.progress.show(self._best_return(), int(np.sum(np.asarray(state.evaluated))), final=True)

    def scores(self, programs: np.ndarray, beat: np.ndarray, group: np.ndarray) -> np.ndarray:
        runs = evaluate(self.task, programs, self.layouts, contest=Contest(beat, group), workers=self.workers)
        return np.where(runs.complete, self.scale.scores(runs.units), UNKNOWN).astype(np.int32)

    def record(self, event: Event) -> None:
        seed, best = self.seeds[event.search], self.value(event.score)
        if event.program is not None:
            self.best[event.search] = event, event.program
            text = to_text(encode.decode(event.program, self.task.language))
            row = {"seed": seed, "evaluated": event.evaluated, "program": text, "return": best, "source": event.source}
            self.directory.append("programs.jsonl", row)
        seconds = round(time.monotonic() - self.started, 3)
        row = {"seed": seed, "evaluated": event.evaluated, "best": best, "seconds": seconds}
        self.directory.append("metrics.jsonl", row)

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

    def _llm_starts(self, keys: jax.Array) -> tuple[_Starts, str]:
        """Evaluate each search's start programs in order, until one has return 1, and sort them best first."""
        if self.config.llm == "none":
            source = "random"
            draws = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, _BEFORE), LLM_PROGRAMS))(keys)
            chosen = [np.asarray(sample.random_programs(self.task.language, row)) for row in draws]
        else:
            source = "llm"
            chosen = [encode.encode_all(self._answers(seed), self.task.language) for seed in self.seeds]
        width = max(nodes.shape[1] for nodes in chosen)
        counts = np.array([len(nodes) for nodes in chosen], np.int32)
        programs = np.zeros((len(chosen), counts.max(), width), np.int32)
        for row, nodes in zip(programs, chosen, strict=True):
            row[: len(nodes), : nodes.shape[1]] = nodes
        used = np.arange(programs.shape[1]) < counts[:, None]
        scores = np.full(used.shape, UNKNOWN, np.int64)
        everything = np.full(used.sum(), ANY, np.int32)
        scores[used] = self.scores(programs[used], everything, np.zeros_like(everything))
        evaluated, best = np.zeros_like(counts), np.zeros_like(counts)
        for index, row in enumerate(scores):
            last = min(counts[index], self.config.budget)
            solved = np.flatnonzero(row[:last] >= self.goal)
            evaluated[index] = solved[0] + 1 if len(solved) else last
            self._record_starts(index, programs[index], row[: evaluated[index]], source)
            best[index] = row[: evaluated[index]].max()
            programs[index] = programs[index][np.argsort(-row, kind="stable")]
        return _Starts(programs, counts, evaluated, best), source

    def _record_starts(self, index: int, programs: np.ndarray, scores: np.ndarray, source: str) -> None:
        best = UNKNOWN
        for n, (program, score) in enumerate(zip(programs, scores.tolist(), strict=False), 1):
            if score > best:
                best = score
                self.record(Event(index, n, score, program, source))

    def _answers(self, seed: int) -> list[ast.Program]:
        """Return a search's start programs from the recorded answers, in an order drawn by its seed.

        Every answer that is looked at is written down with what became of it.
        """
        rng = np.random.default_rng([seed, _BEFORE])
        texts = answers.recorded(self.task.name)
        programs: list[ast.Program] = []
        for index in rng.permutation(len(texts)).tolist():
            if len(programs) == LLM_PROGRAMS:
                break
            extraction = extract.extract(texts[index], self.task.language)
            program = extract.choose(extraction, int(rng.integers(2)))
            row = {"seed": seed, "index": index, "text": texts[index]}
            row["program"] = to_text(program) if program else None
            row["rejected"] = [dataclasses.asdict(rejection) for rejection in extraction.rejections]
            self.directory.append("llm/answers.jsonl", row)
            if program:
                programs.append(program)
        if not programs:
            raise UserError(f"none of the {len(texts)} recorded answers for {self.task.name} holds a program")
        return programs

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
        self.directory.write_json(f"seed-{result['seed']}/result.json", result)


_BEFORE = 2**31
"""Name of what is drawn before a search's first program, in `fold_in`; programs have the names 0, 1, 2, .."""
_CLIMBS = 2**31 + 1
"""Name of the random programs that climbs start from."""


def random_starts(language, keys: jax.Array, climb: jax.Array) -> jax.Array:
    """Return the random programs int32 [S, N] that the climbs number `climb`, int32 [S], start from."""
    named = jax.vmap(lambda key, number: jax.random.fold_in(jax.random.fold_in(key, _CLIMBS), number))(keys, climb)
    return sample.random_programs(language, named)


def given_starts(programs: jax.Array, counts: jax.Array, keys: jax.Array, climb: jax.Array) -> jax.Array:
    """Return each search's start program for its climb: the first, the second, ..., the first again."""
    del keys
    return jnp.take_along_axis(programs, (climb % counts)[:, None, None], axis=1)[:, 0]
