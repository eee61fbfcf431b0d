"""The kinds of program spaces that can be trained: that of LEAPS, and that of HPRL (Liu et al., ICML 2023).

| | `leaps` | `hprl` |
|---|---|---|
| latents | z in R^256 | z = tanh(a) in (-1, 1)^64, for an action a in R^64 |
| noise in training | z = mean + sigma e, e ~ N(0, I) | z = tanh(mean + sigma e), e ~ N(0, 0.1^2 I) |
| programs | the language's, of at most 45 tokens | of at most 40 tokens, REPEAT counts from 2 to 5 |
| Concat, Action | 0.5, 0.2 | 0.4, 0.3 |
| simplified (`simplify.py`) | no | yes |
| random states | walls 0.1 | walls 0.15 |
| runs end after | 100 actions | 50 actions |

The limits of height and sequences are those of the language for both kinds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxprl.dsl.language import COUNTS, STATEMENT_PROBABILITIES, Language

Name = Literal["leaps", "hprl"]


class Sizes(NamedTuple):
    """Sizes of the networks."""

    latent: int = 256  # dimensions of the latent
    encoder: int = 192  # state of the encoder's GRU
    decoder: int = 128  # state of the decoder's GRU
    behaviour: int = 64  # state of the behaviour network's GRU


@dataclasses.dataclass(frozen=True, eq=False)
class Kind:
    """A kind of program space."""

    name: Name
    sizes: Sizes
    """The sizes of its networks, unless others are asked for."""
    squashes: bool
    """Whether a latent is the tanh of an action."""
    noise: float
    """The noise in training, in sigmas."""
    log_sigma: float
    """The log sigma that a training begins with."""
    counts: range
    """The counts of REPEAT."""
    most_tokens: int
    """The tokens of the longest program, if the language does not allow fewer."""
    statements: Mapping[str, float]
    """The probabilities of statement types, as in a `Language`."""
    simplifies: bool
    """Whether random programs are simplified (`simplify.py`)."""
    walls: float
    """The probability that a cell of a random state is a wall."""
    most_actions: int
    """The most actions of a run on a random state."""

    def language(self, language: Language) -> Language:
        """Return the language of the space's programs, made of that of a task.

        Example:
          >>> from jaxprl.worlds.karel.world import LANGUAGE
          >>> HPRL.language(LANGUAGE).max_tokens, LEAPS.language(LANGUAGE) == LANGUAGE
          (40, True)
        """
        tokens = min(language.max_tokens, self.most_tokens)
        return dataclasses.replace(language, statements=self.statements, counts=self.counts, max_tokens=tokens)

    def latent_of(self, action: jax.Array) -> jax.Array:
        """Return the latents of actions, float32 [..., latent]: their tanh, or the actions themselves."""
        return jnp.tanh(action) if self.squashes else action

    def action_of(self, latent: jax.Array) -> jax.Array:
        """Return the actions of latents: the inverse of `latent_of`, for latents close to 1 or -1 up to rounding."""
        return jnp.arctanh(jnp.clip(latent, -_ALMOST_ONE, _ALMOST_ONE)) if self.squashes else latent


_ALMOST_ONE = 1 - 1e-6
"""The largest entry of a latent that has an action; beyond it float32 cannot tell actions apart."""

LEAPS = Kind(
    "leaps",
    Sizes(),
    squashes=False,
    noise=1.0,
    log_sigma=-2.0,  # sigma is about 0.14
    counts=COUNTS,
    most_tokens=Language.max_tokens,
    statements=STATEMENT_PROBABILITIES,
    simplifies=False,
    walls=0.1,
    most_actions=100,
)
HPRL = Kind(
    "hprl",
    Sizes(64, 128, 128, 64),
    squashes=True,
    noise=0.1,
    log_sigma=0.0,
    counts=range(2, 6),
    most_tokens=40,
    statements=STATEMENT_PROBABILITIES | {"Concat": 0.4, "Action": 0.3},
    simplifies=True,
    walls=0.15,
    most_actions=50,
)
KINDS: Mapping[Name, Kind] = {kind.name: kind for kind in (LEAPS, HPRL)}
"""All kinds by name."""
