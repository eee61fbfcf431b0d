"""Draws Karel's world: slate walls, amber diamonds with the number of markers, and the robot as a blue arrow.

Tinted cells are those that matter to the task (corners, stairs, cells that may be entered), and green cells are the
snake. DoorKey's door is brown; when it is open, its posts remain.
"""

from __future__ import annotations

import functools

import numpy as np

from jaxprl.render.tile import Tile, number
from jaxprl.worlds.karel.world import BODY, COUNT, GATE, TARGET, WALL, KarelState, KarelWorld

FLOOR, TINTED, LINE = (255, 255, 255), (228, 237, 252), (224, 225, 228)
STONE, JOINT = (84, 97, 117), (97, 111, 133)
WOOD, POST, KNOB = (176, 117, 66), (120, 75, 38), (250, 204, 21)
SNAKE = (134, 206, 150)
AMBER, RIM, INK = (251, 191, 36), (180, 110, 9), (66, 32, 6)
ROBOT, WHITE = (37, 99, 235), (255, 255, 255)
ARROW = ((0.5, 0.1), (0.86, 0.86), (0.5, 0.68), (0.14, 0.86))


def draw(world: KarelWorld, state: KarelState, cell: int) -> np.ndarray:
    """Draw a state.

    Args:
      world: the world.
      state: its state, of Python values or arrays.
      cell: side of a cell in pixels.

    Returns:
      The picture, uint8 [H * cell, W * cell, 3].
    """
    cells = state.cells if isinstance(state.cells, bytes) else np.asarray(state.cells).tobytes()
    place, direction, opened = int(state.cell), int(state.direction), bool(state.opened)
    rows = []
    for row in range(world.height):
        numbers = [world.cell(row, column) for column in range(world.width)]
        facing = [direction if at == place else None for at in numbers]
        tiles = [_tile(cells[at], opened, robot, cell) for at, robot in zip(numbers, facing, strict=True)]
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


@functools.lru_cache(maxsize=1024)
def _tile(byte: int, opened: bool, facing: int | None, cell: int) -> np.ndarray:
    """Draw a cell.

    Args:
      byte: the cell, as the state has it.
      opened: whether the door is open.
      facing: the robot's direction, if it is in the cell.
      cell: side of the cell in pixels.

    Returns:
      The picture, uint8 [cell, cell, 3].
    """
    tile = Tile(cell, TINTED if byte & TARGET else FLOOR)
    tile.paint(tile.edge(tile.box(0, 0, 1, 1), 0.0), LINE)
    if byte & BODY:
        tile.paint(tile.box(0.06, 0.06, 0.94, 0.94, corner=0.2), SNAKE)
    if byte & WALL:
        _wall(tile)
    elif byte & GATE:
        _gate(tile, opened)
    if facing is not None:
        _robot(tile.turned(facing))
    if byte & COUNT:
        _markers(tile if facing is None else tile.inset(0.73, 0.73, 0.62), byte & COUNT)
    return tile.image()


def _wall(tile: Tile) -> None:
    tile.paint(tile.box(0, 0, 1, 1), STONE)
    tile.paint(tile.edge(tile.box(0, 0, 1, 1), 0.0), JOINT)


def _gate(tile: Tile, opened: bool) -> None:
    if not opened:
        tile.paint(tile.box(0, 0, 1, 1), WOOD)
        for x in (1 / 3, 2 / 3):
            tile.paint(tile.line([(x, 0), (x, 1)], 0.03), POST, 0.6)
        tile.paint(tile.circle((0.17, 0.5), 0.09), KNOB)
    for y in (0.0, 0.88):
        tile.paint(tile.box(0, y, 1, y + 0.12), POST)


def _robot(tile: Tile) -> None:
    """Paint the robot, which faces up."""
    arrow = tile.polygon(ARROW)
    tile.paint(arrow - 0.05, WHITE)
    tile.paint(arrow, ROBOT)


def _markers(tile: Tile, count: int) -> None:
    diamond = tile.polygon(((0.5, 0.08), (0.92, 0.5), (0.5, 0.92), (0.08, 0.5)))
    tile.paint(diamond, AMBER)
    tile.paint(tile.edge(diamond, 0.06), RIM)
    if count > 1:
        number(tile.inset(0.5, 0.5, 0.5 if count < 10 else 0.42), count, INK)
