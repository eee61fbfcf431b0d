"""Programs from text in either notation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language, check_size
from jaxprl.dsl.python import from_python
from jaxprl.dsl.text import from_text
from jaxprl.errors import UserError


class HasLanguage(Protocol):
    """A task, or anything else that programs are written for."""

    @property
    def language(self) -> Language: ...


def require_program(program: object, language: Language, what: str = "program") -> None:
    """Raise UserError unless a value is a program in a language, and small enough to run.

    Args:
      program: the value.
      language: the language.
      what: what the message calls it.
    """
    if not isinstance(program, ast.Program):
        raise UserError(f"{what}: expected a Program, got {program!r}; jaxprl.parse(text, task) reads one")
    check_size(ast.size(program), what)  # first: what follows descends into the program, as deep as it is
    if not all([program.body, *_inner_bodies(program.body)]):
        raise UserError(f"{what} has a block without a statement: {program}")
    for word in ast.words(program.body):
        known, kind = (
            (language.actions, "an action") if isinstance(word, ast.Action) else (language.perceptions, "a perception")
        )
        if word.name not in known:
            raise UserError(
                f"{what}: {word.name!r} is not {kind} of the language {language.name}; known: {', '.join(known)}"
            )


def _inner_bodies(body: ast.Body) -> Iterator[ast.Body]:
    for statement in ast.statements(body):
        match statement:
            case ast.While(body=inner) | ast.If(body=inner) | ast.Repeat(body=inner):
                yield inner
            case ast.IfElse(body=inner, otherwise=other):
                yield from (inner, other)


def parse(text: str, task: HasLanguage | Language) -> ast.Program:
    """Read a program from token text or from Python text.

    Args:
      text: token text, which begins with `DEF`, or the text of a Python function `run()`.
      task: the task that the program is for, or its language.

    Returns:
      The program.

    Raises:
      UserError: the text is not a program in the language, and the message says where and what was expected; or the
        program has more nodes than can be run.

    Example:
      >>> from jaxprl.worlds.make import make
      >>> program = parse("DEF run m( WHILE c( frontIsClear c) w( move w) m)", make("DoorKey"))
      >>> print(program.to_python())
      def run():
          while frontIsClear():
              move()
      >>> parse(program.to_python(), make("DoorKey")) == program
      True
    """
    language = task if isinstance(task, Language) else getattr(task, "language", None)
    if language is None:
        raise UserError(f"task {task!r}: expected a task or a Language; jaxprl.make(name) returns the task of a name")
    if not isinstance(text, str):
        raise UserError(f"program {text!r}: expected text")
    text = text.removeprefix("\ufeff")  # a byte-order mark, from a file
    if text.split(maxsplit=1)[:1] == ["DEF"]:
        return from_text(text, language)
    program = from_python(text, language)
    check_size(ast.size(program), "the program")
    return program
