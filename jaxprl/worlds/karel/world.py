"""Karel's world: a robot on a grid of walls and piles of markers.

The grid has H rows x W columns, with row 0 on top. Directions are 0 N, 1 E, 2 S, 3 W. A cell is a wall or open, and
holds 0..10 markers. `move` goes to the cell ahead if that is inside the grid and not a wall, and otherwise turns the
robot around. `pickMarker` takes one marker if there is one; `putMarker` adds one if there are fewer than 10.

That is the Karel of LLM-GS, whose actions never crash. In a world that is `crashable`, as other published systems have
it, an action that is not possible (`move` where the way is not clear, `pickMarker` on an empty cell, `putMarker` on a
cell of 10) changes nothing and crashes the run. The task still rewards it.

Every rule is written once on scalars (`worlds/ops.py`). On JAX values it is jitted and vmapped; on Python ints and
bytes it is the plain-Python world.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxprl.dsl.language import Language
from jaxprl.worlds import ops
from jaxprl.worlds.karel import words
from jaxprl.worlds.ops import Bool, Int
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
"""Karel's language."""
CRASHABLE = dataclasses.replace(
    LANGUAGE, world=(*words.WORLD, words.CRASHES), meanings={**words.MEANINGS, **words.CRASHING}
)
"""The same language, with the meanings that its words have in a world that is crashable."""

NOTHING, MOVE, LEFT, RIGHT, PUT, PICK = range(6)
"""The codes of actions: 0 does nothing, then the actions of the language in order."""
FRONT_CLEAR, LEFT_CLEAR, RIGHT_CLEAR, MARKERS, NO_MARKERS = range(5)
"""The codes of perceptions: those of the language in order."""
MAX_MARKERS = 10
"""The largest number of markers in a cell."""

COUNT = 0x0F
"""The bits of a cell that hold its number of markers."""
WALL = 0x10
"""The bit of a cell that is a wall."""
GATE = 0x20
"""The bit of a cell that is a wall until the world is `opened`: DoorKey's door."""
TARGET = 0x40
"""The bit of a cell that matters to the task: a corner, a stair, a legal cell."""
BODY = 0x80
"""The bit of a cell that the body of the snake occupies."""

_MARKERS_ONLY = bytes(byte & COUNT for byte in range(256))  # for bytes.translate


class KarelState(NamedTuple):
    """The state of one Karel world. `KarelWorld.cell` numbers the cells of the grid and of the ring of walls around."""

    cell: Int  # int32 []: the cell where the robot is
    direction: Int  # int32 []: 0 N, 1 E, 2 S, 3 W
    opened: Bool  # bool []: whether the gates are open
    cells: ops.Table  # uint8 [(H+2)*(W+2)], or bytes: the number of markers in COUNT, and WALL, GATE, TARGET, BODY
    hash: ops.Hash  # two uint32 [], or None in plain Python: hash of the changes in markers since the start


class Event(NamedTuple):
    """What an action did, as far as rewards depend on it."""

    moved: Bool  # bool []: whether the robot changed its cell
    change: Int  # int32 []: the markers put (+1) or taken (-1) on the robot's cell
    count: Int  # type: ignore[assignment]  # int32 []: after putMarker and pickMarker, the markers on the robot's cell
    byte: Int  # int32 []: the contents before the action of the cell ahead for `move`, else of the robot's cell
    crashed: Bool = False  # bool []: whether the action crashed the run; the value False if the world is not crashable


@dataclasses.dataclass(frozen=True)
class KarelWorld:
    """The rules of a Karel world of a certain size.

    Cells are stored with a ring of walls around the grid, so that looking ahead needs no check of bounds.

    Args:
      height: the number H of rows.
      width: the number W of columns.
      crashable: whether an action that is not possible crashes the run.

    Example:
      >>> from jaxprl.worlds.karel.layouts import EAST, border, nothing
      >>> from jaxprl.worlds.plain import plain_layout
      >>> from jaxprl.worlds.task import Layout
      >>> world = KarelWorld(4, 5)
      >>> state = world.state(border(4, 5), (2, 1, EAST), nothing(4, 5))
      >>> state = plain_layout(Layout(state, (), np.int32(1))).state
      >>> state, event = world.act(state, MOVE, at_limit=False)
      >>> world.pose(state), event.moved
      ([2, 2, 1], True)
    """

    height: int
    width: int
    crashable: bool = False

    call_limit = 10_001
    """The number of the call that crashes the run; 10,000 are free. If it is an action, it still happens and counts."""
    terminated_hides_crash = False
    """A run that is terminated by the call that crashes it is reported as both."""

    @property
    def language(self) -> Language:
        """Karel's language."""
        return CRASHABLE if self.crashable else LANGUAGE

    @property
    def stride(self) -> int:
        """The number of stored cells in a row, W + 2."""
        return self.width + 2

    def cell(self, row: int, column: int) -> int:
        """Return the number of a cell. Row and column may be -1 and H or W, which is the ring around the grid."""
        return (row + 1) * self.stride + column + 1

    def position(self, cell: Int) -> tuple[Int, Int]:
        """Return the row and column of a cell."""
        row, column = ops.divided(cell, self.stride)
        return row - 1, column - 1

    def pose(self, state: KarelState) -> list[int]:
        """Return the row, column and direction of a plain state."""
        row, column = self.position(state.cell)
        return [int(row), int(column), int(state.direction)]

    def picture(self, state: KarelState) -> Picture:
        """Return a plain state as text."""
        row, column, direction = self.pose(state)
        cells = [
            [self._sign(state.cells[self.cell(row, column)], state.opened) for column in range(self.width)]
            for row in range(self.height)
        ]
        pose = f"row {row}, column {column}, facing {words.DIRECTIONS[direction]}"
        return Picture(cells, (row, column), "^>v<"[direction], pose, words.SIGNS)

    def _sign(self, byte: Int, opened: Bool) -> str:
        """Return the sign of a cell in a picture."""
        return str(byte & COUNT or ".") if self._is_clear(byte, opened) else "#"

    def state(
        self,
        walls: np.ndarray,
        pose: tuple[int, int, int],
        markers: np.ndarray,
        targets: np.ndarray | None = None,
    ) -> KarelState:
        """Make a state of numpy values, as layouts hold them.

        Args:
          walls: bool [H, W], the cells that are walls.
          pose: the row, column and direction of the robot.
          markers: uint8 [H, W], the numbers of markers.
          targets: bool [H, W], the cells that matter to the task; None for none.

        Returns:
          The state.
        """
        cells = np.full((self.height + 2, self.stride), WALL, np.uint8)
        cells[1:-1, 1:-1] = walls * WALL + markers
        if targets is not None:
            cells[1:-1, 1:-1] |= (targets * TARGET).astype(np.uint8)
        row, column, direction = pose
        return KarelState(
            cell=np.int32(self.cell(row, column)),
            direction=np.int32(direction),
            opened=np.bool_(False),
            cells=cells.ravel(),
            hash=ops.NO_CHANGE,
        )

    def act(self, state: KarelState, action: Int, at_limit: Bool) -> tuple[KarelState, Event]:
        """Do an action.

        Args:
          state: the state.
          action: the code of the action.
          at_limit: whether this is the call number `call_limit`. A `move` then turns the robot around even where the
            way is clear (kept from the published system), or changes nothing if the world is crashable.

        Returns:
          The state afterwards, and what happened.
        """
        looked = self._looked(state, action)
        byte = ops.read(state.cells, looked)
        state, moved, change, crashed = self._pose_after(state, action, looked, byte, at_limit)
        state = self._put(state, looked, byte, change)
        return state, Event(moved=moved, change=change, count=(byte & COUNT) + change, byte=byte, crashed=crashed)

    def crashed(self, event: Event) -> Bool:
        """Return whether the action with this event crashed the run, bool []."""
        return event.crashed if self.crashable else False

    def glide(self, state: KarelState, action: Int) -> tuple[KarelState, Bool]:
        """Do an action if it changes no marker and does not crash the run.

        Args:
          state: the state.
          action: the code of the action, not 0.

        Returns:
          The state afterwards, and whether the action did no more than this. If it does more, the pose stays as it is.
        """
        looked = self._looked(state, action)
        state, _, change, crashed = self._pose_after(state, action, looked, ops.peek(state.cells, looked), False)
        return state, (change == 0) & ops.invert(crashed) if self.crashable else change == 0

    def _looked(self, state: KarelState, action: Int) -> Int:
        """Return the cell that an action is about: the one ahead for `move`, else the robot's."""
        return state.cell + ops.where(action == MOVE, self._ahead(state.direction), 0)

    def _pose_after(
        self, state: KarelState, action: Int, looked: Int, byte: Int, at_limit: Bool
    ) -> tuple[KarelState, Bool, Int, Bool]:
        """Return what an action does: the state with the pose after it, whether the robot moved, how many markers it
        puts, and whether it crashed the run."""
        moving = action == MOVE
        moved = moving & self._is_clear(byte, state.opened) & ops.invert(at_limit)
        around = 0 if self.crashable else 2
        turn = ops.where(
            moving & ops.invert(moved), around, ops.where(action == LEFT, 3, ops.where(action == RIGHT, 1, 0))
        )
        change = _change(byte, action == PUT, action == PICK)
        cell, direction = ops.where(moved, looked, state.cell), (state.direction + turn) & 3
        crashed = self._is_impossible(state, action, byte) if self.crashable else False
        return state._replace(cell=cell, direction=direction), moved, change, crashed

    def _is_impossible(self, state: KarelState, action: Int, byte: Int) -> Bool:
        """Return whether an action is not possible, where `byte` holds the contents of the cell that it is about."""
        count = byte & COUNT
        blocked = (action == MOVE) & ops.invert(self._is_clear(byte, state.opened))
        return blocked | ((action == PUT) & (count == MAX_MARKERS)) | ((action == PICK) & (count == 0))

    def perceive(self, state: KarelState, perception: Int) -> Bool:
        """Return the truth of a perception.

        Args:
          state: the state.
          perception: the code of the perception.

        Returns:
          bool [].
        """
        turn = ops.where(perception == LEFT_CLEAR, 3, ops.where(perception == RIGHT_CLEAR, 1, 0))
        about_markers = perception >= MARKERS
        ahead = self._ahead((state.direction + turn) & 3)
        byte = ops.peek(state.cells, state.cell + ops.where(about_markers, 0, ahead))
        empty = (byte & COUNT) == 0
        return ops.where(about_markers, empty == (perception == NO_MARKERS), self._is_clear(byte, state.opened))

    def add_markers(self, state: KarelState, cell: Int, amount: Int) -> KarelState:
        """Put a marker on a cell or take one from it.

        Args:
          state: the state.
          cell: the number of the cell.
          amount: 1 to put a marker, -1 to take one, 0 for no change.

        Returns:
          The state afterwards. It is unchanged where the cell would hold less than 0 or more than 10 markers.
        """
        byte = ops.read(state.cells, cell)
        return self._put(state, cell, byte, _change(byte, amount == 1, amount == -1))

    def flag(self, state: KarelState, cell: Int, bits: int, on: Int) -> KarelState:
        """Set or clear bits of a cell.

        Args:
          state: the state.
          cell: the number of the cell.
          bits: WALL, BODY or both.
          on: 1 to set the bits, -1 to clear them, 0 for no change.

        Returns:
          The state afterwards.
        """
        byte = ops.read(state.cells, cell)
        byte = ops.where(on == 1, byte | bits, ops.where(on == -1, byte & (0xFF - bits), byte))
        return state._replace(cells=ops.write(state.cells, cell, byte))

    def key(self, state: KarelState) -> tuple[Int, Int, bytes] | tuple[Int, ops.Hash]:
        """Return what WHILE compares: row, column, direction and the number of markers of every cell, but no walls.

        Returns:
          In plain Python the exact value. On arrays a pose, int32, and a hash of the numbers of markers, two uint32.
        """
        if isinstance(state.cells, bytes):
            return state.cell, state.direction, state.cells.translate(_MARKERS_ONLY)
        return state.cell * 4 + state.direction, state.hash

    @property
    def poses(self) -> int:
        """The exclusive upper bound of the pose in `key`."""
        return 4 * (self.height + 2) * self.stride

    def _ahead(self, direction: Int) -> Int:
        """Return the difference in cell number of a step: -stride, 1, stride and -1 for N, E, S and W."""
        return ops.where((direction & 1) == 0, ops.where(direction == 0, -self.stride, self.stride), 2 - direction)

    def _is_clear(self, byte: Int, opened: Bool) -> Bool:
        """Return whether the robot can enter a cell with these contents."""
        return ((byte & WALL) == 0) & (((byte & GATE) == 0) | opened)

    def _put(self, state: KarelState, cell: Int, byte: Int, change: Int) -> KarelState:
        """Return the state with `change` markers more on a cell, whose contents were `byte`."""
        cells = ops.write(state.cells, cell, byte + change)
        return state._replace(cells=cells, hash=ops.updated_hash(state.hash, cell, change))


def _change(byte: Int, puts: Bool, picks: Bool) -> Int:
    """Return by how much the number of markers of a cell changes, which has to stay within 0..10."""
    count = byte & COUNT
    return ops.where(puts & (count < MAX_MARKERS), 1, ops.where(picks & (count > 0), -1, 0))
