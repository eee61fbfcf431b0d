"""The few operations that let one text of a rule run on Python numbers and on arrays.

A world's rule is written once, on scalars. On Python ints, bools and bytes it is the plain-Python world (the oracle,
traces); on JAX scalars, under `vmap`, it is the batched one. `&` and `|` are used for bools, never `and`, `not`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def where(condition, yes, no):
    """Return `yes` where the condition holds, else `no`."""
    if isinstance(condition, bool):
        return yes if condition else no
    return jnp.where(condition, yes, no)


def invert(condition):
    """Return the negation of a bool."""
    return not condition if isinstance(condition, bool) else jnp.logical_not(condition)


def read(table, index):
    """Return `table[index]` as an int (int32 for arrays); the index is in range."""
    if isinstance(table, bytes | tuple):
        return table[index]
    # The conditional is a fence: what XLA fuses into several users is read again in each, and then the table cannot be
    # written in place.
    return jax.lax.cond(index >= 0, _entry, lambda table, index: jnp.int32(0), table, jnp.asarray(index, jnp.int32))


def peek(table, index):
    """Return what `read` returns, without its fence: for branches of a conditional, and loops that write nothing."""
    return table[index] if isinstance(table, bytes | tuple) else _entry(table, jnp.asarray(index, jnp.int32))


def _entry(table, index):
    found = jax.lax.dynamic_index_in_dim(table, index.astype(jnp.uint32), keepdims=False, allow_negative_indices=False)
    return found.astype(jnp.int32)


def write(table, index, value):
    """Return `table` with `value` at `index`; the index is in range."""
    if isinstance(table, bytes):
        return table[:index] + bytes((value,)) + table[index + 1 :]
    if isinstance(table, tuple):
        return (*table[:index], value, *table[index + 1 :])
    new = jnp.asarray(value).astype(table.dtype)
    return jax.lax.dynamic_update_index_in_dim(
        table, new, jnp.asarray(index).astype(jnp.uint32), 0, allow_negative_indices=False
    )


def pick(constants: np.ndarray, index):
    """Return an entry of a constant int32 table."""
    return int(constants[index]) if isinstance(index, int) else jnp.asarray(constants)[index]


NO_CHANGE = np.uint32(0), np.uint32(0)
"""Hash of a grid at the start."""


def updated_hash(grid_hash, cell, change):
    """Return the hash of a grid, two uint32, after a cell's number has changed by `change`; in plain Python None.

    The hash is linear: the sum over cells of two fixed random numbers times the cell's number, modulo 2^32. Grids
    that differ have the same hash with a probability of about 2^-64.
    """
    if grid_hash is None:
        return None
    amount = change.astype(jnp.uint32)
    low, high = grid_hash
    return low + mixed(cell, 0x9E3779B1) * amount, high + mixed(cell, 0x7FEB352D) * amount


def loop(condition, body, value):
    """Return `value` after `body` for as long as `condition` holds; under `vmap` all lanes loop together."""
    if not isinstance(jax.tree.leaves(value)[0], int):
        return jax.lax.while_loop(condition, body, value)
    while condition(value):
        value = body(value)
    return value


def at_least(value, bound: int):
    """Return max(value, bound)."""
    return max(value, bound) if isinstance(value, int) else jnp.maximum(value, bound)


def at_most(value, bound: int):
    """Return min(value, bound)."""
    return min(value, bound) if isinstance(value, int) else jnp.minimum(value, bound)


def mixed(index: int | jax.Array, salt: int) -> jax.Array:
    """Return a fixed pseudo-random uint32 for every (index, salt): MurmurHash3's 32-bit finaliser."""
    x = (jnp.asarray(index).astype(jnp.uint32) + jnp.uint32(1)) * jnp.uint32(salt)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
