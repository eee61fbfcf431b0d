"""MiniGrid's state as the package shows it: the whole grid, and the agent's view of 7x7 cells.

An object is encoded as (type, colour, door state) with Farama's numbers. Results are numpy arrays for a plain or numpy
state, else JAX arrays.
"""

from __future__ import annotations

from typing import Any

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
    Geometry,
    MiniGrid,
    is_open,
    item,
)  # fmt: skip

VIEW = 7
"""Side of the agent's view in cells; all environments of the package that are tasks have this one."""
EMPTY, AGENT = 1, 10
"""Farama's numbers of an empty cell and of the agent."""
_X, _Y = np.array([1, 0, -1, 0], np.int32), np.array([0, 1, 0, -1], np.int32)
_ACROSS, _AHEAD = np.meshgrid(np.arange(VIEW) - VIEW // 2, VIEW - 1 - np.arange(VIEW), indexing="ij")
_ACROSS, _AHEAD = _ACROSS.astype(np.int32), _AHEAD.astype(np.int32)
_ALL = 2**VIEW - 1


def encoded(objects: Any) -> Any:
    """Return objects [...] as uint8 [..., 3]: type, colour, door state; what boxes hold is not shown."""
    xp: Any = jnp if isinstance(objects, jax.Array) else np
    objects = objects & OBJECT
    kind = xp.where(objects == 0, EMPTY, objects & 15)
    color, stands = objects >> TYPE_BITS & 7, objects >> (TYPE_BITS + COLOR_BITS)
    return xp.stack([kind, color, stands], axis=-1).astype(xp.uint8)


def grid(world: Geometry, state: MiniGrid) -> Any:
    """Return uint8 [W, H, 3]: every cell, the agent's as (10, 0, direction), as the package's `FullyObsWrapper`."""
    cells, xp = _cells(state)
    there = (xp.arange(cells.size, dtype=xp.int32) == state.cell)[:, None]
    agent = xp.stack([xp.int32(AGENT), xp.int32(COLORS["red"]), xp.int32(state.direction)]).astype(xp.uint8)
    shown = xp.where(there, agent[None], encoded(cells))
    return shown.reshape(world.width + 2, world.stride, 3)[1:-1, 1:-1]


def view(world: Geometry, state: MiniGrid) -> Any:
    """Return uint8 [7, 7, 3], [across][ahead]: what the agent sees, which looks up from (3, 6), as the package's
    `gen_obs`: its own cell shows what it carries; cells behind walls and closed doors are (0, 0, 0), unless the world
    is `see_through`."""
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


def mission(state: MiniGrid) -> Any:
    """Return uint8 [4]: type and colour of the object that the mission names as its target, and of the landmark that
    the target belongs near; zeros for none."""
    xp: Any = jnp if isinstance(state.cells, jax.Array) else np
    named = xp.stack([xp.int32(state.mission.target), xp.int32(state.mission.landmark)])
    return xp.stack([named & 15, named >> TYPE_BITS & 7], axis=-1).reshape(4).astype(xp.uint8)


def _seen(objects: Any, xp: Any) -> Any:
    """Return bool [7, 7], which cells of a view are seen.

    Light goes from the agent's cell row by row: along a row to the right and then to the left, through cells that do
    not hide what is behind them, and from each of these to the row ahead, straight and one cell on. Rows are numbers,
    with a bit for each cell of a row.
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


def _rightwards(row: Any) -> Any:
    return row << 1


def _leftwards(row: Any) -> Any:
    return row >> 1


def _cells(state: MiniGrid) -> tuple[Any, Any]:
    if isinstance(state.cells, jax.Array):
        return state.cells, jnp
    return np.asarray(state.cells, np.int32), np
