"""Program space: where searches in it start, and which programs are neighbours.

Points are programs themselves, drawn from the grammar of a language (`dsl/sample.py`).
"""

from __future__ import annotations

import jax

from jaxprl.dsl import sample
from jaxprl.dsl.language import Language
from jaxprl.search.names import STARTS
from jaxprl.xla import jit


def random_starts(language: Language, keys: jax.Array, climb: jax.Array) -> jax.Array:
    """Return the random programs int32 [S, N] that the climbs number `climb`, int32 [S], start from."""
    return sample.random_programs(language, _named(keys, climb))


@jit()
def _named(keys: jax.Array, climb: jax.Array) -> jax.Array:
    return jax.vmap(lambda key, number: jax.random.fold_in(jax.random.fold_in(key, STARTS), number))(keys, climb)


def mutations(
    language: Language, programs: jax.Array, keys: jax.Array, counts: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return neighbours by mutation, one for every key, in the form that `hill_climbing` asks for.

    Args:
      language: the language of the programs.
      programs: int32 [S, N].
      keys: typed [S, B].
      counts: int32 [S]; ignored, since drawing all costs no more than drawing some.

    Returns:
      The neighbours int32 [S, B, N], and what was changed, int32 [S, B, 2] (`Neighbourhoods.changed`).
    """
    del counts
    return sample.neighbours(language, programs, keys)
