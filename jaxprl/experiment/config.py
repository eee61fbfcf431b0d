"""What a run is asked to do, as plain data. `job.py` resolves its names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxprl.llm.settings import Settings

TASK, METHOD = "DoorKey", "llm-gs"
"""The task and the method of a run that names none."""
SEEDS, LAYOUTS = range(1), range(32)
"""The search seeds and the layout seeds of a run that names none."""
STYLE = "python-dsl"
"""Style of the prompts of a run that names none."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run is asked to do. Threads, checkpoints and caches change no result, so they are not part of it.

    Example:
      >>> config = Config(task="DoorKey", method="hc", seeds=range(8), budget=10_000, options={"k": 100})
      >>> config.seeds
      range(0, 8)
    """

    task: str | None = None
    """Name of the task (`worlds/make.py`); None for `TASK`."""
    method: str | None = None
    """Name of the method (`methods/registry.py`); None for the published setting's, or else `METHOD`."""
    seeds: Sequence[int] | None = None
    """Search seeds; each is a search of its own. None for the published setting's, or else `SEEDS`."""
    budget: int | None = None
    """Programs that a search may evaluate; None for the published setting's, or else the task's own budget."""
    layouts: Sequence[int] | None = None
    """Layout seeds that programs are evaluated on; None for the published setting's, or else `LAYOUTS`."""
    llm: str | None = None
    """Where programs of a language model come from, one of `methods.base.LLMS`; None for the method's default."""
    settings: Settings | None = None
    """The language model that is asked or, with `llm` "recorded", whose answers are read from the cache. Without it,
    "recorded" means the answers that ship with the package."""
    style: str = STYLE
    """Style of the prompts, one of `llm.prompts.STYLES`."""
    options: object = dataclasses.field(default_factory=dict)
    """The method's own options: a dictionary by name, those that are missing as in the published setting, or else at
    their defaults; or an instance of `Method.options`."""
    published: str | None = None
    """Name of a published setting (`published.py`), which decides what is not said here; None for none."""
