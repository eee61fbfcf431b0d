"""Seeds of searches and layouts: integers from 0 to `MOST`."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import SupportsIndex

from jaxprl.errors import UserError

MOST = 2**32 - 1


def checked_seed(seed: SupportsIndex, what: str = "seed") -> int:
    """Return a seed as a Python integer.

    Args:
      seed: the seed, an integer of Python or numpy.
      what: what kind of seed it is, for the message.

    Raises:
      UserError: it is not an integer from 0 to `MOST`.

    Example:
      >>> checked_seed(7)
      7
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise UserError(f"{what} {seed!r}: expected an integer") from None
    if not 0 <= number <= MOST:
        raise UserError(f"{what} {number}: seeds go from 0 to {MOST}")
    return number


def checked_seeds(seeds: Iterable[SupportsIndex], what: str = "seed") -> tuple[int, ...]:
    """Return seeds as Python integers.

    Args:
      seeds: the seeds, integers of Python or numpy.
      what: what kind of seeds they are, for the message.

    Raises:
      UserError: there is none, or one is not an integer from 0 to `MOST`.

    Example:
      >>> checked_seeds(range(3))
      (0, 1, 2)
    """
    if not isinstance(seeds, Iterable) or isinstance(seeds, str):
        raise UserError(f"{what}s {seeds!r}: expected several seeds, like range(32)")
    numbers = tuple(checked_seed(seed, what) for seed in seeds)
    if not numbers:
        raise UserError(f"{what}s: none; at least one is needed")
    return numbers
