"""The tasks made of `minigrid`'s environments against those environments, stepped with their own rules."""

import collections
import functools
import re

import gymnasium
import jax
import minigrid  # noqa: F401  (registers the environments)
import numpy as np
import pytest

from jaxprl.dsl import ast, encode
from jaxprl.dsl.sample import neighbours, random_programs
from jaxprl.dsl.text import ParseError, from_text, token_count
from jaxprl.errors import UserError
from jaxprl.experiment.job import UNSEEN
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.plain import run
from jaxprl.worlds import registry
from jaxprl.worlds.make import make
from jaxprl.worlds.minigrid import layouts
from jaxprl.worlds.minigrid.tasks import memory
from jaxprl.worlds.minigrid.world import (
    COLORS,
    EXTENDED,
    LANGUAGE,
    OBJECT_BITS,
    TYPES,
    MiniGridWorld,
    item,
    kind_and_color,
)
from jaxprl.worlds.plain import WorldEnvironment

ACTIONS = EXTENDED.action_names
"""In the order of Farama's numbers."""
SHARES = [0.15, 0.15, 0.4, 0.1, 0.1, 0.08, 0.02]
"""Of the actions in random walks that are to get somewhere."""
LEFT_OUT = ("Dynamic-Obstacles", "Playground", "WFC")
IDS = sorted(
    name for name in gymnasium.registry if name.startswith("MiniGrid-") and not any(word in name for word in LEFT_OUT)
)
SMALL = [
    f"MiniGrid-{name}"
    for name in (
        "Empty-5x5-v0", "DoorKey-5x5-v0", "FourRooms-v0", "LavaCrossingS9N1-v0", "SimpleCrossingS9N1-v0",
        "LavaGapS5-v0", "DistShift1-v0", "MultiRoom-N2-S4-v0", "Unlock-v0", "UnlockPickup-v0",
        "BlockedUnlockPickup-v0", "KeyCorridorS3R1-v0", "ObstructedMaze-1Dlhb-v0", "GoToDoor-5x5-v0",
        "GoToObject-6x6-N2-v0", "Fetch-5x5-N2-v0", "PutNear-6x6-N2-v0", "RedBlueDoors-6x6-v0", "MemoryS7-v0",
    )
]  # fmt: skip
"""One environment of each family."""
TOO_LARGE = ("ObstructedMaze-Full",)
"""Environments whose ways to success are too long to be searched for."""
FAILING = ("Lava", "DistShift", "GoTo", "Fetch", "PutNear", "RedBlueDoors", "Memory")
"""Families with ends that are no success."""
NAMING = ("UnlockPickup", "KeyCorridor", "ObstructedMaze", "GoTo", "Fetch", "PutNear")
"""Families whose mission names an object by kind and colour that differ between layouts."""
OBJECT = re.compile(f"({'|'.join(COLORS)}) ({'|'.join(TYPES)})")


@functools.cache
def package_environment(name):
    """Return an environment of the package that is never truncated and looks at nothing."""
    env = gymnasium.make(gymnasium.spec(name)).unwrapped
    env.max_steps = 10**9
    env.gen_obs = lambda: {}
    return env


def both(name, seed):
    """Return the package's environment and ours at the start of the same layout."""
    env, task = package_environment(name), make(name)
    env.reset(seed=seed)
    return env, WorldEnvironment(task, task.layout(seed))


def follow(name, seed, actions):
    """Do the actions (by number) in both environments until the end, having compared everything after each of them.

    Returns the units and the number of actions done, and whether the last one ended the episode.
    """
    env, ours = both(name, seed)
    for count, action in enumerate(actions, 1):
        _, reward, ended, truncated, _ = env.step(int(action))
        units, terminated = ours.act(ACTIONS[action], at_limit=False)
        assert not truncated
        assert (units, terminated) == (int(reward > 0), ended), (name, seed, count)
        assert ours.task.world.pose(ours.state) == [*env.agent_pos, env.agent_dir], (name, seed, count)
        held = 0 if env.carrying is None else item(env.carrying.type, env.carrying.color)
        assert kind_and_color(ours.state.carrying) == held, (name, seed, count)
        if ended:
            return units, count, True
    return 0, len(actions), False


def families(words, names):
    return [name for name in names if any(word in name for word in words)]


def test_every_environment_is_a_task():
    assert len(IDS) == 69
    assert {name for name in registry.tasks() if name.startswith("MiniGrid-")} == set(IDS)
    assert all(make(name).language is EXTENDED for name in IDS)


@pytest.mark.parametrize("name", IDS)
def test_the_size_is_the_packages(name):
    env, task = package_environment(name), make(name)
    env.reset(seed=0)
    assert (task.world.width, task.world.height) == (env.grid.width, env.grid.height)
    assert task.words["map"].startswith(f"{env.grid.height} rows x {env.grid.width} columns. ")


@pytest.mark.parametrize("name", IDS)
def test_a_layout_does_not_depend_on_those_made_before(name):
    task, env = make(name), gymnasium.make(gymnasium.spec(name)).unwrapped
    task.layouts(range(4))
    layout = task.layout(3)
    fresh = layouts.world_of(env, 3)
    assert jax.tree.all(jax.tree.map(np.array_equal, layout.state._replace(mission=None), fresh))
    assert layout.units == 1
    assert all(leaf.dtype == np.int32 for leaf in layout.state.mission)


def codes(state):
    """Return kind and colour of every object of a layout, with those in boxes."""
    depths = [state.cells >> OBJECT_BITS * depth for depth in range(3)]
    return np.concatenate([kind_and_color(cells) for cells in depths])


def check_named_objects(name, seeds):
    for seed in seeds:
        state = make(name).layout(seed).state
        found = collections.Counter(codes(state).tolist())
        env = package_environment(name)
        env.reset(seed=seed)
        named = [item(kind, color) for color, kind in OBJECT.findall(env.mission)] if families(NAMING, [name]) else []
        assert [*state.mission] == [*named, 0, 0][:2], seed
        assert all(found[code] == 1 or "Fetch" in name for code in named), seed
        assert set(named) <= set(kind_and_color(state.cells).tolist()), seed
    return len(named)


@pytest.mark.parametrize("name", IDS)
def test_the_mission_names_objects_that_are_there_once(name):
    assert check_named_objects(name, range(8)) == (0 if not families(NAMING, [name]) else 2 if "PutNear" in name else 1)


@pytest.mark.full
@pytest.mark.parametrize("name", families(NAMING, IDS))
def test_the_mission_names_objects_that_are_there_once_on_all_layouts(name):
    check_named_objects(name, [*range(200), *UNSEEN])


def random_walks(name, seeds, count):
    ends = [follow(name, seed, np.random.default_rng(seed).integers(0, 7, count)) for seed in seeds]
    assert all(done == count or ended for _, done, ended in ends)


@pytest.mark.parametrize("name", IDS)
def test_random_actions(name):
    random_walks(name, range(12), 60)


@pytest.mark.full
@pytest.mark.parametrize("name", IDS)
def test_many_random_actions(name):
    random_walks(name, range(40), 500)


def search(name, seed, units, most=400_000):
    """Return a short sequence of actions to the first end with these units, or None if none is found.

    Breadth first in our plain-Python world. Where objects are put down is not told apart, only whether the cells that
    held one at the start have changed, so what is found is a way, and not always the shortest one.
    """
    task = make(name)
    start = WorldEnvironment(task, task.layout(seed))
    held = [cell for cell, code in enumerate(start.state.cells) if code and code & 15 != TYPES["wall"]]

    def place(state, progress):
        return state.cell, state.direction, state.carrying, progress, tuple(state.cells[cell] for cell in held)

    frontier = collections.deque([(start.state, start.progress, ())])
    seen = {place(start.state, start.progress)}
    while frontier and len(seen) < most:
        before, progress, actions = frontier.popleft()
        for action in range(len(ACTIONS)):
            state, event = task.world.act(before, action + 1)
            state, now, got, ended = task.reward(task.world, progress, state, event)
            if ended and got == units:
                return (*actions, action)
            if not ended and (where := place(state, now)) not in seen:
                seen.add(where)
                frontier.append((state, now, (*actions, action)))
    assert not frontier, f"{name}, layout {seed}: the search was given up"
    return None


def check_ends(name, seeds):
    """Replay a success of every layout, and a failure, where the family has any."""
    for seed in seeds:
        way = search(name, seed, 1)
        assert follow(name, seed, way) == (1, len(way), True)
        way = search(name, seed, 0) if families(FAILING, [name]) else None
        assert way is None or follow(name, seed, way) == (0, len(way), True)
        assert (way is None) == (not families(FAILING, [name]))


@pytest.mark.parametrize("name", SMALL)
def test_successes_and_failures(name):
    check_ends(name, range(2))


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(set(IDS) - set(families(TOO_LARGE, IDS))))
def test_successes_and_failures_of_many_layouts(name):
    check_ends(name, range(6))


def check_leaving_the_way(name, seeds, count):
    """Leave the way to success anywhere, for random actions; return how often that ended, by units."""
    ends = collections.Counter()
    for seed in seeds:
        rng, way = np.random.default_rng(seed), search(name, seed, 1)
        for cut in [*range(len(way))] * 4:
            units, _, ended = follow(name, seed, [*way[:cut], *rng.choice(7, count, p=SHARES)])
            ends[units] += ended
    return ends


@pytest.mark.parametrize("name", SMALL)
def test_random_actions_on_the_way_to_success(name):
    ends = check_leaving_the_way(name, range(3), 40)
    assert ends[1]
    assert bool(ends[0]) == bool(families(FAILING, [name]))


def test_random_actions_where_objects_are_alike():
    task = make("MiniGrid-PutNear-6x6-N2-v0")
    alike = [seed for seed in range(64) if len({code & 15 for code in task.layout(seed).state.mission}) == 1]
    assert len(alike) > 4
    ends = check_leaving_the_way(task.name, alike[:12], 40)
    assert ends[0]
    assert ends[1]


@pytest.mark.parametrize("name", ["MiniGrid-Empty-5x5-v0", "MiniGrid-DoorKey-5x5-v0"])
def test_a_family_without_failures_has_none(name):
    assert search(name, 0, 0) is None


def reading(env, perception):
    """Return what a perception should give, read from the package's own objects."""
    word, *argument = perception.split()
    x, y = env.agent_pos
    front, right = env.dir_vec, env.right_vec
    step = {"left_is_clear": -right, "right_is_clear": right}.get(word, front)
    found = env.grid.get(x + step[0], y + step[1])
    named = OBJECT.findall(env.mission) if families(NAMING, [env.spec.id]) else []
    match word:
        case "front_is_clear" | "left_is_clear" | "right_is_clear":
            return found is None or found.can_overlap()
        case "is_carrying_object":
            return env.carrying is not None
        case "front_object_type":
            return found is not None and found.type == argument[1]
        case "front_object_color":
            return found is not None and found.color == argument[1]
        case "front_is_target":
            return found is not None and (found.color, found.type) in named[:1]
        case "front_is_landmark":
            return found is not None and (found.color, found.type) in named[1:]


def perceived(name, seed, actions):
    """Compare all perceptions before each of the actions, until the end; return how often each held."""
    env, ours = both(name, seed)
    held = collections.Counter()
    for action in actions:
        for perception in EXTENDED.perception_names:
            result = ours.perceive(perception)
            assert result == reading(env, perception), (name, seed, perception)
            held[perception] += result
        if ours.act(ACTIONS[action], at_limit=False)[1] | env.step(int(action))[2]:
            break
    return held


@pytest.mark.parametrize("name", SMALL)
def test_perceptions(name):
    walks = [(seed, np.random.default_rng(seed).choice(7, 60, p=SHARES)) for seed in range(12)]
    ways = [(seed, search(name, seed, 1)) for seed in range(2)]
    held = sum((perceived(name, seed, actions) for seed, actions in walks + ways), collections.Counter())
    assert all(held[word] for word in ("front_is_clear", "left_is_clear", "right_is_clear"))
    assert (held["front_is_target"] > 0) == bool(families(NAMING, [name]))
    assert (held["front_is_landmark"] > 0) == ("PutNear" in name)


def keys(seed, count):
    return jax.random.split(jax.random.key(seed), count)


@functools.cache
def drawn():
    """Return random programs of the language, and neighbours of them."""
    nodes = random_programs(EXTENDED, keys(0, 400))
    near, _ = neighbours(EXTENDED, nodes[:20], jax.random.split(jax.random.key(1), (20, 20)))
    rows = np.concatenate([np.asarray(nodes), np.asarray(near).reshape(-1, nodes.shape[1])])
    return [encode.decode(row, EXTENDED) for row in rows]


def check_interpreters(name):
    """Compare the batched interpreter with the plain one on random programs and on ways to success and failure."""
    task, seeds = make(name), range(3)
    wanted = (1, 0) if families(FAILING, [name]) else (1,)
    ways = [search(name, seed, units) for seed in seeds for units in wanted]
    ways = [ast.Program(tuple(ast.Action(ACTIONS[action]) for action in way)) for way in ways]
    programs = [*ways, *drawn()[:60]]
    runs = evaluate(task, encode.encode_all(programs, EXTENDED, 256), task.layouts(seeds))
    plain = [[run(program, WorldEnvironment(task, task.layout(seed))) for seed in seeds] for program in programs]
    for field, ours in (("reward", runs.units), ("calls", runs.calls), ("actions", runs.actions)):
        assert ours.tolist() == [[getattr(outcome, field) for outcome in row] for row in plain]
    ends = runs.ends
    assert ends.tolist() == [[outcome.end.letters for outcome in row] for row in plain]
    assert np.count_nonzero((ends == "T") & (runs.units == 1)) >= len(seeds)
    assert ((ends == "T") & (runs.units == 0)).any() == bool(families(FAILING, [name]))


@pytest.mark.parametrize("name", families(("-Unlock-", "PutNear"), SMALL))
def test_both_interpreters_agree(name):
    check_interpreters(name)


@pytest.mark.full
@pytest.mark.parametrize("name", SMALL)
def test_both_interpreters_agree_on_every_family(name):
    check_interpreters(name)


def test_sampled_programs_are_within_the_limits_and_use_every_word():
    words = collections.Counter()
    for program in drawn():
        assert from_text(str(program), EXTENDED) == program
        assert token_count(program) <= EXTENDED.max_tokens
        assert ast.height(program.body) <= EXTENDED.max_height
        assert ast.longest_sequence(program.body) <= EXTENDED.max_sequence
        text = str(program)
        words.update(word for word in (*EXTENDED.actions, *EXTENDED.perceptions) if word in text)
    likely = {**EXTENDED.actions, **EXTENDED.perceptions}
    assert set(words) == {word for word, probability in likely.items() if probability}
    assert words["front_object_type h( floor h)"] == 0


def test_the_published_language_is_as_it_was():
    types = {"lava": 0.125, "door": 0.125, "ball": 0.125, "box": 0.125, "wall": 0, "floor": 0, "key": 0, "goal": 0}
    colors = {"red": 0.125, "blue": 0.125, "green": 0, "purple": 0, "yellow": 0, "grey": 0}
    perceptions = {
        "front_is_clear": 0.125,
        **{f"front_object_type h( {name} h)": share for name, share in types.items()},
        **{f"front_object_color h( {name} h)": share for name, share in colors.items()},
        "is_carrying_object": 0.125,
    }
    actions = {"left": 0.15, "right": 0.15, "forward": 0.5, "pickup": 0.08, "drop": 0.08, "toggle": 0.04}
    assert list(LANGUAGE.actions.items()) == list(actions.items())
    assert list(LANGUAGE.perceptions.items()) == list(perceptions.items())
    assert LANGUAGE.name == "minigrid"
    assert LANGUAGE.not_probability == 0.5
    for name in ("LavaGap", "PutNear", "RedBlueDoor"):
        task = make(name)
        assert task.language is LANGUAGE
        assert task.layout(0).state.mission is None
        assert task.world == MiniGridWorld(task.world.width, task.world.height, see_through=name == "PutNear")


def test_the_extended_language_begins_with_the_published_words():
    assert EXTENDED.action_names == (*LANGUAGE.action_names, "done")
    assert EXTENDED.perception_names[: len(LANGUAGE.perceptions)] == LANGUAGE.perception_names
    assert sum(EXTENDED.actions.values()) == pytest.approx(1)
    assert sum(EXTENDED.perceptions.values()) == pytest.approx(1)
    assert all(word in EXTENDED.meanings for word in (*EXTENDED.actions, *EXTENDED.perceptions))


def test_worlds_that_differ_in_language_or_rules_differ():
    others = MiniGridWorld(7, 7, see_through=True), memory.World(7, 7, EXTENDED)
    worlds = {MiniGridWorld(7, 7), MiniGridWorld(7, 7, EXTENDED), *others}
    assert len(worlds) == 4
    assert MiniGridWorld(7, 7, EXTENDED) in worlds


@pytest.mark.parametrize("word", ["done", "IF c( front_is_target c) i( left i)", "IF c( left_is_clear c) i( left i)"])
def test_the_published_language_does_not_know_the_new_words(word):
    assert from_text(f"DEF run m( {word} m)", EXTENDED)
    with pytest.raises(ParseError, match="expected"):
        from_text(f"DEF run m( {word} m)", LANGUAGE)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="similar ones: MiniGrid-DoorKey-8x8-v0"):
        make("MiniGrid-DoorKey-7x7-v0")
    with pytest.raises(UserError, match="found 'unicorn'"):
        from_text("DEF run m( IF c( front_object_type h( unicorn h) c) i( left i) m)", EXTENDED)
    with pytest.raises(UserError, match=r"minigrid .* has no MiniGrid-Lost-v0: install a newer one"):
        layouts.registered("MiniGrid-Lost-v0")
