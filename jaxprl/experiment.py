"""A whole run: task, method and seeds in; a run directory with records and results out. Everything meets here."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl import starts
from jaxprl.asking import Asker, Means
from jaxprl.config import LATENT, REVISIONS, Config
from jaxprl.dsl import encode
from jaxprl.dsl.text import to_text
from jaxprl.errors import Stopped, UserError
from jaxprl.ledger import Ledger
from jaxprl.llm import prompts
from jaxprl.llm.source import Interrupted
from jaxprl.revision import NO_PROGRAM, ON_STALL, Reviser, Round, joining
from jaxprl.runs import checkpoint
from jaxprl.runs.checkpoint import EVERY, Checkpoints, Every, Saved
from jaxprl.runs.mirror import Mirror
from jaxprl.runs.record import ROUNDS, USAGE, RunDirectory
from jaxprl.runs.signals import CODES, StopRequest
from jaxprl.search import published
from jaxprl.search.driver import Event, drive
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.schedule import Constant, Growing
from jaxprl.search.types import UNKNOWN, Point, Search, programs_of, search_keys
from jaxprl.starts import Answers, Pool, Starts, pooled_starts, random_starts
from jaxprl.worlds import registry

NEIGHBOURHOOD = 250
"""k of plain hill climbing."""


def run(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    every: Every = EVERY,
    stop: StopRequest | None = None,
    means: Means | None = None,
    mirror: Callable[[Path], Mirror] | None = None,
) -> list[dict[str, Any]]:
    """Run the searches of a configuration and return their results, by seed.

    Args:
      config: what to do.
      out: the run directory.
      resume: go on in a directory that holds a run of the same configuration, from its newest checkpoint.
      workers: threads (`vm/evaluate.py`).
      every: how often to save a checkpoint; it changes no result.
      stop: says when to save and stop early.
      means: for asking a language model; needed if the configuration names one.
      mirror: opens what else gets the rows of the records (`runs/mirror.py`), for the run directory.

    Raises UserError for what cannot be done, and Stopped.
    """
    config.check()
    if workers is not None and not 1 <= workers <= 1024:
        raise UserError(f"devices {workers}: it goes from 1 to 1024 threads")
    if config.asks and means is None:
        raise UserError("a language model is asked: a cache for its answers is needed")
    if config.settings and means:
        means.check(config.settings, replay=config.llm == "recorded")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(contextlib.closing(RunDirectory(out, config.identity(), resume=resume)))
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(directory)))
        if mirror:
            directory.mirror = stack.enter_context(contextlib.closing(mirror(out)))
        asker = None
        if config.settings and means:
            asker = Asker(
                config.settings,
                means,
                directory,
                replay=config.llm == "recorded",
                should_stop=lambda: stop is not None and stop.signal is not None,
            )
            stack.enter_context(contextlib.closing(asker))
            stack.callback(lambda: directory.write_json(USAGE, asker.usage()))
        ledger = Ledger(config, directory, workers=workers)
        if len(ledger.written) < len(ledger.seeds):
            ledger.progress.show(None, 0, note=" | compiling")
            _Run(ledger, checkpoints, every, stop, asker).search()
        return ledger.results()


class _Run:
    """The parts of a run that need each other."""

    def __init__(
        self, ledger: Ledger, checkpoints: Checkpoints, every: Every, stop: StopRequest | None, asker: Asker | None
    ):
        self.ledger, self.checkpoints, self.every, self.stop, self.asker = ledger, checkpoints, every, stop, asker
        self.config, self.directory = ledger.config, ledger.directory
        self.saved_at = 0.0, 0  # seconds and programs

    def search(self) -> None:
        try:
            if self.config.method in REVISIONS:
                self._revise()
            else:
                self._climb()
        except Interrupted:
            raise self._stopped("the answers that came are kept") from None

    def _revise(self) -> None:
        """Search by asking the language model again, one seed after the other. A run that goes on goes through its
        rounds again, with the answers that it had."""
        self.directory.cut({})
        evaluated, done = [0] * len(self.config.seeds), [False] * len(self.config.seeds)
        for index, seed in enumerate(self.config.seeds):
            for number, found in enumerate(self._reviser().rounds(seed)):
                self._took(index, found, {"round": number})
                for event in found.bests:
                    self.ledger.record(dataclasses.replace(event, search=index))
                evaluated[index], done[index] = found.evaluated, found.stop is not None
                if found.stop == NO_PROGRAM:
                    self._lack(index, found.answers)
                elif found.stop:
                    self.ledger.finish(index, found.evaluated, found.stop)
                self.ledger.show(evaluated, done, final=all(done))
                if self.stop and self.stop.signal:
                    raise self._stopped("the answers that came are kept")

    def _reviser(self) -> Reviser:
        assert self.asker
        ledger, config = self.ledger, self.config
        return Reviser(
            task=ledger.task,
            layouts=ledger.layouts,
            ask=self.asker,
            budget=config.budget,
            style=config.style,
            evaluate=ledger.evaluate,
            method=config.method if config.method in REVISIONS else ON_STALL,
        )

    def _took(self, index: int, found: Round, occasion: dict[str, int]) -> None:
        """Write down what one occasion of asking brought."""
        self.ledger.take(index, found.answers)
        row = {"seed": self.config.seeds[index], **occasion, **self._reviser().summary(found)}
        self.directory.append(ROUNDS, row)

    def _lack(self, index: int, found: Answers) -> None:
        """Leave out a search whose answers hold no program, and say why they do not."""
        trouble = f" ({self.asker.trouble})" if self.asker and self.asker.trouble else ""
        self.ledger.lack(index, found.lack() + trouble)

    def _climb(self) -> None:
        ledger, config = self.ledger, self.config
        saved = self.checkpoints.load()
        if self.directory.resumed and saved is None:
            print(f"no checkpoint in {self.directory.path} yet: the searches start again", file=sys.stderr)
        self.directory.cut(saved.facts["records"] if saved else {})
        keys = search_keys(config.seeds)
        if saved:
            ledger.restore(saved.arrays, saved.facts)
            self.saved_at = saved.facts["seconds"], int(saved.arrays["state.evaluated"].sum())
        search = self._searching()
        if saved:
            state = checkpoint.like(search.init(keys, *self._where(saved)), "state", saved.arrays)
        elif config.pools:
            before = self._given_starts(keys)
            best = np.where(before.counts, before.best, ledger.goal)  # a search without a program is over
            state = search.init(keys, jnp.asarray(before.evaluated), jnp.asarray(best), Pool.of(before))
        else:
            nothing = jnp.zeros(len(config.seeds), jnp.int32)
            state = search.init(keys, nothing, nothing + UNKNOWN)
        self.tick(state)
        options: dict[str, Any] = {}
        if config.revise_every:
            options["between"] = joining(
                search, self._propose, climbs=config.revise_every, budget=config.budget, goal=ledger.goal
            )
        state = drive(
            search,
            state,
            ledger.answer,
            record=ledger.record,
            progress=self.tick,
            start_source=config.start_source,
            **options,
        )
        ledger.show(np.asarray(state.evaluated).tolist(), np.asarray(state.done).tolist(), final=True)

    def _searching(self) -> Search:
        """Return the method's search."""
        config, language = self.config, self.ledger.task.language
        start = pooled_starts if config.pools else None
        limits = {"budget": config.budget, "goal": self.ledger.goal}
        if config.method in LATENT:
            space = config.program_space()
            return published.latent_search(config.method, config.parameters(), space, start=start, **limits)
        schedule: Callable[[int], int] = Growing(config.budget) if config.pools else Constant(NEIGHBOURHOOD)
        return hill_climbing(
            neighbours=functools.partial(starts.mutations, language),
            start=start or functools.partial(random_starts, language),
            schedule=schedule,
            **limits,
        )

    def _where(self, saved: Saved) -> tuple[Any, ...]:
        """Return arguments of `init` that give a state of the shapes of the one that was saved."""

        def leaf(name: str) -> jax.Array:
            return jnp.asarray(saved.arrays[f"state.{name}"])

        if not self.config.pools:
            return leaf("evaluated"), leaf("best")
        where = "pool.programs"
        latent = self.config.method in LATENT
        programs = Point(leaf(f"{where}.programs"), leaf(f"{where}.latents")) if latent else leaf(where)
        return leaf("evaluated"), leaf("best"), Pool(programs, leaf("pool.counts"), leaf("pool.shift"))

    def _propose(self, index: int, climb: int, left: int) -> Round:
        """Ask the language model for programs that may join a search that stalls."""
        found = self._reviser().stalled(
            self.ledger.best[index][1], seed=self.config.seeds[index], climb=climb, left=left
        )
        self._took(index, found, {"climb": climb})
        return found

    def tick(self, state: Any) -> None:
        """After a batch: save if it is time to, stop if told to, show how the searches are, and write the results of
        those that have ended."""
        ledger = self.ledger
        done, evaluated = np.asarray(state.done).tolist(), np.asarray(state.evaluated).tolist()
        seconds, programs = ledger.seconds, sum(evaluated)
        told = self.stop is not None and self.stop.signal is not None
        since = seconds - self.saved_at[0], programs - self.saved_at[1]
        if told or since[0] >= self.every.seconds or since[1] >= self.every.programs:
            arrays, facts = ledger.saved()
            self.checkpoints.save(Saved(checkpoint.flat(state, "state") | arrays, facts))
            self.saved_at = ledger.seconds, programs
        if told:
            raise self._stopped("saved")
        ledger.show(evaluated, done)
        for index in np.flatnonzero(done).tolist():
            ledger.finish(index, evaluated[index])

    def _stopped(self, how: str) -> Stopped:
        assert self.stop
        assert self.stop.signal
        told = self.stop.signal
        return Stopped(f"{told.name}: {how}; --resume --out {self.directory.path} goes on", CODES[told])

    def _given_starts(self, keys: jax.Array) -> Starts:
        """Evaluate each search's start programs in order, until one has return 1, and sort them best first. Of a latent
        search the programs are what the latents of the given ones decode to."""
        ledger, config = self.ledger, self.config
        if config.llm == "none":
            chosen = [starts.drawn_instead(ledger.task.language, key) for key in keys]
        else:
            chosen = [self._answers(index) for index in range(len(config.seeds))]
        rows = [self._encoded(*each) for each in enumerate(chosen)] if config.method in LATENT else chosen
        points = jax.tree.map(lambda *leaves: starts.stacked(list(leaves))[0], *rows)
        programs, counts = starts.stacked([np.asarray(programs_of(row)) for row in rows])
        used = np.arange(programs.shape[1]) < counts[:, None]
        scores = np.full(used.shape, UNKNOWN, np.int32)
        runs = ledger.evaluate(ledger.task, programs[used], ledger.layouts)
        scores[used] = ledger.scale.scores(runs.units)
        found = starts.best_first(points, counts, scores, config.budget, ledger.goal)
        for index, evaluated in enumerate(found.evaluated.tolist()):
            best = UNKNOWN
            for n in range(evaluated):
                if scores[index, n] > best:
                    best = int(scores[index, n])
                    ledger.record(Event(index, n + 1, best, programs[index, n], config.start_source))
        return found

    def _encoded(self, index: int, programs: np.ndarray) -> Point:
        """Return where a search's start programs int32 [K, N] lie in the program space, of those that do, and write
        down which do not."""
        language = self.ledger.task.language
        points, kept, outside = published.encoded(self.config.program_space(), programs)
        points = jax.tree.map(np.asarray, points)
        if not len(programs):
            return points
        if not kept:
            told = f"none of the {len(programs)} programs is in the learned program space: {outside[0]}, ..."
            self.ledger.lack(index, told)

        def text(nodes: np.ndarray) -> str:
            return to_text(encode.decode(nodes, language))

        same = [text(programs[n]) == text(found) for n, found in zip(kept, points.programs, strict=True)]
        named = [{"program": text(programs[n]), "reason": why} for n, why in outside.items()]
        self.ledger.counts[index]["space"] = {"encoded": len(kept), "unchanged": sum(same), "outside": named}
        return points

    def _answers(self, index: int) -> np.ndarray:
        """Return a search's start programs from the language model's answers, int32 [K, N], and write them down."""
        task, seed = self.ledger.task, self.config.seeds[index]
        if self.asker is None:
            found = starts.recorded_answers(self.config.answered, task.language, seed)
        else:
            messages = prompts.messages(task.language, registry.told_name(task), task.words, self.config.style)
            found = starts.asked_answers(
                messages, task.language, self.asker, seed=seed, occasion="round 0", wanted=starts.LLM_PROGRAMS
            )
        self.ledger.take(index, found)
        if not found.programs:
            self._lack(index, found)
        return encode.encode_all(found.programs, task.language)
