"""A linear layer: a weight `w` [outputs, inputs] and a bias `b` [outputs], float32, as in PyTorch's `nn.Linear`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Params = dict[str, jax.Array]
"""`w` and `b`."""


def init(key: jax.Array, outputs: int, inputs: int, scale: float = 1.0) -> Params:
    """Return initial parameters: an orthogonal weight times a scale, and a bias of zero.

    Args:
      key: a JAX random key.
      outputs: number of outputs.
      inputs: number of inputs.
      scale: what the weight is multiplied by.
    """
    weight = jax.nn.initializers.orthogonal(scale)(key, (outputs, inputs), jnp.float32)
    return {"w": weight, "b": jnp.zeros(outputs, jnp.float32)}


def apply(layer: Params, inputs: jax.Array) -> jax.Array:
    """Apply a layer to the last axis.

    Args:
      layer: its parameters.
      inputs: float32 [..., inputs].

    Returns:
      float32 [..., outputs].
    """
    bias = layer["b"].reshape((1,) * (inputs.ndim - 1) + (-1,))
    return inputs @ layer["w"].T + bias
