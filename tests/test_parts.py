"""Neighbours made of parts of other programs: their distribution, which parts are distinct, and searches with them."""

import collections
import itertools

import jax
import numpy as np
import pytest
import questions
import scipy.stats
from compiled import HAS_CPP_COMPILER
from distributions import SIGNIFICANCE
from exchanged_parts import chances_of_parts, neighbour, spelled, subtrees, tree_of, within_limits
from llm_server import completion, serving
from records import timeless

from jaxprl.codegen.launch import Emulated
from jaxprl.dsl import encode, parts
from jaxprl.dsl.grow import Growth
from jaxprl.dsl.sample import _neighbours, neighbours
from jaxprl.dsl.text import from_text
from jaxprl.errors import Stopped, UserError
from jaxprl.experiment import ledger
from jaxprl.experiment.config import Config
from jaxprl.experiment.job import identity, resolve
from jaxprl.experiment.language_model import LLMAccess
from jaxprl.experiment.run import run
from jaxprl.llm.settings import Settings
from jaxprl.methods.parts import STATES, distinct, of_searches, random_environments, runner
from jaxprl.runs.checkpoint import Every
from jaxprl.runs.record import read_lines
from jaxprl.worlds.karel.world import LANGUAGE as KAREL
from jaxprl.worlds.make import make
from jaxprl.worlds.minigrid.world import LANGUAGE as MINIGRID

GIVEN = [
    "DEF run m( IFELSE c( not c( frontIsClear c) c) i( turnLeft move i) ELSE e( REPEAT R=7 r( putMarker r) e) "
    "WHILE c( and c( leftIsClear c) c( True c) c) w( move w) m)",
    "DEF run m( pickMarker REPEAT R=2 r( IF c( markersPresent c) i( IF c( rightIsClear c) i( IF c( frontIsClear c) i( "
    "turnRight i) i) i) r) m)",
]
"""Two programs of a language model; the second one has parts that are too tall for most places."""
PARENTS = {
    "one action": "DEF run m( move m)",
    "every kind": "DEF run m( turnLeft REPEAT R=3 r( move turnRight r) IFELSE c( frontIsClear c) i( move i) ELSE e( "
    "IF c( not c( markersPresent c) c) i( putMarker i) e) m)",
    "at the limits": "DEF run m( move move move move move WHILE c( frontIsClear c) w( IF c( leftIsClear c) i( "
    "REPEAT R=4 r( turnLeft move turnLeft move r) i) w) m)",
    "beyond the limits": "DEF run m( move move move move move move move IF c( or c( frontIsClear c) c( leftIsClear c) "
    "c) i( WHILE c( frontIsClear c) w( IF c( leftIsClear c) i( REPEAT R=4 r( IF c( rightIsClear c) i( move i) r) i) "
    "w) i) m)",
}


def encoded(texts, language=KAREL):
    return encode.encode_all([from_text(text, language) for text in texts], language)


def own_parts(texts, language=KAREL):
    """The parts of programs that differ in text."""
    return list(dict.fromkeys(part for nodes in encoded(texts, language) for part in parts.parts_of(nodes)))


def drawn(texts, given, count, share, *, seed=1, language=KAREL):
    """Neighbours of each program as nodes int32 [P, count, N], and what was changed."""
    table = parts.stacked([own_parts(given, language)] * len(texts), language)
    keys = jax.random.split(jax.random.key(seed), (len(texts), count))
    return tuple(map(np.asarray, neighbours(language, encoded(texts, language), keys, parts=table, share=share)))


def texts_of(rows, language=KAREL):
    known = {row.tobytes(): str(encode.decode(row, language)) for row in rows}
    return [known[row.tobytes()] for row in rows]


def given_trees():
    trees = [tree_of(from_text(text, KAREL)) for text in GIVEN]
    return list(dict.fromkeys(node for tree in trees for _, node in subtrees(tree)))


@pytest.mark.parametrize("name", PARENTS)
def test_parts_are_exchanged_with_the_chances_that_they_should_have(name):
    """Nodes uniformly, then the parts of a kind uniformly, without those that make the program too large."""
    count = 20_000
    expected = chances_of_parts(tree_of(from_text(PARENTS[name], KAREL)), given_trees())
    found = collections.Counter(texts_of(drawn([PARENTS[name]], GIVEN, count, 1.0)[0][0]))
    assert set(found) <= set(expected)
    common = [text for text in expected if expected[text] * count >= 10]
    cells = [(found[text], expected[text] * count) for text in common]
    rest = [sum(values) for values in zip(*cells, strict=True)]
    if count - rest[1] >= 10:
        cells.append((count - rest[0], count - rest[1]))
    observed, wanted = np.array(cells).T
    assert len(common) > 5
    assert scipy.stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("name", ["one action", "every kind"])
def test_neighbours_are_distributed_as_in_plain_python(name):
    """With a share of .8: the share, what is regrown, and what is rejected."""
    tree, given = tree_of(from_text(PARENTS[name], KAREL)), given_trees()
    rng = np.random.default_rng(0)
    twin = collections.Counter(neighbour(rng, tree, given, 0.8) for _ in range(4_000))
    found = collections.Counter(texts_of(drawn([PARENTS[name]], GIVEN, 20_000, 0.8)[0][0]))
    common = [text for text in twin if twin[text] >= 15]
    table = np.array([[counts[text] for text in common] for counts in (twin, found)])
    table = np.column_stack(
        [table, [counts.total() - row.sum() for counts, row in zip((twin, found), table, strict=True)]]
    )
    assert len(common) > 10
    assert scipy.stats.chi2_contingency(table).pvalue > SIGNIFICANCE
    sizes = [collections.Counter(min(len(text.split()), 30) for text in counts.elements()) for counts in (twin, found)]
    table = np.array([[counts[size] for size in range(5, 31)] for counts in sizes])
    table = table[:, table.sum(axis=0) >= 60]
    assert scipy.stats.chi2_contingency(table).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("share", [0.8, 0.25, 1.0])
def test_the_share_is_that_of_parts(share):
    """Counts tell: the part is 25, and what grows is below 20."""
    given = ["DEF run m( REPEAT R=25 r( turnLeft turnLeft r) m)"]
    rows = drawn(["DEF run m( REPEAT R=24 r( move r) m)"], given, 20_000, share)[0][0]
    found = collections.Counter(texts_of(rows))
    exchanged = found["DEF run m( REPEAT R=25 r( move r) m)"]
    grown = sum(found[f"DEF run m( REPEAT R={count} r( move r) m)"] for count in range(20))
    deviation = np.sqrt(share * (1 - share) * (exchanged + grown))
    assert exchanged + grown > 5_000
    assert abs(exchanged - share * (exchanged + grown)) <= 4 * deviation + 0.005 * exchanged * (share < 1)


def test_without_a_share_and_without_a_part_of_the_kind_the_grammar_decides():
    texts = list(PARENTS.values())
    keys = jax.random.split(jax.random.key(1), (len(texts), 300))
    grammar = [np.asarray(column) for column in neighbours(KAREL, encoded(texts), keys)]
    for given, share in ((GIVEN, 0.0), ([], 1.0)):
        for column, other in zip(grammar, drawn(texts, given, 300, share), strict=True):
            assert column.tolist() == other.tolist()
    rows = drawn(["DEF run m( REPEAT R=3 r( move r) m)"], ["DEF run m( turnLeft m)"], 500, 1.0)[0][0]
    counts = {text for text in texts_of(rows) if text.startswith("DEF run m( REPEAT")}
    assert len(counts) > 15  # there is no count among the parts
    assert {text.split()[6] for text in counts} <= {"move", "turnLeft"}


LONG = {
    "Karel": " ".join(["DEF run m(", *["IF c( frontIsClear c) i( move i)"] * 36, "m)"]),
    "MiniGrid": " ".join(["DEF run m(", *["WHILE c( front_object_color h( red h) c) w( left w)"] * 25, "m)"]),
}


@pytest.mark.parametrize(
    "language", [pytest.param(KAREL, marks=pytest.mark.full), MINIGRID], ids=lambda each: each.name
)
def test_neighbours_obey_the_limits_and_say_what_was_changed(language):
    """Whatever the parts: too long in tokens, in statements or in nodes, or too tall."""
    long = next(text for text in LONG.values() if is_of(text, language))
    some = questions.sampled(language, encoded([long], language), 6).programs[0]
    action = language.action_names[0]
    tall = "REPEAT R=2 r( " * 5 + action + " r)" * 5
    given = [*map(str, (encode.decode(row, language) for row in some)), long, f"DEF run m( {tall} m)"]
    parents = [long, f"DEF run m( {action} m)", *texts_of(some[:4], language)]
    found, changed = drawn(parents, given, 200, 0.8, language=language)
    for parent, rows, changes in zip(encoded(parents, language), found, changed, strict=True):
        ends, used = questions.tree(parent)[0], np.count_nonzero(parent)
        for row, (first, size) in zip(rows, changes.tolist(), strict=True):
            program = encode.decode(row, language)
            assert within_limits(str(program), language)
            assert (encode.encode(program, language, len(row)) == row).all()
            is_count = parent[first] & 15 == encode.REPEAT and size == 2
            assert is_count or ends[first] == first + size
            assert (row[:first] == parent[:first]).all()
            behind = parent[first + size : used]
            assert row[np.count_nonzero(row) - len(behind) :][: len(behind)].tolist() == behind.tolist()
    assert len(np.unique(found[1], axis=0)) > 10


def is_of(text, language):
    try:
        return bool(from_text(text, language))
    except ValueError:
        return False


WAYS = "one by one", "in lockstep", *([Emulated()] if HAS_CPP_COMPILER else [])


def test_the_same_neighbours_are_drawn_in_every_way():
    """With other parts for each program; and each neighbour follows from its key, program and parts alone."""
    texts = [PARENTS["every kind"], PARENTS["beyond the limits"], PARENTS["one action"]]
    given = [own_parts(GIVEN), own_parts(GIVEN[:1]), own_parts([*PARENTS.values()])]
    table, parents = parts.stacked(given, KAREL), encoded(texts)
    keys = jax.random.split(jax.random.key(4), (3, 200))
    several = [tuple(map(np.asarray, _neighbours(KAREL, Growth(share=0.8), parents, keys, way, table))) for way in WAYS]
    several.append(tuple(map(np.asarray, neighbours(KAREL, parents, keys, parts=table, share=0.8))))
    for other in several[1:]:
        for one, column in zip(several[0], other, strict=True):
            assert one.tolist() == column.tolist()
    alone = neighbours(KAREL, parents[1:2], keys[1:2, 7:30], parts=parts.stacked(given[1:2], KAREL), share=0.8)
    assert np.asarray(alone[0])[0].tolist() == several[0][0][1, 7:30].tolist()


def test_parts_of_a_program():
    found = [spelled_part(part) for part in parts.parts_of(encoded([GIVEN[0]])[0])]
    trees = [spelled(tree) for _, tree in subtrees(tree_of(from_text(GIVEN[0], KAREL)))]
    assert collections.Counter(found) == collections.Counter(trees)
    several = parts.parts_of(encoded(["DEF run m( move REPEAT R=3 r( move r) m)"])[0])
    kinds = [parts.SEQUENCE, parts.STATEMENT, parts.STATEMENT, parts.NUMBER, parts.STATEMENT]
    assert list(map(parts.kind_of, several)) == kinds


def spelled_part(part):
    """The text of a part, by the program that has it in a place where it fits."""
    kind = parts.kind_of(part)
    if kind == parts.NUMBER:
        return str(part[0] >> encode.KIND_BITS)
    if kind == parts.CONDITION:
        row = np.array([encode.PROGRAM, encode.IF, *part, encode.ACTION])
        return str(encode.decode(row, KAREL)).removeprefix("DEF run m( IF c( ").removesuffix(" c) i( move i) m)")
    return str(parts.as_program(part, KAREL)).removeprefix("DEF run m( ").removesuffix(" m)")


EQUAL = [
    ("turnLeft turnLeft turnLeft", "REPEAT R=3 r( turnLeft r)"),
    ("move", "REPEAT R=1 r( move r)"),
    ("WHILE c( frontIsClear c) w( move w)", "IF c( frontIsClear c) i( WHILE c( frontIsClear c) w( move w) i)"),
    ("IF c( markersPresent c) i( pickMarker i)", "IF c( not c( noMarkersPresent c) c) i( pickMarker i)"),
    ("REPEAT R=0 r( move r)", "REPEAT R=0 r( turnLeft putMarker r)"),
]
DIFFERENT = [
    ("turnLeft turnLeft turnLeft", "turnRight"),  # the same end, but other actions
    ("WHILE c( frontIsClear c) w( move w)", "REPEAT R=19 r( move r)"),
    ("WHILE c( noMarkersPresent c) w( turnLeft w)", "IF c( noMarkersPresent c) i( REPEAT R=4 r( turnLeft r) i)"),
    ("IF c( leftIsClear c) i( move i)", "IF c( rightIsClear c) i( move i)"),
    ("move turnLeft", "turnLeft move"),
]
NOT_ALL = [pair for pairs in (EQUAL, DIFFERENT) for pair in pairs]


def test_parts_that_run_alike_are_one():
    """The shortest of them, whichever comes first. The loop that never ends is not the four turns that it does."""
    task = make("DoorKey")
    run_part = runner(task)
    for pair in NOT_ALL:
        for several in (pair, pair[::-1]):
            statements = [parts.parts_of(nodes)[0] for nodes in encoded(f"DEF run m( {text} m)" for text in several)]
            found = [spelled_part(part) for part in distinct(statements, KAREL, run_part)]
            assert found == ([pair[0]] if pair in EQUAL else list(several))
    conditions = own_parts(
        ["DEF run m( IF c( markersPresent c) i( IF c( not c( noMarkersPresent c) c) i( move i) i) m)"]
    )
    kinds = [parts.kind_of(part) for part in distinct(conditions, KAREL, run_part)]
    assert kinds.count(parts.CONDITION) == 3  # equal in all states, but not in their texts
    assert kinds.count(parts.STATEMENT) == 2


def test_the_searches_of_a_run_have_parts_of_their_own():
    programs = [encoded([GIVEN[0], GIVEN[0]]), np.zeros((0, 64), np.int32), encoded(["DEF run m( move move m)"])]
    table, facts = of_searches(make("DoorKey"), programs)
    assert np.asarray(table.counts).tolist() == [[6, 2, 5, 1], [0] * 4, [1, 1, 0, 0]]
    assert facts[2] == {
        "statements": 1, "sequences": 1, "conditions": 0, "counts": 0, "equal runs": 0, "too large": 0
    }  # fmt: skip
    assert facts[1]["statements"] == 0
    long = encoded(["DEF run m( " + "move " * 30 + "m)"])
    assert of_searches(make("DoorKey"), [long])[1][0]["too large"] == 24  # those of more than 6 statements


@pytest.mark.parametrize("name", ["CleanHouse", "LavaGap", "farama:LavaGap"])
def test_states_are_random_and_always_the_same(name):
    """Random Karel states, or layouts after some actions; nothing that a run does changes them."""
    task = make(name)
    states = random_environments(task)
    assert len(states) == STATES
    poses = [tuple(make_state().pose()) for make_state in states]
    assert len(set(poses)) > 8
    for make_state in states[:3]:
        environment = make_state()
        for action in task.language.action_names[:3]:
            environment.act(action, at_limit=False)
    again = random_environments(task)
    for made in (states, again):
        assert [tuple(make_state().pose()) for make_state in made] == poses


# Whole searches

SOLUTION = "WHILE c( noMarkersPresent c) w( turnLeft move turnRight move w)"
USELESS = f"DEF run m( turnLeft IF c( markersPresent c) i( {SOLUTION} i) m)"


@pytest.fixture(autouse=True)
def few_unseen_layouts(monkeypatch):
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_002))


def answered(*texts):
    """A server whose answers are these texts again and again."""
    answers = itertools.cycle(texts)
    return serving(lambda request, number: completion(*(next(answers) for _ in range(request.get("n", 1)))))


def searched(folder, url, *, resume=False, stop=None, every=None, **options):
    given = {"task": "StairClimberSparse", "method": "hc", "budget": 600, "layouts": range(4), "llm": "openai"}
    given |= {"options": {"neighbourhood": "parts"}, "settings": Settings("m", url, deadline=10, backoff=0.01)}
    access = LLMAccess(folder / "answers.sqlite")
    more = {"every": every} if every else {}
    return run(Config(**{**given, **options}), folder / "out", resume=resume, stop=stop, llm_access=access, **more)


@pytest.mark.parametrize("method", ["hc", "llm-gs", "annealing", "chain"])
def test_a_part_that_solves_the_task_is_found_at_once(tmp_path, method):
    """The program that it is a part of does nothing."""
    with answered(USELESS) as server:
        options = {"method": method, "seeds": (0, 1, 2, 3)}
        results = searched(tmp_path, server.url, **options)
    assert all(result["return"] == 1 and result["found_at"] <= 200 for result in results)
    assert sum(SOLUTION in result["program"] for result in results) >= 3
    told = results[0]["llm"]
    assert (told["answers"], told["accepted"], told["rejected"]) == (32, 32, {})
    assert told["parts"] == {
        "statements": 5, "sequences": 3, "conditions": 2, "counts": 0, "equal runs": 1, "too large": 0
    }  # fmt: skip
    assert len(read_lines(tmp_path / "out" / "llm" / "answers.jsonl")) == 4 * 32
    first = read_lines(tmp_path / "out" / "programs.jsonl")[0]
    assert first["source"] == ("llm" if method == "llm-gs" else "random")
    if method == "hc":
        config = Config("StairClimberSparse", "hc", seeds=(0, 1, 2, 3), budget=600, layouts=range(4))
        grammar = run(config, tmp_path / "grammar")
        sooner = [one["evaluated"] < other["evaluated"] for one, other in zip(results, grammar, strict=True)]
        assert sum(sooner) >= 3


def test_answers_that_join_later_leave_the_parts_counted(tmp_path):
    options = {"neighbourhood": "parts", "revise_every": 1}
    with answered(*GIVEN) as server:
        [result] = searched(
            tmp_path, server.url, method="llm-gs", task="CleanHouseSparse", options=options, budget=3_000
        )
    assert result["llm"]["answers"] > 32
    assert result["llm"]["parts"]["conditions"] == 7


class AfterSomeTime:
    """A stop request that comes when it has been looked at some times."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def signal(self):
        import signal

        self.looks -= 1
        return signal.SIGTERM if self.looks < 0 else None


@pytest.mark.parametrize("method", ["hc", "chain"])
def test_a_stopped_run_goes_on_without_asking_again(tmp_path, method):
    options = {"method": method, "task": "DoorKey", "seeds": (3, 5)}
    with answered(*GIVEN) as server:
        whole = searched(tmp_path, server.url, **options)
        (tmp_path / "out").rename(tmp_path / "whole")
        stopped = AfterSomeTime(6)
        with pytest.raises(Stopped):
            searched(tmp_path, server.url, stop=stopped, every=Every(programs=100), **options)
    assert not (tmp_path / "out" / "seed-3" / "result.json").exists()
    results = searched(tmp_path, server.url, resume=True, **options)  # the server is gone
    assert list(map(timeless, results)) == list(map(timeless, whole))
    for name in ("programs.jsonl", "metrics.jsonl"):
        one, other = (list(map(timeless, read_lines(tmp_path / each / name))) for each in ("whole", "out"))
        assert one == other


def test_searches_without_a_program_are_left_out_or_an_error(tmp_path, capsys):
    def script(request, number):
        text = "DEF run m( move turnLeft m)" if number == 0 else "no program"
        return completion(*[text] * request.get("n", 1))

    with serving(script) as server:
        results = searched(tmp_path, server.url, seeds=(0, 1), budget=30)
    assert [result["seed"] for result in results] == [0]
    assert "WARNING: seed 1: none of " in capsys.readouterr().err
    with answered("no program") as server, pytest.raises(UserError) as raised:
        searched(tmp_path / "none", server.url, budget=30)
    assert "none of 144 answers holds a program" in str(raised.value)
    assert str(raised.value).endswith("--neighbourhood grammar needs no programs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llm": "none"}, "--neighbourhood parts takes parts of .*: use --llm recorded or --llm openai"),
        ({"llm": "none", "method": "llm-gs"}, "--neighbourhood parts takes parts of .*: use --llm recorded"),
        ({"task": "Maze"}, "no recorded answers for Maze: use --llm openai, or --neighbourhood grammar"),
        ({"task": "Maze", "method": "llm-gs"}, "no recorded answers for Maze: .* --neighbourhood grammar"),
        ({"options": {"neighbourhood": "part"}}, "unknown neighbourhood 'part'; known: grammar, .*parts"),
        ({"options": {"neighbourhood": "parts", "parts_share": 1.5}}, "--parts-share 1.5: it goes from 0 to 1"),
        ({"options": {"neighbourhood": "parts", "parts_share": float("nan")}}, "--parts-share nan: it goes from 0"),
        ({"options": {"parts_share": 0.5}}, "--parts-share 0.5 is for --neighbourhood parts only, not for grammar"),
        ({"method": "leaps"}, "method leaps has no option --neighbourhood"),
    ],
)
def test_mistakes_are_messages(options, message):
    with pytest.raises(UserError, match=message):
        resolve(Config(**{"task": "DoorKey", "method": "hc", "options": {"neighbourhood": "parts"}, **options}))


def test_where_programs_come_from_and_what_a_resumed_run_has_in_common():
    found = resolve(Config("DoorKey", "hc", options={"neighbourhood": "parts"}))
    assert found.llm == "recorded"
    told = identity(found)
    assert (told["neighbourhood"], told["parts_share"], len(told["answer"])) == ("parts", 0.8, 40)
    grammar = resolve(Config("DoorKey", "hc", llm="recorded"))  # which a sweep may name for all its methods
    assert grammar.llm == "none"
    assert "answer" not in identity(grammar)
