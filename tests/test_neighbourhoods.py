"""The neighbourhood `small`: its distribution, longer starts, and runs of all methods that mutate programs."""

import collections
import functools
import itertools
import json

import jax
import numpy as np
import pytest
import scipy.stats
from distributions import SIGNIFICANCE, p_value
from small_neighbours import Sampler
from test_commands import refused
from test_sampling import allowed, decoded, nodes_are_well_formed, within_limits

import jaxprl
from jaxprl.cli import run as run_command
from jaxprl.dsl import ast, encode
from jaxprl.dsl.language import PROGRAM_NODES
from jaxprl.dsl.sample import neighbours, random_programs
from jaxprl.dsl.text import from_text, token_count
from jaxprl.errors import UserError
from jaxprl.experiment.config import Config
from jaxprl.experiment.run import run
from jaxprl.search.chain import limited_neighbours, limited_starts, sizes
from jaxprl.search.program_space import mutations, random_starts
from jaxprl.search.protocol import search_keys
from jaxprl.worlds.karel.world import LANGUAGE as KAREL
from jaxprl.worlds.minigrid.world import LANGUAGE as MINIGRID

MANY = 4_000
SMALLEST = "DEF run m( move m)"
DEEP = (
    "DEF run m( move WHILE c( not c( markersPresent c) c) w( IFELSE c( frontIsClear c) i( move REPEAT R=3 r( "
    "pickMarker r) i) ELSE e( turnLeft move e) move move move turnRight w) m)"
)
MINIGRID_PROGRAM = "DEF run m( IF c( front_object_type h( lava h) c) i( left i) REPEAT R=4 r( forward r) forward m)"
NESTED = "DEF run m( WHILE c( frontIsClear c) w( IF c( frontIsClear c) i( WHILE c( leftIsClear c) w( move w) i) w) m)"
PARENTS = [(KAREL, SMALLEST), (KAREL, DEEP), (KAREL, NESTED), (MINIGRID, MINIGRID_PROGRAM)]


def keys(seed, count):
    return jax.random.split(jax.random.key(seed), count)


def small_neighbours(language, text, count=MANY, seed=11, **options):
    """Neighbours of a program, nodes int32 [count, N]."""
    nodes = encode.encode(from_text(text, language), language, 256 if options else None)
    return np.asarray(neighbours(language, nodes[None], keys(seed, count)[None], small=True, **options)[0])[0]


def programs_of(language, nodes):
    return [decoded(language, row.tobytes()) for row in nodes]


def counts_of(values):
    return {str(value): count for value, count in collections.Counter(values).items()}


STATISTICS = {
    "the shape": lambda program: (ast.height(program.body), ast.longest_sequence(program.body)),
    "the number of tokens": token_count,
    "the number of statements": lambda program: len(program.body),
    "the program": lambda program: str(program),
}


@pytest.mark.parametrize(("language", "text"), PARENTS)
def test_small_neighbours_are_distributed_as_the_rules_say(language, text):
    sampler, parent = Sampler(language, seed=3), from_text(text, language)
    expected = [sampler.neighbour(parent) for _ in range(MANY)]
    found = programs_of(language, small_neighbours(language, text))
    for name, statistic in STATISTICS.items():
        chance = p_value(counts_of(map(statistic, expected)), counts_of(map(statistic, found)))
        assert chance > SIGNIFICANCE, name


@pytest.mark.parametrize(("language", "text"), PARENTS)
def test_without_limits_only_growth_is_limited(language, text):
    """As the chain draws them, whose programs have a limited size instead."""
    sampler, parent = Sampler(language, seed=4), from_text(text, language)
    expected = [sampler.neighbour(parent, limited=False) for _ in range(MANY)]
    found = programs_of(language, small_neighbours(language, text, limited=False))
    for name, statistic in STATISTICS.items():
        chance = p_value(counts_of(map(statistic, expected)), counts_of(map(statistic, found)))
        assert chance > SIGNIFICANCE, name
    if text in (DEEP, NESTED):
        assert max(token_count(program) for program in found) > language.max_tokens
        assert max(ast.height(program.body) for program in found) > language.max_height


@pytest.mark.parametrize("most", [9, 32, 41])
def test_a_program_that_rows_cut_is_too_large_for_a_chain(most):
    """Neighbours of programs as large as a chain's may be are whole programs, though rows have no room for larger."""
    start = functools.partial(random_starts, KAREL, limited=False)
    drawn = np.asarray(limited_starts(start, most, search_keys(range(40)), np.zeros(40, np.int32)))
    parents = drawn[np.argsort(-np.asarray(sizes(drawn)))][:8]
    near = functools.partial(mutations, KAREL, small=True, limited=False)
    counts, each = np.full(8, 200, np.int32), keys(3, 1600).reshape(8, 200)
    rows = np.asarray(limited_neighbours(near, most, parents, each, counts)[0])
    assert np.asarray(sizes(rows)).max() == most
    assert nodes_are_well_formed(rows.reshape(-1, rows.shape[-1]), KAREL)


def test_the_statistics_tell_the_neighbourhoods_apart():
    nodes = encode.encode(from_text(SMALLEST, KAREL), KAREL)
    usual = programs_of(KAREL, np.asarray(neighbours(KAREL, nodes[None], keys(11, MANY)[None])[0])[0])
    small = programs_of(KAREL, small_neighbours(KAREL, SMALLEST))
    for statistic in STATISTICS.values():
        assert p_value(counts_of(map(statistic, usual)), counts_of(map(statistic, small))) < 1e-9


def test_a_new_subtree_is_small():
    """In place of the only statement: at most two structures below each other, five statements, four below them."""
    programs = programs_of(KAREL, small_neighbours(KAREL, SMALLEST, 20_000))
    assert {ast.height(program.body) for program in programs} == {1, 2, 3}
    assert {len(program.body) for program in programs} == {1, 2, 3, 4, 5}
    for program in set(programs):
        top = [statement for statement in program.body if not isinstance(statement, ast.Action)]
        below = [body for statement in top for body in vars(statement).values() if isinstance(body, tuple)]
        assert max(map(ast.longest_sequence, below), default=1) <= 4
        assert len(program.body) == 1 or ast.height(program.body) <= 2  # below a Concat, no structure in another


@pytest.mark.parametrize(("language", "text"), PARENTS)
def test_small_neighbours_are_within_the_limits(language, text):
    found = small_neighbours(language, text)
    assert all(allowed(program, language) for program in set(programs_of(language, found)))
    assert nodes_are_well_formed(found[:500], language)
    heights = {ast.height(program.body) for program in programs_of(language, found)}
    assert text != DEEP or max(heights) == language.max_height


@functools.cache
def starts(language):
    """Random programs without the limit of tokens, nodes int32 [MANY, PROGRAM_NODES]."""
    return np.asarray(random_programs(language, keys(5, MANY), PROGRAM_NODES, limited=False))


def sizes_of_bodies(language):
    """The exact distribution of the number of nodes of a random program without the limit of tokens, float64 [1024]."""
    room = 1024

    def joined(*parts):
        total = np.eye(1, room)[0]
        for part in parts:
            total = np.convolve(total, part)[:room]
        return total

    one, two = np.eye(room)[1], np.eye(room)[2]
    condition = (1 - language.not_probability) * one + language.not_probability * two

    @functools.cache
    def statement(height, concat):
        """`concat` is how many Concats may still follow each other."""
        chances = dict(language.statements)
        for kind in ("While", "Repeat", "If", "IfElse"):
            chances[kind] *= height < language.max_height
        chances["Concat"] *= concat > 0
        parts = {kind: chance / sum(chances.values()) for kind, chance in chances.items()}
        found = parts["Action"] * one
        if height < language.max_height:
            body = statement(height + 1, language.max_sequence - 1)
            found = found + (parts["While"] + parts["If"]) * joined(one, condition, body)
            found = found + parts["Repeat"] * joined(one, one, body) + parts["IfElse"] * joined(one, one, body, body)
        if concat:
            found = found + parts["Concat"] * joined(one, statement(height, 0), statement(height, concat - 1))
        return found

    return joined(one, statement(1, language.max_sequence - 1))


@pytest.mark.parametrize("language", [KAREL, MINIGRID], ids=lambda language: language.name)
def test_starts_have_any_number_of_tokens(language):
    nodes = starts(language)
    assert nodes_are_well_formed(nodes[:1_000], language)
    programs = programs_of(language, nodes)
    assert max(ast.height(program.body) for program in programs) == language.max_height
    assert max(ast.longest_sequence(program.body) for program in programs) == language.max_sequence
    exact, found = sizes_of_bodies(language), np.count_nonzero(nodes, axis=1)
    edges = [2, 3, 5, 8, 12, 17, 23, 30, 41, 64, 90, 128, 1024]
    expected = np.array([exact[low:high].sum() for low, high in itertools.pairwise(edges)]) * MANY
    seen, _ = np.histogram(found, bins=[*edges[:-1], 1025])
    assert scipy.stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > SIGNIFICANCE
    assert found.max() > 200
    assert exact[PROGRAM_NODES + 1 :].sum() < 1e-7  # of these it is said that they are drawn again


def test_a_start_that_is_short_is_the_usual_one():
    usual = np.asarray(random_programs(KAREL, keys(5, MANY)))
    free = starts(KAREL)
    short = np.array([token_count(program) <= KAREL.max_tokens for program in programs_of(KAREL, free)])
    assert 0.55 < short.mean() < 0.85
    assert (free[short, : encode.WIDTH] == usual[short]).all()
    assert not (free[~short, : encode.WIDTH] == usual[~short]).all(axis=1).any()


def test_what_has_no_room_is_drawn_again_and_never_cut():
    narrow = np.asarray(random_programs(KAREL, keys(5, MANY), 32, limited=False))
    free = starts(KAREL)
    fits = np.count_nonzero(free, axis=1) <= 32
    assert (narrow[fits] == free[fits, :32]).all()
    assert 500 < (~fits).sum() < 3_000
    assert nodes_are_well_formed(narrow[~fits], KAREL)
    assert np.count_nonzero(narrow, axis=1).max() == 32


def test_neighbours_of_long_starts():
    free = starts(KAREL)
    largest = free[np.argsort(np.count_nonzero(free, axis=1))[-4:]]
    found = np.asarray(neighbours(KAREL, largest, keys(6, 200).reshape(4, 50), small=True)[0])
    programs = programs_of(KAREL, found.reshape(-1, PROGRAM_NODES))
    assert all(within_limits(program, KAREL) for program in programs)
    assert len(set(programs)) > 50


METHODS = [
    ("hc", {"k": 30}, "none", 400),
    ("annealing", {"restarts": 3}, "none", 400),
    ("chain", {"max_nodes": 9}, "none", 400),
    ("llm-gs", {}, "none", 400),
    ("llm-gs", {}, "recorded", 3_000),
]


@pytest.mark.parametrize(("method", "options", "llm", "budget"), METHODS)
def test_runs_take_their_neighbours_from_the_neighbourhood(method, options, llm, budget, tmp_path):
    def config(**more):
        options_too = options | more
        return Config("DoorKey", method, seeds=range(4), budget=budget, layouts=range(4), llm=llm, options=options_too)

    def programs(name):
        return [json.loads(line) for line in (tmp_path / name / "programs.jsonl").read_text().splitlines()]

    run(config(), tmp_path / "usual")
    run(config(neighbourhood="small"), tmp_path / "small")
    rows = programs("small")
    assert rows != programs("usual")
    tokens = [len(row["program"].split()) for row in rows]
    if method == "chain":
        nodes = encode.encode_all([from_text(row["program"], KAREL) for row in rows], KAREL)
        assert np.asarray(sizes(nodes)).max() <= 9
    elif llm == "none":
        starts_at = 32 if method == "llm-gs" else 1
        long = [row for row, many in zip(rows, tokens, strict=True) if many > 45]
        assert long
        assert min(row["evaluated"] for row in long) <= starts_at
    # What exceeds the limits runs, and is not cut.
    row = rows[int(np.argmax(tokens))]
    program = from_text(row["program"], KAREL)
    again = jaxprl.evaluate(jaxprl.make("DoorKey"), [program], layout_seeds=range(4)).mean_returns[0]
    assert row["return"] == pytest.approx(again)
    with pytest.raises(UserError, match="neighbourhood was 'small', is 'grammar'"):
        run(config(), tmp_path / "small", resume=True)


@pytest.mark.parametrize("method", ["hc", "llm-gs", "annealing", "chain"])
def test_an_unknown_neighbourhood_is_named(method, tmp_path, capsys):
    words = ["--task", "DoorKey", "--method", method, "--neighbourhood", "large", "--out", str(tmp_path / "run")]
    told = refused(run_command.main, words, capsys)
    assert "unknown neighbourhood 'large'; known: grammar, small" in told
    assert not (tmp_path / "run").exists()


def test_other_methods_have_no_neighbourhood(tmp_path, capsys):
    words = ["--task", "DoorKey", "--method", "cem", "--neighbourhood", "small", "--out", str(tmp_path / "run")]
    assert "method cem has no option --neighbourhood" in refused(run_command.main, words, capsys)


def test_a_start_depends_on_its_key_alone():
    several = search_keys(range(8))
    climbs = np.arange(8, dtype=np.int32)
    together = np.asarray(random_starts(KAREL, several, climbs, limited=False))
    assert together.shape == (8, PROGRAM_NODES)
    alone = np.asarray(random_starts(KAREL, several[5:6], climbs[5:6], limited=False))
    assert (alone[0] == together[5]).all()
