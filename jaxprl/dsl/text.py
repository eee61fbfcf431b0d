"""Parse the token text of programs: `DEF run m( WHILE c( not c( markersPresent c) c) w( move w) putMarker m)`.

`str(program)` prints it. Printing and parsing are exact inverses: `str(from_text(text, language))` is `text` with
single spaces between its tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language, check_size
from jaxprl.errors import UserError

_OPERATORS = ("not", "and", "or", "True", "False")


class ParseError(UserError):
    """The text is not a program. The message says what was expected, what was found instead, and at which token.

    Attributes:
      position: the index of that token, counted from 0.
    """

    def __init__(self, message: str, position: int):
        super().__init__(f"token {position}: {message}")
        self.position = position


def token_count(program: ast.Program) -> int:
    """Return the number of tokens of a program: the space-separated words of its text, `DEF run m( m)` included.

    Example:
      >>> token_count(ast.Program((ast.Action("move"), ast.Action("turnLeft"))))
      6
    """
    return len(str(program).split())


def from_text(text: str, language: Language) -> ast.Program:
    """Parse the token text of a program.

    Args:
      text: the tokens, separated by any white space.
      language: the language whose actions and perceptions the text may use.

    Returns:
      The program.

    Raises:
      ParseError: at the first token that does not fit. It may be an unknown word (the message lists the known ones), a
        word in the wrong place, a missing end, or anything after the end.
      UserError: the program has more than `PROGRAM_NODES` nodes. The text is refused as a whole then, mistakes or not.

    Example:
      >>> from jaxprl.worlds.karel.world import LANGUAGE
      >>> from_text("DEF run m( move turnLeft m)", LANGUAGE)
      Program(body=(Action(name='move'), Action(name='turnLeft')))
    """
    tokens = text.split()
    check_size(_size(tokens, language), f"a program of {len(tokens):,} tokens")
    return _Parser(tokens, language).program()


def _size(tokens: Sequence[str], language: Language) -> int:
    """Return the number of nodes (`ast.size`) of the program that tokens spell.

    It is counted without parsing, so that it can bound how deeply the parser descends, whatever the tokens are.
    """
    statements = blocks = others = 0
    for before, word in itertools.pairwise(("", *tokens)):
        if word in language.actions or word in ("WHILE", "IF", "IFELSE", "REPEAT"):
            statements += before != "h("  # an argument may have the name of an action
        elif word in ("m(", "w(", "i(", "e(", "r("):
            blocks += 1
        elif word in _OPERATORS or word in language.perceptions or word in language.arguments or word[:2] == "R=":
            others += before != "h("
    return 1 + statements + others + max(statements - blocks, 0)  # the last are the links between statements


class _Parser:
    """A recursive-descent parser over a list of tokens. It descends by at most two calls a node, one for a `not`."""

    def __init__(self, tokens: list[str], language: Language):
        self.tokens, self.language, self.at = tokens, language, 0

    @property
    def token(self) -> str:
        """The next token, or an empty text at the end."""
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def fail(self, expected: str) -> ParseError:
        """Return the error that something else than the next token was expected."""
        found = repr(self.token) if self.token else "the end of the text"
        return ParseError(f"expected {expected}, found {found}", self.at)

    def take(self, *expected: str) -> None:
        """Skip the next tokens, which have to be these."""
        for word in expected:
            if self.token != word:
                raise self.fail(repr(word))
            self.at += 1

    def program(self) -> ast.Program:
        """Parse the whole text."""
        self.take("DEF", "run")
        program = ast.Program(self.block("m"))
        if self.token:
            raise self.fail("the end of the text")
        return program

    def block(self, letter: str) -> ast.Body:
        """Parse the statements between `w(` and `w)`, where `letter` takes the place of w."""
        self.take(f"{letter}(")
        body = [self.statement("a statement")]
        while self.token != f"{letter})":
            body.append(self.statement(f"{letter}) or a statement"))
        self.take(f"{letter})")
        return tuple(body)

    def statement(self, expected: str) -> ast.Statement:
        """Parse one statement; `expected` is what an error says about the place where it should be."""
        word = self.token
        if word in self.language.actions:
            self.at += 1
            return ast.Action(word)
        if word not in ("WHILE", "IF", "IFELSE", "REPEAT"):
            allowed = ", ".join(("WHILE", "IF", "IFELSE", "REPEAT", *self.language.actions))
            raise self.fail(f"{expected} ({allowed})")
        self.at += 1
        if word == "REPEAT":
            return ast.Repeat(self.count(), self.block("r"))
        condition = self.bracketed_condition()
        if word == "WHILE":
            return ast.While(condition, self.block("w"))
        body = self.block("i")
        if word == "IF":
            return ast.If(condition, body)
        self.take("ELSE")
        return ast.IfElse(condition, body, self.block("e"))

    def count(self) -> int:
        """Parse the count of a REPEAT, such as `R=3`, which has at most eight digits and no leading zeros."""
        digits = self.token.removeprefix("R=")
        if digits == self.token or not digits.removeprefix("-").isdecimal() or not digits.isascii():
            raise self.fail("a count like R=3")
        if len(digits.removeprefix("-")) > 8:
            raise self.fail("a count of at most eight digits")
        if f"R={int(digits)}" != self.token:
            raise self.fail(f"R={int(digits)}")
        self.at += 1
        return int(digits)

    def bracketed_condition(self) -> ast.Condition:
        """Parse a condition between `c(` and `c)`."""
        self.take("c(")
        condition = self.condition()
        self.take("c)")
        return condition

    def condition(self) -> ast.Condition:
        """Parse a condition without the brackets around it."""
        word = self.token
        if word in ("True", "False"):
            self.at += 1
            return ast.Constant(word == "True")
        if word == "not":
            return self.negations()
        if word in ("and", "or"):
            self.at += 1
            pair = self.bracketed_condition(), self.bracketed_condition()
            return ast.And(*pair) if word == "and" else ast.Or(*pair)
        if word in self.language.arguments:
            self.at += 1
            return ast.Perception(f"{word} h( {self.argument(word)} h)")
        if word in self.language.perceptions:
            self.at += 1
            return ast.Perception(word)
        names = dict.fromkeys(text.split()[0] for text in self.language.perceptions)
        raise self.fail(f"a condition ({', '.join((*names, 'not', 'and', 'or', 'True', 'False'))})")

    def negations(self) -> ast.Condition:
        """Parse a condition with `not` before it, once or more."""
        depth = 0
        while self.token == "not":
            self.take("not", "c(")
            depth += 1
        condition = self.condition()
        for _ in range(depth):
            self.take("c)")
            condition = ast.Not(condition)
        return condition

    def argument(self, name: str) -> str:
        """Parse the argument of a perception between `h(` and `h)`."""
        self.take("h(")
        word = self.token
        if word not in self.language.arguments[name]:
            raise self.fail(f"an argument of {name} ({', '.join(self.language.arguments[name])})")
        self.at += 1
        self.take("h)")
        return word
