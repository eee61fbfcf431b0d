"""A recurrent policy network: what an agent is shown at each step of an episode -> a Gaussian of actions, and a value.

Two convolutions (4x4 and 2x2, 32 channels each, no padding, ReLU) and a layer of 64 with ReLU turn an image into
features. A GRU with a state of 64, which is zero when an episode begins, reads one image a step. Its state gives the
mean of the action and the value, by a layer each. The logarithm of the standard deviation is a free parameter for each
dimension of an action, and begins at 0. Weights are orthogonal at first. Parameters are a plain pytree.

Axis letters: B episodes, T steps, P planes of an image, H rows, W columns, D dimensions of an action. All arrays are
float32.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxprl.nn import gru, linear

Params = dict[str, Any]
"""Nested dictionaries of arrays."""
CHANNELS, FEATURES, STATE = 32, 64, 64
KERNELS = (4, 2)
"""Rows and columns of the filters of the two convolutions."""
LEAST = sum(KERNELS) - 1
"""Rows and columns of the smallest image that the convolutions take; smaller ones are filled up with zeros."""


def init(key: jax.Array, image: tuple[int, int, int], actions: int) -> Params:
    """Return random initial parameters.

    Args:
      key: a JAX random key.
      image: planes, rows and columns of an image.
      actions: dimensions of an action, D.
    """
    planes, *sides = image
    keys = iter(jax.random.split(key, 6))
    shrinkage = LEAST - 1
    positions = (max(sides[0], LEAST) - shrinkage) * (max(sides[1], LEAST) - shrinkage)

    def layer(outputs: int, inputs: int, scale: float = 1.0) -> Params:
        return linear.init(next(keys), outputs, inputs, scale)

    relu = 2**0.5
    return {
        "near": layer(CHANNELS, planes * KERNELS[0] ** 2, relu),
        "far": layer(CHANNELS, CHANNELS * KERNELS[1] ** 2, relu),
        "features": layer(FEATURES, CHANNELS * positions, relu),
        "gru": gru.init(next(keys), FEATURES, STATE),
        "mean": layer(actions, STATE),
        "value": layer(1, STATE),
        "log_std": jnp.zeros(actions),
    }


def advance(params: Params, images: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Take one step of B episodes.

    Args:
      params: the parameters.
      images: [B, P, H, W].
      h: [B, STATE], the state of the GRU.

    Returns:
      The mean of the action [B, D], the value [B], and the next state of the GRU.
    """
    h = gru.step(params["gru"], _gates(params, images), h)
    return *_heads(params, h), h


def unroll(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Go through whole episodes.

    Args:
      params: the parameters.
      images: [B, T, P, H, W].

    Returns:
      The means of the actions [B, T, D], and the values [B, T].
    """
    episodes, steps = images.shape[:2]
    gates = _gates(params, images.reshape(-1, *images.shape[2:])).reshape(episodes, steps, -1)
    cell = params["gru"]
    states = gru.unroll(cell["w_h"], cell["b_h"], gates.swapaxes(0, 1), jnp.zeros((episodes, STATE)))
    return _heads(params, states.swapaxes(0, 1))


def _gates(params: Params, images: jax.Array) -> jax.Array:
    """Return the contributions of images [N, P, H, W] to the gates of the GRU, [N, 3 * STATE]."""
    missing = [(0, max(0, LEAST - side)) for side in images.shape[2:]]
    planes = jnp.pad(images, ((0, 0), (0, 0), *missing))
    for name, side in zip(("near", "far"), KERNELS, strict=True):
        layer = params[name]
        filters = layer["w"].reshape(CHANNELS, planes.shape[1], side, side)
        planes = jax.lax.conv_general_dilated(planes, filters, (1, 1), "VALID")
        planes = jax.nn.relu(planes + layer["b"][None, :, None, None])
    features = jax.nn.relu(linear.apply(params["features"], planes.reshape(len(images), -1)))
    return features @ params["gru"]["w_i"].T + params["gru"]["b_i"][None, :]


def _heads(params: Params, states: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return means [..., D] and values [...] of states of the GRU [..., STATE]."""
    flat = states.reshape(-1, STATE)
    mean, value = linear.apply(params["mean"], flat), linear.apply(params["value"], flat)
    return mean.reshape(*states.shape[:-1], -1), value.reshape(states.shape[:-1])
