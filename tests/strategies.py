"""Random programs: as a hypothesis strategy that shrinks, and from numpy's generator where thousands are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from jaxprl.dsl import ast
from jaxprl.dsl.language import PROGRAM_TOKENS, Language
from jaxprl.dsl.text import token_count
from jaxprl.worlds.karel.world import LANGUAGE as KAREL

COUNTS = (*range(20), 20, 63, 999, 10**8 - 1, -1, -3, -(10**8) + 1)
"""Counts that text may hold: those that sampling makes and others."""


@dataclasses.dataclass(frozen=True)
class Growth:
    """Grows a program of any shape that text can spell; the first choice is always the simplest.

    `choose(n)` gives a number in 0..n-1.
    """

    choose: Callable[[int], int]
    language: Language = KAREL
    counts: Sequence[int] = COUNTS
    depth: int = 4
    sequence: int = 4

    def pick(self, options: Sequence):
        return options[self.choose(len(options))]

    def program(self) -> ast.Program:
        return ast.Program(self.body(self.depth))

    def body(self, depth: int) -> ast.Body:
        return tuple(self.statement(depth) for _ in range(1 + self.choose(self.sequence)))

    def statement(self, depth: int) -> ast.Statement:
        kind = self.choose(10) if depth > 0 else 0
        match kind:
            case 6:
                return ast.Repeat(self.pick(self.counts), self.body(depth - 1))
            case 7:
                return ast.If(self.condition(2), self.body(depth - 1))
            case 8:
                return ast.IfElse(self.condition(2), self.body(depth - 1), self.body(depth - 1))
            case 9:
                return ast.While(self.condition(2), self.body(depth - 1))
        return ast.Action(self.pick(self.language.action_names))

    def condition(self, depth: int) -> ast.Condition:
        kind = self.choose(8) if depth > 0 else self.choose(5)
        match kind:
            case 4:
                return ast.Constant(bool(self.choose(2)))
            case 5:
                return ast.Not(self.condition(depth - 1))
            case 6:
                return ast.And(self.condition(depth - 1), self.condition(depth - 1))
            case 7:
                return ast.Or(self.condition(depth - 1), self.condition(depth - 1))
        return ast.Perception(self.pick(self.language.perception_names))


@st.composite
def programs(draw, language: Language = KAREL, **limits) -> ast.Program:
    """Programs of a language that are short enough to run."""
    program = Growth(lambda n: draw(st.integers(0, n - 1)), language, **limits).program()
    assume(token_count(program) <= PROGRAM_TOKENS)
    return program


@st.composite
def conditions(draw, language: Language = KAREL, depth: int = 3) -> ast.Condition:
    """Conditions of a language, constants and nested operators included."""
    return Growth(lambda n: draw(st.integers(0, n - 1)), language).condition(depth)


def random_program(rng: np.random.Generator, language: Language = KAREL, **limits) -> ast.Program:
    """Return a random program that is short enough to run."""
    growth = Growth(lambda n: int(rng.integers(n)), language, **limits)
    while token_count(program := growth.program()) > PROGRAM_TOKENS:
        pass
    return program
