"""Shows a run as frames, as an animated GIF, or as a strip in PNG. Long runs are thinned (`rollout.thinned`).

Frames are drawn when they are used and a GIF is written frame by frame, so memory holds few of them at a time.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from jaxprl.dsl import ast
from jaxprl.errors import UserError
from jaxprl.render.page import FramePage, StripPage
from jaxprl.render.rollout import Rollout, follow, thinned
from jaxprl.vm.trace import Moment
from jaxprl.worlds.task import PythonTask, Task

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_FRAMES = 200
"""Frames of an animation, at most, if nothing else is asked for."""
STRIP_MOMENTS, STRIP_COLUMNS = 8, 4
"""Moments of a strip, at most, and how many stand side by side, if nothing else is asked for."""
COLORS = 126
"""Colours of a GIF's palette, at most; one more number stands for pixels that do not change."""
UNKNOWN = 255
"""Place in the palette of a colour that was not looked up yet."""


class Frame(NamedTuple):
    """One picture of an animation."""

    image: np.ndarray  # uint8 [height, width, 3]
    milliseconds: int  # how long it is shown


class Film(Sequence[Frame]):
    """The frames of a run. Each is drawn when it is taken by its index, and not kept.

    Args:
      rollout: the run.
      cell: side of a cell in pixels.
      most_frames: frames, at most; longer runs are thinned.
    """

    def __init__(self, rollout: Rollout, cell: int, most_frames: int):
        self.page, self.rollout = FramePage(rollout, cell), rollout
        self.moments = _chosen(rollout, most_frames)

    def __len__(self) -> int:
        return len(self.moments)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        """Return a frame, or with a slice a list of frames."""
        if isinstance(index, slice):
            return [self._frame(moment) for moment in self.moments[index]]
        return self._frame(self.moments[index])

    def _frame(self, moment: Moment) -> Frame:
        return Frame(self.page.frame(moment), _milliseconds(moment, self.rollout))


def frames(
    task: Task | PythonTask, seed: int, program: ast.Program, *, cell: int = 32, most_frames: int = MOST_FRAMES
) -> Film:
    """Run a program on one layout and return the frames that show it: the start, then every call.

    Args:
      task: the task; its world is one that `draw` knows.
      seed: seed of the layout.
      program: the program.
      cell: side of a cell in pixels.
      most_frames: frames, at most. Of a run with more calls, the first and the last frame are kept, those with a
        reward, and others evenly between them.

    Returns:
      The frames, a sequence.

    Raises:
      UserError: the world cannot be drawn, a number is out of range, or the extra `plots` is not installed.
    """
    return frames_of(follow(task, seed, program), cell=cell, most_frames=most_frames)


def frames_of(rollout: Rollout, *, cell: int = 32, most_frames: int = MOST_FRAMES) -> Film:
    """Return the frames of a run that was followed already (`frames`)."""
    return Film(rollout, cell, most_frames)


def _chosen(rollout: Rollout, most: int) -> list[Moment]:
    """Return the moments of a run to show, at most so many."""
    moments = rollout.moments
    return [moments[index] for index in thinned(moments, most)]


def _milliseconds(moment: Moment, rollout: Rollout) -> int:
    """Return how long a moment is shown: the last one long, rewards and actions longer than perceptions."""
    if moment is rollout.moments[-1]:
        return 2500
    if moment.reward or not moment.call:
        return 600
    return 200 if moment.result is None else 120


def gif_bytes(
    task: Task | PythonTask, seed: int, program: ast.Program, *, cell: int = 32, most_frames: int = MOST_FRAMES
) -> bytes:
    """Run a program on one layout and return an animated GIF of it; the arguments are those of `frames`."""
    return encode_gif(frames(task, seed, program, cell=cell, most_frames=most_frames))


def encode_gif(frames: Sequence[Frame]) -> bytes:
    """Return frames as an animated GIF that runs for ever.

    All frames share one palette. Of every frame but the first, only the part that differs from the frame before is
    written.
    """
    from PIL import GifImagePlugin

    palette, buffer = _palette(frames), io.BytesIO()
    same, nearest = len(palette), np.full(1 << 24, UNKNOWN, np.uint8)
    before: np.ndarray | None = None
    for frame in frames:
        shown = _indexed(frame.image, palette, nearest)
        if before is None:
            first = _pillow_image(shown, palette)
            first.save(buffer, "GIF", optimize=False, duration=frame.milliseconds, loop=0, disposal=1)
            buffer.seek(-1, io.SEEK_END)  # over the byte that ends a GIF
        else:
            part = _changed(before, shown)
            image = _pillow_image(np.where(before == shown, np.uint8(same), shown)[part], palette)
            corner, how = (part[1].start, part[0].start), {"duration": frame.milliseconds, "transparency": same}
            buffer.writelines(GifImagePlugin.getdata(image, corner, disposal=1, **how))
        before = shown
    buffer.write(b";")
    return buffer.getvalue()


def _pillow_image(shown: np.ndarray, palette: np.ndarray) -> Image:
    """Return an image with a palette: `shown`, uint8 [height, width], are places in the palette."""
    import PIL.Image

    image = PIL.Image.frombytes("P", shown.shape[::-1], shown.tobytes())
    image.putpalette(palette.astype(np.uint8).tobytes() + b"\0\0\0")
    return image


def _changed(before: np.ndarray, after: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and columns of the smallest box outside of which two images are equal, at least one pixel."""
    differs = before != after
    ends = [np.flatnonzero(differs.any(axis=axis))[[0, -1]] if differs.any() else (0, 0) for axis in (1, 0)]
    (top, bottom), (left, right) = ends
    return slice(int(top), int(bottom) + 1), slice(int(left), int(right) + 1)


def _palette(frames: Sequence[Frame]) -> np.ndarray:
    """Return the palette, int [at most COLORS, 3]: the commonest colours as they are, some for all others.

    A GIF may have twice as many colours, but half of them make a smaller file.
    """
    from PIL import Image

    counted: dict[int, int] = {}
    for index in range(0, len(frames), max(1, len(frames) // 12)):
        for number, count in zip(*np.unique(_numbers(frames[index].image), return_counts=True), strict=True):
            counted[int(number)] = counted.get(int(number), 0) + int(count)
    numbers, counts = (np.array(list(part)) for part in (counted.keys(), counted.values()))
    colors = _channels(numbers[np.argsort(-counts, kind="stable")])
    exact, others = colors[: COLORS // 2], colors[COLORS // 2 :].astype(np.uint8)
    if not len(others):
        return exact
    rest = Image.fromarray(others[None]).quantize(COLORS // 2, method=Image.Quantize.MAXCOVERAGE)
    return np.concatenate([exact, np.array(rest.getpalette()).reshape(-1, 3)[: COLORS // 2]])


def _indexed(image: np.ndarray, palette: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Return for every pixel the place of the nearest colour in the palette, uint8 [height, width].

    Args:
      image: uint8 [height, width, 3].
      palette: colours, int [K, 3].
      nearest: place of the nearest colour for every colour so far, else `UNKNOWN`, uint8 [2^24]; the colours of this
        image are added.
    """
    numbers = _numbers(image)
    fresh = np.unique(numbers[nearest[numbers] == UNKNOWN])
    if len(fresh):
        nearest[fresh] = np.square(_channels(fresh)[:, None] - palette[None]).sum(axis=-1).argmin(axis=1)
    return nearest[numbers]


def _numbers(image: np.ndarray) -> np.ndarray:
    """Return colours uint8 [..., 3] as numbers 0xRRGGBB, int32 [...]."""
    return image.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _channels(numbers: np.ndarray) -> np.ndarray:
    """Return numbers 0xRRGGBB [...] as colours [..., 3]."""
    return np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=-1)


def strip(
    task: Task | PythonTask,
    seed: int,
    program: ast.Program,
    *,
    cell: int = 32,
    most_frames: int = STRIP_MOMENTS,
    columns: int = STRIP_COLUMNS,
) -> np.ndarray:
    """Run a program on one layout and return one picture with some moments of the run beside the program.

    Args:
      task: as in `frames`, like the following arguments.
      seed: seed of the layout.
      program: the program.
      cell: side of a cell in pixels.
      most_frames: moments, at most.
      columns: how many moments stand side by side.

    Returns:
      The picture, uint8 [height, width, 3].

    Raises:
      UserError: as `frames`.
    """
    return strip_of(follow(task, seed, program), cell=cell, most_frames=most_frames, columns=columns)


def strip_of(rollout: Rollout, *, cell: int, most_frames: int, columns: int = STRIP_COLUMNS) -> np.ndarray:
    """Return the strip of a run that was followed already (`strip`)."""
    return StripPage(rollout, cell).image(_chosen(rollout, most_frames), columns)


def save_gif(frames: Sequence[Frame], path: str | Path) -> None:
    """Write frames to a file, as an animated GIF. Raises UserError if the file cannot be written."""
    _write(path, encode_gif(frames))


def save_strip(image: np.ndarray, path: str | Path) -> None:
    """Write a picture, uint8 [height, width, 3], to a file as PNG. Raises UserError if it cannot be written."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    _write(path, buffer.getvalue())


def _write(path: str | Path, content: bytes) -> None:
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
