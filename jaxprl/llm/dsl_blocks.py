"""Finds the DSL texts in an answer that are meant as programs, and takes the last one."""

from __future__ import annotations

import re
from typing import NamedTuple

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language
from jaxprl.llm.dsl_reader import WORDS, Unreadable, read_source

_MOST_WITHDRAWN = 8
"""The most attempts of an answer that are compared with its other program."""
# A program begins with DEF before `run` or `m`; in lower case only before `run m`, for `def run` may begin Python code.
_DSL_BEGIN = re.compile(r"\bDEF(?=\s+(?:run|m)\b)|\b[Dd][Ee][Ff](?=\s+run\s+m\b)")
_DSL_FORM = re.compile(r"DEF\s+(?:run\s+)?m\(\s*(?:S|\.\.\.|\u2026)\s*m\)", re.IGNORECASE)
"""Matches the form of programs, `DEF run m( S m)`, which models quote from the prompt. It is not a program."""
# A closing `m)` at the end of a line, with the next line that is not empty as group 1.
_LAST_LINE = re.compile(r"\bm\s*\)[^\S\n]*\n\s*(?=(.*))")
_DSL_END = re.compile(r"`|~~~|\bDEF\b")
# What follows `DEF run m(` in a sentence about programs, or in a sketch of one.
_MENTION = re.compile(
    r"""[^\w(#/]*(?:\Z | (?: s | stmts? | statements? | body | program | code | your | a | all | an | and | are
    | around | as | at | before | block | but | by | can | comes | first | for | form | format | from | has | header
    | in | is | it | its | line | marks? | may | means | must | notation | of | on | opens | or | prefix | should | so
    | starts? | syntax | that | the | then | this | to | tokens? | was | which | will | with ) \b (?!\s*\() )""",
    re.VERBOSE | re.IGNORECASE,
)
_CLOSED = re.compile(r"\bm\s*\)|\)\s*\Z")
_DSL_OPENING = re.compile(r"\w+\s+(?:run\b\s*(?:\(\s*\))?\s*:?)?\s*(?:m\s*)?\(", re.IGNORECASE)


def read_dsl(text: str, language: Language, *, cut: bool = False) -> ast.Program:
    """Read the last DSL program in a text.

    The program ends at its last bracket, at its fence, at prose on the lines behind it, or at the next DEF.

    Args:
      text: a raw answer; the program may be fenced or not.
      language: the language of the program.
      cut: whether the answer was cut off. A program without its last bracket is then none.

    Returns:
      The program as it was written, not normalised.

    Raises:
      Unreadable: if there is no program, or if it is not clear which one is meant.

    Example:
      >>> import jaxprl
      >>> print(read_dsl("DEF run m( REPEAT 5 r( move() r) m)", jaxprl.make("DoorKey").language))
      DEF run m( REPEAT R=5 r( move r) m)
    """
    texts = dsl_texts(text)
    if not texts:
        raise Unreadable("no dsl block", "no text that begins with DEF run m(")
    return _read(texts[-1], language, cut=cut)


def withdrawn_dsl(text: str, language: Language) -> list[ast.Program]:
    """Return the programs of a text that a later one replaces, as far as they can be read."""
    programs = []
    for each in dsl_texts(text)[-1 - _MOST_WITHDRAWN : -1]:
        try:
            programs.append(_read(each, language))
        except Unreadable:
            continue
    return programs


class _Text(NamedTuple):
    """A text from `DEF` to where its program has to end."""

    source: str
    followed: str
    """What ends it: a fence, a backtick, the next DEF, or nothing at the end of the answer."""


def dsl_texts(text: str) -> list[_Text]:
    """Return the texts in an answer that are meant as programs, in order.

    `DEF run m(` in a sentence is not, nor is a text that does not end with a bracket if another one does.
    """
    texts = []
    for begin in _DSL_BEGIN.finditer(text):
        if not _DSL_FORM.match(text, begin.start()):
            end = _DSL_END.search(text, begin.end())
            texts.append(_Text(text[begin.start() : end.start() if end else len(text)], end.group() if end else ""))
    meant = [each for each in texts if not _mentions(each.source)] or texts
    complete = [each for each in meant if _CLOSED.search(each.source) or not each.followed]
    return complete or meant


def _mentions(source: str) -> bool:
    """Return whether `DEF run m(` is only mentioned."""
    opening = _DSL_OPENING.match(source)
    return opening is not None and _MENTION.match(source, opening.end()) is not None


def _read(text: _Text, language: Language, *, cut: bool = False) -> ast.Program:
    source = _without_prose(text.source, language)
    try:
        return read_source(source, language, slip=cut or text.followed == "DEF")
    except Unreadable as error:
        if cut and not text.followed and (error.reason == "unclosed" or not _CLOSED.search(source)):
            raise Unreadable("cut off", f"the answer was cut off: {error}") from None
        raise


def _without_prose(text: str, language: Language) -> str:
    """Return the text up to the first `m)` at the end of a line whose next line contains a word that no program has.

    For example, of "DEF run m( move m)", a line end and "This program moves." the second line is dropped.
    """
    known = {*language.actions, *" ".join(language.perceptions).split(), *WORDS, *map(str.lower, WORDS)}
    for match in _LAST_LINE.finditer(text):
        if not known.issuperset(re.findall(r"[A-Za-z_]\w*", match[1])):
            return text[: match.end()]
    return text
