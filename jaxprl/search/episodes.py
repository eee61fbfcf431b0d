"""Episodes in which a policy's actions are programs of a learned program space (`hprl.py`).

Axis letters: A searches, R episodes, B episodes of one search, E episodes of a group, T steps of an episode, D
dimensions of an action, N nodes of a program.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from jaxprl.search.names import EPISODES
from jaxprl.search.protocol import search_keys
from jaxprl.types import JSON, Array, PyTree
from jaxprl.worlds.task import Layout
from jaxprl.xla import jit

FIRST_LAYOUT = 2**31
"""Seed of the layout of episode 0. Those of the following episodes follow."""
INVALID = -0.001
"""Reward of an action that decodes to no program."""


class StepOutcome(NamedTuple):
    """What P programs did, each in an episode of its own."""

    returns: np.ndarray  # float32 [P]: what they earned, as part of a return of 1
    over: np.ndarray  # bool [P]: whether the episode is over
    layouts: Layout  # [P]: where they stopped


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramEnvironment:
    """An environment whose actions are points of a program space, for many episodes at once."""

    layouts: Callable[[Sequence[int]], Layout]
    """Seeds -> the layouts in which episodes begin, stacked."""
    decode: Callable[[np.ndarray], tuple[Array, Array]]
    """Actions float32 [M, D] -> the nodes of their programs int32 [M, N], and which of these are programs, bool [M].
    What an action decodes to does not depend on those beside it."""
    run: Callable[[np.ndarray, Layout], StepOutcome]
    """Programs int32 [P, N] and layouts [P] -> what they did."""
    steps: int
    """Programs of an episode, T."""
    episodes: int
    """Episodes of a group, E."""


class ActionSample(Protocol):
    """Actions that were drawn, and what a policy needs to know of them when it learns: a pytree of arrays [E, ...]."""

    @property
    def actions(self) -> Array:
        """float32 [E, D]."""
        ...


class Policy(NamedTuple):
    """A policy that learns, as pure functions on one search."""

    init: Callable[[jax.Array], PyTree]
    """A key -> a policy that has learned nothing."""
    memory: Callable[[int], PyTree]
    """Number of episodes -> what it remembers when they begin."""
    act: Callable[..., tuple[ActionSample, PyTree]]
    """(policy, states of the worlds [E, ...], memory, keys of the episodes typed [E], step=number of the step) ->
    actions, and what it remembers next."""
    update: Callable[..., tuple[PyTree, JSON]]
    """(policy, actions [GROUPS, E, T, ...], rewards float32 [GROUPS, E, T], the steps that were taken bool [GROUPS, E,
    T], key) -> the policy afterwards, and what the update was like."""


class Episodes(NamedTuple):
    """Episodes that have been played; the leading axes are free."""

    acted: PyTree  # [..., T, ...]: an `ActionSample`
    rewards: np.ndarray  # float32 [..., T]
    taken: np.ndarray  # bool [..., T]: the steps that were taken, the first ones of each episode
    valid: np.ndarray  # bool [..., T]: whether a step's action was a program


class Searcher(NamedTuple):
    """A search whose next episodes are played."""

    key: jax.Array  # typed key []
    policy: PyTree
    first: int  # the number of its next episode


class _Group(NamedTuple):
    """A group of episodes that are played."""

    policy: PyTree
    keys: jax.Array  # typed [E]
    rows: slice  # its rows among all that are played


def rollout(
    env: ProgramEnvironment, policy: Policy, searches: Sequence[Searcher], groups: int
) -> tuple[Episodes, np.ndarray]:
    """Play the next episodes of A searches.

    Args:
      env: what the policy acts in.
      policy: the policy.
      searches: the searches.
      groups: groups of episodes for each of them, so that B = groups * E.

    Returns:
      The episodes, leaves [A, B, ...], and the nodes of their programs, int32 [A, B, T, N].
    """
    size, count = env.episodes, groups * env.episodes
    numbers = np.array([search.first for search in searches])[:, None] + np.arange(count)
    seeds, which = np.unique(FIRST_LAYOUT + numbers, return_inverse=True)
    layouts = _rows(env.layouts(seeds.tolist()), which.reshape(-1))
    own = []
    for place, (key, learner, _) in enumerate(searches):
        for first in range(0, count, size):
            keys = _episode_keys(key, numbers[place, first : first + size].astype(np.int32))
            begin = place * count + first
            own.append(_Group(learner, keys, slice(begin, begin + size)))
    memories = [policy.memory(size)] * len(own)
    alive = np.ones(numbers.size, bool)
    steps = []
    for step in range(env.steps):
        found = [
            policy.act(group.policy, _rows(layouts.state, group.rows), memory, group.keys, step=step)
            for group, memory in zip(own, memories, strict=True)
        ]
        memories = [memory for _, memory in found]
        acted = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(acted for acted, _ in found))
        made, programs, layouts, over = _step(env, acted, layouts, alive)
        steps.append((made, programs))
        alive = alive & ~over
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *steps)
    return jax.tree.map(lambda leaf: leaf.reshape(len(searches), count, *leaf.shape[1:]), stacked)


def _step(
    env: ProgramEnvironment, acted: ActionSample, layouts: Layout, alive: np.ndarray
) -> tuple[Episodes, np.ndarray, Layout, np.ndarray]:
    """Take one step of R episodes, of those `alive`, bool [R].

    Returns:
      The step, leaves [R, ...]; the nodes of the programs int32 [R, N]; where the programs stopped; and which episodes
      are over, bool [R].
    """
    rows = np.flatnonzero(alive)
    nodes, fine = map(np.asarray, env.decode(np.asarray(acted.actions)[rows]))
    programs = np.zeros((len(alive), nodes.shape[-1]), np.int32)
    programs[rows] = nodes
    valid, over = np.zeros((2, len(alive)), bool)
    rewards = np.where(alive, np.float32(INVALID), np.float32(0))
    running = rows[fine]
    valid[running] = True
    if len(running):
        ran = env.run(nodes[fine], _rows(layouts, running))
        rewards[running], over[running] = ran.returns, ran.over
        layouts = jax.tree.map(functools.partial(_put, running), layouts, ran.layouts)
    return Episodes(acted, rewards, alive, valid), programs, layouts, over


def _rows(tree: PyTree, rows: slice | np.ndarray) -> PyTree:
    """Return rows of the leaves, as numpy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)


def _put(rows: np.ndarray, leaf: np.ndarray, new: Array) -> np.ndarray:
    """Return a leaf with other rows."""
    leaf = leaf.copy()
    leaf[rows] = new
    return leaf


def shapes(policy: Policy, env: ProgramEnvironment) -> tuple[PyTree, PyTree]:
    """Return a policy and its actions, of shapes instead of arrays."""
    keys = search_keys(range(env.episodes))
    layouts = _rows(env.layouts([FIRST_LAYOUT]), np.zeros(env.episodes, int))
    learner = jax.eval_shape(policy.init, keys[0])
    acted, _ = jax.eval_shape(
        functools.partial(policy.act, step=0), learner, layouts.state, policy.memory(env.episodes), keys
    )
    return learner, acted


@jit()
def _episode_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """Return the keys of episodes, typed [E], from a search's key and their numbers, int32 [E]."""
    own = jax.random.fold_in(key, EPISODES)
    return jax.vmap(lambda number: jax.random.fold_in(own, number))(numbers)
