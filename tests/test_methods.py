"""Methods as values, and the configurations that name them."""

import copy
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxprl
from jaxprl.cli import run as run_command
from jaxprl.errors import UserError
from jaxprl.experiment.config import Config
from jaxprl.experiment.job import identity, resolve
from jaxprl.llm.settings import Settings
from jaxprl.methods.base import LLMS, Method, NoOptions, flag, option, option_lines, option_types
from jaxprl.search.annealing import Cooling, metropolis
from jaxprl.search.protocol import search_keys

METHODS = jaxprl.methods()
COMMON = {"task", "method", "seeds", "budget", "layouts", "llm", "settings", "style", "task file", "answer"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_value(name):
    method = METHODS[name]
    assert method.name == name
    assert 10 < len(method.summary) < 120
    assert "\n" not in method.summary
    assert set(method.llms) <= set(LLMS)
    assert method.llms
    options = method.options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.anything = 1
    for line in option_lines(method.options).values():
        assert len(line) > 10
    assert method.make_options({}) == options


def test_methods_share_the_flags_of_options_with_one_name():
    kinds = {}
    for method in METHODS.values():
        for option_name, kind in option_types(method.options).items():
            assert kinds.setdefault(option_name, kind) is kind, option_name
            assert kind in (int, float, str, Path)
    assert not set(kinds) & COMMON
    flags = {word for action in run_command.parser()._actions for word in action.option_strings}
    assert set(map(flag, kinds)) <= flags


def test_options_of_every_type_are_shown_and_read():
    @dataclasses.dataclass(frozen=True)
    class Options:
        rate: float = option(0.25, "a share, 5 % or so")
        words: str = option("some", "what is said")
        file: Path | None = option(None, "where it is")

    method = Method(name="toy", summary="does nothing", build=lambda setup: None, options=Options)
    assert option_lines(Options) == {
        "rate": "a share, 5 % or so (default: 0.25)",
        "words": "what is said (default: some)",
        "file": "where it is",
    }
    assert method.make_options({"file": "a.npz", "rate": np.float64(0.5)}) == Options(0.5, "some", Path("a.npz"))
    assert method.make_options({"file": None}) == Options()
    for values, message in (
        ({"rate": None}, "--rate None: expected a number"),
        ({"rate": "fast"}, "--rate 'fast': expected a number"),
        ({"rate": True}, "--rate True: expected a number"),
        ({"speed": 1}, "method toy has no option --speed; its options: --rate, --words, --file"),
    ):
        with pytest.raises(UserError, match=message):
            method.make_options(values)
    assert Method(name="bare", summary="", build=lambda setup: None).make_options({}) == NoOptions()


def test_help_and_listings_are_complete(capsys):
    with pytest.raises(SystemExit) as ended:
        run_command.main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for method in METHODS.values():
        assert method.name in printed
        for option_name in option_types(method.options):
            assert flag(option_name) in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": (0, 0)}, "named twice"),
        ({"seeds": (0.5,)}, "search seed 0.5: expected an integer"),
        ({"seeds": 3}, "search seeds 3: expected several seeds, like range"),
        ({"seeds": ()}, "search seeds: none"),
        ({"seeds": (-1,)}, "search seed -1: seeds go from 0 to"),
        ({"seeds": "0-3"}, "search seeds '0-3': expected several seeds"),
        ({"layouts": (1, 1)}, "named twice"),
        ({"layouts": (2**32,)}, "layout seed 4294967296: seeds go from 0 to"),
        ({"layouts": (1_000_000,)}, "kept for the final test"),
        ({"budget": 10.5}, "budget 10.5: expected a whole number"),
        ({"budget": 0}, "budget 0: it goes from 1"),
        ({"method": "guess"}, "unknown method 'guess'; the methods are:\n  llm-gs"),
        ({"task": "Dorkey"}, "unknown task 'Dorkey'"),
        ({"llm": "psychic"}, "unknown source of LLM answers 'psychic'; known: recorded, openai, none"),
        ({"method": "regeneration", "llm": "none"}, "needs a language model: --llm recorded or openai"),
        ({"options": {"k": None}}, "--k None: expected a whole number"),
    ],
)
def test_a_configuration_that_cannot_be_run_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        resolve(Config(**{"task": "DoorKey", "method": "hc", **options}))


def test_a_configuration_takes_what_people_have():
    """numpy's integers, any iterable of seeds, the task's own budget, one source of answers for a whole sweep."""
    job = resolve(Config("LavaGap", "hc", seeds=np.arange(3), budget=np.int64(7), layouts=iter([4, 5]), llm="recorded"))
    assert (job.seeds, job.layouts, job.budget, job.llm) == ((0, 1, 2), (4, 5), 7, "none")
    assert all(type(seed) is int for seed in (*job.seeds, *job.layouts, job.budget))
    assert resolve(Config("LavaGap")).budget == 10_000
    assert resolve(Config("DoorKey")).budget == 1_000_000
    assert resolve(Config("DoorKey", "hc")).options.k == 250
    assert resolve(Config("DoorKey", settings=Settings("m"))).llm == "recorded"


def test_an_identity_holds_what_a_method_adds():
    assert identity(resolve(Config("DoorKey", "annealing")))["cooling"] == 0.9999
    llm_gs = identity(resolve(Config("DoorKey")))
    assert (llm_gs["revise_every"], len(llm_gs["answer"])) == (None, 40)
    assert "answer" not in identity(resolve(Config("DoorKey", llm="none")))
    assert len(identity(resolve(Config("Seeder", "cebs", llm="recorded")))["answer"]) == 40


def test_what_is_exported_can_be_copied_and_pickled():
    for value in (
        jaxprl.methods,
        Config("Maze", "hc", options={"k": 3}),
        METHODS["hc"],
        jaxprl.make("DoorKey").language,
    ):
        assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(jaxprl.methods) is jaxprl.methods


def test_a_configuration_is_made_without_jax():
    code = "import jaxprl, sys; jaxprl.Config('Maze', 'hc', options={'k': 3}); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_however_cold_it_is_a_tie_is_taken():
    class State:
        tried = np.array([0, 10**6, 2**29], np.int32)

    keys = search_keys(range(3))[:, None]
    for cooling, goal in ((Cooling(0.1, 0.99), 32), (Cooling(1e300, 1.0), 2**31 - 1), (Cooling(1e-300, 0.5), 7)):
        margins = metropolis(cooling, goal, State(), keys)
        assert margins.dtype == np.int32
        assert (margins >= 1).all()
