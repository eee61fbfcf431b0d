"""Pages that show a run: the world's picture with the program beside it. All sizes follow from that of the cells.

Text is drawn by Pillow with matplotlib's monospaced font. Both come with the extra `plots` and are imported when they
are first used.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from jaxprl.dsl.ast import call_text
from jaxprl.errors import needed_by
from jaxprl.render.rollout import Rollout
from jaxprl.render.world import draw
from jaxprl.vm.trace import Moment

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

Color = tuple[int, int, int]

PAPER, TEXT, FAINT, RULE = (255, 255, 255), (31, 41, 55), (140, 148, 160), (222, 225, 230)
KEYWORD, NAME, LITERAL = (147, 51, 186), (31, 41, 55), (4, 120, 87)
DOES, HOLDS, FAILS = (219, 234, 254), (209, 243, 221), (254, 222, 222)
"""Backgrounds of the current line: for an action, a perception that holds, and one that does not."""
GOOD, BAD, DONE = (22, 163, 74), (220, 38, 38), (96, 125, 190)
LONGEST = 72
"""Characters of the longest line of a program; longer lines are cut."""
_WORDS = re.compile(r"\s+|\w+|.")
_KEYWORDS = {"def", "while", "if", "else", "for", "in", "not", "and", "or"}


@functools.cache
def _pillow() -> tuple[ModuleType, ModuleType, ModuleType, Path]:
    """Return Pillow's modules Image, ImageDraw and ImageFont, and the file of the font."""
    with needed_by("drawing text", extra="plots"):
        from PIL import Image, ImageDraw, ImageFont  # isort: skip  # before matplotlib, whose import fails without it
        import matplotlib as mpl
    return Image, ImageDraw, ImageFont, Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf"


@functools.cache
def font(size: int) -> FreeTypeFont:
    """Return the monospaced font, `size` pixels high.

    Raises:
      UserError: the extra `plots` is not installed.
    """
    _, _, fonts, path = _pillow()
    return fonts.truetype(str(path), size)


class Page:
    """What the pages of one run share: their measures in pixels, the program, and how text is written.

    Args:
      rollout: the run.
      cell: side of a cell in pixels.
    """

    def __init__(self, rollout: Rollout, cell: int):
        self.rollout, self.trace, self.cell = rollout, rollout.trace, cell
        self.size = min(max(round(cell * 0.42), 11), 20)
        self.line = round(self.size * 1.5)
        self.margin = max(cell // 3, 10)
        self.code = [_cut(line) for line in self.trace.program.to_python().splitlines()]
        self.first = self.world(self.trace.moments[0])
        self.advance = font(self.size).getlength("m")

    def world(self, moment: Moment) -> np.ndarray:
        """Return the world's picture at a moment, uint8 [height, width, 3]."""
        return draw(self.rollout.task, moment.state, cell=self.cell)

    def text(self, image: Image, x: float, y: float, text: str, color: Color = TEXT) -> float:
        """Write text from `x` on, in the middle of the line whose top is `y`, and return the x where it ends."""
        where = x, y + self.line / 2
        _pillow()[1].Draw(image).text(where, text, fill=color, font=font(self.size), anchor="lm")
        return x + len(text) * self.advance

    def program(self, image: Image, x: float, y: float) -> None:
        """Write the program with line numbers, its top left corner at (x, y)."""
        for number, line in enumerate(self.code, 1):
            self.text(image, x, y, f"{number:2}", FAINT)
            end = x + 4 * self.advance
            for word in _WORDS.findall(line):
                literal = word.isdigit() or word in ("True", "False")
                color = KEYWORD if word in _KEYWORDS else LITERAL if literal else NAME
                end = self.text(image, end, y, word, color)
            y += self.line

    @property
    def code_width(self) -> int:
        """Width of the line numbers, the program, and the result of a perception to the right of it."""
        return round((4 + max(map(len, self.code)) + 7) * self.advance)

    @property
    def title(self) -> str:
        """The heading."""
        return f"{self.rollout.task.name}, layout {self.rollout.seed}"

    @property
    def title_width(self) -> int:
        """Width of the title with a margin on either side."""
        return round(len(self.title) * self.advance) + 2 * self.margin


class FramePage(Page):
    """A frame of an animation: title, world, program with the current line, calls and return so far, and time line."""

    def __init__(self, rollout: Rollout, cell: int):
        super().__init__(rollout, cell)
        height, width, _ = self.first.shape
        self.top = self.margin + self.line + self.size // 2
        self.panel = self.margin * 2 + width
        self.status = self.top + max(height, len(self.code) * self.line) + self.size // 2
        self.height = self.status + self.line + self.margin + self.size // 2
        calls = len(self.trace.moments)
        longest = f"call {calls} of {calls}  return -0.0000  {self.trace.end.in_words}"
        least = round(len(longest) * self.advance) + 2 * self.margin
        self.width = max(self.panel + self.code_width + self.margin, least, self.title_width)
        self.blank = self._blank()

    def _blank(self) -> Image:
        """Return what is the same in every frame."""
        images, drawing, *_ = _pillow()
        image = images.new("RGB", (self.width, self.height), PAPER)
        self.text(image, self.margin, self.margin, self.title)
        y = self.status + self.line + self.size // 2
        draw = drawing.Draw(image)
        draw.line([(self.margin, y), (self.width - self.margin, y)], fill=RULE, width=2)
        return image

    def frame(self, moment: Moment) -> np.ndarray:
        """Return the frame that shows a moment, uint8 [height, width, 3]."""
        images, *_ = _pillow()
        image = self.blank.copy()
        image.paste(images.fromarray(self.world(moment)), (self.margin, self.top))
        if moment.line:
            self._current(image, moment)
        self.program(image, self.panel, self.top)
        self._status(image, moment)
        self._time_line(image, moment)
        return np.asarray(image)

    def _current(self, image: Image, moment: Moment) -> None:
        y = self.top + (moment.line - 1) * self.line
        box = [self.panel - self.size // 3, y, self.panel + self.code_width, y + self.line - 1]
        _pillow()[1].Draw(image).rounded_rectangle(box, radius=self.size // 3, fill=_behind(moment))
        if moment.result is not None:
            word = str(moment.result)
            x = self.panel + self.code_width - (len(word) + 0.6) * self.advance
            self.text(image, x, y, word, GOOD if moment.result else BAD)

    def _status(self, image: Image, moment: Moment) -> None:
        calls, reward = self.trace.calls, moment.reward or 0
        end = self.text(image, self.margin, self.status, f"call {moment.call:{len(str(calls))}} of {calls}  ", FAINT)
        color = GOOD if reward > 0 else BAD if reward < 0 else TEXT
        end = self.text(image, end, self.status, f"return {moment.total:.4g}", color)
        if moment.call == calls:
            self.text(image, end + 2 * self.advance, self.status, self.trace.end.in_words, FAINT)

    def _time_line(self, image: Image, moment: Moment) -> None:
        """Draw how far the run has come, and where it was rewarded."""
        draw, calls = _pillow()[1].Draw(image), max(self.trace.calls, 1)
        y, width = self.status + self.line + self.size // 2, self.width - 2 * self.margin
        draw.line([(self.margin, y), (self.margin + width * moment.call // calls, y)], fill=DONE, width=2)
        for seen in self.trace.moments[: moment.call + 1]:
            if seen.reward:
                x = self.margin + width * seen.call // calls
                draw.line([(x, y - 3), (x, y + 4)], fill=GOOD if seen.reward > 0 else BAD, width=2)


class StripPage(Page):
    """Several moments in one picture: the program on the left, the worlds in rows beside it.

    Under each world stand the number of the call, the return so far, and the line of the call in its colour.
    """

    GAP = 12

    def image(self, moments: list[Moment], columns: int) -> np.ndarray:
        """Return the picture, uint8 [height, width, 3].

        Args:
          moments: the moments to show.
          columns: how many worlds stand side by side.
        """
        images, *_ = _pillow()
        captions = [_caption(moment) for moment in moments]
        longest = max(len(line) for caption in captions for line in caption)
        height, width, _ = self.first.shape
        step = max(width, round(longest * self.advance)) + self.GAP + self.margin
        down = height + 3 * self.line + self.margin // 2
        rows = -(-len(moments) // columns)
        left = self.margin * 3 + self.code_width - round(7 * self.advance)
        top = self.margin + round(1.5 * self.line)
        tall = top + self.margin + max(rows * down, len(self.code) * self.line)
        wide = max(left + min(columns, len(moments)) * step, self.title_width)
        image = images.new("RGB", (wide, tall), PAPER)
        self.text(image, self.margin, self.margin, self.title)
        self.program(image, self.margin, top)
        for number, (moment, caption) in enumerate(zip(moments, captions, strict=True)):
            row, column = divmod(number, columns)
            x, y = left + column * step, top + row * down
            image.paste(images.fromarray(self.world(moment)), (x, y))
            self.text(image, x, y + height + self.line // 4, caption[0], FAINT)
            if moment.line:
                below = y + height + round(1.25 * self.line)
                box = [x, below, x + round((len(caption[1]) + 0.5) * self.advance), below + self.line - 1]
                _pillow()[1].Draw(image).rounded_rectangle(box, radius=self.size // 3, fill=_behind(moment))
                self.text(image, x + self.advance / 4, below, caption[1])
        return np.asarray(image)


def _behind(moment: Moment) -> Color:
    """Return the background of the current line."""
    return DOES if moment.result is None else HOLDS if moment.result else FAILS


def _caption(moment: Moment) -> tuple[str, str]:
    """Return the two lines of text under a world."""
    if not moment.call:
        return "start", ""
    result = "" if moment.result is None else f" {moment.result}"
    return (
        f"call {moment.call}, return {moment.total:.4g}",
        f"line {moment.line}: {_cut(call_text(moment.name), 26)}{result}",
    )


def _cut(line: str, longest: int = LONGEST) -> str:
    return line if len(line) <= longest else line[: longest - 1] + "…"
