"""One device or eight, one process or two: the same results."""

import json
import os
import subprocess
import sys

import pytest

EIGHT = "--xla_force_host_platform_device_count=8"
EVALUATE = """
import json, sys
from jaxprl.xla import prefer_whole_loops
prefer_whole_loops()
import jax, numpy as np
from jaxprl.dsl import sample
from jaxprl.search.protocol import Neighbourhoods
from jaxprl.vm.evaluate import evaluate, first_better
from jaxprl.worlds.make import make
task = make("DoorKey")
layouts = task.layouts(range(8))
parents = sample.random_programs(task.language, jax.random.split(jax.random.key(1), 4))
programs, changed = sample.neighbours(task.language, parents, jax.random.split(jax.random.key(2), (4, 16)))
runs = evaluate(task, np.asarray(programs).reshape(64, -1), layouts, engine="lanes")
question = Neighbourhoods(*map(np.asarray, (parents, programs, changed)), np.full(4, 16, np.int32))
answer = first_better(task, question, layouts, engine="lanes")
print(json.dumps([jax.local_device_count(), [leaf.tolist() for leaf in (*runs.columns, *answer)]]))
"""


def output(code, *words, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_lanes_on_one_device_and_on_eight_give_the_same():
    (one, found), (eight, expected) = output(EVALUATE, XLA_FLAGS=""), output(EVALUATE, XLA_FLAGS=EIGHT)
    assert (one, eight) == (1, 8)
    assert found == expected


SEARCH = """
import json, sys, tempfile
from pathlib import Path
from jaxprl.experiment.config import Config
from jaxprl.experiment.run import run
results = run(Config(task="StairClimberSparse", method="hc", seeds=(0, 1, 2), budget=300, layouts=(0, 1, 2, 3)),
              Path(tempfile.mkdtemp()) / "out")
print(json.dumps([{key: value for key, value in row.items() if key != "seconds"} for row in results]))
"""


@pytest.mark.full
def test_searches_on_one_device_and_on_eight_give_the_same():
    assert output(SEARCH, XLA_FLAGS="") == output(SEARCH, XLA_FLAGS=EIGHT)
