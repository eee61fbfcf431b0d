"""Prompts that ask a language model to improve on its programs (the revision methods of LLM-GS, appendix).

A method decides what the prompt shows between the task and the request: the programs of the last round, or what the
best program does, step by step, on the layout where it does worst. All of it is composed of programs and of texts that
the world provides, so a new task or language needs no code here. For a world without pictures, the prompt leaves out
the start and the cells around the agent.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxprl.dsl import ast
from jaxprl.dsl.ast import call_text
from jaxprl.dsl.language import Language
from jaxprl.errors import unknown
from jaxprl.llm import prompts

MOST_STEPS = 50
"""The most steps of an episode that a prompt shows."""
LIMIT, REPEATED, IMPOSSIBLE, TERMINATED, LAST_CALL, TERMINATED_BY_CRASH, FINISHED = (
    "the limit of actions and perceptions was reached.",
    "a while loop was about to begin a round in a state of the world in which it had begun one before.",
    "the agent crashed, since its last action was not possible where it was.",
    "the task ended the episode.",
    "the task ended the episode, at the last action that was allowed.",
    "the task ended the episode, at an action that was not possible and crashed the agent.",
    "the program came to its end.",
)
"""The ways in which an episode ends, in words."""


class Step(NamedTuple):
    """One action or perception of an episode, and the world after it."""

    word: str
    """The action or perception, as DSL text."""
    result: bool | None
    """The result of a perception; None for an action."""
    reward: float | None
    """The reward of an action; None for a perception."""
    line: int
    """Line of the program's Python text, counted from 1."""
    place: str | None
    """The agent's pose in words, if the world provides it."""
    around: str | None
    """The 3x3 cells around the agent, one line per row, if the world provides them."""


class Start(NamedTuple):
    """A layout before the first step."""

    place: str
    """The agent's pose in words."""
    grid: str
    """All cells, one line per row."""
    signs: Sequence[str]
    """Sentences that explain the coordinates and the signs of the cells."""


class Episode(NamedTuple):
    """The run of a program on one layout."""

    value: float
    """The return."""
    start: Start | None
    """The layout, if the world provides pictures."""
    steps: Sequence[Step]
    """The first `MOST_STEPS` steps."""
    calls: int
    """The number of all steps."""
    end: str
    """How the episode ended, in words: `LIMIT`, `FINISHED` and so on."""


class Past(NamedTuple):
    """The programs of a search by revision so far."""

    programs: Sequence[tuple[ast.Program, float]]
    """The programs of the last round with their mean returns, in the order in which they were evaluated."""
    layouts: int
    """The number of layouts over which returns are averaged."""
    best: ast.Program
    """The program with the highest mean return; of several, the one that was evaluated first."""
    best_value: float
    """The mean return of the best program."""
    episode: Episode | None = None
    """The best program on the layout where it does worst, for the methods that show it (`TRACED`)."""
    dsl: bool = False
    """Whether programs are shown as DSL text instead of Python, because the model is asked for DSL text alone."""


def messages(
    method: str, past: Past, *, language: Language, name: str, words: Mapping[str, str], style: str
) -> list[dict[str, str]]:
    """Return the chat messages that ask for a better program.

    They are those of `prompts.messages`, with the part of the method before the request.

    Args:
      method: one of `METHODS`.
      past: the programs so far.
      language: the language of the task's world.
      name: the name of the task, as the prompt shows it.
      words: the task in words (`Task.words`).
      style: one of `prompts.STYLES`.

    Returns:
      A system message and a user message.

    Raises:
      UserError: if there is no such method, and as `prompts.messages`.
    """
    if method not in METHODS:
        raise unknown("revision method", method, METHODS)
    past = past._replace(dsl=style == "dsl")
    return prompts.messages(language, name, words, style, added=METHODS[method](past))


def regeneration(past: Past) -> str:
    """Show the distinct programs of the last round, and demand a different one."""
    programs = dict.fromkeys(program for program, _ in past.programs)
    blocks = [f"Program {number}:\n{_block(program, past.dsl)}" for number, program in enumerate(programs, 1)]
    heading = "These programs have been written for this task before:"
    return "\n\n".join([heading, *blocks, "Your program must be different from every one of them."])


def regeneration_with_reward(past: Past) -> str:
    """Show the distinct programs of the last round with their mean returns, best first.

    Programs with equal returns stay in the order in which they were evaluated.
    """
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
    """Show the best program and its episode, step by step."""
    return _episode(past, lambda step: [])


def program_and_execution_trace(past: Past) -> str:
    """Show the best program and its episode, and at every step the program with its current line marked."""
    lines = past.best.to_python().splitlines()
    return _episode(past, lambda step: _marked(lines, step.line))


METHODS: Mapping[str, Callable[[Past], str]] = {
    "regeneration": regeneration,
    "regeneration-with-reward": regeneration_with_reward,
    "execution-trace": execution_trace,
    "program-and-execution-trace": program_and_execution_trace,
}
"""The part of the prompt that each method adds, by the name of the method."""
TRACED = ("execution-trace", "program-and-execution-trace")
"""The methods that show an episode of the best program."""
MARK = "--> "
"""Marks the current line of a program."""


def _episode(past: Past, extra: Callable[[Step], list[str]]) -> str:
    """Return the best program and its episode; `extra` returns more lines for each step."""
    episode = past.episode
    assert episode is not None
    best = (
        f"This is the best program so far. Its mean return over {_layouts(past)} is "
        f"{_number(past.best_value)}; 1 is the most there can be:"
    )
    worst = f"On the layout where it does worst its return is {_number(episode.value)}."
    parts = [f"{_filled(best)}\n{_block(past.best, past.dsl)}", worst]
    if past.dsl:
        parts.insert(1, f"Its meaning, in the lines that the steps below name:\n```\n{past.best.to_python()}\n```")
    if episode.start:
        place, grid, signs = episode.start
        parts.append("\n".join([f"That layout at the start, with the agent at {place}:", grid, *map(_filled, signs)]))
    spell = str if past.dsl else call_text
    return "\n\n".join(
        [*parts, *_steps(episode, extra, spell), "Find out what goes wrong, and write a better program."]
    )


def _steps(episode: Episode, extra: Callable[[Step], list[str]], spell: Callable[[str], str]) -> list[str]:
    """Return the steps in words.

    `extra` returns more lines for a step, and `spell` writes a word as the programs in the prompt do.
    """
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
    """Return the lines of one step."""
    effect = f" is {step.result}" if step.reward is None else f", reward {_number(step.reward)}"
    place = f"; agent at {step.place}" if step.place else ""
    cells = step.around.splitlines() if step.around else []
    first = f"Step {number}, line {step.line}: {step.word}{effect}{place}"
    return [first, *extra, *(f"    {line}" for line in cells)]


def _marked(lines: Sequence[str], current: int) -> list[str]:
    """Return the lines of a program, the current one marked."""
    blank = " " * len(MARK)
    return [(MARK if number == current else blank) + line for number, line in enumerate(lines, 1)]


def _block(program: ast.Program, dsl: bool) -> str:
    return f"```\n{program!s}\n```" if dsl else f"```python\n{program.to_python()}\n```"


def _layouts(past: Past) -> str:
    return "the one layout that counts" if past.layouts == 1 else f"{past.layouts} layouts (different maps or starts)"


def _number(value: float) -> str:
    return f"{value:.4f}"


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
