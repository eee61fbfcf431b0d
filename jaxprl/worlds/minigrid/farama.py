"""From Farama's `minigrid` environments to our states and back. `minigrid` itself is not imported here."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.errors import UserError
from jaxprl.worlds import ops
from jaxprl.worlds.minigrid.observe import encoded
from jaxprl.worlds.minigrid.world import (
    CLOSED,
    COLORS,
    DEEPEST,
    LOCKED,
    OPEN,
    TYPE_BITS,
    TYPES,
    Geometry,
    MiniGrid,
    ends_episode,
    item,
)  # fmt: skip

MOST_CELLS = 2**20
"""Cells of the largest world, so that the numbers in WHILE's key do not overflow."""
TYPE_NAMES = {code: name for name, code in TYPES.items()}
COLOR_NAMES = {code: name for name, code in COLORS.items()}


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["world", "terminated"], meta_fields=["width", "height"]
)
@dataclasses.dataclass(frozen=True)
class State:
    """A MiniGrid world of any size; a pytree, so `act` can be jitted and vmapped over it."""

    world: MiniGrid
    terminated: Any  # bool: the last action ended the episode by the base rules (goal or lava)
    width: int
    height: int


class Exported(NamedTuple):
    """What Farama's environments show of their state."""

    grid: np.ndarray
    """uint8 [W, H, 3]: type, colour, door state, as in `grid.encode()`."""
    agent_pos: tuple[int, int]
    agent_dir: int
    carrying: tuple[str, str] | None
    """Type and colour."""
    terminated: bool


def from_farama(env: Any) -> State:
    """Return the state of any `minigrid` environment after its reset, wrapped or not.

    Raises UserError for what a state cannot hold: objects of another class than the package's own, a door both open
    and locked, boxes within boxes beyond three objects, a grid of more than `MOST_CELLS` cells.
    """
    env = getattr(env, "unwrapped", env)
    if getattr(env, "grid", None) is None or env.agent_pos is None:
        raise UserError("the environment has no grid or agent yet: reset it first")
    width, height = env.grid.width, env.grid.height
    if (width + 2) * (height + 2) > MOST_CELLS:
        raise UserError(f"a grid of {width} x {height} cells; at most {MOST_CELLS} fit a state")
    objects = {(x, y): env.grid.get(x, y) for x in range(width) for y in range(height)}
    cells = {place: object_code(found, place) for place, found in objects.items() if found is not None}
    carrying = 0 if env.carrying is None else object_code(env.carrying, "what the agent carries")
    world = make_world(
        Geometry(width, height), cells, (int(env.agent_pos[0]), int(env.agent_pos[1]), int(env.agent_dir)), carrying
    )
    return State(jax.tree.map(jnp.asarray, world), jnp.asarray(False), width, height)


def make_world(
    geometry: Geometry, cells: dict[tuple[int, int], int], pose: tuple[int, int, int], carrying: int = 0
) -> MiniGrid:
    """Return a world of numpy values with objects at (x, y) and the agent at (x, y, direction)."""
    x, y, direction = pose
    grid = np.full((geometry.width + 2, geometry.stride), item("wall", "grey"), np.int32)
    grid[1:-1, 1:-1] = 0
    for (column, row), code in cells.items():
        grid[column + 1, row + 1] = code
    cell = np.int32(geometry.cell(x, y))
    return MiniGrid(cell, np.int32(direction), np.int32(carrying), grid.ravel(), ops.NO_CHANGE)


def object_code(found: Any, place: Any, depth: int = 1) -> int:
    """Return the number of one of the package's objects, with what it holds."""
    if type(found).__module__ != "minigrid.core.world_object" or found.type not in TYPES:
        raise UserError(f"{place}: {type(found).__name__} is no object that the world knows ({', '.join(TYPES)})")
    if depth > DEEPEST:
        raise UserError(f"{place}: boxes within boxes; at most {DEEPEST} objects fit a cell")
    state = 0
    if found.type == "door":
        if found.is_open and found.is_locked:
            raise UserError(f"{place}: a door that is both open and locked")
        state = OPEN if found.is_open else LOCKED if found.is_locked else CLOSED
    inside = getattr(found, "contains", None)
    if inside is not None and found.type != "box":
        raise UserError(f"{place}: a {found.type} that holds something; only boxes can")
    contents = 0 if inside is None else object_code(inside, place, depth + 1)
    return item(found.type, found.color, state, contents)


def act(state: State, action: Any) -> State:
    """Return the state after one of Farama's actions, 0..6 (left, right, forward, pickup, drop, toggle, done)."""
    world, event = Geometry(state.width, state.height).act(state.world, jnp.asarray(action, jnp.int32) + 1)
    world = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), world, state.world)
    return dataclasses.replace(state, world=world, terminated=ends_episode(event))


def to_farama(state: State) -> Exported:
    """Return what the environment would show."""
    geometry = Geometry(state.width, state.height)
    cells = np.asarray(state.world.cells).reshape(geometry.width + 2, geometry.stride)[1:-1, 1:-1]
    carrying = int(state.world.carrying)
    held = (TYPE_NAMES[carrying & 15], COLOR_NAMES[carrying >> TYPE_BITS & 7]) if carrying else None
    x, y = geometry.position(int(state.world.cell))
    return Exported(encoded(cells), (x, y), int(state.world.direction), held, bool(state.terminated))
