"""Answers of language models: what the published parser made of them, slips of the pen, and text of any kind."""

import re
import time

import golden
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprl.dsl import ast
from jaxprl.dsl.language import PROGRAM_TOKENS
from jaxprl.dsl.python import PythonError, from_python
from jaxprl.dsl.text import from_text, token_count
from jaxprl.errors import UserError
from jaxprl.llm.answers import recorded
from jaxprl.llm.extract import MOST_CHARACTERS, REASONS, Rejection, choose, extract, normalise
from jaxprl.worlds.karel.world import LANGUAGE as KAREL
from jaxprl.worlds.minigrid.world import LANGUAGE as MINIGRID

LANGUAGES = {"karel": KAREL, "minigrid": MINIGRID}
KAREL_TASKS = (
    "CleanHouse", "DoorKey", "FourCorners", "Harvester", "MazeSparse", "OneStroke",
    "PathFollow", "Seeder", "Snake", "StairClimberSparse", "TopOff", "WallAvoider",
)  # fmt: skip
MINIGRID_TASKS = ("LavaGap", "PutNear", "RedBlueDoor")
ANSWERS = [
    (answer, language)
    for tasks, language in ((KAREL_TASKS, KAREL), (MINIGRID_TASKS, MINIGRID))
    for task in tasks
    for answer in recorded(task)
]

ROWS = golden.load("llm_parse")["rows"]
PUBLISHED_IS_WRONG = {
    ("dsl", 79): "misplaced token",  # a stray w): the published parser drops the statement behind it
    # drops the left half of `and`
    ("python", 86): "WHILE c( and c( frontIsClear c) c( noMarkersPresent c) c) w( move w)",
    # reads `elif` as a second `if`
    ("python", 92): "REPEAT R=10 r( IFELSE c( frontIsClear c) i( move i) ELSE e( "
    "IFELSE c( leftIsClear c) i( turnLeft i) ELSE e( turnRight e) e) r)",
    # drops the second `not`
    ("python", 152): "WHILE c( not c( not c( frontIsClear c) c) c) w( move w) turnLeft",
    # takes the first of two programs, even from "First: ... and better: ..."
    ("dsl", 18): "turnLeft move",
    ("dsl", 19): "turnLeft",
    ("python", 29): "turnLeft",
}
READ_LIKE_THE_OTHER_BLOCK = {
    "python": {
        25: "```Python", 26: "```py", 28: "CRLF", 30: "indentation of 2", 31: "tabs", 32: "blank lines",
        34: "final run()", 35: "comments", 37: "docstring", 38: "else: pass", 56: "range(0, 5)", 58: "space before :",
        96: "not(...)", 99: "one-line if", 109: "MiniGrid not", 110: "MiniGrid else", 117: "colour", 119: "carrying",
        125: "while True", 131: "== True", 136: "not (...)", 159: "fence behind code", 160: "space behind the fence",
    },
    "dsl": {111: "('ball')"},
}  # fmt: skip
"""Blocks that the published parser rejects, while it accepts the answer's other block, to which ours is equal."""
AHEAD_WALL = "WHILE c( frontIsClear c) w( move w)"
IF_LAVA = "IF c( front_object_type h( lava h) c) i( left i) forward"
NO_LAVA = "WHILE c( not c( front_object_type h( lava h) c) c) w( forward w)"
READ = {
    ("python", 27): AHEAD_WALL,  # no fence
    ("python", 55): "REPEAT R=5 r( move r)",  # n = 5
    ("python", 102): "turnLeft turnLeft move",  # a helper function
    ("python", 128): "IFELSE c( front_object_type h( door h) c) i( toggle i) ELSE e( "
    "IFELSE c( front_is_clear c) i( forward i) ELSE e( left e) e)",  # elif
    ("python", 149): "move turnLeft",  # import
    ("python", 150): f"{AHEAD_WALL} turnLeft",  # comment behind a condition
    ("python", 164): "forward",
    ("python", 165): "WHILE c( front_is_clear c) w( forward w) left",
    ("python", 166): "WHILE c( not c( front_object_type h( lava h) c) c) w( left right w) drop",  # ( "lava" )
    ("python", 167): "WHILE c( not c( front_object_type h( box h) c) c) w( left right w) drop",  # (type="box")
    ("dsl", 36): f"{AHEAD_WALL} putMarker",  # comments
    ("dsl", 50): "REPEAT R=5 r( move r)",  # R = 5
    ("dsl", 52): "REPEAT R=5 r( move r)",  # REPEAT 5
    ("dsl", 53): "REPEAT R=7 r( move r)",  # r=7
    ("dsl", 59): AHEAD_WALL,  # no m)
    ("dsl", 60): AHEAD_WALL,  # no w) behind a single action
    ("dsl", 64): "WHILE c( not c( frontIsClear c) c) w( turnLeft w) move",  # WHILE not frontIsClear
    ("dsl", 65): AHEAD_WALL,  # plain brackets
    ("dsl", 77): "IFELSE c( frontIsClear c) i( move i) ELSE e( turnLeft e)",  # ELSE i( i)
    ("dsl", 84): "move",  # def run m(
    ("dsl", 85): AHEAD_WALL,  # while
    ("dsl", 86): "WHILE c( and c( frontIsClear c) c( noMarkersPresent c) c) w( move w)",
    ("dsl", 87): "IF c( or c( frontIsClear c) c( leftIsClear c) c) i( move i)",
    ("dsl", 93): "REPEAT R=4 r( move turnLeft r)",  # in the middle of a sentence
    ("dsl", 95): "IF c( rightIsClear c) i( turnRight move i)",  # brackets in the prose before it
    ("dsl", 107): "move",  # DEF m(
    ("dsl", 108): "move turnLeft",  # DEF run() m(
    ("dsl", 112): NO_LAVA,  # ("lava")
    ("dsl", 113): IF_LAVA,  # bare argument
    ("dsl", 114): IF_LAVA,  # (lava)
    ("dsl", 115): IF_LAVA,  # no h)
    ("dsl", 118): "WHILE c( front_object_color h( blue h) c) w( toggle w) forward",  # ("blue")
    ("dsl", 123): NO_LAVA,  # WHILE not front_object_type h( lava h)
    ("dsl", 124): NO_LAVA,  # WHILE not front_object_type lava
    ("dsl", 130): "IF c( front_object_type h( door h) c) i( toggle i) forward",  # IF c(front_object_type(door))
}
"""Programs that the published parser rejects and ours reads."""
REJECTED = {
    ("python", 23): "no function",
    ("python", 24): "empty body",
    ("python", 83): "unknown name",
    ("python", 98): "unknown name",
    ("python", 156): "unsupported python",  # break
    ("dsl", 51): "bad count",  # R=n
    ("dsl", 54): "bad count",  # R=2.5
    ("dsl", 80): "unknown name",
    ("dsl", 81): "unknown name",
    ("dsl", 82): "unknown name",
    ("dsl", 83): "unknown name",
    ("dsl", 90): "empty body",
    ("dsl", 91): "empty body",
    ("dsl", 106): "empty body",
    ("dsl", 122): "unknown name",
    ("dsl", 132): "bad argument",
}
"""What both reject, though there is a block of that kind."""


def shown(outcome):
    """Return a program's text, or the reason why there is none."""
    return outcome.reason if isinstance(outcome, Rejection) else str(outcome)


def program(body):
    return f"DEF run m( {body} m)"


def dsl(text, language=KAREL):
    return shown(extract(text, language).dsl)


def python(text, language=KAREL):
    return shown(extract(text, language).python)


def outcomes(block):
    for row in ROWS:
        extraction = extract(row["response"], LANGUAGES[row["env"]])
        yield row, row[block], shown(getattr(extraction, block))


def has_block(block, response):
    pattern = {"python": r"def \w+\(|```python", "dsl": r"DEF |def run m\("}[block]
    return re.search(pattern, response) is not None


def test_every_row_has_a_verdict():
    assert len({row["id"] for row in ROWS}) == len(ROWS) == 168


@pytest.mark.parametrize("block", ["python", "dsl"])
def test_published_parser_accepts(block):
    agree = 0
    for row, published, ours in outcomes(block):
        if published["accepted"] and (block, row["id"]) not in PUBLISHED_IS_WRONG:
            assert ours == published["canonical"], row["id"]
            agree += 1
    assert agree == {"python": 44, "dsl": 88}[block]


def test_published_parser_is_wrong():
    for block in ("python", "dsl"):
        for row, published, ours in outcomes(block):
            if expected := PUBLISHED_IS_WRONG.get((block, row["id"])):
                assert published["accepted"]
                assert published["canonical"] != ours == (expected if expected in REASONS else program(expected))


@pytest.mark.parametrize("block", ["python", "dsl"])
def test_published_parser_rejects(block):
    other = {"python": "dsl", "dsl": "python"}[block]
    missing = 0
    for row, published, ours in outcomes(block):
        key = block, row["id"]
        if published["accepted"]:
            assert key not in READ
            assert key not in REJECTED
        elif row["id"] in READ_LIKE_THE_OTHER_BLOCK[block]:
            assert row[other]["accepted"]
            assert ours == row[other]["canonical"], row["id"]
        elif key in READ:
            assert ours == program(READ[key]), row["id"]
        elif key in REJECTED:
            assert ours == REJECTED[key], row["id"]
        else:
            assert not has_block(block, row["response"]), row["id"]
            assert ours == f"no {block} block"
            missing += 1
    assert missing == {"python": 82, "dsl": 40}[block]


@pytest.mark.parametrize("task", [*KAREL_TASKS, *MINIGRID_TASKS])
def test_recorded_answers(task):
    language = KAREL if task in KAREL_TASKS else MINIGRID
    answers = recorded(task)
    extractions = [extract(answer, language) for answer in answers]
    assert len(answers) == 40
    for extraction in extractions:
        assert len(extraction.programs) + len(extraction.rejections) == 2
        for rejection in extraction.rejections:
            assert rejection.reason in REASONS
            assert rejection.message
        for found in extraction.programs:
            assert from_text(str(found), language) == found
    assert sum(bool(extraction.programs) for extraction in extractions) >= 32


def test_tasks_without_answers():
    for name in ("Maze", "", "../recorded/Maze", "README"):
        with pytest.raises(UserError, match=r"CleanHouse.*WallAvoider"):
            recorded(name)


def test_choice():
    both = extract("```python\ndef run():\n    move()\n```\nDEF run m( turnLeft m)", KAREL)
    assert [str(choose(both, draw)) for draw in range(3)] == [program(w) for w in ("move", "turnLeft", "move")]
    one = extract("DEF run m( move m)", KAREL)
    assert [choose(one, draw) for draw in (0, 1, 2**40 + 1)] == [one.dsl] * 3
    assert choose(extract("", KAREL), 7) is None
    draws = np.random.default_rng(0).integers(2**32, size=1000)
    assert 400 < sum(choose(both, int(draw)) is both.python for draw in draws) < 600


def test_normalisation():
    def normal(body, language=KAREL):
        return str(normalise(from_text(program(body), language), language))

    assert normal("WHILE c( not c( False c) c) w( move w)") == program("REPEAT R=19 r( move r)")
    assert normal("WHILE c( and c( True c) c( False c) c) w( move w)") == program("REPEAT R=0 r( move r)")
    inner = "WHILE c( or c( frontIsClear c) c( not c( noMarkersPresent c) c) c) w( REPEAT R=99 r( move r) w)"
    assert normal(inner) == program(
        "WHILE c( or c( frontIsClear c) c( markersPresent c) c) w( REPEAT R=19 r( move r) w)"
    )
    ifelse = "IFELSE c( not c( not c( markersPresent c) c) c) i( move i) ELSE e( WHILE c( True c) w( move w) e)"
    assert normal(ifelse) == program("IFELSE c( markersPresent c) i( move i) ELSE e( REPEAT R=19 r( move r) e)")
    left = "IF c( not c( front_is_clear c) c) i( left i)"
    assert normal(left, MINIGRID) == program(left)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "DEF run m(IF c(frontIsClear)i(move)ELSE e(turnLeft))",
            "IFELSE c( frontIsClear c) i( move i) ELSE e( turnLeft e)",
        ),
        ("DEF run m( REPEAT R=4r( move r) m)", "REPEAT R=4 r( move r)"),
        ("DEF run m( REPEAT (R=4) r( move r) m)", "REPEAT R=4 r( move r)"),
        ("DEF run m( REPEAT R=123456789012 r( move r) m)", "REPEAT R=19 r( move r)"),
        ("DEF run m( WHILE c( not frontIsClear c) c) w( move w) m)", "WHILE c( not c( frontIsClear c) c) w( move w)"),
        ("DEF run m( WHILE frontIsClear c) w( move w) m)", AHEAD_WALL),
        ("DEF run m( WHILE ((frontIsClear())) w( move w) m)", AHEAD_WALL),
        (
            "DEF run m( WHILE c( frontIsClear and not c( leftIsClear c) c) w( move w) m)",
            "WHILE c( and c( frontIsClear c) c( not c( leftIsClear c) c) c) w( move w)",
        ),
        (
            "DEF run m( IF c( frontIsClear or leftIsClear or rightIsClear c) i( move i) m)",
            "IF c( or c( frontIsClear c) c( or c( leftIsClear c) c( rightIsClear c) c) c) i( move i)",
        ),
        (
            "DEF run m( IF c( frontIsClear c) i( move i) ELSE IF c( leftIsClear c) i( turnLeft i) m)",
            "IFELSE c( frontIsClear c) i( move i) ELSE e( IF c( leftIsClear c) i( turnLeft i) e)",
        ),
        ("DEF run m( WHILE c( frontIsClear c) w( move turnLeft", "WHILE c( frontIsClear c) w( move turnLeft w)"),
        ("DEF run m( move # once\n turnLeft // left\n m)", "move turnLeft"),
        ("Use `DEF run m( move`, or not.", "move"),
        ("As in DEF run m( S m):\nDEF run m( move m)", "move"),
        ("DEF run m(\n move\nm)\nThis will move and then turnLeft.", "move"),
        ("DEF run m( move m)\n\nEach move counts: turnLeft does not", "move"),
        ("<think>Perhaps DEF run m( turnLeft m)?</think>DEF run m( move m)", "move"),
        ("DEF run m(\u00a0move m) I\u2019d say", "move"),
    ],
)
def test_forgiven(text, expected):
    assert dsl(text) == program(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("DEF run m( WHILE c( frontIsClear c) w( move turnLeft m)", "unclosed"),
        ("DEF run m( REPEAT R=2 r( REPEAT R=2 r( move turnLeft r) m)", "unclosed"),
        ("DEF run m( WHILE c( frontIsClear c) w( move) turnLeft", "unclosed"),
        ("DEF run m( WHILE c( frontIsClear c)", "unclosed"),
        ("DEF run m( WHILE c(", "unclosed"),
        ("DEF run m( move m) turnLeft m)", "misplaced token"),
        ("DEF run m(\n move m)\n turnLeft m)", "misplaced token"),
        ("DEF run m( S m)", "no dsl block"),
        ("<think>DEF run m( move m)", "no dsl block"),
        ("DEF run m( move w) m)", "misplaced token"),
        ("DEF run m( move ELSE e( move e) m)", "misplaced token"),
        ("DEF run m( WHILE c( frontIsClear c) move w) m)", "misplaced token"),
        ("DEF run m( WHILE c( move c) w( move w) m)", "misplaced token"),
        ("DEF run m( frontIsClear m)", "misplaced token"),
        ("DEF run m( move(3) m)", "misplaced token"),
        ("DEF run m( move turnLeft r m)", "misplaced token"),
        ("DEF run { move }", "unknown token"),
        ("DEF run m( move - turnLeft m)", "unknown token"),
        ("DEF run m( move then turnLeft m)", "unknown name"),
        ("DEF run m( move # then turnLeft m)", "unclear comment"),
        ("DEF run m( IF c( not frontIsClear and leftIsClear c) i( move i) m)", "ambiguous condition"),
        ("DEF run m( IF c( frontIsClear and leftIsClear or rightIsClear c) i( move i) m)", "ambiguous condition"),
        ("DEF run m( IF c( not c( frontIsClear and leftIsClear c) i( move i) m)", "ambiguous condition"),
        ("DEF run m( REPEAT r( move r) m)", "bad count"),
        ("DEF run m( " + "REPEAT R=2 r( " * 90 + "move " + "r) " * 90 + "m)", "too long"),
        ("DEF run m( " + "IF c( frontIsClear c) i( " * 5000, "too long"),
        ("DEF run m( WHILE " + "not " * 5000, "too long"),
        ("DEF run m( " + "move " * 253 + "m)", "too long"),
    ],
)
def test_not_forgiven(text, reason):
    assert dsl(text) == reason


LEFT = "```python\ndef run():\n    turnLeft()\n```\n"
MOVE = "```python\ndef run():\n    move()\n```\n"
DOUBLING = "def f0(): move()\n" + "\n".join(f"def f{n + 1}(): f{n}(); f{n}()" for n in range(40))


def code(source):
    return f"```python\n{source}\n```\n"


TURN = "```python\ndef turn():\n    turnLeft()\n```\n"
MARKS = [
    ("<think>", "</think>"),
    ("<think>\n<think>", "</think>"),
    ("<think><think>", "</think></think>"),
    ("<THINK>", "</Think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("<reasoning effort='high'>", "</reasoning>"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<thought_process>", "</thought_process>"),
    ("<|im_start|>think\n", "<|im_start|>answer\n"),
    ('<details type="reasoning" done="true">', "</details>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysisWe need ", "assistantfinal"),
    ("Here is my thought process:\n", "Here is my response:\n"),
]


@pytest.mark.parametrize(("opening", "closing"), MARKS)
def test_thoughts_are_no_answer(opening, closing):
    thoughts = f"{opening}{LEFT}DEF run m( putMarker m){closing}"
    move = program("move")
    assert extract(thoughts + MOVE, KAREL).programs == (python_program("move"),)
    assert dsl(thoughts + "DEF run m( move m)") == move
    assert extract(thoughts, KAREL).reason == "no block"
    unclosed = f"{opening}{LEFT}DEF run m( putMarker m)"
    assert extract(unclosed, KAREL, "length").reason == "cut off"
    assert extract(unclosed, KAREL).reason == "no block" or opening.startswith("Here")
    if opening.startswith("<"):
        assert python(MOVE + thoughts) == python(f"{MOVE}{opening} Perhaps {LEFT}") == move
    assert python(f"{MOVE}{opening}{closing}") == python(f"{MOVE}{closing}\nIt moves.") == move
    assert python(f"{LEFT}{closing}{MOVE}") == move


@pytest.mark.parametrize(
    "text",
    [
        f"I leave out the <think> part.\n{MOVE}",
        f"There is no `<think>` in it:\n{MOVE}and no `</think>`.",
        f"{MOVE}I did not use <think> here.",
        f"[Analysis]\nThe wall is ahead.\n[Code]\n{MOVE}",
        f"<think>a</think>{MOVE}</think>",
        f"<answer>\n{MOVE}</answer>",
        f"<think>Go.\n<answer>{MOVE}</answer>",
        f"<think> tags are not needed here.\n{MOVE}",
        f"{MOVE}</think>\nRun it with:\n```python\nrun()\n```",
        f"{MOVE}</think>\nThe DSL would begin with `DEF run m(`.",
    ],
)
def test_a_mark_can_be_mentioned(text):
    assert python(text) == program("move")


def python_program(body):
    return from_text(program(body), KAREL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{LEFT}That is wrong, corrected version:\n{MOVE}", "move"),
        (f"{LEFT}Corrected:\n\ndef run():\n    move()\n\nThis moves.", "move"),
        (f"{LEFT}Corrected:\n```\ndef run():\n    move()\n```", "move"),
        (f"{TURN}{MOVE}", "move"),
        (f"{MOVE}{TURN}", "move"),
        (f"{TURN}Then:\n```python\ndef run():\n    turn()\n    move()\n```", "turnLeft move"),
        ("```python\ndef run():\n    turn()\n```\nwith\n" + TURN, "turnLeft"),
        ("def turn():\n    turnLeft()\n\nand with it\n\ndef run():\n    turn()\n\nDone.", "turnLeft"),
        (f"{TURN}No, twice:\n{TURN.replace('turnLeft()', 'turnRight()')}{MOVE.replace('move', 'turn')}", "turnRight"),
        (f"{TURN.replace('turn()', 'f()')}{TURN.replace('turn()', 'g()')}", "turnLeft"),
        (f"{TURN}```python\ndef solve():\n    turn()\n```", "turnLeft"),
        (f"{MOVE}The form was\n```python\ndef run():\n    ...\n```", "move"),
        (f"{MOVE}def run(): is the entry, `def run():` has no arguments.", "move"),
        (f"{LEFT}{MOVE.replace('()', '(', 1)}", "python syntax"),
        (f"{LEFT}Better:\n{MOVE.replace('move', 'walk')}", "unknown name"),
        ("```python\ndef run():\n    turn()\n\ndef turn():\n    run()\n```", "recursion"),
        ("```python\ndef run():\n    run()\n```", "recursion"),
        ("def go(n):\n    for i in range(n):\n        move()\ndef run():\n    go(2)", "REPEAT R=2 r( move r)"),
        ("```python\ndef go(n):\n    move()\ndef run():\n    go(frontIsClear)\n```", "bad argument"),
        ("def ok():\n    return frontIsClear()\ndef run():\n    while ok():\n        move()", AHEAD_WALL),
        (
            "```python\ndef bad():\n    if frontIsClear():\n        return False\n    return True\n"
            "def run():\n    while bad():\n        move()\n```",
            "WHILE c( not c( frontIsClear c) c) w( move w)",
        ),
        ("def ok():\n    move()\n    return True\ndef run():\n    if ok():\n        move()", "unsupported python"),
        ("def run():\n    f40()\n" + DOUBLING, "too long"),
    ],
)
def test_which_block_counts(text, expected):
    assert python(text) == (expected if expected in REASONS else program(expected))


def test_the_last_dsl_text_counts():
    assert dsl("DEF run m( turnLeft m)\nThat is wrong, corrected version:\nDEF run m( move m)") == program("move")
    assert dsl("```\nDEF run m( turnLeft m)\n```\nBetter:\n```\nDEF run m( jump m)\n```") == "unknown name"
    assert dsl("DEF run m( turnLeft\nDEF run m( move m)") == program("move")
    before = "```\nDEF run m( turnLeft m)\n```\nBetter:\n"
    assert dsl(before + "```\nDEF run m( move turnLeft\n```") == program("move turnLeft")
    assert dsl(before + "DEF RUN m( move m)") == program("move")
    for better in ("DEF main m( move m)", "DEF run m( for 3 r( move r) m)", "DEF run m( First move then turnLeft m)"):
        assert dsl(before + better) == "unknown name"
    assert dsl("DEF run m( move m) ) turnLeft m)") == "misplaced token"
    assert dsl("(DEF run m( move m))") == program("move")


def test_a_number_is_no_argument():
    loop = "    while not front_object_type(door):\n        left()"
    expected = program("WHILE c( not c( front_object_type h( door h) c) c) w( left w)")
    assert python(code(f"def run():\n{loop}"), MINIGRID) == expected
    assert python(code(f"def run():\n    door = 3\n{loop}"), MINIGRID) == "bad argument"


def test_a_translation_of_a_withdrawn_program_is_withdrawn():
    both = f"{LEFT}```\nDEF run m( turnLeft m)\n```\nThat is wrong.\n"
    assert [shown(found) for found in extract(both + MOVE, KAREL)] == [program("move"), "withdrawn"]
    assert [shown(found) for found in extract(both + "DEF run m( move m)", KAREL)] == ["withdrawn", program("move")]
    assert [shown(found) for found in extract(both, KAREL)] == [program("turnLeft")] * 2
    for correction, reasons in (
        (code("def run():\n    walk()"), ["unknown name", "withdrawn"]),
        ("```\nDEF run m( walk m)\n```", ["withdrawn", "unknown name"]),
    ):
        assert [shown(found) for found in extract(both + correction, KAREL)] == reasons
    for cut, reasons in (
        ("```python\ndef run():\n    mo", ["cut off", "withdrawn"]),
        ("```\nDEF run m( mo", ["withdrawn", "cut off"]),
    ):
        assert [shown(found) for found in extract(both + cut, KAREL, "length")] == reasons
    unread = code("def run():\n    while frontIsClear():\n        break") + "DEF run m( turnLeft m)\nNo:\n"
    assert [shown(found) for found in extract(unread + MOVE, KAREL)] == [program("move"), "withdrawn"]


CLEAR = "def clear():\n    return frontIsClear()\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a name means what it means where the function is defined
        (code("n = 5\ndef go():\n for i in range(n): move()\ndef run():\n n = 2\n go()"), "REPEAT R=5 r( move r)"),
        (code("def go():\n    for i in range(n): move()\ndef run():\n    n = 2\n    go()"), "bad count"),
        (code("def a(): move()\ndef b(): a()\ndef run():\n    def a(): turnLeft()\n    b()"), "move"),
        (code("def run():\n    n = 2\n    def a():\n        for i in range(n): move()\n    a()"), "bad count"),
        # parameters that change
        (code("def go(n):\n    for n in range(n): move()\ndef run():\n    go(3)"), "bad count"),
        (code("def go(n):\n n = 1\n for i in range(n): move()\ndef run():\n go(3)"), "unsupported python"),
        # the program's own definitions count first, stubs last, and two definitions are a reason to ask
        (code("N = 5\ndef run():\n for i in range(N): move()") + "Larger:\n" + code("N = 8"), "REPEAT R=5 r( move r)"),
        (code("N = 5\ndef run(): move()") + code("N = f()\ndef run(): move()"), "unsupported python"),
        (code("def go():\n    move()") + code("def go():\n    pass  # as above\n\ndef run():\n    go()"), "move"),
        (code("def go():\n    move()\ndef run():\n    go()") + "Template:\n" + code("def go():\n    pass"), "move"),
        (code(CLEAR + "def run():\n while clear(): move()") + "Mock:\n" + code("def clear(): return 1"), AHEAD_WALL),
        (code("def go():\n move()\ndef run():\n go()") + "Or:\n" + code("def go():\n turnLeft()"), "redefinition"),
        (
            code("def go(): move()") + code("def go(): turnLeft()\ndef run(): go()") + code("def run(): go()"),
            "turnLeft",
        ),
        # other names than run
        (code("def solve():\n    go()\n    turnLeft()") + "where\n" + code("def go():\n    move()"), "move turnLeft"),
        (code("def run():\n    move()\n\ndef main():\n    run()\n\nif __name__ == '__main__':\n    main()"), "move"),
        # corrections that are no program
        (LEFT + "Corrected:\n" + code("def run():\nmove()"), "python syntax"),
        (LEFT + "Corrected:\n" + code(">>> def run():\n...     move()"), "python syntax"),
        (LEFT + "Corrected:\n" + code("class A:\n    def run(self):\n        move()"), "no function"),
        (LEFT + "Corrected:\n" + code("async def run():\n    move()"), "no function"),
        (MOVE + "Then:\n" + code("    pickMarker()"), "unsupported python"),
        (MOVE + "Here\n" + code("move()") + "goes ahead. Call it:\n" + code("run()"), "move"),
        # what stands around a function that is not fenced
        ("move = turnLeft\n\ndef run():\n    move()", "redefinition"),
        ("from robot import turnLeft as move\ndef run():\n    move()", "redefinition"),
        ("move()\ndef run():\n    move()", "unsupported python"),
        ("So:\nN = 4\n\ndef run():\n    for i in range(N): move()", "REPEAT R=4 r( move r)"),
        ("def run():\n    move()\nfor example:", "move"),
        ("def run():\n    move()\nmove() goes ahead (one cell)", "move"),
        ("def run():\n    move()\nif frontIsClear():\n    move()", "unsupported python"),
        # tags, quotes and fences
        ("<answer>def run():\n    move()</answer>", "move"),
        ("def run():\n    move()<|im_end|>", "move"),
        ("> ```python\n> def run():\n>     move()\n> ```", "move"),
        (f"Here is the ```python block:\n{MOVE}", "move"),
        (f"````markdown\n{MOVE}````", "move"),
        ("`def run(): move()`", "move"),
        (f"{MOVE}- `def run():` starts:\n  - `move()` moves.", "move"),
        (f"{MOVE}* **def run():** starts\n    * it moves", "move"),
        (MOVE + code("def run():\n    # your program"), "move"),
        (MOVE + code("def run():\n    S"), "move"),
    ],
)  # fmt: skip
def test_what_stands_around_the_program(text, expected):
    assert python(text) == (expected if expected in REASONS else program(expected))


@pytest.mark.parametrize(
    "definition",
    [
        "def move():\n    turnLeft()",
        "def frontIsClear():\n    return True",
        "move = turnLeft",
        "move = lambda: turnLeft()",
        "from robot import turnLeft as move",
        "class move:\n    pass",
        "def help(move):\n    move()\n\ndef run():\n    help(3)",
        "def run():\n    for move in range(3):\n        turnLeft()",
        "def run():\n    move = 3\n    turnLeft()",
        "def run():\n    def move():\n        turnLeft()\n    move()",
        "def range(n):\n    return [1]",
    ],
)
def test_words_keep_their_meaning(definition):
    run = "" if "def run" in definition else "\n\ndef run():\n    move()"
    assert python(f"```python\n{definition}{run}\n```") == "redefinition"


@pytest.mark.parametrize(
    "text",
    [
        f"```python\ndef move():\n    pass\n\ndef frontIsClear():\n    return False\n```\n{MOVE}",
        "```python\ndef move():\n    'One step.'\n\ndef turnLeft(): ...\n\ndef run():\n    move()\n```",
        "```python\ndef move():\n    raise NotImplementedError\n\ndef run():\n    move()\n```",
        "```python\nfrom robot import move, turnLeft\ndef run():\n    move()\n```",
        "```python\ndef move(): pass\n\ndef solve():\n    move()\n\nsolve()\n```",
    ],
)
def test_stubs_are_passed_over(text):
    assert python(text) == program("move")


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        ("for i in range(1, 5):", 4),
        ("for i in range(0, 10, 2):", 5),
        ("for i in range(5 * 2):", 10),
        ("for i in range(5, 0, -1):", 5),
        ("for i in range((2 + 3) * 4 // 2 - 2 ** 2 % 3 - -1):", 10),
        ("n = 4\n    for i in range(n):", 4),
        ("n: int = 4\n    m = n * 2\n    for i in range(1, m):", 7),
        ("for i in range(SIZE - 1):", 7),
        ("for i in range(4.0):", "bad count"),
        ("for i in range(True):", "bad count"),
        ("for i in range(8 / 2):", "bad count"),
        ("for i in range(9 ** 9 ** 9):", "bad count"),
        ("for i in range(1, 9, 0):", "bad count"),
        ("for i in range(4 // 0):", "bad count"),
        ("for i in range(len('four')):", "bad count"),
        ("for i in range(unknown):", "bad count"),
        ("for i in [1, 2, 3]:", "bad count"),
        ("n = 4\n    n = 5\n    for i in range(n):", "unsupported python"),
        ("if frontIsClear():\n        n = 4\n    for i in range(n):", "bad count"),
        ("if frontIsClear():\n        n = 4\n        turnLeft()\n    for i in range(n):", "bad count"),
        ("for SIZE in range(3):\n        turnLeft()\n    for i in range(SIZE):", "bad count"),
    ],
)
def test_counts(loop, expected):
    found = python(f"```python\nSIZE = 8\ndef run():\n    {loop}\n        move()\n```")
    assert found == (expected if expected in REASONS else program(f"REPEAT R={expected} r( move r)"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (MOVE, "move"),
        (f"{MOVE}It mo", "move"),
        ("def run():\n    move()\n\nThis moves on", "move"),
        (f"{MOVE}```\nDEF run m( mo", "move"),
        ("DEF run m( move m)", "move"),
        ("DEF run m( move m) It mo", "move"),
        ("```python\ndef run():\n    move()\n", "cut off"),
        ("def run():\n    move()", "cut off"),
        ("def run():\n    move()\n    mo", "cut off"),
        ("DEF run m( move", "cut off"),
        ("DEF run m( WHILE c( frontIsClear c) w( move w)", "cut off"),
        (f"{LEFT}That is wrong:\n```python\ndef run():\n    mo", "cut off"),
        ("DEF run m( move m) Better: DEF run m( mo", "cut off"),
        ("```python\ndef run():\n    turn()\n```\nwith\n```python\ndef turn():\n    turnLe", "cut off"),
        (f"{LEFT} No, </think>The", "cut off"),
        (f"<think>{LEFT}", "cut off"),
        (f"{TURN}Main:\n```python\ndef run():\n    ", "cut off"),
        (f"{TURN}Main:", "cut off"),
        (f"{LEFT}Better:\n```python\ndef ru", "cut off"),
        (f"{LEFT}Better:\n```", "cut off"),
        ("DEF run m( turnLeft m)\nBetter:\nDEF run m(", "cut off"),
        ("DEF run m( turnLeft m)\nBetter:\nDEF ru", "cut off"),
        ("DEF run m( turnLeft m)\nBetter:\nDEF run m( mov", "cut off"),
        ("The", "cut off"),
        ("", "cut off"),
        (MOVE.replace("move", "walk"), "unknown name"),
    ],
)
def test_an_answer_that_was_cut_off(text, found):
    for finish in (
        "length",
        "MAX_TOKENS",
        "content_filter: SAFETY",
        "abort",
        "insufficient_system_resource",
        "refusal",
    ):
        extraction = extract(text, KAREL, finish)
        assert (extraction.reason or str(choose(extraction, 0))) == (found if found in REASONS else program(found))
    for finish in ("stop", "STOP", "eos_token", "end_turn", "complete", "tool_calls", "", None):
        assert extract(text, KAREL, finish).reason != "cut off"


@pytest.mark.parametrize(
    "text",
    [
        "A program starts with DEF run m( and ends with m).\nDEF run m( move m)",
        "DEF run m( move m)\nIt begins with DEF run m( as asked.",
        "DEF run m( move m)\nIt begins with `DEF run m(`.",
        "DEF run m( opens the program: DEF run m( move m)",
        "The form is DEF run m( <statements> m), so:\n```\nDEF run m( move m)\n```",
        "The form is `DEF run m( body m)`.\nDEF run m( move m)",
        "```\nDEF run m( ... m)\n```\nDEF run m( move m)",
        "DEF run m( move m)\nDEF run m( denotes the start.",
        "DEF run m( move m)\nDEF run m( and m) wrap the program.",
        "DEF run m( move m)\nDEF run m( m) wraps it.",
        "DEF run m( move m)\nThe keyword DEF run defines the program.",
        "DEF run m( move m)\nThe form is DEF run m( S1 S2 m) or DEF run m( [instructions] m).",
    ],
)
def test_a_program_can_be_mentioned(text):
    assert dsl(text) == program("move")


SHAPES = (
    "(", ")", "()", "c( ", "w( ", "m)", "R=1", "r=1r(", "move ", "DEF run m( ", "WHILE ", "IF c( frontIsClear c) i( ",
    "def run():\n", "def run():\n    move()\n", "def ", "    move()\n", "move();", "not ", "frontIsClear and ",
    "<think>", "</think>", "[THINK]", "def run(): x y\n", "`def run():` z", "DEF run m( and ", "lambda: ", "if a:\n ",
    "while ", "else:", "a.b.", "1", "0x", "[", "{", "f'{", "'", '"', "\'\'\'", "`", "```",
    "```\n", "~~~ ", "#", "# x\n", "# m(\n", "//", "\\", "\0", "\ud800", "\u00a0", "\r", "\t", " ", "\n ",
)  # fmt: skip
"""What texts without end are made of."""


BEGINNINGS = ("", "DEF run m( ", "DEF run m( WHILE c( ", "```python\ndef run():\n    ", "def run():\n    while ")


def test_no_text_takes_a_second():
    for number, shape in enumerate(SHAPES):
        check_quickly(BEGINNINGS[number % len(BEGINNINGS)], shape, MOST_CHARACTERS)
        check_quickly(BEGINNINGS[(number + 1) % len(BEGINNINGS)], shape, 1_000_000)


@pytest.mark.full
def test_no_text_takes_a_second_in_full():
    for begin in BEGINNINGS:
        for shape in SHAPES:
            check_quickly(begin, shape, MOST_CHARACTERS)
            check_quickly(begin, shape, 10_000_000)


def check_quickly(begin, shape, size):
    text = begin + shape * ((size - len(begin)) // len(shape))
    before = time.process_time()
    extraction = extract(text, KAREL)
    assert time.process_time() - before < 1, (begin, shape)
    assert all(rejection.reason in REASONS for rejection in extraction.rejections)


def test_a_text_without_end_is_not_read():
    text = "DEF run m( move m)" + " " * MOST_CHARACTERS
    assert dsl(text[:MOST_CHARACTERS]) == program("move")
    assert dsl(text) == python(text) == "too long"
    assert dsl("(" * 40_000) == python("(" * 40_000).replace("python", "dsl") == "no dsl block"


def test_longest_program():
    assert token_count(extract("DEF run m( " + "move " * 252 + "m)", KAREL).dsl) == PROGRAM_TOKENS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So:\ndef run():\n  move()\n\n  turnLeft()\n\nThis moves.", "move turnLeft"),
        ("```python\ndef run():\n    move()\nDone.", "move"),
        ("```\ndef run():\n    move()\n```", "move"),
        (
            "<think>\n```python\ndef run():\n    turnLeft()\n```\n</think>\n```python\ndef run():\n    move()\n```",
            "move",
        ),
        ("x" * MOST_CHARACTERS + "</think>\ndef run():\n    move()", "move"),
        ("def run():\n    move()\n    return", "move"),
        ("def run():\n    if frontIsClear():\n        return\n    move()", "unsupported python"),
        ("def run():\n    while 1:\n        move()", "REPEAT R=19 r( move r)"),
        ("def run():\n    return", "empty body"),
        ("def run(n=3):\n    move()", "unsupported python"),
        ("```python\n@twice\ndef run():\n    move()\n```", "unsupported python"),
        ("```python def run(): move()```", "move"),
        ("~~~PY\ndef run(): move()\n~~~", "move"),
        ("```python\nx = 1\n```\n```text\ndef run(): move()\n```", "move"),
        ("Here: def run():\n    move()", "move"),
        ('```python\ndef run():\n    move()\nif __name__ == "__main__":\n    run()\n```', "move"),
        ("```python\ndef run():\n    move()\nmove()\n```", "unsupported python"),
        ("```python\nfor i in range(3):\n    run()\ndef run():\n    move()\n```", "unsupported python"),
        ("```python\ndef run():\n    move()\nrun()\nrun()\n```", "unsupported python"),
        ("def run():\n    move()\nputMarker()\nDone.", "unsupported python"),
        ("```python\ndef run()\n    move()\n```", "python syntax"),
        ("```python\ndef run():\n    move()\ndef run():\n    turnLeft()\n```", "no function"),
        ("def run():\n    for i in range({[1]}):\n        move()", "bad count"),
        ("def run():\n    while 0x" + "f" * 9000 + ":\n        move()", "unsupported python"),
        ("def run():\n    while f'{\"\\n\"}':\n        move()", None),
        ("def run():\n    while " + "not " * 3000 + "frontIsClear():\n        move()", None),
        ("def run():\n    while " + "frontIsClear() and " * 3000 + "True:\n        move()", "too long"),
        ("def run():\n    if frontIsClear(): move()\n" + "    elif leftIsClear(): move()\n" * 3000, None),
    ],
)
def test_python_blocks(text, expected):
    found = python(text)
    if expected is None:  # what Python itself says depends on its version
        assert found in ("too long", "python syntax", "unsupported python")
    else:
        assert found == (expected if expected in REASONS else program(expected))


def test_reading_python_raises_only_its_own_error():
    for condition in ("not " * 3000 + "frontIsClear()", "0x" + "f" * 9000, "f'{\"\\n\"}'"):
        with pytest.raises(PythonError):
            from_python(f"def run():\n    while {condition}:\n        move()", KAREL)


def recorded_programs():
    found = {(found, language.name) for answer, language in ANSWERS for found in extract(answer, language).programs}
    return sorted(((str(found), name) for found, name in found), key=lambda pair: (len(pair[0]), pair))


def slips(tokens):
    """Yield texts with one bracket left out, doubled, plain, or with another letter."""
    for at, token in enumerate(tokens):
        if token[-1] in "()":
            others = [letter + token[-1] for letter in "mwirech"]
            for slip in ([], [token, token], [token[-1]], *([other] for other in others if other != token)):
                yield " ".join([*tokens[:at], *slip, *tokens[at + 1 :]])


def test_one_slip_is_read_right_or_rejected():
    read = rejected = 0
    for text, name in recorded_programs()[::7]:
        for slip in slips(text.split()):
            found = dsl(slip, LANGUAGES[name])
            assert found == text or found in REASONS, slip
            read, rejected = read + (found == text), rejected + (found != text)
    assert read > rejected / 3 > 0


def check(text, language):
    extraction = extract(text, language)
    for outcome, block in zip(extraction, ("python", "dsl"), strict=True):
        if isinstance(outcome, Rejection):
            assert outcome.block == block
            assert outcome.reason in REASONS
            assert outcome.message
        else:
            assert isinstance(outcome, ast.Program)
            assert token_count(outcome) <= PROGRAM_TOKENS
            assert from_text(str(outcome), language) == outcome == normalise(outcome, language)
            assert extract(outcome.to_python(), language).python == outcome


@given(st.text(), st.sampled_from(list(LANGUAGES.values())))
def test_any_text(text, language):
    check(text, language)
    check(f"DEF run m( {text}", language)
    check(f"```python\ndef run():\n    {text}\n```", language)


WORDS = (
    "DEF run m( m) w( w) i( i) e( e) r( r) c( c) h( h) ( ) WHILE IF IFELSE ELSE REPEAT R=3 R= 5 not and or True "
    "false move turnLeft forward frontIsClear markersPresent front_is_clear front_object_type lava 'red' ; , # //"
)
PYTHON_WORDS = (
    "def run(): move() forward() while if elif else: for i in range(3): not and or True frontIsClear() : pass "
    "markersPresent() front_object_type('lava') ( ) run() break ``` # \\ f'{"
)


LOOP = code("def run():\n    while frontIsClear():\n        move()")
WHOLE = f"So.\n{LOOP}It.\n{program(AHEAD_WALL)}."


def test_no_cut_gives_another_program():
    """Wherever an answer is cut off, it gives its program or none; behind its program it gives it."""
    whole = extract(WHOLE, KAREL)
    for end in range(len(WHOLE)):
        extraction = extract(WHOLE[:end], KAREL, "length")
        assert set(extraction.programs) <= set(whole.programs)
        assert bool(extraction.programs) == (end >= WHOLE.index("```\nIt.") + 3), WHOLE[:end]
        assert extraction.programs or extraction.reason == "cut off"
    for text in ("DEF run m( WHILE " + "not " * 500 + "frontIsClear w( move w) m)\nDEF run m( move m)\n", MOVE):
        assert extract(text + LEFT + "DEF run m( move m)", KAREL).programs


@given(st.lists(st.sampled_from([*WORDS.split(), "\n"])), st.sampled_from(list(LANGUAGES.values())))
def test_any_dsl_words(words, language):
    check("DEF run m( " + " ".join(words), language)


@given(
    st.lists(st.sampled_from([*PYTHON_WORDS.split(), "\n", "\n    ", "\n        "])), st.sampled_from([KAREL, MINIGRID])
)
def test_any_python_words(words, language):
    check("```python\ndef run():\n    " + " ".join(words), language)


@given(st.data())
def test_mutated_answers(data):
    answer, language = data.draw(st.sampled_from(ANSWERS))
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(answer)))
        end = data.draw(st.integers(begin, min(begin + 12, len(answer))))
        inserted = data.draw(st.sampled_from(["", " ", "\n", "```", answer[begin:end] * 2, *WORDS.split()]))
        answer = answer[:begin] + inserted + answer[end:]
    check(answer, language)
