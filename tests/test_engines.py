"""The two engines: a search learns from either what complete evaluation says, and nothing but the question decides."""

import dataclasses
import functools
import itertools
import json
import os
import re
import subprocess
import sys

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import questions
import strategies
from compiled import ALL_ENGINES, ENGINES
from hypothesis import given, settings
from hypothesis import strategies as st
from random_worlds import UNITS, Limited, SevenLimited, capped_task

from jaxprl import xla
from jaxprl.dsl import encode, sample
from jaxprl.dsl.ast import Action, Program
from jaxprl.dsl.text import from_text
from jaxprl.errors import UserError
from jaxprl.search.driver import drive
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.program_space import mutations, random_starts
from jaxprl.search.protocol import UNKNOWN, Improvements, Neighbourhoods, search_keys
from jaxprl.search.schedule import Constant
from jaxprl.vm import plain, sequential
from jaxprl.vm.compile import counter_bits, counter_words, has_idle_repeat
from jaxprl.vm.evaluate import evaluate, first_better
from jaxprl.vm.instruction import CHAIN
from jaxprl.vm.machine import Machine, fetch_from
from jaxprl.vm.memory import Direct
from jaxprl.vm.outcomes import End, Scale, pack
from jaxprl.worlds import registry
from jaxprl.worlds.karel.world import LANGUAGE
from jaxprl.worlds.make import make
from jaxprl.worlds.plain import WorldEnvironment
from jaxprl.worlds.task import PythonTask, Task

SOME_TASKS = ("DoorKey", "LavaGap")
OTHER_TASKS = tuple(name for name in registry.tasks() if name not in SOME_TASKS and isinstance(make(name), Task))
COUNTS = (0, 1, 2, 3, 7, 19, -1)
PUT = "IF c( noMarkersPresent c) i( putMarker i)"
SMALL = {"counts": COUNTS, "depth": 3, "sequence": 3}
WIDTH = encode.WIDTH
EPISODES, MANY, SINGLES = 4, 32, 160
"""Layouts, neighbours of a search, and questions about one neighbour each: one number for all, since each is compiled
for itself."""
for_both_engines = pytest.mark.parametrize("engine", ENGINES)


def in_width(programs, language, width=WIDTH):
    """Return the programs that fit so many nodes, as nodes."""
    rows = [encode.encode(program, language) for program in programs]
    return np.stack([np.pad(row, (0, width - len(row))) for row in rows if len(row) <= width])


@functools.cache
def capped(world, first=0):
    """Return a small world's task for searches, and some of its layouts."""
    return capped_task(world), capped_task(world).layouts(range(first, first + EPISODES))


SMALL_WORLD = Limited(5, 4)


def golden_parents(name, language, count):
    """Return golden programs of a task from the worst to the best, none that solves it."""
    rows = golden.returns(name) if name in golden.TASKS else ()
    means = {row: np.mean(row.returns[:EPISODES]) for row in rows}
    rows = sorted((row for row in rows if means[row] < 1), key=means.get)
    if not rows:
        return np.zeros((0, WIDTH), np.int32)
    nodes = in_width([from_text(row.program, language) for row in rows], language)
    return nodes[np.linspace(0, len(nodes) - 1, count).astype(int)]


def random_parents(language, count, seed=0):
    return np.asarray(sample.random_programs(language, jax.random.split(jax.random.key(seed), count)))


def spelled_parents(seed, count, language=LANGUAGE, width=WIDTH, least=1, repeats=WIDTH, **limits):
    """Return programs as text can spell them, constants, `and`, `or` and idle REPEATs included."""
    rng, rows = np.random.default_rng(seed), []
    while len(rows) < count:
        program = strategies.random_program(rng, language, **SMALL | limits)
        nodes = encode.encode(program, language)
        if least <= np.count_nonzero(nodes) <= width and np.count_nonzero(nodes & 15 == encode.REPEAT) <= repeats:
            rows.append(np.pad(nodes, (0, width))[:width])
    return np.stack(rows)


def check(task, layouts, question, truth=None, engines=ENGINES, **options):
    """Check what the engines answer, and return the truth."""
    truth = truth or questions.answered(task, layouts, question)
    for engine in engines:
        found = first_better(task, question, layouts, engine=engine, **options)
        assert all(column.shape == (len(question.counts),) for column in found)
        questions.check(found, truth, question)
    return truth


def check_task(name, goldens, randoms, many, engines=ENGINES, episodes=EPISODES):
    task = make(name)
    layouts = task.layouts(range(episodes))
    parents = np.concatenate([golden_parents(name, task.language, goldens), random_parents(task.language, randoms)])
    question = questions.sampled(task.language, parents, many)
    truth = check(task, layouts, question, engines=engines, workers=2)
    # As wide as the question, and a neighbourhood to a batch: then nothing else is compiled.
    singles = questions.widened(questions.single(question), many)
    one_by_one = check(task, layouts, singles, engines=["sequential"], workers=16)
    # The same in other words: the first better one of a neighbourhood is the first that is better by itself.
    beats = one_by_one.first.reshape(len(parents), many) == 0
    assert truth.first.tolist() == np.where(beats.any(axis=1), beats.argmax(axis=1), -1).tolist()
    return truth, beats


@pytest.mark.parametrize("name", SOME_TASKS)
def test_answers_are_those_of_full_evaluation(name):
    truth, beats = check_task(name, 10, 2, 10)
    assert 0 < np.count_nonzero(truth.first > 0) < len(truth.first)
    assert 0 < beats.mean() < 0.5


@pytest.mark.full
@pytest.mark.parametrize("name", SOME_TASKS + OTHER_TASKS)
def test_answers_are_those_of_full_evaluation_in_all_tasks(name):
    check_task(name, 40, 24, 64, episodes=8)


def mixed_question(seed=0, many=MANY):
    """Return a question about parents and changes of all kinds: sampled and spelled out, equal ones among them."""
    rng = np.random.default_rng(seed)
    parents = np.concatenate([random_parents(LANGUAGE, 6, seed), spelled_parents(seed, 6)])
    halves = [
        questions.sampled(LANGUAGE, parents, many // 2, seed),
        questions.mutated(rng, LANGUAGE, parents, many // 2, **SMALL),
    ]
    programs, changed = (np.concatenate([half[i] for half in halves], axis=1) for i in (1, 2))
    order = rng.permutation(many)
    return questions.whole(parents, programs[:, order], changed[:, order])


@functools.cache
def mixed():
    """Return a small world's task and layouts, with a question and its truth."""
    (task, layouts), question = capped(SMALL_WORLD), mixed_question()
    return task, layouts, question, questions.answered(task, layouts, question)


def some_rows(question, truth, rows):
    return jax.tree.map(lambda leaf: leaf[rows], [question, truth])


SHARED = ((1, 1), (2, 3), (5, 2), (12, 3))
"""Searches and workers: some searches to each worker or some neighbours, evenly or not."""
MORE_SHARED = [pair for pair in itertools.product((1, 2, 5, 12), (1, 2, 3)) if pair not in SHARED]


@for_both_engines
@pytest.mark.parametrize(
    ("searches", "workers"), [*SHARED, *(pytest.param(*pair, marks=pytest.mark.full) for pair in MORE_SHARED)]
)
def test_answers_do_not_depend_on_how_the_work_is_shared(searches, workers, engine):
    task, layouts, question, truth = mixed()
    assert 3 <= np.count_nonzero(truth.first > 0) < 12
    rows = np.argsort(truth.first < 1, kind="stable")[:searches]  # those first where there is something to find
    question, truth = some_rows(question, truth, rows)
    check(task, layouts, question, truth, engines=[engine], workers=workers)


def with_margins(question, task, layouts, seed=0):
    """Return the question with random margins, and its truth; one in three neighbours has none."""
    rng, most = np.random.default_rng(seed), Scale.of(layouts).denominator
    margins = rng.choice([0, 1, most // 8], question.counts.shape + question.programs.shape[1:2]).astype(np.int32)
    question = question._replace(margins=margins)
    return question, questions.answered(task, layouts, question)


@for_both_engines
def test_neighbours_that_may_be_worse(engine):
    task, layouts, question, strict = mixed()
    question, truth = with_margins(question, task, layouts)
    assert (truth.first != strict.first).any()
    assert (truth.better[truth.first >= 0] < truth.score[truth.first >= 0]).any()
    assert (truth.better[truth.first >= 0] == truth.score[truth.first >= 0]).any()
    check(task, layouts, question, truth, engines=[engine], workers=3)  # some searches to each of them
    few = some_rows(question, truth, np.argsort(truth.first < 1, kind="stable")[:2])
    check(task, layouts, *few, engines=[engine], workers=3)  # some neighbours to each


class WholeReturns(WorldEnvironment):
    """The rewards of a `PythonTask`: a return of 1 is everything."""

    def act(self, action, *, at_limit):
        units, terminated = super().act(action, at_limit=at_limit)
        return units / UNITS, terminated


@pytest.mark.parametrize("margins", [False, True])
def test_plain_python_answers_as_the_engines_do(margins):
    task, layouts, question, truth = mixed()
    if margins:
        question, truth = with_margins(question, task, layouts)
    question, truth = some_rows(question, truth, np.argsort(truth.first < 1, kind="stable")[:4])
    plainly = PythonTask("plain", LANGUAGE, lambda seed: WholeReturns(task, task.layout(seed)), units=UNITS)
    questions.check(first_better(plainly, question, plainly.layouts(range(EPISODES))), truth, question)


@for_both_engines
def test_a_program_is_not_better_than_itself_and_a_margin_counts_for_its_own_neighbour(engine):
    task, layouts, question, truth = mixed()
    [row, *_] = np.flatnonzero((truth.first > 0) & (question.programs[:, 0] != question.parents).any(axis=-1))
    parents, programs = question.parents[row : row + 1], question.programs[row : row + 1, :1]
    # The parent, a neighbour that is not better, and the same again with a margin that is wide enough for anything.
    several = np.concatenate([parents[:, None], programs, programs, parents[:, None]], axis=1)
    everything = np.broadcast_to(np.array([1, 63], np.int32), (1, 4, 2))
    question = questions.widened(questions.whole(parents, several, everything), MANY)
    wide = Scale.of(layouts).denominator * 100
    for margins, first in (((wide, 0, wide, wide), 2), ((wide, 0, 0, wide), -1), ((0, wide, 0, 0), 1)):
        asked = question._replace(margins=np.resize(np.array(margins, np.int32), (1, MANY)))
        truth = check(task, layouts, asked, engines=[engine], workers=1)
        assert truth.first.tolist() == [first]


@for_both_engines
@pytest.mark.parametrize("workers", [1, 3])
def test_only_what_is_wanted_is_looked_at(engine, workers):
    task, layouts, question, truth = mixed()
    [improves, *_] = np.flatnonzero(truth.first > 0)
    first = int(truth.first[improves])
    counts = np.array([0, -1, first, first + 1, first + 2, MANY, -1, 1], np.int32)
    question, _ = some_rows(question, truth, np.full(len(counts), improves))
    question = question._replace(counts=counts)
    found = first_better(task, question, layouts, engine=engine, workers=workers)
    asked = counts >= 0
    assert found.first[asked].tolist() == [-1, -1, first, first, first, 0 if first == 0 else -1]
    assert found.score[asked].tolist() == [truth.score[improves]] * 6
    assert found.better[found.first > 0].tolist() == [truth.better[improves]] * 3


@for_both_engines
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("case", ["nothing is wanted", "no searches", "one neighbour", "no neighbours"])
def test_small_questions(case, workers, engine):
    task, layouts, question, truth = mixed()
    match case:
        case "nothing is wanted":
            question = question._replace(counts=np.full(12, -1, np.int32))
        case "no searches":
            question, truth = some_rows(question, truth, np.zeros(0, int))
        case "one neighbour":
            question, truth = some_rows(question, truth, np.array([np.argmax(truth.first > 0)]))
            first = truth.first.item()
            question = questions.whole(question.parents, *(leaf[:, first : first + 1] for leaf in question[1:3]))
            truth = truth._replace(first=np.array([0], np.int32))
        case "no neighbours":
            question, truth = some_rows(question, truth, np.arange(7))
            question = questions.whole(question.parents, *(leaf[:, :0] for leaf in question[1:3]))
            truth = truth._replace(first=np.full(7, -1, np.int32))
    check(task, layouts, question, truth, engines=[engine], workers=workers)


WANDERING = """DEF run m( WHILE c( True c) w( REPEAT R=19 r( IFELSE c( frontIsClear c) i( move i) ELSE e( turnLeft
putMarker e) r) IF c( markersPresent c) i( turnRight i) w) m)"""


@pytest.mark.parametrize(
    ("engine", "slots"),
    [
        ("sequential", 2),
        ("native", 2),
        ("native", 1),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in (
                ("cuda", 1),
                ("cuda", 16),
                ("sequential", 1),
                ("sequential", 16),
                ("lanes", 1),
                ("lanes", 2),
                ("lanes", 16),
            )
        ),
    ],
)
def test_answers_do_not_depend_on_the_size_of_the_memory(slots, engine, enlarged):
    task, layouts, question, truth = mixed()
    check(task, layouts, question, truth, engines=[engine], slots=slots, workers=2)
    if engine != "lanes":
        assert enlarged


@pytest.mark.parametrize("engine", ["native", "sequential", "cuda", pytest.param("lanes", marks=pytest.mark.full)])
def test_memories_that_grow_often(engine, enlarged):
    task, layouts = capped(SMALL_WORLD)
    parents = encode.encode_all([from_text(WANDERING, LANGUAGE)] * 2, LANGUAGE)
    rng = np.random.default_rng(3)
    question = questions.mutated(rng, LANGUAGE, parents, MANY, **SMALL)
    check(task, layouts, question, engines=[engine], slots=2, workers=1)
    if engine != "lanes":
        assert enlarged[:1] == [32]


@for_both_engines
@pytest.mark.parametrize("long_one", ["parent", "neighbour"])
def test_a_run_whose_memory_becomes_full_is_not_taken_for_ended(long_one, engine, enlarged):
    task, layouts = capped(SMALL_WORLD)
    texts = ["DEF run m( WHILE c( True c) w( turnLeft putMarker w) m)", "DEF run m( putMarker putMarker m)"]
    pair = encode.encode_all([from_text(text, LANGUAGE) for text in texts], LANGUAGE)
    better, *_ = Scale.of(layouts).scores(evaluate(task, pair, layouts).units)
    parent, neighbour = pair if long_one == "parent" else pair[::-1]
    # The neighbour once, or as often as there are neighbours in other questions: then nothing new is compiled.
    many, slots = (1, 16) if engine == "lanes" else (MANY, 2)
    changed = np.array([1, np.count_nonzero(parent) - 1], np.int32)
    question = questions.whole(parent[None], np.tile(neighbour, (1, many, 1)), np.tile(changed, (1, many, 1)))
    truth = check(task, layouts, question, engines=[engine], slots=slots, workers=1)
    assert truth.first.tolist() == [-1 if long_one == "parent" else 0]
    assert better in (truth.score[0], truth.better[0])
    if engine != "lanes":
        assert enlarged == [32]


LARGE = {
    "a long sequence": f"DEF run m( REPEAT R=3 r( move {PUT} turnLeft r) {'move turnLeft ' * 25} m)",
    "a long body": f"DEF run m( IF c( markersPresent c) i( {'move turnLeft ' * 45} i) move putMarker m)",
    "a long condition": "DEF run m( IF c( " + "and c( noMarkersPresent c) c( " * 30 + "frontIsClear" + " c)" * 30
    + " c) i( putMarker i) move putMarker m)",
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "engine"),
    [
        pytest.param(case, engine, marks=[pytest.mark.full] * (place > 0 or engine == "lanes"))
        for place, case in enumerate(LARGE)
        for engine in ENGINES
    ],
)
def test_sampled_neighbours_of_programs_that_are_too_large_to_trace(case, engine):
    task, layouts = capped(SMALL_WORLD)
    parent = encode.encode(from_text(LARGE[case], LANGUAGE), LANGUAGE)[None]
    assert np.count_nonzero(parent) > WIDTH
    question = questions.single(questions.sampled(LANGUAGE, parent, SINGLES))
    truth = check(task, layouts, question, engines=[engine], workers=1)
    assert np.count_nonzero(truth.first == 0) > 0


def test_equal_neighbours():
    task, layouts, question, truth = mixed()
    few = MANY // 3
    parents, programs, changed = question.parents, question.programs[:, :few], question.changed[:, :few]
    first = np.where(truth.first < few, truth.first, -1)
    assert np.count_nonzero(first > 0) > 1
    same = np.broadcast_to(parents[:, None], programs.shape)
    everything = np.broadcast_to(np.array([1, 1], np.int32), changed.shape)
    # Each neighbour twice in a row, each of those behind the parent itself.
    longer = [
        np.stack([one, two, two], axis=2).reshape(12, 3 * few, -1)
        for one, two in ((same, programs), (everything, changed))
    ]
    tripled = questions.widened(questions.whole(parents, *longer), MANY)
    expected = truth._replace(first=np.where(first < 0, -1, 3 * first + 1).astype(np.int32))
    check(task, layouts, tripled, expected, workers=2)


def mutations_of(text, wanted, many=400):
    """Return a question about the different sampled neighbours of a program of whose nodes `wanted` holds."""
    parent = encode.encode(from_text(text, LANGUAGE), LANGUAGE)
    found = questions.sampled(LANGUAGE, parent[None], many)
    kept = [i for i, nodes in enumerate(found.programs[0]) if wanted(parent, nodes)]
    _, unique = np.unique(found.programs[0, kept], axis=0, return_index=True)
    rows = np.resize(np.array(kept)[np.sort(unique)], SINGLES)
    return questions.single(questions.whole(parent[None], found.programs[:, rows], found.changed[:, rows]))


def is_count(parent, nodes):
    """Whether nothing but a REPEAT's count differs."""
    (differ,) = np.nonzero(parent != nodes)
    return len(differ) == 1 and parent[differ[0]] & 15 == encode.COUNT


HARD_COUNTS = {
    "a count": f"DEF run m( REPEAT R=2 r( move {PUT} r) m)",
    "a count of zero": f"DEF run m( REPEAT R=0 r( {PUT} move r) m)",
    "a count below": f"DEF run m( REPEAT R=2 r( REPEAT R=1 r( move r) {PUT} r) m)",
    "a count that makes the body idle": f"DEF run m( REPEAT R=3 r( REPEAT R=0 r( {PUT} move r) r) m)",
    "idle in two ways": "DEF run m( REPEAT R=3 r( REPEAT R=2 r( REPEAT R=0 r( putMarker move r) r) r) m)",
    "idle behind a constant": "DEF run m( REPEAT R=3 r( IF c( True c) i( REPEAT R=0 r( putMarker move r) i) r) m)",
    "idle beside a call": f"DEF run m( REPEAT R=3 r( REPEAT R=0 r( {PUT} move r) move r) m)",
    "in an else": f"DEF run m( IFELSE c( False c) i( move i) ELSE e( REPEAT R=0 r( {PUT} move r) e) m)",
    "idle below a WHILE": "DEF run m( WHILE c( frontIsClear c) w( REPEAT R=2 r( REPEAT R=0 r( putMarker r) r) move "
    "w) m)",
    "after the last action": f"DEF run m( move move REPEAT R=0 r( turnLeft {PUT} move r) m)",
}


@pytest.mark.parametrize("case", HARD_COUNTS)
def test_a_count_that_changes_is_noticed(case):
    task, layouts = capped(SMALL_WORLD)
    question = mutations_of(HARD_COUNTS[case], is_count)
    truth = check(task, layouts, question, workers=1)
    assert (truth.first == 0).any()


@pytest.mark.parametrize("case", HARD_COUNTS)
def test_any_change_around_counts_is_noticed(case):
    task, layouts = capped(SMALL_WORLD)
    parent = encode.encode(from_text(HARD_COUNTS[case], LANGUAGE), LANGUAGE)[None]
    question = questions.mutated(np.random.default_rng(0), LANGUAGE, parent, SINGLES, **SMALL)
    truth = check(task, layouts, questions.single(question), workers=1)
    assert (truth.first == 0).any()
    assert (truth.first < 0).any()


SEEDS = st.integers(0, 2**31 - 1)
FEW = SINGLES // MANY
"""Parents whose neighbours are as many questions as there are elsewhere."""


def check_random(seed, world, parents, many=MANY, engines=ENGINES, **limits):
    task, layouts = capped(world, seed)
    rng = np.random.default_rng(seed)
    question = questions.mutated(rng, LANGUAGE, parents, many, **SMALL | limits)
    truth = check(task, layouts, questions.single(question), engines=engines, workers=1)
    found = check(task, layouts, question, engines=engines, workers=1)
    assert (found.first >= 0).sum() <= (truth.first >= 0).sum()


@settings(max_examples=12)
@given(SEEDS)
def test_random_changes_of_random_programs(seed):
    check_random(seed, SMALL_WORLD, spelled_parents(seed, FEW))


@settings(max_examples=6)
@given(SEEDS)
def test_random_changes_at_a_small_call_limit(seed):
    check_random(seed, SevenLimited(5, 4), spelled_parents(seed, FEW))


@pytest.mark.parametrize("engine", ["native", "sequential", "cuda", pytest.param("lanes", marks=pytest.mark.full)])
@settings(max_examples=6)
@given(seed=SEEDS)
def test_random_changes_of_programs_that_are_too_large_to_trace(engine, seed):
    """Which is what the sequential engine does."""
    parents = spelled_parents(seed, FEW, width=2 * WIDTH, least=WIDTH + 1, repeats=4, depth=4, sequence=4)
    check_random(seed, SMALL_WORLD, parents, engines=[engine])


@pytest.mark.full
@settings(max_examples=100)
@given(SEEDS)
def test_many_random_changes(seed):
    check_random(seed, SMALL_WORLD, spelled_parents(seed, 64))


@pytest.mark.full
@settings(max_examples=20)
@given(SEEDS)
def test_random_changes_with_large_counts(seed):
    check_random(seed, SMALL_WORLD, spelled_parents(seed, 16, counts=(*COUNTS, 63, 10**8 - 1)), 16)


@pytest.mark.parametrize(
    ("test", "size"), [("noMarkersPresent", 62), ("not c( markersPresent c)", 63), ("noMarkersPresent", 64)]
)
def test_the_largest_programs_that_are_traced(test, size):
    task, layouts = capped(SMALL_WORLD)
    before = "turnLeft" if size == 64 else ""  # a statement and its Concat are two nodes
    text = f"DEF run m( {'move turnLeft ' * 14} {before} move IF c( {test} c) i( putMarker i) m)"
    parent = encode.encode(from_text(text, LANGUAGE), LANGUAGE)[None]
    assert (np.count_nonzero(parent), parent.shape[1]) == (size, 64)
    question = questions.mutated(np.random.default_rng(size), LANGUAGE, parent, SINGLES, **SMALL)
    truth = check(task, layouts, questions.single(question), workers=1)
    assert (truth.first == 0).any()


class Place(str):
    """A word that knows the node it comes from."""

    node: int


def placed(program, nodes):
    """Return the program with the words of actions and perceptions as `Place`s."""
    calls = np.isin(nodes & 15, (encode.ACTION, encode.PERCEPTION))
    remaining = iter(np.flatnonzero(calls).tolist())

    def copy(part):
        if isinstance(part, tuple):
            return tuple(map(copy, part))
        if not dataclasses.is_dataclass(part):
            return part
        values = [copy(getattr(part, field.name)) for field in dataclasses.fields(part)]
        if isinstance(values[0], str):
            values[0] = Place(values[0])
            values[0].node = next(remaining)
        return type(part)(*values)

    copied = Program(copy(program.body))
    assert next(remaining, None) is None
    return copied


@functools.partial(jax.jit, static_argnums=0)
def traced(machine, programs, layouts):
    """Return the outcome of every run, int32 [P, E, 4], and the nodes it came to, uint32 [P, E, 2]."""
    episodes = layouts.units.shape[0]

    def one(index):
        memory = Direct.empty(machine.slots)
        run = machine.run(
            fetch_from(*machine.traced_code(programs[index // episodes])), layouts, index % episodes, memory
        )
        return pack(run), run.visited

    runs, touched = jax.lax.map(one, jnp.arange(len(programs) * episodes, dtype=jnp.int32))
    return runs.reshape(-1, episodes, 4), touched.reshape(-1, episodes, 2)


def trace(task, programs, layouts):
    """Return what is traced of the runs of up to 160 programs: outcomes [P, E, 4], nodes bool [P, E, 64]."""
    bits = counter_bits(programs)
    machine = Machine(task, bits, counter_words(programs, bits), 4096)
    padded = np.resize(programs, (160, WIDTH))
    runs, touched = (
        np.asarray(leaf)[: len(programs)] for leaf in traced(machine, padded, jax.tree.map(jnp.asarray, layouts))
    )
    return runs, (touched[..., None] >> np.arange(32, dtype=np.uint32) & 1).reshape(*runs.shape[:2], 64).astype(bool)


def test_the_nodes_that_a_run_comes_to():
    task, seeds = capped_task(SMALL_WORLD), range(2, 2 + EPISODES)
    programs = np.concatenate([random_parents(LANGUAGE, 60), spelled_parents(5, 100)])
    runs, touched = trace(task, programs, task.layouts(seeds))
    behind, untraced = 0, 0
    for nodes, its_runs, its_touched in zip(programs, runs, touched, strict=True):
        if has_idle_repeat(jnp.asarray(nodes)):  # then every node counts
            assert its_touched.all()
            untraced += 1
            continue
        program = placed(encode.decode(nodes, LANGUAGE), nodes)
        calls = np.isin(nodes & 15, (encode.ACTION, encode.PERCEPTION))
        for seed, (units, count, actions, end), marks in zip(seeds, its_runs, its_touched, strict=True):
            came_to = []
            environment = WorldEnvironment(task, task.layout(seed))
            outcome = plain.run(program, environment, lambda call: came_to.append((call.kind, call.name.node)))  # noqa: B023
            assert (outcome.reward, outcome.calls, outcome.actions) == (units, count, actions)
            assert outcome.end == end
            found = set(np.flatnonzero(marks & calls).tolist())
            expected = {node for _, node in came_to}
            if found != expected:  # an action that ends the run brings the rest of its instruction along
                assert came_to[-1][0] == "action"
                assert outcome.end != End.FINISHED
                assert expected <= found
                assert len(found - expected) <= CHAIN
                behind += 1
            assert not marks[np.count_nonzero(nodes) :].any()
    assert 0 < behind < 100
    assert 0 < untraced < 100


def test_what_a_run_does_not_come_to_does_not_change_it():
    task, layouts = capped(SMALL_WORLD)
    parents = np.concatenate([random_parents(LANGUAGE, 30), spelled_parents(6, 60)])
    parents = parents[~np.asarray(jax.vmap(has_idle_repeat)(parents))]
    question = questions.mutated(np.random.default_rng(6), LANGUAGE, parents, 24, **SMALL)
    runs, touched = trace(task, parents, layouts)
    others = pack(evaluate(task, question.programs.reshape(-1, WIDTH), layouts, block=questions.BLOCK))
    others = np.reshape(others, (len(parents), 24, EPISODES, 4))
    place = np.arange(WIDTH)
    first, size = question.changed[..., 0, None], question.changed[..., 1, None]
    subtree = (place >= first) & (place < first + size)  # [P, B, 64]
    untouched = ~(subtree[:, :, None] & touched[:, None]).any(axis=-1)  # [P, B, E]
    same = (others == runs[:, None]).all(axis=-1)
    assert same[untouched].all()
    differ = (question.programs != parents[:, None]).any(axis=-1)
    assert np.count_nonzero(untouched & differ[..., None]) > 500
    assert np.count_nonzero(~same) > 500


def events_of(task, layouts, answer, seeds, budget, ahead):
    """Return the events of hill climbing with k = 40, by seed, and where it was when its budget ended."""
    search = hill_climbing(
        neighbours=functools.partial(mutations, task.language),
        start=functools.partial(random_starts, task.language),
        schedule=Constant(40),
        budget=budget,
        goal=Scale.of(layouts).denominator + 1,
    )
    events, zero = {seed: [] for seed in seeds}, jnp.zeros(len(seeds), jnp.int32)

    def record(event):
        program = None if event.program is None else event.program.tobytes()
        events[seeds[event.search]].append((event.evaluated, event.score, program, event.source))

    state = search.init(search_keys(seeds), zero, zero + UNKNOWN)
    state = drive(search, state, answer, record=record, interval=100, ahead=ahead)
    for index, seed in enumerate(seeds):
        leaves = (state.evaluated, state.climb, state.score, state.current)
        events[seed].append([leaf[index].tolist() for leaf in leaves])
    return events


def check_searches(task, layouts, engine, workers, ahead, seeds=(0, 1, 2), budget=300):
    def ours(question):
        return Improvements(*first_better(task, Neighbourhoods(*question), layouts, engine=engine, workers=workers))

    truth = functools.partial(questions.answered, task, layouts)
    expected = events_of(task, layouts, truth, seeds, budget, 64)
    assert events_of(task, layouts, ours, seeds, budget, ahead) == expected
    assert max(len(rows) for rows in expected.values()) > 6
    for seed in seeds[:1]:
        assert events_of(task, layouts, ours, (seed,), budget, ahead) == {seed: expected[seed]}


@pytest.mark.parametrize(
    ("engine", "workers", "ahead"),
    [
        ("native", 2, 64),
        ("sequential", 2, 64),
        ("lanes", 1, 64),
        pytest.param("sequential", 3, 256, marks=pytest.mark.full),
    ],
)
def test_searches_are_the_same_on_both_engines(engine, workers, ahead):
    check_searches(*capped(SMALL_WORLD), engine, workers, ahead)


@pytest.mark.full
@for_both_engines
@pytest.mark.parametrize("name", ["DoorKey", "Harvester", "OneStroke", "RedBlueDoor", "MiniGrid-DoorKey-5x5-v0"])
@pytest.mark.parametrize(("workers", "ahead"), [(1, 64), (2, 512), (3, 1024)])
def test_more_searches_are_the_same_on_both_engines(name, engine, workers, ahead):
    task = make(name)
    check_searches(task, task.layouts(range(8)), engine, workers, ahead, seeds=tuple(range(6)), budget=2_000)


def test_the_plain_engine_answers_as_the_others():
    task, layouts, question, truth = mixed()
    check(task, layouts, question, truth, engines=["plain"])
    one, other = (evaluate(task, question.parents, layouts, engine=name) for name in ("plain", "sequential"))
    for ours, theirs in zip(one.columns, other.columns, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("engine", ENGINES)
def test_programs_with_more_room_than_instructions_can_address(engine):
    task, layouts = capped(SMALL_WORLD)
    nodes = encode.encode_all([Program((Action("turnLeft"),) * 3)], task.language, 600)
    assert (evaluate(task, nodes, layouts, engine=engine).calls == 3).all()
    changed = np.array([[[1, 2]]], np.int32)
    question = Neighbourhoods(nodes, nodes[None], changed, np.ones(1, np.int32))
    assert first_better(task, question, layouts, engine=engine).first.tolist() == [-1]


def test_an_unknown_engine_is_named():
    task, layouts, question, _ = mixed()
    for ask in (
        functools.partial(evaluate, task, question.parents, layouts),
        functools.partial(first_better, task, question, layouts),
    ):
        with pytest.raises(UserError, match=r"unknown engine 'sequental'(?s:.*)sequential"):
            ask(engine="sequental")


def test_what_is_tested_here_are_whole_loops(monkeypatch):
    assert xla.has_whole_loops()
    monkeypatch.setenv("JAXPRL_CC", "")
    task, layouts, question, _ = mixed()

    def refuse(*_, **__):
        raise AssertionError("lanes were asked for")

    monkeypatch.setitem(ALL_ENGINES, "lanes", refuse)
    evaluate(task, question.parents, layouts)
    first_better(task, question, layouts, workers=2)
    monkeypatch.setitem(ALL_ENGINES, "sequential", refuse)
    with pytest.raises(AssertionError):
        evaluate(task, question.parents, layouts)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, xla._FLAG),
        ("", xla._FLAG),
        ("--xla_dump_to=x", f"--xla_dump_to=x {xla._FLAG}"),
        ("--xla_backend_extra_options=", "--xla_backend_extra_options="),
        ("--a=1 --xla_backend_extra_options=b=2", "--a=1 --xla_backend_extra_options=b=2"),
    ],
)
def test_flags_of_the_user_are_kept(monkeypatch, before, after):
    monkeypatch.delenv("XLA_FLAGS") if before is None else monkeypatch.setenv("XLA_FLAGS", before)
    for _ in range(2):
        xla.prefer_whole_loops()
        assert os.environ["XLA_FLAGS"] == after


WITHOUT = """
import json, sys, warnings
import numpy as np
from jaxprl.search.protocol import Neighbourhoods
from jaxprl.vm import engines
from jaxprl.vm import evaluate as door
from jaxprl.worlds.make import make
from jaxprl.xla import has_whole_loops
assert not has_whole_loops()
engines.ENGINES["sequential"] = None
task = make("DoorKey")
layouts = task.layouts(range(4))
question = Neighbourhoods(*(np.array(leaf, np.int32) for leaf in json.load(sys.stdin)))
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    door.evaluate(task, question.parents, layouts, engine="lanes")
    assert not warned
    for _ in range(2):
        runs = door.evaluate(task, question.parents, layouts)
    better = door.first_better(task, question, layouts)
[warning] = warned
assert warning.filename == "<string>", warning.filename
print(json.dumps([str(warning.message), *(leaf.tolist() for leaf in (*runs.columns, *better))]))
"""


def test_without_whole_loops_lanes_give_the_same():
    task = make("DoorKey")
    layouts = task.layouts(range(EPISODES))
    question = questions.sampled(task.language, golden_parents("DoorKey", task.language, 4), 10)
    runs = evaluate(task, question.parents, layouts, engine="sequential")
    found = first_better(task, question, layouts, engine="sequential", workers=2)
    assert (found.first >= 0).any()
    found = found._replace(better=np.where(found.first >= 0, found.better, 0))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], input=json.dumps([leaf.tolist() for leaf in question[:4]]), text=True,
        capture_output=True, env={**os.environ, "XLA_FLAGS": "", "JAXPRL_CC": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    warning, *columns, first, better = json.loads(done.stdout)
    assert "jaxprl.prefer_whole_loops() before JAX compiles anything" in warning
    better = [score if index >= 0 else 0 for index, score in zip(first, better, strict=True)]
    assert [*columns, first, better] == [leaf.tolist() for leaf in (*runs.columns, *found)]


def compiled(task):
    """Return the machine's text of the two functions of the sequential engine, by name.

    The sizes are those of `check_task`, for which they are compiled anyway.
    """
    layouts = jax.tree.map(jnp.asarray, task.layouts(range(EPISODES)))
    machine = Machine(task, 5, 1, 4096)
    shapes = {"parents": (1, 64), "programs": (1, 10, 64), "changed": (1, 10, 2), "counts": (1,)}
    question = Neighbourhoods(**{name: np.zeros(shape, np.int32) for name, shape in shapes.items()})
    scale = Scale.of(layouts)
    more = layouts, scale.weights.astype(np.int32), np.int32(scale.most)
    jobs = {
        "run_programs": sequential._run_programs.lower(machine, np.zeros((32, 64), np.int32), np.int32(32), layouts),
        "first_better": sequential._first_better.lower(machine, question, *more),
    }
    return {name: job.compile().as_text() for name, job in jobs.items()}


MEMORY = "u32[16384]"
IN_PLACE = {"parameter", "get-tuple-element", "dynamic-update-slice", "fusion"}
"""Operations that give a WHILE memory without copying it; a fusion consists of others."""


def check_loops(text):
    """Check that each loop of a compiled function is a call of one piece, and that none copies the WHILE memory."""
    bodies = dict(re.findall(r"^%?([^\s(]+) \([^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    whole = set(re.findall(r"call\([^\n]*to_apply=%([^\s,]+)[^\n]*xla_cpu_small_call=\"true\"", text))
    with_loops = {name for name, body in bodies.items() if re.search(r"\) while\(", body)}
    assert len(re.findall(r"\) while\(", text)) == sum(body.count(") while(") for body in bodies.values()) > 3
    assert with_loops == whole
    [entry] = re.findall(r"^ENTRY %?([^\s(]+)", text, re.MULTILINE)
    inside = [body for name, body in bodies.items() if name != entry]
    operations = re.findall(rf"= {re.escape(MEMORY)}\S* ([a-z-]+)\(", "".join(inside))
    assert "dynamic-update-slice" in operations
    copies = set(operations) - IN_PLACE
    made = [body for body in inside if re.search(rf"= {re.escape(MEMORY)}\S* broadcast\(", body)]
    assert copies <= {"broadcast"}, copies
    assert len(made) <= 1
    assert not any(f"wrapped_copy = {MEMORY}" in body for body in inside)


@pytest.mark.parametrize("name", SOME_TASKS)
def test_compiled_loops_are_whole(name):
    for text in compiled(make(name)).values():
        check_loops(text)


@pytest.mark.full
@pytest.mark.parametrize("name", SOME_TASKS + OTHER_TASKS)
def test_compiled_loops_of_all_worlds_are_whole(name):
    for text in compiled(make(name)).values():
        check_loops(text)


@pytest.mark.parametrize("engine", ["native", "sequential", "cuda", pytest.param("lanes", marks=pytest.mark.full)])
def test_the_largest_program_that_instructions_can_address(engine):
    task, layouts = capped(SMALL_WORLD)
    largest = Program((Action("turnLeft"),) * 255)
    assert np.count_nonzero(encode.encode(largest, task.language)) == 510
    assert (evaluate(task, [largest], layouts, engine=engine).calls == 255).all()


@for_both_engines
def test_programs_that_no_instruction_can_address(engine):
    task, layouts = capped(SMALL_WORLD)
    larger = Program((Action("turnLeft"),) * 257)
    with pytest.raises(UserError, match="has 514 nodes; at most 512 are run"):
        evaluate(task, [larger], layouts, engine=engine)
