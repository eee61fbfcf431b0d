"""Programs from text in either notation."""

from __future__ import annotations

from typing import Protocol

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language
from jaxprl.dsl.python import from_python
from jaxprl.dsl.text import from_text


class HasLanguage(Protocol):
    """A task, or anything else that programs are written for."""

    @property
    def language(self) -> Language: ...


def parse(text: str, task: HasLanguage | Language) -> ast.Program:
    """Read a program from token text or from Python text.

    Args:
      text: token text, which begins with `DEF`, or the text of a Python function `run()`.
      task: the task that the program is for, or its language.

    Returns:
      The program.

    Raises:
      UserError: the text is not a program in the language; the message says where and what was expected.

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
    language = task if isinstance(task, Language) else task.language
    return from_text(text, language) if text.split()[:1] == ["DEF"] else from_python(text, language)
