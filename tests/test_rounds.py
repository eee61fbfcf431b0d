"""Searches whose rounds are done by kernels find what they find otherwise. A CPU stands for the GPU."""

import functools
import json

import numpy as np
import pytest
from compiled import HAS_CPP_COMPILER

import jaxprl
from jaxprl.codegen import launch
from jaxprl.codegen.launch import Emulated
from jaxprl.vm import device

pytestmark = pytest.mark.skipif(not HAS_CPP_COMPILER, reason="there is no C++ compiler")


@pytest.fixture
def asked(monkeypatch):
    """How many rounds were done in each call of `rounds.several`."""
    done = []

    def counted(*args, several=device.several, **options):
        state, found, carry = several(*args, **options)
        done.append((len(found.rows), bool(np.asarray(found.missing).any())))
        return state, found, carry

    monkeypatch.setattr(device, "several", counted)
    return done


def results(folder):
    """What a run has left behind, but for the times."""
    files = sorted([*folder.rglob("*.json"), *folder.rglob("*.jsonl")])
    rows = {
        file.relative_to(folder): file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
        for file in files
    }
    return {
        (str(name), number): {key: value for key, value in json.loads(row).items() if "second" not in key}
        for name, texts in rows.items()
        for number, row in enumerate(texts)
    }


CASES = {
    "hc": {"task": "DoorKey", "method": "hc", "budget": 3000, "seeds": range(3)},
    "llm-gs": {"task": "DoorKey", "method": "llm-gs", "budget": 3000, "seeds": range(2)},
    "small neighbours": {
        "task": "DoorKey",
        "method": "hc",
        "budget": 700,
        "seeds": range(2),
        "options": {"neighbourhood": "small"},
    },
    "a task of MiniGrid": {"task": "LavaGap", "method": "hc", "budget": 1000, "seeds": [5]},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_the_same(case, tmp_path, asked):
    config = jaxprl.Config(**CASES[case], layouts=range(8))
    jaxprl.run(config, tmp_path / "one")
    assert not asked
    with launch.using(Emulated()):
        jaxprl.run(config, tmp_path / "other", engine="cuda")
    assert sum(done for done, _ in asked) > len(asked)
    assert results(tmp_path / "one") == results(tmp_path / "other")


def test_memories_that_become_full_are_left_to_the_host(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(device.cuda, "Batches", functools.partial(device.cuda.Batches, slots=2))
    config = jaxprl.Config(task="FourCorners", method="hc", budget=600, layouts=range(4))
    jaxprl.run(config, tmp_path / "one")
    with launch.using(Emulated()):
        jaxprl.run(config, tmp_path / "other", engine="cuda")
    assert any(stopped for _, stopped in asked)
    assert results(tmp_path / "one") == results(tmp_path / "other")
