"""Where a program can change, as array code: what sampling has to know of each of its nodes (`grow.Spots`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.dsl import encode, grow
from jaxprl.dsl.encode import AND, CONCAT, CONSTANT, COUNT, IF, IFELSE, NOT, OR, PERCEPTION, PROGRAM, REPEAT, WHILE
from jaxprl.dsl.grow import Growth
from jaxprl.dsl.language import Language

_COUNTS_HEIGHT = np.isin(np.arange(16), [PROGRAM, WHILE, REPEAT, IF, IFELSE])


def spots_of(language: Language, growth: Growth, nodes: jax.Array) -> tuple[grow.Spots, jax.Array]:
    """Return the spots of one program, and the sizes of its subtrees, int32 [N].

    The spots are those of one program: `choices` is int32 [] and all other leaves are [N]. As an example, the program
    `DEF run m( move turnLeft putMarker m)`, whose chain of three statements takes two Concat nodes:

        node          0 PROGRAM  1 CONCAT  2 move  3 CONCAT  4 turnLeft  5 putMarker
        parent                0         0       1         1           3            3
        place                 1         1       1         2           1            1
        position              1         1       6         1           6            1
        before                0         0       0         1           0            2
        tokens                          4       6         5           6            6

    A Concat is not allowed in place of `move`, the first part of a Concat. In place of node 3 a chain of at most five
    statements fits, since one statement comes before it. Without `move`, six tokens are left.
    """
    n = nodes.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    kind = encode.kinds(nodes)
    end, parent = encode.tree(nodes)
    above = kind[parent]
    first = index == parent + 1
    used = kind != encode.PAD
    joins = (above == CONCAT) & ~first
    counted = jnp.asarray(_COUNTS_HEIGHT)[kind].astype(jnp.int32)

    # The height of a node, and the place of a Concat in its chain, counted from 1. Parents come before their children,
    # so one pass is enough.
    def follow(carry: tuple[jax.Array, jax.Array], i: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        height, place = carry
        height = height.at[i].set(height[parent[i]] + counted[i])
        return (height, place.at[i].set(jnp.where(joins[i], place[parent[i]] + 1, 1))), None

    (height, place), _ = jax.lax.scan(follow, (counted, jnp.ones(n, jnp.int32)), index[1:])
    length = jnp.where((kind == CONCAT), place + 1, 1)  # statements of the chain up to and including this Concat's
    fits = (_outside(jnp.where(used, height, 0), end) <= language.max_height) & (
        _outside(jnp.where(used, length, 0), end) <= language.max_sequence
    )
    before = jnp.append(jnp.int32(0), jnp.cumsum(tokens_of(language, nodes), dtype=jnp.int32))
    without = before[-1] - (before[end] - before[index])
    is_condition = (kind == PERCEPTION) | (kind == CONSTANT) | (kind == NOT) | (kind == AND) | (kind == OR)
    plain = (above == NOT) | (above == IFELSE)
    grows = jnp.select(
        [kind == COUNT, is_condition & plain, is_condition], [grow.NUMBER, grow.PLAIN_CONDITION, grow.CONDITION], 0
    )
    spots = grow.Spots(
        choices=jnp.sum(used) - 1,
        grows=grows,
        position=jnp.where((above == CONCAT) & first, growth.sequence(language), 0 if growth.small else 1),
        # Beyond the limit all heights are alike, and `_spot` has three bits for one.
        height=jnp.minimum(height - counted if growth.small else height, 5),
        counted=jnp.zeros_like(counted) if growth.small else counted,
        before=jnp.where(joins, place[parent], 0),
        tokens=without,
        fits=fits,
    )
    return jax.tree.map(lambda leaf: leaf if leaf.dtype == bool else leaf.astype(jnp.int32), spots), end - index


def _outside(values: jax.Array, end: jax.Array) -> jax.Array:
    """Return the largest of the values, int32 [N], of nodes outside the subtree of each node; they are not negative."""
    before = jnp.append(jnp.int32(0), jax.lax.cummax(values))
    behind = jnp.append(jax.lax.cummax(values, reverse=True), jnp.int32(0))
    return jnp.maximum(before[:-1], behind[end])


def tokens_of(language: Language, nodes: jax.Array) -> jax.Array:
    """Return the number of tokens that each node adds to the text, int32 [N]."""
    kind = encode.kinds(nodes)
    perception = jnp.asarray(grow.tokens_of_perceptions(language))[jnp.maximum(encode.values(nodes), 0)]
    return jnp.where(kind == PERCEPTION, perception, jnp.asarray(grow.OWN_TOKENS)[kind])
