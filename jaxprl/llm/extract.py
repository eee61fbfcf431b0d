"""Extracts programs from one raw answer of a language model; what cannot be read with certainty is rejected by name.

An answer is read twice. Its Python function goes through Python's own parser, and its DSL text goes through a reader
that forgives slips as long as only one program can be meant. No code is evaluated, and no statement is left out.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from jaxprl.dsl import ast
from jaxprl.dsl.language import COUNTS, PROGRAM_TOKENS, Language
from jaxprl.dsl.python import PythonError, from_python
from jaxprl.dsl.text import token_count
from jaxprl.llm.dsl_reader import Unreadable, read_dsl

MOST_CHARACTERS = 50_000
"""The most characters of an answer. Any text of this length is read within a fifth of a second."""
REASONS = {
    "no block": "neither a Python function nor DSL text",
    "no python block": "neither a Python block nor a line that begins a function",
    "no function": "a Python block without one function to read",
    "python syntax": "not Python",
    "unsupported python": "Python that has no counterpart in the DSL",
    "no dsl block": "no text that begins with DEF run m(",
    "unknown name": "a name that the language does not have",
    "unknown token": "a character that the DSL does not have",
    "misplaced token": "a word or bracket of the DSL where it cannot stand",
    "unclosed": "an end is missing, and it can be put in more than one place",
    "unclear comment": "a comment with DSL brackets in it: where does it end?",
    "ambiguous condition": "`not`, `and`, `or` that can be grouped in more than one way",
    "bad argument": "a perception with an argument that it does not take, or without the one that it needs",
    "bad count": "a count of repetitions that is not a literal integer",
    "empty body": "a block without a statement",
    "too long": f"more than {PROGRAM_TOKENS} tokens, or an answer of more than {MOST_CHARACTERS:,} characters",
}
"""The reasons for rejections, by which they can be counted, and what they mean."""

_FOREVER = COUNTS[-1]
"""The count of the REPEAT that replaces `while True`."""
_LOOKALIKES = str.maketrans(
    {"\u00a0": " ", "\u200b": None, "\ufeff": None, "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
)
_FENCE = re.compile(r"`{3,}|~{3,}")
_PYTHON_TAG = re.compile(r"[ \t]*(?:python|py)[\d.]*(?!\w)", re.IGNORECASE)
_FUNCTION = re.compile(r"\bdef[ \t]+\w+[ \t]*\(")
# A line outside a fence that may belong to the function before it: a call, the head of a block, or a comment.
_CODE_LINE = re.compile(r"\w+\(.*\)[;\s]*(?:#.*)?$|(?:def|while|for|if|elif|else)\b.*:|#")


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A block of an answer that gave no program."""

    block: str
    """The kind of the block: "python" or "dsl"."""
    reason: str
    """One of `REASONS`."""
    message: str
    """What is wrong, and where."""


class Extraction(NamedTuple):
    """The results of the two readings of one answer."""

    python: ast.Program | Rejection
    dsl: ast.Program | Rejection

    @property
    def programs(self) -> tuple[ast.Program, ...]:
        """The valid programs: zero, one or two."""
        return tuple(outcome for outcome in self if isinstance(outcome, ast.Program))

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """The rejections of the blocks without a program."""
        return tuple(outcome for outcome in self if isinstance(outcome, Rejection))

    @property
    def slips(self) -> tuple[Rejection, ...]:
        """The rejections of blocks that the answer contains; not every prompt asks for both blocks."""
        return tuple(each for each in self.rejections if each.reason not in ("no python block", "no dsl block"))

    @property
    def reason(self) -> str | None:
        """The reason (one of `REASONS`) why the answer gave no program, or None if it gave one."""
        if self.programs:
            return None
        return self.slips[0].reason if self.slips else "no block"


def extract(text: str, language: Language) -> Extraction:
    """Extract the programs of an answer's Python block and DSL block.

    What a model thinks before it answers (up to `</think>`) is not part of the answer. No text raises an exception.

    Args:
      text: the raw answer.
      language: the language of the programs.

    Returns:
      For each block its normalised program, or the rejection.

    Example:
      >>> import jaxprl
      >>> language = jaxprl.make("DoorKey").language
      >>> print(extract("Here it is: DEF run m( WHILE not frontIsClear w( turnLeft w) move() m)", language).dsl)
      DEF run m( WHILE c( not c( frontIsClear c) c) w( turnLeft w) move m)
      >>> extract("DEF run m( REPEAT R=n r( move r) m)", language).dsl
      Rejection(block='dsl', reason='bad count', message="token 4: expected a count like R=3, found 'R=n'")
    """
    text = text.rpartition("</think>")[2].partition("<think>")[0]  # thoughts contain drafts of programs
    if len(text) > MOST_CHARACTERS:
        message = f"an answer of {len(text):,} characters, at most {MOST_CHARACTERS:,} are read"
        return Extraction(Rejection("python", "too long", message), Rejection("dsl", "too long", message))
    text = text.translate(_LOOKALIKES).replace("\r\n", "\n").replace("\r", "\n")
    return Extraction(_outcome("python", _python, text, language), _outcome("dsl", read_dsl, text, language))


def choose(extraction: Extraction, draw: int) -> ast.Program | None:
    """Choose one of the valid programs of an answer.

    Args:
      extraction: the extraction.
      draw: a random integer. The choice is uniform if it is drawn uniformly from an even number of integers 0, 1, ...

    Returns:
      The program, or None if there is none.
    """
    programs = extraction.programs
    return programs[draw % len(programs)] if programs else None


def normalise(program: ast.Program, language: Language) -> ast.Program:
    """Normalise a program of a language model as LLM-GS does.

    The rule of LLM-GS: `while True` counts as `REPEAT R=19`, `while False` counts as `REPEAT R=0`, and counts are
    clipped to 0..19. Besides, constants are folded where no call is lost, and `not` before a perception becomes the
    perception's complement if the language has one; neither changes what a program does.

    Args:
      program: the program.
      language: its language.

    Returns:
      The normalised program.

    Example:
      >>> import jaxprl
      >>> task = jaxprl.make("DoorKey")
      >>> program = jaxprl.parse("DEF run m( WHILE c( True c) w( move w) REPEAT R=99 r( move r) m)", task)
      >>> print(normalise(program, task.language))
      DEF run m( REPEAT R=19 r( move r) REPEAT R=19 r( move r) m)
    """
    return ast.Program(_normal_body(program.body, language))


def _outcome(
    block: str, read: Callable[[str, Language], ast.Program], text: str, language: Language
) -> ast.Program | Rejection:
    """Return the normalised program that a reader finds in the text, or the rejection."""
    try:
        program = normalise(read(text, language), language)
        tokens = token_count(program)
    except (Unreadable, PythonError) as error:
        return Rejection(block, error.reason, str(error))
    except RecursionError:  # a level of nesting takes at least three tokens, so it has too many of them
        return Rejection(block, "too long", f"nested too deeply for {PROGRAM_TOKENS} tokens")
    if tokens > PROGRAM_TOKENS:
        return Rejection(block, "too long", f"{tokens} tokens, at most {PROGRAM_TOKENS} are run")
    return program


def _normal_body(body: ast.Body, language: Language) -> ast.Body:
    return tuple(_normal_statement(statement, language) for statement in body)


def _normal_statement(statement: ast.Statement, language: Language) -> ast.Statement:
    match statement:
        case ast.While(condition, body):
            test, body = _normal_condition(ast.fold(condition), language), _normal_body(body, language)
            if isinstance(test, ast.Constant):
                return ast.Repeat(_FOREVER if test.value else 0, body)
            return ast.While(test, body)
        case ast.If(condition, body):
            return ast.If(_normal_condition(ast.fold(condition), language), _normal_body(body, language))
        case ast.IfElse(condition, body, other):
            test = _normal_condition(ast.fold(condition), language)
            return ast.IfElse(test, _normal_body(body, language), _normal_body(other, language))
        case ast.Repeat(count, body):
            return ast.Repeat(min(max(count, COUNTS[0]), COUNTS[-1]), _normal_body(body, language))
        case ast.Action():
            return statement


def _normal_condition(condition: ast.Condition, language: Language) -> ast.Condition:
    match condition:
        case ast.Not(inner):
            inner = _normal_condition(inner, language)
            if isinstance(inner, ast.Perception) and inner.name in language.complements:
                return ast.Perception(language.complements[inner.name])
            return ast.Not(inner)
        case ast.And(left, right) | ast.Or(left, right):
            return type(condition)(_normal_condition(left, language), _normal_condition(right, language))
    return condition


class _Piece(NamedTuple):
    """A part of an answer between two fences, or before the first or behind the last one."""

    text: str
    rank: int
    """0 for a Python block, 1 for another block, 2 for the text around blocks."""
    closed: bool
    """Whether fences on both sides mark where the code begins and ends."""


def _pieces(text: str) -> list[_Piece]:
    """Return the parts that the fences separate, Python blocks first.

    The line of an opening fence is left out of its block, unless it contains code: from "```python", a line end and
    "def run(): ...", the second line is kept, and from "```python def run(): ..." everything behind the tag.
    """
    pieces = []
    parts = _FENCE.split(text)
    for number, piece in enumerate(parts):
        inside = number % 2 == 1  # text, block, text, block, ..., text
        tag = _PYTHON_TAG.match(piece) if inside else None
        line, _, rest = piece.partition("\n")
        if inside:
            piece = piece[tag.end() if tag else 0 :] if _FUNCTION.search(line) else rest
        pieces.append(_Piece(piece, 0 if tag else 2 - inside, inside and number < len(parts) - 1))
    return sorted(pieces, key=lambda piece: piece.rank)


def _python(text: str, language: Language) -> ast.Program:
    """Read the first function of a Python block, or else of another block, or else of the text around them."""
    pieces = _pieces(text)
    for piece in pieces:
        if begin := _FUNCTION.search(piece.text):
            source = textwrap.dedent(piece.text) if piece.closed else _function_lines(piece.text, begin.start())
            return from_python(source, language)
    if pieces[0].rank == 0:
        raise Unreadable("no function", "the Python block holds no function")
    raise Unreadable("no python block", "neither a ```python block nor a function def run():")


def _function_lines(text: str, begin: int) -> str:
    """Return the function that begins at position `begin`, without the prose behind it.

    The function ends before the first line that is not indented and does not look like code. Lines that look like code
    are kept, for the reader to judge. Of these lines, the last one is left out:

        def run():
            move()
        run()
        This program moves once.
    """
    line_start = text.rfind("\n", 0, begin) + 1
    lead = text[line_start:begin]
    first, *rest = text[line_start if not lead.strip() else begin :].split("\n")
    margin = len(first) - len(first.lstrip())
    lines = [first]
    for line in rest:
        indented = len(line) - len(line.lstrip()) > margin
        if line.strip() and not indented and not _CODE_LINE.match(line.lstrip()):
            break
        lines.append(line)
    return textwrap.dedent("\n".join(lines))
