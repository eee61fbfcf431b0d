"""Finds the fences of code in the Markdown of an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCE = re.compile(r"`{3,}|~{3,}")
# What follows a fence that prose only mentions: a tag and further words, which are neither code nor settings.
_MENTIONED = re.compile(r"[ \t]*[\w.+-]*[ \t,.]+(?![^\n]*(?:[={]|\b(?:def|DEF)\b|```|~~~))[A-Za-z]")


def fences(text: str) -> Iterator[re.Match[str]]:
    """Yield the fences of an answer that open and close blocks, in turns.

    A fence that prose mentions opens nothing: "the ```python block: ...". Where there are fences of three
    characters, longer ones are ignored: they enclose the others.

    Example:
      >>> [fence.start() for fence in fences("```\\nDEF run m( move m)\\n```")]
      [0, 23]
    """
    marks = list(_FENCE.finditer(text))
    if any(len(mark.group()) == 3 for mark in marks):
        marks = [mark for mark in marks if len(mark.group()) == 3]
    inside = False
    for mark in marks:
        before = text[max(text.rfind("\n", 0, mark.start()) + 1, mark.start() - 20) : mark.start()]
        if inside or not re.search(r"\w", before) or not _MENTIONED.match(text, mark.end()):
            inside = not inside
            yield mark
