"""Where the time of `hprl` goes: the parts of an episode and of an update, timed around the functions that do them."""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from benchmark_timing import Row, row, timed

import jaxprl
from jaxprl.experiment.evaluator import Evaluator
from jaxprl.methods.base import Job, Log, Setup
from jaxprl.methods.hprl import HPRL, observer_of, policy_of, program_environment, program_space, settings_of
from jaxprl.search.driver import drive
from jaxprl.search.hprl import GROUPS, hprl
from jaxprl.search.protocol import search_keys

UPDATES = 3
"""Updates of each policy that are measured."""


def side_by_side(task: jaxprl.Task, layouts: Sequence[int], searches: int, repeats: int) -> Row:
    """Run some searches side by side up to a fixed number of updates, and return how fast they decode programs."""
    measured = Measured(task, layouts, searches)
    first, seconds, (programs, shares) = timed(measured.run, repeats)
    return row(f"hprl, {searches} side by side", "programs decoded", programs, first, seconds, shares=shares)


class Measured:
    """What a run of `hprl` took.

    Args:
      task: the task.
      layouts: layout seeds that programs are evaluated on.
      searches: searches side by side. None of them stops before its budget.
    """

    def __init__(self, task: jaxprl.Task, layouts: Sequence[int], searches: int):
        self.spent: collections.Counter[str] = collections.Counter()
        options = HPRL.make_options({})
        job = Job(
            task=task,
            task_name=task.name,
            method=HPRL,
            options=options,
            seeds=tuple(range(searches)),
            layouts=tuple(layouts),
            budget=(UPDATES + 1) * options.episodes - GROUPS,
            llm="none",
            settings=None,
            style="",
        )
        self.evaluator = Evaluator(task, job.layouts)
        setup = Setup(
            job=job,
            layouts=self.evaluator.layouts,
            scale=self.evaluator.scale,
            evaluate=self.evaluator.evaluate,
            proceed=self.evaluator.proceed,
            language_model=None,
            log=Log,  # type: ignore[arg-type]  # nothing is recorded
        )
        space = program_space(job)
        env, policy = program_environment(setup, space), policy_of(observer_of(job), settings_of(job), space.size)
        env = dataclasses.replace(
            env,
            layouts=self.timed("layouts", env.layouts),
            decode=self.timed("decoding", env.decode),
            run=self.timed("running", env.run),
        )
        policy = policy._replace(act=self.timed("acting", policy.act), update=self.timed("learning", policy.update))
        self.search = hprl(env, policy, budget=job.budget, goal=self.evaluator.goal + 1)
        self.seeds = job.seeds

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time is added to a part."""

        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            found = jax.block_until_ready(function(*args, **options))
            self.spent[part] += time.perf_counter() - started
            return found

        return run

    def run(self) -> tuple[int, dict[str, float]]:
        """Run the searches; return the programs that were decoded, and the share of the time of each part."""
        self.spent.clear()
        started = time.perf_counter()
        answer = self.timed("scoring", self.evaluator.answer)
        state = drive(self.search, self.search.init(search_keys(self.seeds)), answer, record=lambda event: None)
        total = time.perf_counter() - started
        return int(state.programs.sum()), {part: spent / total for part, spent in self.spent.most_common()}
