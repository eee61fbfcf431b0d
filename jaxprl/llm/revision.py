"""Prompts that ask a language model for better programs than those it gave (the revision methods of LLM-GS, appendix).

A method decides what stands between the task and the request: the programs of the last round, or what the best program
did, step by step, on the layout where it does worst. All of it is made of programs and of texts that worlds give, so
no task or language needs code here. A world without pictures leaves out the start and the cells.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language
from jaxprl.dsl.python import call_text, to_python
from jaxprl.dsl.text import to_text
from jaxprl.errors import unknown
from jaxprl.llm import prompts

MOST_STEPS = 50
"""Steps of an episode that a prompt shows."""
LIMIT, REPEATED, TERMINATED, LAST_CALL, FINISHED = (
    "the limit of actions and perceptions was reached.",
    "a while loop was about to begin a round in a state of the world in which it had begun one before.",
    "the task ended the episode.",
    "the task ended the episode, at the last action that was allowed.",
    "the program came to its end.",
)
"""How episodes end."""


class Step(NamedTuple):
    """One action or perception of an episode, and the world after it."""

    word: str
    result: bool | None
    """What a perception gave."""
    reward: float | None
    """What an action brought."""
    line: int
    """Line in the program's Python text, counted from 1."""
    place: str | None
    """The agent's pose in words."""
    around: str | None
    """The 3x3 cells around the agent, a line a row."""


class Start(NamedTuple):
    """A layout as it is before the first step."""

    place: str
    grid: str
    """All cells, a line a row."""
    signs: Sequence[str]
    """How to read coordinates and cells, in sentences."""


class Episode(NamedTuple):
    """A program on one layout."""

    value: float
    """Its return there."""
    start: Start | None
    steps: Sequence[Step]
    """The first `MOST_STEPS`."""
    calls: int
    """Steps in all."""
    end: str
    """Why there were no more."""


class Past(NamedTuple):
    """What a search by revision has so far."""

    programs: Sequence[tuple[ast.Program, float]]
    """Of the last round, in the order they were evaluated in, with their mean returns."""
    layouts: int
    """Layouts that returns are the mean of."""
    best: ast.Program
    """The first of all programs with the highest mean return."""
    best_value: float
    episode: Episode | None = None
    """The best program where it does worst, for methods that show it (`TRACED`)."""
    dsl: bool = False
    """Whether the model is asked for DSL text alone, and shown programs so."""


def messages(
    method: str, past: Past, *, language: Language, name: str, words: Mapping[str, str], style: str
) -> list[dict[str, str]]:
    """Return the chat messages of a method for the task of that name and words: those of `prompts.messages`, with what
    the method adds before the request. Raises UserError if there is no such method, and as `prompts.messages`."""
    if method not in METHODS:
        raise unknown("revision method", method, METHODS)
    past = past._replace(dsl=style == "dsl")
    return prompts.messages(language, name, words, style, added=METHODS[method](past))


def regeneration(past: Past) -> str:
    """Return the distinct programs of the last round, with the demand for a different one."""
    programs = dict.fromkeys(program for program, _ in past.programs)
    blocks = [f"Program {number}:\n{_block(program, past.dsl)}" for number, program in enumerate(programs, 1)]
    heading = "These programs have been written for this task before:"
    return "\n\n".join([heading, *blocks, "Your program must be different from every one of them."])


def regeneration_with_reward(past: Past) -> str:
    """Return the distinct programs of the last round with their mean returns, best first, ties in their order."""
    ranked = sorted(dict(past.programs).items(), key=lambda item: -item[1])
    blocks = [
        f"Program {number}, mean return {_number(value)}:\n{_block(program, past.dsl)}"
        for number, (program, value) in enumerate(ranked, 1)
    ]
    heading = (
        "These programs have been written for this task before. Behind each number is the program's mean return over "
        f"{_layouts(past)}; 1 is the most there can be. The best program comes first:"
    )
    demand = "Your program must be different from every one of them and have a higher mean return."
    return "\n\n".join([_filled(heading), *blocks, demand])


def execution_trace(past: Past) -> str:
    """Return the best program and its episode, step by step."""
    return _episode(past, lambda step: [])


def program_and_execution_trace(past: Past) -> str:
    """Return the best program and its episode, every step with the program, its current line marked."""
    lines = to_python(past.best).splitlines()
    return _episode(past, lambda step: _marked(lines, step.line))


METHODS: Mapping[str, Callable[[Past], str]] = {
    "regeneration": regeneration,
    "regeneration-with-reward": regeneration_with_reward,
    "execution-trace": execution_trace,
    "program-and-execution-trace": program_and_execution_trace,
}
TRACED = ("execution-trace", "program-and-execution-trace")
"""Methods that show an episode of the best program."""
MARK = "--> "
"""What stands before the current line of a program."""


def _episode(past: Past, extra: Callable[[Step], list[str]]) -> str:
    episode = past.episode
    assert episode is not None
    best = (
        f"This is the best program so far. Its mean return over {_layouts(past)} is "
        f"{_number(past.best_value)}; 1 is the most there can be:"
    )
    worst = f"On the layout where it does worst its return is {_number(episode.value)}."
    parts = [f"{_filled(best)}\n{_block(past.best, past.dsl)}", worst]
    if past.dsl:
        parts.insert(1, f"Its meaning, in the lines that the steps below name:\n```\n{to_python(past.best)}\n```")
    if episode.start:
        place, grid, signs = episode.start
        parts.append("\n".join([f"That layout at the start, with the agent at {place}:", grid, *map(_filled, signs)]))
    spell = str if past.dsl else call_text
    return "\n\n".join(
        [*parts, *_steps(episode, extra, spell), "Find out what goes wrong, and write a better program."]
    )


def _steps(episode: Episode, extra: Callable[[Step], list[str]], spell: Callable[[str], str]) -> list[str]:
    """Return the steps in words; `extra` gives more lines of a step, `spell` a word as programs have it."""
    if not episode.steps:
        return [f"There the program does nothing: {episode.end}"]
    shown = f"the first {len(episode.steps)} of {episode.calls:,} steps" if len(episode.steps) < episode.calls else ""
    shown = shown or ("its only step" if episode.calls == 1 else f"all {episode.calls} steps")
    cells = " and the 3x3 cells around it" if any(step.around for step in episode.steps) else ""
    heading = f"What the program does there ({shown}), each step with where the agent is{cells} after it:"
    if not any(step.place for step in episode.steps):
        heading = f"What the program does there ({shown}):"
    blocks = [
        "\n".join(_step(number, step._replace(word=spell(step.word)), extra(step)))
        for number, step in enumerate(episode.steps, 1)
    ]
    return [_filled(heading), *blocks, f"After {episode.calls:,} steps it ended: {episode.end}"]


def _step(number: int, step: Step, extra: list[str]) -> list[str]:
    effect = f" is {step.result}" if step.reward is None else f", reward {_number(step.reward)}"
    place = f"; agent at {step.place}" if step.place else ""
    cells = step.around.splitlines() if step.around else []
    first = f"Step {number}, line {step.line}: {step.word}{effect}{place}"
    return [first, *extra, *(f"    {line}" for line in cells)]


def _marked(lines: Sequence[str], current: int) -> list[str]:
    blank = " " * len(MARK)
    return [(MARK if number == current else blank) + line for number, line in enumerate(lines, 1)]


def _block(program: ast.Program, dsl: bool) -> str:
    return f"```\n{to_text(program)}\n```" if dsl else f"```python\n{to_python(program)}\n```"


def _layouts(past: Past) -> str:
    return "the one layout that counts" if past.layouts == 1 else f"{past.layouts} layouts (different maps or starts)"


def _number(value: float) -> str:
    return f"{value:.4f}"


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
