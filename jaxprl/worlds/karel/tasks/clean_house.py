"""CleanHouse: collect the markers that lie beside the walls of an apartment (LEAPS; sparse variant: LLM-GS)."""

from __future__ import annotations

import numpy as np

from jaxprl.worlds.karel.layouts import SOUTH, from_seed, nothing
from jaxprl.worlds.karel.tasks.harvester import DENSE_RETURNS, SPARSE_RETURNS, collecting, reward, sparse_reward
from jaxprl.worlds.karel.world import KarelWorld
from jaxprl.worlds.task import Layout, Task

WORLD = KarelWorld(14, 22)

WALLS = """
    ######################
    #..##########.#......#
    #..#..........#####.##
    ##.#................##
    ##........#.........##
    ###.#.###.#..###.#.###
    #...#...#....#...#..##
    #...#...#....#...#...#
    #...#...#....#...##..#
    #...#...##..##...##.##
    #...#...##..##...#..##
    #...#...##..##...#..##
    #...#...##..##...#..##
    ######################
"""
"""The walls (#), 14 x 22 cells."""

CANDIDATES = """
    150 265 147 97 274 94 283 82 103 185 247 46 223 256 55 253 52 134 40 155 37 90 267 96 113 84 199 81 122 282
    105 208 249 48 225 24 217 258 45 234 54 42 157 39 63 166 269 68 151 172 278 115 201 83 107 177 227 195 236
    138 159 41 135 168 144 271 70 91 174 280 203 85 126 179 212 188 209 49 238 161 137 170 146 270 279 102 119
    205 181 128 243 214 190 231 252 51 133 196 261 57 163 139 266 148 275 95 92 80 101 183 23 245 221 192 230 53
    50 239 38 260 141
"""
"""The cells row * 22 + column that may get a marker, in the order in which they are given to the shuffle.

They are the open neighbours of walls (up if row - 1 > 0, down if row + 1 < H - 1, left and right likewise) except
(1,13), (2,12), (3,10), (4,11), (5,11) and (6,10). The published code takes them from a Python set, so their order
depends on CPython's hashing; it is stored here so that it is the same everywhere.
"""


def generate(rng: np.random.RandomState, sparse: bool = False) -> Layout:
    """Make a layout.

    The walls are fixed. The robot starts at (1, 13) and faces south. The candidates are shuffled; the first ten of them
    and (2, 12) get one marker each.
    """
    height, width = WORLD.height, WORLD.width
    walls = np.array([[symbol == "#" for symbol in line] for line in WALLS.split()])
    markers = nothing(height, width)
    candidates = [list(divmod(int(cell), width)) for cell in CANDIDATES.split()]
    rng.shuffle(candidates)
    for row, column in [*candidates[:10], (2, 12)]:
        markers[row, column] = 1
    return collecting(WORLD.state(walls, (1, 13, SOUTH), markers), int(markers.sum()), sparse)


_WORDS = {
    "map": "14 x 22 cells: an apartment of rooms joined by openings. About ten markers lie in cells beside walls.",
    "agent": "In a fixed cell near the top, facing south.",
    "goal": "Collect every marker.",
}

TASKS = (
    Task("CleanHouse", WORLD, from_seed(generate), reward, {**_WORDS, "returns": DENSE_RETURNS}, quiet=True),
    Task(
        "CleanHouseSparse", WORLD, from_seed(generate, sparse=True), sparse_reward,
        {**_WORDS, "returns": SPARSE_RETURNS}, quiet=True,
    ),
)  # fmt: skip
