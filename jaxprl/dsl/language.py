"""The part of the DSL that a domain decides: its words, how likely each is, and how large a program may grow."""

from __future__ import annotations

import dataclasses
import functools
import keyword
import math
import re
from collections.abc import Mapping

from jaxprl.errors import UserError

STATEMENT_PROBABILITIES: Mapping[str, float] = {
    "While": 0.15, "Repeat": 0.03, "Concat": 0.50, "If": 0.08, "IfElse": 0.04, "Action": 0.20,
}  # fmt: skip
COUNTS = range(20)
"""REPEAT counts that sampling draws, uniformly; text may hold any integer."""

STRUCTURE = ("DEF", "WHILE", "IF", "IFELSE", "ELSE", "REPEAT", "run", "range")
"""Words that have a meaning in every language, besides Python's own."""

SHORTEST = 5
"""Tokens of a program of one action."""
PROGRAM_TOKENS = 256
"""Longest program that runs, in tokens. Longer ones are rejected by name."""


@dataclasses.dataclass(frozen=True)
class Language:
    """Words and grammar probabilities of one domain (LLM-GS, appendix on the DSLs; LEAPS for Karel's numbers).

    A perception is named by its whole text, argument included (`front_object_type h( lava h)`), so an argument
    costs the rest of the system nothing. Probabilities need not sum to one: they are renormalised over what is
    allowed at a spot. A word with probability 0 is understood in text and never sampled.
    """

    name: str
    actions: Mapping[str, float]
    perceptions: Mapping[str, float]
    not_probability: float
    """Probability that a condition is a negation, where one is allowed."""
    complements: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Perceptions whose negation is a perception of its own."""
    statements: Mapping[str, float] = dataclasses.field(default_factory=lambda: STATEMENT_PROBABILITIES)
    max_tokens: int = 45
    max_height: int = 4
    max_sequence: int = 6
    world: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    """The world in words, for prompts: a few sentences each."""
    meanings: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """What actions and perceptions do, in words, for prompts; it may explain words that the language does not have."""

    def __post_init__(self):
        if mistake := _mistake(self):
            raise UserError(f"language {self.name}: {mistake}")

    @functools.cached_property
    def action_names(self) -> tuple[str, ...]:
        return tuple(self.actions)

    @functools.cached_property
    def perception_names(self) -> tuple[str, ...]:
        return tuple(self.perceptions)

    @functools.cached_property
    def arguments(self) -> Mapping[str, tuple[str, ...]]:
        """For every perception that takes an argument: the arguments it understands."""
        found: dict[str, tuple[str, ...]] = {}
        for text in self.perceptions:
            name, *rest = text.split()
            if rest:
                found[name] = (*found.get(name, ()), rest[1])
        return found

    def __hash__(self) -> int:
        return hash(self.name)


def _mistake(language: Language) -> str | None:
    """Return what is wrong with a language, in words."""
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
    if not 0 <= language.not_probability <= 1:
        return f"not_probability is {language.not_probability}; it goes from 0 to 1"
    if others := {*language.complements, *language.complements.values()} - {*perceptions}:
        return f"complements speaks of {', '.join(sorted(others))}, which are no perceptions of it"
    return None
