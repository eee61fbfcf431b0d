"""What a run is asked to do: plain data, and its names resolved."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from jaxprl.errors import UserError, unknown
from jaxprl.llm import answers, prompts
from jaxprl.llm.settings import Settings
from jaxprl.methods import registry
from jaxprl.methods.base import LLMS, Method, Request
from jaxprl.methods.llm_gs import answered_task
from jaxprl.types import JSON
from jaxprl.vm.lanes import MOST_LANES
from jaxprl.worlds import task_files
from jaxprl.worlds.make import is_in_file, make
from jaxprl.worlds.task import prompt_name

UNSEEN = range(1_000_000, 1_001_000)
"""Layout seeds that no search sees. The return of the best program on them is reported."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run is asked to do. Threads, checkpoints and caches change no result, so they are not part of it.

    Example:
      >>> config = Config(task="DoorKey", method="hc", seeds=range(8), budget=10_000, options={"k": 100})
      >>> config.seeds
      range(0, 8)
    """

    task: str = "DoorKey"
    """Name of the task (`worlds/make.py`)."""
    method: str = "llm-gs"
    """Name of the method (`methods/registry.py`)."""
    seeds: Sequence[int] = (0,)
    """Search seeds; each is a search of its own."""
    budget: int | None = None
    """Programs that a search may evaluate; None for the task's own budget."""
    layouts: Sequence[int] = range(32)
    """Layout seeds that programs are evaluated on."""
    llm: str | None = None
    """Where programs of a language model come from, one of `LLMS`; None for the method's default."""
    settings: Settings | None = None
    """The language model that is asked or, with `llm` "recorded", whose answers are read from the cache. Without it,
    "recorded" means the answers that ship with the package."""
    style: str = "python-dsl"
    """Style of the prompts, one of `llm.prompts.STYLES`."""
    options: JSON = dataclasses.field(default_factory=dict)
    """The method's own options by name; those that are missing have their defaults."""


def resolve(config: Config) -> Request:
    """Look up a configuration's names and check that it can be carried out.

    Returns:
      The request, with the task and the method themselves.

    Raises:
      UserError: something is unknown, out of range, or does not go together.
    """
    task, method = make(config.task), registry.get(config.method)
    _check_ranges(config)
    request = Request(
        task=task,
        task_name=config.task,
        method=method,
        options=method.make_options(config.options),
        seeds=tuple(config.seeds),
        layouts=tuple(config.layouts),
        budget=task.budget if config.budget is None else config.budget,
        llm=_source(config, method),
        settings=config.settings,
        style=config.style,
    )
    method.check(request)
    if request.asks:
        prompts.messages(task.language, prompt_name(task), task.words, config.style)  # says which words are missing
    return request


def _check_ranges(config: Config) -> None:
    if not config.seeds or not all(0 <= seed < 2**32 for seed in (*config.seeds, *config.layouts)):
        raise UserError(f"seeds go from 0 to {2**32 - 1}, and a run has at least one")
    if config.budget is not None and not 1 <= config.budget < 2**30:
        raise UserError(f"budget {config.budget}: it goes from 1 to {2**30 - 1} programs")
    if not set(config.layouts).isdisjoint(UNSEEN):
        raise UserError(f"layouts {UNSEEN.start}-{UNSEEN.stop - 1} are kept for the final test")
    if not 1 <= len(config.layouts) <= MOST_LANES:
        raise UserError(f"{len(config.layouts)} layouts; a search evaluates on 1 to {MOST_LANES}")
    if config.style not in prompts.STYLES:
        raise unknown("prompt style", config.style, prompts.STYLES)


def _source(config: Config, method: Method) -> str:
    """Return where programs of a language model come from: what the configuration says, or else what fits best."""
    llm, asks = config.llm, config.settings is not None
    if not llm:
        llm = "recorded" if asks else method.llms[0]
    if llm not in LLMS:
        raise unknown("source of LLM answers", llm, LLMS)
    if llm == "openai" and not asks:
        raise UserError("--llm openai needs the --model to ask")
    if llm == "none" and asks:
        raise UserError("--llm none asks no model, but one is named")
    if llm not in method.llms:
        if method.llms == ("none",):
            raise UserError(f"method {method.name} asks no language model, but one is named")
        raise UserError(f"method {method.name} needs a language model: --llm {' or '.join(method.llms)}")
    return llm


def identity(request: Request) -> JSON:
    """Return what a resumed run has to have in common with the one before, as JSON.

    It holds the configuration, and checksums of the file that the task is from, of the learned program space and of
    the recorded answers, where these are used. Of a language model it holds how it is asked, but not where.
    """
    common: JSON = {
        "task": request.task_name,
        "method": request.method.name,
        "seeds": request.seeds,
        "budget": request.budget,
        "layouts": request.layouts,
        "llm": request.llm,
        "settings": request.settings and request.settings.request(),
        "style": request.style,
    }
    common |= request.method.identity(request)
    if is_in_file(request.task_name):
        common["task file"] = task_files.checksum(request.task_name)
    if request.bundled:
        texts = answers.recorded(answered_task(request))
        common["answer"] = {str(n): hashlib.sha256(text.encode()).hexdigest()[:16] for n, text in enumerate(texts)}
    return common
