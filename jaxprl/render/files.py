"""A run as frames, an animated GIF, or a PNG strip. Long runs are thinned (`rollout.thinned`)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxprl.dsl import ast
from jaxprl.errors import UserError
from jaxprl.render.page import FramePage, StripPage
from jaxprl.render.rollout import Moment, Rollout, follow, thinned
from jaxprl.worlds.task import HostTask, Task

MOST_FRAMES = 200
STRIP_MOMENTS, STRIP_COLUMNS = 8, 4
COLORS = 128


class Frame(NamedTuple):
    """One picture of an animation."""

    image: np.ndarray
    """uint8 [height, width, 3]."""
    milliseconds: int


def frames(
    task: Task | HostTask, seed: int, program: ast.Program, *, cell: int = 32, most_frames: int = MOST_FRAMES
) -> list[Frame]:
    """Return a run of the program on the layout of a seed: its start, then every call.

    Of a run with more calls, at most `most_frames` are kept: the first, the last, those with a reward, and others
    evenly between. Raises UserError for a world without pictures, a size that `draw` refuses, and without the extra
    `plots`.
    """
    return frames_of(follow(task, seed, program), cell=cell, most_frames=most_frames)


def frames_of(rollout: Rollout, *, cell: int = 32, most_frames: int = MOST_FRAMES) -> list[Frame]:
    """Return the frames of a run that was followed (`frames`)."""
    page = FramePage(rollout, cell)
    chosen = [rollout.moments[index] for index in thinned(rollout.moments, most_frames)]
    return [Frame(page.frame(moment), _milliseconds(moment, rollout)) for moment in chosen]


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
    """Return frames as an animated GIF that runs for ever, with one palette for all of them."""
    from PIL import Image

    images = [frame.image.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32) for frame in frames]
    palette = _palette(images)
    nearest = _nearest(images, palette)
    flat = [Image.frombytes("P", image.shape[::-1], nearest[image].tobytes()) for image in images]
    for image in flat:
        image.putpalette(palette.astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    flat[0].save(
        buffer, "GIF", save_all=True, append_images=flat[1:], duration=[frame.milliseconds for frame in frames],
        loop=0, disposal=1,
    )  # fmt: skip
    return buffer.getvalue()


def _palette(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return colours [at most COLORS, 3] for images of numbers 0xRRGGBB: the commonest as they are, and some for all
    others. Half of what a GIF may have makes a smaller file."""
    from PIL import Image

    sample = np.concatenate([image.ravel() for image in images[:: max(1, len(images) // 12)]])
    numbers, counts = np.unique(sample, return_counts=True)
    colors = _channels(numbers[np.argsort(-counts, kind="stable")])
    exact, others = colors[: COLORS // 2], colors[COLORS // 2 :].astype(np.uint8)
    if not len(others):
        return exact
    rest = Image.fromarray(others[None]).quantize(COLORS // 2, method=Image.Quantize.MAXCOVERAGE)
    return np.concatenate([exact, np.array(rest.getpalette()).reshape(-1, 3)[: COLORS // 2]])


def _nearest(images: Sequence[np.ndarray], palette: np.ndarray) -> np.ndarray:
    """Return uint8 [2^24]: for every colour of the images the place of the nearest one in the palette."""
    seen = np.zeros(1 << 24, bool)
    for image in images:
        seen[image] = True
    numbers, table = np.flatnonzero(seen), np.zeros(1 << 24, np.uint8)
    distances = np.square(_channels(numbers)[:, None] - palette[None]).sum(axis=-1)
    table[numbers] = distances.argmin(axis=1)
    return table


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
