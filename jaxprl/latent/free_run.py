"""Decodes latents greedily: the decoder writes sequences by itself, many at once.

Axis letters: B sequences, L sequences that are being written, T steps of a sequence, V tokens of the vocabulary, H
state of the GRU. Arrays are float32 unless something else is said.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprl.latent import vae
from jaxprl.latent.grammar import Automaton, Grammar
from jaxprl.nn import gru, linear
from jaxprl.xla import guarded

_STAGES = (1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 1 / 16)
"""Sizes of the shrinking batch of `free_run`, as shares of the whole batch."""
FEWEST = 64
"""The smallest number of sequences that are written together (`free_run`)."""


@guarded
def free_run(
    grammar: Grammar, params: vae.Params, latent: jax.Array, *, in_stages: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Decode latents greedily: the decoder writes sequences by itself, always the likeliest token.

    Sequences differ in length. In stages, those that have ended leave the batch, so that decoding costs little more
    than the tokens it writes. For example, a batch of 512 continues with 384 lanes as soon as 128 of its sequences have
    ended, then with 256, and so on down to `FEWEST` = 64.

    A sequence must not depend on the sequences that are written beside it. On a CPU, a matrix product rounds a row in
    the same way whatever the other rows are and, from `FEWEST` rows on, however many there are. So on a CPU a sequence
    is the same in all batches of `FEWEST` or more. On other devices this holds for batches of one size without stages.

    Args:
      grammar: the grammar of the sequences.
      params: the parameters.
      latent: [B, latent].
      in_stages: whether sequences leave the batch when they have ended.

    Returns:
      The sequences, int32 [B, T], and whether each has come to its end, bool [B]. Under the mask of the grammar, it
      always has.
    """
    count = len(latent)
    lanes = first_lanes(grammar, params["decoder"], latent)
    written = jnp.full((count + 1, grammar.steps), grammar.padding, jnp.int32)  # the last row is scratch for fillers
    step = jnp.int32(0)
    sizes = [round(count * share) for share in _STAGES if round(count * share) >= FEWEST] if in_stages else []
    sizes = sizes or [count]
    for size, following in zip(sizes, [*sizes[1:], 0], strict=True):
        if size < count:
            # Shapes are static, so exactly `size` lanes go on. If fewer sequences are still being written, lane 0 fills
            # the rest up. Such a filler writes into the scratch row. If lanes 1 and 3 of 4 go on in a batch of 3, then
            # `kept` is 1, 3, 0 and their owners become 1, 3, 4.
            (kept,) = jnp.nonzero(~lanes.automaton.ended, size=size, fill_value=0)
            filler = jnp.arange(size) >= jnp.sum(~lanes.automaton.ended)
            lanes = jax.tree.map(lambda leaf, kept=kept: leaf[kept], lanes)
            lanes = lanes._replace(owner=jnp.where(filler, count, lanes.owner))
        step, lanes = _write_until(grammar, params["decoder"], step, lanes, following)
        written = written.at[lanes.owner].set(lanes.written)
    return written[:count], jnp.any(written[:count] == grammar.id_of["m)"], axis=1)


class _Lanes(NamedTuple):
    """Sequences that are being written, L of them."""

    automaton: Automaton  # their places in the grammar
    token: jax.Array  # int32 [L]: the latest tokens
    h: jax.Array  # [L, H]: the states of the GRU
    always: jax.Array  # [L, 4H]: the latent's contribution to the gates and to the hidden layer, equal at every step
    written: jax.Array  # int32 [L, T]: the sequences so far
    owner: jax.Array  # int32 [L]: row of the result


def first_lanes(grammar: Grammar, decoder: vae.Params, latent: jax.Array) -> _Lanes:
    """Return the lanes before the first step."""
    count, size, words = len(latent), decoder["gru"]["w_h"].shape[1], decoder["embedding"].shape[1]
    from_latent = jnp.concatenate([decoder["gru"]["w_i"][:, words:], decoder["hidden"]["w"][:, size + words :]])
    bias = jnp.concatenate([decoder["gru"]["b_i"], decoder["hidden"]["b"]])
    return _Lanes(
        automaton=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), grammar.start()),
        token=jnp.full(count, grammar.first, jnp.int32),
        h=vae.first_state(decoder, latent),
        always=latent @ from_latent.T + bias[None, :],
        written=jnp.full((count, grammar.steps), grammar.padding, jnp.int32),
        owner=jnp.arange(count, dtype=jnp.int32),
    )


def _write_until(
    grammar: Grammar, decoder: vae.Params, step: jax.Array, lanes: _Lanes, alive: int
) -> tuple[jax.Array, _Lanes]:
    """Write tokens until at most `alive` sequences have not ended, and return the next step and the lanes.

    The contribution of a token to the gates and to the hidden layer depends only on the token and the step, so all of
    them are computed at once (`by_token`, `by_place`), and every step looks them up.
    """
    cell, hidden = decoder["gru"], decoder["hidden"]
    size, words = cell["w_h"].shape[1], decoder["embedding"].shape[1]
    from_token = jnp.concatenate([cell["w_i"][:, :words], hidden["w"][:, size : size + words]])
    by_token = decoder["embedding"] @ from_token.T
    by_place = decoder["place"] @ from_token.T if "place" in decoder else jnp.zeros((grammar.steps, len(from_token)))
    from_state = hidden["w"][:, :size].T

    def goes_on(carry: tuple[jax.Array, _Lanes]) -> jax.Array:
        step, lanes = carry
        return (step < grammar.steps) & (jnp.sum(~lanes.automaton.ended) > alive)

    def advance(carry: tuple[jax.Array, _Lanes]) -> tuple[jax.Array, _Lanes]:
        step, lanes = carry
        # This is twice as fast as adding the place to what is looked up.
        rows = by_token + by_place[jnp.minimum(step, len(by_place) - 1)][None]
        inputs = rows[lanes.token] + lanes.always
        h = gru.step(cell, inputs[:, : 3 * size], lanes.h)
        scores = linear.apply(decoder["out"], jnp.tanh(h @ from_state + inputs[:, 3 * size :]))
        allowed = jax.vmap(grammar.mask)(lanes.automaton)
        token = jnp.argmax(vae.masked(scores, allowed), axis=1).astype(jnp.int32)
        written = jax.lax.dynamic_update_index_in_dim(lanes.written, token, step, 1)
        automaton = jax.vmap(grammar.advance)(lanes.automaton, token)
        return step + 1, lanes._replace(automaton=automaton, token=token, h=h, written=written)

    return jax.lax.while_loop(goes_on, advance, (step, lanes))
