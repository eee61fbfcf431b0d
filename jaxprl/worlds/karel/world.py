"""Karel's world: a robot on a grid of walls and marker piles (SEMANTICS of LLM-GS's Karel, crashes off).

Grid of H rows x W columns, row 0 on top; directions 0 N, 1 E, 2 S, 3 W; a cell is wall or open and holds 0..10
markers. `move` goes to the cell ahead if it is inside the grid and not a wall, and otherwise turns the robot around.
`pickMarker` takes one marker if there is one, `putMarker` adds one if there are fewer than 10.

Every rule here is written once on scalars (`worlds/ops.py`): on JAX values it is jitted and vmapped, on Python ints
and bytes it is the plain-Python world.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from jaxprl.dsl.language import Language
from jaxprl.worlds import ops
from jaxprl.worlds.karel import words
from jaxprl.worlds.picture import Picture

LANGUAGE = Language(
    name="karel",
    actions={"move": 0.5, "turnLeft": 0.15, "turnRight": 0.15, "putMarker": 0.1, "pickMarker": 0.1},
    perceptions={
        "frontIsClear": 0.5, "leftIsClear": 0.15, "rightIsClear": 0.15, "markersPresent": 0.1, "noMarkersPresent": 0.1,
    },
    not_probability=0.1,
    complements={"markersPresent": "noMarkersPresent", "noMarkersPresent": "markersPresent"},
    world=words.WORLD,
    meanings=words.MEANINGS,
)  # fmt: skip

NOTHING, MOVE, LEFT, RIGHT, PUT, PICK = range(6)
"""Action codes: 0 does nothing, then the language's actions in order."""
FRONT_CLEAR, LEFT_CLEAR, RIGHT_CLEAR, MARKERS, NO_MARKERS = range(5)
"""Perception codes: the language's perceptions in order."""
MAX_MARKERS = 10

COUNT = 0x0F
WALL = 0x10
GATE = 0x20
"""A wall until the world is `opened` (DoorKey's door)."""
TARGET = 0x40
"""A cell that the task cares about: a corner, a stair, a legal cell."""
BODY = 0x80
"""A cell of the snake."""

_MARKERS_ONLY = bytes(byte & COUNT for byte in range(256))


class Karel(NamedTuple):
    """One Karel world. Cells are numbered in a grid with a ring of walls around it: see `Geometry`."""

    cell: Any  # int32: where the robot is
    direction: Any  # int32: 0 N, 1 E, 2 S, 3 W
    opened: Any  # bool: whether gates are open
    cells: Any  # uint8 [(H+2)*(W+2)], or bytes: marker count in the low four bits, WALL, GATE, TARGET, BODY
    hash: Any  # two uint32, or None in plain Python: hash of the change of marker counts since the start


class Event(NamedTuple):
    """What an action did, as far as rewards depend on it."""

    moved: Any  # bool: the robot changed its cell
    change: Any  # int: markers put (+1) or taken (-1) on the robot's cell
    count: Any  # int: markers on the robot's cell afterwards, for putMarker and pickMarker
    byte: Any  # int: the cell that was looked at: the one ahead for `move`, else the robot's


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Size of a world and its rules. Stored grids have a ring of walls around them, so looks need no bounds."""

    height: int
    width: int

    language = LANGUAGE
    call_limit = 10_001
    """The call that crashes the run: 10,000 are free. An action that is this call still happens and counts."""
    terminated_hides_crash = False

    @property
    def stride(self) -> int:
        return self.width + 2

    def cell(self, row: int, column: int) -> int:
        """Return the number of a cell; row and column may be -1 and H, W (the ring)."""
        return (row + 1) * self.stride + column + 1

    def position(self, cell):
        """Return (row, column) of a cell."""
        return cell // self.stride - 1, cell % self.stride - 1

    def pose(self, state: Karel) -> list[int]:
        """Return [row, column, direction] of a plain state."""
        return [*self.position(state.cell), state.direction]

    def picture(self, state: Karel) -> Picture:
        """Return a plain state in text."""
        row, column = self.position(state.cell)
        cells = [
            [self._sign(state.cells[self.cell(row, column)], state.opened) for column in range(self.width)]
            for row in range(self.height)
        ]
        pose = f"row {row}, column {column}, facing {words.DIRECTIONS[state.direction]}"
        return Picture(cells, (row, column), "^>v<"[state.direction], pose, words.SIGNS)

    def _sign(self, byte: int, opened: bool) -> str:
        return str(byte & COUNT or ".") if self._is_clear(byte, opened) else "#"

    def state(self, walls: np.ndarray, pose: tuple[int, int, int], markers: np.ndarray, targets=None) -> Karel:
        """Return the state of numpy scalars and arrays for walls bool [H, W], (row, column, direction), counts [H, W]
        and, if given, target cells bool [H, W]."""
        cells = np.full((self.height + 2, self.stride), WALL, np.uint8)
        cells[1:-1, 1:-1] = walls * WALL + markers
        if targets is not None:
            cells[1:-1, 1:-1] |= (targets * TARGET).astype(np.uint8)
        row, column, direction = pose
        return Karel(
            cell=np.int32(self.cell(row, column)),
            direction=np.int32(direction),
            opened=np.bool_(False),
            cells=cells.ravel(),
            hash=ops.NO_CHANGE,
        )

    def act(self, state: Karel, action, at_limit) -> tuple[Karel, Event]:
        """Return the state after an action code and what happened.

        `at_limit`: this is the call that crashes the run; a `move` then turns the robot around even where the way
        is clear (kept from the published system).
        """
        looked = self._looked(state, action)
        byte = ops.read(state.cells, looked)
        state, moved, change = self._pose_after(state, action, looked, byte, at_limit)
        state = self._put(state, looked, byte, change)
        return state, Event(moved=moved, change=change, count=(byte & COUNT) + change, byte=byte)

    def glide(self, state: Karel, action) -> tuple[Karel, Any]:
        """Return the state after an action that changes no marker, and whether the action is such a one; another one
        leaves the pose."""
        looked = self._looked(state, action)
        state, _, change = self._pose_after(state, action, looked, ops.peek(state.cells, looked), False)
        return state, change == 0

    def _looked(self, state: Karel, action):
        """Return the cell that an action is about: the one ahead for `move`, else the robot's."""
        return state.cell + ops.where(action == MOVE, self._ahead(state.direction), 0)

    def _pose_after(self, state: Karel, action, looked, byte, at_limit):
        """Return the state with the pose after an action, whether it moved, and how many markers it puts."""
        moving = action == MOVE
        moved = moving & self._is_clear(byte, state.opened) & ops.invert(at_limit)
        turn = ops.where(moving & ops.invert(moved), 2, ops.where(action == LEFT, 3, ops.where(action == RIGHT, 1, 0)))
        change = _change(byte, action == PUT, action == PICK)
        cell, direction = ops.where(moved, looked, state.cell), (state.direction + turn) & 3
        return state._replace(cell=cell, direction=direction), moved, change

    def perceive(self, state: Karel, perception):
        """Return the bool that a perception code gives."""
        turn = ops.where(perception == LEFT_CLEAR, 3, ops.where(perception == RIGHT_CLEAR, 1, 0))
        about_markers = perception >= MARKERS
        ahead = self._ahead((state.direction + turn) & 3)
        byte = ops.peek(state.cells, state.cell + ops.where(about_markers, 0, ahead))
        empty = (byte & COUNT) == 0
        return ops.where(about_markers, empty == (perception == NO_MARKERS), self._is_clear(byte, state.opened))

    def add_markers(self, state: Karel, cell, wish) -> Karel:
        """Return the state with `wish` (-1, 0 or 1) markers more on a cell, within 0..10."""
        byte = ops.read(state.cells, cell)
        return self._put(state, cell, byte, _change(byte, wish == 1, wish == -1))

    def flag(self, state: Karel, cell, bits, on) -> Karel:
        """Return the state with a cell's WALL or BODY bits set where `on` is 1, cleared where -1, kept where 0."""
        byte = ops.read(state.cells, cell)
        byte = ops.where(on == 1, byte | bits, ops.where(on == -1, byte & (0xFF - bits), byte))
        return state._replace(cells=ops.write(state.cells, cell, byte))

    def key(self, state: Karel):
        """Return what WHILE compares: row, column, direction and every cell's marker count; walls are no part of it.

        In plain Python the exact value; on arrays (pose int32, hash of the counts, two uint32).
        """
        if isinstance(state.cells, bytes):
            return state.cell, state.direction, state.cells.translate(_MARKERS_ONLY)
        return state.cell * 4 + state.direction, state.hash

    @property
    def poses(self) -> int:
        """Exclusive bound of a pose in `key`."""
        return 4 * (self.height + 2) * self.stride

    def _ahead(self, direction):
        return ops.where((direction & 1) == 0, ops.where(direction == 0, -self.stride, self.stride), 2 - direction)

    def _is_clear(self, byte, opened):
        return ((byte & WALL) == 0) & (((byte & GATE) == 0) | opened)

    def _put(self, state: Karel, cell, byte, change):
        cells = ops.write(state.cells, cell, byte + change)
        return state._replace(cells=cells, hash=ops.updated_hash(state.hash, cell, change))


def _change(byte, puts, picks):
    """Return by how much a cell's markers change: there are 0 to 10."""
    count = byte & COUNT
    return ops.where(puts & (count < MAX_MARKERS), 1, ops.where(picks & (count > 0), -1, 0))
