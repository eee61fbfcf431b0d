"""A gated recurrent unit, in the convention of PyTorch's `nn.GRU`: gates r, z, n in this order, weights [out, in].

r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)      z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
n = tanh(W_in x + b_in + r * (W_hn h + b_hn))   h' = (1 - z) n + z h
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Params = dict[str, jax.Array]
"""w_i [3H, I], w_h [3H, H], b_i [3H], b_h [3H]."""


def init(key: jax.Array, inputs: int, hidden: int) -> Params:
    """Return orthogonal weights and no biases (as LEAPS starts)."""
    input_key, hidden_key = jax.random.split(key)
    orthogonal = jax.nn.initializers.orthogonal()
    return {
        "w_i": orthogonal(input_key, (3 * hidden, inputs), jnp.float32),
        "w_h": orthogonal(hidden_key, (3 * hidden, hidden), jnp.float32),
        "b_i": jnp.zeros(3 * hidden),
        "b_h": jnp.zeros(3 * hidden),
    }


def step(params: Params, inputs: jax.Array, h: jax.Array) -> jax.Array:
    """Return the state [B, H] after one step; `inputs` [B, 3H] is W_i x + b_i."""
    return _step(params["w_h"], params["b_h"], inputs, h)[0]


def _step(w_h: jax.Array, b_h: jax.Array, inputs: jax.Array, h: jax.Array):
    hr, hz, hn = jnp.split(h @ w_h.T + b_h[None, :], 3, axis=-1)
    ir, iz, in_ = jnp.split(inputs, 3, axis=-1)
    r, z = jax.nn.sigmoid(ir + hr), jax.nn.sigmoid(iz + hz)
    n = jnp.tanh(in_ + r * hn)
    return (1 - z) * n + z * h, (r, z, n, hn)


@jax.custom_vjp
def unroll(w_h: jax.Array, b_h: jax.Array, inputs: jax.Array, h: jax.Array) -> jax.Array:
    """Return the states [T, B, H] after each step, from `inputs` [T, B, 3H] and the state `h` [B, H] before the first.

    Its gradient gathers what the weights get from all steps in one product, which is what a CPU does fast.
    """

    def advance(h, inputs):
        h, _ = _step(w_h, b_h, inputs, h)
        return h, h

    return jax.lax.scan(advance, h, inputs)[1]


def _forward(w_h, b_h, inputs, h):
    def advance(h, inputs):
        new, gates = _step(w_h, b_h, inputs, h)
        return new, (new, gates)

    _, (states, gates) = jax.lax.scan(advance, h, inputs)
    return states, (w_h, h, states, gates)


def _backward(saved, d_states):
    w_h, first, states, gates = saved
    before = jnp.concatenate([first[None], states[:-1]])

    def back(d_h, step):
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
