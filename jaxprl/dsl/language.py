"""The part of the DSL that depends on the domain: its words, their probabilities, and the size limits of programs."""

from __future__ import annotations

import dataclasses
import functools
import keyword
import math
import re
from collections.abc import Mapping

from jaxprl.errors import UserError

STATEMENT_PROBABILITIES: dict[str, float] = {
    "While": 0.15, "Repeat": 0.03, "Concat": 0.50, "If": 0.08, "IfElse": 0.04, "Action": 0.20,
}  # fmt: skip
"""Probabilities of statement types in both published domains (LLM-GS; LEAPS for Karel)."""
COUNTS = range(20)
"""The REPEAT counts of both published domains. Text may hold any integer."""

STRUCTURE = ("DEF", "WHILE", "IF", "IFELSE", "ELSE", "REPEAT", "run", "range")
"""Words that no language can use for an action or a perception, besides Python's keywords."""

SHORTEST = 5
"""Number of tokens of a program that is a single action."""
PROGRAM_TOKENS = 256
"""Number of tokens of the longest program that is taken from an answer of a language model."""
PROGRAM_NODES = 512
"""Number of nodes (`ast.size`) of the largest program that can be run. Larger ones are refused with an error that has
these figures."""


def check_size(nodes: int, what: str) -> None:
    """Raise UserError if a program with so many nodes (`ast.size`) cannot be run; `what` is the program in words."""
    if nodes > PROGRAM_NODES:
        raise UserError(
            f"{what} has {nodes:,} nodes; at most {PROGRAM_NODES} are run. A statement, a condition, an operator and a "
            "count are a node each, and so is the link from a statement to the next one"
        )


@dataclasses.dataclass(frozen=True)
class Language:
    """The words and grammar probabilities of one domain (LLM-GS, appendix on the DSLs; LEAPS for Karel's numbers).

    A perception is named by its whole text, argument included (`front_object_type h( lava h)`), so the rest of the
    package does not have to know about arguments. Probabilities need not sum to one: they are renormalised over what
    the grammar allows at a place. A word with probability 0 is understood in text but never sampled.

    Raises:
      UserError: a word, a probability or a limit is not valid; the message says which.

    Example:
      >>> language = Language("lift", {"go_up": 0.6, "go_down": 0.4}, {"is_called": 1.0}, not_probability=0.1)
      >>> language.action_names
      ('go_up', 'go_down')
    """

    name: str
    """The name of the language, by which it is hashed."""
    actions: Mapping[str, float]
    """The probability of each action. Their order gives the codes 1, 2, ... of the actions; 0 is no action."""
    perceptions: Mapping[str, float]
    """The probability of each perception. Their order gives the codes 0, 1, ... of the perceptions."""
    not_probability: float
    """The probability that a condition is a negation, where the grammar allows one."""
    complements: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """For each perception whose negation is itself a perception: that perception."""
    statements: Mapping[str, float] = dataclasses.field(default_factory=lambda: STATEMENT_PROBABILITIES)
    """The probability of each statement type, with the keys of `STATEMENT_PROBABILITIES`."""
    counts: range = COUNTS
    """The REPEAT counts that sampling draws from, uniformly, from 0 to 63."""
    max_tokens: int = 45
    """The largest number of tokens of a sampled program."""
    max_height: int = 4
    """The largest height of a sampled program (`ast.height`)."""
    max_sequence: int = 6
    """The largest number of statements in one sequence of a sampled program."""
    world: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    """A description of the world for prompts, as sentences."""
    meanings: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """What each action and perception does, for prompts. It may also explain words that the language does not have."""

    def __post_init__(self):
        if mistake := _mistake(self):
            raise UserError(f"language {self.name}: {mistake}")

    @functools.cached_property
    def action_names(self) -> tuple[str, ...]:
        """The actions in the order of their codes; the code of the first one is 1."""
        return tuple(self.actions)

    @functools.cached_property
    def perception_names(self) -> tuple[str, ...]:
        """The perceptions in the order of their codes; the code of the first one is 0."""
        return tuple(self.perceptions)

    @functools.cached_property
    def arguments(self) -> Mapping[str, tuple[str, ...]]:
        """The arguments that each perception with an argument understands."""
        arguments: dict[str, tuple[str, ...]] = {}
        for text in self.perceptions:
            name, *rest = text.split()
            if rest:
                arguments[name] = (*arguments.get(name, ()), rest[1])
        return arguments

    def __hash__(self) -> int:
        return hash(self.name)


def _mistake(language: Language) -> str | None:
    """Return a description of the first mistake in a language, or None if there is none."""
    actions, perceptions = language.actions, language.perceptions
    if not 1 <= len(actions) <= 14 or not 1 <= len(perceptions) <= 32:
        return f"{len(actions)} actions and {len(perceptions)} perceptions; 1 to 14 and 1 to 32 fit an instruction"
    for text in (*actions, *perceptions):
        pattern = r"(\w+)( h\( \S+ h\))?" if text in perceptions else r"(\w+)"
        match = re.fullmatch(pattern, text)
        if not match or not match[1].isidentifier() or keyword.iskeyword(match[1]) or match[1] in STRUCTURE:
            example = (
                "a perception's like is_open or sees h( door h)" if text in perceptions else "an action's like go_up"
            )
            return f"{text!r} cannot be a word of programs; {example}"
    if both := {*actions} & {text.split()[0] for text in perceptions}:
        return f"{', '.join(sorted(both))}: both an action and a perception"
    for what, weights in {"actions": actions, "perceptions": perceptions, "statements": language.statements}.items():
        if not all(weight >= 0 and math.isfinite(weight) for weight in weights.values()) or not sum(weights.values()):
            return f"the probabilities of its {what} are not numbers from 0 up with a sum above 0: {dict(weights)}"
    if {*language.statements} != {*STATEMENT_PROBABILITIES}:
        return f"statements has probabilities for {', '.join(STATEMENT_PROBABILITIES)}, 0 for those it does without"
    if not SHORTEST <= language.max_tokens <= Language.max_tokens:
        return f"max_tokens is {language.max_tokens}; it goes from {SHORTEST} to {Language.max_tokens}"
    if not language.counts or not {*language.counts} <= {*range(64)}:
        return f"counts is {language.counts}; it holds at least one count, from 0 to 63"
    if not 0 <= language.not_probability <= 1:
        return f"not_probability is {language.not_probability}; it goes from 0 to 1"
    if others := {*language.complements, *language.complements.values()} - {*perceptions}:
        return f"complements speaks of {', '.join(sorted(others))}, which are no perceptions of it"
    return None
