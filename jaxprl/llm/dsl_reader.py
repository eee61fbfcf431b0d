"""A reader of DSL text as language models write it, slips of the pen included.

It forgives a slip where only one program can be meant (a missing `c(`, `move()`, plain brackets, `R = 5`, brackets left
open at the very end) and refuses by name where it cannot be sure. The strict reader is `dsl/text.py`.
"""

from __future__ import annotations

import re

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language

_DSL_BEGIN = re.compile(r"\bDEF(?=\s+(?:run|m)\b)|\b[Dd][Ee][Ff](?=\s+run\s+m\b)")
_DSL_FORM = re.compile(r"DEF\s+(?:run\s+)?m\(\s*(?:S|\.\.\.|\u2026)\s*m\)", re.IGNORECASE)
"""The grammar's own form of a program, quoted from the prompt."""
_LAST_LINE = re.compile(r"\bm\s*\)[^\S\n]*\n\s*(?=(.*))")
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


class Unreadable(Exception):
    """A block that is no program: `reason` is one of `extract.REASONS`."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def read_dsl(text: str, language: Language) -> ast.Program:
    """Read the first DSL text, fenced or not; it ends at its last bracket, its fence, prose on the lines behind it or
    the next DEF."""
    beginnings = [match for match in _DSL_BEGIN.finditer(text) if not _DSL_FORM.match(text, match.start())]
    if not beginnings:
        raise Unreadable("no dsl block", "no text that begins with DEF run m(")
    begin = beginnings[0]
    end = _DSL_END.search(text, begin.end())
    source = text[begin.start() : end.start() if end else len(text)]
    reader = _Reader(_tokens(_without_prose(source, language)), language)
    reader.slip = end is not None and end.group() == "DEF"
    return reader.program()


def _without_prose(text: str, language: Language) -> str:
    """Return the text up to an `m)` that ends a line, if the next line has words that no program has."""
    known = {*language.actions, *" ".join(language.perceptions).split(), *_WORDS, *map(str.lower, _WORDS)}
    for match in _LAST_LINE.finditer(text):
        if not known.issuperset(re.findall(r"[A-Za-z_]\w*", match[1])):
            return text[: match.end()]
    return text


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

    def fail(self, reason: str, expected: str) -> Unreadable:
        found = repr(self.token[:40]) if self.token else "the end of the text"
        return Unreadable(reason, f"token {self.at}: expected {expected}, found {found}")

    def misfit(self, expected: str, names: tuple[str, ...] = ()) -> Unreadable:
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
