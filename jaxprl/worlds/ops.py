"""Types and operations that let one text of a rule run on Python numbers and on arrays.

A rule of a world is written once, on scalars. On Python ints, bools and bytes it is the plain-Python world, which is
the reference and makes traces. On JAX scalars, under `vmap`, it is the batched world. Bools are combined with `&`, `|`
and `invert`, never with `and`, `or` and `not`, which need the value of an array.

Example:
  >>> def brake(speed):  # a rule: halve the speed, but stop below 2
  ...     return where(speed < 2, 0, speed // 2)
  >>> brake(9)
  4
  >>> jax.vmap(brake)(jnp.arange(5)).tolist()
  [0, 0, 1, 1, 2]
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl import types

Int: TypeAlias = types.Int | np.integer | np.ndarray
"""A Python integer or an int32 array of JAX, in rules; or an integer of numpy, in layouts."""
Bool: TypeAlias = types.Bool | np.bool | np.ndarray
"""A Python truth value or a bool array of JAX, in rules; or a bool of numpy, in layouts."""
Table: TypeAlias = bytes | tuple[int, ...] | jax.Array | np.ndarray
"""A row of numbers: in plain Python `bytes` (for uint8) or a tuple, otherwise an array [N]."""
Hash: TypeAlias = tuple[jax.Array | np.uint32, jax.Array | np.uint32] | None
"""The hash of a grid, two uint32, or None in plain Python, which compares grids exactly."""

Value = TypeVar("Value", Bool, Int)
Carry = TypeVar("Carry")

NO_CHANGE = np.uint32(0), np.uint32(0)
"""The hash of a grid at the start of a run."""


def where(condition: Bool, yes: Value, no: Value) -> Value:
    """Choose between two values.

    Args:
      condition: a bool.
      yes: the value if the condition holds.
      no: the value if it does not hold. Both values are computed in any case.

    Returns:
      One of the two.
    """
    if isinstance(condition, bool):
        return yes if condition else no
    return jnp.where(condition, yes, no)


def invert(condition: Bool) -> Bool:
    """Return the negation of a bool."""
    return not condition if isinstance(condition, bool) else jnp.logical_not(condition)


def divided(number: Int, by: int) -> tuple[Int, Int]:
    """Return the quotient and the remainder of a number that is not negative.

    Args:
      number: an int from 0 on.
      by: a Python int from 1 on.
    """
    if isinstance(number, jax.Array):  # without the cases of negative numbers
        divisor = jnp.asarray(by, number.dtype)
        return jax.lax.div(number, divisor), jax.lax.rem(number, divisor)
    return number // by, number % by


def read(table: Table, index: Int) -> Int:
    """Return an entry of a table that may be written to later on.

    Args:
      table: the table, of any integer dtype.
      index: the index of the entry, which has to be in range.

    Returns:
      `table[index]` as an int, or as an int32 scalar if `table` is an array.
    """
    if isinstance(table, bytes | tuple):
        return table[index]
    # The conditional, whose condition always holds, is a fence for XLA. Without it, XLA fuses a read into every
    # operation that uses its result, and each of them reads the entry again. Take
    #     byte = read(cells, i); cells = write(cells, i, byte + 1); count = byte & 15
    # The last line would read from the table as it was before the write. Both tables would have to exist at once, so
    # the write could not happen in place and would copy the whole table at every step of a run.
    if not _fenced.get():
        return peek(table, index)
    return jax.lax.cond(index >= 0, _entry, lambda table, index: jnp.int32(0), table, jnp.asarray(index, jnp.int32))


_fenced = contextvars.ContextVar("fenced", default=True)


@contextlib.contextmanager
def unfenced() -> Iterator[None]:
    """Trace rules for another compiler than XLA, which needs no fence in `read`."""
    token = _fenced.set(False)
    try:
        yield
    finally:
        _fenced.reset(token)


def peek(table: Table, index: Int) -> Int:
    """Return what `read` returns, without its fence: for branches of a conditional, and for loops that write nothing.

    Where nothing writes to the table, it does no harm that XLA reads an entry more than once. `World.perceive` and
    `World.glide` only look, so they use `peek`; `World.act` and rewards may write, so they use `read`.

    Args:
      table: the table, of any integer dtype.
      index: the index of the entry, which has to be in range.

    Returns:
      `table[index]` as an int, or as an int32 scalar if `table` is an array.
    """
    return table[index] if isinstance(table, bytes | tuple) else _entry(table, jnp.asarray(index, jnp.int32))


def _entry(table: jax.Array | np.ndarray, index: jax.Array) -> jax.Array:
    """Return an entry of an array as an int32 scalar. An unsigned index spares XLA the case of negative ones."""
    entry = jax.lax.dynamic_index_in_dim(table, index.astype(jnp.uint32), keepdims=False, allow_negative_indices=False)
    return entry.astype(jnp.int32)


def write(table: Table, index: Int, value: Int) -> Table:
    """Return a table with one entry replaced.

    Args:
      table: the table.
      index: the index of the entry, which has to be in range.
      value: the new entry, which has to fit the dtype of the table.

    Returns:
      The new table, of the same type.
    """
    if isinstance(table, bytes):
        return table[:index] + bytes((value,)) + table[index + 1 :]
    if isinstance(table, tuple):
        return (*table[:index], value, *table[index + 1 :])  # type: ignore[arg-type]  # all are Python ints here
    new = jnp.asarray(value).astype(table.dtype)
    return jax.lax.dynamic_update_index_in_dim(
        table, new, jnp.asarray(index).astype(jnp.uint32), 0, allow_negative_indices=False
    )


def pick(constants: np.ndarray, index: Int) -> Int:
    """Return an entry of a constant.

    Args:
      constants: int32 [N].
      index: the index of the entry, which has to be in range.

    Returns:
      `constants[index]` as an int, or as an int32 scalar if `index` is an array.
    """
    return int(constants[index]) if isinstance(index, int) else jnp.asarray(constants)[index]


def updated_hash(grid_hash: Hash, cell: Int, change: Int) -> Hash:
    """Update the hash of a grid after the number in one of its cells has changed.

    The hash is linear: the sum over all cells of two fixed random numbers times the number in the cell, modulo 2^32.
    Two different grids have the same hash with a probability of about 2^-64.

    Args:
      grid_hash: the hash before the change, or None in plain Python.
      cell: the index of the cell.
      change: the difference between the new and the old number.

    Returns:
      The hash after the change, or None in plain Python.
    """
    if grid_hash is None:
        return None
    amount = jnp.asarray(change).astype(jnp.uint32)
    low, high = grid_hash
    return low + mixed(cell, 0x9E3779B1) * amount, high + mixed(cell, 0x7FEB352D) * amount


def loop(condition: Callable[[Carry], Bool], body: Callable[[Carry], Carry], value: Carry) -> Carry:
    """Apply `body` to a value for as long as a condition on it holds.

    Args:
      condition: value -> whether to go on.
      body: value -> the next value, of the same structure, shapes and dtypes.
      value: the first value, a pytree whose leaves are all Python ints or all arrays.

    Returns:
      The first value for which the condition does not hold. Under `vmap` all lanes loop together, until the last one
      is done.
    """
    if not isinstance(jax.tree.leaves(value)[0], int):
        return jax.lax.while_loop(condition, body, value)
    while condition(value):
        value = body(value)
    return value


def at_least(value: Int, bound: int) -> Int:
    """Return the larger of a value and a bound."""
    return max(value, bound) if isinstance(value, int) else jnp.maximum(value, bound)


def at_most(value: Int, bound: int) -> Int:
    """Return the smaller of a value and a bound."""
    return min(value, bound) if isinstance(value, int) else jnp.minimum(value, bound)


def mixed(index: Int, salt: int) -> jax.Array:
    """Return a fixed pseudo-random number for every index, by the 32-bit finaliser of MurmurHash3.

    Args:
      index: an integer, or an integer array of any shape.
      salt: an odd number below 2^32, which decides which numbers these are.

    Returns:
      uint32, of the shape of `index`.
    """
    x = (jnp.asarray(index).astype(jnp.uint32) + jnp.uint32(1)) * jnp.uint32(salt)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
