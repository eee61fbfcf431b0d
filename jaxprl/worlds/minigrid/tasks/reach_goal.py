"""ReachGoal: reach the goal (all environments of `minigrid` whose step adds nothing to the base rules)."""

from __future__ import annotations

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.farama import FaramaEnv
from jaxprl.worlds.minigrid.world import GOAL, Event, MiniGridState, MiniGridWorld, ends_episode
from jaxprl.worlds.task import Layout, Rewarded


def read(world: MiniGridWorld, env: FaramaEnv, state: MiniGridState) -> Layout:
    """Make the layout. There is no progress to keep, and the mission names no object."""
    return layout(state)


def reward(world: MiniGridWorld, progress: tuple, state: MiniGridState, event: Event) -> Rewarded:
    """Reward reaching the goal: 1, and the run ends. Stepping on lava ends the run."""
    return state, progress, ops.where(event.entered == GOAL, 1, 0), ends_episode(event)


_CORNER = "In the top left corner, facing east."
_ANYWHERE = "On a random cell, facing a random direction."
_REACH = {"goal": "Reach the goal.", "returns": "1 on reaching the goal."}
_AVOID = {
    "goal": "Reach the goal without touching lava.",
    "returns": "1 on reaching the goal. Stepping on lava ends the episode with 0.",
}
_CROSSING = {
    f"{name}-v0": (size, size)
    for name, size in {"CrossingS9N1": 9, "CrossingS9N2": 9, "CrossingS9N3": 9, "CrossingS11N5": 11}.items()
}
_OPEN_ROOM = "Open inside. The goal is in the bottom right corner."

TASKS = (
    *family(
        {"Empty-5x5-v0": (5, 5), "Empty-6x6-v0": (6, 6), "Empty-8x8-v0": (8, 8), "Empty-16x16-v0": (16, 16)},
        read, reward, {"map": _OPEN_ROOM, "agent": _CORNER, **_REACH}, see_through=True,
    ),
    *family(
        {"Empty-Random-5x5-v0": (5, 5), "Empty-Random-6x6-v0": (6, 6)},
        read, reward, {"map": _OPEN_ROOM, "agent": _ANYWHERE, **_REACH}, see_through=True,
    ),
    *family(
        {f"DoorKey-{n}x{n}-v0": (n, n) for n in (5, 6, 8, 16)},
        read, reward,
        {
            "map": "A wall from top to bottom, at a random column, separates a left room from a right one; a locked "
            "yellow door is in it, at a random row. A yellow key lies in the left room. The goal is in the bottom "
            "right corner.",
            "agent": "On a random cell of the left room, facing a random direction.",
            "goal": "Pick up the key, open the door with it and reach the goal.",
            "returns": "1 on reaching the goal.",
        },
    ),
    *family(
        {"FourRooms-v0": (19, 19)},
        read, reward,
        {
            "map": "Four rooms, two by two; each wall between two of them has one gap, at a random place. The goal is "
            "on a random cell.",
            "agent": _ANYWHERE, **_REACH,
        },
    ),
    *family(
        {f"Lava{name}": size for name, size in _CROSSING.items()},
        read, reward,
        {
            "map": "Straight rivers of lava, some across, some down, run from border to border; gaps in them leave a "
            "way. The goal is in the bottom right corner.",
            "agent": _CORNER, **_AVOID,
        },
    ),
    *family(
        {f"Simple{name}": size for name, size in _CROSSING.items()},
        read, reward,
        {
            "map": "Straight walls, some across, some down, run from border to border; gaps in them leave a way. The "
            "goal is in the bottom right corner.",
            "agent": _CORNER, **_REACH,
        },
    ),
    *family(
        {f"LavaGapS{n}-v0": (n, n) for n in (5, 6, 7)},
        read, reward,
        {
            "map": "A vertical strip of lava with one gap, at a random column and row, separates the left part from "
            "the right part. The goal is in the bottom right corner.",
            "agent": _CORNER, **_AVOID,
        },
    ),
    *family(
        {"DistShift1-v0": (9, 7), "DistShift2-v0": (9, 7)},
        read, reward,
        {
            "map": "Open inside but for two horizontal strips of lava in the middle columns, one of them along the top "
            "wall. The goal is in the top right corner. All layouts are the same.",
            "agent": _CORNER, **_AVOID,
        },
        see_through=True,
    ),
    *family(
        {f"MultiRoom-{name}": (25, 25) for name in ("N2-S4-v0", "N4-S5-v0", "N4-S5-v1", "N6-v0")},
        read, reward,
        {
            "map": "Rooms of random sizes and places, each joined to the next by a closed door of a random colour. The "
            "goal is on a random cell of the last room.",
            "agent": "On a random cell of the first room, facing a random direction.",
            "goal": "Open the doors, go through all rooms and reach the goal.",
            "returns": "1 on reaching the goal.",
        },
    ),
    *family(
        {"LockedRoom-v0": (19, 19)},
        read, reward,
        {
            "map": "A corridor from top to bottom with three rooms on each side. Their doors have six different "
            "colours; one is locked, the others are closed. The goal is in the locked room, the key to it in another.",
            "agent": "On a random cell of the corridor, facing a random direction.",
            "goal": "Find the key, open the locked door with it and reach the goal.",
            "returns": "1 on reaching the goal.",
        },
    ),
)  # fmt: skip
