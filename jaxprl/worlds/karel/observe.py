"""Show Karel's state as the boolean planes of the literature."""

from __future__ import annotations

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.worlds.karel.world import COUNT, GATE, MAX_MARKERS, WALL, KarelState, KarelWorld

PLANES = 4 + 1 + MAX_MARKERS + 1
"""The number of planes, 16."""


def planes(world: KarelWorld, state: KarelState) -> jax.Array | np.ndarray:
    """Return the planes of a state.

    The order is that of the Karel worlds of HC and LLM-GS, which go back to Bunel et al. (ICLR 2018). LEAPS has the
    planes of the robot in the order north, south, west, east.

    Args:
      world: the world.
      state: a plain state, or one of numpy or JAX values.

    Returns:
      bool [16, H, W], a numpy array for a plain or numpy state, otherwise a JAX array. Planes 0..3 show the robot
      facing north, east, south and west; 4 shows walls, including closed doors; 5..15 show the cells with 0, 1, ..., 10
      markers (walls are in plane 5).
    """
    xp: ModuleType = jnp if isinstance(state.cells, jax.Array) else np
    cells = xp.asarray(np.frombuffer(state.cells, np.uint8) if isinstance(state.cells, bytes) else state.cells)
    cells = cells.reshape(world.height + 2, world.stride)
    here = (xp.arange(cells.size, dtype=xp.int32) == state.cell).reshape(cells.shape)
    robot = here[None] & (xp.arange(4, dtype=xp.int32) == state.direction)[:, None, None]
    gates = ((cells & GATE) != 0) & xp.logical_not(state.opened)
    counts = (cells & COUNT)[None] == xp.arange(MAX_MARKERS + 1, dtype=xp.uint8)[:, None, None]
    stacked = xp.concatenate([robot, (((cells & WALL) != 0) | gates)[None], counts])
    return stacked[:, 1:-1, 1:-1]
