"""Takes what a model thinks before it answers out of its text: it contains drafts of programs.

Models mark their thoughts in many ways, and a server may have removed one mark, or all. Some of the marks:

    <think> ... </think>            also <thinking>, <thought>, <reasoning>, <seed:think>, in any case, nested or empty
    [THINK] ... [/THINK]
    <|START_THINKING|> ... <|END_THINKING|>
    <|channel|>analysis<|message|> ... <|end|><|start|>assistant<|channel|>final<|message|>
    analysis ... assistantfinal     the same without its special tokens
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable
from typing import NamedTuple

_NAME = r"""(?:\w{1,20}:)? (?:inner[_-]|internal[_-])?
    (?: think(?:ing)? | thoughts? | reason(?:ing)? | reflect(?:ion|ing)? | scratch[_-]?pad | monologue | analysis
      | plan(?:ning)? | chain[_-]of[_-]thoughts? | cot | deliberation | brainstorm(?:ing)? | draft
    ) (?:[_-]process)?"""
_TOKEN = r"(?: thoughts? | think(?:ing)? | reason(?:ing)? | inner_prefix )"
_MARK = re.compile(
    rf"""[<&\[◁] (?:  # every mark begins with one of these
        (?P<close>
            (?:(?<=<)|(?<=&)lt;) \s? \|? / \s? {_NAME} \s? \|? (?:>|&gt;)
          | (?<=\[) / (?:think(?:ing)?|thoughts?|reasoning|analysis) \]
          | (?<=◁) /think▷
          | (?<=<) (?: \| (?:end_of_|end_){_TOKEN}\|> | \|inner_suffix\|> | unused95> | channel\|> )
          | (?<=<) \|channel\|> \s* (?:final|response) \b \s* (?:<\|constrain\|>\w+)? (?:<\|message\|>)?
        )
      | (?P<open>
            (?:(?<=<)|(?<=&)lt;) \s? \|? {_NAME} (?:\s[^<>/]{{0,200}})? \|? (?:>|&gt;)
          | (?<=\[) (?: think(?:ing)? | (?P<weak> thoughts? | reasoning | analysis )) \]
          | (?<=◁) think▷
          | (?<=<) (?: \| (?:begin_of_|begin_|start_of_|start_){_TOKEN}\|> | \|inner_prefix\|> | unused94> )
          | (?<=<) \|channel\|?> \s* (?:analysis|{_TOKEN}) \b \s* (?:<\|message\|>)?
          | (?<=<) (?: \|im_start\|>think\b | details\s[^<>]{{0,80}}reasoning[^<>]{{0,80}}> )
        )
      | (?P<end> (?<=<) (?: \|(?:end|return|call)\|> | \|im_start\|>answer | /details> | (?:final_?)?answer> ) )
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_ANALYSIS, _FINAL = re.compile(r"\s*analysis(?=[A-Z])"), "assistantfinal"
"""What is left of the marks of channels if a server removes special tokens."""
_PROSE = re.compile(
    r"\W*here is my thought process:(?:[\s\S]*?\b(?P<response>here is my response:)|[\s\S]*)", re.IGNORECASE
)
"""Matches thoughts that sentences mark, as those of Granite do."""
_NAMED = re.compile(r"[ \t]+(?:tags?|marks?|blocks?|sections?|mode)\b")
_PAIRS = ("``", "''", '""', "\u2018\u2019", "\u201c\u201d")


class _Mark(NamedTuple):
    begin: int
    end: int
    opens: bool
    weak: bool
    """Whether it opens thoughts only if a closing mark follows."""


class _Thoughts(NamedTuple):
    """Where the thoughts of a text are."""

    left_out: list[tuple[int, int]]
    """From an opening mark to its closing mark, and closing marks without an opening one, in order."""
    unclosed: int
    """Where thoughts begin that do not end, or the length of the text."""
    stray: list[_Mark]
    """Closing marks without an opening one."""


def without_thoughts(text: str, holds_program: Callable[[str], bool], *, cut: bool = False) -> str:
    """Return an answer without the thoughts in it.

    - What stands between an opening mark and its closing mark is left out.
    - A closing mark without an opening one ends thoughts that began with the text, if a program follows. If none does,
      the mark means nothing, and the program stands before it, unless the answer was cut off.
    - An opening mark without a closing one begins thoughts that last to the end.
    - A mark in backticks or quotes is a mention of it, and so is an opening mark without a closing one that stands in
      the middle of a sentence.

    Args:
      text: the answer.
      holds_program: says whether a text contains what looks like a program.
      cut: whether the answer was cut off.

    Example:
      >>> without_thoughts("<think>DEF run m( turnLeft m)?</think>DEF run m( move m)", lambda text: "DEF" in text)
      'DEF run m( move m)'
    """
    if prose := _PROSE.match(text):
        text = text[prose.end() :] if prose["response"] or cut else text
    final = text.rpartition(_FINAL)
    if _ANALYSIS.match(text) or (final[1] and holds_program(final[2])):
        text = final[2] if final[1] else ""
    thoughts = _thoughts(text, _marks(text))
    end = len(text)
    for mark in reversed(thoughts.stray):
        if cut or holds_program(_rest(text, thoughts, mark.end, end)):
            return _rest(text, thoughts, mark.end)
        end = mark.begin
    return _rest(text, thoughts)


def _marks(text: str) -> list[_Mark]:
    """Return the marks of a text, in order, without those that only mention a mark."""
    marks: list[_Mark] = []
    inside = False
    for match in _MARK.finditer(text):
        begin, end = match.span()
        ends_message = match["end"] and not inside
        around = text[max(begin - 1, 0) : begin] + text[end : end + 1]
        if ends_message or around in _PAIRS or _NAMED.match(text, end):
            continue
        inside = match["open"] is not None
        marks.append(_Mark(begin, end, inside, match["weak"] is not None))
    if _surplus(marks) > 0:
        marks = [mark for mark in marks if not mark.opens or _begins_sentence(text, mark.begin)]
    return marks


def _surplus(marks: list[_Mark]) -> int:
    """Return how many more marks open thoughts than close some."""
    return sum(1 if mark.opens else -1 for mark in marks)


def _begins_sentence(text: str, position: int) -> bool:
    before = text[max(position - 40, 0) : position].rstrip(" \t>*_")
    return not before or before[-1] in "\n.!?:]"


def _thoughts(text: str, marks: list[_Mark]) -> _Thoughts:
    """Pair the marks.

    If there are more opening marks than closing ones, they are not nested: a model may repeat the mark that its prompt
    ends with.
    """
    found = _Thoughts([], len(text), [])
    nested = _surplus(marks) <= 0
    opening: list[_Mark] = []
    for mark in marks:
        if mark.opens:
            if nested or not opening:
                opening.append(mark)
        elif not opening:
            found.stray.append(mark)
            found.left_out.append((mark.begin, mark.end))
        elif len(opening) > 1:
            opening.pop()
        else:
            found.left_out.append((opening.pop().begin, mark.end))
    strong = [mark.begin for mark in opening if not mark.weak]
    return found._replace(unclosed=min(strong, default=len(text)))


def _rest(text: str, thoughts: _Thoughts, begin: int = 0, end: int | None = None) -> str:
    """Return the text between two positions without thoughts and without closing marks of none."""
    end = thoughts.unclosed if end is None else min(end, thoughts.unclosed)
    first = bisect.bisect_left(thoughts.left_out, (begin, begin))
    last = bisect.bisect_left(thoughts.left_out, (end, end))
    kept = []
    for start, stop in thoughts.left_out[first:last]:
        kept.append(text[begin:start])
        begin = stop
    return "".join([*kept, text[begin:end]])
