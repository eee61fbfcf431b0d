"""Seeds of searches and layouts: integers from 0 to `MOST`."""

from __future__ import annotations

import operator
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
