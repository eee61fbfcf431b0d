"""Show MiniGrid's state as the package does: the whole grid, and the agent's view of 7x7 cells.

An object is encoded as (type, colour, door state) with Farama's numbers. The results are numpy arrays for a plain or
numpy state, otherwise JAX arrays.
"""

from __future__ import annotations

from types import ModuleType
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.worlds.minigrid.world import (
    COLOR_BITS,
    COLORS,
    DOOR,
    OBJECT,
    TYPE_BITS,
    WALL,
    MiniGridState,
    MiniGridWorld,
    is_open,
    item,
)

Array: TypeAlias = jax.Array | np.ndarray

VIEW = 7
"""The side of the agent's view in cells, which is the same in all environments of the package that are tasks."""
EMPTY, AGENT = 1, 10
"""Farama's numbers for an empty cell and for the agent."""
_X, _Y = np.array([1, 0, -1, 0], np.int32), np.array([0, 1, 0, -1], np.int32)  # a step in each direction
# For each cell of a view, [across][ahead]: how far it is to the right of the agent, and how far ahead.
_ACROSS, _AHEAD = np.meshgrid(np.arange(VIEW) - VIEW // 2, VIEW - 1 - np.arange(VIEW), indexing="ij")
_ACROSS, _AHEAD = _ACROSS.astype(np.int32), _AHEAD.astype(np.int32)
_ALL = 2**VIEW - 1  # a row of cells that are all set, as a number


def encoded(objects: Array) -> Array:
    """Encode objects as Farama does.

    Args:
      objects: int32 [...], packed objects (`world.item`), 0 for none.

    Returns:
      uint8 [..., 3]: the type, colour and door state of each. What boxes hold is not shown.
    """
    xp: ModuleType = jnp if isinstance(objects, jax.Array) else np
    objects = objects & OBJECT
    kind = xp.where(objects == 0, EMPTY, objects & 15)
    color, stands = objects >> TYPE_BITS & 7, objects >> (TYPE_BITS + COLOR_BITS)
    return xp.stack([kind, color, stands], axis=-1).astype(xp.uint8)


def grid(world: MiniGridWorld, state: MiniGridState) -> Array:
    """Return the whole grid, like the package's `FullyObsWrapper`.

    Args:
      world: the world.
      state: a plain state, or one of numpy or JAX values.

    Returns:
      uint8 [W, H, 3]: every cell as `encoded` gives it, and the cell of the agent as (10, 0, direction).
    """
    cells, xp = _cells(state)
    here = (xp.arange(cells.size, dtype=xp.int32) == state.cell)[:, None]
    agent = xp.stack([xp.int32(AGENT), xp.int32(COLORS["red"]), xp.int32(state.direction)]).astype(xp.uint8)
    shown = xp.where(here, agent[None], encoded(cells))
    return shown.reshape(world.width + 2, world.stride, 3)[1:-1, 1:-1]


def view(world: MiniGridWorld, state: MiniGridState) -> Array:
    """Return what the agent sees, like the package's `gen_obs`.

    Args:
      world: the world.
      state: a plain state, or one of numpy or JAX values.

    Returns:
      uint8 [7, 7, 3]: the cells as `encoded` gives them, indexed [across][ahead]. The agent is at (3, 6) and looks up,
      which is towards index 0 of the second axis. Its own cell shows what it carries. Cells behind walls and closed
      doors are (0, 0, 0), unless the world is `see_through`.
    """
    cells, xp = _cells(state)
    facing, right = state.direction, (state.direction + 1) & 3
    turns_x, turns_y = xp.asarray(_X), xp.asarray(_Y)
    x, y = world.position(state.cell)
    x = x + turns_x[facing] * _AHEAD + turns_x[right] * _ACROSS
    y = y + turns_y[facing] * _AHEAD + turns_y[right] * _ACROSS
    inside = (x >= 0) & (x < world.width) & (y >= 0) & (y < world.height)
    objects = xp.where(inside, cells[xp.where(inside, world.cell(x, y), 0)], item("wall", "grey"))
    own = (_ACROSS == 0) & (_AHEAD == 0)
    shown = encoded(xp.where(own, state.carrying, objects))
    if world.see_through:
        return shown
    return xp.where(_seen(objects, xp)[..., None], shown, xp.uint8(0))


def mission(state: MiniGridState) -> Array:
    """Return the objects that the mission names.

    Args:
      state: a plain state, or one of numpy or JAX values.

    Returns:
      uint8 [4]: the type and colour of the target, and those of the landmark near which the target has to be put; zeros
      for none.
    """
    xp: ModuleType = jnp if isinstance(state.cells, jax.Array) else np
    named = xp.stack([xp.int32(state.mission.target), xp.int32(state.mission.landmark)])
    return xp.stack([named & 15, named >> TYPE_BITS & 7], axis=-1).reshape(4).astype(xp.uint8)


def _seen(objects: Array, xp: ModuleType) -> Array:
    """Return which cells of a view are seen, bool [7, 7], as the package's `process_vis` decides it.

    Light spreads from the agent's cell, row by row. In a row it goes to the right and then to the left, through cells
    that do not hide what is behind them. From each of these it goes on to the row ahead: to the cell straight ahead,
    and to the one beside that in the direction of the light.

    A row is a number with one bit per cell, so that all its cells are treated at once. Example: cell 3 of a row is lit,
    and cells 3 and 4 are clear. Light to the right passes 3 and 4 and reaches 5, so cells 3, 4 and 5 are lit. In the
    row ahead it lights cells 3 and 4 (straight ahead) and 4 and 5 (beside them).
    """
    kind = objects & 15
    clear = (kind != WALL) & ((kind != DOOR) | is_open(objects))
    weights = (1 << np.arange(VIEW, dtype=np.int32))[:, None]
    rows = xp.sum(xp.where(clear, weights, 0), axis=0, dtype=xp.int32)
    lit = [xp.int32(0)] * (VIEW - 1) + [xp.int32(1 << VIEW // 2)]
    for row in reversed(range(VIEW)):
        for shift, within in ((_rightwards, _ALL >> 1), (_leftwards, _ALL & ~1)):
            passes = rows[row] & within
            for _ in range(VIEW - 1):
                lit[row] = lit[row] | shift(lit[row] & passes)
            if row:
                goes = lit[row] & passes
                lit[row - 1] = lit[row - 1] | goes | shift(goes)
    return (xp.stack(lit)[None] & weights) != 0


def _rightwards(row: Array) -> Array:
    """Return a row of bits with every cell moved one to the right, which is the next higher bit."""
    return row << 1


def _leftwards(row: Array) -> Array:
    """Return a row of bits with every cell moved one to the left."""
    return row >> 1


def _cells(state: MiniGridState) -> tuple[Array, ModuleType]:
    """Return the cells of a state as an array, and the module, jax.numpy or numpy, for work on them."""
    if isinstance(state.cells, jax.Array):
        return state.cells, jnp
    return np.asarray(state.cells, np.int32), np
