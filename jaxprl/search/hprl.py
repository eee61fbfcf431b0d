"""Search by a policy whose actions are programs (Liu et al. 2023, HPRL), many searches side by side.

An episode starts on a layout that no other episode of the search has. At each step the policy chooses an action, which
is a point of a learned program space. The program that it decodes to runs where the last one stopped, and what it earns
is the reward. The episode is over when the task is, or after a number of programs. Its programs joined are one program,
which is what the search evaluates and counts.

`GROUPS` groups of episodes make an update of the policy. Groups are what is computed together: each search alone, in
arrays of one size. So nothing that a search does depends on those beside it, nor on how many groups a round has.

Axis letters: S searches, B episodes of a round, E episodes of a group, T steps of an episode, N nodes of a program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxprl.dsl.join import joined
from jaxprl.search.episodes import Episodes, Policy, ProgramEnvironment, Searcher, rollout, shapes
from jaxprl.search.names import NETWORK, UPDATES
from jaxprl.search.protocol import UNKNOWN, Asked, Bests, Candidates, Search, nothing_yet
from jaxprl.types import JSON, Array, PyTree
from jaxprl.xla import guarded, jit

GROUPS = 16
"""Groups of episodes of an update."""
TOGETHER = 2048
"""Episodes that a round of all searches should have, so that many programs are decoded and run together."""
DIVERGED = "the policy diverged"
"""Why a search has stopped whose policy has parameters that are no finite numbers: all its actions would be alike."""


class State(NamedTuple):
    """S searches. Every leaf has a leading axis [S]."""

    key: jax.Array  # typed key
    evaluated: Array  # int32: episodes so far, each of which is one program evaluated
    best: Array  # int32: highest score so far
    done: Array  # bool
    policy: PyTree
    updates: Array  # int32: updates of the policy so far
    mean_return: Array  # float32: mean return of the episodes of the last update; 0 before the first one
    programs: Array  # int32: programs decoded so far
    invalid: Array  # int32: actions among them that are no program
    episodes: Episodes  # [GROUPS, E]: those of the update to come


def hprl(
    env: ProgramEnvironment,
    policy: Policy,
    *,
    budget: int,
    goal: int,
    record: Callable[[int, JSON], None] = lambda search, row: None,
    without_program: Callable[[int], None] = lambda search: None,
) -> Search:
    """Build the search.

    Args:
      env: what the policy acts in.
      policy: the policy.
      budget: programs that a search may evaluate, which is as many episodes.
      goal: score of return 1.
      record: called with the index of a search and a row of its record after every update.
      without_program: called with the index of a search whose budget is used up before an action was a program.
    """
    size = env.episodes

    def init(keys: jax.Array) -> State:
        evaluated, best = map(np.asarray, nothing_yet(keys))
        learners = [policy.init(_named(_one(keys, search), NETWORK)) for search in range(len(keys))]
        count, share = np.zeros(len(keys), np.int32), np.zeros(len(keys), np.float32)
        return State(
            key=keys,
            evaluated=evaluated,
            best=best,
            done=evaluated >= budget,
            policy=jax.tree.map(lambda *leaves: np.stack(leaves), *learners),
            updates=count,
            mean_return=share,
            programs=count,
            invalid=count,
            episodes=_blank(policy, env, len(keys)),
        )

    @guarded
    def ask(state: State, width: int) -> Asked:
        del width  # what the policy does depends on what it has learned, so nothing can be evaluated ahead
        done, evaluated = np.asarray(state.done), np.asarray(state.evaluated)
        active = np.flatnonzero(~done)
        groups = _groups(evaluated[active], size, budget)
        searches = [
            Searcher(_one(state.key, search), _one(state.policy, search), int(evaluated[search])) for search in active
        ]
        found, programs = rollout(env, policy, searches, groups)
        kept = (found.valid & found.taken).reshape(-1, env.steps)
        whole = joined(programs.reshape(*kept.shape, -1), kept)
        wanted = kept.any(axis=1).reshape(len(active), -1)
        wanted &= evaluated[active, None] + np.arange(groups * size) < budget
        question = Candidates(whole.reshape(*wanted.shape, -1), wanted)
        return Asked(*jax.tree.map(lambda leaf: _spread(leaf, active, len(done)), (question, found)))

    @guarded
    def tell(state: State, asked: Asked, scores: np.ndarray) -> tuple[State, Bests]:
        found: Episodes = asked.points
        active = np.flatnonzero(~np.asarray(state.done))
        counted, bests = _counted(state, asked.question, np.asarray(scores), budget, goal)
        best = np.maximum(state.best, np.where(bests.found, bests.score, UNKNOWN).max(axis=1)).astype(np.int32)
        evaluated = state.evaluated + counted.sum(axis=1, dtype=np.int32)
        done = np.asarray(state.done | (best >= goal) | (evaluated >= budget))
        taken = found.taken & counted[..., None]
        place = np.asarray(state.evaluated) // size % GROUPS
        after = state._replace(
            evaluated=np.asarray(evaluated),
            best=best,
            done=done,
            programs=np.asarray(state.programs + taken.sum(axis=(1, 2), dtype=np.int32)),
            invalid=np.asarray(state.invalid + (taken & ~found.valid).sum(axis=(1, 2), dtype=np.int32)),
            episodes=_kept(state.episodes, found, place, active, size),
        )
        full = np.array([s for s in active if not done[s] and after.evaluated[s] % (GROUPS * size) == 0], int)
        after, figures = _learned(policy, after, full)
        for search, row in figures.items():
            record(search, {"evaluated": int(after.evaluated[search]), **summary(after, search), **row})
        for search in active[after.done[active] & (best[active] == UNKNOWN)].tolist():
            without_program(search)
        return after, bests

    def facts(state: State, search: int) -> JSON:
        return {"policy": summary(state, search)}

    def stop_reason(state: State, search: int) -> str | None:
        return DIVERGED if state.best[search] < goal and state.evaluated[search] < budget else None

    learner, acted = shapes(policy, env)
    names = State(*State._fields)  # type: ignore[arg-type]
    template = names._replace(policy=learner, episodes=Episodes(acted, *Episodes._fields[1:]))  # type: ignore[arg-type]
    return Search(init, ask, tell, template, start_source="policy", stop_reason=stop_reason, facts=facts)


def summary(state: State, search: int) -> JSON:
    """Return what is said of a search's policy: its updates, the mean return of its episodes (those of the last update
    or, before the first one, all), the programs that were decoded, and the share of actions that are no program."""
    updates, programs = int(state.updates[search]), int(state.programs[search])
    mean = float(state.mean_return[search])
    if not updates:
        played = jax.tree.map(lambda leaf: np.asarray(leaf)[search], state.episodes._replace(acted=()))
        mean = _mean_return(played, int(state.evaluated[search]))
    share = int(state.invalid[search]) / max(programs, 1)
    return {"updates": updates, "policy_return": mean, "programs": programs, "invalid": share}


def _mean_return(episodes: Episodes, count: int) -> float:
    """Return the mean return of the first `count` episodes, whose leaves are [GROUPS, E, T]."""
    returns = np.where(episodes.taken, episodes.rewards, 0).sum(axis=-1, dtype=np.float64).reshape(-1)[:count]
    return float(returns.mean()) if len(returns) else 0.0


def _groups(evaluated: np.ndarray, size: int, budget: int) -> int:
    """Return how many groups a round has: a power of two, so that the episodes of an update end where a round does.

    Args:
      evaluated: episodes so far of the searches that go on, int32 [S].
      size: episodes of a group.
      budget: programs that a search may evaluate.
    """
    needed = -(-(budget - int(evaluated.min())) // size)
    most, groups = min(GROUPS, needed, TOGETHER // (size * len(evaluated))), 1
    while 2 * groups <= most and not (evaluated // size % (2 * groups)).any():
        groups *= 2
    return groups


def _named(key: jax.Array, name: int) -> jax.Array:
    return _folded(key, np.uint32(name))


@jit()
def _folded(key: jax.Array, name: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, name)


def _spread(leaf: np.ndarray, active: np.ndarray, searches: int) -> np.ndarray:
    """Return the leaf [A, ...] of the searches `active` as that of all searches, zero for the others."""
    whole = np.zeros((searches, *leaf.shape[1:]), leaf.dtype)
    whole[active] = leaf
    return whole


def _kept(old: Episodes, played: Episodes, place: np.ndarray, active: np.ndarray, size: int) -> Episodes:
    """Return the episodes of the update to come, with the newest ones at the groups `place`, int [S]."""

    def put(leaf: Array, new: np.ndarray) -> np.ndarray:
        leaf = np.array(leaf)
        for search in active.tolist():
            groups = new[search].reshape(-1, size, *new.shape[2:])
            leaf[search, place[search] : place[search] + len(groups)] = groups
        return leaf

    return jax.tree.map(put, old, played)


def _counted(
    state: State, question: Candidates, scores: np.ndarray, budget: int, goal: int
) -> tuple[np.ndarray, Bests]:
    """Return which episodes of a round count, bool [S, B], and the new bests among their programs.

    All count up to the first whose program has return 1, or exactly up to the budget. An episode without a program
    counts, and is no best one.
    """
    programs, wanted = map(np.asarray, question)
    before, best = np.asarray(state.evaluated)[:, None], np.asarray(state.best)[:, None]
    n = before + 1 + np.arange(scores.shape[1], dtype=np.int32)
    solves = wanted & (scores >= goal)
    counted = ~np.asarray(state.done)[:, None] & (n <= budget) & (np.cumsum(solves, axis=1) - solves == 0)
    highest = np.maximum.accumulate(np.where(counted & wanted, scores, UNKNOWN), axis=1)
    known = np.maximum(np.concatenate([best, highest[:, :-1]], axis=1), best)
    found = counted & wanted & (scores > known)
    return counted, Bests(found, n, scores.astype(np.int32), programs, np.ones_like(found))


def _learned(policy: Policy, state: State, full: np.ndarray) -> tuple[State, dict[int, JSON]]:
    """Update the policies of the searches `full`, each alone; return the state and what the updates were like.

    A search whose policy diverges is done.
    """
    updates, mean, rows = np.array(state.updates), np.array(state.mean_return), {}
    done = np.array(state.done)
    learners = state.policy
    for search in full.tolist():
        episodes = jax.tree.map(lambda leaf, search=search: leaf[search], state.episodes)
        key, learner = _one((state.key, state.policy), search)
        key = _named(_named(key, UPDATES), int(updates[search]))
        learner, rows[search] = policy.update(learner, episodes.acted, episodes.rewards, episodes.taken, key)
        learners = _with(learners, search, learner)
        updates[search] += 1
        mean[search] = _mean_return(episodes, episodes.rewards[..., 0].size)
        done[search] = not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learner))
    return state._replace(policy=learners, updates=updates, mean_return=mean, done=done), rows


@jit()
def _one(tree: PyTree, search: int) -> PyTree:
    """Return one search's row of leaves [S, ...]."""
    return jax.tree.map(lambda leaf: leaf[search], tree)


@jit()
def _with(tree: PyTree, search: int, new: PyTree) -> PyTree:
    """Return leaves [S, ...] with another row for one search."""
    return jax.tree.map(lambda leaf, row: leaf.at[search].set(row), tree, new)


def _blank(policy: Policy, env: ProgramEnvironment, searches: int) -> Episodes:
    """Return room for the episodes of an update of each search."""
    _, acted = shapes(policy, env)
    lead = (searches, GROUPS, env.episodes, env.steps)
    flags = np.zeros(lead, bool)
    room = jax.tree.map(lambda leaf: np.zeros((*lead, *leaf.shape[1:]), leaf.dtype), acted)
    return Episodes(room, np.zeros(lead, np.float32), flags, flags)
