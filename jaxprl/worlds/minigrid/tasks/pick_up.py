"""PickUp: pick up an object behind doors (`minigrid`'s UnlockPickup, BlockedUnlockPickup, KeyCorridor and
ObstructedMaze)."""

from __future__ import annotations

from jaxprl.worlds import ops
from jaxprl.worlds.minigrid.family import family, layout
from jaxprl.worlds.minigrid.farama import FaramaEnv
from jaxprl.worlds.minigrid.world import PICKUP, Event, MiniGridState, MiniGridWorld, item, kind_and_color
from jaxprl.worlds.task import Layout, Rewarded, Task


def read(world: MiniGridWorld, env: FaramaEnv, state: MiniGridState) -> Layout:
    """Make the layout. The object to pick up is the only one of its type and colour."""
    return layout(state, target=item(env.obj.type, env.obj.color))


def reward(world: MiniGridWorld, progress: tuple, state: MiniGridState, event: Event) -> Rewarded:
    """Reward a `pickup` after which the agent carries the target: 1, and the run ends."""
    has_it = (event.action == PICKUP) & (kind_and_color(state.carrying) == state.mission.target)
    return state, progress, ops.where(has_it, 1, 0), has_it


_LEFT = "On a random cell of the left room, facing a random direction."
_MIDDLE = "On a random cell of the middle room, facing a random direction."
_RIGHT = "On a random cell of the room in the middle of the right side, facing a random direction."
_SMALL, _LARGE = (11, 6), (16, 16)
_BOX = "A left and a right room with a locked door between them. The target, a box, is in the right room, "
_TAKE_BOX = {"goal": "Open the door with the key and pick up the box.", "returns": "1 on picking up the box."}
_TWO = "A left and a right room with a locked door between them. The target, a blue ball, is in the right room."
_NINE = (
    "Nine rooms, three by three. The target, a blue ball, is in a corner room. The doors to the corner rooms are "
    "locked, those of the room in the middle are closed."
)
_LYING = " The keys lie in the rooms from which the locked doors lead on."
_HIDDEN = " The keys are in grey boxes, in the rooms from which the locked doors lead on; toggling a box shows its key."
# In the v0 of the larger mazes, such a ball can be put where a box was; then the box and the key in it are lost.
_BLOCKED = " A green ball lies in front of each locked door."


def _maze(names: tuple[str, ...], size: tuple[int, int], map_: str, agent: str) -> tuple[Task, ...]:
    """Return the tasks of some ObstructedMaze ids with the same size and description."""
    goal = "Find the keys, open the locked doors on the way and pick up the blue ball."
    words = {"map": map_, "agent": agent, "goal": goal, "returns": "1 on picking up the blue ball."}
    return family({f"ObstructedMaze-{name}": size for name in names}, read, reward, words)


TASKS = (
    *family(
        {"UnlockPickup-v0": (11, 6)},
        read, reward,
        {"map": _BOX + "the key in the left one.", "agent": _LEFT, **_TAKE_BOX},
    ),
    *family(
        {"BlockedUnlockPickup-v0": (11, 6)},
        read, reward,
        {"map": _BOX + "the key in the left one, where a ball lies in front of the door.", "agent": _LEFT, **_TAKE_BOX},
    ),
    *family(
        {f"KeyCorridorS{size}R{rows}-v0": (3 * (size - 1) + 1, rows * (size - 1) + 1)
         for size, rows in ((3, 1), (3, 2), (3, 3), (4, 3), (5, 3), (6, 3))},
        read, reward,
        {
            "map": "A corridor from top to bottom, with rooms behind closed doors on both sides. The target, a ball, "
            "is in a room on the right behind a locked door; the key to it is in a room on the left.",
            "agent": "On a random cell of the corridor, facing a random direction.",
            "goal": "Find the key, open the locked door with it and pick up the ball.",
            "returns": "1 on picking up the ball.",
        },
    ),
    *_maze(("1Dl-v0",), _SMALL, _TWO + _LYING, _LEFT),
    *_maze(("1Dlh-v0",), _SMALL, _TWO + _HIDDEN, _LEFT),
    *_maze(("1Dlhb-v0",), _SMALL, _TWO + _HIDDEN + _BLOCKED, _LEFT),
    *_maze(("2Dl-v0",), _LARGE, _NINE + _LYING, _RIGHT),
    *_maze(("2Dlh-v0",), _LARGE, _NINE + _HIDDEN, _RIGHT),
    *_maze(("2Dlhb-v0", "2Dlhb-v1", "2Q-v0", "2Q-v1"), _LARGE, _NINE + _HIDDEN + _BLOCKED, _RIGHT),
    *_maze(("1Q-v0", "1Q-v1", "Full-v0", "Full-v1"), _LARGE, _NINE + _HIDDEN + _BLOCKED, _MIDDLE),
)  # fmt: skip
