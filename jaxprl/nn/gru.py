"""A gated recurrent unit in the convention of PyTorch's `nn.GRU`: gates in the order r, z, n, weights [out, in].

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)      z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn))   h' = (1 - z) n + z h

Axis letters: T steps, B sequences, I inputs, H size of the state. All arrays are float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Params = dict[str, jax.Array]
"""`w_i` [3H, I], `w_h` [3H, H], `b_i` [3H] and `b_h` [3H]."""
_Gates = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""r, z, n and W_hn h + b_hn, [B, H] each."""
_Saved = tuple[jax.Array, jax.Array, jax.Array, _Gates]
"""What the backward pass needs: `w_h`, the first state, the states and the gates [T, ...]."""


def init(key: jax.Array, inputs: int, hidden: int) -> Params:
    """Return initial parameters as in LEAPS: orthogonal weights, and biases of zero.

    Args:
      key: a JAX random key.
      inputs: number of inputs, I.
      hidden: size of the state, H.
    """
    input_key, hidden_key = jax.random.split(key)
    orthogonal = jax.nn.initializers.orthogonal()
    return {
        "w_i": orthogonal(input_key, (3 * hidden, inputs), jnp.float32),
        "w_h": orthogonal(hidden_key, (3 * hidden, hidden), jnp.float32),
        "b_i": jnp.zeros(3 * hidden, jnp.float32),
        "b_h": jnp.zeros(3 * hidden, jnp.float32),
    }


def step(params: Params, inputs: jax.Array, h: jax.Array) -> jax.Array:
    """Take one step.

    Args:
      params: the parameters.
      inputs: [B, 3H], W_i x + b_i.
      h: [B, H], the state.

    Returns:
      [B, H], the next state.
    """
    return _step(params["w_h"], params["b_h"], inputs, h)[0]


def _step(w_h: jax.Array, b_h: jax.Array, inputs: jax.Array, h: jax.Array) -> tuple[jax.Array, _Gates]:
    """Return the next state and the gates."""
    hr, hz, hn = jnp.split(h @ w_h.T + b_h[None, :], 3, axis=-1)
    ir, iz, in_ = jnp.split(inputs, 3, axis=-1)
    r, z = jax.nn.sigmoid(ir + hr), jax.nn.sigmoid(iz + hz)
    n = jnp.tanh(in_ + r * hn)
    return (1 - z) * n + z * h, (r, z, n, hn)


@jax.custom_vjp
def unroll(w_h: jax.Array, b_h: jax.Array, inputs: jax.Array, h: jax.Array) -> jax.Array:
    """Take T steps.

    The gradient of `w_h` is computed as one matrix product over all steps, which is much faster on a CPU than the sum
    of T small products that differentiating the scan would give.

    Args:
      w_h: [3H, H].
      b_h: [3H].
      inputs: [T, B, 3H], W_i x + b_i of every step.
      h: [B, H], the state before the first step.

    Returns:
      [T, B, H], the state after each step.
    """

    def advance(h: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        h, _ = _step(w_h, b_h, inputs, h)
        return h, h

    return jax.lax.scan(advance, h, inputs)[1]


def _forward(w_h: jax.Array, b_h: jax.Array, inputs: jax.Array, h: jax.Array) -> tuple[jax.Array, _Saved]:
    """Return the states, and what the backward pass needs."""

    def advance(h: jax.Array, inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, _Gates]]:
        new, gates = _step(w_h, b_h, inputs, h)
        return new, (new, gates)

    _, (states, gates) = jax.lax.scan(advance, h, inputs)
    return states, (w_h, h, states, gates)


def _backward(saved: _Saved, d_states: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return the gradients of `w_h`, `b_h`, the inputs and the first state, from those of the states."""
    w_h, first, states, gates = saved
    before = jnp.concatenate([first[None], states[:-1]])

    def back(
        d_h: jax.Array, step: tuple[jax.Array, jax.Array, _Gates]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Go one step back. `d_hidden` is the gradient of W_h h + b_h, for the gates r, z, n."""
        d_state, h, (r, z, n, hn) = step
        d_h = d_h + d_state
        d_n = d_h * (1 - z) * (1 - n * n)
        d_z = d_h * (h - n) * z * (1 - z)
        d_r = d_n * hn * r * (1 - r)
        d_hidden = jnp.concatenate([d_r, d_z, d_n * r], axis=-1)
        return d_h * z + d_hidden @ w_h, (d_n, d_hidden)

    d_first, (d_n, d_hidden) = jax.lax.scan(back, jnp.zeros_like(first), (d_states, before, gates), reverse=True)
    size = first.shape[1]
    d_inputs = jnp.concatenate([d_hidden[..., : 2 * size], d_n], axis=-1)
    d_w = d_hidden.reshape(-1, 3 * size).T @ before.reshape(-1, size)
    return d_w, jnp.sum(d_hidden, axis=(0, 1)), d_inputs, d_first


unroll.defvjp(_forward, _backward)
