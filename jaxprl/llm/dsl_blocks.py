"""Finds the DSL texts in an answer that are meant as programs, and takes the last one."""

from __future__ import annotations

import bisect
import re
from typing import NamedTuple

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language
from jaxprl.llm.dsl_reader import WORDS, Unreadable, read_source
from jaxprl.llm.fences import fences

# A program begins with DEF before `run` or `m`; in lower case only before `run m`, for `def run` may begin Python code.
_BEGIN = re.compile(r"\bDEF(?=\s+(?:run|m)\b|\s+\w+\s+m\s*\()|\b[Dd][Ee][Ff](?=\s+run\s+m\b)")
_FORM = re.compile(r"DEF\s+(?:run\s+)?m\(\s*(?:S|\.\.\.|\u2026)\s*m\)", re.IGNORECASE)
"""Matches the form of programs, `DEF run m( S m)`, which models quote from the prompt. It is not a program."""
_OPENING = re.compile(r"\w+\s+(?:\w+\s*(?:\(\s*\))?\s*:?\s*)??m?\s*\(", re.IGNORECASE)
_END = re.compile(r"`{3,}|~{3,}|`|\bDEF\b")
_CLOSED = re.compile(r"\bm\s*\)|\)\s*\Z")
_CLOSED_ON_LINE = re.compile(r"[^\n]*?(?=\bm\s*\))")
_PLACEHOLDER = re.compile(
    r"s\d*|stmts?|(?:statement|action|command|instruction|step)s?|body|program|code|and|or|not", re.IGNORECASE
)
"""Matches words that stand for the statements of a program in a sketch of it, or that begin none."""
# A closing `m)` at the end of a line, with the next line that is not empty as group 1.
_LAST_LINE = re.compile(r"\bm\s*\)[^\S\n]*\n\s*(?=(.*))")


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
      >>> language = jaxprl.make("DoorKey").language
      >>> print(read_dsl("DEF run m( move m) Better: DEF run m( REPEAT 5 r( move() r) m)", language))
      DEF run m( REPEAT R=5 r( move r) m)
    """
    texts = dsl_texts(text, language, cut=cut)
    if not texts:
        raise Unreadable("no dsl block", "no text that begins with DEF run m(")
    last = texts[-1]
    source = _without_prose(last.source, language)
    try:
        return read_source(source, language, slip=cut or last.followed == "DEF")
    except Unreadable as error:
        if cut and not last.followed and (error.reason == "unclosed" or not _CLOSED.search(source)):
            raise Unreadable("cut off", f"the answer was cut off: {error}") from None
        raise


class Text(NamedTuple):
    """A text from `DEF` to where its program has to end."""

    begin: int
    """Where it is in the answer."""
    source: str
    followed: str
    """What ends it: a fence, a backtick, the next DEF, or nothing at the end of the answer."""
    is_fenced: bool
    """Whether it begins in a fenced block."""


def dsl_texts(text: str, language: Language, *, cut: bool = False) -> list[Text]:
    """Return the texts in an answer that are meant as programs, in order; if none is, all that begin like one.

    `DEF run m(` in a sentence is not meant as a program, nor is a text that lacks its end if another one has it. What
    an answer that was cut off ends with is meant as one.
    """
    edges = [fence.start() for fence in fences(text)]
    texts = []
    for begin in _BEGIN.finditer(text):
        if not _FORM.match(text, begin.start()):
            end = _END.search(text, begin.end())
            source = text[begin.start() : end.start() if end else len(text)]
            is_fenced = bisect.bisect(edges, begin.start()) % 2 == 1
            texts.append(Text(begin.start(), source, end.group() if end else "", is_fenced))
    last = text.rfind("DEF")
    if cut and last >= 0 and not text[last - 1 : last].isalnum() and _is_opening(text[last:].split()):
        texts = [each for each in texts if each.begin < last]
        texts.append(Text(last, text[last:], "", False))
    meant = [each for each in texts if _is_meant(each, language, cut=cut)] or texts
    return [each for each in meant if each.followed not in ("`", "DEF") or _CLOSED.search(each.source)] or meant


def _is_opening(words: list[str]) -> bool:
    """Return whether words are the beginning of the line that opens a program: `DEF`, `DEF ru` or `DEF run m`."""
    return words[0] == "DEF" and (len(words) == 1 or (words[1].isidentifier() and words[2:] in ([], ["m"])))


def holds_dsl(text: str, language: Language) -> bool:
    """Return whether an answer has a text that is meant as a program."""
    return any(_is_meant(each, language, cut=False) for each in dsl_texts(text, language))


def _is_meant(text: Text, language: Language, *, cut: bool) -> bool:
    """Return whether a text is a program, with its slips, rather than a sentence about programs."""
    opening = _OPENING.match(text.source)
    behind = text.source[opening.end() :] if opening else ""
    words = re.findall(r"[A-Za-z_]\w*|[^\s\w;,'\"]", behind)
    if cut and not text.followed and len(words) < 2:
        return True
    if not words:
        return False
    if _is_statement(words[0], language):
        return True
    is_word = words[0].isidentifier() and not _PLACEHOLDER.fullmatch(words[0])
    if text.is_fenced:
        return is_word or words[0] in "#/("
    inside = _CLOSED_ON_LINE.match(behind)
    if not inside:
        return False
    names = re.findall(r"[A-Za-z_]\w*", inside[0])
    return any(_is_statement(name, language) for name in names) or (len(names) == 1 and is_word)


def _is_statement(word: str, language: Language) -> bool:
    return word in language.actions or word.upper() in ("WHILE", "IF", "IFELSE", "REPEAT")


def _without_prose(text: str, language: Language) -> str:
    """Return the text up to the first `m)` at the end of a line whose next line contains a word that no program has.

    For example, of "DEF run m( move m)", a line end and "This program moves." the second line is dropped.
    """
    known = {*language.actions, *" ".join(language.perceptions).split(), *WORDS, *map(str.lower, WORDS)}
    for match in _LAST_LINE.finditer(text):
        if not known.issuperset(re.findall(r"[A-Za-z_]\w*", match[1])):
            return text[: match.end()]
    return text
