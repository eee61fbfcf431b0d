"""From one raw answer of a language model to programs; what cannot be read for sure is rejected by name.

An answer is read twice: its Python function goes through Python's own parser, its DSL text through a reader that
forgives slips of the pen as long as only one program can be meant. Nothing is evaluated and nothing is left out.
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

REASONS = {
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
    "too long": f"more than {PROGRAM_TOKENS} tokens",
}
"""What a rejection can be counted by, and what it means."""

_FOREVER = COUNTS[-1]
_LOOKALIKES = str.maketrans(
    {"\u00a0": " ", "\u200b": None, "\ufeff": None, "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
)
_FENCE = re.compile(r"`{3,}|~{3,}")
_PYTHON_TAG = re.compile(r"[ \t]*(?:python|py)[\d.]*(?!\w)", re.IGNORECASE)
_FUNCTION = re.compile(r"\bdef[ \t]+\w+[ \t]*\(")
_CODE_LINE = re.compile(r"\w+\(.*\)[;\s]*(?:#.*)?$|(?:def|while|for|if|elif|else)\b.*:|#")


@dataclasses.dataclass(frozen=True)
class Rejection:
    """Why a block gave no program."""

    block: str
    """python or dsl"""
    reason: str
    """One of `REASONS`, to count by."""
    message: str
    """What was wrong, and where."""


class Extraction(NamedTuple):
    """What the two readings of one answer gave."""

    python: ast.Program | Rejection
    dsl: ast.Program | Rejection

    @property
    def programs(self) -> tuple[ast.Program, ...]:
        """The valid programs, none to two."""
        return tuple(outcome for outcome in self if isinstance(outcome, ast.Program))

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        return tuple(outcome for outcome in self if isinstance(outcome, Rejection))


def extract(text: str, language: Language) -> Extraction:
    """Return the normalised programs of an answer's Python and DSL blocks, or why there are none.

    Every text has an outcome; nothing is raised.
    """
    text = text.translate(_LOOKALIKES).replace("\r\n", "\n").replace("\r", "\n")
    return Extraction(_outcome("python", _python, text, language), _outcome("dsl", _dsl, text, language))


def choose(extraction: Extraction, draw: int) -> ast.Program | None:
    """Return one of the valid programs, None if there is none.

    The choice is uniform if `draw` is drawn uniformly from an even number of integers 0, 1, ...
    """
    programs = extraction.programs
    return programs[draw % len(programs)] if programs else None


def normalise(program: ast.Program, language: Language) -> ast.Program:
    """Return the program as the search takes it from a language model.

    The rule of LLM-GS: `while True` counts as `REPEAT R=19`, `while False` as `REPEAT R=0`, counts are
    clipped to 0..19. Constants are folded where no call is lost, and `not` before a perception whose complement the
    language knows becomes that complement; neither changes what a program does.
    """
    return ast.Program(_normal_body(program.body, language))


class _Unreadable(Exception):
    """A block that is no program: `reason` is one of `REASONS`."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def _outcome(
    block: str, read: Callable[[str, Language], ast.Program], text: str, language: Language
) -> ast.Program | Rejection:
    try:
        program = normalise(read(text, language), language)
        tokens = token_count(program)
    except (_Unreadable, PythonError) as error:
        return Rejection(block, error.reason, str(error))
    except RecursionError:  # a level of nesting takes at least three tokens
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
    """What stands between two fences."""

    text: str
    rank: int
    """Python blocks are 0, other blocks 1, the text around them 2."""
    closed: bool
    """Whether fences on both sides say where the code begins and ends."""


def _pieces(text: str) -> list[_Piece]:
    """Return what the fences separate, Python blocks first. The line of an opening fence is left out of its block,
    unless it holds code."""
    pieces = []
    around = _FENCE.split(text)
    for number, piece in enumerate(around):
        inside = number % 2 == 1
        tag = _PYTHON_TAG.match(piece) if inside else None
        line, _, rest = piece.partition("\n")
        if inside:
            piece = piece[tag.end() if tag else 0 :] if _FUNCTION.search(line) else rest
        pieces.append(_Piece(piece, 0 if tag else 2 - inside, inside and number < len(around) - 1))
    return sorted(pieces, key=lambda piece: piece.rank)


def _python(text: str, language: Language) -> ast.Program:
    """Read the first function: of a Python block, else of another fenced block, else of the text around them."""
    pieces = _pieces(text)
    for piece in pieces:
        if begin := _FUNCTION.search(piece.text):
            source = textwrap.dedent(piece.text) if piece.closed else _function_lines(piece.text, begin.start())
            return from_python(source, language)
    if pieces[0].rank == 0:
        raise _Unreadable("no function", "the Python block holds no function")
    raise _Unreadable("no python block", "neither a ```python block nor a function def run():")


def _function_lines(text: str, begin: int) -> str:
    """Return the function that begins there, up to the prose behind it: to the first line that is not indented and
    does not look like code. What looks like code stays in, for the reader to judge."""
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


_DSL_BEGIN = re.compile(r"\bDEF(?=\s+(?:run|m)\b)|\b[Dd][Ee][Ff](?=\s+run\s+m\b)")
_DSL_END = re.compile(r"`|~~~|\bDEF\b")
_BRACKET_IN_COMMENT = re.compile(r"\b[mwicreh]\s*[()]")
_TOKEN = re.compile(
    r"""
      (?P<comment> (?: \# | // ) [^\n]* )
    | (?P<bracket> [mwicreh]\s*[()] | [()] )
    | (?P<count> [Rr]\s*=\s*[-+]? (?: \d+(?=r\s*\() | [\w.]+ ) )
    | (?P<word> [A-Za-z_]\w* )
    | (?P<number> [-+]?\d (?: \d*(?=r\s*\() | [\w.]* ) )
    | (?P<blank> [\s;,'"]+ )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_INTEGER = re.compile(r"(?:[Rr]=)?([-+]?[0-9]{1,100})")
_WORDS = ("WHILE", "IF", "IFELSE", "REPEAT", "ELSE", "NOT", "AND", "OR", "TRUE", "FALSE", "DEF", "RUN", *"MWICREH")
_OPEN_CONDITION, _CLOSE_CONDITION = ("c(", "("), ("c)", ")")
_OPEN_BLOCK = ("w(", "i(", "e(", "r(", "(")
_CLOSE_BLOCK = ("m)", "w)", "i)", "e)", "r)")


def _dsl(text: str, language: Language) -> ast.Program:
    """Read the first DSL text, fenced or not; it ends at its last bracket, its fence or the next DEF."""
    begin = _DSL_BEGIN.search(text)
    if not begin:
        raise _Unreadable("no dsl block", "no text that begins with DEF run m(")
    end = _DSL_END.search(text, begin.end())
    reader = _Reader(_tokens(text[begin.start() : end.start() if end else len(text)]), language)
    reader.slip = end is not None and end.group() == "DEF"
    return reader.program()


def _tokens(text: str) -> list[str]:
    """Return the tokens without blanks inside them; quotes, commas, semicolons and comments are left out."""
    tokens = []
    for match in _TOKEN.finditer(text):
        comment = match["comment"]
        if comment and _BRACKET_IN_COMMENT.search(comment):
            tokens.append(comment)
        elif not comment and not match["blank"]:
            tokens.append("".join(match.group().split()))
    return tokens


class _Reader:
    """Recursive descent over DSL tokens that forgives what can only mean one thing.

    Forgiven: case of keywords, call style, plain or missing brackets around conditions and arguments, IF for IFELSE
    and the other way round, another block's letter at a bracket, brackets that are still open at the end of the text.
    """

    def __init__(self, tokens: list[str], language: Language):
        self.tokens, self.language, self.at = tokens, language, 0
        self.open: list[str] = []
        """Letters of the blocks around the current token, outermost first."""
        self.slip = False
        """Whether a closing bracket was plain, wrong or missing, or another program follows: then the text has to have
        its end."""
        self.bare = self.unclosed = self.infix = 0
        """In the current statement's condition: operands without brackets, brackets left open, infix operators."""

    @property
    def token(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    @property
    def keyword(self) -> str:
        return self.token.upper()

    def skip(self, *tokens: str) -> bool:
        """Step over the current token if it is one of those."""
        if self.token not in tokens or not self.token:
            return False
        self.at += 1
        return True

    def fail(self, reason: str, expected: str) -> _Unreadable:
        found = repr(self.token[:40]) if self.token else "the end of the text"
        return _Unreadable(reason, f"token {self.at}: expected {expected}, found {found}")

    def misfit(self, expected: str, names: tuple[str, ...] = ()) -> _Unreadable:
        """Return the error for a token that does not fit, by what is wrong with it."""
        word = self.token
        expected = f"{expected} ({', '.join(names)})" if names else expected
        if not word:
            return self.fail("unclosed", expected)
        if word.startswith(("#", "//")):
            return self.fail("unclear comment", expected)
        if word.isidentifier() and word.upper() not in _WORDS and word not in self.language.actions:
            known = word in " ".join(self.language.perceptions).split()
            return self.fail("misplaced token" if known else "unknown name", expected)
        dsl = any(character.isalnum() or character in "()" for character in word)
        return self.fail("misplaced token" if dsl else "unknown token", expected)

    def program(self) -> ast.Program:
        self.at += 1
        if self.keyword == "RUN":
            self.at += 1
        self.skip_call()
        self.skip(":")
        program = ast.Program(self.block("m", ("m(", "(")))
        if self.token in (*_CLOSE_BLOCK, "c)", "h)", "WHILE", "IF", "IFELSE", "ELSE", "REPEAT", *self.language.actions):
            raise self.fail("misplaced token", "the end of the program")
        return program

    def skip_call(self) -> None:
        """Step over the `()` of a call."""
        if self.tokens[self.at : self.at + 2] == ["(", ")"]:
            self.at += 2

    def block(self, letter: str, opening: tuple[str, ...] = _OPEN_BLOCK) -> ast.Body:
        if not self.skip(*opening):
            raise self.misfit(f"'{letter}('")
        self.open.append(letter)
        body: list[ast.Statement] = []
        while not self.closes(letter, body):
            body.append(self.statement())
        self.open.pop()
        return tuple(body)

    def closes(self, letter: str, body: list[ast.Statement]) -> bool:
        """Return whether the block ends here, and step over its bracket.

        A bracket with the letter of an outer block means that this block's own is missing. That is forgiven where
        the body is one action, since there is only one place for it. A letter that closes nothing else is taken for
        this block's, but not for the program's.
        """
        if not self.token:
            if self.slip or not body:
                raise self.fail("unclosed", f"'{letter})'")
            return True
        if self.token not in (")", *_CLOSE_BLOCK):
            return False
        if not body:
            raise self.fail("empty body", "a statement")
        if self.token == f"{letter})":
            self.at += 1
            return True
        self.slip = True
        if self.token[0] in self.open:
            if len(body) > 1 or not isinstance(body[0], ast.Action):
                raise self.fail("unclosed", f"'{letter})'")
            return True
        if letter == "m" and self.token != ")":
            raise self.fail("misplaced token", "'m)'")
        self.at += 1
        return True

    def statement(self) -> ast.Statement:
        word = self.token
        keyword = self.keyword
        if word in self.language.actions:
            self.at += 1
            self.skip_call()
            return ast.Action(word)
        if keyword not in ("WHILE", "IF", "IFELSE", "REPEAT"):
            raise self.misfit("a statement", ("WHILE", "IF", "IFELSE", "REPEAT", *self.language.actions))
        self.at += 1
        if keyword == "REPEAT":
            return ast.Repeat(self.count(), self.block("r"))
        condition = self.condition()
        if keyword == "WHILE":
            return ast.While(condition, self.block("w"))
        body = self.block("i")
        if self.keyword != "ELSE":
            return ast.If(condition, body)
        self.at += 1
        other = (self.statement(),) if self.keyword in ("IF", "IFELSE") else self.block("e")
        return ast.IfElse(condition, body, other)

    def count(self) -> int:
        opened = self.skip(*_OPEN_CONDITION)
        number = _INTEGER.fullmatch(self.token)
        if not number:
            raise self.fail("bad count", "a count like R=3")
        self.at += 1
        if opened:
            self.skip(*_CLOSE_CONDITION)
        return int(number[1])

    def condition(self) -> ast.Condition:
        """Read a statement's whole condition, and closing brackets whose opening ones were left out."""
        self.bare = self.unclosed = self.infix = 0
        condition = self.operation()
        while self.bare and self.skip("c)"):
            self.bare -= 1
        if self.unclosed and self.infix:
            raise self.fail("ambiguous condition", "'c)' for every 'c('")
        return condition

    def operation(self) -> ast.Condition:
        """Read `A`, `A and B`, `A and B and C`, ..., grouped as Python does."""
        operands = [self.operand()]
        operator = self.keyword
        while self.keyword in ("AND", "OR"):
            if self.keyword != operator:
                raise self.fail("ambiguous condition", f"another {operator.lower()!r}")
            self.at += 1
            self.infix += 1
            operands.append(self.operand())
        condition = operands.pop()
        while operands:
            condition = _combined(operator, operands.pop(), condition)
        return condition

    def operand(self) -> ast.Condition:
        if not self.skip(*_OPEN_CONDITION):
            self.bare += 1
            return self.bare_operand()
        condition = self.operation()
        if not self.skip(*_CLOSE_CONDITION):
            self.unclosed += 1
        return condition

    def bare_operand(self) -> ast.Condition:
        word = self.token
        keyword = self.keyword
        if keyword in ("TRUE", "FALSE"):
            self.at += 1
            return ast.Constant(keyword == "TRUE")
        if keyword in ("NOT", "AND", "OR"):
            self.at += 1
            bracketed = keyword == "NOT" and self.token in _OPEN_CONDITION
            condition = ast.Not(self.operand()) if keyword == "NOT" else self.prefixed(keyword)
            if not bracketed and self.keyword in ("AND", "OR"):
                raise self.fail("ambiguous condition", f"brackets around the condition with {word!r}")
            return condition
        if word in self.language.arguments:
            self.at += 1
            return ast.Perception(f"{word} h( {self.argument(word)} h)")
        if word in self.language.perceptions:
            self.at += 1
            self.skip_call()
            return ast.Perception(word)
        names = dict.fromkeys(text.split()[0] for text in self.language.perceptions)
        raise self.misfit("a condition", (*names, "not", "and", "or", "True", "False"))

    def prefixed(self, operator: str) -> ast.Condition:
        left = self.operand()
        return _combined(operator, left, self.operand())

    def argument(self, name: str) -> str:
        opened = self.skip("h(", "(")
        word = self.token
        if word not in self.language.arguments[name]:
            raise self.fail("bad argument", f"an argument of {name} ({', '.join(self.language.arguments[name])})")
        self.at += 1
        self.skip("h)", *(")" if opened else ""))
        return word


def _combined(operator: str, left: ast.Condition, right: ast.Condition) -> ast.Condition:
    return ast.And(left, right) if operator == "AND" else ast.Or(left, right)
