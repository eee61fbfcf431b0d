"""Reads DSL text as language models write it, slips included.

The reader forgives a slip if only one program can be meant, and otherwise rejects the text by name. The strict reader
is `dsl/text.py`. Some repairs:

    REPEAT 5 r( move() r)                   ->  REPEAT R=5 r( move r)
    while not frontIsClear w( turnLeft w)   ->  WHILE c( not c( frontIsClear c) c) w( turnLeft w)
    IF(front_object_type(lava)) i( left i)  ->  IF c( front_object_type h( lava h) c) i( left i)
    WHILE c( frontIsClear c) w( move i)     ->  WHILE c( frontIsClear c) w( move w)
    ... w( move m)                          ->  ... w( move w) m)
    ... w( move turnLeft m)                 ->  rejected as unclosed: is turnLeft part of the loop?
    ... w( move turnLeft                    ->  ... w( move turnLeft w) m), if the answer ends here
"""

from __future__ import annotations

import re

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language

_BRACKET_IN_COMMENT = re.compile(r"\b[mwicreh]\s*[()]")
# In `R=5r(` and `5r(` the count ends before the bracket: a lookahead leaves `r(` for the next token.
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
WORDS = ("WHILE", "IF", "IFELSE", "REPEAT", "ELSE", "NOT", "AND", "OR", "TRUE", "FALSE", "DEF", "RUN", *"MWICREH")
_OPEN_CONDITION, _CLOSE_CONDITION = ("c(", "("), ("c)", ")")
_OPEN_BLOCK = ("w(", "i(", "e(", "r(", "(")
_CLOSE_BLOCK = ("m)", "w)", "i)", "e)", "r)")


class Unreadable(Exception):
    """A block that is not a program. `reason` is one of `extract.REASONS`."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def read_source(source: str, language: Language, *, slip: bool = False) -> ast.Program:
    """Read a text that begins with DEF.

    Args:
      source: the text up to where its program has to end.
      language: the language of the program.
      slip: whether brackets at the end of the text must not be missing.

    Returns:
      The program as it was written, not normalised.

    Raises:
      Unreadable: the text is no program, or it is not clear which one is meant.

    Example:
      >>> import jaxprl
      >>> print(read_source("DEF run m( REPEAT 5 r( move() r) m)", jaxprl.make("DoorKey").language))
      DEF run m( REPEAT R=5 r( move r) m)
    """
    reader = _Reader(_tokens(source), language)
    reader.slip = slip
    return reader.program()


def _tokens(text: str) -> list[str]:
    """Split a text into tokens, and remove blanks inside them: `R = 5` becomes `R=5` and `w (` becomes `w(`.

    Quotes, commas, semicolons and comments are left out. A comment with DSL brackets in it is kept as a token, which
    the reader rejects: `# turn w) move w)` may be a comment only in part.
    """
    tokens = []
    for match in _TOKEN.finditer(text):
        comment = match["comment"]
        if comment and _BRACKET_IN_COMMENT.search(comment):
            tokens.append(comment)
        elif not comment and not match["blank"]:
            tokens.append("".join(match.group().split()))
    return tokens


class _Reader:
    """A recursive-descent parser of DSL tokens that forgives slips with only one possible meaning.

    Forgiven are: keywords in another case; words written as calls, `move()`; plain or missing brackets around
    conditions and arguments; IF instead of IFELSE and the other way round; the letter of another kind of block at a
    bracket; brackets that are still open at the end of the text.
    """

    def __init__(self, tokens: list[str], language: Language):
        self.tokens, self.language, self.at = tokens, language, 0
        self.open: list[str] = []
        """Letters of the blocks around the current token, outermost first."""
        self.slip = False
        """Whether a closing bracket was plain, wrong or missing, or another program follows the text. In that case
        brackets at the end of the text must not be missing, since they could belong in several places."""
        self.bare = self.unclosed = self.infix = 0
        """Numbers of operands without brackets, of brackets left open and of infix operators, in the condition of the
        current statement."""

    @property
    def token(self) -> str:
        """The current token; empty at the end of the text."""
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    @property
    def keyword(self) -> str:
        """The current token in upper case."""
        return self.token.upper()

    def skip(self, *tokens: str) -> bool:
        """Skip the current token if it is one of these, and return whether it is."""
        if self.token not in tokens or not self.token:
            return False
        self.at += 1
        return True

    def fail(self, reason: str, expected: str) -> Unreadable:
        """Return the error for the current token, with what was expected instead."""
        found = repr(self.token[:40]) if self.token else "the end of the text"
        return Unreadable(reason, f"token {self.at}: expected {expected}, found {found}")

    def misfit(self, expected: str, names: tuple[str, ...] = ()) -> Unreadable:
        """Return the error for a current token that does not fit, with the reason that suits it."""
        word = self.token
        expected = f"{expected} ({', '.join(names)})" if names else expected
        if not word:
            return self.fail("unclosed", expected)
        if word.startswith(("#", "//")):
            return self.fail("unclear comment", expected)
        if word.isidentifier() and word.upper() not in WORDS and word not in self.language.actions:
            known = word in " ".join(self.language.perceptions).split()
            return self.fail("misplaced token" if known else "unknown name", expected)
        dsl = any(character.isalnum() or character in "()" for character in word)
        return self.fail("misplaced token" if dsl else "unknown token", expected)

    def program(self) -> ast.Program:
        """Read a program, from its DEF on."""
        self.at += 1
        if self.keyword == "RUN":
            self.at += 1
        self.skip_call()
        self.skip(":")
        program = ast.Program(self.block("m", ("m(", "(")))
        self.skip(")")  # the program may stand in brackets
        if self.token in (*_CLOSE_BLOCK, "c)", "h)", "WHILE", "IF", "IFELSE", "ELSE", "REPEAT", *self.language.actions):
            raise self.fail("misplaced token", "the end of the program")
        return program

    def skip_call(self) -> None:
        """Skip the brackets of a call, `()`."""
        if self.tokens[self.at : self.at + 2] == ["(", ")"]:
            self.at += 2

    def block(self, letter: str, opening: tuple[str, ...] = _OPEN_BLOCK) -> ast.Body:
        """Read a block with its brackets, `w( S w)` for the letter w."""
        if not self.skip(*opening):
            raise self.misfit(f"'{letter}('")
        self.open.append(letter)
        body: list[ast.Statement] = []
        while not self.closes(letter, body):
            body.append(self.statement())
        self.open.pop()
        return tuple(body)

    def closes(self, letter: str, body: list[ast.Statement]) -> bool:
        """Return whether the block ends at the current token, and skip its bracket.

        A bracket with the letter of an outer block means that the bracket of this block is missing. This is forgiven if
        the body is a single action, since then the bracket has only one place: in `m( WHILE .. w( move m)`, it stands
        behind `move`. In `m( WHILE .. w( move turnLeft m)`, `turnLeft` may stand before or behind it.

        A bracket with a letter that closes no outer block is taken for this block's: `w( move i)` means `w( move w)`.
        But it is not taken for the program's, which would leave out everything behind it.
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
        if self.token[0] in self.open:  # an outer block's bracket, which stays for that block to read
            if len(body) > 1 or not isinstance(body[0], ast.Action):
                raise self.fail("unclosed", f"'{letter})'")
            return True
        if letter == "m" and self.token != ")":
            raise self.fail("misplaced token", "'m)'")
        self.at += 1
        return True

    def statement(self) -> ast.Statement:
        """Read a statement. An IF with ELSE and an IFELSE without one mean the other; `ELSE IF` opens no block."""
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
        """Read a REPEAT's count: `R=5`, `r=5`, `5` or `(5)`."""
        opened = self.skip(*_OPEN_CONDITION)
        number = _INTEGER.fullmatch(self.token)
        if not number:
            raise self.fail("bad count", "a count like R=3")
        self.at += 1
        if opened:
            self.skip(*_CLOSE_CONDITION)
        return int(number[1])

    def condition(self) -> ast.Condition:
        """Read the whole condition of a statement, and closing brackets whose opening brackets are missing.

        A condition with an open bracket and an infix operator is ambiguous: `c( not c( a and b c)` may mean
        `not (a and b)` or `(not a) and b`.
        """
        self.bare = self.unclosed = self.infix = 0
        condition = self.operation()
        while self.bare and self.skip("c)"):
            self.bare -= 1
        if self.unclosed and self.infix:
            raise self.fail("ambiguous condition", "'c)' for every 'c('")
        return condition

    def operation(self) -> ast.Condition:
        """Read `A`, `A and B`, `A and B and C`, ..., as And(A, And(B, C)).

        `A and B or C` is ambiguous and rejected.
        """
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
        """Read an operand, with brackets or without."""
        if not self.skip(*_OPEN_CONDITION):
            self.bare += 1
            return self.bare_operand()
        condition = self.operation()
        if not self.skip(*_CLOSE_CONDITION):
            self.unclosed += 1
        return condition

    def bare_operand(self) -> ast.Condition:
        """Read a constant, an operator with its operands, or a perception."""
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
        """Read the two operands of `and c( A c) c( B c)`."""
        left = self.operand()
        return _combined(operator, left, self.operand())

    def argument(self, name: str) -> str:
        """Read the argument of a perception: `h( lava h)`, `(lava)` or `lava`."""
        opened = self.skip("h(", "(")
        word = self.token
        if word not in self.language.arguments[name]:
            raise self.fail("bad argument", f"an argument of {name} ({', '.join(self.language.arguments[name])})")
        self.at += 1
        self.skip("h)", *(")" if opened else ""))
        return word


def _combined(operator: str, left: ast.Condition, right: ast.Condition) -> ast.Condition:
    return ast.And(left, right) if operator == "AND" else ast.Or(left, right)
