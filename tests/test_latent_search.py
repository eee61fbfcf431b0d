"""Searches in a learned program space, on one that is made up: against the same searches in plain Python, one candidate
after the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import questions

from jaxprl.dsl import sample
from jaxprl.errors import UserError
from jaxprl.experiment.config import Config
from jaxprl.experiment.job import resolve
from jaxprl.methods import latent as methods
from jaxprl.methods.latent import encoded, parameters
from jaxprl.runs import checkpoint
from jaxprl.search.cem import Parameters, State, around_each, around_mean, cross_entropy
from jaxprl.search.driver import drive
from jaxprl.search.latent import neighbours, perturbed, random_starts
from jaxprl.search.pool import Pool, pooled_starts
from jaxprl.search.protocol import UNKNOWN, Asked, Candidates, Improvements, Point, search_keys
from jaxprl.vm.evaluate import evaluate, first_better, scores
from jaxprl.vm.outcomes import Scale
from jaxprl.worlds.karel.world import LANGUAGE
from jaxprl.worlds.make import make

SIZE, LEVELS = 4, 8
GOAL = 10_000
SETTINGS = {
    "cem": Parameters(10, 3, 0.5),
    "cebs": Parameters(12, 4, 0.5),
    "patient-cebs": Parameters(12, 4, 0.5, patience=3),
    "latent-hc": Parameters(20, 0, 0.5),
}


SEARCHES = {
    "cem": methods.cem,
    "cebs": methods.cebs,
    "patient-cebs": methods.cebs,
    "latent-hc": methods.latent_hc,
}


def latent_search(method, chosen, space, *, start=None, **limits):
    return SEARCHES[method](space, chosen, start=start or methods.random_latents(space), **limits)


class Toy:
    """Three dimensions say which of 512 programs, by eight levels each; where the fourth one is high there is none."""

    size = SIZE

    def __init__(self, programs=None, limit=1.0):
        numbers = np.pad(np.arange(1, 1 + LEVELS**3, dtype=np.int32)[:, None], ((0, 0), (0, 1)))
        self.programs = numbers if programs is None else programs
        self.limit = limit

    def decode(self, latents):
        latents = np.asarray(latents)
        levels = np.clip(np.floor(latents[..., :3] * 2 + 4), 0, LEVELS - 1).astype(np.int32)
        number = levels[..., 0] * LEVELS**2 + levels[..., 1] * LEVELS + levels[..., 2]
        return jnp.asarray(self.programs[number]), jnp.asarray(latents[..., 3] < self.limit)

    def outside(self, program):
        return "not in the space" if program[0] > LEVELS**3 else None

    def encode(self, programs):
        number = np.asarray(programs)[..., 0] - 1
        levels = np.stack([number // LEVELS**2, number // LEVELS % LEVELS, number % LEVELS, 0 * number], axis=-1)
        return jnp.asarray((levels - 3.5) / 2 * [1, 1, 1, 0] + [0, 0, 0, 2.0] * (number == 99)[..., None], jnp.float32)

    def one(self, latent):
        """Return the program that one latent decodes to, or None."""
        number = 0
        for value in latent[:3].tolist():
            number = number * LEVELS + min(max(int(np.floor(value * 2 + 4)), 0), LEVELS - 1)
        return self.programs[number] if latent[3] < self.limit else None


def score(programs):
    """Score of the programs of `Toy`: a bumpy hill with many equal scores."""
    number = np.asarray(programs)[..., 0].astype(np.int64) - 1
    digits = number // LEVELS**2, number // LEVELS % LEVELS, number % LEVELS
    return (60 * digits[0] + 10 * digits[1] + number % 3 * 40).astype(np.int32)


def answer(question):
    if isinstance(question, Candidates):
        return np.where(question.wanted, score(question.programs), -7).astype(np.int32)
    wanted = np.arange(question.programs.shape[1]) < question.counts[:, None]
    beats = wanted & (score(question.programs) > score(question.parents)[:, None])
    first = np.where(beats.any(axis=1), beats.argmax(axis=1), -1).astype(np.int32)
    return Improvements(score(question.parents), first, score(question.programs)[np.arange(len(first)), first])


def begin(search, seeds, *pool):
    zero = jnp.zeros(len(seeds), jnp.int32)
    return search.init(search_keys(seeds), zero, zero + UNKNOWN, *pool)


def play(search, seeds, **options):
    """Drive searches to their end; returns their last state and their events by seed."""
    events = {seed: [] for seed in seeds}

    def record(event):
        number = None if event.program is None else int(event.program[0])
        events[seeds[event.search]].append((event.evaluated, event.score, number, event.source))

    return drive(search, begin(search, seeds), answer, record=record, **options), events


@jax.jit
def draws(key):
    """Return the fifty draws of every candidate that a budget here has room for, float32 [1000, 50, SIZE]."""
    fold = jax.random.fold_in
    draw = lambda n, tries: jax.random.normal(fold(fold(key, n), tries), (SIZE,), jnp.float32)  # noqa: E731
    return jax.vmap(lambda n: jax.vmap(lambda tries: draw(n, tries))(jnp.arange(50)))(jnp.arange(1000))


@jax.jit
def start_draws(key, run):
    """Return the first thousand draws for the start of a run, float32 [1000, SIZE]."""
    key = jax.random.fold_in(jax.random.fold_in(key, 2**31 + 1), run)
    draw = lambda tries: jax.random.normal(jax.random.fold_in(key, tries), (SIZE,), jnp.float32)  # noqa: E731
    return jax.vmap(draw)(jnp.arange(1000))


class OneByOne:
    """A latent search as its definition says it, one candidate after the other."""

    def __init__(self, space, method, seed, *, settings, budget, goal):
        self.space, self.method, self.settings = space, method, settings
        self.key, self.budget, self.goal = search_keys([seed])[0], budget, goal
        self.noise = np.asarray(draws(self.key))
        self.n, self.best, self.found, self.programs, self.runs = 0, UNKNOWN, [], [], 0
        while not self.over:
            point = self.start(self.runs)
            self.runs += 1
            value = self.seen(point[1], "random")
            climb = self.climb if method == "latent-hc" else self.generations
            climb(point, value)

    @property
    def over(self):
        return self.n >= self.budget or self.best >= self.goal

    def seen(self, program, source="mutation"):
        """Evaluate a program."""
        self.n += 1
        value = int(score(program))
        self.programs.append(int(program[0]))
        if value > self.best:
            self.best = value
            self.found.append((self.n, value, int(program[0]), source))
        return value

    def start(self, run):
        for latent in np.asarray(start_draws(self.key, run)):
            if self.space.one(latent) is not None:
                return latent, self.space.one(latent)
        raise AssertionError

    def near(self, centre, instead):
        """Draw the next candidate."""
        for noise in self.noise[self.n]:
            latent = centre + np.float32(self.settings.sigma) * noise
            if self.space.one(latent) is not None:
                return latent, self.space.one(latent)
        return (centre, self.space.one(centre)) if self.space.one(centre) is not None else instead

    def climb(self, point, value):
        tried = 0
        while tried < self.settings.k and not self.over:
            candidate = self.near(point[0], point)
            tried += 1
            new = self.seen(candidate[1])
            if new > value:
                point, value, tried = candidate, new, 0

    def generations(self, point, value):
        k, e = self.settings.k, self.settings.e
        elite, highest, stalled = [point] * e, None, 0
        while not self.over:
            children = []
            for index in range(k):
                if self.method.endswith("cebs"):
                    candidate = self.near(elite[index // (k // e)][0], elite[index // (k // e)])
                else:
                    candidate = self.near(np.mean([latent for latent, _ in elite], axis=0), elite[0])
                children.append((self.seen(candidate[1]), candidate))
                if self.over:
                    return
            children.sort(key=lambda pair: -pair[0])  # stable
            elite = [candidate for _, candidate in children[:e]]
            total = sum(value for value, _ in children[:e])
            stalled = stalled + 1 if highest is not None and total <= highest else 0
            if stalled == self.settings.patience:
                return
            highest = total if stalled == 0 else highest


def searching(method, space, budget, goal=GOAL):
    return latent_search(method, SETTINGS[method], space, budget=budget, goal=goal)


@functools.cache
def expected(method, seed, budget, goal, limit):
    return OneByOne(Toy(limit=limit), method, seed, settings=SETTINGS[method], budget=budget, goal=goal)


@pytest.mark.parametrize(
    "method", ["cebs", "patient-cebs", *(pytest.param(name, marks=pytest.mark.full) for name in ("cem", "latent-hc"))]
)
def test_a_search_is_what_its_definition_says_alone_and_among_others(method):
    search, seeds = searching(method, Toy(limit=0.5), 300), [3, 4, 5]
    state, events = play(search, seeds, interval=10_000)
    truth = [expected(method, seed, 300, GOAL, 0.5) for seed in seeds]
    assert [events[seed] for seed in seeds] == [each.found for each in truth]
    assert state.evaluated.tolist() == [each.n for each in truth] == [300] * 3
    assert play(search, seeds[:1], interval=10_000)[1] == {3: events[3]}


@pytest.mark.parametrize("method", ["cebs", "latent-hc", pytest.param("cem", marks=pytest.mark.full)])
def test_a_search_stops_at_its_goal(method):
    """In a space where most latents decode to nothing."""
    state, events = play(searching(method, Toy(limit=-1.5), 1000, goal=420), [0, 1, 2], interval=10_000)
    truth = [expected(method, seed, 1000, 420, -1.5) for seed in range(3)]
    assert [events[seed] for seed in range(3)] == [each.found for each in truth]
    assert state.evaluated.tolist() == [each.n for each in truth]
    assert max(each.best for each in truth) >= 420


@pytest.mark.parametrize("method", SETTINGS)
def test_every_program_is_asked_for_in_its_turn(method):
    """Also those that are no new best."""
    budget = 150 * SETTINGS[method].patience
    search, seeds = searching(method, Toy(limit=0.5), budget), [7, 8, 9]
    state, sequences = begin(search, seeds), [[] for _ in seeds]
    while not np.asarray(state.done).all():
        asked = search.ask(state, 256)
        question = jax.tree.map(np.asarray, asked.question)
        for index in np.flatnonzero(~np.asarray(state.done)).tolist():
            sequence = sequences[index]
            if isinstance(question, Candidates):
                sequence += question.programs[index, question.wanted[index], 0].tolist()
            else:
                fresh = int(state.score[index]) == UNKNOWN
                found = answer(question)
                count = found.first[index] + 1 if found.first[index] >= 0 else question.counts[index]
                sequence += [int(question.parents[index, 0])] * fresh + question.programs[index, :count, 0].tolist()
        state, _ = search.tell(state, asked, answer(question))
    truths = [expected(method, seed, budget, GOAL, 0.5) for seed in seeds]
    assert sequences == [truth.programs for truth in truths]
    assert max(truth.runs for truth in truths) > 2


@pytest.mark.parametrize("budget", [1, 2])
def test_the_smallest_budgets_are_met_exactly(budget):
    state, _ = play(searching("cem", Toy(), budget), [0, 1, 2])
    assert state.evaluated.tolist() == [budget] * 3


def told(values, total, *, state=None, e=2, k=4, **leaves):
    """Tell a search of CEM the scores of its candidates; returns what `tell` returns."""
    search = cross_entropy(
        Toy().decode,
        around_mean,
        Parameters(k, e, 0.5),
        start=functools.partial(random_starts, Toy().decode, SIZE),
        budget=100,
        goal=2**31 - 1,
    )
    state = begin(search, [0])
    state = state._replace(
        fresh=jnp.array([False]), total=jnp.array([total], jnp.int32), evaluated=jnp.array([20], jnp.int32), **leaves
    )
    asked = search.ask(state, 1)
    named = Point(
        asked.points.programs,
        jnp.zeros_like(asked.points.latents) + jnp.arange(k + 1.0, dtype=jnp.float32)[None, :, None],
    )
    return state, *search.tell(state, Asked(asked.question, named), np.array([[0, *values]], np.int32))


def test_of_equal_candidates_the_first_are_the_elite():
    _, state, _ = told([5, 9, 9, 9], (0, 0))
    assert state.elite.latents[0, :, 0].tolist() == [2.0, 3.0]
    _, state, _ = told([5, 5, 9, 5], (0, 0))
    assert state.elite.latents[0, :, 0].tolist() == [3.0, 1.0]


@pytest.mark.parametrize(("total", "goes_on"), [((0, 15), True), ((0, 16), False), ((0, 17), False), ((-1, 16), True)])
def test_a_run_ends_when_the_elite_is_not_better(total, goes_on):
    before, after, bests = told([9, 7, 7, 1], total)
    assert after.run[0] == before.run[0] + int(not goes_on)
    assert bool(after.fresh[0]) is not goes_on
    assert after.total[0].tolist() == ([0, 16] if goes_on else [UNKNOWN, 0])
    assert after.evaluated[0] == 24
    assert bests.found.tolist() == [[False, True, False, False, False]]


def test_means_are_compared_exactly():
    large = 2**31 - 9
    high, low = divmod(3 * large, 2**16)
    for last, goes_on in ((large, False), (large + 1, True)):
        _, after, _ = told([large, 0, large, last], (high, low), e=3)
        assert bool(after.run[0] == 1) is goes_on


def test_the_count_ends_with_the_first_program_that_solves_the_task():
    _, after, bests = told([3, 2**31 - 1, 2**31 - 1, 7], (0, 0))
    assert (int(after.evaluated[0]), bool(after.done[0])) == (22, True)
    assert bests.found.tolist() == [[False, True, True, False, False]]
    assert bests.evaluated[0, 1:3].tolist() == [21, 22]


def some_points(*shape, seed=0):
    latents = jnp.minimum(jax.random.normal(jax.random.key(seed), (*shape, SIZE), jnp.float32), 0.9)
    return Point(Toy().decode(latents)[0], latents)


def test_candidates_lie_around_the_mean_or_around_each_of_the_elite():
    elite = some_points(2, 3)
    centres, instead = around_mean(elite, 6)
    np.testing.assert_allclose(centres, np.repeat(np.mean(elite.latents, axis=1)[:, None], 6, axis=1), rtol=1e-5)
    assert (instead.latents == elite.latents[:, :1]).all()
    centres, instead = around_each(elite, 6)
    assert (centres == jnp.repeat(elite.latents, 2, axis=1)).all()
    assert (instead.programs == jnp.repeat(elite.programs, 2, axis=1)).all()
    same = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, :1], 3, axis=1), elite)
    assert (around_mean(same, 6)[0] == elite.latents[:, :1]).all()


@pytest.mark.parametrize("limit", [1.0, -0.5, -2.5])
def test_neighbours_decode_whatever_lies_around(limit):
    space, points = Toy(limit=limit), some_points(3)
    points = points._replace(latents=points.latents.at[:, 3].set(limit - 0.01))
    keys = jax.vmap(lambda key: jax.random.split(key, 40))(search_keys([0, 1, 2]))
    near, changed = neighbours(space.decode, 0.5, points, keys, jnp.array([40, 40, 40]))
    programs, valid = space.decode(near.latents)
    assert valid.all()
    assert (near.programs == programs).all()
    assert changed.shape == (3, 40, 2)
    alone, _ = neighbours(
        space.decode, 0.5, jax.tree.map(lambda leaf: leaf[1:2], points), keys[1:2, 7:8], jnp.array([1])
    )
    assert (alone.latents[0, 0] == near.latents[1, 7]).all()


def test_only_what_is_looked_at_is_decoded():
    points, seen = some_points(3), []
    keys = jax.vmap(lambda key: jax.random.split(key, 40))(search_keys([0, 1, 2]))

    def decode(latents):
        seen.append(len(latents))
        return Toy().decode(latents)

    near, _ = neighbours(decode, 0.5, points, keys, jnp.array([5, -1, 2]))
    assert seen[0] == 7
    whole, _ = neighbours(Toy().decode, 0.5, points, keys, jnp.array([40, 40, 40]))
    for search, count in ((0, 5), (2, 2)):
        assert (near.latents[search, :count] == whole.latents[search, :count]).all()


def test_a_centre_that_nothing_decodes_around():
    """The centre is taken if it decodes, and what is named instead of it if not."""
    nothing_near = Toy(limit=1.0)
    keys = jax.vmap(lambda key: jax.random.split(key, 5))(search_keys([0, 1]))
    centres = jnp.zeros((2, 5, SIZE)).at[1].set(50.0)
    instead = some_points(2, 5)

    def only_zero(latents):
        return nothing_near.decode(latents)[0], (latents == 0).all(axis=-1)

    found = perturbed(only_zero, 0.5, centres, instead, keys=keys, wanted=np.ones(keys.shape, bool))
    assert (found.latents[0] == 0).all()
    assert (found.latents[1] == instead.latents[1]).all()
    assert (found.programs[1] == instead.programs[1]).all()


def test_a_neighbour_has_fifty_draws():
    """The draws are told apart by their numbers, which a space here reads off the latent."""
    key = search_keys([0])[0]
    rows = np.stack(
        [np.asarray(jax.random.normal(jax.random.fold_in(key, t), (SIZE,), jnp.float32)) for t in range(51)]
    )

    def number(last):
        def decode(latents):
            same = jnp.abs(latents - rows[None, last]).max(axis=-1) < 1e-4
            return np.zeros((len(latents), 2), np.int32), same

        return decode

    centres, instead = (
        jnp.zeros((1, 1, SIZE), jnp.float32),
        Point(jnp.ones((1, 1, 2), jnp.int32), jnp.full((1, 1, SIZE), 7.0, jnp.float32)),
    )
    for last, taken in ((0, True), (1, True), (49, True), (50, False)):
        found = perturbed(number(last), 1.0, centres, instead, keys=key[None, None], wanted=np.array([[True]]))
        assert bool((found.latents != 7.0).all()) is taken


def test_runs_start_from_given_points_in_turn():
    points, counts = some_points(2, 3), jnp.array([3, 2], jnp.int32)
    pool = Pool(points, counts, jnp.zeros_like(counts))
    search = latent_search(
        "cem",
        SETTINGS["cem"],
        Toy(),
        budget=400,
        goal=GOAL,
        start=pooled_starts,
    )
    state, seen = begin(search, [0, 1], pool), [[], []]
    while not np.asarray(state.done).all():
        for index in np.flatnonzero(np.asarray(state.fresh & ~state.done)).tolist():
            seen[index].append(state.elite.latents[index, 0].tolist())
        asked = search.ask(state, 1)
        state, _ = search.tell(state, asked, answer(jax.tree.map(np.asarray, asked.question)))
    for index, count in enumerate(counts.tolist()):
        assert len(seen[index]) > 4
        assert seen[index] == [points.latents[index, run % count].tolist() for run in range(len(seen[index]))]


def test_programs_are_encoded_as_starts_and_the_others_named():
    programs = [np.array([number, 0], np.int32) for number in (17, 900, 100, 512)]
    points, kept, rejected = encoded(Toy(), programs)
    assert kept == [0, 3]
    assert points.programs[:, 0].tolist() == [17, 512]
    assert rejected == {1: "not in the space", 2: "its latent decodes to nothing"}
    assert (Toy().decode(points.latents)[0] == points.programs).all()
    nobody, kept, rejected = encoded(Toy(), programs[1:3])
    assert (nobody.latents.shape, kept, len(rejected)) == ((0, SIZE), [], 2)


@pytest.mark.parametrize("method", ["cem", "latent-hc"])
def test_a_search_goes_on_from_its_saved_state(method):
    search = searching(method, Toy(), 250)
    _, whole = play(search, [3, 4, 5], interval=50)
    saved, rows = [], []

    def record(event):
        rows.append(event)

    def save(state):
        saved.append((checkpoint.flat(state, "state"), len(rows)))

    drive(search, begin(search, [3, 4, 5]), answer, record=record, progress=save, interval=50)
    arrays, count = saved[len(saved) // 2]
    del rows[count:]
    state = checkpoint.rebuilt(search.template, "state", arrays)
    drive(search, state, answer, record=record, interval=50)
    for index, seed in enumerate([3, 4, 5]):
        mine = [(row.evaluated, row.score) for row in rows if row.search == index]
        assert mine == [(evaluated, value) for evaluated, value, *_ in whole[seed]]


@functools.cache
def real():
    """A space of real programs, DoorKey and some layouts."""
    task = make("DoorKey")
    keys = jax.random.split(jax.random.key(0), LEVELS**3)
    return Toy(np.asarray(sample.random_programs(LANGUAGE, keys))), task, task.layouts(range(4))


def test_wanted_programs_have_their_scores_equal_ones_too():
    space, task, layouts = real()
    programs = space.programs[np.array([[1, 2, 1, 3], [2, 2, 5, 6]])]
    wanted = np.array([[True, True, True, False], [True, True, True, True]])
    truth = Scale.of(layouts).scores(evaluate(task, programs.reshape(8, -1), layouts).units).reshape(2, 4)
    assert (scores(task, programs, wanted, layouts) == np.where(wanted, truth, 0)).all()


def test_latent_neighbours_are_answered_as_if_everything_were_evaluated():
    space, task, layouts = real()
    search = searching("latent-hc", space, 400, Scale.of(layouts).denominator)
    state, better = begin(search, [0, 1]), 0
    for _ in range(6):
        asked = search.ask(state, 256)
        question = jax.tree.map(np.asarray, asked.question)
        found = first_better(task, question, layouts)
        questions.check(found, questions.answered(task, layouts, question), question)
        better += int((found.first >= 0).sum())
        state, _ = search.tell(state, asked, Improvements(*found))
    assert better
    assert (space.decode(state.current.latents)[0] == state.current.programs).all()


def test_published_parameters():
    def of(method, task, **options):
        return parameters(resolve(Config(task, method, options=options)))

    assert of("leaps", "FourCornersSparse") == of("leaps", "FourCorners") == Parameters(64, 13, 0.5)
    assert of("leaps", "PathFollow") == of("leaps", "DoorKey") == Parameters(32, 3, 0.25)
    for variant in ("MazeSparse@12x12", "Maze@9x9:crashable", "MazeSparse:crashable"):
        assert of("leaps", variant) == of("leaps", "Maze") == Parameters(16, 2, 0.1)
    assert of("leaps", "TopOff:crashable") == of("leaps", "TopOff") == Parameters(64, 3, 0.25)
    assert of("cebs", "Maze") == Parameters(64, 16, 0.25)
    assert of("cem", "Maze", k=16, sigma=0.1) == Parameters(16, 3, 0.1)
    assert of("cebs", "Maze", patience=5).patience == 5
    assert of("latent-hc", "Maze").k == 250


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: resolve(Config("Maze", "cebs", options={"k": 10, "elite": 4})), "k is a multiple of it"),
        (lambda: resolve(Config("Maze", "cem", options={"k": 3, "elite": 4})), "elite goes from 1 to k"),
        (lambda: resolve(Config("Maze", "cem", options={"k": 4, "sigma": 0.0})), "sigma 0: it goes from 1e-06 to"),
        (lambda: resolve(Config("Maze", "latent-hc", options={"k": 0})), "k 0: it goes from 1"),
        (lambda: resolve(Config("Maze", "cebs", options={"patience": 0})), "--patience 0: it goes from 1"),
        (lambda: searching("cem", Toy(limit=-99.0), 9), "none of 64 random latents decodes"),
    ],
)
def test_what_cannot_be_done_is_said(attempt, message):
    with pytest.raises(UserError, match=message):
        attempt()


def test_the_state_is_arrays_of_searches():
    state = begin(searching("cebs", Toy(), 9), [0, 1])
    assert isinstance(state, State)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(state))
