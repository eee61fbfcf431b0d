"""Finds the blocks of Python code in an answer, fenced or not, and reads the one that counts.

An answer may contain several blocks: helper functions before the program, a first attempt and a corrected one, stubs
of the world's functions. Of the blocks that define `run`, the last one counts, and it may call the functions of all
blocks. If no block defines `run`, the last one that is a program under another name counts.
"""

from __future__ import annotations

import ast as python_ast
import re
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language
from jaxprl.dsl.python import from_modules, program_function
from jaxprl.dsl.python_names import PythonError, called_names, functions_of, is_stub, language_words, parsed
from jaxprl.llm.dsl_reader import Unreadable
from jaxprl.llm.fences import fences

_PYTHON_TAG = re.compile(r"[ \t]*(?:python|py)[\d.]*(?!\w)", re.IGNORECASE)
_FUNCTION = re.compile(r"\bdef[ \t]+\w+[ \t]*\(")
_RUN = re.compile(r"\bdef[ \t]+run[ \t]*\(")
_BELOW = re.compile(r"(?:[ \t]*\n)*([ \t]*)\S")
_CALL = r"\w+\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)"
# A line outside a fence that may belong to the function before it: calls, the head of a block, or a comment.
_CODE_LINE = re.compile(
    rf"{_CALL}(?:[ \t]*;[ \t]*{_CALL})*[;\s]*(?:\#.*)?$"
    r" | def\b.*: | (?:while|for|if|elif)\b.*\w\(.*: | else[ \t]*: | \#",
    re.VERBOSE,
)
# A line outside a fence that may belong to the function behind it.
_LINE_BEFORE = re.compile(
    rf"(?: [A-Za-z_]\w*(?:[ \t]*:[ \t]*\w+)?[ \t]*=[^=\n].* | from[ \t]+[\w.]+[ \t]+import\b.* | import[ \t]+\w+.*"
    rf" | @\w.* | {_CALL}[;\s]* )$",
    re.VERBOSE,
)


class Block(NamedTuple):
    """A block of Python code in an answer."""

    begin: int
    """Where it is in the answer."""
    source: str
    module: python_ast.Module | PythonError
    """What Python's parser makes of it."""
    closed: bool
    """Whether its end is marked: by a fence, or by other text behind it."""
    is_quoted: bool = False
    """Whether it stands in the middle of a line of prose."""

    @property
    def defines_run(self) -> bool:
        """Whether it defines a function `run`, wherever. A mention or a stub of it does not count."""
        if isinstance(self.module, PythonError):
            begin = _RUN.search(self.source)
            return begin is not None and _code_behind(self.source, begin.start())
        return any(
            (isinstance(node, python_ast.FunctionDef) and node.name == "run" and not is_stub(node))
            or (isinstance(node, python_ast.AsyncFunctionDef) and node.name == "run")
            for node in python_ast.walk(self.module)
        )


def python_blocks(text: str, *, cut: bool = False) -> list[Block]:
    """Return the blocks of Python code in an answer, in order.

    Between fences, a block is what is marked as Python or contains a function. The line of an opening fence is left out
    of it, unless it contains code: from "```python", a line end and "def run(): ...", the second line is kept, and from
    "```python def run(): ..." everything behind the tag. Outside of fences, a block is a function with the lines of
    code around it. What is quoted in a line of prose counts only if there is no other block. If the answer was cut off,
    a fence that it ends with begins a block.
    """
    blocks: list[Block] = []
    begin, inside = 0, False
    for mark in [*fences(text), None]:
        end = mark.start() if mark else len(text)
        part = text[begin:end]
        blocks += _fenced(part, begin, closed=mark is not None) if inside else _unfenced(part, begin)
        if cut and inside and not mark and not part.partition("\n")[2].strip():
            blocks.append(_block(begin, "", False))
        begin, inside = mark.end() if mark else end, not inside
    return [block for block in blocks if not block.is_quoted] or blocks


def holds_python(text: str) -> bool:
    """Return whether an answer has a block with a function that may be a program."""
    return any(
        isinstance(block.module, PythonError) or not all(map(is_stub, functions_of(block.module.body)))
        for block in python_blocks(text)
    )


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
    blocks = python_blocks(text, cut=cut)
    if not blocks:
        raise Unreadable("no python block", "neither a ```python block nor a function def run():")
    main = _main(blocks, language)
    if cut and not (blocks[main].closed and blocks[-1].closed and blocks[main].defines_run):
        raise Unreadable("cut off", "the answer was cut off before the end of its Python code was marked")
    _check_behind(blocks, main, language)
    own = blocks[main].module
    if isinstance(own, PythonError):
        raise own
    modules = [block.module for block in blocks if isinstance(block.module, python_ast.Module)]
    return from_modules(modules, next(index for index, each in enumerate(modules) if each is own), language)


def attempts(text: str, *, cut: bool = False) -> list[int]:
    """Return where the blocks of an answer are that define `run`, or that may, if the answer was cut off in them."""
    return [block.begin for block in python_blocks(text, cut=cut) if block.defines_run or (cut and not block.closed)]


def _main(blocks: Sequence[Block], language: Language) -> int:
    """Return the index of the block with the program; if there is none, of the last block."""
    defining = [index for index, block in enumerate(blocks) if block.defines_run]
    if defining:
        return defining[-1]
    names: list[str] = []
    for block in blocks:
        try:
            function = None if isinstance(block.module, PythonError) else program_function(block.module, language)
        except PythonError:
            function = None
        names.append(function.name if function and not is_stub(function) else "")
    modules = [block.module for block in blocks if isinstance(block.module, python_ast.Module)]
    called = called_names(function for module in modules for function in functions_of(module.body))
    programs = [index for index, name in enumerate(names) if name and name not in called]
    return programs[-1] if programs else len(blocks) - 1


def _check_behind(blocks: Sequence[Block], main: int, language: Language) -> None:
    """Raise PythonError if a block behind the program has statements of a program and no function.

    They may continue the program, or correct it. Lines that the program has as well only explain it.
    """
    words = language_words(language)
    lines = {line.strip() for line in blocks[main].source.splitlines()}
    for block in blocks[main + 1 :]:
        if isinstance(block.module, PythonError) or _FUNCTION.search(block.source):
            continue
        used = {node.id for node in python_ast.walk(block.module) if isinstance(node, python_ast.Name)}
        if not used.isdisjoint(words) and not lines.issuperset(filter(None, map(str.strip, block.source.split("\n")))):
            raise PythonError("unsupported python", "a block without a function follows the program")


def _block(begin: int, source: str, closed: bool, *, is_quoted: bool = False) -> Block:
    module: python_ast.Module | PythonError
    try:
        module = parsed(source)
    except PythonError as error:
        module = error
    return Block(begin, source, module, closed, is_quoted)


def _fenced(part: str, begin: int, *, closed: bool) -> list[Block]:
    """Return the blocks in the text between two fences, or behind the last one."""
    tag = _PYTHON_TAG.match(part)
    line, _, rest = part.partition("\n")
    code = part[tag.end() if tag else 0 :] if _FUNCTION.search(line) else rest
    begin += len(part) - len(code)
    if not closed:
        found = [block._replace(closed=False) for block in _unfenced(code, begin)]
        return found or ([_block(begin, textwrap.dedent(code), False)] if tag else [])
    return [_block(begin, textwrap.dedent(code), True)] if tag or _FUNCTION.search(code) else []


def _unfenced(text: str, offset: int) -> list[Block]:
    """Return the functions in a text, each with the lines of code around it.

    Without a body, `def run():` is only a mention of it.
    """
    found: list[Block] = []
    end = 0
    while match := _FUNCTION.search(text, end):
        begin, line_end = match.start(), _line_end(text, match.start())
        line_begin = text.rfind("\n", 0, begin) + 1
        is_quoted = bool(text[line_begin:begin].strip())
        if is_quoted and (quote := text.find(text[begin - 1], begin, line_end)) >= 0 and text[begin - 1] in "`'\"":
            line_end = quote
        if not _has_body(text, begin, line_end):
            end = _line_end(text, begin)
            continue
        first = begin if is_quoted else _first_line(text, line_begin, end)
        end = line_end if line_end < _line_end(text, begin) else _end(text, begin)
        source = text[first:end] if first < line_begin else " " * _margin(text, begin) + text[begin:end]
        followed = bool(text[end:].strip())
        found.append(_block(offset + first, textwrap.dedent(source), followed, is_quoted=is_quoted))
    return found


def _line_end(text: str, begin: int) -> int:
    end = text.find("\n", begin)
    return end if end >= 0 else len(text)


def _margin(text: str, begin: int) -> int:
    """Return the indentation of the line with this position."""
    line = text[text.rfind("\n", 0, begin) + 1 : begin]
    return len(line) - len(line.lstrip())


def _code_behind(source: str, begin: int) -> bool:
    """Return whether code that is not Python follows the head of a function, on its line or below."""
    head, _, below = source[begin:].partition("\n")
    rest = [head.partition(")")[2].strip(" \t:"), *(line.strip() for line in below.split("\n"))]
    return any(line and not line.startswith("#") for line in rest)


def _has_body(text: str, begin: int, line_end: int) -> bool:
    """Return whether the function that begins at a position has a body: on its own line, or indented below."""
    if text[line_end : line_end + 1] == "\n":
        below = _BELOW.match(text, line_end + 1)
        if below and len(below[1]) > _margin(text, begin):
            return True
    try:
        parsed(text[begin:line_end])
    except PythonError:
        return False
    return True


def _first_line(text: str, begin: int, least: int) -> int:
    """Return where the lines of code begin that stand directly before a function's line, but not before `least`."""
    first = begin
    while begin > least:
        before = text.rfind("\n", 0, begin - 1) + 1
        line = text[before : begin - 1].strip()
        if before < least or (line and not _LINE_BEFORE.match(line)):
            break
        begin = before
        first = before if line else first
    return first


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
        line_end = _line_end(text, end + 1)
        line = text[end + 1 : line_end]
        indented = len(line) - len(line.lstrip()) > margin
        if line.strip() and not indented and not _CODE_LINE.match(line.lstrip()):
            return end
        end = line_end if line_end < len(text) else -1
    return len(text)
