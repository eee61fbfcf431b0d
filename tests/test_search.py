"""Hill climbing: its steps one by one on a made-up score, and that nothing but the key decides a search."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprl.dsl import encode, sample
from jaxprl.llm.programs import Answers, recorded_answers
from jaxprl.methods.joining import joining
from jaxprl.methods.reviser import Round
from jaxprl.search.driver import drive, with_intervals
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.pool import Pool, best_first, joined, pooled_starts, stacked
from jaxprl.search.program_space import mutations, random_starts
from jaxprl.search.protocol import UNKNOWN, Event, Improvements, search_keys, select
from jaxprl.search.schedule import Constant, Growing
from jaxprl.worlds.karel.world import LANGUAGE

GOAL = 1000
TWENTY = Constant(20)


def count_moves(programs: np.ndarray) -> np.ndarray:
    """Score of a toy problem: the more `move` in the program, the better."""
    move = encode.ACTION | LANGUAGE.action_names.index("move") << encode.KIND_BITS
    return (programs == move).sum(axis=-1).astype(np.int32) * 10


def toy(budget=500, schedule=TWENTY, goal=GOAL):
    return hill_climbing(
        neighbours=functools.partial(mutations, LANGUAGE),
        start=functools.partial(random_starts, LANGUAGE),
        schedule=schedule,
        budget=budget,
        goal=goal,
    )


def begin(search, seeds):
    keys = search_keys(seeds)
    zero = jnp.zeros(len(seeds), jnp.int32)
    return search.init(keys, zero, zero + UNKNOWN)


def first_better(question):
    """Answer a question by the scores of all its programs."""
    scores, parents = count_moves(question.programs), count_moves(question.parents)
    wanted = np.arange(scores.shape[1]) < question.counts[:, None]
    beats = wanted & (scores > parents[:, None])
    first = np.where(beats.any(axis=1), beats.argmax(axis=1), -1).astype(np.int32)
    better = np.where(beats.any(axis=1), scores[np.arange(len(scores)), first], UNKNOWN).astype(np.int32)
    return Improvements(parents, first, better)


def play(search, seeds, **options):
    """Drive searches to their end; returns their last state and their events by seed."""
    events = {seed: [] for seed in seeds}

    def record(event):
        program = None if event.program is None else event.program.tobytes()
        events[seeds[event.search]].append((event.evaluated, event.score, program, event.source))

    return drive(search, begin(search, seeds), first_better, record=record, **options), events


def test_each_search_makes_neighbours_of_its_own_parts():
    def other_keys(parts, programs, keys, counts):
        """Neighbours as usual where the part is 0; others where it is not."""
        folded = jax.vmap(lambda part, row: jax.vmap(lambda key: jax.random.fold_in(key, part))(row))(parts, keys)
        chosen = select(parts == 0, jax.random.key_data(keys), jax.random.key_data(folded))
        return mutations(LANGUAGE, programs, jax.random.wrap_key_data(chosen, impl="threefry2x32"), counts)

    start = functools.partial(random_starts, LANGUAGE)
    search = hill_climbing(neighbours=other_keys, start=start, schedule=TWENTY, budget=300, goal=GOAL, parts="parts")
    state = search.init(search_keys((5, 5)), parts=jnp.array([0, 1], jnp.int32))
    events = {0: [], 1: []}
    state = drive(search, state, first_better, record=lambda event: events[event.search].append(event.evaluated))
    _, usual = play(toy(budget=300), (5,))
    assert events[0] == [row[0] for row in usual[5]]
    assert events[1] != events[0]
    assert events[1][0] == events[0][0]  # both start from the same program
    assert state.parts.tolist() == [0, 1]
    assert jax.tree.structure(state) == jax.tree.structure(search.template)


def one_by_one(search_key, budget, schedule, goal):
    """The same search as its definition says it, one program after the other."""
    found, n, climb, best = [], 0, 0, UNKNOWN
    while True:
        k = schedule(n)
        current = np.asarray(random_starts(LANGUAGE, search_key[None], jnp.array([climb], jnp.int32)))[0]
        climb, tried, score = climb + 1, 0, int(count_moves(current))
        n += 1
        if score > best:
            best = score
            found.append((n, score, current.tobytes(), "random"))
        while tried < k and n < budget and best < goal:
            keys = jax.random.fold_in(search_key, n)[None, None]
            candidate = np.asarray(sample.neighbours(LANGUAGE, current[None], keys)[0])[0, 0]
            n, tried = n + 1, tried + 1
            if count_moves(candidate) > score:
                current, score, tried = candidate, int(count_moves(candidate)), 0
                if score > best:
                    best = score
                    found.append((n, score, current.tobytes(), "mutation"))
        if n >= budget or best >= goal:
            return n, found


@pytest.mark.parametrize(
    ("seed", "schedule", "goal"),
    [(5, Constant(20), GOAL), (6, Growing(400), GOAL), (7, Growing(400), 70), (8, Constant(3), 40)],
)
def test_a_search_is_what_its_definition_says(seed, schedule, goal):
    state, events = play(toy(400, schedule, goal), [seed], interval=10_000)
    evaluated, expected = one_by_one(search_keys([seed])[0], 400, schedule, goal)
    assert events[seed] == expected
    assert int(state.evaluated[0]) == evaluated


@pytest.mark.parametrize("ahead", [64, *(pytest.param(ahead, marks=pytest.mark.full) for ahead in (256, 1024))])
def test_searches_depend_on_neither_the_batch_nor_each_other(ahead):
    together, events = play(toy(), [0, 1, 2], ahead=ahead, interval=100)
    for seed in range(3):
        alone, expected = play(toy(), [seed], interval=100)
        assert events[seed] == expected[seed]
        assert int(together.evaluated[seed]) == int(alone.evaluated[0])


def test_the_budget_is_met_exactly_and_intervals_are_recorded():
    state, events = play(toy(budget=333), [0, 1, 2], interval=50, ahead=64)
    assert state.evaluated.tolist() == [333] * 3
    marks = [row[0] for row in events[0] if row[2] is None]
    assert marks == list(range(50, 333, 50))


def test_a_search_stops_at_its_goal():
    state, events = play(toy(budget=10_000, goal=40), [0])
    last = events[0][-1]
    assert last[1] >= 40
    assert int(state.evaluated[0]) == last[0] < 10_000
    assert bool(state.done[0])


def test_climbs_start_from_the_given_programs_in_turn():
    keys = search_keys([0, 1])
    programs = jnp.arange(2 * 3 * 4, dtype=jnp.int32).reshape(2, 3, 4)
    counts = jnp.array([3, 2], jnp.int32)
    pool = Pool(programs, counts, jnp.zeros_like(counts))
    for climb in range(7):
        got = pooled_starts(pool, keys, jnp.array([climb, climb], jnp.int32))
        assert (got[0] == programs[0, climb % 3]).all()
        assert (got[1] == programs[1, climb % 2]).all()


def test_k_is_fixed_at_the_start_of_a_climb():
    search = toy(1000, Growing(1000))
    state, started = begin(search, [0]), {}
    while not bool(state.done[0]):
        climb, k = int(state.climb[0]), int(state.k[0])
        assert k == Growing(1000)(started.setdefault(climb, int(state.evaluated[0])))
        asked = search.ask(state, 256)
        state, _ = search.tell(state, asked, first_better(jax.tree.map(np.asarray, asked.question)))
    assert len(started) > 1


def test_a_question_is_about_the_programs_that_come_next():
    search = toy(400, Constant(90))
    state, limits = begin(search, [0, 1, 2]), set()
    while not np.asarray(state.done).all():
        asked = search.ask(state, 64)
        question = asked.question
        left = 400 - np.asarray(state.evaluated) - (np.asarray(state.score) == UNKNOWN)
        for index in range(3):
            counts = {"k": int(state.k[index] - state.tried[index]), "budget": int(left[index]), "width": 64}
            expected = -1 if bool(state.done[index]) else min(counts.values())
            assert int(question.counts[index]) == expected
            limits |= {name for name, count in counts.items() if count == expected}
        keys = jax.vmap(
            lambda key, first: jax.vmap(lambda i: jax.random.fold_in(key, first + i))(jnp.arange(64, dtype=np.int32))
        )(state.key, 400 - left)
        programs, changed = sample.neighbours(LANGUAGE, state.current, keys)
        assert (question.parents == state.current).all()
        assert (question.programs == programs).all()
        assert (question.changed == changed).all()
        state, _ = search.tell(state, asked, first_better(jax.tree.map(np.asarray, question)))
    assert limits == {"k", "budget", "width"}


def test_intervals_come_in_order_with_the_best_of_their_moment():
    bests = [Event(0, 12, 5, np.zeros(1), "random"), Event(0, 27, 9, np.zeros(1), "mutation")]
    merged = with_intervals(bests, 0, (8, 30), 2, 10)
    assert [(event.evaluated, event.score) for event in merged] == [(10, 2), (12, 5), (20, 5), (27, 9), (30, 9)]


def test_start_programs_are_tried_best_first_and_ties_keep_their_order():
    programs = np.arange(8, dtype=np.int32).reshape(2, 4, 1)
    scores = np.array([[3, 7, 3, 9], [5, 5, UNKNOWN, UNKNOWN]], np.int32)
    counts = np.array([4, 2], np.int32)
    found = best_first(programs, counts, scores, budget=100, goal=10)
    assert found.programs[..., 0].tolist() == [[3, 1, 0, 2], [4, 5, 6, 7]]
    assert (found.evaluated.tolist(), found.best.tolist()) == ([4, 2], [9, 5])
    assert programs[..., 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("budget", "goal", "evaluated", "best"),
    [(100, 7, 2, 7), (100, 9, 4, 9), (1, 9, 1, 3), (3, 9, 3, 7), (4, 100, 4, 9), (2, 7, 2, 7)],
)
def test_start_programs_count_until_one_solves_the_task_or_the_budget_ends(budget, goal, evaluated, best):
    scores = np.array([[3, 7, 3, 9]], np.int32)
    found = best_first(np.zeros((1, 4, 1), np.int32), np.array([4], np.int32), scores, budget, goal)
    assert (found.evaluated.tolist(), found.best.tolist()) == ([evaluated], [best])


def test_start_programs_of_different_sizes_are_stacked():
    programs, counts = stacked([np.ones((2, 64), np.int32), np.ones((3, 128), np.int32)])
    assert programs.shape == (2, 3, 128)
    assert counts.tolist() == [2, 3]
    assert programs.sum() == 2 * 64 + 3 * 128


def test_recorded_answers_are_drawn_by_the_seed_and_counted():
    first, again, other = (recorded_answers("DoorKey", LANGUAGE, seed) for seed in (1, 1, 2))
    assert first.programs == again.programs != other.programs
    assert len(first.programs) == 32
    counts = first.counts()
    assert counts["answers"] == len(first.rows) == len({row["index"] for row in first.rows})
    assert counts["accepted"] == 32
    assert sum(counts["rejected"].values()) == counts["answers"] - counts["accepted"]
    assert sum(counts["slips"].values()) == sum(len(row["rejected"]) for row in first.rows if row["program"])


def drawn(*name, count):
    """Return random programs, int32 [count, N], by name."""
    return np.asarray(sample.random_programs(LANGUAGE, jax.random.split(search_keys([sum(name)])[0], count)))


def proposed(seed, climb, left, fresh=3):
    """Good programs that join a search: as many as its budget has left, up to the first that reaches the goal."""
    nodes = drawn(7000, 10 * seed, climb, count=40)
    nodes = nodes[np.sort(np.argsort(-count_moves(nodes))[:fresh])][:left]
    scores = count_moves(nodes).astype(np.int64)
    solved = np.flatnonzero(scores >= 90)
    scores = scores[: solved[0] + 1] if len(solved) else scores
    return Round(Answers([], [], []), nodes, scores, np.zeros((len(scores), 1)), len(scores), [], None)


def play_joined(seeds, budget, goal, proposed=proposed, **options):
    """Drive searches that two programs each start from and that others join; returns their events by seed."""
    search = hill_climbing(
        neighbours=functools.partial(mutations, LANGUAGE),
        start=pooled_starts,
        schedule=Constant(4),
        budget=budget,
        goal=goal,
    )
    programs = np.stack([drawn(seed, count=2) for seed in seeds])
    zero = jnp.zeros(len(seeds), jnp.int32)
    pool = Pool(jnp.asarray(programs), zero + 2, zero)
    state, events, asked = search.init(search_keys(seeds), zero, zero + UNKNOWN, pool), {seed: [] for seed in seeds}, []

    def propose(index, climb, left):
        asked.append((seeds[index], climb))
        return proposed(seeds[index], climb, left)

    def record(event):
        program = None if event.program is None else event.program.tobytes()
        events[seeds[event.search]].append((event.evaluated, event.score, program, event.source))

    between = joining(search, propose, climbs=2, budget=budget, goal=goal)
    search = search._replace(between=between, start_source="start")
    state = drive(search, state, first_better, record=record, **options)
    return state, events, asked


def joined_one_by_one(seed, budget, goal):
    """The same search as its definition says it."""
    key, cycle = search_keys([seed])[0], list(drawn(seed, count=2))
    found, asked, n, climb, best, vain = [], [], 0, 1, UNKNOWN, 0

    def seen(program, source):
        nonlocal n, best, vain
        n += 1
        if (score := int(count_moves(program))) > best:
            best, vain = score, -1
            found.append((n, score, program.tobytes(), source))
        return score

    while True:
        if vain == 2:
            asked.append((seed, climb))
            fresh = proposed(seed, climb, budget - n)
            for program in fresh.nodes[: len(fresh.scores)]:
                seen(program, "llm")
            vain = 0
            if n >= budget or best >= goal:
                return n, found, asked
            cycle[:0] = [fresh.nodes[index] for index in np.argsort(-fresh.scores, kind="stable")]
        current = cycle.pop(0)
        cycle.append(current)
        score, tried = seen(current, "start"), 0
        while tried < 4 and n < budget and best < goal:
            keys = jax.random.fold_in(key, n)[None, None]
            candidate = np.asarray(sample.neighbours(LANGUAGE, current[None], keys)[0])[0, 0]
            tried += 1
            if int(count_moves(candidate)) > score:
                current, tried, score = candidate, 0, int(count_moves(candidate))
                seen(candidate, "mutation")
            else:
                n += 1
        if n >= budget or best >= goal:
            return n, found, asked
        climb, vain = climb + 1, vain + 1


@pytest.mark.parametrize(("seeds", "budget", "goal"), [((3,), 150, GOAL), ((3, 4, 5), 211, GOAL), ((1, 2, 6), 300, 90)])
def test_programs_join_a_search_that_stalls(seeds, budget, goal):
    state, events, asked = play_joined(list(seeds), budget, goal, interval=10_000, ahead=64 if len(seeds) > 1 else 256)
    assert len(asked) > len(seeds)
    for index, seed in enumerate(seeds):
        evaluated, found, expected = joined_one_by_one(seed, budget, goal)
        assert [pair for pair in asked if pair[0] == seed] == expected
        assert events[seed] == found
        assert int(state.evaluated[index]) == evaluated <= budget
    assert any(row[3] == "llm" for rows in events.values() for row in rows)


def test_requests_in_vain_change_nothing_and_come_again():
    def nothing(seed, climb, left):
        return proposed(seed, climb, 0)

    _, events, asked = play_joined([3, 4, 5], 150, GOAL, nothing, interval=10_000, ahead=64)
    climbs = [climb for seed, climb in asked if seed == 3]
    assert len(climbs) > 2
    assert min(np.diff(climbs)) == 2
    assert {row[3] for row in events[3]} == {"start", "mutation"}


def test_intervals_are_recorded_across_programs_that_join():
    _, events, asked = play_joined([3], 150, GOAL, interval=1)
    assert asked
    assert [row[0] for row in events[3] if row[2] is None] == list(range(1, 151))


def test_fresh_programs_come_next_and_the_turn_goes_on():
    name = lambda *numbers: np.array(numbers, np.int32)[:, None]  # noqa: E731  programs of one node
    pool = Pool(
        jnp.asarray(np.stack([name(1, 2, 3), name(5, 6, 0)])),
        jnp.array([3, 2], jnp.int32),
        jnp.array([0, 0], jnp.int32),
    )
    keys = search_keys([0, 1])

    def turns(pool, climbs):
        rows = [pooled_starts(pool, keys, jnp.full(2, climb, jnp.int32))[:, 0].tolist() for climb in climbs]
        return [list(row) for row in zip(*rows, strict=True)]

    fresh = best_first(np.stack([name(8, 9), name(0, 0)]), np.array([2, 0]), np.array([[10, 20], [0, 0]]), 99, 100)
    more = joined(pool, np.array([4, 4]), fresh)
    assert turns(pool, range(4, 10)) == [[2, 3, 1, 2, 3, 1], [5, 6, 5, 6, 5, 6]]
    assert turns(more, range(4, 10)) == [[9, 8, 2, 3, 1, 9], [5, 6, 5, 6, 5, 6]]
    wider = best_first(np.array([[[7, 7]], [[4, 4]]]), np.array([1, 1]), np.array([[1], [1]]), 99, 100)
    most = joined(more, np.array([7, 7]), wider)
    assert turns(most, range(7, 14)) == [[7, 3, 1, 9, 8, 2, 7], [4, 6, 5, 4, 6, 5, 4]]
    assert most.programs.shape == (2, 8, 2)
