"""What a run is asked to do, as plain data. `job.py` resolves its names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxprl.llm.settings import Settings


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
    """Where programs of a language model come from, one of `methods.base.LLMS`; None for the method's default."""
    settings: Settings | None = None
    """The language model that is asked or, with `llm` "recorded", whose answers are read from the cache. Without it,
    "recorded" means the answers that ship with the package."""
    style: str = "python-dsl"
    """Style of the prompts, one of `llm.prompts.STYLES`."""
    options: object = dataclasses.field(default_factory=dict)
    """The method's own options: a dictionary by name, those that are missing at their defaults; or an instance of
    `Method.options`."""
