"""A whole run: a configuration in, a run directory with records and results out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxprl.errors import Stopped
from jaxprl.experiment.config import Config
from jaxprl.experiment.evaluator import Evaluator
from jaxprl.experiment.job import identity, resolve
from jaxprl.experiment.language_model import LanguageModel, LLMAccess
from jaxprl.experiment.ledger import Ledger
from jaxprl.llm.source import Interrupted
from jaxprl.methods.base import Job, Setup
from jaxprl.output import say
from jaxprl.runs.checkpoint import EVERY, Checkpoints, Every, Saved, flat, rebuilt
from jaxprl.runs.mirror import Mirror
from jaxprl.runs.record import USAGE, RunDirectory
from jaxprl.runs.signals import CODES, StopRequest
from jaxprl.search.driver import drive
from jaxprl.search.protocol import Search, State, search_keys
from jaxprl.types import JSON
from jaxprl.worlds.task import PythonTask
from jaxprl.xla import guarded


@guarded
def run(
    config: Config | Job,
    out: str | Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    engine: str | None = None,
    every: Every = EVERY,
    stop: StopRequest | None = None,
    llm_access: LLMAccess | None = None,
    mirror: Callable[[Path], Mirror] | None = None,
) -> list[JSON]:
    """Run the searches of a configuration.

    Args:
      config: what to do; or the job of a configuration that is resolved already.
      out: the run directory. It is created; without `resume` it must be empty or missing.
      resume: whether to continue a run of the same configuration in that directory, from its newest checkpoint.
      workers: threads that evaluate programs; None for one per core. No result depends on it, nor on what follows.
      engine: the engine that runs programs (`jaxprl.evaluate`); None for the fastest one that there is.
      every: how often to save a checkpoint.
      stop: when it is set, the run saves and stops early.
      llm_access: where answers of a language model are cached and what they may cost; by default the user's cache,
        without a limit.
      mirror: opens what else gets the rows of the records (`runs/mirror.py`), from the run directory.

    Returns:
      The results, by seed, as they are in `seed-N/result.json`: the best program, its return, and so on. A search that
      got no program from the language model has none.

    Raises:
      UserError: it cannot be done; the message says why.
      Stopped: `stop` was set.

    Example:
      >>> import tempfile
      >>> config = Config(task="StairClimber", method="hc", budget=200, layouts=range(4))
      >>> [result] = run(config, tempfile.mkdtemp())
      >>> result["evaluated"] <= 200
      True
    """
    job = config if isinstance(config, Job) else resolve(config)
    out = Path(out)
    evaluator = Evaluator(job.task, job.layouts, workers=workers, engine=engine)
    replay = job.llm == "recorded"
    llm_access = llm_access or LLMAccess()
    if job.settings:
        llm_access.check(job.settings, replay=replay)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(contextlib.closing(RunDirectory(out, identity(job), resume=resume)))
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(directory)))
        if mirror:
            directory.mirror = stack.enter_context(contextlib.closing(mirror(out)))
        ledger = Ledger(job, directory, evaluator)
        model = None
        if job.settings:
            model = LanguageModel(
                job.settings,
                llm_access,
                directory,
                replay=replay,
                should_stop=lambda: stop is not None and stop.signal is not None,
                asking=lambda: ledger.progress.doing("asking"),
            )
            stack.enter_context(contextlib.closing(model))
            stack.callback(lambda: directory.write_json(USAGE, model.usage()))
        if len(ledger.written) < len(ledger.seeds):
            stack.enter_context(ledger.progress)
            _Run(job, ledger, checkpoints, every, stop).search(model)
        return ledger.results()


EVALUATING = "evaluating"
"""What the progress line says while programs are run."""


class _Run:
    """Drives the searches of a run, with checkpoints."""

    def __init__(self, job: Job, ledger: Ledger, checkpoints: Checkpoints, every: Every, stop: StopRequest | None):
        self.job, self.ledger, self.checkpoints, self.every, self.stop = job, ledger, checkpoints, every, stop
        self.directory = ledger.directory
        self.saved_at = 0.0, 0
        """Seconds and programs at the newest checkpoint."""

    def search(self, model: LanguageModel | None) -> None:
        """Run the searches to their end, from the newest checkpoint if there is one."""
        evaluator, progress = self.ledger.evaluator, self.ledger.progress
        progress.activity = EVALUATING if isinstance(self.job.task, PythonTask) else "compiling"
        evaluator.prepare()
        setup = Setup(
            job=self.job,
            layouts=evaluator.layouts,
            scale=evaluator.scale,
            evaluate=evaluator.evaluate,
            proceed=evaluator.proceed,
            language_model=model,
            log=self.ledger,
        )

        def after_batch(state: State) -> None:
            progress.activity = EVALUATING
            self._tick(search, state)

        search = self.job.method.build(setup)
        try:
            state = self._state(search)
            self._tick(search, state)
            state = drive(
                search,
                state,
                evaluator.answer,
                record=self.ledger.record,
                progress=after_batch,
                device=evaluator,
            )
        except Interrupted:
            raise self._stopped("the answers that came are kept") from None
        self.ledger.show(np.asarray(state.evaluated).tolist(), np.asarray(state.done).tolist(), final=True)

    def _state(self, search: Search) -> State:
        """Return the state of the newest checkpoint, to which the records are cut back, or a new one."""
        saved = self.checkpoints.load() if search.template is not None else None
        if search.template is not None and self.directory.resumed and saved is None:
            say(f"no checkpoint in {self.directory.path} yet: the searches start again")
        self.directory.cut(saved.facts["records"] if saved else {})
        if saved is None:
            return search.init(search_keys(self.job.seeds))
        self.ledger.restore(saved.arrays, saved.facts)
        state = rebuilt(search.template, "state", saved.arrays)
        self.saved_at = saved.facts["seconds"], int(np.asarray(state.evaluated).sum())
        return state

    def _tick(self, search: Search, state: State) -> None:
        """After a batch: save if it is time to, stop if asked to, show the progress, and write finished results."""
        ledger = self.ledger
        done, evaluated = np.asarray(state.done).tolist(), np.asarray(state.evaluated).tolist()
        seconds, programs = ledger.seconds, sum(evaluated)
        stops = self.stop is not None and self.stop.signal is not None
        since = seconds - self.saved_at[0], programs - self.saved_at[1]
        if search.template is not None and (stops or since[0] >= self.every.seconds or since[1] >= self.every.programs):
            arrays, facts = ledger.saved()
            with ledger.progress.doing("saving"):
                self.checkpoints.save(Saved(flat(state, "state") | arrays, facts))
            self.saved_at = ledger.seconds, programs
        if stops and search.template is not None:
            raise self._stopped("saved")
        ledger.show(evaluated, done)
        for index in np.flatnonzero(done).tolist():
            ledger.finish(index, evaluated[index], search.stop_reason(state, index), search.facts(state, index))
        if stops:
            raise self._stopped("the answers that came are kept")

    def _stopped(self, how: str) -> Stopped:
        assert self.stop
        assert self.stop.signal
        signal = self.stop.signal
        return Stopped(f"{signal.name}: {how}; --resume --out {self.directory.path} goes on", CODES[signal])
