"""Program space: where searches in it start, and which programs are neighbours.

Points are programs themselves, drawn from the grammar of a language (`dsl/sample.py`).
"""

from __future__ import annotations

import jax

from jaxprl.dsl import encode, sample
from jaxprl.dsl.language import PROGRAM_NODES, Language
from jaxprl.dsl.parts import Parts
from jaxprl.search.names import STARTS
from jaxprl.xla import jit


def random_starts(language: Language, keys: jax.Array, climb: jax.Array, *, limited: bool = True) -> jax.Array:
    """Return the random programs int32 [S, N] that the climbs number `climb`, int32 [S], start from."""
    return random_programs(language, _named(keys, climb), limited=limited)


def random_programs(language: Language, keys: jax.Array, *, limited: bool = True) -> jax.Array:
    """Return one random program per key, int32 [B, N].

    Without the limit of tokens, rows have room for the largest program that an engine runs; one that is larger, in
    Karel's language one in a hundred million, is drawn again.
    """
    width = encode.WIDTH if limited else PROGRAM_NODES
    return sample.random_programs(language, keys, width, limited=limited)


@jit()
def _named(keys: jax.Array, climb: jax.Array) -> jax.Array:
    return jax.vmap(lambda key, number: jax.random.fold_in(jax.random.fold_in(key, STARTS), number))(keys, climb)


def mutations(
    language: Language,
    programs: jax.Array,
    keys: jax.Array,
    counts: jax.Array,
    *,
    small: bool = False,
    limited: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Return neighbours by mutation, one for every key, in the form that `hill_climbing` asks for.

    Args:
      language: the language of the programs.
      programs: int32 [S, N].
      keys: typed [S, B].
      counts: int32 [S]; ignored, since drawing all costs no more than drawing some.
      small: whether the new subtrees are small wherever they stand (`grow.Growth.small`).
      limited: whether the limits of the language hold (`sample.neighbours`).

    Returns:
      The neighbours int32 [S, B, N], and what was changed, int32 [S, B, 2] (`Neighbourhoods.changed`).
    """
    del counts
    return sample.neighbours(language, programs, keys, small=small, limited=limited)


def exchanges(
    language: Language, share: float, parts: Parts, programs: jax.Array, keys: jax.Array, counts: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return neighbours in which a node is exchanged for a part of other programs, or else mutated.

    Args:
      language: the language of the programs.
      share: the probability of a part (`dsl/parts.py`).
      parts: the parts of S searches.
      programs, keys, counts: as in `mutations`, like the result.
    """
    del counts
    return sample.neighbours(language, programs, keys, parts=parts, share=share)
