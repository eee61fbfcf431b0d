"""Proximal policy optimization (Schulman et al. 2017) of a recurrent policy with Gaussian actions.

An update goes over the same episodes several times, each time in mini-batches of whole episodes in another order. The
advantages are normalized over all episodes of the update. The loss of a mini-batch is the mean over its steps of

    - min(ratio * advantage, clip(ratio, 1 - c, 1 + c) * advantage)
    + value weight * max((value - return)^2, (clipped value - return)^2) / 2
    - entropy weight * entropy

where the ratio is that of the action's probability density to the one with which it was drawn, the clipped value is at
most c away from the one that was expected when the action was drawn, and the entropy is summed over the dimensions of
an action. Gradients are clipped by their norm; the optimizer is Adam.

Axis letters: G mini-batches, B episodes of one, T steps of an episode, D dimensions of an action.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprl.rl import networks
from jaxprl.rl.advantages import advantages
from jaxprl.types import PyTree
from jaxprl.xla import jit


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a policy learns. The defaults are those with which HPRL was published."""

    learning_rate: float = 1e-5
    epochs: int = 3
    """How often an update goes over its episodes."""
    clip: float = 0.2
    """c, for the ratio and for the value."""
    discount: float = 0.99
    gae_lambda: float = 0.95
    """lambda of the advantages."""
    value_weight: float = 0.5
    entropy_weight: float = 0.05
    max_gradient_norm: float = 0.5
    """The norm to which larger gradients are scaled."""

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), optax.adam(self.learning_rate, eps=1e-5))


class Observer(Protocol):
    """What the agent is shown. A hashable value, since compiled functions depend on it."""

    needs_state: bool
    """Whether the images depend on the states of the worlds; otherwise all episodes have the same ones."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes, rows and columns of an image."""
        ...

    def image(self, observations: PyTree, step: jax.Array) -> jax.Array:
        """Return the images of one step, float32 [B, planes, rows, columns]; [1, ...] without `needs_state`.

        Args:
          observations: the states of B worlds, [B, ...]; nothing without `needs_state`.
          step: number of the step, int32.
        """
        ...

    def images(self, observations: PyTree) -> jax.Array:
        """Return the images of all steps, float32 [B or 1, T, ...], of observations [B, T, ...]."""
        ...


class Learner(NamedTuple):
    """A policy that learns."""

    params: networks.Params
    optimizer: PyTree
    """The state of the optimizer."""


class ActionSample(NamedTuple):
    """Actions that the policy has drawn, and what an update needs to know of them."""

    observations: PyTree  # [B, ...]: what was observed before each action
    actions: jax.Array  # float32 [B, D]
    log_probabilities: jax.Array  # float32 [B]: logarithm of the probability density of each action
    values: jax.Array  # float32 [B]: the return that was expected


class Figures(NamedTuple):
    """What an update was like: means over its mini-batches, float32 []."""

    policy_loss: jax.Array
    value_loss: jax.Array
    entropy: jax.Array
    kl: jax.Array  # estimate of the KL divergence of the policy from the one that acted
    clipped: jax.Array  # share of the steps whose ratio is out of the bounds


@jit(static_argnames=("settings", "image", "actions"))
def init(settings: Settings, image: tuple[int, int, int], actions: int, key: jax.Array) -> Learner:
    """Return a policy that has learned nothing.

    Args:
      settings: how it is going to learn.
      image: planes, rows and columns of what it is shown.
      actions: dimensions of an action.
      key: a JAX random key.
    """
    params = networks.init(key, image, actions)
    return Learner(params, settings.optimizer.init(params))


@jit(static_argnames="observer")
def act(
    observer: Observer,
    params: networks.Params,
    observations: PyTree,
    memory: jax.Array,
    keys: jax.Array,
    step: jax.Array,
) -> tuple[ActionSample, jax.Array]:
    """Draw an action for each of B episodes.

    Args:
      observer: what the agent is shown.
      params: parameters of the policy.
      observations: what the episodes observe, [B, ...].
      memory: what the policy remembers, float32 [B, STATE]; [1, STATE] if all are shown the same.
      keys: keys of the episodes, typed [B].
      step: number of the step, int32.

    Returns:
      The actions, and what the policy remembers next.
    """
    mean, value, memory = networks.advance(params, observer.image(observations, step), memory)
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), mean.shape[1:], jnp.float32))(keys)
    actions = mean + jnp.exp(params["log_std"])[None, :] * noise
    values = jnp.broadcast_to(value, keys.shape)
    return ActionSample(observations, actions, log_density(actions, mean, params["log_std"]), values), memory


def log_density(actions: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Return the logarithms of the probability densities of actions [..., D] under Gaussians, float32 [...].

    Args:
      actions: the actions.
      mean: their means, [..., D] with the same axes, some of which may be 1.
      log_std: logarithms of the standard deviations, [D].
    """
    wide = log_std.reshape(*[1] * (actions.ndim - 1), -1)
    scaled = (actions - mean) * jnp.exp(-wide)
    return jnp.sum(-0.5 * scaled**2 - wide - 0.5 * math.log(2 * math.pi), axis=-1)


def entropy(log_std: jax.Array) -> jax.Array:
    """Return the entropy of a Gaussian, summed over its dimensions [D]."""
    return jnp.sum(log_std + 0.5 * math.log(2 * math.pi * math.e))


class _Batch(NamedTuple):
    """Episodes with what is to be learned from them."""

    acted: ActionSample  # [B, T, ...]
    taken: jax.Array  # bool [B, T]
    advantages: jax.Array  # float32 [B, T]: normalized
    returns: jax.Array  # float32 [B, T]


def update(
    settings: Settings,
    observer: Observer,
    learner: Learner,
    acted: ActionSample,
    rewards: jax.Array,
    taken: jax.Array,
    key: jax.Array,
) -> tuple[Learner, Figures]:
    """Learn from episodes.

    Args:
      settings: how to learn.
      observer: what the agent is shown.
      learner: the policy that acted.
      acted: its actions, leaves [G, B, T, ...].
      rewards: what they brought, float32 [G, B, T].
      taken: the steps that were taken, bool [G, B, T].
      key: a JAX random key, for the order of the mini-batches.

    Returns:
      The policy afterwards, and what the update was like.
    """
    batches, orders = _prepared(settings, acted, rewards, taken, key)
    seen = []
    for batch in np.asarray(orders).reshape(-1):  # not a loop of XLA, in which it computes products slowly on a CPU
        learner, figures = _learn(settings, observer, learner, batches, batch)
        seen.append(figures)
    return learner, jax.tree.map(lambda *each: np.mean(each, dtype=np.float32), *seen)


@jit(static_argnames="settings")
def _prepared(
    settings: Settings, acted: ActionSample, rewards: jax.Array, taken: jax.Array, key: jax.Array
) -> tuple[_Batch, jax.Array]:
    """Return the mini-batches, leaves [G, ...], and their order in each epoch, int32 [epochs, G]."""
    groups, episodes, steps = rewards.shape

    def flat(rows: jax.Array) -> jax.Array:
        return rows.reshape(groups * episodes, steps)

    found, returns = advantages(
        flat(rewards), flat(acted.values), flat(taken), discount=settings.discount, gae_lambda=settings.gae_lambda
    )
    batches = _Batch(acted, taken, normalized(found.reshape(rewards.shape), taken), returns.reshape(rewards.shape))
    order = jax.vmap(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), groups))
    return batches, order(jnp.arange(settings.epochs, dtype=jnp.int32))


@jit(static_argnames=("settings", "observer"))
def _learn(
    settings: Settings, observer: Observer, learner: Learner, batches: _Batch, batch: jax.Array
) -> tuple[Learner, Figures]:
    """Learn from one of the mini-batches, whose number is given."""
    chosen = jax.tree.map(lambda leaf: leaf[batch], batches)
    gradient, figures = jax.grad(_loss, argnums=2, has_aux=True)(settings, observer, learner.params, chosen)
    with jax.numpy_dtype_promotion("standard"):  # optax takes a float to an integer power
        updates, optimizer = settings.optimizer.update(gradient, learner.optimizer)
    return Learner(optax.apply_updates(learner.params, updates), optimizer), figures


def normalized(found: jax.Array, taken: jax.Array) -> jax.Array:
    """Return advantages with the mean 0 and the standard deviation 1 over all steps that were taken; 0 elsewhere."""
    mean = mean_of(found, taken)
    centred = jnp.where(taken, found - mean, 0.0)
    return centred / (jnp.sqrt(mean_of(centred**2, taken)) + 1e-5)


def mean_of(values: jax.Array, taken: jax.Array) -> jax.Array:
    """Return the mean of values over the steps that were taken."""
    return jnp.sum(jnp.where(taken, values, 0.0)) / jnp.maximum(jnp.sum(taken.astype(jnp.float32)), 1.0)


def _loss(settings: Settings, observer: Observer, params: networks.Params, batch: _Batch) -> tuple[jax.Array, Figures]:
    """Return the loss of a mini-batch, and its figures."""
    acted, taken = batch.acted, batch.taken
    mean, value = networks.unroll(params, observer.images(acted.observations))
    change = log_density(acted.actions, mean, params["log_std"]) - acted.log_probabilities
    change = jnp.where(taken, change, 0.0)
    ratio, c = jnp.exp(change), settings.clip
    gain = jnp.minimum(ratio * batch.advantages, jnp.clip(ratio, 1 - c, 1 + c) * batch.advantages)
    near = acted.values + jnp.clip(value - acted.values, -c, c)
    miss = jnp.maximum((value - batch.returns) ** 2, (near - batch.returns) ** 2)
    figures = Figures(
        policy_loss=-mean_of(gain, taken),
        value_loss=0.5 * mean_of(miss, taken),
        entropy=entropy(params["log_std"]),
        kl=mean_of(ratio - 1 - change, taken),
        clipped=mean_of((jnp.abs(ratio - 1) > c).astype(jnp.float32), taken),
    )
    loss = figures.policy_loss + settings.value_weight * figures.value_loss - settings.entropy_weight * figures.entropy
    return loss, figures
