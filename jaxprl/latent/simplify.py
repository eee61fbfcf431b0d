"""Simplifies random programs, and tells which of them teach nothing (Liu et al., ICML 2023), as array code.

Neighbouring actions that undo each other are left out until there are none: turnLeft and turnRight, pickMarker and
putMarker, in either order. `turnLeft move pickMarker putMarker turnRight` becomes `turnLeft move turnRight`.

A program is dropped if

- a block of it is empty then,
- a run of tokens comes `MOST_REPEATS` times or more in a row, like `move turnLeft move turnLeft ...`, or
- a WHILE of it does nothing but pick or put markers.

Runs of tokens are looked for in the sequence of choices (`grammar.py`), where a WHILE of one action is four tokens.

Axis letters: P programs, N nodes, T steps of a sequence, V tokens of the vocabulary.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.latent import sequences
from jaxprl.latent.grammar import Grammar, masks
from jaxprl.xla import guarded

MOST_REPEATS = 9
"""The number of repetitions of a run of tokens from which on a program is dropped."""
_TURNS, _MARKERS = ("turnLeft", "turnRight"), ("pickMarker", "putMarker")
"""Actions that undo each other."""


@guarded
def simplified(grammar: Grammar, programs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Simplify programs of Karel's language.

    Args:
      grammar: the grammar of the sequences, of choices alone.
      programs: int32 [P, N], nodes.

    Returns:
      The simplified programs, int32 [P, WIDTH], and which of them are kept, bool [P]; the others are all zeros.
    """
    tokens, _, fine = jax.vmap(functools.partial(sequences.from_nodes, grammar))(programs)
    tokens = jax.vmap(functools.partial(_cancelled, grammar))(tokens)
    allowed = jnp.take_along_axis(masks(grammar, tokens), tokens.T[..., None], axis=2)[..., 0]
    kept = fine & jnp.all(allowed, axis=0)
    kept &= ~jax.vmap(functools.partial(_repeats, grammar))(tokens)
    kept &= ~jax.vmap(functools.partial(_only_moves_markers, grammar))(tokens)
    nodes, _ = jax.vmap(functools.partial(sequences.to_nodes, grammar))(tokens)
    return jnp.where(kept[:, None], nodes, 0), kept


def _cancelled(grammar: Grammar, tokens: jax.Array) -> jax.Array:
    """Return a sequence int32 [T] without neighbouring actions that undo each other.

    The tokens that stay are kept as a stack: a token that undoes its top takes it away.
    """
    undoes = np.full(len(grammar.words), -1, np.int32)  # for each token the one that it undoes
    for one, other in (_TURNS, _MARKERS):
        undoes[grammar.id_of[one]], undoes[grammar.id_of[other]] = grammar.id_of[other], grammar.id_of[one]

    def step(carry: tuple[jax.Array, jax.Array], token: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        stack, size = carry
        cancels = (size > 0) & (jnp.asarray(undoes)[token] == stack[size - 1])
        written = stack.at[jnp.where(cancels, size - 1, size)].set(jnp.where(cancels, grammar.padding, token))
        change = jnp.where(token == grammar.padding, 0, jnp.where(cancels, -1, 1))
        return (written, size + change), None

    empty = jnp.full_like(tokens, grammar.padding)
    return jax.lax.scan(step, (empty, jnp.int32(0)), tokens)[0][0]


def _repeats(grammar: Grammar, tokens: jax.Array) -> jax.Array:
    """Return whether a run of tokens of a sequence int32 [T] comes `MOST_REPEATS` times in a row, bool.

    A run of `length` tokens does if the tokens are equal to those `length` further on, many times in a row.
    """
    found = jnp.bool_(False)
    for length in range(1, len(tokens) // MOST_REPEATS + 1):
        same = (tokens[:-length] == tokens[length:]) & (tokens[length:] != grammar.padding)
        total = jnp.cumsum(jnp.append(jnp.zeros(1, jnp.int32), same.astype(jnp.int32)), dtype=jnp.int32)
        wanted = length * (MOST_REPEATS - 1)
        found |= jnp.any(total[wanted:] - total[:-wanted] == wanted)
    return found


def _only_moves_markers(grammar: Grammar, tokens: jax.Array) -> jax.Array:
    """Return whether a WHILE of a sequence int32 [T] does nothing but pick or put markers, bool.

    It does if since its beginning there has been nothing but its condition and such actions.
    """
    is_while, ends = tokens == grammar.id_of["WHILE"], tokens == grammar.id_of["w)"]
    harmless = np.isin(grammar.words, ["not", *_MARKERS, *grammar.language.perceptions])
    index = jnp.arange(len(tokens), dtype=jnp.int32)
    opened = jax.lax.cummax(jnp.where(is_while, index, -1))
    other = jax.lax.cummax(jnp.where(is_while | jnp.asarray(harmless)[tokens], -1, index))
    before = jnp.append(jnp.full(1, -1, jnp.int32), other[:-1])
    return jnp.any(ends & (opened > before))
