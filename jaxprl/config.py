"""What a run is asked to do, and whether it can be done."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

from jaxprl.dsl.language import Language
from jaxprl.errors import UserError, unknown
from jaxprl.latent.space import SHIPPED, LatentSpace
from jaxprl.llm import answers, prompts
from jaxprl.llm.revision import METHODS as REVISIONS
from jaxprl.llm.settings import Settings
from jaxprl.search import published
from jaxprl.vm.lanes import MOST_LANES
from jaxprl.worlds import files, registry

LATENT = published.METHODS
METHODS = ("llm-gs", "hc", *LATENT, *REVISIONS)
LLMS = ("recorded", "openai", "none")
UNSEEN = range(1_000_000, 1_001_000)
"""Layout seeds that no search sees: the best program's return on them is reported."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A run. What is not here (threads, checkpoints, the cache of answers) changes no result."""

    task: str = "DoorKey"
    method: str = "llm-gs"
    seeds: tuple[int, ...] = (0,)
    budget: int = 1_000_000
    layouts: tuple[int, ...] = tuple(range(32))
    llm: str = ""
    """One of `LLMS`; if nothing is said, none for the latent searches and recorded for the others."""
    settings: Settings | None = None
    """The language model that is asked, or (`llm` recorded) whose answers are taken from the cache; without it, those
    that ship with the package are."""
    style: str = "python-dsl"
    """Of prompts: one of `prompts.STYLES`."""
    revise_every: int | None = None
    """LLM-GS: after so many climbs in a row without a new best, the language model is asked again."""
    k: int | None = None
    """Of latent searches; these and the next are the published ones if nothing is said (`published.parameters`)."""
    elite: int | None = None
    sigma: float | None = None
    space: Path | None = None
    """The model file of the learned program space; by default the one that ships."""

    def __post_init__(self) -> None:
        if not self.llm:
            asks = self.settings is not None
            object.__setattr__(self, "llm", "none" if self.method in LATENT and not asks else "recorded")

    @property
    def answered(self) -> str:
        """Name of the task whose recorded answers are used: on the real environments, that of the same task on ours."""
        return self.task.removeprefix(registry.FARAMA)

    @property
    def asks(self) -> bool:
        """Whether a language model is asked, or a cache in its place."""
        return self.settings is not None

    @property
    def bundled(self) -> bool:
        """Whether the answers that ship with the package are used."""
        return self.pools and self.llm == "recorded" and not self.asks

    @property
    def pools(self) -> bool:
        """Whether climbs start from programs that are there before the search."""
        return self.method == "llm-gs" or (self.method in LATENT and self.llm != "none")

    @property
    def start_source(self) -> str:
        """Where the programs that climbs start from come from."""
        return "llm" if self.pools and self.llm != "none" else "random"

    def parameters(self) -> published.Parameters:
        """Return the parameters of a latent search. Raises UserError for what the method does not have."""
        name = registry.make(self.task).name
        return published.parameters(self.method, name, k=self.k, e=self.elite, sigma=self.sigma)

    def program_space(self) -> LatentSpace:
        """Return the program space of a latent search. Raises UserError if it is not of the task's language."""
        return _space(self.space or SHIPPED, registry.make(self.task).language)

    def check(self) -> None:
        """Raise UserError if it cannot be done."""
        task = registry.make(self.task)
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if not 1 <= self.budget < 2**30:
            raise UserError(f"budget {self.budget}: it goes from 1 to {2**30 - 1} programs")
        if not set(self.layouts).isdisjoint(UNSEEN):
            raise UserError(f"layouts {UNSEEN.start}-{UNSEEN.stop - 1} are kept for the final test")
        if len(self.layouts) > MOST_LANES:
            raise UserError(f"{len(self.layouts)} layouts; a search evaluates on at most {MOST_LANES}")
        self._check_language_model()
        self._check_latent_search()
        if self.asks:
            # It says which words are missing.
            prompts.messages(task.language, registry.told_name(task), task.words, self.style)

    def _check_language_model(self) -> None:
        if self.style not in prompts.STYLES:
            raise unknown("prompt style", self.style, prompts.STYLES)
        if self.llm not in LLMS:
            raise unknown("source of LLM answers", self.llm, LLMS)
        if self.llm == "openai" and not self.asks:
            raise UserError("--llm openai needs the --model to ask")
        if self.llm == "none" and self.asks:
            raise UserError("--llm none asks no model, but one is named")
        if self.method == "hc" and self.asks:
            raise UserError("method hc asks no language model, but one is named")
        if self.method in REVISIONS and not self.asks:
            raise UserError(
                f"method {self.method} asks a language model again and again: use --llm openai, or --llm recorded with "
                "the --model that was asked before (the answers that ship with jaxprl are to the first prompt only)"
            )
        if self.revise_every is not None:
            if self.revise_every < 1:
                raise UserError(f"revise every {self.revise_every} climbs: from 1 on")
            if self.method != "llm-gs" or not self.asks:
                raise UserError("--revise-every goes with --method llm-gs and a language model that is asked (--model)")
        if self.bundled and self.answered not in answers.tasks():
            there = ", ".join(name for name in registry.tasks() if name in answers.tasks())
            raise UserError(
                f"no recorded answers for {self.task}: use --llm openai, --llm none or --method hc (there are some for "
                f"{there})"
            )

    def _check_latent_search(self) -> None:
        options = {"--k": self.k, "--elite": self.elite, "--sigma": self.sigma, "--space": self.space}
        given = [name for name, value in options.items() if value is not None]
        if self.method in LATENT:
            published.check(self.method, self.parameters())
            self.program_space()
        elif given:
            raise UserError(f"{', '.join(given)}: of the latent searches ({', '.join(LATENT)}), not of {self.method}")

    def identity(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with the one before: the configuration, and checksums of the
        file that the task is from, if it is, of the learned program space, and of the recorded answers by their
        indices. Where a language model is asked, how it is, but not where."""
        asked = dataclasses.asdict(self) | {"settings": self.settings and self.settings.request()}
        for name in ("k", "elite", "sigma", "space"):
            del asked[name]
        if self.method in LATENT:
            k, elite, sigma = dataclasses.astuple(self.parameters())
            asked |= {"k": k, "elite": elite, "sigma": sigma, "space": self.program_space().checksum[:16]}
        if not self.task.startswith(registry.FARAMA) and files.names_file(self.task):
            asked["task file"] = files.checksum(self.task)
        if self.bundled:
            texts = answers.recorded(self.answered)
            asked["answer"] = {str(n): hashlib.sha256(text.encode()).hexdigest()[:16] for n, text in enumerate(texts)}
        return asked


@functools.cache
def _space(file: Path, language: Language) -> LatentSpace:
    return LatentSpace.load(file, language)
