"""Join programs: their bodies one after the other make one program."""

from __future__ import annotations

import numpy as np

from jaxprl.dsl.encode import ARITY, CONCAT, PAD, PROGRAM

_KIND = 15
"""The bits of a node that hold its kind."""


def joined(programs: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Join K programs to one, M times.

    Args:
      programs: nodes int32 [M, K, N]. Where a program is not kept, they need not form a program.
      kept: bool [M, K], the programs that are joined.

    Returns:
      Nodes int32 [M, width], as `encode` gives them, where the width is the smallest power of two that holds every row,
      at least N; zeros where no program is kept.

    Example:
      >>> from jaxprl.dsl import encode
      >>> from jaxprl.dsl.parse import parse
      >>> from jaxprl.worlds.karel.world import LANGUAGE
      >>> parts = [parse(text, LANGUAGE) for text in ("DEF run m( move move m)", "DEF run m( putMarker m)")]
      >>> rows = encode.encode_all(parts, LANGUAGE)[None]
      >>> print(encode.decode(joined(rows, np.array([[True, True]]))[0], LANGUAGE))
      DEF run m( move move putMarker m)
    """
    bodies = np.where(kept[..., None], programs, PAD)[..., 1:]
    kinds = bodies & _KIND
    # A sequence is a chain of Concat nodes, so a Concat has to come before the last statement of every body but the
    # last one. That is the first node, other than a Concat, at which one subtree is all that is left.
    left = 1 + np.cumsum(ARITY[kinds] - 1, axis=-1) - (ARITY[kinds] - 1)
    last = np.argmax((left == 1) & (kinds != CONCAT) & (kinds != PAD), axis=-1)[..., None]
    follows = (np.cumsum(kept[:, ::-1], axis=1)[:, ::-1] - kept > 0)[..., None]
    place = np.arange(bodies.shape[-1]) + (follows & (np.arange(bodies.shape[-1]) >= last))
    sizes = np.count_nonzero(bodies, axis=-1) + (kept & follows[..., 0])
    begin = 1 + np.cumsum(sizes, axis=1) - sizes
    longest = int((1 + sizes.sum(axis=1)).max(initial=1))
    found = np.zeros((len(programs), max(programs.shape[-1], 1 << (longest - 1).bit_length())), np.int32)
    found[kept.any(axis=1), 0] = PROGRAM
    row = np.broadcast_to(np.arange(len(programs))[:, None, None], bodies.shape)
    at = begin[..., None] + place
    present = bodies != PAD
    found[row[present], at[present]] = bodies[present]
    links = kept & follows[..., 0]
    found[row[..., 0][links], (begin + last[..., 0])[links]] = CONCAT
    return found
