"""Convert the states of Farama's `minigrid` environments to ours and back. `minigrid` itself is not imported here."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple, TypeAlias

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
    MiniGridState,
    MiniGridWorld,
    ends_episode,
    item,
)
from jaxprl.xla import guarded

FaramaEnv: TypeAlias = Any
"""An environment of `minigrid`. Each class has attributes of its own."""
FaramaObject: TypeAlias = Any
"""An object of `minigrid`'s grid. Each class has attributes of its own."""

MOST_CELLS = 2**20
"""The number of cells of the largest world, ring included. With it, the numbers in the key of WHILE do not overflow."""
TYPE_NAMES = {code: name for name, code in TYPES.items()}
"""The names of object types by number."""
COLOR_NAMES = {code: name for name, code in COLORS.items()}
"""The names of colours by number."""


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["world", "terminated"], meta_fields=["width", "height"]
)
@dataclasses.dataclass(frozen=True)
class State:
    """The state of a MiniGrid world of any size. It is a pytree, so `act` can be jitted and vmapped over it."""

    world: MiniGridState
    """The state, of JAX values."""
    terminated: ops.Bool  # bool []
    """Whether the last action ended the episode by the base rules, by a step onto a goal or lava."""
    width: int
    """The number of columns, which is not a leaf of the pytree."""
    height: int
    """The number of rows, which is not a leaf of the pytree."""


class Exported(NamedTuple):
    """A state in the form in which Farama's environments show it."""

    grid: np.ndarray
    """uint8 [W, H, 3]: the type, colour and door state of each cell, as in `grid.encode()`."""
    agent_pos: tuple[int, int]
    """The x and y of the agent."""
    agent_dir: int
    """The direction of the agent: 0 E, 1 S, 2 W, 3 N."""
    carrying: tuple[str, str] | None
    """The type and colour of the object that the agent carries, or None."""
    terminated: bool
    """Whether the last action ended the episode by the base rules."""


@guarded
def from_farama(env: FaramaEnv) -> State:
    """Convert the current state of a `minigrid` environment.

    Args:
      env: any environment of the package, wrapped or not, that has been reset.

    Returns:
      The state, of JAX values.

    Raises:
      UserError: the environment has not been reset, or it holds what a state cannot hold: an object of a class that is
        not the package's own, a door that is both open and locked, boxes within boxes beyond three objects, or a grid
        of more than `MOST_CELLS` cells.
    """
    env = getattr(env, "unwrapped", env)
    if getattr(env, "grid", None) is None or env.agent_pos is None:
        raise UserError("the environment has no grid or agent yet: reset it first")
    width, height = env.grid.width, env.grid.height
    if (width + 2) * (height + 2) > MOST_CELLS:
        raise UserError(f"a grid of {width} x {height} cells; at most {MOST_CELLS} fit a state")
    objects = {(x, y): env.grid.get(x, y) for x in range(width) for y in range(height)}
    cells = {place: object_code(thing, place) for place, thing in objects.items() if thing is not None}
    carrying = 0 if env.carrying is None else object_code(env.carrying, "what the agent carries")
    world = make_world(
        MiniGridWorld(width, height),
        cells,
        (int(env.agent_pos[0]), int(env.agent_pos[1]), int(env.agent_dir)),
        carrying,
    )
    return State(jax.tree.map(jnp.asarray, world), jnp.asarray(False), width, height)


def make_world(
    geometry: MiniGridWorld, cells: dict[tuple[int, int], int], pose: tuple[int, int, int], carrying: int = 0
) -> MiniGridState:
    """Make the state of a world, of numpy values.

    Args:
      geometry: the world, for its size.
      cells: (x, y) -> the object in that cell; all other cells are empty.
      pose: the x, y and direction of the agent.
      carrying: the object that the agent carries, 0 for none.

    Returns:
      The state.
    """
    x, y, direction = pose
    grid = np.full((geometry.width + 2, geometry.stride), item("wall", "grey"), np.int32)
    grid[1:-1, 1:-1] = 0
    for (column, row), code in cells.items():
        grid[column + 1, row + 1] = code
    cell = np.int32(geometry.cell(x, y))
    return MiniGridState(cell, np.int32(direction), np.int32(carrying), grid.ravel(), ops.NO_CHANGE)


def object_code(thing: FaramaObject, place: object, depth: int = 1) -> int:
    """Pack one of the package's objects into a number, together with what it holds.

    Args:
      thing: the object.
      place: where it is, for error messages.
      depth: 1 for an object in the grid, 2 for what that holds, and so on.

    Returns:
      The number, as `item` makes it.

    Raises:
      UserError: a state cannot hold the object.
    """
    if type(thing).__module__ != "minigrid.core.world_object" or thing.type not in TYPES:
        raise UserError(f"{place}: {type(thing).__name__} is no object that the world knows ({', '.join(TYPES)})")
    if depth > DEEPEST:
        raise UserError(f"{place}: boxes within boxes; at most {DEEPEST} objects fit a cell")
    state = 0
    if thing.type == "door":
        if thing.is_open and thing.is_locked:
            raise UserError(f"{place}: a door that is both open and locked")
        state = OPEN if thing.is_open else LOCKED if thing.is_locked else CLOSED
    inside = getattr(thing, "contains", None)
    if inside is not None and thing.type != "box":
        raise UserError(f"{place}: a {thing.type} that holds something; only boxes can")
    contents = 0 if inside is None else object_code(inside, place, depth + 1)
    return item(thing.type, thing.color, state, contents)


@guarded
def act(state: State, action: ops.Int) -> State:
    """Do one of Farama's actions.

    Args:
      state: the state.
      action: int [], 0..6 for left, right, forward, pickup, drop, toggle and done.

    Returns:
      The state afterwards.
    """
    world, event = MiniGridWorld(state.width, state.height).act(state.world, jnp.asarray(action, jnp.int32) + 1)
    world = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), world, state.world)
    return dataclasses.replace(state, world=world, terminated=ends_episode(event))


def to_farama(state: State) -> Exported:
    """Convert a state to what a `minigrid` environment would show of it."""
    geometry = MiniGridWorld(state.width, state.height)
    cells = np.asarray(state.world.cells).reshape(geometry.width + 2, geometry.stride)[1:-1, 1:-1]
    carrying = int(state.world.carrying)
    held = (TYPE_NAMES[carrying & 15], COLOR_NAMES[carrying >> TYPE_BITS & 7]) if carrying else None
    x, y, direction = geometry.pose(state.world)
    return Exported(np.asarray(encoded(cells)), (x, y), direction, held, bool(state.terminated))
