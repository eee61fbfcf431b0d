"""Descriptions of MiniGrid's world in words, for prompts. They cover the words of all languages of the domain."""

from __future__ import annotations

from collections.abc import Sequence

from jaxprl.worlds.picture import Picture

WORLD = (
    "A cell is empty or holds one object: a wall, lava, a goal, a door, a key, a ball or a box.",
    "Every object has a colour. Walls are grey, lava is red and goals are green.",
    "The agent stands on one cell, faces one of four directions and can carry one key, ball or box.",
    "Walls, closed doors, keys, balls and boxes block the way. Lava and goals do not, but stepping on them ends the "
    "episode.",
    "The episode ends after 1,000 actions and perceptions.",
)
"""The world, as sentences (`Language.world`)."""
_THINGS = {
    "lava": "lava", "door": "a door, open or closed", "ball": "a ball", "box": "a box",
    "wall": "a wall", "floor": "a coloured floor tile, which does not block the way", "key": "a key", "goal": "a goal",
}  # fmt: skip
_COLORS = ("red", "blue", "green", "purple", "yellow", "grey")
MEANINGS = {
    "left": "rotate 90 degrees counter-clockwise.",
    "right": "rotate 90 degrees clockwise.",
    "forward": "go one cell ahead; nothing happens if the way is blocked.",
    "pickup": "take the key, ball or box in the cell ahead, if the hands are free.",
    "drop": "put the carried object into the cell ahead, if that cell is empty.",
    "toggle": "open the closed door in the cell ahead (a locked one only with a key of its colour in the hands), or "
    "close the open one; a box there is replaced by what it holds, if anything.",
    "done": "declare the task done.",
    "front_is_clear": "the agent could step into the cell ahead; lava, goals and open doors count as clear.",
    "left_is_clear": "the agent could step into the cell to its left.",
    "right_is_clear": "the agent could step into the cell to its right.",
    "front_is_target": "the object in the cell ahead has the type and colour of the task's target.",
    "front_is_landmark": "the object in the cell ahead has the type and colour of the task's landmark, near "
    "which the target belongs.",
    **{f"front_object_type h( {name} h)": f"the cell ahead holds {thing}." for name, thing in _THINGS.items()},
    **{f"front_object_color h( {name} h)": f"the cell ahead holds an object that is {name}." for name in _COLORS},
    "is_carrying_object": "the agent is carrying something.",
}
"""What each action and perception does (`Language.meanings`)."""
DIRECTIONS = ("east", "south", "west", "north")
"""The names of the directions 0..3."""
EMPTY = "."
"""The sign of an empty cell."""
DOORS = ("open", "closed", "locked")
"""The names of the states of doors."""
SIGNS = (
    "x counts from the left and y from the top, both from 0; north is up.",
    f"# is a wall, {EMPTY} an empty cell; other objects are named, what a box holds in brackets behind it.",
)
"""How to read a picture of the world, as sentences (`Picture.signs`)."""


def sign(kind: str, color: str, door: str, held: str) -> str:
    """Return the sign of an object in a picture.

    Args:
      kind: the name of its type.
      color: the name of its colour.
      door: for a door, one of `DOORS`; otherwise empty.
      held: the sign of what it holds; empty for nothing.

    Returns:
      The sign, a word without blanks.

    Example:
      >>> sign("door", "red", "locked", ""), sign("box", "blue", "", "red-key")
      ('locked-red-door', 'blue-box(red-key)')
    """
    if kind in ("lava", "goal"):
        return kind
    if kind == "wall":
        return "#"
    return f"{door}-{color}-door" if kind == "door" else f"{color}-{kind}" + (f"({held})" if held else "")


def picture(cells: Sequence[Sequence[str]], pose: tuple[int, int, int], carried: str) -> Picture:
    """Return the picture of a state.

    Args:
      cells: the signs of all cells, [y][x].
      pose: the x, y and direction of the agent.
      carried: the sign of what the agent carries, `EMPTY` for nothing.
    """
    x, y, direction = pose
    words = f"x {x}, y {y}, facing {DIRECTIONS[direction]}"
    carrying = "nothing" if carried == EMPTY else carried
    return Picture(cells, (y, x), ">v<^"[direction], f"{words}, carrying {carrying}", SIGNS)
