"""A state as text, for prompts. A world may have `picture(state)`, an environment `picture()`; none has to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

OUTSIDE = "x"
"""What cells beyond the grid are shown as."""
SIGNS = f"The arrow (^ > v <) is the agent, before what its cell holds; {OUTSIDE} lies outside the grid."


class Picture(NamedTuple):
    """A grid of signs and where the agent is in it."""

    cells: Sequence[Sequence[str]]
    """[rows][columns] from the top left: what a cell holds, a word without blanks that does not begin like an arrow."""
    agent: tuple[int, int]
    """Row and column in `cells`; it may be beyond them."""
    arrow: str
    """Where the agent faces: one of ^ > v <."""
    pose: str
    """Where it is and faces, in the world's own coordinates, and what it carries."""
    signs: Sequence[str]
    """How to read coordinates and cells, in sentences."""

    def grid(self) -> str:
        """Return all cells, a line a row."""
        return self._table(range(len(self.cells)), range(len(self.cells[0])))

    def around(self) -> str:
        """Return the 3x3 cells around the agent, a line a row; the top of the grid stays up."""
        row, column = self.agent
        return self._table(range(row - 1, row + 2), range(column - 1, column + 2))

    def _table(self, rows: range, columns: range) -> str:
        table = [[self._word(row, column) for column in columns] for row in rows]
        widths = [max(map(len, words)) for words in zip(*table, strict=True)]
        padded = (" ".join(map(str.ljust, words, widths)).rstrip() for words in table)
        return "\n".join(padded)

    def _word(self, row: int, column: int) -> str:
        inside = 0 <= row < len(self.cells) and 0 <= column < len(self.cells[0])
        arrow = self.arrow if (row, column) == self.agent else ""
        return arrow + (self.cells[row][column] if inside else OUTSIDE)
