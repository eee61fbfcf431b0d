"""Published settings by name: what the experiments of a paper were run with, so that nobody has to collect it.

A setting says how a method of the literature was run: our name of the method, its options, the tasks with their sizes,
the layouts, the search seeds and the budget, each with where it is stated. What cannot be done here as in the source is
part of the setting, in words.

Sources: the papers; the code of `lelis-research/prog_policies` (HC, CEBS) and of `rubensolv/InnateCoder`, which has raw
results of HC and CEBS too; the scripts of LLM-GS, which also ran LEAPS, and its fork of HPRL.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

from jaxprl.errors import UserError, unknown
from jaxprl.experiment.config import TASK, Config
from jaxprl.llm.settings import Settings

T = TypeVar("T")


class Sourced(NamedTuple, Generic[T]):
    """A value of a setting, with its source."""

    value: T
    source: str
    """Where it is stated."""
    tasks: Mapping[str, T] = MappingProxyType({})
    """Other values on some tasks, by `short` names."""

    def on(self, task: str) -> T:
        """Return the value on a task."""
        return self.tasks.get(short(task), self.value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """How a method was run by its authors."""

    name: str
    work: str
    """What it is, and who published it."""
    method: Sourced[str]
    tasks: Sourced[tuple[str, ...]]
    """Names of the tasks, with their sizes where these are not ours."""
    layouts: Sourced[range]
    seeds: Sourced[range]
    budget: Sourced[int]
    options: Mapping[str, Sourced[int | float | str]] = dataclasses.field(default_factory=dict)
    llm: Sourced[str] | None = None
    """Where programs of a language model come from by default, if not from where the method's usually come."""
    model: Sourced[str] | None = None
    """The language model that was asked."""
    differences: tuple[str, ...] = ()
    """What is not done here as in the source."""
    task_differences: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The same for single tasks, by `short` names."""


def short(task: str) -> str:
    """Return the name of a task without its size and its properties.

    Example:
      >>> short("MazeSparse@12x12:crashable")
      'MazeSparse'
    """
    return re.split("[@:]", task)[0]


EASY = ("StairClimberSparse", "MazeSparse", "FourCorners", "TopOff", "Harvester", "CleanHouse")
HARD = ("DoorKey", "OneStroke", "Seeder", "Snake")
KAREL = EASY + HARD
"""The Karel and Karel-Hard problem sets."""
MINIGRID = ("LavaGap", "PutNear", "RedBlueDoor")

_PAPER = "Carvalho et al., ICLR 2024"
_FILES = "code, sample_args/paper"
_RAW = "raw results, files seed_1 to seed_32"
_MILLION = f"paper, caption of Table 1; {_FILES}: 10,000,000"
_WIDE_MAZE = tuple("MazeSparse@12x12" if name == "MazeSparse" else name for name in KAREL)
_SAME_BUT_RANDOM = "random numbers are ours: a seed does not give the search that it gave in the source"
_NEXT_CANDIDATES = (
    "a run starts around one random latent, and each of the elite has k / elite candidates; in the source it starts "
    "with k random latents, and the parents of candidates are drawn from the elite with replacement"
)
_OTHER_MODEL = "the published model of the program space is not shipped: it is ours, or that of --space"
_CARVALHO_TASKS = {
    "OneStroke": "the source divides by 36, of which 35 cells can be visited: its returns are multiplied by 36/35",
    "Snake": "Snake is another task in the source: perceptions do not see the body, nor markers that appear later; "
    "its numbers are not comparable",
}

CARVALHO_HC = Setting(
    name="carvalho-hc",
    work=f"hill climbing in program space (HC), {_PAPER}",
    method=Sourced("hc", "paper"),
    options={
        "k": Sourced(250, f"{_FILES}/HC"),
        "neighbourhood": Sourced("small", "code, class StochasticHillClimbing2"),
    },
    tasks=Sourced(_WIDE_MAZE, f"{_FILES}/HC, with the sizes"),
    layouts=Sourced(range(16), f"{_FILES}/HC: number_executions 16"),
    seeds=Sourced(range(1, 33), _RAW),
    budget=Sourced(1_000_000, _MILLION),
    differences=(_SAME_BUT_RANDOM,),
    task_differences=_CARVALHO_TASKS,
)
CARVALHO_CHAIN = dataclasses.replace(
    CARVALHO_HC,
    name="carvalho-chain",
    work=f"one chain that accepts ties (class StochasticHillClimbing), code and raw results of {_PAPER}",
    method=Sourced("chain", "code; not in the paper"),
    options={
        "max_nodes": Sourced(20, "code, class StochasticHillClimbing"),
        "neighbourhood": Sourced("small", "code, class StochasticHillClimbing"),
    },
    budget=Sourced(1_000_000, "ours: raw results go to 10,000,000"),
    differences=(_SAME_BUT_RANDOM, "the first program has at most 20 nodes, too; in the source it may have any number"),
)
CARVALHO_CEBS = dataclasses.replace(
    CARVALHO_HC,
    name="carvalho-cebs",
    work=f"cross-entropy beam search in the latent space of LEAPS (CEBS), {_PAPER}",
    method=Sourced("cebs", "paper"),
    options={
        "k": Sourced(64, f"{_FILES}/CEBS: population_size"),
        "elite": Sourced(16, f"{_FILES}/CEBS: elitism_rate .25"),
        "sigma": Sourced(
            0.25,
            f"{_FILES}/CEBS: initial_sigma",
            {"MazeSparse": 0.1, "FourCorners": 0.5, "Harvester": 0.5, "OneStroke": 0.5},
        ),
        "patience": Sourced(5, f"{_FILES}/CEBS: restart_timeout"),
    },
    tasks=Sourced(_WIDE_MAZE, f"{_FILES}/CEBS, with the sizes"),
    layouts=Sourced(range(16), f"{_FILES}/CEBS: number_executions 16"),
    llm=Sourced("none", "code: runs start from random latents"),
    differences=(_SAME_BUT_RANDOM, _OTHER_MODEL, _NEXT_CANDIDATES),
)
LEAPS = Setting(
    name="leaps",
    work="LEAPS (Trivedi et al., NeurIPS 2021), as LLM-GS ran it",
    method=Sourced("leaps", "LEAPS, appendix: k, elite and sigma of each task"),
    tasks=Sourced(KAREL, "LLM-GS, scripts"),
    layouts=Sourced(range(32), "LLM-GS, scripts"),
    seeds=Sourced(range(5), "LLM-GS, scripts"),
    budget=Sourced(1_000_000, "LLM-GS, scripts"),
    llm=Sourced("none", "LEAPS, code: runs start from random latents"),
    differences=(
        _SAME_BUT_RANDOM,
        _OTHER_MODEL,
        "the published table is LEAPS's own: one run a search, and its own tasks; here runs follow each other until "
        "the budget is spent",
    ),
)
HPRL = Setting(
    name="hprl",
    work="HPRL with PPO (Liu et al., ICML 2023), as LLM-GS ran it",
    method=Sourced("hprl", "HPRL, code"),
    options={
        "observe": Sourced("step", "HPRL, code, and LLM-GS's fork; the paper says state"),
        "programs": Sourced(5, "HPRL, paper and code"),
        "episodes": Sourced(2560, "HPRL, code: 12,800 programs an update"),
        "epochs": Sourced(3, "HPRL, code"),
        "learning_rate": Sourced(1e-5, "HPRL, code"),
        "entropy": Sourced(0.05, "LLM-GS's fork of HPRL"),
        "space": Sourced("hprl", "HPRL, paper and code: 64 dimensions, simplified programs"),
    },
    tasks=Sourced(KAREL, "LLM-GS's fork of HPRL"),
    layouts=Sourced(range(32), "LLM-GS, scripts: layouts on which joined programs are evaluated"),
    seeds=Sourced(range(5), "LLM-GS, scripts"),
    budget=Sourced(
        1_000_000,
        "LLM-GS's fork of HPRL: a fifth of the programs decoded, since five joined count as one",
        {"CleanHouse": 100_000, "FourCorners": 100_000, "MazeSparse": 10_000, "StairClimberSparse": 10_000},
    ),
    differences=(
        _SAME_BUT_RANDOM,
        _OTHER_MODEL,
        "the published table is HPRL's own: returns of the last training episodes, on its own versions of the tasks",
    ),
)
LLM_GS = Setting(
    name="llm-gs",
    work="LLM-GS, Liu et al., ICLR 2025",
    method=Sourced("llm-gs", "paper"),
    options={"neighbourhood": Sourced("grammar", "code")},
    tasks=Sourced((*KAREL, "PathFollow", "WallAvoider", *MINIGRID), "scripts"),
    layouts=Sourced(range(32), "scripts"),
    seeds=Sourced(range(32), "scripts", dict.fromkeys(MINIGRID, range(8))),
    budget=Sourced(1_000_000, "scripts", dict.fromkeys(MINIGRID, 10_000)),
    model=Sourced("gpt-4-turbo-2024-04-09", "scripts (MiniGrid: second hand)", dict.fromkeys(MINIGRID, "gpt-4o")),
    differences=(
        _SAME_BUT_RANDOM,
        "without --llm openai no model is asked: the answers are the recorded stand-ins",
    ),
)
INNATECODER = Setting(
    name="innatecoder",
    work="InnateCoder, Moraes et al., IJCAI 2025, on crashable Karel",
    method=Sourced("hc", "code, class StochasticHillClimbingLLMDict"),
    options={
        "k": Sourced(250, "code, sample_args/search"),
        "neighbourhood": Sourced("parts", "paper and code"),
        "parts_share": Sourced(0.8, "code, class StochasticHillClimbingLLMDict"),
    },
    tasks=Sourced(tuple(f"{name}:crashable" for name in _WIDE_MAZE), "raw results, names of the folders"),
    layouts=Sourced(range(16), "code, sample_args/search: number_executions 16"),
    seeds=Sourced(range(1, 16), "raw results, files seed_1 to seed_15"),
    budget=Sourced(100_000, "paper (raw results go on)"),
    llm=Sourced("recorded", "paper: programs of a language model"),
    differences=(
        _SAME_BUT_RANDOM,
        "the published programs of language models are not shipped: parts are those of the recorded stand-ins, or of "
        "--llm openai --model",
        "a node that is not replaced by a part regrows as with the neighbourhood grammar, in the source as with small; "
        "the source also takes parts of the programs that its search has moved to",
    ),
    task_differences=_CARVALHO_TASKS,
)
SETTINGS = {each.name: each for each in (CARVALHO_HC, CARVALHO_CEBS, CARVALHO_CHAIN, LEAPS, HPRL, LLM_GS, INNATECODER)}
"""The published settings by name."""


def get(name: str) -> Setting:
    """Return the setting of a name. Raises UserError for an unknown one."""
    if not isinstance(name, str) or name not in SETTINGS:
        raise unknown("published setting", name, SETTINGS)
    return SETTINGS[name]


def filled(setting: Setting, config: Config) -> Config:
    """Return a configuration in which the setting has decided what the configuration leaves open.

    Raises:
      UserError: the source has no such task, its name is no text, or the configuration names another method.
    """
    task = _task(setting, TASK if config.task is None else config.task)
    method = setting.method.on(task)
    if config.method not in (None, method):
        raise UserError(f"method {config.method}: the published setting {setting.name} is one of the method {method}")
    options = config.options
    if isinstance(options, Mapping):
        options = {name: stated.on(task) for name, stated in setting.options.items()} | dict(options)
    settings, asked = config.settings, model(setting, task)
    llm = config.llm
    if llm is None and settings is None and setting.llm:  # a model that is named stands for its answers
        llm = setting.llm.on(task)
    if settings is None and config.llm == "openai" and asked is not None:
        settings = Settings(asked)
    return dataclasses.replace(
        config,
        task=task,
        method=method,
        options=options,
        seeds=setting.seeds.on(task) if config.seeds is None else config.seeds,
        layouts=setting.layouts.on(task) if config.layouts is None else config.layouts,
        budget=setting.budget.on(task) if config.budget is None else config.budget,
        llm=llm,
        settings=settings,
    )


def model(setting: Setting, task: str | None) -> str | None:
    """Return the language model that was asked about a task, or None if the setting names none."""
    return setting.model.on(TASK if task is None else task) if setting.model else None


def _task(setting: Setting, name: str) -> str:
    """Return the full name of a task of a setting; a name with a size or a property of its own stays as it is."""
    if not isinstance(name, str):
        raise UserError(f"task {name!r}: expected a name, like {TASK}")
    full = {short(task): task for task in setting.tasks.value}
    if name in full:
        return full[name]
    if short(name) not in full:
        raise UserError(f"task {name!r} is not one of the published setting {setting.name}: {', '.join(full)}")
    return name
