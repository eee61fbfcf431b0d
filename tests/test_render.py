"""Pictures: what differs in the state differs on the page; files are what they say."""

import builtins
import dataclasses
import io
import json
import re
import tracemalloc

import jax
import numpy as np
import pytest

from jaxprl import render
from jaxprl.cli.main import dispatch
from jaxprl.dsl import text
from jaxprl.errors import UserError
from jaxprl.render import page
from jaxprl.render.gif import encode_gif, frames_of, strip_of
from jaxprl.render.page import FramePage
from jaxprl.render.rollout import follow, thinned
from jaxprl.render.tile import Tile, number
from jaxprl.vm.outcomes import End
from jaxprl.vm.trace import Moment
from jaxprl.worlds.make import make
from jaxprl.worlds.minigrid.world import item
from jaxprl.worlds.plain import WorldEnvironment

DOOR_KEY = make("DoorKey")
LAVA = make("LavaGap")
WALK = "DEF run m( WHILE c( frontIsClear c) w( move w) turnLeft move m)"
CLEAN = "DEF run m( REPEAT R=9 r( pickMarker move r) m)"
CIRCLE = "DEF run m( REPEAT R=9 r( move turnLeft r) m)"


def parse(program, task=DOOR_KEY):
    return text.from_text(program, task.language)


def tile_of(task, state, place, cell):
    """The pixels of the cell at (row, column)."""
    row, column = place
    picture = render.draw(task, state, cell=cell)
    return picture[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]


def all_different(pictures):
    return len({picture.tobytes() for picture in pictures}) == len(pictures)


@pytest.mark.parametrize("cell", [8, 16, 32, 64])
def test_every_number_of_markers_and_every_direction_looks_different(cell):
    state, world = DOOR_KEY.layout(0).state, DOOR_KEY.world
    elsewhere, here = world.cell(6, 6), int(state.cell)
    heaps = []
    for place in (elsewhere, here):  # alone, and under the robot
        for count in range(11):
            cells = state.cells.copy()
            cells[place] = count
            heaps.append(tile_of(DOOR_KEY, state._replace(cells=cells), world.position(place), cell))
    assert all_different(heaps)
    turned = [state._replace(direction=np.int32(direction)) for direction in range(4)]
    assert all_different([tile_of(DOOR_KEY, one, world.position(here), cell) for one in turned])


def test_the_arrow_points_where_the_robot_faces():
    """The tip is thin: of the arrow's half ahead fewer pixels are coloured than of the half behind."""
    state, world = DOOR_KEY.layout(0).state, DOOR_KEY.world
    ahead = {0: np.s_[:32], 1: np.s_[:, 32:], 2: np.s_[32:], 3: np.s_[:, :32]}
    behind = {0: ahead[2], 1: ahead[3], 2: ahead[0], 3: ahead[1]}
    for direction in range(4):
        tile = tile_of(DOOR_KEY, state._replace(direction=np.int32(direction)), world.position(int(state.cell)), 64)
        robot = (tile == (37, 99, 235)).all(axis=-1)
        assert 0 < robot[ahead[direction]].sum() < robot[behind[direction]].sum()


def test_digits_look_different():
    def painted(value):
        tile = Tile(24, (0, 0, 0))
        number(tile, value, (255, 255, 255))
        return tile.image()

    assert all_different([painted(value) for value in range(11)])


def test_a_door_of_karel_opens_and_the_snake_and_targets_show():
    closed = DOOR_KEY.layout(0).state
    wall, gate = tile_of(DOOR_KEY, closed, (5, 4), 32), tile_of(DOOR_KEY, closed, (2, 4), 32)
    opened = tile_of(DOOR_KEY, closed._replace(opened=np.bool_(True)), (2, 4), 32)
    floor = tile_of(DOOR_KEY, closed._replace(cells=np.zeros_like(closed.cells)), (2, 4), 32)
    assert all_different([wall, gate, opened, floor])
    marked = [np.full_like(closed.cells, byte) for byte in (0x00, 0x40, 0x80)]
    assert all_different([tile_of(DOOR_KEY, closed._replace(cells=cells), (6, 6), 32) for cells in marked])


@pytest.mark.parametrize("cell", [16, 32])
def test_every_object_of_minigrid_looks_different(cell):
    state, world = LAVA.layout(0).state, LAVA.world
    names = ["wall", "floor", "key", "ball", "box"]
    colors = ["red", "green", "blue", "purple", "yellow", "grey"]
    objects = [item(name, color) for name in names for color in colors]
    objects += [item("door", color, stands) for color in colors for stands in range(3)]
    objects += [0, item("goal", "green"), item("lava", "red")]
    tiles = []
    for code in objects:
        cells = state.cells.copy()
        cells[world.cell(4, 2)] = code
        tiles.append(tile_of(LAVA, state._replace(cells=cells), (2, 4), cell))
    assert all_different(tiles)
    carried = [state._replace(carrying=np.int32(code)) for code in (0, *objects[12:30])]
    faced = [state._replace(direction=np.int32(direction)) for direction in range(4)]
    assert all_different([tile_of(LAVA, one, (1, 1), cell) for one in carried + faced[1:]])


@pytest.mark.parametrize("name", ["DoorKey", "CleanHouse", "RedBlueDoor", "MiniGrid-KeyCorridorS3R1-v0"])
def test_plain_numpy_and_jax_states_give_the_same_picture(name):
    task = make(name)
    layout = task.layout(3)
    pictures = [
        render.draw(task.world, WorldEnvironment(task, layout).state, cell=8),
        render.draw(task, layout.state, cell=8),
        render.draw(task, jax.tree.map(jax.numpy.asarray, layout.state), cell=8),
    ]
    assert pictures[0].shape == (8 * task.world.height, 8 * task.world.width, 3)
    assert pictures[0].dtype == np.uint8
    for other in pictures[1:]:
        np.testing.assert_array_equal(pictures[0], other)


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(UserError, match="4 to 256"):
        render.draw(DOOR_KEY, DOOR_KEY.layout(0).state, cell=1)
    with pytest.raises(UserError, match="object cannot be drawn"):
        render.draw(object(), None)
    with pytest.raises(UserError, match="farama:LavaGap cannot be drawn"):
        render.frames(make("farama:LavaGap"), 0, parse("DEF run m( forward m)", LAVA))


def moments(rewarded, number):
    return [
        Moment(call, "action", "move", 1, None, float(call in rewarded), False, False, 0.0, None, None, None)
        for call in range(number)
    ]


def test_thinning_keeps_the_first_the_last_and_the_rewarded_moments():
    assert thinned(moments((), 5), 5) == [0, 1, 2, 3, 4]
    for most in (2, 3, 10, 57, 199):
        kept = thinned(moments((17, 18, 140), 200), most)
        assert len(kept) == most
        assert kept == sorted(set(kept))
        assert kept[0] == 0
        assert kept[-1] == 199
        assert most < 5 or {17, 18, 140} <= set(kept)
    evenly = thinned(moments((), 1001), 101)
    assert max(np.diff(evenly)) <= 11
    many = thinned(moments(range(1000), 1001), 12)
    assert len(many) == 12
    assert max(np.diff(many)) <= 110
    with pytest.raises(UserError, match="a first and a last"):
        thinned(moments((), 5), 1)


def test_a_rollout_has_a_moment_for_every_call():
    harvester = make("Harvester")
    trace = follow(harvester, 0, parse(CLEAN, harvester)).trace
    assert [moment.call for moment in trace.moments] == list(range(19))
    assert trace.end == End.FINISHED
    assert {moment.line for moment in trace.moments} == {0, 3, 4}
    assert trace.moments[1].reward == pytest.approx(1 / 36)
    assert trace.moments[1].name == "pickMarker"
    assert trace.moments[-1].total == pytest.approx(sum(moment.reward or 0 for moment in trace.moments))


def test_frames_show_the_current_line_and_the_world():
    rollout = follow(DOOR_KEY, 0, parse(WALK))
    frames = frames_of(rollout, cell=16)
    page_of_run = FramePage(rollout, 16)
    for frame, moment in zip(frames, rollout.moments, strict=True):
        assert frame.image.shape == (page_of_run.height, page_of_run.width, 3)
        world = render.draw(DOOR_KEY, moment.state, cell=16)
        top, left = page_of_run.top, page_of_run.margin
        np.testing.assert_array_equal(frame.image[top : top + 128, left : left + 128], world)
        behind = page.DOES if moment.result is None else page.HOLDS if moment.result else page.FAILS
        lines = [
            np.any((frame.image[y : y + page_of_run.line, page_of_run.panel :] == behind).all(axis=-1))
            for y in range(top, top + page_of_run.line * len(page_of_run.code), page_of_run.line)
        ]
        assert [number for number, found in enumerate(lines, 1) if found] == ([moment.line] if moment.line else [])
    again = frames_of(follow(DOOR_KEY, 0, parse(WALK)), cell=16)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(frames, again, strict=True))


@pytest.mark.parametrize("cell", [8, 40])
def test_a_gif_has_its_frames(cell):
    from PIL import Image

    frames = render.frames(DOOR_KEY, 0, parse(CIRCLE), cell=cell, most_frames=7)
    content = render.gif_bytes(DOOR_KEY, 0, parse(CIRCLE), cell=cell, most_frames=7)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "GIF"
        assert image.n_frames == len(frames) == 7
        assert image.size == frames[0].image.shape[1::-1]
        assert image.info["loop"] == 0
        for number, frame in enumerate(frames):
            image.seek(number)
            assert image.info["duration"] == frame.milliseconds
            shown = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(shown - frame.image).max() < 40
            assert np.abs(shown - frame.image).mean() < 1


def test_memory_holds_few_frames():
    frames = render.frames(make("Harvester"), 0, parse(CLEAN, make("Harvester")), cell=96)
    height, width, _ = frames[0].image.shape
    tracemalloc.start()
    try:
        encode_gif(frames)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (1 << 24) + 50 * height * width, f"{(peak - (1 << 24)) / height / width:.0f} bytes a pixel"


@pytest.mark.parametrize("cell", [4, 32])
def test_a_long_title_is_whole(cell):
    rollout = follow(DOOR_KEY, 0, parse("DEF run m( move m)"))
    rollout = rollout._replace(task=dataclasses.replace(DOOR_KEY, name="Door" * 50))
    frame, strip = FramePage(rollout, cell), strip_of(rollout, cell=cell, most_frames=2)
    assert frame.title_width <= min(frame.width, strip.shape[1])
    band = np.s_[: frame.margin + frame.line, : frame.title_width]
    np.testing.assert_array_equal(strip[band], np.asarray(frame.blank)[band])
    assert (strip[band] != 255).any()


def test_a_strip_has_the_colour_of_the_current_line():
    strip = render.strip(DOOR_KEY, 0, parse(WALK), cell=16)
    for behind in (page.DOES, page.HOLDS, page.FAILS):
        assert (strip == behind).all(axis=-1).sum() > 500


def test_long_lines_are_cut_and_long_programs_make_a_taller_page():
    condition = "not c( " * 20 + "frontIsClear" + " c)" * 20
    program = parse(f"DEF run m( WHILE c( {condition} c) w( {'turnLeft ' * 40}w) m)")
    page_of_run = FramePage(follow(DOOR_KEY, 0, program), 8)
    assert max(map(len, page_of_run.code)) == page.LONGEST
    assert page_of_run.height > 42 * page_of_run.line


@pytest.mark.parametrize("name", ["run.gif", "run.png"])
def test_the_command_writes_pictures(name, tmp_path, capsys):
    from PIL import Image

    path = tmp_path / name
    words = ["render", "--task", "DoorKey", "--layout-seed", "3", "--program", WALK, "--out", str(path)]
    assert dispatch([*words, "--cell", "8", "--most-frames", "4"]) == 0
    with Image.open(path) as image:
        size = f"{image.width}x{image.height} pixels"
        assert getattr(image, "n_frames", 1) == (4 if name.endswith("gif") else 1)
    printed = capsys.readouterr().out
    assert size in printed
    assert "4 " in printed
    assert "return 0.0000" in printed
    assert dispatch([*words[:-3], "DEF run m( move m)", "--out", str(path)]) == 0
    assert re.search(
        "gif: 2 frames of 1 calls" if name.endswith("gif") else "png: 2 moments of 1 calls", capsys.readouterr().out
    )
    assert dispatch(["trace", "--task", "DoorKey", "--layout-seed", "3", "--program", WALK]) == 0
    assert f"of {len([json.loads(line) for line in capsys.readouterr().out.splitlines()])} calls" in printed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--out": "run.jpg"}, "ends with .gif or .png"),
        ({"--layout-seed": "0-3"}, "a run is on one layout"),
        ({"--out": "nowhere/run.gif"}, "there is no folder nowhere"),
    ],
)
def test_mistakes_are_said(changed, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {"--task": "DoorKey", "--program": "DEF run m( move m)", "--out": "run.gif", **changed}
    with pytest.raises(UserError, match=message):
        dispatch(["render", *(part for pair in words.items() for part in pair)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["PIL", "matplotlib"])
def test_without_the_extra_the_message_names_it(missing, monkeypatch):
    original = builtins.__import__

    def refuse(name, *rest, **more):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return original(name, *rest, **more)

    page._pillow.cache_clear()
    page.font.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=rf"needs the package {missing}: pip install 'jaxprl\[plots\]'"):
        render.frames(DOOR_KEY, 0, parse(WALK))
    assert render.draw(DOOR_KEY, DOOR_KEY.layout(0).state, cell=8).shape == (64, 64, 3)


def test_a_strip_shows_the_chosen_moments():
    few = render.strip(DOOR_KEY, 0, parse(WALK), cell=16, most_frames=3)
    wide = render.strip(DOOR_KEY, 0, parse(WALK), cell=16, most_frames=3, columns=1)
    assert few.dtype == np.uint8
    assert few.shape[2] == 3
    assert wide.shape[0] > few.shape[0]
    assert wide.shape[1] < few.shape[1]
    rollout = follow(DOOR_KEY, 0, parse(WALK))
    for moment in (rollout.moments[0], rollout.moments[-1]):
        world = render.draw(DOOR_KEY, moment.state, cell=16)
        views = np.lib.stride_tricks.sliding_window_view(few, world.shape)
        corner = (views[:, :, 0, ::31, ::31] == world[::31, ::31]).all(axis=(2, 3, 4))
        found = [np.array_equal(few[y : y + 128, x : x + 128], world) for y, x in np.argwhere(corner)]
        assert any(found)
