"""One device or eight, one process or two: the same results."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import questions
from compiled import HAS_CPP_COMPILER

from jaxprl.dsl import sample
from jaxprl.worlds.make import make

EIGHT = "--xla_force_host_platform_device_count=8"
ANSWERS = """
import jax, numpy as np
from jaxprl.search.protocol import Neighbourhoods
from jaxprl.vm.evaluate import evaluate, first_better
from jaxprl.vm.proceed import proceed
from jaxprl.worlds.make import make
def answers(leaves):
    task = make("DoorKey")
    layouts = task.layouts(range(4))
    question = Neighbourhoods(*(np.array(leaf, np.int32) for leaf in leaves))
    programs = question.programs.reshape(-1, question.programs.shape[2])
    runs = evaluate(task, programs, layouts, engine="lanes", workers=1)
    answer = first_better(task, question, layouts, engine="lanes", workers=1)
    ends = jax.tree.leaves(proceed(task, programs, task.layouts(range(len(programs))), engine="lanes").layouts)
    return [jax.local_device_count(), [leaf.tolist() for leaf in (*runs.columns, *answer, *ends)]]
"""
IN_A_PROCESS = f"""
from jaxprl.xla import prefer_whole_loops
prefer_whole_loops()
{ANSWERS}
import json, sys
print(json.dumps(answers(json.load(sys.stdin))))
"""


KERNELS = """
import json, sys, tempfile
from pathlib import Path
import jax, numpy as np
from jaxprl.xla import prefer_whole_loops
prefer_whole_loops()
import jaxprl
from jaxprl.codegen import launch
from jaxprl.codegen.launch import Emulated
from jaxprl.search.protocol import Neighbourhoods
from jaxprl.vm import device
from jaxprl.vm.evaluate import evaluate, first_better
sizes = []
def counted(*args, several=device.several, **options):
    sizes.append(options["mesh"] and options["mesh"].size)
    return several(*args, **options)
device.several = counted
given = json.load(sys.stdin)
with launch.using(Emulated(threads=2, devices=given["devices"])):
    task = jaxprl.make("DoorKey")
    layouts = task.layouts(range(4))
    question = Neighbourhoods(*(np.array(leaf, np.int32) for leaf in given["leaves"]))
    programs = question.programs.reshape(-1, question.programs.shape[2])
    runs = evaluate(task, programs, layouts, engine="cuda")
    answer = first_better(task, question, layouts, engine="cuda")
    options = {"neighbourhood": given["neighbourhood"]}
    ends = jaxprl.proceed(task, programs, task.layouts(range(len(programs))), engine="cuda")
    config = jaxprl.Config("DoorKey", "hc", budget=400, seeds=range(6), layouts=range(4), options=options)
    results = jaxprl.run(config, Path(tempfile.mkdtemp()) / "run", engine="cuda")
leaves = *runs.columns, *answer, *ends.outcomes, *jax.tree.leaves(ends.layouts)
found = [leaf.tolist() for leaf in leaves], [[row["program"], row["found_at"]] for row in results]
print(json.dumps([sizes[0], found]))
"""


def output(code, given="", **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not HAS_CPP_COMPILER, reason="there is no C++ compiler")
@pytest.mark.parametrize("neighbourhood", ["grammar", pytest.param("parts", marks=pytest.mark.full)])
def test_kernels_on_one_device_and_on_several_give_the_same(neighbourhood):
    """Three devices share four programs with 7 neighbours each, and six searches."""
    language = make("DoorKey").language
    parents = np.asarray(sample.random_programs(language, jax.random.split(jax.random.key(1), 4)))
    leaves = [leaf.tolist() for leaf in questions.sampled(language, parents, 7)[:4]]
    given = {"leaves": leaves, "neighbourhood": neighbourhood}
    one, found = output(KERNELS, json.dumps({**given, "devices": 1}))
    three, expected = output(KERNELS, json.dumps({**given, "devices": 3}), XLA_FLAGS=EIGHT)
    assert (one, three) == (None, 3)
    assert found == expected


@pytest.mark.parametrize("many", [8, pytest.param(32, marks=pytest.mark.full)])
def test_lanes_on_one_device_and_on_eight_give_the_same(many):
    """With 8 neighbours of each of two programs, all batches have the size of the smallest."""
    language, answers = make("DoorKey").language, {}
    parents = np.asarray(sample.random_programs(language, jax.random.split(jax.random.key(1), 2)))
    leaves = [leaf.tolist() for leaf in questions.sampled(language, parents, many)[:4]]
    exec(ANSWERS, answers)
    one, found = answers["answers"](leaves)
    eight, expected = output(IN_A_PROCESS, json.dumps(leaves), XLA_FLAGS=EIGHT)
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
