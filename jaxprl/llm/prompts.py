"""Prompts that ask a language model for a program, in the three styles of LLM-GS.

Everything that a prompt says about the world and the task comes from the language and from the task's own words, so a
new task or language needs no code here. The forms of programs that a prompt shows can be read by `dsl/python.py` and
`dsl/text.py`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jaxprl.dsl.ast import call_text
from jaxprl.dsl.language import COUNTS, Language
from jaxprl.errors import UserError, unknown


class Style(NamedTuple):
    """The notations that a prompt explains and asks for."""

    python: bool
    """Whether the prompt shows Python."""
    dsl: bool
    """Whether the prompt shows DSL text."""
    program: str
    """The sentences above the list of forms, which say what a program is."""
    request: str
    """The end of the user message, which asks for a program."""


STYLES: Mapping[str, Style] = {
    "python-dsl": Style(
        python=True,
        dsl=True,
        program="A program is a Python function run() built from these forms only. "
        "After each arrow comes the same in the DSL:",
        request="1. Write one short and simple Python program run() for this task, without comments, "
        "in a ```python block.\n2. Then write the same program in the DSL, in a second ``` block.",
    ),
    "python": Style(
        python=True,
        dsl=False,
        program="A program is a Python function run() built from these forms only:",
        request="Write one short and simple Python program run() for this task, without comments, "
        "in a ```python block.",
    ),
    "dsl": Style(
        python=False,
        dsl=True,
        program="A program is DSL text, words separated by spaces, built from these forms only. "
        "Before each arrow comes the meaning:",
        request="Write one short and simple program in the DSL for this task, without comments, in a ``` block.",
    ),
}
FORMS = (
    ("def run(): S", "DEF run m( S m)"),
    ("while B: S", "WHILE c( B c) w( S w)"),
    ("if B: S", "IF c( B c) i( S i)"),
    ("if B: S else: S", "IFELSE c( B c) i( S i) ELSE e( S e)"),
    ("for i in range(N): S", "REPEAT R=N r( S r)"),
    ("not P", "not c( P c)"),
)
"""The forms of programs, in Python and in the DSL. The readers of answers understand more forms than these."""
RULES = (
    "S is one or more statements, each an action or a while, if or for; they can be nested.",
    "B is P or not P, where P is a perception.",
    f"N is a literal number from {COUNTS[0]} to {COUNTS[-1]}.",
    "There are no variables, other functions, return, break, continue, elif, and, or, comparisons, True or False.",
    "The program runs once, from top to bottom.",
    "A while loop that would begin a round in a state of the world in which it has begun one before ends the episode.",
)
_LABELS = {"map": "Map", "agent": "Start", "goal": "Goal", "returns": "Reward"}
"""The headings in a prompt, by the keys of a task's `words`."""


def messages(
    language: Language, name: str, words: Mapping[str, str], style: str = "python-dsl", *, added: str = ""
) -> list[dict[str, str]]:
    """Return the chat messages that ask for a program.

    Args:
      language: the language of the task's world.
      name: the name of the task, as the prompt shows it.
      words: the task in words (`Task.words`), with the keys "map", "agent", "goal" and "returns".
      style: one of `STYLES`.
      added: a text that is inserted into the user message unchanged, between the task and the request
        (`revision_prompts.py`).

    Returns:
      A system message, which explains world, programs and rules, and a user message, which describes the task and asks
      for a program.

    Raises:
      UserError: if there is no such style, or if the words for something that the prompt has to explain are missing.

    Example:
      >>> import jaxprl
      >>> task = jaxprl.make("DoorKey")
      >>> system, user = messages(task.language, task.name, task.words, style="dsl")
      >>> print(user["content"].splitlines()[0], "...", user["content"].splitlines()[-1])
      Task: DoorKey ... Write one short and simple program in the DSL for this task, without comments, in a ``` block.
    """
    if style not in STYLES:
        raise unknown("prompt style", style, STYLES)
    meanings = {word: language.meanings.get(word) for word in _sampled({**language.actions, **language.perceptions})}
    _require(f"language {language.name}", {"world": language.world, **meanings})
    _require(f"task {name}", {key: words.get(key) for key in _LABELS})
    request = _wrapped(STYLES[style].request)
    return [
        {"role": "system", "content": _wrapped(_system(language, STYLES[style]))},
        {"role": "user", "content": "\n\n".join(filter(None, [_wrapped(_user(name, words)), added, request]))},
    ]


def _system(language: Language, style: Style) -> str:
    """Return the system message: a section of list items on each of world, actions, perceptions, programs and rules."""

    def explained(words: Mapping[str, float]) -> Iterable[str]:
        return (f"{call_text(word) if style.python else word}: {language.meanings[word]}" for word in _sampled(words))

    sections = {
        "The world:": language.world,
        "Actions, one step each:": explained(language.actions),
        "Perceptions, each True or False:": explained(language.perceptions),
        style.program: _forms(language, style),
        "Rules:": RULES,
    }
    lists = ("\n".join([title, *(f"- {line}" for line in lines)]) for title, lines in sections.items())
    return "\n\n".join(["You write programs that act in a small world.", *lists])


def _forms(language: Language, style: Style) -> list[str]:
    """Return the list of forms, in the notations of the style."""
    rows = [*FORMS]
    if style.python and style.dsl:  # show how each perception with an argument is written, with one argument
        with_argument = {text.split()[0]: text for text in _sampled(language.perceptions) if " " in text}
        rows += [(call_text(text), text) for text in with_argument.values()]
        rows += [("any other action or perception", "its name without parentheses")]
    return [" -> ".join(row) if style.dsl else row[0] for row in rows]


def _user(name: str, words: Mapping[str, str]) -> str:
    return "\n".join([f"Task: {name}", *(f"{label}: {words[key]}" for key, label in _LABELS.items())])


def _sampled(words: Mapping[str, float]) -> list[str]:
    """Return the words that programs are sampled from. The others are understood, but prompts do not offer them."""
    return [word for word, probability in words.items() if probability > 0]


def _require(owner: str, words: Mapping[str, object]) -> None:
    """Raise UserError if one of the words has no explanation."""
    if missing := [word for word, meaning in words.items() if not meaning]:
        raise UserError(f"{owner} lacks words that a prompt needs: {', '.join(missing)}")


def _wrapped(text: str) -> str:
    """Return the text with every line wrapped to 120 characters."""
    wrapper = textwrap.TextWrapper(120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(wrapper.fill, text.splitlines()))
