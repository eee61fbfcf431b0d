"""A run as frames, an animated GIF, or a PNG strip. Long runs are thinned (`rollout.thinned`).

Frames are drawn when they are asked for and a GIF is written frame by frame, so memory holds few of them at any size.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprl.dsl import ast
from jaxprl.errors import UserError
from jaxprl.render.page import FramePage, StripPage
from jaxprl.render.rollout import Moment, Rollout, follow, thinned
from jaxprl.worlds.task import HostTask, Task

MOST_FRAMES = 200
STRIP_MOMENTS, STRIP_COLUMNS = 8, 4
COLORS = 126
"""Of a GIF at most; one more number stands for what does not change."""
UNKNOWN = 255
"""A colour's place in the palette before it was looked for."""


class Frame(NamedTuple):
    """One picture of an animation."""

    image: np.ndarray
    """uint8 [height, width, 3]."""
    milliseconds: int


class Film(Sequence[Frame]):
    """The frames of some moments of a run, each drawn when it is asked for."""

    def __init__(self, rollout: Rollout, cell: int, most_frames: int):
        self.page, self.rollout = FramePage(rollout, cell), rollout
        self.moments = [rollout.moments[index] for index in thinned(rollout.moments, most_frames)]

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, index: Any) -> Any:
        """Return a frame, or with a slice a list of frames."""
        chosen = self.moments[index]
        if isinstance(index, slice):
            return [self._frame(moment) for moment in chosen]
        return self._frame(chosen)

    def _frame(self, moment: Moment) -> Frame:
        return Frame(self.page.frame(moment), _milliseconds(moment, self.rollout))


def frames(
    task: Task | HostTask, seed: int, program: ast.Program, *, cell: int = 32, most_frames: int = MOST_FRAMES
) -> Film:
    """Return a run of the program on the layout of a seed: its start, then every call.

    Of a run with more calls, at most `most_frames` are kept: the first, the last, those with a reward, and others
    evenly between. Raises UserError for a world without pictures, a size that `draw` refuses, and without the extra
    `plots`.
    """
    return frames_of(follow(task, seed, program), cell=cell, most_frames=most_frames)


def frames_of(rollout: Rollout, *, cell: int = 32, most_frames: int = MOST_FRAMES) -> Film:
    """Return the frames of a run that was followed (`frames`)."""
    return Film(rollout, cell, most_frames)


def _milliseconds(moment: Moment, rollout: Rollout) -> int:
    if moment is rollout.moments[-1]:
        return 2500
    if moment.reward or not moment.call:
        return 600
    return 200 if moment.result is None else 120


def gif_bytes(
    task: Task | HostTask, seed: int, program: ast.Program, *, cell: int = 32, most_frames: int = MOST_FRAMES
) -> bytes:
    """Return a run as an animated GIF (`frames`)."""
    return encode_gif(frames(task, seed, program, cell=cell, most_frames=most_frames))


def encode_gif(frames: Sequence[Frame]) -> bytes:
    """Return frames as an animated GIF that runs for ever, with one palette for all of them.

    Of every frame but the first, only what differs from the one before is written.
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
            buffer.seek(-1, io.SEEK_END)  # the mark of the end
        else:
            part = _changed(before, shown)
            image = _pillow_image(np.where(before == shown, np.uint8(same), shown)[part], palette)
            corner, how = (part[1].start, part[0].start), {"duration": frame.milliseconds, "transparency": same}
            buffer.writelines(GifImagePlugin.getdata(image, corner, disposal=1, **how))
        before = shown
    buffer.write(b";")
    return buffer.getvalue()


def _pillow_image(shown: np.ndarray, palette: np.ndarray) -> Any:
    from PIL import Image

    image = Image.frombytes("P", shown.shape[::-1], shown.tobytes())
    image.putpalette(palette.astype(np.uint8).tobytes() + b"\0\0\0")
    return image


def _changed(before: np.ndarray, after: np.ndarray) -> tuple[slice, slice]:
    """Return the smallest box outside of which two images are equal, of one pixel at least."""
    differs = before != after
    ends = [np.flatnonzero(differs.any(axis=axis))[[0, -1]] if differs.any() else (0, 0) for axis in (1, 0)]
    (top, bottom), (left, right) = ends
    return slice(int(top), int(bottom) + 1), slice(int(left), int(right) + 1)


def _palette(frames: Sequence[Frame]) -> np.ndarray:
    """Return colours [at most COLORS, 3]: the commonest as they are, and some for all others. Half of what a GIF may
    have makes a smaller file."""
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
    """Return uint8 [height, width]: for every pixel the place of the nearest colour in the palette. `nearest`, uint8
    [2^24], has these for the colours that were there before, and gets the new ones."""
    numbers = _numbers(image)
    fresh = np.unique(numbers[nearest[numbers] == UNKNOWN])
    if len(fresh):
        nearest[fresh] = np.square(_channels(fresh)[:, None] - palette[None]).sum(axis=-1).argmin(axis=1)
    return nearest[numbers]


def _numbers(image: np.ndarray) -> np.ndarray:
    """Return the pixels as int32 0xRRGGBB."""
    return image.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _channels(numbers: np.ndarray) -> np.ndarray:
    return np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=-1)


def strip(
    task: Task | HostTask,
    seed: int,
    program: ast.Program,
    *,
    cell: int = 32,
    most_frames: int = STRIP_MOMENTS,
    columns: int = STRIP_COLUMNS,
) -> np.ndarray:
    """Return at most `most_frames` moments of a run beside its program, uint8 [height, width, 3] (`frames`)."""
    return strip_of(follow(task, seed, program), cell=cell, most_frames=most_frames, columns=columns)


def strip_of(rollout: Rollout, *, cell: int, most_frames: int, columns: int = STRIP_COLUMNS) -> np.ndarray:
    """Return the strip of a run that was followed (`strip`)."""
    chosen = [rollout.moments[index] for index in thinned(rollout.moments, most_frames)]
    return StripPage(rollout, cell).image(chosen, columns)


def save_gif(frames: Sequence[Frame], path: str | Path) -> None:
    """Write frames as an animated GIF."""
    _write(path, encode_gif(frames))


def save_strip(image: np.ndarray, path: str | Path) -> None:
    """Write a picture (`strip`) as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    _write(path, buffer.getvalue())


def _write(path: str | Path, content: bytes) -> None:
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
