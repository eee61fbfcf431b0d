"""The batched interpreter and the plain-Python one agree on programs and worlds that no task has."""

import functools
import json
import subprocess
import sys

import golden
import numpy as np
import pytest
import strategies
from compiled import ENGINES
from hypothesis import given, settings
from hypothesis import strategies as st
from random_worlds import NOWHERE, Limited, OnceLimited, SevenLimited, layout, random_layout, random_task, reward

from jaxprl.dsl import ast, encode
from jaxprl.dsl.language import PROGRAM_NODES, PROGRAM_TOKENS
from jaxprl.dsl.text import from_text, token_count
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.instruction import MOST_NODES
from jaxprl.worlds import ops
from jaxprl.worlds.karel.world import LANGUAGE, KarelWorld
from jaxprl.worlds.make import make
from jaxprl.worlds.minigrid import world as minigrid
from jaxprl.worlds.minigrid.farama import make_world
from jaxprl.worlds.task import Layout, Task

PROGRAMS, LAYOUTS, WIDTH = 31, 8, 256
DEEPEST = "DEF run m( " + "REPEAT R=99999999 r( " * 4 + "{action}" + " r)" * 4 + " m)"
"""Has the largest counts and the deepest nest, so that all batches are of one shape: with it, 256 runs."""


def random_programs(seed, language=LANGUAGE, **limits):
    rng = np.random.default_rng(seed)
    deepest = from_text(DEEPEST.format(action=language.action_names[0]), language)
    return [*(strategies.random_program(rng, language, **limits) for _ in range(PROGRAMS)), deepest]


def agreed(task, programs, seeds, engines=ENGINES, width=WIDTH, **options):
    """Return the outcomes of plain Python and the engines, having checked that they are the same."""
    nodes, layouts = encode.encode_all(programs, task.language, width), task.layouts(seeds)
    plain = golden.plain(task, programs, [task.layout(seed) for seed in seeds])
    for engine in engines:
        runs = evaluate(task, nodes, layouts, engine=engine, **options)
        ours = golden.batched(runs)
        for field, one, other in zip(ours._fields, ours, plain, strict=True):
            differ = [(str(programs[i]), seeds[j]) for i, j in np.argwhere(one != other)]
            assert differ == [], (engine, field)
    return ours


SEEDS = st.integers(0, 2**31 - 1)
for_one_engine_or_both = pytest.mark.parametrize(
    "engines", [("native", "sequential", "cuda"), pytest.param(tuple(ENGINES), marks=pytest.mark.full)], ids=len
)
"""Where the other engine has the same counts elsewhere (`test_engines.py`)."""


@pytest.mark.parametrize("quiet", [False, True])
@settings(max_examples=15)
@given(seed=SEEDS)
def test_random_programs_in_random_worlds(quiet, seed):
    agreed(random_task(Limited(7, 6), quiet), random_programs(seed), range(seed, seed + LAYOUTS))


@for_one_engine_or_both
@settings(max_examples=10)
@given(seed=SEEDS)
def test_random_programs_with_the_counts_of_sampling(engines, seed):
    programs = random_programs(seed, counts=range(20), depth=3, sequence=5)[:PROGRAMS]
    agreed(random_task(Limited(7, 6), quiet=True), programs, range(seed, seed + LAYOUTS), engines)


@pytest.mark.full
@pytest.mark.parametrize("domain", ["karel", "quiet karel", "minigrid"])
@settings(max_examples=40)
@given(seed=SEEDS)
def test_many_random_programs(domain, seed):
    if domain == "minigrid":
        task = random_minigrid_task(minigrid.MiniGridWorld(6, 5))
    else:
        task = random_task(Limited(7, 6), quiet=domain == "quiet karel")
    agreed(task, random_programs(seed, task.language), range(seed, seed + LAYOUTS))


@pytest.mark.parametrize(
    "size", [(1, 1), *(pytest.param(size, marks=pytest.mark.full) for size in ((9, 1), (1, 9), (2, 3), (9, 9)))]
)
def test_worlds_of_other_sizes(size):
    agreed(random_task(Limited(*size)), random_programs(sum(size)), range(LAYOUTS))


ANTS = [
    "IFELSE c( markersPresent c) i( pickMarker move i) ELSE e( putMarker turnLeft move e)",
    "IFELSE c( markersPresent c) i( turnLeft pickMarker i) ELSE e( turnRight putMarker e) move",
    "putMarker move IF c( markersPresent c) i( turnLeft i)",
]


def open_or_random_layout(world, seed):
    """Return an open field, with the robot in its middle, as the first layout; any other is a random one."""
    walls, markers = np.zeros((9, 9), bool), np.zeros((9, 9), np.uint8)
    return random_layout(world, seed) if seed else layout(world, walls, (4, 4, 1), markers, 10_000)


@functools.cache
def up_to_the_real_call_limit(**options):
    """Return the outcomes of ants and of random programs, on the open field and on random layouts."""
    world = KarelWorld(9, 9)
    task = Task("open 9 x 9", world, functools.partial(open_or_random_layout, world), reward)
    ants = [from_text(f"DEF run m( WHILE c( True c) w( {body} w) m)", LANGUAGE) for body in ANTS]
    return agreed(task, [*ants, *random_programs(1)[-13:]], range(4), **options)


ROOMY = {"slots": 1024}
"""Memories grow from there on, too, and fewer sizes are compiled."""


def test_up_to_the_real_call_limit():
    calls = up_to_the_real_call_limit(**ROOMY).calls[len(ANTS) :]
    assert (calls == KarelWorld.call_limit).any()
    assert (calls < KarelWorld.call_limit).any()


@pytest.mark.parametrize(
    "options", [ROOMY, *(pytest.param(more, marks=pytest.mark.full) for more in ({}, {"slots": 1}))], ids=str
)
def test_loops_that_remember_thousands_of_states(options):
    ours = up_to_the_real_call_limit(**options)
    assert ours.calls[: len(ANTS), 0].tolist() == [KarelWorld.call_limit, 2312, 1757]


@pytest.mark.parametrize(
    ("world", "quiet"), [(SevenLimited(7, 6), False), (SevenLimited(7, 6), True), (OnceLimited(2, 2), True)]
)
def test_random_programs_at_a_small_call_limit(world, quiet):
    limit = world.call_limit
    found = [agreed(random_task(world, quiet), random_programs(seed), range(LAYOUTS)) for seed in range(8)]
    calls, actions, ends = (np.concatenate(field) for field in list(zip(*found, strict=True))[1:])
    assert set(ends.ravel()) == ({"T", "C", "TC", "E"} if limit > 1 else {"C", "TC", "E"})
    assert (calls <= limit).all()
    assert (calls[(ends == "E") | (ends == "T")] < limit).all()
    assert (calls[ends == "TC"] == limit).all()
    by_limit = (ends == "C") & (calls == limit)
    assert (by_limit & (actions == limit)).any()
    assert (by_limit & (actions < limit)).any()


SIX = "move move move move move move"
AT_LIMIT = {
    "six calls": (SIX, 99, None, (0, 6, 6, "E")),
    "seventh is a move": (f"{SIX} move", 99, None, (0, 7, 7, "C")),
    "the seventh move turns around": (f"{SIX} move", 99, 7, (0, 7, 7, "C")),
    "the sixth move does not": (f"{SIX} move", 99, 6, (0, 6, 6, "T")),
    "seventh puts": (f"{SIX} putMarker", 99, None, (1, 7, 7, "C")),
    "seventh puts and terminates": (f"{SIX} putMarker", 0, None, (1, 7, 7, "TC")),
    "seventh is a perception": (f"{SIX} IF c( frontIsClear c) i( putMarker i)", 99, None, (0, 7, 6, "C")),
    "seventh is a perception that fails": (f"{SIX} IF c( markersPresent c) i( putMarker i)", 99, None, (0, 7, 6, "C")),
    "seventh tests a WHILE": (f"{SIX} WHILE c( markersPresent c) w( move w)", 99, None, (0, 7, 6, "C")),
    "seventh is the second operand": (
        f"{SIX} IF c( and c( markersPresent c) c( frontIsClear c) c) i( move i)", 99, None, (0, 7, 6, "C"),
    ),
    "an operand that is not looked at": (
        "move move move move move IF c( or c( frontIsClear c) c( markersPresent c) c) i( REPEAT R=0 r( move r) i)",
        99, None, (0, 6, 5, "E"),
    ),
    "constants are no calls": (
        f"{SIX} WHILE c( False c) w( move w) IF c( True c) i( REPEAT R=0 r( move r) i)", 99, None, (0, 6, 6, "E"),
    ),
    "a state seen twice": ("WHILE c( True c) w( turnLeft w)", 99, None, (0, 4, 4, "C")),
    "the limit, before a state is seen twice": (
        "WHILE c( True c) w( turnLeft turnLeft turnLeft w)", 99, None, (0, 7, 7, "C"),
    ),
    "a test that holds at the limit": (
        "WHILE c( frontIsClear c) w( move move putMarker pickMarker move w)", 99, None, (0, 7, 5, "C"),
    ),
}  # fmt: skip


def corridor(case):
    """Return the layout of a case: 1 x 9 cells; the robot starts at the left end and faces right."""
    world = SevenLimited(1, 9)
    _, most, goal, _ = list(AT_LIMIT.values())[case]
    cell = NOWHERE if goal is None else world.cell(0, goal)
    return layout(world, np.zeros((1, 9), bool), (0, 0, 1), np.zeros((1, 9), np.uint8), most, cell)


CORRIDOR = Task("corridor", SevenLimited(1, 9), corridor, reward)


@pytest.mark.parametrize("case", AT_LIMIT)
def test_at_the_call_limit(case):
    body, _, _, (units, calls, actions, end) = AT_LIMIT[case]
    ours = agreed(CORRIDOR, [from_text(f"DEF run m( {body} m)", LANGUAGE)], [list(AT_LIMIT).index(case)])
    assert [field.item() for field in ours] == [units, calls, actions, end]


OPTIONS = [
    pytest.param("native", {"block": 1, "workers": 2}),
    pytest.param("native", {"slots": 2}),
    pytest.param("native", {"workers": 3}),
    pytest.param("sequential", {"block": 1, "workers": 2}),
    pytest.param("sequential", {"slots": 16}),
    pytest.param("lanes", {"slots": 256}),
    pytest.param("sequential", {"workers": 3}),
    pytest.param("lanes", {"workers": 3}),
    pytest.param("lanes", {"block": 1, "workers": 2}, marks=pytest.mark.full),
    *(
        pytest.param(engine, options, marks=pytest.mark.full)
        for options in ({"block": 7}, {"slots": 2})
        for engine in ENGINES
    ),
]


@pytest.mark.parametrize(("engine", "options"), OPTIONS, ids=str)
def test_results_do_not_depend_on_how_the_work_is_cut(engine, options):
    task = random_task(SevenLimited(7, 6) if options.get("block") == 1 else Limited(7, 6))
    programs = encode.encode_all(random_programs(2), LANGUAGE, WIDTH)
    layouts = task.layouts(range(LAYOUTS))
    expected = evaluate(task, programs, layouts)
    found = evaluate(task, programs, layouts, engine=engine, **options)
    for one, other in zip(expected.columns, found.columns, strict=True):
        assert one.shape == (len(programs), LAYOUTS)
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize(
    ("depth", "count"), [(62, 1), *(pytest.param(*pair, marks=pytest.mark.full) for pair in ((3, 30), (8, 3), (13, 2)))]
)
def test_deep_nests_of_repeats(depth, count):
    text = f"DEF run m( {f'REPEAT R={count} r( ' * depth}turnLeft{' r)' * depth} putMarker m)"
    ours = agreed(random_task(KarelWorld(7, 6)), [from_text(text, LANGUAGE)], range(2))
    assert (ours.calls == min(count**depth + 1, KarelWorld.call_limit)).any()


def nest(before, after, depth):
    return f"DEF run m( {before * depth}turnLeft{after * depth} putMarker m)"


LARGEST = [
    nest("REPEAT R=1 r( ", " r)", 254),  # whose counters fill all the words that an instruction can name
    nest("REPEAT R=20000 r( ", " r)", 254),
    nest("REPEAT R=2 r( IF c( frontIsClear c) i( ", " i) r)", 126),
    nest("WHILE c( frontIsClear c) w( move ", " w)", 126),
    nest("IFELSE c( leftIsClear c) i( move i) ELSE e( ", " e)", 169),
    f"DEF run m( WHILE c( {'not c( ' * 507}frontIsClear{' c)' * 507} c) w( move w) m)",
    f"DEF run m( WHILE c( {'and c( or c( markersPresent c) c( ' * 126}True"
    f"{' c) c) c( frontIsClear c)' * 126} c) w( move w) m)",
    f"DEF run m( {'move turnLeft ' * 127}putMarker m)",
    f"DEF run m( {'WHILE c( frontIsClear c) w( move w) ' * 127}m)",
]
"""Programs of 500 to 512 nodes: nests as deep as there can be, and sequences as long."""


def long_programs(seed):
    """Return some random programs of more than 256 tokens that can be run."""
    rng, found = np.random.default_rng(seed), []
    growth = strategies.Growth(lambda n: int(rng.integers(n)), depth=5, sequence=6)
    while len(found) < PROGRAMS - len(LARGEST):
        program = growth.program()
        if token_count(program) > PROGRAM_TOKENS and ast.size(program) <= PROGRAM_NODES:
            found.append(program)
    return found


def test_programs_of_hundreds_of_tokens():
    largest = [from_text(text, LANGUAGE) for text in LARGEST]
    assert all(500 <= ast.size(program) <= PROGRAM_NODES == MOST_NODES for program in largest)
    programs = [*largest, *long_programs(5)]
    lengths = sorted(map(token_count, programs))
    assert lengths[0] > PROGRAM_TOKENS
    assert sum(length < 500 for length in lengths) > 10
    ours = agreed(random_task(Limited(7, 6)), programs, range(2), width=PROGRAM_NODES)
    assert len(np.unique(ours.calls)) > 20


def test_no_programs():
    task = make("Seeder")
    runs = evaluate(task, [], task.layouts(range(3)))
    assert [field.shape for field in runs.columns] == [(0, 3)] * 4
    assert runs.mean_returns.shape == (0,)


WITHOUT_CALLS = {
    "plain": [
        "REPEAT R=0 r( move r)",
        "REPEAT R=-99999999 r( move r)",
        "IF c( False c) i( move i)",
        "IF c( not c( True c) c) i( move i)",
        "WHILE c( False c) w( move w)",
        "WHILE c( and c( False c) c( frontIsClear c) c) w( move w)",
        "IF c( True c) i( REPEAT R=0 r( move r) i)",
        "IF c( False c) i( move i) REPEAT R=0 r( WHILE c( frontIsClear c) w( move w) r)",
    ],
    "IFELSE on True": ["IFELSE c( True c) i( REPEAT R=0 r( move r) i) ELSE e( move e)"],
    "IFELSE on False": ["IFELSE c( False c) i( move i) ELSE e( REPEAT R=0 r( move r) e)"],
}
BOTH_INTERPRETERS = """
import json, sys
from jaxprl.dsl.text import from_text
from jaxprl.vm.evaluate import evaluate
from jaxprl.vm.plain import run
from jaxprl.worlds.make import make
from jaxprl.worlds.plain import WorldEnvironment
task = make("Seeder")
for kind, texts in json.load(sys.stdin).items():
    programs = [from_text(text, task.language) for text in texts]
    plain = [run(program, WorldEnvironment(task, task.layout(0))) for program in programs]
    runs = evaluate(task, programs, task.layouts([0]))
    print(json.dumps([kind, runs.calls.ravel().tolist(), [outcome.calls for outcome in plain]]), flush=True)
"""


@pytest.fixture(scope="module")
def without_calls():
    """What both interpreters count, by kind, in a process that could be ended if it went on for ever."""
    repeats = "REPEAT R=99999999 r( REPEAT R=99999999 r( REPEAT R=99999999 r("
    texts = {
        kind: [f"DEF run m( turnLeft {repeats} {body} r) r) r) putMarker m)" for body in bodies]
        for kind, bodies in WITHOUT_CALLS.items()
    }
    process = subprocess.Popen([sys.executable, "-c", BOTH_INTERPRETERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        found, told = process.communicate(json.dumps(texts), timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        found, told = process.communicate()
    return {kind: calls for kind, *calls in map(json.loads, found.splitlines())}, told


@pytest.mark.parametrize("kind", WITHOUT_CALLS)
def test_endless_repeats_without_calls_end_at_once(kind, without_calls):
    found, told = without_calls
    assert found.get(kind) == [[2] * len(WITHOUT_CALLS[kind])] * 2, told


ENDLESS = "WHILE c( True c) w( REPEAT R=0 r( move r) w)"
"""Makes no call, but comes to the same state twice."""


LOOPS = ENDLESS, f"REPEAT R=3 r( {ENDLESS} r)", f"REPEAT R=3 r( IF c( True c) i( {ENDLESS} i) r)"


@functools.cache
def endless_loops():
    """Return the outcomes of `LOOPS`, among random programs."""
    endless = [from_text(f"DEF run m( turnLeft {body} putMarker m)", LANGUAGE) for body in LOOPS]
    return agreed(random_task(Limited(7, 6)), [*endless, *random_programs(0)[len(endless) :]], range(LAYOUTS))


@pytest.mark.parametrize("number", range(len(LOOPS)), ids=LOOPS)
def test_an_endless_loop_without_calls_crashes(number):
    for field, expected in zip(endless_loops(), (0, 1, 1, "C"), strict=True):
        assert (field[number] == expected).all()


class SevenLimitedMiniGrid(minigrid.MiniGridWorld):
    call_limit = 7


def random_object(rng, types, colors, depth=1):
    """Return the number of a random object; every second box holds something, down to the deepest that fits."""
    name = str(rng.choice(types))
    state = rng.choice([minigrid.OPEN, minigrid.CLOSED, minigrid.LOCKED]) if name == "door" else 0
    filled = name == "box" and depth < minigrid.DEEPEST and rng.random() < 0.5
    contents = random_object(rng, types, colors, depth + 1) if filled else 0
    return minigrid.item(name, str(rng.choice(colors)), int(state), contents)


def random_minigrid_layout(world, seed):
    """Objects of all types in two colours at most, the agent on any cell, with something in its hands or not."""
    rng = np.random.default_rng(seed)
    colors = rng.choice(list(minigrid.COLORS), 2)
    density = rng.choice([0.1, 0.3, 0.6, 1])
    cells = {
        (x, y): random_object(rng, [*minigrid.TYPES, "door", "box"], colors)
        for x in range(world.width)
        for y in range(world.height)
        if rng.random() < density
    }
    carrying = random_object(rng, ["key", "key", "ball", "box"], colors) if rng.random() < 0.7 else 0
    pose = tuple(rng.integers([world.width, world.height, 4]).tolist())
    return Layout(make_world(world, cells, pose, carrying), (), np.int32(1))


def minigrid_reward(world, progress, state, event):
    """One for each object picked up, minus one for each put down, three for each toggle that changes something; goal
    and lava end the run."""
    picked = (event.carried == 0) & (state.carrying != 0)
    dropped = (event.carried != 0) & (state.carrying == 0)
    toggled = (event.action == minigrid.TOGGLE) & (event.before != event.after)
    units = ops.where(picked, 1, ops.where(dropped, -1, ops.where(toggled, 3, 0)))
    return state, progress, units, minigrid.ends_episode(event)


@functools.cache
def random_minigrid_task(world):
    generate = functools.partial(random_minigrid_layout, world)
    return Task(f"random MiniGrid {type(world).__name__}", world, generate, minigrid_reward)


@settings(max_examples=10)
@given(SEEDS)
def test_random_minigrid_programs_in_random_worlds(seed):
    programs = random_programs(seed, minigrid.LANGUAGE)
    agreed(random_minigrid_task(minigrid.MiniGridWorld(6, 5)), programs, range(seed, seed + LAYOUTS))


@for_one_engine_or_both
@settings(max_examples=5)
@given(seed=SEEDS)
def test_random_minigrid_programs_with_the_counts_of_sampling(engines, seed):
    programs = random_programs(seed, minigrid.LANGUAGE, counts=range(20), depth=3, sequence=5)[:PROGRAMS]
    agreed(random_minigrid_task(minigrid.MiniGridWorld(6, 5)), programs, range(seed, seed + LAYOUTS), engines)


def test_random_minigrid_programs_at_a_small_call_limit():
    task = random_minigrid_task(SevenLimitedMiniGrid(6, 5))
    found = [
        agreed(task, random_programs(seed, minigrid.LANGUAGE), range(seed * LAYOUTS, (seed + 1) * LAYOUTS))
        for seed in range(16)
    ]
    units, calls, _, ends = map(np.concatenate, zip(*found, strict=True))
    assert set(ends.ravel()) == {"T", "C", "E"}
    assert {-1, 1, 3} <= set(units.ravel())
    assert (calls <= task.world.call_limit).all()
    assert (calls[ends == "E"] < task.world.call_limit).all()
    assert (calls[ends == "T"] == task.world.call_limit).any()
