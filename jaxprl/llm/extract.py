"""Extracts programs from one raw answer of a language model; what cannot be read with certainty is rejected by name.

An answer is read twice. Its Python function goes through Python's own parser, and its DSL text goes through a reader
that forgives slips as long as only one program can be meant. No code is evaluated, and no statement is left out.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import NamedTuple

from jaxprl.dsl import ast
from jaxprl.dsl.language import COUNTS, PROGRAM_TOKENS, Language
from jaxprl.dsl.python_names import PythonError
from jaxprl.dsl.text import token_count
from jaxprl.llm.dsl_blocks import dsl_texts, holds_dsl, read_dsl
from jaxprl.llm.dsl_reader import Unreadable
from jaxprl.llm.python_blocks import attempts, holds_python, read_python
from jaxprl.llm.thoughts import without_thoughts

MOST_CHARACTERS = 50_000
"""The most characters of an answer. Any text of this length is read within a fifth of a second."""
MOST_WITH_THOUGHTS = 1_000_000
"""The most characters of an answer with what a model thought before it. Thoughts are not looked for in longer ones."""
REASONS = {
    "no block": "neither a Python function nor DSL text",
    "no python block": "neither a Python block nor a line that begins a function",
    "no function": "a Python block without one function to read",
    "python syntax": "not Python",
    "unsupported python": "Python that has no counterpart in the DSL",
    "redefinition": "a word of the language, or a function of the program, that the answer gives another meaning",
    "recursion": "a function that calls itself",
    "no dsl block": "no text that begins with DEF run m(",
    "unknown name": "a name that the language does not have",
    "unknown token": "a character that the DSL does not have",
    "misplaced token": "a word or bracket of the DSL where it cannot stand",
    "unclosed": "an end is missing, and it can be put in more than one place",
    "unclear comment": "a comment with DSL brackets in it: where does it end?",
    "ambiguous condition": "`not`, `and`, `or` that can be grouped in more than one way",
    "bad argument": "a perception or a function with an argument that it does not take, or without one that it needs",
    "bad count": "a count of repetitions that is not a constant whole number",
    "empty body": "a block without a statement",
    "withdrawn": "the translation of a program that the answer replaces by another one",
    "cut off": "the answer was cut off before its program was complete",
    "too long": f"more than {PROGRAM_TOKENS} tokens, or an answer of more than {MOST_CHARACTERS:,} characters",
}
"""The reasons for rejections, by which they can be counted, and what they mean."""

_FOREVER = COUNTS[-1]
"""The count of the REPEAT that replaces `while True`."""
# Tags and special tokens around code, and the marks of quoted lines.
_MARKUP = re.compile(
    r"</?(?:(?:final_?)?answer|code|pre|solution|output|response|final|program|python|dsl|result|s|p|br|div)"
    r"(?:\s[^<>\n]{0,80})?/?>|<\|\w{1,20}\|>",
    re.IGNORECASE,
)
_QUOTE = re.compile(r"^[ \t]*>[ \t]?", re.MULTILINE)
_LOOKALIKES = str.maketrans(
    {"\u00a0": " ", "\u200b": None, "\ufeff": None, "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
)
_ENDED = re.compile(r"stop|eos|end|complete|finish|done|tool|function|normal|unknown|none|null|$", re.IGNORECASE)
"""Matches the beginning of what servers call the end of a complete answer. Whatever else they say, it was cut off."""


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


def extract(text: str, language: Language, finish: str | None = None) -> Extraction:
    """Extract the programs of an answer's Python block and DSL block.

    What a model thinks before it answers is not part of the answer (`thoughts.py`). Of several programs in one
    notation the last one counts: the others are attempts that it replaces, and so are their translations. No text
    raises an exception.

    Args:
      text: the raw answer.
      language: the language of the programs.
      finish: why the model stopped, in the server's words. If that is not the end of the answer, like "length" or
        "content_filter", a program counts only if its end is marked: by a fence, or by other text behind a Python
        function, or by the last bracket of a DSL text.

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
    cut = finish is not None and not _ENDED.match(finish)
    if len(text) <= MOST_WITH_THOUGHTS:
        text = without_thoughts(text, functools.partial(_holds_program, language=language), cut=cut)
    if len(text) > MOST_CHARACTERS:
        message = f"an answer of {len(text):,} characters, at most {MOST_CHARACTERS:,} are read"
        return Extraction(Rejection("python", "too long", message), Rejection("dsl", "too long", message))
    text = text.translate(_LOOKALIKES).replace("\r\n", "\n").replace("\r", "\n")
    text = _QUOTE.sub("", _MARKUP.sub("\n", text))
    python = _outcome("python", read_python, text, language, cut)
    dsl = _outcome("dsl", read_dsl, text, language, cut)
    extraction = _without_withdrawn(Extraction(python, dsl), text, language, cut)
    if cut and not extraction.programs and not extraction.slips:
        message = f"the answer was cut off before a program ({finish})"
        return Extraction(Rejection("python", "cut off", message), Rejection("dsl", "cut off", message))
    return extraction


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


def _holds_program(text: str, language: Language) -> bool:
    """Return whether a text contains what looks like a program, or is too long for it to matter."""
    if "def" not in text.lower():
        return False
    return len(text) > MOST_CHARACTERS or holds_python(text) or holds_dsl(text, language)


def _without_withdrawn(extraction: Extraction, text: str, language: Language, cut: bool) -> Extraction:
    """Reject the translation of a program that the answer replaces.

    The other notation has more attempts, and the last of them follows it: it translates an earlier one.
    """
    if not extraction.programs:
        return extraction
    dsl = [each.begin for each in dsl_texts(text, language, cut=cut)]
    places = {"python": attempts(text, cut=cut), "dsl": dsl}

    def checked(block: str, other: str) -> ast.Program | Rejection:
        outcome = getattr(extraction, block)
        own, others = places[block], places[other]
        is_replaced = 0 < len(own) < len(others) and own[-1] < others[-1]
        if isinstance(outcome, Rejection) or not is_replaced or outcome == getattr(extraction, other):
            return outcome
        return Rejection(block, "withdrawn", f"it translates a {other} program that a later one replaces")

    return Extraction(checked("python", "dsl"), checked("dsl", "python"))


def _outcome(
    block: str, read: Callable[..., ast.Program], text: str, language: Language, cut: bool
) -> ast.Program | Rejection:
    """Return the normalised program that a reader finds in the text, or the rejection."""
    try:
        program = normalise(read(text, language, cut=cut), language)
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
