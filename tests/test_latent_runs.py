"""Whole runs of the latent searches with the model that ships: records, stops, other seeds beside them, mistakes."""

import json
import signal
from pathlib import Path

import jax
import pytest

from jaxprl import experiment, ledger
from jaxprl.config import Config
from jaxprl.errors import Stopped, UserError
from jaxprl.latent import vae
from jaxprl.latent.grammar import Grammar
from jaxprl.latent.space import SHIPPED, LatentSpace
from jaxprl.runs.record import RECORDS, read_lines
from jaxprl.worlds.karel.world import LANGUAGE

EXAMPLES = Path(__file__).parent.parent / "experiments" / "custom_task.py"
LIMITS = {"budget": 250, "layouts": (0, 1)}
pytestmark = pytest.mark.skipif(not SHIPPED.exists(), reason="no model yet")


@pytest.fixture(autouse=True)
def few_unseen(monkeypatch):
    """As many as there are layouts: what is compiled for these serves."""
    monkeypatch.setattr(ledger, "UNSEEN", range(1_000_000, 1_000_002))


def left_by(out: Path, *seeds: int) -> dict:
    """Records and results of these seeds without their times."""

    def timeless(row: dict) -> dict:
        return {name: value for name, value in row.items() if name != "seconds"}

    files = {name: out / name for name in RECORDS if (out / name).exists()}
    left = {name: [timeless(row) for row in read_lines(file) if row["seed"] in seeds] for name, file in files.items()}
    return left | {seed: timeless(json.loads((out / f"seed-{seed}" / "result.json").read_text())) for seed in seeds}


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
        *(pytest.param({"method": method}, marks=pytest.mark.full) for method in ("leaps", "cem", "cebs", "latent-hc")),
    ],
)
def test_a_run_leaves_the_same_alone_among_others_and_after_a_stop(tmp_path, options):
    whole, alone, stopped = (tmp_path / name for name in ("whole", "alone", "stopped"))
    config = Config("Seeder", seeds=(3, 0), **LIMITS, **options)
    results = experiment.run(config, whole)
    assert all(result["evaluated"] == 250 or result["return"] == 1 for result in results)
    assert {row["source"] for row in read_lines(whole / "programs.jsonl")} <= {config.start_source, "mutation"}
    experiment.run(Config("Seeder", seeds=(3,), **LIMITS, **options), alone)
    assert left_by(alone, 3) == left_by(whole, 3)
    with pytest.raises(Stopped):
        experiment.run(config, stopped, stop=StopsAfter(4))
    assert 0 < read_lines(stopped / "metrics.jsonl")[-1]["evaluated"] < 250
    experiment.run(config, stopped, resume=True)
    assert left_by(stopped, 3, 0) == left_by(whole, 3, 0)


def test_programs_of_a_language_model_are_starts_if_they_are_in_the_space(tmp_path):
    config = Config("Seeder", "latent-hc", budget=60, layouts=(0, 1), llm="recorded")
    (result,) = experiment.run(config, tmp_path / "out")
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
    (result,) = experiment.run(Config(f"{EXAMPLES}:Fence", "cem", budget=70, layouts=(0, 1)), tmp_path / "out")
    assert result["evaluated"] == 70 or result["return"] == 1


def test_another_model_is_another_run(tmp_path):
    grammar, file = Grammar.of(LANGUAGE), tmp_path / "small.npz"
    params = vae.init(grammar, jax.random.key(0), vae.Sizes(16, 16, 16, 8))
    LatentSpace(grammar, params).save(file)
    config = Config("Seeder", "cem", budget=40, layouts=(0, 1), space=file)
    experiment.run(config, tmp_path / "out")
    experiment.run(config, tmp_path / "out", resume=True)
    with pytest.raises(UserError, match=r"space was '[0-9a-f]{16}', is '[0-9a-f]{16}'"):
        experiment.run(Config("Seeder", "cem", budget=40, layouts=(0, 1)), tmp_path / "out", resume=True)
    with pytest.raises(UserError, match=r"sigma was 0\.25, is 0\.5"):
        experiment.run(Config("Seeder", "cem", budget=40, layouts=(0, 1), space=file, sigma=0.5), tmp_path / "out",
                       resume=True)  # fmt: skip


def test_published_parameters_are_part_of_the_configuration_of_latent_searches_alone():
    leaps = Config("TopOffSparse", "leaps").identity()
    assert [leaps[name] for name in ("k", "elite", "sigma", "llm")] == [64, 3, 0.25, "none"]
    assert leaps == Config("TopOffSparse", "leaps", space=SHIPPED).identity()
    assert not {"k", "elite", "sigma", "space"} & set(Config("Seeder", "hc").identity())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "hc", "k": 3, "sigma": 0.1},
            "--k, --sigma: of the latent searches .leaps, cem, cebs, latent-hc., not of hc",
        ),
        ({"method": "llm-gs", "space": SHIPPED}, "--space: of the latent searches"),
        ({"method": "leaps", "elite": 3}, "leaps has the published elite of the task"),
        ({"method": "latent-hc", "elite": 3}, "latent-hc has no elite"),
        ({"method": "cebs", "k": 20}, "k is a multiple of it"),
        ({"method": "cem", "k": 2}, "the elite goes from 1 to k"),
        ({"method": "cem", "k": 10**6}, "k 1000000: it goes from 1 to"),
        ({"method": "cem", "sigma": float("nan")}, "above 0"),
        ({"method": "cem", "space": Path("no.npz")}, r"model no\.npz cannot be read"),
        ({"method": "cem", "space": Path("README.md")}, r"model README\.md cannot be read"),
        (
            {"method": "leaps", "task": "PutNear"},
            "knows programs of the language karel; that of the task, minigrid, has other",
        ),
        ({"method": "leaps", "task": "Maze", "llm": "recorded"}, "no recorded answers for Maze"),
        ({"method": "leaps", "llm": "openai"}, "needs the --model"),
        ({"method": "leaps", "revise_every": 3}, "--revise-every goes with"),
    ],
)
def test_what_cannot_be_done_is_said(options, message):
    with pytest.raises(UserError, match=message):
        Config(**{"task": "Seeder", **options}).check()
