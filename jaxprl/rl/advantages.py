"""Generalized advantage estimation (Schulman et al. 2016) for episodes of at most T steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def advantages(
    rewards: jax.Array, values: jax.Array, taken: jax.Array, *, discount: float, gae_lambda: float
) -> tuple[jax.Array, jax.Array]:
    """Estimate how much better each action was than expected.

    An episode is over behind its last step: nothing is expected to follow, whatever ended it.

    Args:
      rewards: float32 [B, T], the reward of each step.
      values: float32 [B, T], the return that was expected before each step.
      taken: bool [B, T], the steps that were taken. Once one is not taken, none of the later ones is.
      discount: gamma, the weight of the next step's return.
      gae_lambda: lambda, the weight of later estimates.

    Returns:
      The advantages and the returns that the values should have been, float32 [B, T] each; 0 where no step was taken.

    Example:
      >>> rewards, values = jnp.array([[0.0, 1.0, 5.0]]), jnp.array([[0.5, 0.25, 5.0]])
      >>> taken = jnp.array([[True, True, False]])
      >>> [each.tolist() for each in advantages(rewards, values, taken, discount=1.0, gae_lambda=1.0)]
      [[[0.5, 0.75, 0.0]], [[1.0, 1.0, 0.0]]]
    """
    present = jnp.where(taken, values, 0.0)
    following = jnp.pad(present[:, 1:], ((0, 0), (0, 1)))
    surprise = jnp.where(taken, rewards + discount * following - values, 0.0)

    def back(later: jax.Array, surprise: jax.Array) -> tuple[jax.Array, jax.Array]:
        now = surprise + discount * gae_lambda * later
        return now, now

    _, found = jax.lax.scan(back, jnp.zeros(len(rewards)), surprise.T, reverse=True)
    return found.T, found.T + present
