"""Token text of programs, both ways: `DEF run m( WHILE c( not c( markersPresent c) c) w( move w) putMarker m)`.

Printing and parsing are exact inverses: `to_text(parse(text)) == " ".join(text.split())`.
"""

from __future__ import annotations

from jaxprl.dsl import ast
from jaxprl.dsl.language import PROGRAM_TOKENS, Language
from jaxprl.errors import UserError


class ParseError(UserError):
    """Text that is not a program: what was expected, what was found, and at which token (counted from 0)."""

    def __init__(self, message: str, position: int):
        super().__init__(f"token {position}: {message}")
        self.position = position


def to_text(program: ast.Program) -> str:
    """Return the token text of a program, tokens separated by single spaces."""
    return f"DEF run m( {_body(program.body)} m)"


def token_count(program: ast.Program) -> int:
    """Return the number of space-separated words of the program's text, `DEF run m( m)` included."""
    return len(to_text(program).split())


def _body(body: ast.Body) -> str:
    return " ".join(map(_statement, body))


def _statement(statement: ast.Statement) -> str:
    match statement:
        case ast.Action(name):
            return name
        case ast.While(condition, body):
            return f"WHILE c( {condition_text(condition)} c) w( {_body(body)} w)"
        case ast.If(condition, body):
            return f"IF c( {condition_text(condition)} c) i( {_body(body)} i)"
        case ast.IfElse(condition, body, other):
            return f"IFELSE c( {condition_text(condition)} c) i( {_body(body)} i) ELSE e( {_body(other)} e)"
        case ast.Repeat(count, body):
            return f"REPEAT R={count} r( {_body(body)} r)"


def condition_text(condition: ast.Condition) -> str:
    """Return the token text of a condition, without the `c( c)` around it."""
    match condition:
        case ast.Perception(name):
            return name
        case ast.Constant(value):
            return str(value)
        case ast.Not(inner):
            return f"not c( {condition_text(inner)} c)"
        case ast.And(left, right):
            return f"and c( {condition_text(left)} c) c( {condition_text(right)} c)"
        case ast.Or(left, right):
            return f"or c( {condition_text(left)} c) c( {condition_text(right)} c)"


def parse(text: str, language: Language) -> ast.Program:
    """Return the program that `text` spells in `language`.

    Raises ParseError with the first token that does not fit: unknown words (with those that are known), words out
    of place, a missing end, anything after the end, and programs of more than `PROGRAM_TOKENS` tokens.
    """
    parser = _Parser(text.split(), language)
    if len(parser.tokens) > PROGRAM_TOKENS:
        raise ParseError(f"{len(parser.tokens)} tokens, at most {PROGRAM_TOKENS} are run", PROGRAM_TOKENS)
    return parser.program()


class _Parser:
    """Recursive descent over a list of tokens; recursion is bounded by `PROGRAM_TOKENS`."""

    def __init__(self, tokens: list[str], language: Language):
        self.tokens, self.language, self.at = tokens, language, 0

    @property
    def token(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def fail(self, expected: str) -> ParseError:
        found = repr(self.token) if self.token else "the end of the text"
        return ParseError(f"expected {expected}, found {found}", self.at)

    def take(self, *expected: str) -> None:
        for word in expected:
            if self.token != word:
                raise self.fail(repr(word))
            self.at += 1

    def program(self) -> ast.Program:
        self.take("DEF", "run")
        program = ast.Program(self.block("m"))
        if self.token:
            raise self.fail("the end of the text")
        return program

    def block(self, letter: str) -> ast.Body:
        self.take(f"{letter}(")
        body = [self.statement("a statement")]
        while self.token != f"{letter})":
            body.append(self.statement(f"{letter}) or a statement"))
        self.take(f"{letter})")
        return tuple(body)

    def statement(self, expected: str) -> ast.Statement:
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
        self.take("c(")
        condition = self.condition()
        self.take("c)")
        return condition

    def condition(self) -> ast.Condition:
        word = self.token
        if word in ("True", "False"):
            self.at += 1
            return ast.Constant(word == "True")
        if word == "not":
            self.at += 1
            return ast.Not(self.bracketed_condition())
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

    def argument(self, name: str) -> str:
        self.take("h(")
        word = self.token
        if word not in self.language.arguments[name]:
            raise self.fail(f"an argument of {name} ({', '.join(self.language.arguments[name])})")
        self.at += 1
        self.take("h)")
        return word
