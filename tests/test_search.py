"""Hill climbing: its steps one by one on a made-up score, and that nothing but the key decides a search."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprl.dsl import encode, sample
from jaxprl.experiment import given_starts, random_starts
from jaxprl.search.driver import Event, drive, with_intervals
from jaxprl.search.hill_climbing import UNKNOWN, hill_climbing
from jaxprl.search.schedule import Constant, Growing
from jaxprl.vm.evaluate import Contest, Scale, evaluate
from jaxprl.worlds import registry
from jaxprl.worlds.karel.world import LANGUAGE

GOAL = 1000


def count_moves(programs: np.ndarray) -> np.ndarray:
    """Score of a toy problem: the more `move` in the program, the better."""
    move = encode.ACTION | LANGUAGE.action_names.index("move") << encode.KIND_BITS
    return (programs == move).sum(axis=-1).astype(np.int32) * 10


def toy(budget=500, k=20, goal=GOAL):
    return hill_climbing(
        neighbours=functools.partial(sample.neighbours, LANGUAGE),
        start=functools.partial(random_starts, LANGUAGE),
        schedule=Constant(k),
        budget=budget,
        goal=goal,
    )


def begin(search, seeds):
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    zero = jnp.zeros(len(seeds), jnp.int32)
    return search.init(keys, zero, zero + UNKNOWN)


def play(search, seeds, scores=lambda programs, beat, group: count_moves(programs), **options):
    """Drive searches to their end; returns their last state and their events by seed."""
    events = {seed: [] for seed in seeds}

    def record(event):
        program = None if event.program is None else event.program.tobytes()
        events[seeds[event.search]].append((event.evaluated, event.score, program, event.source))

    return drive(search, begin(search, seeds), scores, record=record, **options), events


def one_by_one(search_key, budget, k):
    """The same search as its definition says it, one program after the other."""

    def draw(function, name, *arguments):
        return np.asarray(function(*arguments, jax.random.fold_in(search_key, name)[None]))[0]

    found, n, climb, best = [], 0, 0, UNKNOWN
    while True:
        current = np.asarray(random_starts(LANGUAGE, search_key[None], jnp.array([climb], jnp.int32)))[0]
        climb, tried, score = climb + 1, 0, int(count_moves(current))
        n += 1
        if score > best:
            best = score
            found.append((n, score, current.tobytes(), "random"))
        while tried < k and n < budget and best < GOAL:
            keys = jax.random.fold_in(search_key, n)[None, None]
            candidate = np.asarray(sample.neighbours(LANGUAGE, current[None], keys))[0, 0]
            n, tried = n + 1, tried + 1
            if count_moves(candidate) > score:
                current, score, tried = candidate, int(count_moves(candidate)), 0
                if score > best:
                    best = score
                    found.append((n, score, current.tobytes(), "mutation"))
        if n >= budget:
            return found


def test_a_search_is_what_its_definition_says():
    _, events = play(toy(budget=300), [5], interval=10_000)
    assert events[5] == one_by_one(jax.random.key(5), budget=300, k=20)


@pytest.mark.parametrize("ahead", [64, 256, 1024])
def test_searches_depend_on_neither_the_batch_nor_each_other(ahead):
    together, events = play(toy(), [0, 1, 2, 3], ahead=ahead, interval=100)
    for seed in range(4):
        alone, expected = play(toy(), [seed], interval=100)
        assert events[seed] == expected[seed]
        assert int(together.evaluated[seed]) == int(alone.evaluated[0])


def test_the_budget_is_met_exactly_and_intervals_are_recorded():
    state, events = play(toy(budget=333), [0, 1], interval=50)
    assert state.evaluated.tolist() == [333, 333]
    marks = [row[0] for row in events[0] if row[2] is None]
    assert marks == list(range(50, 333, 50))


def test_a_search_stops_at_its_goal():
    state, events = play(toy(budget=10_000, goal=40), [0])
    last = events[0][-1]
    assert last[1] >= 40
    assert int(state.evaluated[0]) == last[0] < 10_000
    assert bool(state.done[0])


def test_climbs_start_from_the_given_programs_in_turn():
    keys = jax.vmap(jax.random.key)(jnp.arange(2, dtype=jnp.uint32))
    programs = jnp.arange(2 * 3 * 4, dtype=jnp.int32).reshape(2, 3, 4)
    counts = jnp.array([3, 2], jnp.int32)
    for climb in range(7):
        got = given_starts(programs, counts, keys, jnp.array([climb, climb], jnp.int32))
        assert (got[0] == programs[0, climb % 3]).all()
        assert (got[1] == programs[1, climb % 2]).all()


def test_k_is_fixed_at_the_start_of_a_climb():
    search = hill_climbing(
        neighbours=functools.partial(sample.neighbours, LANGUAGE),
        start=functools.partial(random_starts, LANGUAGE),
        schedule=Growing(1000),
        budget=1000,
        goal=GOAL,
    )
    state, seen = begin(search, [0]), {}
    while not bool(state.done[0]):
        seen.setdefault(int(state.climb[0]), (int(state.evaluated[0]), int(state.k[0])))
        question = search.ask(state, 64)
        state, _ = search.tell(state, question, jnp.asarray(count_moves(np.asarray(question.programs))))
    assert len(seen) > 1
    assert all(k == Growing(1000)(n) for n, k in seen.values())


def test_pruning_changes_no_search():
    task = registry.make("DoorKey")
    layouts = task.layouts(range(8))
    scale = Scale.of(layouts)

    def scores(programs, beat, group, prune):
        runs = evaluate(task, programs, layouts, contest=Contest(beat, group) if prune else None)
        return np.where(runs.complete, scale.scores(runs.units), UNKNOWN).astype(np.int32)

    search = toy(budget=400, k=100, goal=scale.denominator)
    state, pruned = play(search, [0, 1], functools.partial(scores, prune=True))
    other, complete = play(search, [0, 1], functools.partial(scores, prune=False))
    assert pruned == complete
    assert (state.best == other.best).all()


def test_intervals_come_in_order_with_the_best_of_their_moment():
    bests = [Event(0, 12, 5, np.zeros(1), "random"), Event(0, 27, 9, np.zeros(1), "mutation")]
    merged = with_intervals(bests, 0, (8, 30), 2, 10)
    assert [(event.evaluated, event.score) for event in merged] == [(10, 2), (12, 5), (20, 5), (27, 9), (30, 9)]
