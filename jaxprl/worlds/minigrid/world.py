"""MiniGrid's world in JAX: Farama's rules, step for step (`minigrid` 3.x, `MiniGridEnv.step` and its objects).

Grid [x][y], x to the right, y down; directions 0 E, 1 S, 2 W, 3 N. Objects: wall, floor, door (open, closed, locked),
key, ball, box (which may hold an object, boxes too), goal, lava, in six colours.

- left, right: turn. forward: step ahead if the cell is empty or holds an open door, goal, floor or lava; goal and lava
  end the episode.
- pickup: take a key, ball or box ahead, with empty hands. drop: put the carried object ahead if that cell is empty
  (floor is not). done: nothing.
- toggle: a closed door opens, an open one closes, a locked one opens (for good) if a key of its colour is carried; a
  box is replaced by what it holds.

Every rule is written once on scalars (`worlds/ops.py`), for JAX and for plain Python.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from jaxprl.dsl.language import Language
from jaxprl.worlds import ops
from jaxprl.worlds.minigrid import words
from jaxprl.worlds.picture import Picture

WALL, FLOOR, DOOR, KEY, BALL, BOX, GOAL, LAVA = range(2, 10)
"""Object types, with Farama's numbers (`OBJECT_TO_IDX`); 0 is an empty cell (Farama: 1)."""
TYPES = {"lava": LAVA, "door": DOOR, "ball": BALL, "box": BOX, "wall": WALL, "floor": FLOOR, "key": KEY, "goal": GOAL}
COLORS = {"red": 0, "blue": 2, "green": 1, "purple": 3, "yellow": 4, "grey": 5}
"""Colours, with Farama's numbers (`COLOR_TO_IDX`)."""
OPEN, CLOSED, LOCKED = range(3)
TYPE_BITS, COLOR_BITS, OBJECT_BITS = 4, 3, 9
OBJECT = (1 << OBJECT_BITS) - 1
"""An object is `type | colour << 4 | door state << 7`; what a box holds is the same again, above those bits."""
DEEPEST = 3
"""Objects in one cell: a box, what it holds, and what that holds if it is a box."""

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
"""`LANGUAGE` with more words, for the package's own tasks; the probabilities are ours. No task has a floor tile."""
NOTHING, LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(8)
"""Action codes: 0 does nothing here, then Farama's actions in order (their number plus one)."""
_TYPE_CODES = np.array(list(TYPES.values()), np.int32)
_COLOR_CODES = np.array(list(COLORS.values()), np.int32)
_TYPE_NAMES = {code: name for name, code in TYPES.items()}
_COLOR_NAMES = {code: name for name, code in COLORS.items()}
_FIRST_TYPE, _FIRST_COLOR = 1, 1 + len(TYPES)
_CARRYING = _FIRST_COLOR + len(COLORS)
_LEFT_CLEAR, _RIGHT_CLEAR, _TARGET, _LANDMARK = range(_CARRYING + 1, _CARRYING + 5)
"""Perception codes: 0 front_is_clear, then the types, the colours, is_carrying_object; then those of `EXTENDED`."""


class Mission(NamedTuple):
    """The objects that a layout's mission names, by `kind_and_color`; 0 for none."""

    target: Any  # int32
    landmark: Any  # int32: what to put the target near


class MiniGrid(NamedTuple):
    """One MiniGrid world. Cells are numbered column by column in a grid with a ring of walls: see `Geometry`."""

    cell: Any  # int32: where the agent is
    direction: Any  # int32: 0 E, 1 S, 2 W, 3 N
    carrying: Any  # int32: an object, 0 for none
    cells: Any  # int32 [(W+2)*(H+2)], or a tuple: objects, 0 for none
    hash: Any  # two uint32, or None in plain Python: hash of the change of the cells since the start
    mission: Any = None  # a Mission, or None where the language cannot ask for it


class Event(NamedTuple):
    """What an action did, as far as rewards depend on it."""

    action: Any  # int: its code
    entered: Any  # int: type of the object that the agent stepped on, 0 if it did not step or the cell was empty
    carried: Any  # int: object carried before the action
    before: Any  # int: object in the cell ahead before it
    after: Any  # int: object there after it
    ahead: Any  # int: that cell


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Size of a world and its rules."""

    width: int
    height: int
    language: Language = LANGUAGE
    see_through: bool = False
    """Whether walls hide nothing from the agent's view (`observe.py`); the package's `see_through_walls`."""

    call_limit = 1_000
    """The call that crashes the run. An action that is this call still happens and counts; the run is crashed even if
    the program had nothing left to do (kept from the published system)."""
    terminated_hides_crash = True
    """A run that is terminated by its last call is reported as terminated only."""

    @property
    def stride(self) -> int:
        return self.height + 2

    @property
    def poses(self) -> int:
        """Exclusive bound of a pose in `key`."""
        return 4 * (self.width + 2) * self.stride

    def cell(self, x: int, y: int) -> int:
        """Return the number of a cell; x and y may be -1 and W, H (the ring)."""
        return (x + 1) * self.stride + y + 1

    def position(self, cell):
        """Return (x, y) of a cell."""
        return cell // self.stride - 1, cell % self.stride - 1

    def pose(self, state: MiniGrid) -> list[int]:
        """Return [x, y, direction] of a plain state."""
        return [*self.position(state.cell), state.direction]

    def picture(self, state: MiniGrid) -> Picture:
        """Return a plain state in text."""
        x, y = self.position(state.cell)
        cells = [[sign(state.cells[self.cell(x, y)]) for x in range(self.width)] for y in range(self.height)]
        return words.picture(cells, (x, y, state.direction), sign(state.carrying))

    def act(self, state: MiniGrid, action, at_limit=False) -> tuple[MiniGrid, Event]:
        """Return the state after an action code and what happened; `at_limit` changes nothing in this world."""
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

    def glide(self, state: MiniGrid, action) -> tuple[MiniGrid, Any]:
        """Return the state after a turn, or a forward that steps on no object, and whether the action is such a one."""
        ahead = state.cell + self._step(state.direction)
        before = ops.peek(state.cells, ahead)
        new, goes = _pose_after(state, action, ahead, before)
        steps_on = goes & (before != 0)
        cell = ops.where(steps_on, state.cell, new.cell)
        return new._replace(cell=cell), (action <= FORWARD) & ops.invert(steps_on)

    def perceive(self, state: MiniGrid, perception):
        """Return the bool that a perception code gives. An empty cell has neither type nor colour."""
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
        found = ops.where(about_type, (seen & 15) == kind, ops.where(about_color, is_color, can_enter(seen)))
        if extended:
            named = ops.where(perception == _TARGET, state.mission.target, state.mission.landmark)
            is_named = (seen != 0) & (kind_and_color(seen) == named)
            found = ops.where((perception == _TARGET) | (perception == _LANDMARK), is_named, found)
        return ops.where(perception == _CARRYING, state.carrying != 0, found)

    def key(self, state: MiniGrid):
        """Return what WHILE compares: the grid's types, colours and door states, the agent's position and direction;
        what is carried and what boxes hold is no part of it. In plain Python the exact value, on arrays a hash."""
        if isinstance(state.cells, tuple):
            return state.cell, state.direction, tuple(cell & OBJECT for cell in state.cells)
        return state.cell * 4 + state.direction, state.hash

    def _step(self, direction):
        """Return the change of the cell number of a step: E, S, W, N."""
        along_x = ops.where(direction == 0, self.stride, -self.stride)
        return ops.where((direction & 1) == 0, along_x, 2 - direction)


def _pose_after(state: MiniGrid, action, ahead, before) -> tuple[MiniGrid, Any]:
    """Return the state with the agent's pose after an action, and whether it stepped ahead, onto `before`."""
    goes = (action == FORWARD) & can_enter(before)
    turn = ops.where(action == LEFT, 3, ops.where(action == RIGHT, 1, 0))
    cell, direction = ops.where(goes, ahead, state.cell), (state.direction + turn) & 3
    return state._replace(cell=cell, direction=direction), goes


def kind_and_color(item):
    """Return an object's number without door state and contents; 0 for none."""
    return item & ((1 << (TYPE_BITS + COLOR_BITS)) - 1)


def can_enter(item):
    """Return whether the agent can step on a cell with this object, 0 for none."""
    kind = item & 15
    return (item == 0) | (kind == FLOOR) | (kind == GOAL) | (kind == LAVA) | ((kind == DOOR) & is_open(item))


def is_open(door):
    """Return whether a door is open."""
    return (door >> (TYPE_BITS + COLOR_BITS)) & 3 == OPEN


def _toggled(item, carrying):
    """Return what toggling makes of an object, 0 for none."""
    kind, state = item & 15, (item >> (TYPE_BITS + COLOR_BITS)) & 3
    fits = (carrying & 15 == KEY) & (((carrying ^ item) >> TYPE_BITS) & 7 == 0)
    new_state = ops.where(state == LOCKED, ops.where(fits, OPEN, LOCKED), ops.where(state == OPEN, CLOSED, OPEN))
    door = kind_and_color(item) | (new_state << (TYPE_BITS + COLOR_BITS))
    return ops.where(kind == DOOR, door, ops.where(kind == BOX, item >> OBJECT_BITS, item))


def ends_episode(event: Event):
    """Return whether Farama's base rules end the episode: the agent stepped on a goal or on lava."""
    return (event.entered == GOAL) | (event.entered == LAVA)


def item(type_name: str, color: str, state: int = 0, contents: int = 0) -> int:
    """Return an object's number."""
    code = TYPES[type_name] | COLORS[color] << TYPE_BITS | state << (TYPE_BITS + COLOR_BITS)
    return code | contents << OBJECT_BITS


def sign(item: int) -> str:
    """Return what a picture shows for an object, 0 for none."""
    if not item:
        return words.EMPTY
    kind, color, state = item & 15, item >> TYPE_BITS & 7, item >> (TYPE_BITS + COLOR_BITS) & 3
    held = item >> OBJECT_BITS
    return words.sign(_TYPE_NAMES[kind], _COLOR_NAMES[color], words.DOORS[state], sign(held) if held else "")
