"""MiniGrid's world in JAX: Farama's rules, step for step (`minigrid` 3.x, `MiniGridEnv.step` and its objects).

The grid is indexed [x][y], with x to the right and y down. Directions are 0 E, 1 S, 2 W, 3 N. The objects are walls,
floors, doors (open, closed or locked), keys, balls, boxes (which may hold an object, even a box), goals and lava, in
six colours.

- `left` and `right` turn the agent. `forward` steps ahead if the cell is empty or holds an open door, a goal, a floor
  or lava; goals and lava end the episode.
- `pickup` takes a key, ball or box from the cell ahead if the hands are empty. `drop` puts the carried object into the
  cell ahead if that is empty (a floor is not). `done` does nothing.
- `toggle` opens a closed door ahead, closes an open one, and opens a locked one (for good) if a key of its colour is
  carried. A box is replaced by what it holds.

Every rule is written once on scalars (`worlds/ops.py`), for JAX and for plain Python.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxprl.dsl.language import Language
from jaxprl.worlds import ops
from jaxprl.worlds.minigrid import words
from jaxprl.worlds.ops import Bool, Int
from jaxprl.worlds.picture import Picture

WALL, FLOOR, DOOR, KEY, BALL, BOX, GOAL, LAVA = range(2, 10)
"""The types of objects, with Farama's numbers (`OBJECT_TO_IDX`). 0 is an empty cell, which Farama numbers 1."""
TYPES = {"lava": LAVA, "door": DOOR, "ball": BALL, "box": BOX, "wall": WALL, "floor": FLOOR, "key": KEY, "goal": GOAL}
"""The types of objects by name."""
COLORS = {"red": 0, "blue": 2, "green": 1, "purple": 3, "yellow": 4, "grey": 5}
"""The colours by name, with Farama's numbers (`COLOR_TO_IDX`)."""
OPEN, CLOSED, LOCKED = range(3)
"""The states of doors, with Farama's numbers."""
TYPE_BITS, COLOR_BITS, OBJECT_BITS = 4, 3, 9
"""The number of bits for the type, for the colour, and for a whole object without its contents.

An object is the int32 `type | colour << 4 | door state << 7`. What a box holds is packed in the same way, above those
nine bits. Example: a locked red door is 4 | 0 << 4 | 2 << 7 = 260, a red key is 5, and a blue box that holds this key
is 7 | 2 << 4 | 5 << 9 = 2599. Three objects of nine bits fit an int32.
"""
OBJECT = (1 << OBJECT_BITS) - 1
"""The bits of an object without what it holds."""
DEEPEST = 3
"""The largest number of objects in one cell: a box, what it holds, and what that holds if it is a box."""

_SAMPLED_TYPES, _SAMPLED_COLORS = ("lava", "door", "ball", "box"), ("red", "blue")

LANGUAGE = Language(
    name="minigrid",
    actions={"left": 0.15, "right": 0.15, "forward": 0.5, "pickup": 0.08, "drop": 0.08, "toggle": 0.04},
    perceptions={
        "front_is_clear": 0.125,
        **{f"front_object_type h( {name} h)": 0.5 / 4 if name in _SAMPLED_TYPES else 0.0 for name in TYPES},
        **{f"front_object_color h( {name} h)": 0.25 / 2 if name in _SAMPLED_COLORS else 0.0 for name in COLORS},
        "is_carrying_object": 0.125,
    },
    not_probability=0.5,
    world=words.WORLD,
    meanings=words.MEANINGS,
)
"""The language of the three published tasks. Types and colours with probability 0 are understood but never sampled."""
EXTENDED = Language(
    name="minigrid-extended",
    actions={"left": 0.15, "right": 0.15, "forward": 0.4, "pickup": 0.1, "drop": 0.05, "toggle": 0.1, "done": 0.05},
    perceptions={
        "front_is_clear": 0.15,
        **{f"front_object_type h( {name} h)": 0.0 if name == "floor" else 0.3 / 7 for name in TYPES},
        **{f"front_object_color h( {name} h)": 0.1 / 6 for name in COLORS},
        "is_carrying_object": 0.1,
        "left_is_clear": 0.1,
        "right_is_clear": 0.1,
        "front_is_target": 0.1,
        "front_is_landmark": 0.05,
    },
    not_probability=0.5,
    world=words.WORLD,
    meanings=words.MEANINGS,
)
"""`LANGUAGE` with more words, for the tasks of the `minigrid` package. The probabilities are ours; that of floor tiles
is 0, since no task has one."""
NOTHING, LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(8)
"""The codes of actions: 0 does nothing, then Farama's actions in order, so a code is Farama's number plus one."""
_TYPE_CODES = np.array(list(TYPES.values()), np.int32)
_COLOR_CODES = np.array(list(COLORS.values()), np.int32)
_TYPE_NAMES = {code: name for name, code in TYPES.items()}
_COLOR_NAMES = {code: name for name, code in COLORS.items()}
_FIRST_TYPE, _FIRST_COLOR = 1, 1 + len(TYPES)
_CARRYING = _FIRST_COLOR + len(COLORS)
_LEFT_CLEAR, _RIGHT_CLEAR, _TARGET, _LANDMARK = range(_CARRYING + 1, _CARRYING + 5)
"""The codes of perceptions: 0 is front_is_clear; then come the types, the colours and is_carrying_object; and last
those that only `EXTENDED` has."""


class Mission(NamedTuple):
    """The objects that the mission of a layout names, as `kind_and_color` gives them; 0 for none."""

    target: Int  # int32 []
    landmark: Int  # int32 []: the object near which the target has to be put


class MiniGridState(NamedTuple):
    """The state of one MiniGrid world.

    `MiniGridWorld.cell` numbers the cells of the grid and of the ring of walls around it, column by column.
    """

    cell: Int  # int32 []: the cell where the agent is
    direction: Int  # int32 []: 0 E, 1 S, 2 W, 3 N
    carrying: Int  # int32 []: the object that the agent carries, 0 for none
    cells: ops.Table  # int32 [(W+2)*(H+2)], or a tuple: the object in each cell, 0 for none
    hash: ops.Hash  # two uint32 [], or None in plain Python: hash of the changes of cells since the start
    mission: Mission = None  # type: ignore[assignment]  # None where the language has no word for it


class Event(NamedTuple):
    """What an action did, as far as rewards depend on it. All fields are int32 []."""

    action: Int  # the code of the action
    entered: Int  # the type of the object that the agent stepped on; 0 if it did not step, or onto an empty cell
    carried: Int  # the object that was carried before the action
    before: Int  # the object in the cell ahead before the action
    after: Int  # the object in that cell after the action
    ahead: Int  # the number of that cell


@dataclasses.dataclass(frozen=True)
class MiniGridWorld:
    """The rules of a MiniGrid world of a certain size.

    Cells are stored with a ring of walls around the grid, so that looking ahead needs no check of bounds.

    Args:
      width: the number W of columns.
      height: the number H of rows.
      language: `LANGUAGE` or `EXTENDED`.
      see_through: whether walls hide nothing from the agent's view (`observe.py`): `see_through_walls` of the package.
    """

    width: int
    height: int
    language: Language = LANGUAGE
    see_through: bool = False

    call_limit = 1_000
    """The number of the call that crashes the run. If it is an action, it still happens and counts. The run is crashed
    even if the program had nothing left to do (kept from the published system)."""
    terminated_hides_crash = True
    """A run that is terminated by the call that crashes it is reported as terminated only."""

    @property
    def stride(self) -> int:
        """The number of stored cells in a column, H + 2."""
        return self.height + 2

    @property
    def poses(self) -> int:
        """The exclusive upper bound of the pose in `key`."""
        return 4 * (self.width + 2) * self.stride

    def cell(self, x: int, y: int) -> int:
        """Return the number of a cell. x and y may be -1 and W or H, which is the ring around the grid."""
        return (x + 1) * self.stride + y + 1

    def position(self, cell: Int) -> tuple[Int, Int]:
        """Return x and y of a cell."""
        row, column = ops.divided(cell, self.stride)
        return row - 1, column - 1

    def pose(self, state: MiniGridState) -> list[int]:
        """Return x, y and direction of a plain state."""
        x, y = self.position(state.cell)
        return [int(x), int(y), int(state.direction)]

    def picture(self, state: MiniGridState) -> Picture:
        """Return a plain state as text."""
        x, y, direction = self.pose(state)
        cells = [[sign(int(state.cells[self.cell(x, y)])) for x in range(self.width)] for y in range(self.height)]
        return words.picture(cells, (x, y, direction), sign(int(state.carrying)))

    def act(self, state: MiniGridState, action: Int, at_limit: Bool = False) -> tuple[MiniGridState, Event]:
        """Do an action.

        Args:
          state: the state.
          action: the code of the action.
          at_limit: whether this is the call that crashes the run, which changes nothing in this world.

        Returns:
          The state afterwards, and what happened.
        """
        ahead = state.cell + self._step(state.direction)
        before = ops.read(state.cells, ahead)
        kind = before & 15
        state, goes = _pose_after(state, action, ahead, before)
        picks = (action == PICKUP) & (state.carrying == 0) & ((kind == KEY) | (kind == BALL) | (kind == BOX))
        drops = (action == DROP) & (state.carrying != 0) & (before == 0)
        toggled = ops.where(action == TOGGLE, _toggled(before, state.carrying), before)
        after = ops.where(picks, 0, ops.where(drops, state.carrying, toggled))
        new = state._replace(
            carrying=ops.where(picks, before, ops.where(drops, 0, state.carrying)),
            cells=ops.write(state.cells, ahead, after),
            hash=ops.updated_hash(state.hash, ahead, (after & OBJECT) - (before & OBJECT)),
        )
        return new, Event(action, ops.where(goes, kind, 0), state.carrying, before, after, ahead)

    def glide(self, state: MiniGridState, action: Int) -> tuple[MiniGridState, Bool]:
        """Do an action if it is a turn, or a `forward` that does not step on an object.

        Args:
          state: the state.
          action: the code of the action, not 0.

        Returns:
          The state afterwards, and whether the action is one of these. If not, the state is unchanged.
        """
        ahead = state.cell + self._step(state.direction)
        before = ops.peek(state.cells, ahead)
        new, goes = _pose_after(state, action, ahead, before)
        steps_on = goes & (before != 0)
        cell = ops.where(steps_on, state.cell, new.cell)
        return new._replace(cell=cell), (action <= FORWARD) & ops.invert(steps_on)

    def perceive(self, state: MiniGridState, perception: Int) -> Bool:
        """Return the truth of a perception.

        Args:
          state: the state.
          perception: the code of the perception.

        Returns:
          bool []. An empty cell has neither a type nor a colour.
        """
        extended, direction = self.language is EXTENDED, state.direction
        if extended:
            turn = ops.where(perception == _LEFT_CLEAR, 3, ops.where(perception == _RIGHT_CLEAR, 1, 0))
            direction = (direction + turn) & 3
        seen = ops.peek(state.cells, state.cell + self._step(direction))
        about_type = (perception >= _FIRST_TYPE) & (perception < _FIRST_COLOR)
        kind = ops.pick(_TYPE_CODES, ops.where(about_type, perception - _FIRST_TYPE, 0))
        about_color = (perception >= _FIRST_COLOR) & (perception < _CARRYING)
        color = ops.pick(_COLOR_CODES, ops.where(about_color, perception - _FIRST_COLOR, 0))
        is_color = (seen != 0) & (((seen >> TYPE_BITS) & 7) == color)
        truth = ops.where(about_type, (seen & 15) == kind, ops.where(about_color, is_color, can_enter(seen)))
        if extended:
            named = ops.where(perception == _TARGET, state.mission.target, state.mission.landmark)
            is_named = (seen != 0) & (kind_and_color(seen) == named)
            truth = ops.where((perception == _TARGET) | (perception == _LANDMARK), is_named, truth)
        return ops.where(perception == _CARRYING, state.carrying != 0, truth)

    def key(self, state: MiniGridState) -> tuple[Int, Int, tuple[int, ...]] | tuple[Int, ops.Hash]:
        """Return what WHILE compares: the types, colours and door states of the grid, and the agent's pose.

        What the agent carries and what boxes hold is not part of it, although actions depend on both.

        Returns:
          In plain Python the exact value. On arrays a pose, int32, and a hash of the grid, two uint32.
        """
        if isinstance(state.cells, tuple):
            return state.cell, state.direction, tuple(cell & OBJECT for cell in state.cells)
        return state.cell * 4 + state.direction, state.hash

    def _step(self, direction: Int) -> Int:
        """Return the difference in cell number of a step: stride, 1, -stride and -1 for E, S, W and N."""
        along_x = ops.where(direction == 0, self.stride, -self.stride)
        return ops.where((direction & 1) == 0, along_x, 2 - direction)


def _pose_after(state: MiniGridState, action: Int, ahead: Int, before: Int) -> tuple[MiniGridState, Bool]:
    """Return the state with the pose after an action, and whether the agent stepped onto the cell ahead.

    `ahead` is the number of that cell, and `before` the object in it.
    """
    goes = (action == FORWARD) & can_enter(before)
    turn = ops.where(action == LEFT, 3, ops.where(action == RIGHT, 1, 0))
    cell, direction = ops.where(goes, ahead, state.cell), (state.direction + turn) & 3
    return state._replace(cell=cell, direction=direction), goes


def kind_and_color(item: Int) -> Int:
    """Return an object (0 for none) without its door state and contents."""
    return item & ((1 << (TYPE_BITS + COLOR_BITS)) - 1)


def can_enter(item: Int) -> Bool:
    """Return whether the agent can step on a cell with this object (0 for none)."""
    kind = item & 15
    return (item == 0) | (kind == FLOOR) | (kind == GOAL) | (kind == LAVA) | ((kind == DOOR) & is_open(item))


def is_open(door: Int) -> Bool:
    """Return whether an object that is a door is open."""
    return (door >> (TYPE_BITS + COLOR_BITS)) & 3 == OPEN


def _toggled(item: Int, carrying: Int) -> Int:
    """Return what `toggle` turns an object into, while `carrying` is carried; 0 is none in both."""
    kind, state = item & 15, (item >> (TYPE_BITS + COLOR_BITS)) & 3
    # A key fits if its colour is that of the door: then the three bits of the colour are 0 in carrying ^ item. A box
    # turns into what it holds when its own nine bits are shifted out, as in 2599 >> 9 = 5, a red key.
    fits = (carrying & 15 == KEY) & (((carrying ^ item) >> TYPE_BITS) & 7 == 0)
    new_state = ops.where(state == LOCKED, ops.where(fits, OPEN, LOCKED), ops.where(state == OPEN, CLOSED, OPEN))
    door = kind_and_color(item) | (new_state << (TYPE_BITS + COLOR_BITS))
    return ops.where(kind == DOOR, door, ops.where(kind == BOX, item >> OBJECT_BITS, item))


def ends_episode(event: Event) -> Bool:
    """Return whether Farama's base rules end the episode, which is when the agent steps on a goal or on lava."""
    return (event.entered == GOAL) | (event.entered == LAVA)


def item(type_name: str, color: str, state: int = 0, contents: int = 0) -> int:
    """Pack an object into a number (`OBJECT_BITS`).

    Args:
      type_name: a key of `TYPES`.
      color: a key of `COLORS`.
      state: OPEN, CLOSED or LOCKED for a door, otherwise 0.
      contents: for a box, the object that it holds; 0 for none.

    Returns:
      The number.

    Example:
      >>> item("door", "red", LOCKED), item("box", "blue", contents=item("key", "red"))
      (260, 2599)
    """
    code = TYPES[type_name] | COLORS[color] << TYPE_BITS | state << (TYPE_BITS + COLOR_BITS)
    return code | contents << OBJECT_BITS


def sign(item: int) -> str:
    """Return the sign of an object (0 for none) in a picture."""
    if not item:
        return words.EMPTY
    kind, color, state = item & 15, item >> TYPE_BITS & 7, item >> (TYPE_BITS + COLOR_BITS) & 3
    held = item >> OBJECT_BITS
    return words.sign(_TYPE_NAMES[kind], _COLOR_NAMES[color], words.DOORS[state], sign(held) if held else "")
