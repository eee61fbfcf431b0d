"""The program VAE of LEAPS (Trivedi et al., NeurIPS 2021): networks and loss. Parameters are a plain pytree.

- Encoder: a token embedding and a GRU; its last state gives the mean and the log sigma of the latent.
- Decoder: a GRU that starts from the latent and at every step reads the latent and the previous token. A layer over
  (state, token, latent) with tanh and another layer give the logits of the next token. Tokens that the grammar does not
  allow are masked.
- Behaviour network: a GRU that starts from the latent and predicts the program's next action from the perceptions and
  the previous action.

The loss is the mean cross entropy of the program's tokens + the mean cross entropy of its actions + 0.1 * the KL
divergence to N(0, I), which is averaged over the latent's dimensions as in the published code.

Deviations from the paper:

- The networks read and write only tokens where the grammar leaves a choice (`grammar.py`).
- An embedding of its place is added to the embedding of a token.
- The GRUs are smaller than the latent, and start from a layer over it.
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

from jaxprl.latent import gru
from jaxprl.latent.grammar import Automaton, Grammar
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
_STAGES = (1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 1 / 16)
"""Sizes of the shrinking batch of `free_run`, as shares of the whole batch."""
FEWEST = 64
"""The smallest number of sequences that are written together (`free_run`)."""


class Sizes(NamedTuple):
    """Sizes of the networks."""

    latent: int = 256  # dimensions of the latent
    encoder: int = 192  # state of the encoder's GRU
    decoder: int = 128  # state of the decoder's GRU
    behaviour: int = 64  # state of the behaviour network's GRU


SIZES = Sizes()


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
def init(grammar: Grammar, key: jax.Array, sizes: Sizes = SIZES) -> Params:
    """Return random initial parameters.

    Args:
      grammar: the grammar of the sequences.
      key: a JAX random key.
      sizes: the sizes of the networks.
    """
    words, latent = len(grammar.words), sizes.latent
    actions, perceptions = len(grammar.language.actions), len(grammar.language.perceptions)
    keys = iter(jax.random.split(key, 16))

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(next(keys), shape)

    def linear(outputs: int, inputs: int, scale: float = 1.0) -> Params:
        weight = jax.nn.initializers.orthogonal(scale)(next(keys), (outputs, inputs), jnp.float32)
        return {"w": weight, "b": jnp.zeros(outputs)}

    def embedding() -> Params:
        places = grammar.steps - 1  # at the last step only the end of the program is allowed
        return {"embedding": normal(words, words), "place": 0.1 * normal(places, words)}

    encoder = {"gru": gru.init(next(keys), words, sizes.encoder), "mean": linear(latent, sizes.encoder)}
    encoder["log_sigma"] = linear(latent, sizes.encoder, 0.1)
    encoder["log_sigma"]["b"] -= 2.0  # start with little noise: sigma is about 0.14
    state = sizes.decoder
    decoder = {"start": linear(state, latent), "gru": gru.init(next(keys), words + latent, state)}
    decoder |= {"hidden": linear(state, state + words + latent, 2**0.5), "out": linear(words, state)}
    state = sizes.behaviour
    behaviour = {"start": linear(state, latent), "out": linear(actions + 1, state)}
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
    return _linear(encoder["mean"], last), _linear(encoder["log_sigma"], last)


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
    states = _unroll(cell, gates, _start(decoder, latent), packing)
    of_state, of_token, of_latent = jnp.split(hidden["w"], [size, size + words], axis=1)
    always = latent @ of_latent.T + hidden["b"][None, :]

    def head(states: jax.Array, inputs: jax.Array, always: jax.Array) -> jax.Array:
        return _linear(decoder["out"], jnp.tanh(states @ of_state.T + inputs @ of_token.T + always[None]))

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
    start = jnp.repeat(_start(behaviour, latent), runs, axis=0)
    states = gru.unroll(cell["w_h"], cell["b_h"], gates.reshape(rows * runs, steps, width).swapaxes(0, 1), start)
    return _linear(behaviour["out"], states).reshape(steps, rows, runs, actions)


@guarded
def loss(
    params: Params, batch: Batch, key: jax.Array, grammar: Grammar, packing: Packing | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute the loss of a batch.

    Args:
      params: the parameters.
      batch: the programs and their runs.
      key: a JAX random key, for the noise of the latents.
      grammar: the grammar of the sequences.
      packing: the steps that are computed of each row; by default all.

    Returns:
      The loss, and its parts and accuracies by name; all are scalars.
    """
    mean, log_sigma = encode(params, batch.tokens, batch.length, packing)
    latent = mean + jnp.exp(log_sigma) * jax.random.normal(key, mean.shape)
    divergence = 0.5 * (mean**2 + jnp.exp(2 * log_sigma) - 2 * log_sigma - 1)
    kl = jnp.sum(divergence * batch.weight[:, None]) / (jnp.sum(batch.weight) * mean.shape[1])

    scores = _masked(logits(params, latent, inputs_of(grammar, batch.tokens), packing), batch.mask)
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


@guarded
def free_run(
    grammar: Grammar, params: Params, latent: jax.Array, *, in_stages: bool = True
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
    lanes = _first_lanes(grammar, params["decoder"], latent)
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


def _first_lanes(grammar: Grammar, decoder: Params, latent: jax.Array) -> _Lanes:
    """Return the lanes before the first step."""
    count, size, words = len(latent), decoder["gru"]["w_h"].shape[1], decoder["embedding"].shape[1]
    from_latent = jnp.concatenate([decoder["gru"]["w_i"][:, words:], decoder["hidden"]["w"][:, size + words :]])
    bias = jnp.concatenate([decoder["gru"]["b_i"], decoder["hidden"]["b"]])
    return _Lanes(
        automaton=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), grammar.start()),
        token=jnp.full(count, grammar.first, jnp.int32),
        h=_start(decoder, latent),
        always=latent @ from_latent.T + bias[None, :],
        written=jnp.full((count, grammar.steps), grammar.padding, jnp.int32),
        owner=jnp.arange(count, dtype=jnp.int32),
    )


def _write_until(
    grammar: Grammar, decoder: Params, step: jax.Array, lanes: _Lanes, alive: int
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
        rows = (
            by_token + by_place[jnp.minimum(step, len(by_place) - 1)][None]
        )  # twice as fast as adding the place behind the gather
        inputs = rows[lanes.token] + lanes.always
        h = gru.step(cell, inputs[:, : 3 * size], lanes.h)
        scores = _linear(decoder["out"], jnp.tanh(h @ from_state + inputs[:, 3 * size :]))
        allowed = jax.vmap(grammar.mask)(lanes.automaton)
        token = jnp.argmax(_masked(scores, allowed), axis=1).astype(jnp.int32)
        written = jax.lax.dynamic_update_index_in_dim(lanes.written, token, step, 1)
        automaton = jax.vmap(grammar.advance)(lanes.automaton, token)
        return step + 1, lanes._replace(automaton=automaton, token=token, h=h, written=written)

    return jax.lax.while_loop(goes_on, advance, (step, lanes))


def _start(part: Params, latent: jax.Array) -> jax.Array:
    """Return the state [B, H] that a GRU starts from; in the published model it is the latent itself."""
    return jnp.tanh(_linear(part["start"], latent)) if "start" in part else latent


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


def _linear(layer: Params, inputs: jax.Array) -> jax.Array:
    """Apply a linear layer to the last axis."""
    bias = layer["b"].reshape((1,) * (inputs.ndim - 1) + (-1,))
    return inputs @ layer["w"].T + bias


def _masked(scores: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, scores, _NEVER)


def _cross_entropy(scores: jax.Array, target: jax.Array) -> jax.Array:
    """Return the cross entropy of targets int [...] under logits [..., classes], [...]."""
    chosen = jnp.take_along_axis(scores, target[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(scores, axis=-1) - chosen


def _mean(values: jax.Array, counts: jax.Array) -> jax.Array:
    """Return the mean of the values whose count is positive."""
    return jnp.sum(jnp.where(counts > 0, values.astype(jnp.float32), 0.0)) / jnp.maximum(jnp.sum(counts), 1)
