"""From a configuration to a job: names resolved, everything checked."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable

from jaxprl.errors import UserError, unknown
from jaxprl.experiment import published
from jaxprl.experiment.config import LAYOUTS, METHOD, SEEDS, TASK, Config
from jaxprl.llm import prompts
from jaxprl.methods import registry
from jaxprl.methods.base import LLMS, Job, Method
from jaxprl.output import say
from jaxprl.types import JSON
from jaxprl.vm.lanes import MOST_LANES
from jaxprl.worlds import task_files
from jaxprl.worlds.check import check
from jaxprl.worlds.make import is_in_file, make
from jaxprl.worlds.registry import is_own
from jaxprl.worlds.seeds import checked_seeds
from jaxprl.worlds.task import PythonTask, Task, prompt_name

UNSEEN = range(1_000_000, 1_001_000)
"""Layout seeds that no search sees. The return of the best program on them is reported."""
MOST_BUDGET = 2**30 - 1
MOST_SEARCHES = 2**16
"""Searches of a run. They are in memory together, some 80 kB each."""


def resolve(config: Config) -> Job:
    """Look up a configuration's names and check that the run can be carried out.

    Returns:
      The job, with the task and the method themselves.

    Raises:
      UserError: something is unknown, out of range, or does not go together.
    """
    if not isinstance(config, Config):
        raise UserError(f"{config!r}: expected a Config")
    if config.published is not None:
        config = published.filled(published.get(config.published), config)
    task_name = TASK if config.task is None else config.task
    task, method = make(task_name), registry.get(METHOD if config.method is None else config.method)
    if is_own(task):
        _try_out(task)
    if config.style not in prompts.STYLES:
        raise unknown("prompt style", config.style, prompts.STYLES)
    options = method.make_options(config.options)
    job = Job(
        task=task,
        task_name=task_name if is_in_file(task_name) else task.name,  # `Maze@8x8` is `Maze`
        method=method,
        options=options,
        seeds=_search_seeds(config),
        layouts=_layouts(config),
        budget=_budget(config, task.budget),
        llm=_source(config, method, method.llms_with(options) or method.llms),
        settings=config.settings,
        style=config.style,
        published=config.published,
    )
    method.check(job)
    if job.asks:
        prompts.messages(task.language, prompt_name(task), task.words, config.style)  # says which words are missing
    return job


@functools.cache
def _try_out(task: Task | PythonTask) -> None:
    """Check a task that the user registered, as one from a file is checked, and print notes on likely mistakes."""
    for note in check(task):
        say(f"note: {note}")


def _seeds(seeds: Iterable[int], what: str) -> tuple[int, ...]:
    """Return seeds as Python integers. Raises UserError if there are none, if one repeats, or if one is out of
    range."""
    numbers = checked_seeds(seeds, what)
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{what}s {numbers}: a seed is named twice")
    return numbers


def _search_seeds(config: Config) -> tuple[int, ...]:
    """Return the search seeds of a configuration. Raises UserError for too many."""
    seeds = _seeds(SEEDS if config.seeds is None else config.seeds, "search seed")
    if len(seeds) > MOST_SEARCHES:
        raise UserError(f"{len(seeds):,} search seeds; a run has at most {MOST_SEARCHES:,} searches")
    return seeds


def _layouts(config: Config) -> tuple[int, ...]:
    """Return the layout seeds of a configuration. Raises UserError for too many and for those of the final test."""
    layouts = _seeds(LAYOUTS if config.layouts is None else config.layouts, "layout seed")
    if not set(layouts).isdisjoint(UNSEEN):
        raise UserError(f"layouts {UNSEEN.start}-{UNSEEN.stop - 1} are kept for the final test")
    if len(layouts) > MOST_LANES:
        raise UserError(f"{len(layouts)} layouts; a search evaluates on at most {MOST_LANES}")
    return layouts


def _budget(config: Config, default: int) -> int:
    """Return the budget of a configuration, or the default. Raises UserError if it is not one."""
    try:
        budget = default if config.budget is None else operator.index(config.budget)
    except TypeError:
        raise UserError(f"budget {config.budget!r}: expected a whole number of programs") from None
    if not 1 <= budget <= MOST_BUDGET:
        raise UserError(f"budget {budget}: it goes from 1 to {MOST_BUDGET} programs")
    return budget


def _source(config: Config, method: Method, llms: tuple[str, ...]) -> str:
    """Return where programs of a language model come from: what the configuration says, or else the first of `llms`."""
    llm, asks = config.llm, config.settings is not None
    if not llm:
        llm = "recorded" if asks else llms[0]
    if llm not in LLMS:
        raise unknown("source of LLM answers", llm, LLMS)
    if llm == "openai" and not asks:
        raise UserError("--llm openai needs the --model to ask")
    if llm == "none" and asks:
        raise UserError("--llm none asks no model, but one is named")
    if llms == ("none",):
        if asks:
            raise UserError(f"method {method.name} asks no language model, but one is named")
        return "none"  # so that one sweep can name a source for all its methods
    if llm not in llms:
        raise UserError(f"method {method.name} needs a language model: --llm {' or '.join(llms)}")
    return llm


def identity(job: Job) -> JSON:
    """Return what a resumed run has to have in common with the one before, as JSON.

    It holds the configuration, the name of its published setting if it has one, and a checksum of the file that the
    task is from, if it is from one; the method adds its own part. Of a language model it holds how it is asked, but not
    where.
    """
    common: JSON = {
        "task": job.task_name,
        "method": job.method.name,
        "seeds": job.seeds,
        "budget": job.budget,
        "layouts": job.layouts,
        "llm": job.llm,
        "settings": job.settings and job.settings.request(),
        "style": job.style,
    }
    common |= job.method.identity(job)
    if job.published is not None:
        common["published"] = job.published
    if is_in_file(job.task_name):
        common["task file"] = task_files.checksum(job.task_name)
    return common
