"""Tasks of one's own, one of each kind, to copy from. Nothing in the package knows them:

jaxprl run --task experiments/custom_task.py:Fence --method hc                         # a new task in Karel's world
jaxprl run --task experiments/custom_task.py:Lift --method hc                          # a new world, a new language
jaxprl run --task experiments/custom_task.py:MountainCar --method hc --layouts 0-3     # an environment of gymnasium
jaxprl prompt --task experiments/custom_task.py:Lift                                   # what a language model is asked
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from jaxprl import Language, Layout, Task, register
from jaxprl.worlds import ops
from jaxprl.worlds.from_gym import Interface, gym_task
from jaxprl.worlds.karel.layouts import EAST, border, nothing
from jaxprl.worlds.karel.world import TARGET, KarelWorld
from jaxprl.worlds.picture import Picture

# 1. A new task in Karel's world: layouts and a reward.

GARDEN = KarelWorld(10, 10)


def garden(seed: int) -> Layout:
    """A house of 1 to 4 cells a side with room to walk around it; the robot is below it and has it on its left."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 5, 2)
    top, left = rng.integers(2, 9 - height), rng.integers(2, 9 - width)
    walls, fence = border(10, 10), nothing(10, 10).astype(bool)
    fence[top - 1 : top + height + 1, left - 1 : left + width + 1] = True
    fence[top : top + height, left : left + width] = False
    walls[top : top + height, left : left + width] = True
    pose = int(top + height), int(rng.integers(left, left + width)), EAST
    posts = np.int32(fence.sum())
    return Layout(GARDEN.state(walls, pose, nothing(10, 10), targets=fence), progress=posts, units=posts)


def fenced(world, missing, state, event):
    """A post brings its share of 1. One elsewhere, a second one on a cell, or pulling one out ends the run."""
    post = (event.change == 1) & ((event.byte & TARGET) != 0) & (event.count == 1)
    missing = missing - ops.where(post, 1, 0)
    return state, missing, ops.where(post, 1, 0), ((event.change != 0) & ops.invert(post)) | (missing == 0)


register(
    Task(
        "Fence", GARDEN, garden, fenced,
        words={
            "map": "10 x 10 cells. Somewhere inside stands a house: a rectangle of wall cells. No markers.",
            "agent": "On a cell just below the house, facing east, so that the house is on its left.",
            "goal": "Fence the house in: one marker on every open cell that touches it, also at its corners.",
            "returns": "An equal share of 1 for each such cell. Any other marker, or picking one up, ends the episode.",
        },
        quiet=True,  # walking and turning bring no reward
    )
)  # fmt: skip

# 2. A new world with words of its own. `jaxprl/worlds/task.py` says what a World has to offer.

LIFT = Language(
    name="lift",
    actions={"go_up": 0.4, "go_down": 0.4, "open_door": 0.2},
    perceptions={"can_go_up": 0.35, "can_go_down": 0.35, "is_called": 0.3},
    not_probability=0.1,
    world=(
        "A lift in a house of 8 floors. It stands at one of them, with its door shut.",
        "On some floors above the ground floor somebody waits for it.",
        "The episode ends after 500 actions and perceptions.",
    ),
    meanings={
        "go_up": "go one floor up; does nothing on the top floor.",
        "go_down": "go one floor down; does nothing on the ground floor.",
        "open_door": "open the door and shut it again: who waits on this floor gets in.",
        "can_go_up": "the lift is not on the top floor.",
        "can_go_down": "the lift is not on the ground floor.",
        "is_called": "somebody waits on this floor.",
    },
)
UP, DOWN, OPEN = range(1, 4)
CAN_GO_UP, CAN_GO_DOWN, IS_CALLED = range(3)


class State(NamedTuple):
    floor: Any  # int32
    waiting: Any  # uint8 [floors], or bytes: 1 where somebody waits
    hash: Any  # two uint32, or None in plain Python: of the change of `waiting` since the start


class Event(NamedTuple):
    opened: Any  # bool
    boarded: Any  # int: people who got in


@dataclasses.dataclass(frozen=True)
class House:
    """A house with a lift: the rules."""

    floors: int

    language = LIFT
    call_limit = 500
    terminated_hides_crash = True

    @property
    def poses(self) -> int:
        return self.floors

    def act(self, state: State, action, at_limit) -> tuple[State, Event]:
        floor = state.floor + ops.where(action == UP, 1, 0) - ops.where(action == DOWN, 1, 0)
        floor = ops.at_most(ops.at_least(floor, 0), self.floors - 1)
        there = ops.read(state.waiting, floor)
        boarded = ops.where(action == OPEN, there, 0)
        waiting = ops.write(state.waiting, floor, there - boarded)
        state_hash = ops.updated_hash(state.hash, floor, -boarded)
        return State(floor, waiting, state_hash), Event(action == OPEN, boarded)

    def perceive(self, state: State, perception):
        is_called = ops.read(state.waiting, state.floor) != 0
        can_move = ops.where(perception == CAN_GO_UP, state.floor < self.floors - 1, state.floor > 0)
        return ops.where(perception == IS_CALLED, is_called, can_move)

    def key(self, state: State):
        return (state.floor, state.waiting) if state.hash is None else (state.floor, state.hash)

    def pose(self, state: State) -> list[int]:
        return [state.floor]

    def picture(self, state: State) -> Picture:
        """For prompts that show what a program did (not needed otherwise)."""
        shaft = [["*" if waits else "."] for waits in reversed(state.waiting)]
        signs = ("Floors are listed from the top one to the ground floor, 0.", "* somebody waits, . nobody does.")
        return Picture(shaft, (self.floors - 1 - state.floor, 0), ">", f"floor {state.floor}", signs)


def evening(seed: int) -> Layout:
    """The lift on a random floor; on each floor but the ground floor somebody waits or not, on one at least."""
    rng = np.random.default_rng(seed)
    waiting = np.zeros(8, np.uint8)
    waiting[1:] = rng.random(7) < 0.5
    waiting[rng.integers(1, 8)] = 1
    people = np.int32(waiting.sum())
    state = State(np.int32(rng.integers(8)), waiting, ops.NO_CHANGE)
    return Layout(state, progress=people, units=people + np.int32(1))


def brought_down(world: House, left, state: State, event: Event):
    """1 for each who gets in, and 1 for the door that opens on the ground floor for all. A door for nobody ends it."""
    left = left - event.boarded
    arrived = event.opened & (state.floor == 0) & (left == 0)
    useless = event.opened & (event.boarded == 0)
    return state, left, event.boarded + ops.where(arrived, 1, 0), useless


register(
    Task(
        "Lift", House(8), evening, brought_down,
        words={
            "map": "8 floors. On every floor but the ground floor somebody may be waiting.",
            "agent": "The lift is empty, on a random floor.",
            "goal": "Fetch everybody who waits, and then open the door on the ground floor.",
            "returns": "An equal share of 1 for each who gets in, and for the door that lets all of them out. Opening "
            "the door for nobody ends the episode.",
        },
    )
)  # fmt: skip

# 3. An environment of gymnasium, and what words mean there. Programs run in plain Python, one after the other.

PUSHES = {"push_left": 0, "push_right": 2}
CAR = Language(
    name="car",
    actions={"push_left": 0.5, "push_right": 0.5},
    perceptions={"is_moving_left": 0.5, "is_on_left_hill": 0.5},
    not_probability=0.3,
    world=(
        "A car in a valley; at the top of the hill on the right stands a flag.",
        "Its engine is too weak to climb that hill from the bottom of the valley: it has to gain speed.",
        "The episode ends after 1,000 actions and perceptions.",
    ),
    meanings={
        "push_left": "push the car to the left for a moment.",
        "push_right": "push the car to the right for a moment.",
        "is_moving_left": "the car moves to the left.",
        "is_on_left_hill": "the car is to the left of the bottom of the valley.",
    },
)


class Rightmost(gymnasium.Wrapper):
    """Rewards the way that the car comes further to the right than ever before: 1 in all, if it reaches the flag."""

    def reset(self, **options: Any) -> Any:
        observation, info = super().reset(**options)
        self.start = self.best = float(observation[0])
        return observation, info

    def step(self, action: int) -> Any:
        observation, _, *rest = super().step(action)
        goal, before = self.unwrapped.goal_position, self.best
        self.best = max(before, min(float(observation[0]), goal))
        return observation, (self.best - before) / (goal - self.start), *rest


def valley(env: Any) -> Picture:
    """The car from the left end of the valley to the right one, a sign for every tenth; for prompts."""
    place, speed = map(float, env.state)
    tenth = [round(10 * (x - env.min_position)) for x in (env.max_position, env.goal_position, place)]
    cells = ["F" if column == tenth[1] else "." for column in range(tenth[0] + 1)]
    signs = ("From left to right; each sign is 0.1 wide, F is the flag. The arrow is where the car moves.",)
    return Picture([cells], (0, tenth[2]), "<" if speed < 0 else ">", f"{place:.2f}, velocity {speed:.3f}", signs)


register(
    gym_task(
        "MountainCar", lambda: Rightmost(gymnasium.make("MountainCar-v0", disable_env_checker=True)), CAR,
        Interface(
            actions=PUSHES,
            perceptions={
                "is_moving_left": lambda env, seen: seen[1] < 0,
                "is_on_left_hill": lambda env, seen: seen[0] < -np.pi / 6,
            },
            picture=valley,
        ),
        units=1_000,
        words={
            "map": "A valley between two hills.",
            "agent": "The car stands still near the bottom of the valley.",
            "goal": "Drive up the hill on the right to the flag.",
            "returns": "How far to the right the car has come at most, as a share of the way to the flag.",
        },
    )
)  # fmt: skip
