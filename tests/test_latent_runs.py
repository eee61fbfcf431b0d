"""Whole runs of the latent searches with the model that ships: records, stops, other seeds beside them, mistakes."""

import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from records import left_by

from jaxprl.errors import Stopped, UserError
from jaxprl.experiment import ledger
from jaxprl.experiment.config import Config
from jaxprl.experiment.job import identity, resolve
from jaxprl.experiment.run import run
from jaxprl.latent.space import SHIPPED, LatentSpace
from jaxprl.runs.record import read_lines

EXAMPLES = Path(__file__).parent.parent / "experiments" / "custom_task.py"
LIMITS = {"budget": 250, "layouts": (0, 1)}
pytestmark = pytest.mark.skipif(not SHIPPED.exists(), reason="no model yet")


@pytest.fixture(autouse=True)
def few_unseen(monkeypatch):
    """As many as there are layouts: what is compiled for these serves."""
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_002))


class StopsAfter:
    """Tells a run to stop when it has been asked so many times."""

    def __init__(self, times: int):
        self.times = times

    @property
    def signal(self) -> signal.Signals | None:
        self.times -= 1
        return signal.SIGTERM if self.times < 0 else None


@pytest.mark.parametrize(
    "options",
    [
        {"method": "leaps", "llm": "recorded"},
        {"method": "hprl", "options": {"episodes": 64, "programs": 2, "observe": "state", "epochs": 1}},
        *(pytest.param({"method": method}, marks=pytest.mark.full) for method in ("leaps", "cem", "cebs", "latent-hc")),
        *(
            pytest.param({"method": method, "options": {"space": Path("hprl")}}, marks=pytest.mark.full)
            for method in ("leaps", "cem", "cebs", "latent-hc")
        ),
    ],
)
def test_a_run_leaves_the_same_alone_among_others_and_after_a_stop(tmp_path, options):
    whole, alone, stopped = (tmp_path / name for name in ("whole", "alone", "stopped"))
    config = Config("Seeder", seeds=(3, 0), **LIMITS, **options)
    results = run(config, whole)
    assert all(result["evaluated"] == 250 or result["return"] == 1 for result in results)
    start = "llm" if "llm" in options else "random"
    assert {row["source"] for row in read_lines(whole / "programs.jsonl")} <= {start, "mutation", "policy"}
    run(Config("Seeder", seeds=(3,), **LIMITS, **options), alone)
    assert left_by(alone, 3) == left_by(whole, 3)
    with pytest.raises(Stopped):
        run(config, stopped, stop=StopsAfter(4))
    assert 0 < read_lines(stopped / "metrics.jsonl")[-1]["evaluated"] < 250
    run(config, stopped, resume=True)
    assert left_by(stopped, 3, 0) == left_by(whole, 3, 0)


def test_programs_of_a_language_model_are_starts_if_they_are_in_the_space(tmp_path):
    config = Config("Seeder", "latent-hc", budget=60, layouts=(0, 1), llm="recorded")
    (result,) = run(config, tmp_path / "out")
    counts = result["llm"]["space"]
    assert counts["encoded"] + len(counts["outside"]) == result["llm"]["accepted"] == 32
    assert 0 < counts["unchanged"] <= counts["encoded"]
    for each in counts["outside"]:
        assert each["reason"] != "more than 45 tokens" or len(each["program"].split()) > 45
    first = read_lines(tmp_path / "out" / "programs.jsonl")[0]
    assert (first["source"], first["evaluated"]) == ("llm", 1)
    given = [row["program"] for row in read_lines(tmp_path / "out" / "llm" / "answers.jsonl") if row["program"]]
    outside = {each["program"] for each in counts["outside"]}
    inside = [program for program in given if program not in outside]
    assert len(inside) == counts["encoded"]
    if counts["unchanged"] == counts["encoded"]:
        assert first["program"] == inside[0]


def test_a_task_of_ones_own_in_karels_world(tmp_path):
    (result,) = run(Config(f"{EXAMPLES}:Fence", "cem", budget=70, layouts=(0, 1)), tmp_path / "out")
    assert result["evaluated"] == 70 or result["return"] == 1


def test_another_model_is_another_run(tmp_path):
    shipped, file = LatentSpace.load(), tmp_path / "other.npz"
    LatentSpace(shipped.grammar, jax.tree.map(lambda leaf: leaf * np.float32(1.01), shipped.params)).save(file)
    config = Config("Seeder", "cem", budget=40, layouts=(0, 1), options={"space": file})
    run(config, tmp_path / "out")
    run(config, tmp_path / "out", resume=True)
    with pytest.raises(UserError, match=r"space was '[0-9a-f]{16}', is '[0-9a-f]{16}'"):
        run(Config("Seeder", "cem", budget=40, layouts=(0, 1)), tmp_path / "out", resume=True)
    with pytest.raises(UserError, match=r"sigma was 0\.25, is 0\.5"):
        run(
            Config("Seeder", "cem", budget=40, layouts=(0, 1), options={"space": file, "sigma": 0.5}),
            tmp_path / "out",
            resume=True,
        )


def test_published_parameters_are_part_of_the_configuration_of_latent_searches_alone():
    leaps = identity(resolve(Config("TopOffSparse", "leaps")))
    assert [leaps[name] for name in ("k", "elite", "sigma", "llm")] == [64, 3, 0.25, "none"]
    assert leaps == identity(resolve(Config("TopOffSparse", "leaps", options={"space": SHIPPED})))
    assert not {"elite", "sigma", "space"} & set(identity(resolve(Config("Seeder", "hc"))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "hc", "space": SHIPPED, "sigma": 0.1}, "hc has no option --space, --sigma; its options: --k"),
        ({"method": "llm-gs", "space": SHIPPED}, "method llm-gs has no option --space; its options: --revise-every"),
        ({"method": "leaps", "elite": 3}, "method leaps has no option --elite; its options: --space"),
        ({"method": "latent-hc", "elite": 3}, "latent-hc has no option --elite; its options: --k, --sigma, --sp"),
        ({"method": "regeneration", "k": 3}, "method regeneration has no option --k; it has no options"),
        ({"method": "hc", "k": 2.5}, "--k 2.5: expected a whole number"),
        ({"method": "hc", "k": 0}, "--k 0: a neighbourhood has 1 to"),
        ({"method": "cebs", "k": 20}, "k is a multiple of it"),
        ({"method": "cem", "k": 2}, "the elite goes from 1 to k"),
        ({"method": "cem", "k": 10**6}, "k 1000000: it goes from 1 to"),
        ({"method": "cem", "sigma": float("nan")}, "it goes from 1e-06 to 1e\\+06"),
        ({"method": "cem", "space": Path("no.npz")}, r"model no\.npz cannot be read"),
        ({"method": "cem", "space": Path("README.md")}, r"model README\.md cannot be read"),
        (
            {"method": "leaps", "task": "PutNear"},
            "knows programs of the language karel; that of the task, minigrid, has other",
        ),
        ({"method": "leaps", "task": "Maze", "llm": "recorded"}, "no recorded answers for Maze"),
        ({"method": "leaps", "llm": "openai"}, "needs the --model"),
        ({"method": "leaps", "revise_every": 3}, "method leaps has no option --revise-every"),
    ],
)
def test_what_cannot_be_done_is_said(options, message):
    own = {name: value for name, value in options.items() if name not in ("task", "method", "llm")}
    shared = {name: value for name, value in options.items() if name not in own}
    config = Config(**{"task": "Seeder", **shared}, options=own)
    with pytest.raises(UserError, match=message):
        resolve(config)
