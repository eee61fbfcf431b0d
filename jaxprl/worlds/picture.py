"""Show a state as text, for prompts.

A world may have `picture(state)`, and an environment `picture()`; neither has to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

OUTSIDE = "x"
"""The sign of a cell outside the grid."""
SIGNS = f"The arrow (^ > v <) is the agent, before what its cell holds; {OUTSIDE} lies outside the grid."


class Picture(NamedTuple):
    """A grid of signs with the agent in it.

    Example:
      >>> picture = Picture([[".", "2"], ["#", "."]], (0, 1), ">", "row 0, column 1, facing east", ("# is a wall.",))
      >>> print(picture.grid())
      . >2
      # .
    """

    cells: Sequence[Sequence[str]]
    """[rows][columns] from the top left: what each cell holds, a word without blanks that does not begin with a sign of
    `arrow`."""
    agent: tuple[int, int]
    """The row and column of the agent in `cells`, which may lie outside of them."""
    arrow: str
    """The direction that the agent faces: one of ^ > v <."""
    pose: str
    """The position and direction of the agent in the world's own coordinates, and what it carries."""
    signs: Sequence[str]
    """How to read the coordinates and cells, as sentences."""

    def grid(self) -> str:
        """Return all cells as text, one line per row."""
        return self._table(range(len(self.cells)), range(len(self.cells[0])))

    def around(self) -> str:
        """Return the 3x3 cells around the agent as text, one line per row. The picture is not turned with the agent."""
        row, column = self.agent
        return self._table(range(row - 1, row + 2), range(column - 1, column + 2))

    def _table(self, rows: range, columns: range) -> str:
        """Return some rows and columns as text with aligned columns."""
        table = [[self._word(row, column) for column in columns] for row in rows]
        widths = [max(map(len, words)) for words in zip(*table, strict=True)]
        padded = (" ".join(map(str.ljust, words, widths)).rstrip() for words in table)
        return "\n".join(padded)

    def _word(self, row: int, column: int) -> str:
        """Return the sign of a cell, with the arrow in front of it if the agent is there."""
        inside = 0 <= row < len(self.cells) and 0 <= column < len(self.cells[0])
        arrow = self.arrow if (row, column) == self.agent else ""
        return arrow + (self.cells[row][column] if inside else OUTSIDE)
