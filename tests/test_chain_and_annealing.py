"""Chains that accept ties, and simulated annealing: each against its definition, one program after the other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprl.dsl import ast, encode, sample
from jaxprl.dsl.text import from_text
from jaxprl.errors import UserError
from jaxprl.experiment.config import Config
from jaxprl.experiment.job import resolve
from jaxprl.experiment.run import run
from jaxprl.search.annealing import Cooling, annealing, metropolis
from jaxprl.search.chain import chain, limited_neighbours, limited_starts, sizes
from jaxprl.search.driver import drive
from jaxprl.search.program_space import mutations, random_starts
from jaxprl.search.protocol import UNKNOWN, Improvements, search_keys
from jaxprl.vm.evaluate import evaluate, first_better
from jaxprl.vm.outcomes import Scale
from jaxprl.worlds.karel.world import LANGUAGE
from jaxprl.worlds.make import make

MOVE = encode.ACTION | LANGUAGE.action_names.index("move") << encode.KIND_BITS
MOST_NODES = 12
NEIGHBOURS, STARTS = functools.partial(mutations, LANGUAGE), functools.partial(random_starts, LANGUAGE)
GRAMMAR = {"neighbours": NEIGHBOURS, "start": STARTS}


def score(programs: np.ndarray) -> np.ndarray:
    """A score with many ties: `move` counts ten, every other node takes one off."""
    programs = np.asarray(programs)
    return (11 * (programs == MOVE).sum(axis=-1) - (programs != 0).sum(axis=-1)).astype(np.int32)


def answered(question, goal_seen=None):
    """Answer a question by the scores of all its programs."""
    scores, parents = score(question.programs), score(question.parents)
    wanted = np.arange(scores.shape[1]) < question.counts[:, None]
    differs = (question.programs != question.parents[:, None]).any(axis=-1)
    takes = wanted & differs & (scores > parents[:, None] - question.margins)
    first = np.where(takes.any(axis=1), takes.argmax(axis=1), -1).astype(np.int32)
    return Improvements(parents, first, scores[np.arange(len(scores)), first])


def play(search, seeds, **options):
    """Drive searches to their end; returns their last state and their new bests by seed."""
    events = {seed: [] for seed in seeds}

    def record(event):
        events[seeds[event.search]].append((event.evaluated, event.score, event.program.tobytes(), event.source))

    state = search.init(search_keys(seeds))
    return drive(search, state, answered, record=record, interval=10**6, **options), events


class OneByOne:
    """Collects what a search evaluates, one program after the other."""

    def __init__(self, seed, budget, goal):
        self.key, self.budget, self.goal = search_keys([seed])[0], budget, goal
        self.n, self.best, self.found = 0, UNKNOWN, []

    @property
    def over(self):
        return self.n >= self.budget or self.best >= self.goal

    def evaluate(self, program, source):
        self.n += 1
        value = int(score(program))
        if value > self.best:
            self.best = value
            self.found.append((self.n, value, program.tobytes(), source))
        return value


def chain_one_by_one(seed, budget, goal):
    search = OneByOne(seed, budget, goal)
    keys, zero, none = search.key[None], jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32)
    current = np.asarray(limited_starts(STARTS, MOST_NODES, keys, zero))[0]
    value = search.evaluate(current, "random")
    while not search.over:
        key = jax.random.fold_in(search.key, search.n)[None, None]
        candidate = np.asarray(limited_neighbours(NEIGHBOURS, MOST_NODES, current[None], key, none)[0])[0, 0]
        new = search.evaluate(candidate, "mutation")
        if new >= value:
            current, value = candidate, new
    return search


def annealing_one_by_one(seed, budget, goal, cooling, steps):
    search, run = OneByOne(seed, budget, goal), 0
    while not search.over:
        current = np.asarray(random_starts(LANGUAGE, search.key[None], jnp.array([run], jnp.int32)))[0]
        run, tried = run + 1, 0
        value = search.evaluate(current, "random")
        while tried < steps and not search.over:
            key = jax.random.fold_in(search.key, search.n)
            word = int(jax.random.bits(jax.random.fold_in(key, 2**31 + 3), (), jnp.uint32))
            candidate = np.asarray(sample.neighbours(LANGUAGE, current[None], key[None, None])[0])[0, 0]
            new, temperature = search.evaluate(candidate, "mutation"), cooling.start * cooling.factor**tried
            tried += 1
            if new > value or (word + 0.5) / 2**32 < np.exp((new - value) / goal / temperature):
                current, value = candidate, new
    return search


@pytest.mark.parametrize(("seed", "goal"), [(0, 10**6), (1, 10**6), (2, 40)])
def test_a_chain_is_what_its_definition_says(seed, goal):
    state, events = play(chain(**GRAMMAR, max_nodes=MOST_NODES, budget=400, goal=goal), [seed])
    expected = chain_one_by_one(seed, 400, goal)
    assert events[seed] == expected.found
    assert int(state.evaluated[0]) == expected.n
    assert goal > 1000 or expected.best >= goal


@pytest.mark.parametrize(
    ("seed", "goal", "start", "steps"), [(0, 1000, 0.05, 150), (1, 1000, 0.01, 399), (2, 70, 0.5, 40)]
)
def test_annealing_is_what_its_definition_says(seed, goal, start, steps):
    cooling = Cooling(start, 0.99)
    search = annealing(**GRAMMAR, cooling=cooling, steps=steps, budget=400, goal=goal)
    state, events = play(search, [seed])
    expected = annealing_one_by_one(seed, 400, goal, cooling, steps)
    assert events[seed] == expected.found
    assert int(state.evaluated[0]) == expected.n


def test_searches_depend_on_neither_the_batch_nor_each_other():
    for search in (
        chain(**GRAMMAR, max_nodes=MOST_NODES, budget=200, goal=10**6),
        annealing(**GRAMMAR, cooling=Cooling(0.1, 0.99), steps=70, budget=200, goal=1000),
    ):
        _, together = play(search, [3, 4, 5], ahead=1024)
        for seed in (3, 4, 5):
            assert together[seed] == play(search, [seed])[1][seed]


def size_of(nodes):
    """The size of a program by its tree: all nodes but the first, and the counts of REPEATs; sequences are tuples."""

    def count(node):
        if isinstance(node, tuple):
            return sum(map(count, node))
        if not dataclasses.is_dataclass(node):
            return 0
        return 1 + isinstance(node, ast.Repeat) + sum(map(count, vars(node).values()))

    return count(encode.decode(np.asarray(nodes), LANGUAGE)) - 1


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("DEF run m( move m)", 1),
        ("DEF run m( WHILE c( frontIsClear c) w( move move w) m)", 4),
        ("DEF run m( REPEAT R=3 r( turnLeft r) IF c( not c( leftIsClear c) c) i( move i) m)", 7),
    ],
)
def test_the_program_and_its_sequences_do_not_count(text, size):
    program = encode.encode(from_text(text, LANGUAGE), LANGUAGE)
    assert sizes(program) == size_of(program) == size


def test_a_chains_programs_are_small_and_keep_their_keys():
    keys = search_keys(range(300))
    starts = limited_starts(STARTS, 8, keys, jnp.zeros(300, jnp.int32))
    assert max(map(size_of, starts)) == 8
    as_drawn = random_starts(LANGUAGE, keys, jnp.zeros(300, jnp.int32))
    assert sizes(as_drawn).tolist() == [size_of(program) for program in as_drawn]
    small = np.asarray(sizes(as_drawn)) <= 8
    assert 50 < small.sum() < 290
    assert (np.asarray(starts)[small] == np.asarray(as_drawn)[small]).all()
    some = limited_starts(STARTS, 8, keys[40:60], jnp.zeros(20, jnp.int32))
    assert (some == starts[40:60]).all()


@given(st.floats(1e-4, 2.0), st.floats(0.9, 1.0), st.integers(0, 1000), st.integers(32, 100_000))
def test_a_margin_says_exactly_which_differences_are_taken(start, factor, tried, goal):
    """Higher scores and ties always; a lower one if u < exp(d / T)."""

    class State:
        pass

    state = State()
    state.tried = np.array([tried], np.int32)
    keys = search_keys([7])[:, None]
    [[margin]] = metropolis(Cooling(start, factor), goal, state, keys)
    word = int(jax.random.bits(jax.random.fold_in(keys[0, 0], 2**31 + 3), (), jnp.uint32))
    temperature = start * factor**tried
    threshold = temperature * np.log((word + 0.5) / 2**32) * goal  # a difference above it is taken
    assert margin >= 1
    assert -margin <= threshold < -margin + 1


def test_annealing_takes_worse_programs_as_often_as_its_temperature_says():
    class State:
        tried = np.zeros(1, np.int32)

    keys = jax.random.split(search_keys([0])[0], 20_000)[None]
    margins = metropolis(Cooling(0.1, 1.0), 1000, State(), keys)
    for difference in (10, 50, 200):
        share, expected = (margins > difference).mean(), np.exp(-difference / 1000 / 0.1)
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000)


@pytest.mark.parametrize("engine", ["native", "sequential", "cuda", "lanes"])
def test_the_engines_keep_the_margins(engine):
    """Against complete evaluation, in a real task; with duplicates and neighbours that equal their parent."""
    task = make("DoorKey")
    layouts = task.layouts(range(4))
    scale = Scale.of(layouts)
    keys = jax.random.split(jax.random.key(3), 6)
    parents = np.asarray(sample.random_programs(LANGUAGE, keys))
    programs, changed = sample.neighbours(LANGUAGE, parents, jax.random.split(jax.random.key(4), (6, 12)))
    programs, changed = np.array(programs), np.array(changed)
    programs[:, 3], changed[:, 3] = parents, changed[:, 2]
    programs[:, 7], changed[:, 7] = programs[:, 1], changed[:, 1]
    rng = np.random.default_rng(0)
    scores = scale.scores(evaluate(task, programs.reshape(72, -1), layouts).units).reshape(6, 12)
    own = scale.scores(evaluate(task, parents, layouts).units)
    seen = set()
    for spread in (0, 1, 2, scale.denominator // 4, 2 * scale.denominator):
        margins = rng.integers(0, spread + 1, (6, 12)).astype(np.int32)
        question = questions_of(parents, programs, changed, margins)
        found = first_better(task, question, layouts, engine=engine)
        takes = (scores > own[:, None] - margins) & (programs != parents[:, None]).any(axis=-1)
        first = np.where(takes.any(axis=1), takes.argmax(axis=1), -1)
        assert found.score.tolist() == own.tolist()
        assert found.first.tolist() == first.tolist()
        better = scores[np.arange(6), first]
        assert found.better[first >= 0].tolist() == better[first >= 0].tolist()
        seen |= set(first.tolist())
    assert len(seen) > 3


def questions_of(parents, programs, changed, margins):
    from jaxprl.search.protocol import Neighbourhoods

    counts = np.full(len(parents), programs.shape[1], np.int32)
    return Neighbourhoods(parents, programs, changed, counts, margins)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("chain", {"max_nodes": 0}, "--max-nodes 0: it goes from 1 to 41"),
        ("annealing", {"start_temperature": 0.0}, "--start-temperature 0: it goes from 1e-06 to 1e\\+06"),
        ("annealing", {"cooling": 1.5}, "--cooling 1.5: it is above 0 and at most 1"),
        ("annealing", {"restarts": -1}, "--restarts -1: from 0 to"),
        ("annealing", {"k": 5}, "method annealing has no option --k; its options: --start-temperature, --cooling, --r"),
    ],
)
def test_mistakes_are_messages(method, options, message):
    with pytest.raises(UserError, match=message):
        resolve(Config("DoorKey", method, options=options))


def test_a_chain_solves_door_key(tmp_path):
    """A search that `docs/methods.md` counts. Its program would be too large if joining statements counted."""
    [result] = run(Config("DoorKey", "chain", seeds=[1]), tmp_path / "run")
    assert (result["return"], result["found_at"], result["unseen_return"]) == (1.0, 12_011, 0.9925)
