"""What a task is: layouts from seeds, and a reward in whole units."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprl.dsl.language import Language


class Layout(NamedTuple):
    """Where a run starts; stacked over E layouts, every leaf has a leading axis [E]."""

    state: Any
    """The world's state."""
    progress: Any
    """The task's own pytree: what its reward depends on besides the state."""
    units: Any  # int32
    """Units per return of 1: every reward of this layout is a multiple of 1 / units."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A world, its layouts and a reward.

    `generate` makes the layout of one seed, of numpy values. `reward(world, progress, state, event)` is called after
    every action and returns (state, progress, units, terminated): the state because a task may change the world (a
    door opens, food appears). It is written on scalars, like the world's rules (`worlds/ops.py`). No return exceeds 1:
    searches drop programs by that bound (`vm/evaluate.py`).
    """

    name: str
    world: Any
    generate: Callable[[int], Layout]
    reward: Callable[[Any, Any, Any, Any], tuple[Any, Any, Any, Any]]
    words: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """Map, agent, goal and returns in words, for prompts and listings."""
    budget: int = 1_000_000
    """Programs that a search evaluates if nothing else is said."""

    @property
    def language(self) -> Language:
        return self.world.language

    def layout(self, seed: int) -> Layout:
        """Return the layout of one seed, leaves unstacked."""
        return self.generate(seed)

    def layouts(self, seeds: Iterable[int]) -> Layout:
        """Return the layouts of `seeds`, stacked: leaves are numpy arrays [E, ...]."""
        return jax.tree.map(lambda *leaves: np.stack(leaves), *map(self.layout, seeds))

    def __hash__(self) -> int:
        return hash((self.name, self.world))
