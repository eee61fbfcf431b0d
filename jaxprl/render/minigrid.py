"""Draws MiniGrid's world much as the `minigrid` package does: a dark floor, coloured objects, a red triangle as agent.

What the agent carries is a small picture at the edge of its cell. What a box holds is not shown.
"""

from __future__ import annotations

import functools

import numpy as np

from jaxprl.render.tile import Color, Tile
from jaxprl.worlds.minigrid.world import (
    BALL,
    BOX,
    COLOR_BITS,
    COLORS,
    DOOR,
    FLOOR,
    GOAL,
    KEY,
    LAVA,
    LOCKED,
    OBJECT,
    OPEN,
    TYPE_BITS,
    WALL,
    MiniGridState,
    MiniGridWorld,
)

GROUND, LINE = (17, 18, 22), (62, 64, 72)
STONE, JOINT = (128, 131, 140), (150, 153, 162)
MOLTEN, CRUST, GRASS = (249, 115, 22), (90, 30, 4), (46, 190, 92)
AGENT, WHITE = (255, 60, 60), (255, 255, 255)
RED, GREEN, BLUE = (239, 68, 68), (52, 199, 89), (66, 133, 255)
PURPLE, YELLOW, GREY = (178, 98, 246), (250, 210, 30), (158, 160, 168)
PAINTS: dict[int, Color] = {
    COLORS[name]: color
    for name, color in {
        "red": RED, "green": GREEN, "blue": BLUE, "purple": PURPLE, "yellow": YELLOW, "grey": GREY,
    }.items()
}  # fmt: skip
TRIANGLE = ((0.12, 0.19), (0.87, 0.5), (0.12, 0.81))


def draw(world: MiniGridWorld, state: MiniGridState, cell: int) -> np.ndarray:
    """Draw a state.

    Args:
      world: the world.
      state: its state, of Python values or arrays.
      cell: side of a cell in pixels.

    Returns:
      The picture, uint8 [H * cell, W * cell, 3].
    """
    cells = (np.asarray(state.cells, np.int32) & OBJECT).tolist()
    place, pose = int(state.cell), (int(state.direction), int(state.carrying) & OBJECT)
    rows = []
    for y in range(world.height):
        numbers = [world.cell(x, y) for x in range(world.width)]
        tiles = [_tile(cells[at], pose if at == place else None, cell) for at in numbers]
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


@functools.lru_cache(maxsize=1024)
def _tile(item: int, agent: tuple[int, int] | None, cell: int) -> np.ndarray:
    """Draw a cell.

    Args:
      item: the object in the cell, as the state has it; 0 for none.
      agent: the agent's direction and the object that it carries, if it is in the cell.
      cell: side of the cell in pixels.

    Returns:
      The picture, uint8 [cell, cell, 3].
    """
    tile = Tile(cell, GROUND)
    tile.paint(tile.edge(tile.box(0, 0, 1, 1), 0.0), LINE)
    if item:
        _object(tile, item)
    if agent is not None:
        direction, carrying = agent
        shape = tile.turned(direction).polygon(TRIANGLE)
        tile.paint(shape - 0.04, GROUND, 0.6)
        tile.paint(shape, AGENT)
        if carrying:
            tile.paint(tile.circle((0.76, 0.76), 0.25), GROUND, 0.8)
            _object(tile.inset(0.76, 0.76, 0.44), carrying)
    return tile.image()


def _object(tile: Tile, item: int) -> None:
    kind, color = item & 15, PAINTS[item >> TYPE_BITS & 7]
    if kind == DOOR:
        _door(tile, color, item >> (TYPE_BITS + COLOR_BITS) & 3)
    else:
        _OBJECTS[kind](tile, color)


def _wall(tile: Tile, color: Color) -> None:
    tile.paint(tile.box(0, 0, 1, 1), STONE if color == GREY else _dim(color, 0.7))
    tile.paint(tile.edge(tile.box(0, 0, 1, 1), 0.0), JOINT, 0.6)


def _floor(tile: Tile, color: Color) -> None:
    tile.paint(tile.box(0.03, 0.03, 0.97, 0.97), _dim(color, 0.5))


def _goal(tile: Tile, color: Color) -> None:
    tile.paint(tile.box(0.03, 0.03, 0.97, 0.97), GRASS)
    for radius in (0.32, 0.12):
        tile.paint(tile.edge(tile.circle((0.5, 0.5), radius), 0.08), WHITE, 0.85)


def _lava(tile: Tile, color: Color) -> None:
    tile.paint(tile.box(0, 0, 1, 1), MOLTEN)
    for y in (0.28, 0.53, 0.78):
        wave = [(x / 10, y + (0.06 if x % 4 == 3 else -0.06 if x % 4 == 1 else 0)) for x in range(1, 10)]
        tile.paint(tile.line(wave, 0.06), CRUST)


def _key(tile: Tile, color: Color) -> None:
    tile.paint(tile.edge(tile.circle((0.5, 0.27), 0.19), 0.1), color)
    tile.paint(tile.line([(0.5, 0.45), (0.5, 0.88)], 0.11), color)
    for y in (0.68, 0.85):
        tile.paint(tile.line([(0.5, y), (0.68, y)], 0.1), color)


def _ball(tile: Tile, color: Color) -> None:
    tile.paint(tile.circle((0.5, 0.5), 0.32), color)
    tile.paint(tile.circle((0.4, 0.39), 0.09), WHITE, 0.35)


def _box(tile: Tile, color: Color) -> None:
    outside = tile.box(0.14, 0.16, 0.86, 0.84, corner=0.04)
    tile.paint(outside, _dim(color, 0.35))
    tile.paint(tile.edge(outside, 0.1), color)
    tile.paint(tile.box(0.14, 0.42, 0.86, 0.52), color)


def _door(tile: Tile, color: Color, stands: int) -> None:
    """Paint a door: a panel at the side if it is open, else one across the cell, with a handle or with a lock."""
    if stands == OPEN:
        tile.paint(tile.box(0.82, 0.02, 0.98, 0.98, corner=0.03), _dim(color, 0.45))
        tile.paint(tile.edge(tile.box(0.82, 0.02, 0.98, 0.98, corner=0.03), 0.05), color)
        return
    panel = tile.box(0.03, 0.03, 0.97, 0.97, corner=0.05)
    tile.paint(panel, _dim(color, 0.6 if stands == LOCKED else 0.25))
    tile.paint(tile.edge(panel, 0.09), color)
    if stands == LOCKED:
        tile.paint(tile.circle((0.5, 0.42), 0.13), GROUND)
        tile.paint(tile.polygon([(0.46, 0.42), (0.54, 0.42), (0.6, 0.72), (0.4, 0.72)]), GROUND)
    else:
        tile.paint(tile.edge(tile.box(0.17, 0.17, 0.83, 0.83), 0.06), color)
        tile.paint(tile.circle((0.7, 0.5), 0.08), color)


def _dim(color: Color, part: float) -> Color:
    """Return a mixture of a colour and that of the ground; `part`, 0 to 1, is the share of the colour."""
    mixed = [round(part * bright + (1 - part) * dark) for bright, dark in zip(color, GROUND, strict=True)]
    return mixed[0], mixed[1], mixed[2]


_OBJECTS = {WALL: _wall, FLOOR: _floor, GOAL: _goal, LAVA: _lava, KEY: _key, BALL: _ball, BOX: _box}
