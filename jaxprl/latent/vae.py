"""The program VAEs of LEAPS (Trivedi et al., NeurIPS 2021) and HPRL: networks and loss. Parameters are a plain pytree.

- Encoder: a token embedding and a GRU; its last state gives the mean and the log sigma of the latent.
- Decoder: a GRU that starts from the latent and at every step reads the latent and the previous token. A layer over
  (state, token, latent) with tanh and another layer give the logits of the next token. Tokens that the grammar does not
  allow are masked.
- Behaviour network: a GRU that starts from the latent and predicts the program's next action from the perceptions and
  the previous action.

The loss is the mean cross entropy of the program's tokens + the mean cross entropy of its actions + 0.1 * the KL
divergence to N(0, I), which is averaged over the latent's dimensions as in the published code. In a space of kind
`hprl`, the networks read tanh(mean + sigma e) with noise e of a tenth (`kinds.py`), and the divergence is that of
N(mean, sigma).

Deviations from the papers:

- The networks read and write only tokens where the grammar leaves a choice (`grammar.py`).
- An embedding of its place is added to the embedding of a token.
- The GRUs are smaller than published ones (for `leaps`, than the latent), and start from a layer over the latent.
- The behaviour network sees what programs see, the perceptions, instead of the grid.

Parameters without `place` and `start`, together with a grammar with `every_token`, are the published encoder and
decoder.

Axis letters: B programs, T steps of a sequence, V tokens of the vocabulary, R runs of a program, S actions of a run, H
state of a GRU. Arrays are float32 unless something else is said.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprl.latent.grammar import Grammar
from jaxprl.latent.kinds import LEAPS, Kind, Sizes
from jaxprl.nn import gru, linear
from jaxprl.types import PyTree
from jaxprl.xla import guarded

Params = dict[str, PyTree]
"""Nested dictionaries of arrays."""
Packing = Sequence[tuple[int, int]]
"""Pairs (steps, rows) for a batch whose rows are sorted by length, longest first: the first `steps` steps are computed
for the first `rows` rows, and so on. With ((5, 256), (2, 240)) steps 5 and 6 are computed for 240 rows only."""
KL_WEIGHT = 0.1
"""Weight of the KL divergence in the loss."""
_NEVER = -1e9
"""Logit of a token that is not allowed."""


class Batch(NamedTuple):
    """Training data: B programs, longest first, and the first S actions of R runs of each."""

    tokens: jax.Array  # int32 [B, T]: the sequences
    length: jax.Array  # int32 [B]: their lengths
    mask: jax.Array  # bool [T, B, V]: the tokens that the grammar allows
    weight: jax.Array  # float32 [B]: 1, or 0 for a row that does not count
    action: jax.Array  # int32 [B, R, S]: the actions (`data.Executions`)
    seen: jax.Array  # uint32 [B, R, S]: the perceptions before each action, one bit each
    run_length: jax.Array  # int32 [B, R]: the actions that count, with the end of the program


@guarded
def init(grammar: Grammar, key: jax.Array, sizes: Sizes = LEAPS.sizes, kind: Kind = LEAPS) -> Params:
    """Return random initial parameters.

    Args:
      grammar: the grammar of the sequences.
      key: a JAX random key.
      sizes: the sizes of the networks.
      kind: the kind of program space.
    """
    words, latent = len(grammar.words), sizes.latent
    actions, perceptions = len(grammar.language.actions), len(grammar.language.perceptions)
    keys = iter(jax.random.split(key, 16))

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(next(keys), shape)

    def new_linear(outputs: int, inputs: int, scale: float = 1.0) -> Params:
        return linear.init(next(keys), outputs, inputs, scale)

    def embedding() -> Params:
        places = grammar.steps - 1  # at the last step only the end of the program is allowed
        return {"embedding": normal(words, words), "place": 0.1 * normal(places, words)}

    encoder = {"gru": gru.init(next(keys), words, sizes.encoder), "mean": new_linear(latent, sizes.encoder)}
    encoder["log_sigma"] = new_linear(latent, sizes.encoder, 0.1)
    encoder["log_sigma"]["b"] += kind.log_sigma
    state = sizes.decoder
    decoder = {"start": new_linear(state, latent), "gru": gru.init(next(keys), words + latent, state)}
    decoder |= {"hidden": new_linear(state, state + words + latent, 2**0.5), "out": new_linear(words, state)}
    state = sizes.behaviour
    behaviour = {"start": new_linear(state, latent), "out": new_linear(actions + 1, state)}
    behaviour["gru"] = gru.init(next(keys), actions + 1 + perceptions + latent, state)
    return {"encoder": encoder | embedding(), "decoder": decoder | embedding(), "behaviour": behaviour}


@guarded
def encode(
    params: Params, tokens: jax.Array, length: jax.Array, packing: Packing | None = None
) -> tuple[jax.Array, jax.Array]:
    """Encode programs.

    Args:
      params: the parameters.
      tokens: int32 [B, T], sequences.
      length: int32 [B], their lengths.
      packing: the steps that are computed of each row; by default all.

    Returns:
      The mean and the log sigma of the latents, [B, latent] each.
    """
    encoder = params["encoder"]
    inputs = _inputs(encoder, tokens)
    cell = encoder["gru"]
    gates = inputs @ cell["w_i"].T + cell["b_i"][None, None, :]
    size = cell["w_h"].shape[1]
    states = _unroll(cell, gates.swapaxes(0, 1), jnp.zeros((len(tokens), size)), packing)
    last = states[jnp.maximum(length - 1, 0), jnp.arange(len(tokens))]
    return linear.apply(encoder["mean"], last), linear.apply(encoder["log_sigma"], last)


@guarded
def logits(params: Params, latent: jax.Array, batch_inputs: jax.Array, packing: Packing | None = None) -> jax.Array:
    """Compute the decoder's logits of the next token under teacher forcing, without the mask of the grammar.

    Args:
      params: the parameters.
      latent: [B, latent].
      batch_inputs: int32 [B, T], the token before each step (`inputs_of`).
      packing: the steps that are computed of each row; by default all. The logits of other steps are 0.

    Returns:
      [T, B, V].
    """
    decoder = params["decoder"]
    cell, hidden = decoder["gru"], decoder["hidden"]
    inputs = _inputs(decoder, batch_inputs).swapaxes(0, 1)
    words, size = inputs.shape[-1], cell["w_h"].shape[1]
    gates = inputs @ cell["w_i"][:, :words].T + (latent @ cell["w_i"][:, words:].T + cell["b_i"][None, :])[None]
    states = _unroll(cell, gates, first_state(decoder, latent), packing)
    of_state, of_token, of_latent = jnp.split(hidden["w"], [size, size + words], axis=1)
    always = latent @ of_latent.T + hidden["b"][None, :]

    def head(states: jax.Array, inputs: jax.Array, always: jax.Array) -> jax.Array:
        return linear.apply(decoder["out"], jnp.tanh(states @ of_state.T + inputs @ of_token.T + always[None]))

    if packing is None:
        return head(states, inputs, always)
    parts, done = [], 0
    for steps, rows in packing:
        place = slice(done, done + steps), slice(0, rows)
        part = head(states[place], inputs[place], always[:rows])
        parts.append(jnp.pad(part, ((0, 0), (0, len(latent) - rows), (0, 0))))
        done += steps
    return jnp.concatenate(parts)


@guarded
def behaviour_logits(params: Params, latent: jax.Array, action: jax.Array, seen: jax.Array) -> jax.Array:
    """Compute the behaviour network's logits of the next action under teacher forcing.

    Args:
      params: the parameters.
      latent: [B, latent].
      action: int32 [B, R, S], the actions. Each step sees the actions before it.
      seen: uint32 [B, R, S], the perceptions at each step, one bit each.

    Returns:
      [S, B, R, A + 1] for A actions; the last logit is the end of the program.
    """
    behaviour = params["behaviour"]
    cell = behaviour["gru"]
    actions = behaviour["out"]["b"].shape[0]
    perceptions = cell["w_i"].shape[1] - actions - latent.shape[1]
    before = jnp.concatenate([jnp.full_like(action[..., :1], actions - 1), action[..., :-1]], axis=-1)
    bits = (seen[..., None] >> jnp.arange(perceptions, dtype=jnp.uint32)[None, None, None]) & 1
    inputs = jnp.concatenate([jax.nn.one_hot(before, actions), bits.astype(jnp.float32)], axis=-1)
    known = inputs.shape[-1]
    always = latent @ cell["w_i"][:, known:].T + cell["b_i"][None, :]
    gates = inputs @ cell["w_i"][:, :known].T + always[:, None, None, :]
    rows, runs, steps, width = gates.shape
    start = jnp.repeat(first_state(behaviour, latent), runs, axis=0)
    states = gru.unroll(cell["w_h"], cell["b_h"], gates.reshape(rows * runs, steps, width).swapaxes(0, 1), start)
    return linear.apply(behaviour["out"], states).reshape(steps, rows, runs, actions)


@guarded
def loss(
    params: Params,
    batch: Batch,
    key: jax.Array,
    grammar: Grammar,
    packing: Packing | None = None,
    kind: Kind = LEAPS,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute the loss of a batch.

    Args:
      params: the parameters.
      batch: the programs and their runs.
      key: a JAX random key, for the noise of the latents.
      grammar: the grammar of the sequences.
      packing: the steps that are computed of each row; by default all.
      kind: the kind of program space.

    Returns:
      The loss, and its parts and accuracies by name; all are scalars.
    """
    mean, log_sigma = encode(params, batch.tokens, batch.length, packing)
    noise = kind.noise * jax.random.normal(key, mean.shape)
    latent = kind.latent_of(mean + jnp.exp(log_sigma) * noise)
    divergence = 0.5 * (mean**2 + jnp.exp(2 * log_sigma) - 2 * log_sigma - 1)
    kl = jnp.sum(divergence * batch.weight[:, None]) / (jnp.sum(batch.weight) * mean.shape[1])

    scores = masked(logits(params, latent, inputs_of(grammar, batch.tokens), packing), batch.mask)
    tokens = batch.tokens.T
    counts = jnp.where(jnp.arange(tokens.shape[0])[:, None] < batch.length[None, :], batch.weight[None, :], 0.0)
    reconstruction = _mean(_cross_entropy(scores, tokens), counts)

    guess = behaviour_logits(params, latent, batch.action, batch.seen)
    done = batch.action.transpose(2, 0, 1)
    steps = jnp.arange(done.shape[0])[:, None, None]
    acted = jnp.where(steps < batch.run_length[None], batch.weight[None, :, None], 0.0)
    behaviour = _mean(_cross_entropy(guess, done), acted)
    parts = {
        "reconstruction": reconstruction,
        "behaviour": behaviour,
        "kl": kl,
        "token_accuracy": _mean(jnp.argmax(scores, axis=-1) == tokens, counts),
        "action_accuracy": _mean(jnp.argmax(guess, axis=-1) == done, acted),
    }
    return reconstruction + behaviour + KL_WEIGHT * kl, parts


def inputs_of(grammar: Grammar, tokens: jax.Array) -> jax.Array:
    """Return the token before each step of sequences int32 [B, T], int32 [B, T]."""
    return jnp.concatenate([jnp.full_like(tokens[:, :1], grammar.first), tokens[:, :-1]], axis=1)


def first_state(part: Params, latent: jax.Array) -> jax.Array:
    """Return the state [B, H] that a GRU starts from; in the published model it is the latent itself."""
    return jnp.tanh(linear.apply(part["start"], latent)) if "start" in part else latent


def _inputs(part: Params, tokens: jax.Array) -> jax.Array:
    """Return the embeddings of tokens [B, T] with those of their places, [B, T, V]."""
    embedded = part["embedding"][tokens]
    if "place" not in part:
        return embedded
    places = jnp.minimum(jnp.arange(tokens.shape[1]), len(part["place"]) - 1)
    return embedded + part["place"][places][None]


def _unroll(cell: Params, gates: jax.Array, h: jax.Array, packing: Packing | None) -> jax.Array:
    """Return the states [T, B, H] of a GRU; they are 0 at steps that the packing leaves out."""
    run = functools.partial(gru.unroll, cell["w_h"], cell["b_h"])
    if packing is None:
        return run(gates, h)
    parts, done = [], 0
    for steps, rows in packing:
        states = run(gates[done : done + steps, :rows], h[:rows])
        parts.append(jnp.pad(states, ((0, 0), (0, gates.shape[1] - rows), (0, 0))))
        h, done = states[-1], done + steps
    return jnp.concatenate(parts)


def masked(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the logits with those of tokens that are not allowed set to a number below all others."""
    return jnp.where(mask, scores, _NEVER)


def _cross_entropy(scores: jax.Array, target: jax.Array) -> jax.Array:
    """Return the cross entropy of targets int [...] under logits [..., classes], [...]."""
    chosen = jnp.take_along_axis(scores, target[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(scores, axis=-1) - chosen


def _mean(values: jax.Array, counts: jax.Array) -> jax.Array:
    """Return the mean of the values whose count is positive."""
    return jnp.sum(jnp.where(counts > 0, values.astype(jnp.float32), 0.0)) / jnp.maximum(jnp.sum(counts), 1)
