"""Token text, Python text and arrays of nodes, each both ways."""

import dataclasses
import itertools

import golden
import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from jaxprl.dsl import ast, encode
from jaxprl.dsl.parse import parse
from jaxprl.dsl.python import from_python
from jaxprl.dsl.text import ParseError, from_text, token_count
from jaxprl.dsl.text import _size as text_size
from jaxprl.errors import UserError
from jaxprl.worlds.karel.world import LANGUAGE as KAREL
from jaxprl.worlds.minigrid.world import LANGUAGE as MINIGRID

in_both_languages = pytest.mark.parametrize("language", [KAREL, MINIGRID], ids=lambda language: language.name)


def folded(node):
    """Return a program, statement or body with `ast.fold` applied to all its conditions."""
    if isinstance(node, tuple):
        return tuple(map(folded, node))
    if isinstance(node, ast.Condition):
        return ast.fold(node)
    if not dataclasses.is_dataclass(node):
        return node
    return type(node)(*(folded(getattr(node, field.name)) for field in dataclasses.fields(node)))


def nested(opening, closing, times):
    """Return a program with `opening` and `closing` that many times around a `move`."""
    return " ".join(["DEF run m(", *[opening] * times, "move", *[closing] * times, "m)"])


def survives_every_round_trip(program, language):
    nodes = encode.encode(program, language)
    return (
        from_text(str(program), language) == program
        and token_count(program) == len(str(program).split())
        and from_python(program.to_python(), language) == program
        and encode.decode(nodes, language) == folded(program)
        and encode.decode(np.pad(nodes, (0, 7)), language) == folded(program)
    )


EXTREMES = [
    (KAREL, nested("REPEAT R=2 r(", "r)", 62)),
    (KAREL, nested("IF c( True c) i(", "i)", 41)),
    (KAREL, nested("WHILE c( frontIsClear c) w(", "w)", 41)),
    (KAREL, " ".join(["DEF run m( IF c(", *["not c("] * 80, "frontIsClear", *["c)"] * 80, "c) i( move i) m)"])),
    (
        KAREL,
        " ".join(["DEF run m( IF c(", *["and c( True c) c("] * 40, "frontIsClear", *["c)"] * 40, "c) i( move i) m)"]),
    ),
    (KAREL, " ".join(["DEF run m(", *["turnLeft"] * 252, "m)"])),
    (KAREL, "DEF run m( REPEAT R=-99999999 r( REPEAT R=99999999 r( move r) r) m)"),
    (
        MINIGRID,
        "DEF run m( WHILE c( "
        + "or c( front_object_type h( goal h) c) c( " * 26
        + "front_object_color h( grey h)"
        + " c)" * 26
        + " c) w( toggle w) m)",
    ),
]


@pytest.mark.parametrize(("language", "text"), EXTREMES)
def test_extremes_survive_every_round_trip(language, text):
    program = from_text(text, language)
    assert str(program) == text
    assert survives_every_round_trip(program, language)


@in_both_languages
def test_golden_programs_survive_every_round_trip(language):
    texts = golden.programs(language.name)
    assert len(texts) > 1000
    for text in texts:
        program = from_text(text, language)
        assert str(program) == text
        assert survives_every_round_trip(program, language), text


@in_both_languages
@given(data=st.data())
def test_random_programs_survive_every_round_trip(language, data):
    assert survives_every_round_trip(data.draw(strategies.programs(language)), language)


@in_both_languages
@given(data=st.data())
def test_programs_are_stacked_to_one_width(language, data):
    programs = data.draw(st.lists(strategies.programs(language), min_size=1, max_size=4))
    stacked = encode.encode_all(programs, language)
    assert stacked.dtype == np.int32
    for row, program in zip(stacked, programs, strict=True):
        used = np.count_nonzero(row)
        assert (row[:used] != 0).all()
        assert (row[:used] == encode.encode(program, language)[:used]).all()
    largest = int((stacked != 0).sum(axis=1).max())
    assert stacked.shape[1] == max(encode.WIDTH, 1 << (largest - 1).bit_length())


def test_white_space_between_tokens_does_not_matter():
    text = "\n DEF   run m(\tmove\n\n turnLeft m) "
    assert str(from_text(text, KAREL)) == "DEF run m( move turnLeft m)"


WORDS = [
    "DEF", "run", "m(", "m)", "WHILE", "IF", "IFELSE", "ELSE", "REPEAT", "c(", "c)", "w(", "w)", "i(", "i)", "e(", "e)",
    "r(", "r)", "h(", "h)", "not", "and", "or", "True", "R=3", "R=x", "move", "frontIsClear", "forward",
    "front_is_clear", "front_object_type", "front_object_color", "lava", "red", "word",
]  # fmt: skip


def program_or_error(text, language):
    try:
        return from_text(text, language)
    except ParseError as error:
        return error


@in_both_languages
@given(data=st.data())
def test_a_changed_token_is_an_error_or_another_program(language, data):
    tokens = str(data.draw(strategies.programs(language))).split()
    at = data.draw(st.integers(0, len(tokens) - 1))
    kept = data.draw(st.integers(at, at + 1))
    changed = [*tokens[:at], *data.draw(st.lists(st.sampled_from(WORDS), max_size=2)), *tokens[kept:]]
    outcome = program_or_error(" ".join(changed), language)
    if isinstance(outcome, ParseError):
        assert 0 <= outcome.position <= len(changed)
    else:
        assert str(outcome) == " ".join(changed)


BAD_KAREL = {
    "": (0, "expected 'DEF', found the end of the text"),
    "def run m( move m)": (0, "expected 'DEF', found 'def'"),
    "DEF walk m( move m)": (1, "expected 'run', found 'walk'"),
    "DEF run move m)": (2, "expected 'm(', found 'move'"),
    "DEF run m( m)": (3, "expected a statement"),
    "DEF run m( jump m)": (3, "found 'jump'"),
    "DEF run m( move() m)": (3, "found 'move()'"),
    "DEF run m( forward m)": (3, "WHILE, IF, IFELSE, REPEAT, move, turnLeft, turnRight, putMarker, pickMarker"),
    "DEF run m( frontIsClear m)": (3, "found 'frontIsClear'"),
    "DEF run m( move": (4, "found the end of the text"),
    "DEF run m( move w) m)": (4, "found 'w)'"),
    "DEF run m( move m) move": (5, "expected the end of the text, found 'move'"),
    "DEF run m( move m) m)": (5, "expected the end of the text, found 'm)'"),
    "DEF run m( WHILE frontIsClear w( move w) m)": (4, "expected 'c(', found 'frontIsClear'"),
    "DEF run m( WHILE c( c) w( move w) m)": (5, "expected a condition"),
    "DEF run m( WHILE c( move c) w( move w) m)": (5, "frontIsClear, leftIsClear, rightIsClear, markersPresent"),
    "DEF run m( WHILE c( frontIsClear w( move w) m)": (6, "expected 'c)', found 'w('"),
    "DEF run m( WHILE c( frontIsClear c) i( move i) m)": (7, "expected 'w(', found 'i('"),
    "DEF run m( WHILE c( frontIsClear c) w( w) m)": (8, "expected a statement"),
    "DEF run m( WHILE c( frontIsClear c) w( move m)": (9, "found 'm)'"),
    "DEF run m( IF c( not frontIsClear c) i( move i) m)": (6, "expected 'c(', found 'frontIsClear'"),
    "DEF run m( IF c( and c( True c) c) i( move i) m)": (9, "expected 'c(', found 'c)'"),
    "DEF run m( IF c( true c) i( move i) m)": (5, "True, False"),
    "DEF run m( IF c( frontIsClear c) i( move i) ELSE e( move e) m)": (10, "found 'ELSE'"),
    "DEF run m( IFELSE c( frontIsClear c) i( move i) m)": (10, "expected 'ELSE', found 'm)'"),
    "DEF run m( IFELSE c( frontIsClear c) i( move i) ELSE e( move i) m)": (13, "found 'i)'"),
    "DEF run m( REPEAT r( move r) m)": (4, "expected a count like R=3, found 'r('"),
    "DEF run m( REPEAT R=x r( move r) m)": (4, "expected a count like R=3, found 'R=x'"),
    "DEF run m( REPEAT R= r( move r) m)": (4, "expected a count like R=3"),
    "DEF run m( REPEAT 3 r( move r) m)": (4, "expected a count like R=3"),
    "DEF run m( REPEAT R=1.5 r( move r) m)": (4, "expected a count like R=3"),
    "DEF run m( REPEAT R=+3 r( move r) m)": (4, "expected a count like R=3"),
    "DEF run m( REPEAT R=--3 r( move r) m)": (4, "expected a count like R=3"),
    "DEF run m( REPEAT R=\u0663 r( move r) m)": (4, "expected a count like R=3"),
    "DEF run m( REPEAT R=\u00b3 r( move r) m)": (4, "expected a count like R=3"),
    "DEF run m( REPEAT R=03 r( move r) m)": (4, "expected R=3, found 'R=03'"),
    "DEF run m( REPEAT R=-0 r( move r) m)": (4, "expected R=0, found 'R=-0'"),
    "DEF run m( REPEAT R=123456789 r( move r) m)": (4, "at most eight digits"),
    "DEF run m( IF c( frontIsClear h( lava h) c) i( move i) m)": (6, "expected 'c)', found 'h('"),
    "DEF run m( IF c( front_object_type h( lava h) c) i( move i) m)": (5, "found 'front_object_type'"),
    "DEF run m( IF c( frontIsClear() c) i( move i) m)": (5, "found 'frontIsClear()'"),
    "DEF run m( move h( 3 h) m)": (4, "found 'h('"),
}


LARGER = {
    f"DEF run m( {'move ' * 257}m)": "a program of 261 tokens has 514 nodes; at most 512 are run",
    f"DEF run m( {'WHILE c( frontIsClear c) w( ' * 256}": "a program of 1,283 tokens has 513 nodes",
    nested("REPEAT R=2 r(", "r)", 100_000): "a program of 400,005 tokens has 200,002 nodes",
    "DEF run m( " + "IF c( frontIsClear c) i( " * 100_000: "has 200,001 nodes",
    "DEF run m( WHILE c( " + "not c( " * 100_000: "has 100,002 nodes",
    "DEF run m( IF c( " + "and c( True c) c( " * 100_000 + "True": "has 200,003 nodes",
    "DEF run m( " + "h( " * 100_000: "expected a statement",
    "def run():\n" + "    move()\n" * 257: "the program has 514 nodes; at most 512 are run",
    "def run():\n" + "    move()\n" * 20_000: "the program has 40,000 nodes",
    "def run():\n    while " + "frontIsClear() and " * 20_000 + "True:\n        move()": "the program has 40,004 nodes",
    "def run():\n    while " + "not " * 100_000 + "True:\n        move()": "not Python",
    "def run():\n    while "
    + "(" * 100_000
    + "True"
    + ")" * 100_000
    + ":\n        move()": "too many nested parentheses",
    "def run():\n" + "".join(f"{' ' * n}while True:\n" for n in range(1, 2000)): "too many levels of indentation",
    "def run():\n    if True:\n        move()\n"
    + "    elif True:\n        move()\n" * 170: "the program has 514 nodes",
    "def run():\n    if True:\n        move()\n" + "    elif True:\n        move()\n" * 400: "nested too deeply",
    "def run():\n    if True:\n        move()\n" + "    elif True:\n        move()\n" * 20_000: "too deep to parse",
    "[" * 100_000: "too many nested parentheses",
}


@pytest.mark.parametrize("text", LARGER, ids=lambda text: text[:60])
def test_text_that_is_too_large_is_refused_with_figures(text):
    with pytest.raises(UserError) as caught:
        parse(text, KAREL)
    assert LARGER[text] in str(caught.value)


@in_both_languages
@given(data=st.data())
def test_the_size_of_a_program_is_that_of_its_nodes(language, data):
    program = folded(data.draw(strategies.programs(language)))
    assert ast.size(program) == np.count_nonzero(encode.encode(program, language))
    tokens = str(program).split()
    assert text_size(tokens, language) == ast.size(program)


TYPES = "lava, door, ball, box, wall, floor, key, goal"
COLORS = "red, blue, green, purple, yellow, grey"
BAD_MINIGRID = {
    "DEF run m( IF c( front_object_type h( tree h) c) i( left i) m)": (
        7,
        f"expected an argument of front_object_type ({TYPES}), found 'tree'",
    ),
    "DEF run m( IF c( front_object_type h( red h) c) i( left i) m)": (7, f"front_object_type ({TYPES}), found 'red'"),
    "DEF run m( IF c( front_object_color h( box h) c) i( left i) m)": (
        7,
        f"expected an argument of front_object_color ({COLORS}), found 'box'",
    ),
    "DEF run m( IF c( front_object_color h( Red h) c) i( left i) m)": (7, f"({COLORS}), found 'Red'"),
    "DEF run m( IF c( front_object_type h( h) c) i( left i) m)": (7, f"({TYPES}), found 'h)'"),
    "DEF run m( IF c( front_object_type h(": (7, f"({TYPES}), found the end of the text"),
    "DEF run m( IF c( front_object_type lava h) c) i( left i) m)": (6, "expected 'h(', found 'lava'"),
    "DEF run m( IF c( front_object_type c) i( left i) m)": (6, "expected 'h(', found 'c)'"),
    "DEF run m( IF c( front_object_type": (6, "expected 'h(', found the end of the text"),
    "DEF run m( IF c( front_object_type c( lava c) c) i( left i) m)": (6, "expected 'h(', found 'c('"),
    "DEF run m( IF c( front_object_type h( lava c) i( left i) m)": (8, "expected 'h)', found 'c)'"),
    "DEF run m( IF c( front_object_type h( lava door h) c) i( left i) m)": (8, "expected 'h)', found 'door'"),
    "DEF run m( IF c( front_object_type h( lava h) h( lava h) c) i( left i) m)": (9, "expected 'c)', found 'h('"),
    "DEF run m( IF c( not c( front_object_type h( sky h) c) c) i( left i) m)": (9, f"({TYPES}), found 'sky'"),
    "DEF run m( IF c( front_is_clear h( lava h) c) i( left i) m)": (6, "expected 'c)', found 'h('"),
    "DEF run m( IF c( lava c) i( left i) m)": (
        5,
        "(front_is_clear, front_object_type, front_object_color, is_carrying_object, not, and, or, True, False)",
    ),
    "DEF run m( front_object_type h( lava h) m)": (3, "found 'front_object_type'"),
    "DEF run m( move m)": (3, "WHILE, IF, IFELSE, REPEAT, left, right, forward, pickup, drop, toggle), found 'move'"),
}
BAD = [
    pytest.param(language, text, *expected, id=text[:60] or "empty")
    for language, cases in [(KAREL, BAD_KAREL), (MINIGRID, BAD_MINIGRID)]
    for text, expected in cases.items()
]


@pytest.mark.parametrize(("language", "text", "position", "fragment"), BAD)
def test_bad_text_is_rejected_at_its_token(language, text, position, fragment):
    with pytest.raises(ParseError) as caught:
        from_text(text, language)
    assert caught.value.position == position
    assert str(caught.value).startswith(f"token {position}: ")
    assert fragment in str(caught.value)
    assert isinstance(caught.value, UserError)


def look(condition, senses):
    """Return what a condition gives and the perceptions it looks at, in order."""
    match condition:
        case ast.Perception(name):
            return senses[name], [name]
        case ast.Constant(value):
            return value, []
        case ast.Not(inner):
            value, looks = look(inner, senses)
            return not value, looks
        case ast.And(left, right) | ast.Or(left, right):
            value, looks = look(left, senses)
            if value == isinstance(condition, ast.Or):
                return value, looks
            value, more = look(right, senses)
            return value, looks + more


@given(strategies.conditions())
def test_folding_changes_neither_the_value_nor_the_calls(condition):
    for values in itertools.product([False, True], repeat=len(KAREL.perception_names)):
        senses = dict(zip(KAREL.perception_names, values, strict=True))
        assert look(ast.fold(condition), senses) == look(condition, senses)


@given(strategies.conditions())
def test_folding_leaves_constants_only_as_last_operands(condition):
    def check(node):
        match node:
            case ast.Not(inner):
                assert not isinstance(inner, ast.Constant)
                check(inner)
            case ast.And(left, right) | ast.Or(left, right):
                assert not isinstance(left, ast.Constant)
                check(left)
                check(right)

    check(ast.fold(condition))
