"""Reads the Python program in an answer: finds the blocks of code, fenced or not, and takes the one that counts.

An answer may contain several blocks: helper functions before the program, a first attempt and a corrected one, stubs
of the world's functions. Of the blocks that define `run`, the last one counts, and it may call the functions of all
blocks. If no block defines `run`, the last one that is a program under another name counts.
"""

from __future__ import annotations

import re
import textwrap
from ast import Module
from collections.abc import Sequence
from typing import NamedTuple

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language
from jaxprl.dsl.python import from_modules, program_function
from jaxprl.dsl.python_names import PythonError, functions_of, is_stub, parsed
from jaxprl.llm.dsl_reader import Unreadable

_MOST_WITHDRAWN = 8
"""The most attempts of an answer that are compared with its other program."""
_FENCE = re.compile(r"`{3,}|~{3,}")
_PYTHON_TAG = re.compile(r"[ \t]*(?:python|py)[\d.]*(?!\w)", re.IGNORECASE)
_FUNCTION = re.compile(r"\bdef[ \t]+\w+[ \t]*\(")
_RUN = re.compile(r"\bdef[ \t]+run[ \t]*\(")
# A line outside a fence that may belong to the function before it: a call, the head of a block, or a comment.
_CODE_LINE = re.compile(r"\w+\(.*\)[;\s]*(?:#.*)?$|(?:def|while|for|if|elif|else)\b.*:|#")


class Block(NamedTuple):
    """A block of Python code in an answer."""

    source: str
    module: Module | PythonError
    """What Python's parser makes of it."""
    closed: bool
    """Whether its end is marked: by a fence, or by other text behind it."""

    @property
    def defines_run(self) -> bool:
        """Whether it defines a function `run` with a body. A mention or a stub of it does not count."""
        if isinstance(self.module, Module):
            return any(each.name == "run" and not is_stub(each) for each in functions_of(self.module.body))
        begin = _RUN.search(self.source)
        return begin is not None and _has_body(self.source, begin.start())


def python_blocks(text: str) -> list[Block]:
    """Return the blocks of Python code in an answer, in order.

    Between fences, a block is what is marked as Python or contains a function. The line of an opening fence is left out
    of it, unless it contains code: from "```python", a line end and "def run(): ...", the second line is kept, and from
    "```python def run(): ..." everything behind the tag. Outside of fences, a block is a function and the lines of code
    that follow it.
    """
    blocks: list[Block] = []
    parts = _FENCE.split(text)
    for number, part in enumerate(parts):
        if number % 2 == 0:  # text, block, text, block, ..., text
            blocks += [_block(source, closed) for source, closed in _unfenced(part)]
            continue
        tag = _PYTHON_TAG.match(part)
        line, _, rest = part.partition("\n")
        code = part[tag.end() if tag else 0 :] if _FUNCTION.search(line) else rest
        if number < len(parts) - 1:
            if tag or _FUNCTION.search(code):
                blocks.append(_block(textwrap.dedent(code), True))
        elif functions := _unfenced(code):
            blocks += [_block(source, False) for source, _ in functions]
        elif tag:
            blocks.append(_block(textwrap.dedent(code), False))
    return blocks


def read_python(text: str, language: Language, *, cut: bool = False) -> ast.Program:
    """Read the Python program of an answer.

    Args:
      text: the answer.
      language: the language of the program.
      cut: whether the answer was cut off. A block whose end is not marked is then no program.

    Returns:
      The program as it was written, not normalised.

    Raises:
      Unreadable: there is no block of Python, or it was cut off.
      PythonError: the block is not a program.
    """
    blocks = python_blocks(text)
    if not blocks:
        raise Unreadable("no python block", "neither a ```python block nor a function def run():")
    main = _main(blocks, language)
    if cut and not blocks[main].closed:
        raise Unreadable("cut off", "the answer was cut off before the end of its Python block was marked")
    try:
        return _read(blocks, main, language, cut=cut)
    except PythonError:
        if cut and not blocks[-1].closed:
            raise Unreadable(
                "cut off", "the answer was cut off in a block of Python that its program may need"
            ) from None
        raise


def withdrawn_python(text: str, language: Language) -> list[ast.Program]:
    """Return the programs of an answer that a later block replaces, as far as they can be read."""
    blocks = python_blocks(text)
    programs = []
    for main in [index for index, block in enumerate(blocks) if block.defines_run][-1 - _MOST_WITHDRAWN : -1]:
        try:
            programs.append(_read(blocks, main, language))
        except PythonError:
            continue
    return programs


def _block(source: str, closed: bool) -> Block:
    try:
        return Block(source, parsed(source), closed)
    except PythonError as error:
        return Block(source, error, closed)


def _main(blocks: Sequence[Block], language: Language) -> int:
    """Return the index of the block with the program; if there is none, of the last block."""

    def is_program(block: Block) -> bool:
        if isinstance(block.module, PythonError):
            return False
        try:
            return not is_stub(program_function(block.module, language))
        except PythonError:
            return False

    numbered = list(enumerate(blocks))
    defining = [index for index, block in numbered if block.defines_run]
    programs = defining or [index for index, block in numbered if is_program(block)]
    return programs[-1] if programs else len(blocks) - 1


def _read(blocks: Sequence[Block], main: int, language: Language, *, cut: bool = False) -> ast.Program:
    """Read the program of a block, which may use what the other blocks define, attempts in the first place least."""
    others = [
        (block.defines_run, index, block.module)
        for index, block in enumerate(blocks)
        if index != main and isinstance(block.module, Module) and (block.closed or not cut)
    ]
    own = blocks[main].module
    if isinstance(own, PythonError):
        raise own
    ordered = sorted([*others, (False, main, own)], key=lambda each: (not each[0], each[1]))
    return from_modules([module for *_, module in ordered], [index for _, index, _ in ordered].index(main), language)


def _unfenced(text: str) -> list[tuple[str, bool]]:
    """Return the functions in a text around fences, each with the lines of code behind it, and whether text follows.

    A function in the middle of a line counts as well. Without a body, `def run():` is only a mention of it.
    """
    found: list[tuple[str, bool]] = []
    begin = 0
    while match := _FUNCTION.search(text, begin):
        line_end = text.find("\n", match.start())
        begin = line_end if line_end >= 0 else len(text)
        if _has_body(text, match.start()):
            begin = _end(text, match.start())
            source = " " * _margin(text, match.start()) + text[match.start() : begin]
            found.append((textwrap.dedent(source), bool(text[begin:].strip())))
    return found


def _margin(text: str, begin: int) -> int:
    """Return the indentation of the line with this position."""
    line = text[text.rfind("\n", 0, begin) + 1 : begin]
    return len(line) - len(line.lstrip())


def _has_body(text: str, begin: int) -> bool:
    """Return whether the function that begins at a position has a body: on its own line, or indented below."""
    line_end = text.find("\n", begin)
    if line_end >= 0:
        below = re.compile(r"(?:[ \t]*\n)*([ \t]*)\S").match(text, line_end + 1)
        if below and len(below[1]) > _margin(text, begin):
            return True
    try:
        parsed(text[begin : line_end if line_end >= 0 else len(text)])
    except PythonError:
        return False
    return True


def _end(text: str, begin: int) -> int:
    """Return the end of the function that begins at a position, without the prose behind it.

    The function ends before the first line that is not indented and does not look like code. Lines that look like code
    are kept, for the reader to judge. Of these lines, the last one is left out:

        def run():
            move()
        run()
        This program moves once.
    """
    margin = _margin(text, begin)
    end = text.find("\n", begin)
    while end >= 0:
        line_end = text.find("\n", end + 1)
        line = text[end + 1 : line_end if line_end >= 0 else len(text)]
        indented = len(line) - len(line.lstrip()) > margin
        if line.strip() and not indented and not _CODE_LINE.match(line.lstrip()):
            return end
        end = line_end
    return len(text)
