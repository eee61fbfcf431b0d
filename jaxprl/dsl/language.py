"""The part of the DSL that a domain decides: its words, how likely each is, and how large a program may grow."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from jaxprl.errors import UserError

STATEMENT_PROBABILITIES: Mapping[str, float] = {
    "While": 0.15, "Repeat": 0.03, "Concat": 0.50, "If": 0.08, "IfElse": 0.04, "Action": 0.20,
}  # fmt: skip
COUNTS = range(20)
"""REPEAT counts that sampling draws, uniformly; text may hold any integer."""

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
        if len(self.actions) > 14 or len(self.perceptions) > 32:
            raise UserError(f"language {self.name}: at most 14 actions and 32 perceptions fit an instruction")

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
