"""Prompts: everything the language and the task have, nothing of others, and only forms that the readers read."""

import dataclasses
import itertools
import re
from textwrap import indent

import pytest

from jaxprl.cli.main import dispatch
from jaxprl.dsl import text
from jaxprl.dsl.ast import call_text
from jaxprl.dsl.language import Language
from jaxprl.dsl.python import from_python
from jaxprl.errors import UserError
from jaxprl.llm.answers import recorded, tasks
from jaxprl.llm.extract import extract
from jaxprl.llm.prompts import STYLES, messages
from jaxprl.worlds import registry

ONLY_IN = {"karel": ("robot", "marker", "turnLeft", "frontIsClear"), "minigrid": ("agent", "lava", "pickup", "front_")}
TASKS = {name: task for name, task in registry.tasks().items() if task.language.name.split("-")[0] in ONLY_IN}

TOY = Language(
    name="toy",
    actions={"hop": 0.5, "rest": 0.5, "nap": 0.0},
    perceptions={"wet": 0.5, "near h( pond h)": 0.5, "near h( reed h)": 0.0},
    not_probability=0.1,
    world=("A frog sits in a row of cells.",),
    meanings={"hop": "go on.", "rest": "stay.", "wet": "it rains.", "near h( pond h)": "a pond is ahead."},
)
LANGUAGES = [*{task.language.name: task.language for task in TASKS.values()}.values(), TOY]
TOY_WORDS = {"map": "9 cells.", "agent": "On the left.", "goal": "Reach the pond.", "returns": "1 at the pond."}


def prompt(task, style):
    """Return the task's system and user message."""
    system, user = messages(task.language, task.name, task.words, style)
    assert (system["role"], user["role"]) == ("system", "user")
    return system["content"], user["content"]


def flat(content):
    return " ".join(content.split())


def shown(language):
    """The words that a prompt explains: those that are sampled."""
    return [word for word, probability in {**language.actions, **language.perceptions}.items() if probability]


def forms(system):
    """The rows of a prompt's list of forms: Python, and in two of the styles the DSL."""
    (section,) = (section for section in system.split("\n\n") if section.startswith("A program is"))
    return [tuple(row.split(" -> ")) for row in re.findall(r"^- (.*)", section, re.MULTILINE)]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_prompt_says_everything(task, style):
    system, user = prompt(task, style)
    assert (system, user) == prompt(task, style)
    assert max(map(len, f"{system}\n{user}".splitlines())) <= 120
    for word in shown(task.language):
        spelled = word if style == "dsl" else call_text(word)
        assert f"- {spelled}: {task.language.meanings[word]}" in flat(system)
    assert flat(" ".join(task.language.world)) in flat(system).replace(" - ", " ")
    for sentence in (task.name, *(task.words[key] for key in ("map", "agent", "goal", "returns"))):
        assert sentence in flat(user)
    assert f"after {task.world.call_limit // 1000},000 actions" in system
    domain = task.language.name.split("-")[0]
    (other,) = set(ONLY_IN) - {domain}
    assert not [word for word in ONLY_IN[other] if word in system]
    assert all(word in system for word in ONLY_IN[domain][:2])
    unsampled = set(task.language.perceptions) - set(shown(task.language))
    assert not [word for word in unsampled if word in system or call_text(word) in system]


@pytest.mark.parametrize("style", STYLES)
def test_a_style_asks_for_its_blocks(style):
    system, user = prompt(TASKS["LavaGap"], style)
    assert ("```python" in user) == ("Python" in system + user) == ("left():" in system) == (style != "dsl")
    assert ("DSL" in user) == ("DSL" in system) == ("DEF run m(" in system) == (style != "python")
    assert user.count("```") == 1 + (style == "python-dsl")


def filled(form, **values):
    return re.sub(r"\b[BPSN]\b", lambda letter: values[letter[0]], form)


def read_python(form, language, action, perception, negated):
    called, statement = call_text(perception), call_text(action)
    body = filled(form, S=statement, P=called, B=f"not {called}" if negated else called, N="19")
    body = f"if {body}: {statement}" if form == "not P" else body.replace(" else:", "\nelse:")
    return from_python(body if form.startswith("def") else "def run():\n" + indent(body, "    "), language)


def read_dsl(form, language, action, perception, negated):
    body = filled(form, S=action, P=perception, B=f"not c( {perception} c)" if negated else perception, N="19")
    body = f"IF c( {body} c) i( {action} i)" if form == "not c( P c)" else body
    return text.from_text(body if form.startswith("DEF") else f"DEF run m( {body} m)", language)


@pytest.mark.parametrize("negated", [False, True])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_every_form_is_read(language, style, negated):
    rows = forms(messages(language, "Pond", TOY_WORDS, style)[0]["content"])
    perceptions = [word for word in shown(language) if word in language.perceptions]
    for action, perception in itertools.product(set(shown(language)) - set(perceptions), perceptions):
        for python, *dsl in rows[:6]:
            program = read_python(python, language, action, perception, negated)
            assert [read_dsl(form, language, action, perception, negated) for form in dsl] == [program] * len(dsl)
    if style == "python-dsl":  # how words are spelled
        *spelled, (others, _) = rows[6:]
        assert {dsl.split()[0] for _, dsl in spelled} == {word.split()[0] for word in perceptions if " " in word}
        assert all(call_text(dsl) == python and dsl in perceptions for python, dsl in spelled)
        assert others == "any other action or perception"
    else:
        assert len(rows) == 6


@pytest.mark.parametrize("name", tasks())
def test_recorded_answers_keep_to_what_is_shown(name):
    """The answers were given to these prompts in other words; what they use, these prompts show too."""
    task = TASKS[name]
    system, _ = prompt(task, "python-dsl")
    for answer in recorded(name):
        for program in extract(answer, task.language).programs:
            for word in re.findall(r"\w+\(.*?\)", program.to_python()):
                assert re.match(r"(run|range)\(", word) or f"- {word}: " in system


def test_a_new_language_needs_no_code():
    system, user = (message["content"] for message in messages(TOY, "Pond", TOY_WORDS))
    assert "- A frog sits in a row of cells." in system
    assert "- hop(): go on." in system
    assert '- near("pond"): a pond is ahead.' in system
    assert '- near("pond") -> near h( pond h)' in system
    assert "nap" not in system
    assert "reed" not in system
    assert user.startswith(
        "Task: Pond\nMap: 9 cells.\nStart: On the left.\nGoal: Reach the pond.\nReward: 1 at the pond."
    )


def test_what_is_missing_is_named():
    silent = dataclasses.replace(TOY, world=(), meanings={"hop": "go on.", "wet": "it rains."})
    for language, words, style, message in (
        (TOY, TOY_WORDS, "poem", r"unknown prompt style 'poem'; known: python-dsl, python, dsl$"),
        (TOY, {"map": "9 cells.", "goal": ""}, "dsl", r"task Pond lacks words .*: agent, goal, returns$"),
        (silent, TOY_WORDS, "dsl", r"language toy lacks words .*: world, rest, near h\( pond h\)$"),
    ):
        with pytest.raises(UserError, match=message):
            messages(language, "Pond", words, style)


@pytest.mark.parametrize("language", LANGUAGES[:-1], ids=lambda language: language.name)
def test_every_word_has_a_meaning(language):
    assert {*language.actions, *language.perceptions} <= set(language.meanings)


def test_the_tool_prints_a_prompt(capsys):
    assert dispatch(["prompt", "--task", "DoorKey", "--style", "dsl"]) == 0
    assert capsys.readouterr().out == "\n\n".join(prompt(TASKS["DoorKey"], "dsl")) + "\n"
    assert dispatch(["prompt", "--task", "DoorKey"]) == 0
    assert capsys.readouterr().out == "\n\n".join(prompt(TASKS["DoorKey"], "python-dsl")) + "\n"
    for mistake, known in ((["Maze", "--style", "haiku"], "python-dsl"), (["Amaze"], "Maze")):
        with pytest.raises(UserError, match=f"(known|similar ones): .*{known}"):
            dispatch(["prompt", "--task", *mistake])


def test_a_real_environment_has_the_prompt_of_our_world(capsys):
    assert dispatch(["prompt", "--task", "farama:LavaGap"]) == 0
    assert capsys.readouterr().out == "\n\n".join(prompt(TASKS["LavaGap"], "python-dsl")) + "\n"
