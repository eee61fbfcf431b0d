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
latent). The rows of embeddings and of the last layer are reordered from the model's vocabulary to ours. The file does
not say which that is: the known ones (`vocabularies.py`) are tried on random programs, and the one in which the model
gives programs back is taken. Other names (the behaviour network, critics) are ignored.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode
from jaxprl.dsl.sample import random_programs
from jaxprl.dsl.text import token_count
from jaxprl.errors import UserError, needed_by
from jaxprl.latent.grammar import Grammar
from jaxprl.latent.space import LatentSpace, Origin
from jaxprl.latent.vocabularies import KNOWN, Vocabulary
from jaxprl.nn.gru import Params
from jaxprl.worlds.karel.world import LANGUAGE as KAREL
from jaxprl.xla import guarded

PROGRAMS = 256
"""Programs that an order of tokens is tried on."""
_TOKENS = range(10, 20)
"""Their lengths in tokens: short enough that any working model brings most of them back."""
_DRAWN = 2048
"""Random programs among which there are enough of these lengths."""
_FEWEST, _STANDS_OUT = PROGRAMS // 20, 2
"""How many programs come back in the right order at least, and how many times as many as in any other one. Of a
published model it is nearly all against none; single ones can come back by chance."""

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


class Trial(NamedTuple):
    """A model read in one order of tokens."""

    vocabulary: Vocabulary
    space: LatentSpace
    back: int  # of `PROGRAMS` programs, those that the model decodes from what it encodes them to

    @property
    def in_words(self) -> str:
        """The order and the figures."""
        return f"{self.vocabulary.name} ({self.vocabulary.source}): {self.back} of {PROGRAMS} programs come back"


def load(file: Path, vocabulary: Vocabulary | None = None) -> LatentSpace:
    """Read a model in the order of tokens in which it gives programs back.

    Args:
      file: as in `weights_of`.
      vocabulary: as in `tried`.

    Returns:
      The program space. Its origin says what came of each order.

    Raises:
      UserError: as `weights_of` and `tried`.
    """
    return tried(weights_of(file), vocabulary)[0].space


def weights_of(file: Path) -> dict[str, np.ndarray]:
    """Read a file that `torch.save` wrote.

    Args:
      file: the file, which holds a state dict or a list that begins with one.

    Returns:
      The arrays of the state dict by name, float32.

    Raises:
      UserError: if PyTorch is not installed, or if the file cannot be read or holds something else.
    """
    with needed_by("reading PyTorch files", extra="torch"):
        import torch
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from None
    except (RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{file} is no file of PyTorch weights: {reason}") from None
    weights = content[0] if isinstance(content, list | tuple) and content else content
    if not isinstance(weights, Mapping):
        raise UserError(f"{file} holds no state dict, but a {type(weights).__name__}")
    tensors = {str(name): leaf for name, leaf in weights.items() if isinstance(leaf, torch.Tensor)}
    return {name: leaf.detach().float().numpy() for name, leaf in tensors.items()}


@guarded
def tried(weights: Mapping[str, np.ndarray], vocabulary: Vocabulary | None = None) -> list[Trial]:
    """Read a state dict in each of the orders of tokens, and try how many programs it gives back.

    Args:
      weights: the arrays by name.
      vocabulary: the tokens of the model, in its order; by default the known orders are tried.

    Returns:
      What came of the orders, best first. The origin of the first space says the same.

    Raises:
      UserError: if next to no program comes back in any order, if no order stands out, and as `from_state_dict`.
    """
    orders = KNOWN if vocabulary is None else (vocabulary,)
    spaces = [from_state_dict(weights, order.tokens) for order in orders]
    trials = [Trial(order, space, _brought_back(space)) for order, space in zip(orders, spaces, strict=True)]
    trials.sort(key=lambda trial: -trial.back)
    best, *others = trials
    figures = "; ".join(trial.in_words for trial in trials)
    if best.back < _FEWEST:
        raise UserError(
            f"the model does not give programs back, as at least {_FEWEST} of {PROGRAMS} should: {figures}; "
            "--vocabulary names another order"
        )
    if others and best.back < _STANDS_OUT * others[0].back:
        raise UserError(f"no order of tokens stands out: {figures}; --vocabulary names the right one")
    report = {"programs": PROGRAMS, "back": {trial.vocabulary.name: trial.back for trial in trials}}
    origin = Origin(command=f"PyTorch state dict, tokens in the order {best.vocabulary.name}", report=report)
    return [best._replace(space=LatentSpace(best.space.grammar, best.space.params, origin)), *others]


@functools.cache
def _programs() -> np.ndarray:
    """Return distinct random programs of moderate length, int32 [PROGRAMS, N]."""
    drawn = np.asarray(random_programs(KAREL, jax.random.split(jax.random.key(0, impl="threefry2x32"), _DRAWN)))
    rows = {row.tobytes(): row for row in drawn}.values()
    wanted = [row for row in rows if token_count(encode.decode(row, KAREL)) in _TOKENS]
    return np.stack(wanted[:PROGRAMS])


def _brought_back(space: LatentSpace) -> int:
    """Return how many of `_programs` a model decodes from what it encodes them to."""
    programs = _programs()
    decoded, valid = space.decode(space.encode(programs))
    return int(np.sum(np.asarray(valid) & np.all(np.asarray(decoded) == programs, axis=1)))


@guarded
def from_state_dict(weights: Mapping[str, np.ndarray], tokens: Sequence[str]) -> LatentSpace:
    """Convert a state dict, without a look at what the model does.

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
