"""Names for types that several parts of the package use. Importing this module does not import JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Union

if TYPE_CHECKING:
    import jax

JSON: TypeAlias = dict[str, Any]
"""A JSON object: a row of a record, a configuration, a result."""

PyTree: TypeAlias = Any
"""A pytree of any structure."""

Int: TypeAlias = Union[int, "jax.Array"]  # not with |, which cannot join a string
"""A Python integer, or an integer array."""

Bool: TypeAlias = Union[bool, "jax.Array"]
"""A Python truth value, or a bool array."""

Array: TypeAlias = Any
"""An array of numpy or of JAX, for records that hold either: their common interface has no type of its own."""
