"""Reads the weights of the published LEAPS program VAE, and of reimplementations with the same architecture.

A PyTorch state dict, which maps names to arrays, becomes the parameters of `vae.py`. With V tokens and H = latent size:

    ours                  shape             LEAPS (below `vae.`)            reimplementations with flat names
    encoder embedding     [V, V]            encoder.token_encoder.weight    token_encoder.weight
    encoder gru w_i       [3H, V]           encoder.gru.weight_ih_l0        encoder_gru.weight_ih_l0
    encoder gru w_h       [3H, H]           encoder.gru.weight_hh_l0        encoder_gru.weight_hh_l0
    encoder gru b_i, b_h  [3H]              encoder.gru.bias_ih_l0, bias_hh_l0   encoder_gru.bias_ih_l0, bias_hh_l0
    encoder mean          [H, H], [H]       _enc_mu.weight, bias            encoder_mu.weight, bias
    encoder log_sigma     [H, H], [H]       _enc_log_sigma.weight, bias     encoder_log_sigma.weight, bias
    decoder embedding     [V, V]            decoder.token_encoder.weight    token_encoder.weight
    decoder gru           [3H, V + H], ...  decoder.gru....                 decoder_gru....
    decoder hidden        [H, H + V + H]    decoder.token_output_layer.0    decoder_mlp.0
    decoder out           [V, H]            decoder.token_output_layer.2    decoder_mlp.2

Gates are in the order r, z, n. The decoder's GRU reads (token, latent), and the layer behind it reads (state, token,
latent). The rows of embeddings and of the last layer are reordered from the published vocabulary to ours. Other names
(the behaviour network, critics) are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl.language import COUNTS
from jaxprl.errors import UserError
from jaxprl.latent.grammar import PADDING, Grammar
from jaxprl.latent.gru import Params
from jaxprl.latent.space import LatentSpace, Origin
from jaxprl.worlds.karel.world import LANGUAGE as KAREL

TOKENS = (
    "DEF", "run", "m(", "m)", "move", "turnRight", "turnLeft", "pickMarker", "putMarker", "r(", "r)",
    *(f"R={count}" for count in COUNTS), "REPEAT", "c(", "c)", "i(", "i)", "e(", "e)", "IF", "IFELSE", "ELSE",
    "frontIsClear", "leftIsClear", "rightIsClear", "markersPresent", "noMarkersPresent", "not", "w(", "w)", "WHILE",
    PADDING,
)  # fmt: skip
"""The published vocabulary, in its order."""

# Where each part is in the state dicts of LEAPS, and in those of reimplementations with flat names.
_NESTED = {
    "encoder.embedding": "encoder.token_encoder.weight",
    "encoder.gru": "encoder.gru",
    "encoder.mean": "_enc_mu",
    "encoder.log_sigma": "_enc_log_sigma",
    "decoder.embedding": "decoder.token_encoder.weight",
    "decoder.gru": "decoder.gru",
    "decoder.hidden": "decoder.token_output_layer.0",
    "decoder.out": "decoder.token_output_layer.2",
}
_FLAT = {
    "encoder.embedding": "token_encoder.weight",
    "encoder.gru": "encoder_gru",
    "encoder.mean": "encoder_mu",
    "encoder.log_sigma": "encoder_log_sigma",
    "decoder.embedding": "token_encoder.weight",
    "decoder.gru": "decoder_gru",
    "decoder.hidden": "decoder_mlp.0",
    "decoder.out": "decoder_mlp.2",
}
_GRU = {"w_i": "weight_ih_l0", "w_h": "weight_hh_l0", "b_i": "bias_ih_l0", "b_h": "bias_hh_l0"}
_LINEAR = {"w": "weight", "b": "bias"}


def load(file: Path, tokens: Sequence[str] = TOKENS) -> LatentSpace:
    """Read a file that `torch.save` wrote.

    Args:
      file: the file, which holds a state dict or a list that begins with one.
      tokens: the vocabulary of the model, in its order.

    Returns:
      The program space.

    Raises:
      UserError: if PyTorch is not installed, and as `from_state_dict`.
    """
    try:
        import torch
    except ImportError:
        raise UserError("reading PyTorch files needs PyTorch: pip install 'jaxprl[torch]'") from None
    content = torch.load(file, map_location="cpu", weights_only=True)
    weights = content[0] if isinstance(content, list | tuple) else content
    return from_state_dict({name: leaf.numpy() for name, leaf in weights.items()}, tokens)


def from_state_dict(weights: Mapping[str, np.ndarray], tokens: Sequence[str] = TOKENS) -> LatentSpace:
    """Convert a state dict.

    Args:
      weights: the arrays by name.
      tokens: the vocabulary of the model, in its order.

    Returns:
      The program space.

    Raises:
      UserError: if a name is missing, an array has another shape, or the vocabulary has other words.
    """
    weights = {name.removeprefix("vae."): np.asarray(leaf, np.float32) for name, leaf in weights.items()}
    names = _FLAT if _FLAT["encoder.gru"] + ".weight_ih_l0" in weights else _NESTED
    grammar = Grammar.of(KAREL, every_token=True)
    if sorted(tokens) != sorted(grammar.words):
        differing = ", ".join(sorted(set(tokens) ^ set(grammar.words)))
        raise UserError(f"the vocabulary is not that of {KAREL.name}: {differing or 'a word comes twice'}")
    order = [list(tokens).index(word) for word in grammar.words]
    words, latent = len(order), _array(weights, names["encoder.mean"] + ".bias", (None,)).shape[0]

    def cell(name: str, inputs: int) -> Params:
        shapes = {"w_i": (3 * latent, inputs), "w_h": (3 * latent, latent), "b_i": (3 * latent,), "b_h": (3 * latent,)}
        return {ours: _array(weights, f"{names[name]}.{theirs}", shapes[ours]) for ours, theirs in _GRU.items()}

    def linear(name: str, outputs: int, inputs: int) -> Params:
        shapes = {"w": (outputs, inputs), "b": (outputs,)}
        return {ours: _array(weights, f"{names[name]}.{theirs}", shapes[ours]) for ours, theirs in _LINEAR.items()}

    def embedding(name: str) -> jax.Array:
        return _array(weights, names[name], (words, words))[jnp.array(order)]

    out = linear("decoder.out", words, latent)
    params = {
        "encoder": {
            "embedding": embedding("encoder.embedding"),
            "gru": cell("encoder.gru", words),
            "mean": linear("encoder.mean", latent, latent),
            "log_sigma": linear("encoder.log_sigma", latent, latent),
        },
        "decoder": {
            "embedding": embedding("decoder.embedding"),
            "gru": cell("decoder.gru", words + latent),
            "hidden": linear("decoder.hidden", latent, latent + words + latent),
            "out": {name: leaf[jnp.array(order)] for name, leaf in out.items()},
        },
    }
    return LatentSpace(grammar, params, Origin(command="PyTorch state dict"))


def _array(weights: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...]) -> jax.Array:
    """Return an array of the state dict. Raises UserError unless it has this shape; None stands for any length."""
    if name not in weights:
        raise UserError(f"the state dict has no {name}")
    array = weights[name]
    if len(array.shape) != len(shape) or any(
        expected not in (None, length) for expected, length in zip(shape, array.shape, strict=True)
    ):
        raise UserError(f"{name} has shape {array.shape}, expected {shape}")
    return jnp.asarray(array)
