"""HPRL (Liu et al., ICML 2023): a policy learns by PPO to choose programs of a learned program space one after another.

The protocol is that with which LLM-GS compares: the programs of an episode, joined, count as one evaluated program.
`docs/methods.md` says what was decided where the publications leave it open.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.errors import UserError, unknown
from jaxprl.latent.free_run import FEWEST
from jaxprl.latent.space import SHIPPED_HPRL, LatentSpace
from jaxprl.methods.base import Job, Method, Setup, option
from jaxprl.methods.latent import program_space as chosen_space
from jaxprl.search.episodes import FIRST_LAYOUT, Policy, ProgramEnvironment, StepOutcome
from jaxprl.search.hprl import GROUPS, hprl
from jaxprl.search.protocol import Search
from jaxprl.types import JSON, Array, PyTree
from jaxprl.vm.outcomes import CRASHED, TERMINATED, Proceeded
from jaxprl.worlds.karel.world import KarelWorld
from jaxprl.worlds.task import Layout, PythonTask, Task

if TYPE_CHECKING:
    from jaxprl.rl.ppo import ActionSample, Observer, Settings

OBSERVATIONS = ("step", "state")
MOST_EPISODES = 2**16
MOST_PROGRAMS = 7
"""Programs of an episode, so that they can be run as one program when they are joined (`PROGRAM_NODES`)."""
MOST_EPOCHS = 1000
MOST_SEARCHES = 1024
"""Searches of a run. The episodes of an update are in memory for each of them, which is some megabytes."""
RATES = (1e-9, 1.0)
"""The least and the largest learning rate."""
MOST_ENTROPY = 100.0


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of HPRL, by default the published ones."""

    observe: str = option(
        "step", "what the policy is shown: step (how many programs have been run) or state (the world)"
    )
    programs: int = option(5, "programs of an episode, at most")
    episodes: int = option(2560, f"episodes of an update, a multiple of {GROUPS}")
    epochs: int = option(3, "times that an update goes over its episodes")
    learning_rate: float = option(1e-5, "learning rate of the policy")
    entropy: float = option(0.05, "weight of the policy's entropy")
    space: Path | None = option(None, "program space: a model file, or leaps or hprl, which ship (default: hprl)")


def check(job: Job) -> None:
    _check_options(job.options)
    task = job.task
    if max(job.layouts) >= FIRST_LAYOUT:
        raise UserError(
            f"layout seed {max(job.layouts)}: the episodes of {job.method.name} take the seeds from {FIRST_LAYOUT} on, "
            "so evaluate on layouts of lower seeds"
        )
    if len(job.seeds) > MOST_SEARCHES:
        raise UserError(f"{len(job.seeds):,} search seeds; a run of {job.method.name} has at most {MOST_SEARCHES:,}")
    if isinstance(task, PythonTask):
        raise UserError(
            f"method {job.method.name} has programs go on where others stopped, which takes a task in array code; "
            f"{task.name} is in plain Python"
        )
    if job.options.observe == "state" and not isinstance(task.world, KarelWorld):
        raise UserError(
            f"--observe state shows the state of Karel's world, and {task.name} is in another one: use step"
        )
    program_space(job)


def _check_options(options: Options) -> None:
    """Raise UserError for values that make no sense, whatever the job is."""
    if options.observe not in OBSERVATIONS:
        raise unknown("--observe", options.observe, OBSERVATIONS)
    whole = {"programs": (1, MOST_PROGRAMS), "episodes": (GROUPS, MOST_EPISODES), "epochs": (1, MOST_EPOCHS)}
    for name, (least, most) in whole.items():
        if not least <= getattr(options, name) <= most:
            raise UserError(f"--{name} {getattr(options, name)}: it goes from {least} to {most}")
    if options.episodes % GROUPS:
        raise UserError(
            f"--episodes {options.episodes}: expected a multiple of {GROUPS}, the mini-batches of an update"
        )
    if not RATES[0] <= options.learning_rate <= RATES[1]:
        raise UserError(f"--learning-rate {options.learning_rate:g}: it goes from {RATES[0]:g} to {RATES[1]:g}")
    if not 0 <= options.entropy <= MOST_ENTROPY:
        raise UserError(f"--entropy {options.entropy:g}: it goes from 0 to {MOST_ENTROPY:g}")


def program_space(job: Job) -> LatentSpace:
    """Return the program space of a job. Raises UserError if it is not of the task's language."""
    return chosen_space(job, SHIPPED_HPRL)


def identity(job: Job) -> JSON:
    own = {name: value for name, value in vars(job.options).items() if name != "space"}
    return own | {"space": program_space(job).checksum[:16]}


def build(setup: Setup) -> Search:
    job = setup.job
    space = program_space(job)
    return hprl(
        program_environment(setup, space),
        policy_of(observer_of(job), settings_of(job), space.size),
        budget=job.budget,
        goal=setup.goal,
        record=setup.log.record_update,
        without_program=lambda search: setup.log.leave_out(search, "no action of the policy decoded to a program"),
    )


def program_environment(setup: Setup, space: LatentSpace) -> ProgramEnvironment:
    """Return what the policy of a run acts in."""
    task, options = setup.job.task, setup.job.options
    assert isinstance(task, Task)
    crashable = task.world.crashable if isinstance(task.world, KarelWorld) else hasattr(task.world, "crashed")

    def decode(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = len(actions)
        few_sizes = np.pad(actions, ((0, -count % FEWEST), (0, 0)))  # since JAX compiles something for every size
        programs, valid = space.decode(space.latent_of(few_sizes))
        return np.asarray(programs)[:count], np.asarray(valid)[:count]

    def run(programs: np.ndarray, layouts: Layout) -> StepOutcome:
        found: Proceeded = setup.proceed(programs, layouts)
        ends = TERMINATED | CRASHED if crashable else TERMINATED
        return StepOutcome(found.returns.astype(np.float32), found.outcomes.end & ends != 0, found.layouts)

    return ProgramEnvironment(
        layouts=LayoutsAhead(task),
        decode=decode,
        run=run,
        steps=options.programs,
        episodes=options.episodes // GROUPS,
    )


class LayoutsAhead:
    """Makes layouts of consecutive seeds. While the first ones are used, a thread makes those that probably follow.

    Args:
      task: the task.
    """

    def __init__(self, task: Task):
        self.task = task
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="layouts")
        self._next: tuple[list[int], Future[Layout]] | None = None

    def __call__(self, seeds: Sequence[int]) -> Layout:
        """Return the layouts of seeds, stacked."""
        wanted, ahead = list(seeds), self._next
        found = ahead[1].result() if ahead and ahead[0] == wanted else self.task.layouts(wanted)
        following = [seed + len(wanted) for seed in wanted]
        self._next = following, self._threads.submit(self.task.layouts, following)
        return found


def settings_of(job: Job) -> Settings:
    """Return how the policy of a job learns."""
    from jaxprl.rl.ppo import Settings

    options = job.options
    return Settings(learning_rate=options.learning_rate, epochs=options.epochs, entropy_weight=options.entropy)


def observer_of(job: Job) -> Observer:
    """Return what shows the policy of a job where it is."""
    from jaxprl.rl.observers import StateObserver, StepObserver

    if job.options.observe == "step":
        return StepObserver(job.options.programs)
    assert isinstance(job.task, Task)
    assert isinstance(job.task.world, KarelWorld)
    return StateObserver(job.task.world)


def policy_of(observer: Observer, settings: Settings, size: int) -> Policy:
    """Return a recurrent policy that learns by PPO.

    Args:
      observer: what it is shown.
      settings: how it learns.
      size: dimensions of an action.
    """
    from jaxprl.rl import networks, ppo

    def act(
        learner: ppo.Learner, states: PyTree, memory: jax.Array, keys: jax.Array, *, step: int
    ) -> tuple[ActionSample, jax.Array]:
        observed = states if observer.needs_state else ()
        return ppo.act(observer, learner.params, observed, memory, keys, jnp.int32(step))

    def update(
        learner: ppo.Learner, acted: ActionSample, rewards: Array, taken: Array, key: jax.Array
    ) -> tuple[ppo.Learner, JSON]:
        learner, figures = ppo.update(settings, observer, learner, acted, rewards, taken, key)
        return learner, {name: _as_json(float(value)) for name, value in figures._asdict().items()}

    def memory(episodes: int) -> np.ndarray:
        return np.zeros((episodes if observer.needs_state else 1, networks.STATE), np.float32)

    return Policy(functools.partial(ppo.init, settings, observer.shape, size), memory, act, update)


def _as_json(value: float) -> float | None:
    """Return a number as JSON has it, or None for one that is not finite, as where a policy diverges."""
    return value if math.isfinite(value) else None


HPRL = Method(
    name="hprl",
    summary="a policy learns by PPO to choose programs of a learned program space, one after another",
    options=Options,
    check=check,
    build=build,
    identity=identity,
)
