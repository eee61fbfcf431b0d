"""Karel's state as the boolean planes of the literature."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.worlds.karel.world import COUNT, GATE, MAX_MARKERS, WALL, Geometry, Karel

PLANES = 4 + 1 + MAX_MARKERS + 1


def planes(world: Geometry, state: Karel) -> Any:
    """Return bool [16, H, W]: 0..3 the robot facing north, east, south, west; 4 walls, closed doors too; 5..15 cells
    with 0, 1, .. 10 markers (wall cells are in plane 5).

    The order is that of the Karel worlds of HC and LLM-GS, which go back to Bunel et al. (ICLR 2018). LEAPS has the
    robot's planes in the order north, south, west, east. A numpy array for a plain or numpy state, else a JAX array.
    """
    xp: Any = jnp if isinstance(state.cells, jax.Array) else np
    cells = np.frombuffer(state.cells, np.uint8) if isinstance(state.cells, bytes) else state.cells
    cells = cells.reshape(world.height + 2, world.stride)
    there = (xp.arange(cells.size, dtype=xp.int32) == state.cell).reshape(cells.shape)
    robot = there[None] & (xp.arange(4, dtype=xp.int32) == state.direction)[:, None, None]
    gates = ((cells & GATE) != 0) & xp.logical_not(state.opened)
    counts = (cells & COUNT)[None] == xp.arange(MAX_MARKERS + 1, dtype=xp.uint8)[:, None, None]
    stacked = xp.concatenate([robot, (((cells & WALL) != 0) | gates)[None], counts])
    return stacked[:, 1:-1, 1:-1]
