"""The code for a GPU, checked without one: it compiles for an H200, with few registers and few launches.

Needs NVRTC, ptxas and JAX's plugin for CUDA (CONTRIBUTING.md says how to install them), and is left out without them.
"""

import functools
import importlib.util

import jax
import numpy as np
import pytest

import jaxprl
from jaxprl.codegen import launch, nvrtc
from jaxprl.codegen.compiler import Unavailable
from jaxprl.codegen.without_gpu import H200, figures, launches, module_for_h200
from jaxprl.dsl import parts
from jaxprl.search import program_space
from jaxprl.search.hill_climbing import hill_climbing
from jaxprl.search.protocol import search_keys
from jaxprl.search.rounds import several
from jaxprl.search.schedule import Constant
from jaxprl.vm import cuda
from jaxprl.vm.kernel import gpu, pieces
from jaxprl.vm.outcomes import Scale

try:
    nvrtc.load()
    MISSING = "" if importlib.util.find_spec("jax_cuda13_plugin") else "JAX's plugin for CUDA is not there"
except Unavailable as reason:
    MISSING = str(reason)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

FEW = "DoorKey", "CleanHouse", "Snake", "StairClimber", "LavaGap", "RedBlueDoor", "MiniGrid-MultiRoom-N6-v0"
TASKS = [task if isinstance(task, str) else task.name for task in jaxprl.tasks()]


def kernel(name, **options):
    task = jaxprl.make(name)
    return gpu.kernel_of(*pieces.usual(task, task.layouts(range(2)), cuda.Batches.slots), H200, **options)


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.full) for name in TASKS]
)
def test_a_task_compiles(name):
    found = figures(kernel(name).code)
    for worker in ("run_programs", "first_better"):
        assert found[worker].registers <= 48
        assert found[worker].spilled == 0
        assert found[worker].occupancy(gpu.THREADS) >= 0.6
    assert found["compile_programs"].spilled == found["prepare_question"].spilled == 0


@pytest.mark.parametrize(
    "name", [name if name in ("DoorKey", "Snake") else pytest.param(name, marks=pytest.mark.full) for name in FEW]
)
def test_what_proceeds_compiles(name):
    found = figures(kernel(name, proceeds=True).code)
    assert set(found) == {"compile_programs", "proceed_programs"}
    assert found["proceed_programs"].registers <= 48
    assert found["proceed_programs"].spilled == found["compile_programs"].spilled == 0
    assert found["proceed_programs"].occupancy(gpu.THREADS) >= 0.6


@pytest.mark.parametrize("neighbourhood", ["grammar", "small", "parts"])
def test_a_round_of_hill_climbing_has_few_launches(neighbourhood):
    task = jaxprl.make("DoorKey")
    small, with_parts = neighbourhood == "small", neighbourhood == "parts"
    table = parts.stacked([[(8,), (2, 8, 24)]] * 32, task.language) if with_parts else None
    mutations = functools.partial(program_space.mutations, task.language, small=small)
    exchanges = functools.partial(program_space.exchanges, task.language, 0.8)
    layouts = task.layouts(range(32))
    scale = Scale.of(layouts)
    search = hill_climbing(
        neighbours=exchanges if with_parts else mutations,
        start=functools.partial(program_space.random_starts, task.language, limited=not small),
        schedule=Constant(250),
        budget=200_000,
        goal=scale.denominator,
        in_array_code=True,
    )
    state = search.init(search_keys(range(32)), parts=table)
    kernels = kernel("DoorKey")
    tables = jax.ShapeDtypeStruct((kernels.threads * kernels.slots * 4,), np.uint32)
    given = pieces.leaves_on_device(layouts), np.asarray(scale.weights, np.int32)

    def rounds(*args):
        with launch.using(H200):
            return several.__wrapped__(
                *args, ask=search.ask, tell=search.tell, answer=cuda.Answering(kernels, scale.most), width=64, count=16
            )

    module = module_for_h200(rounds, state, given, gpu.Memory(tables, np.zeros(1, np.uint32)), donated=(2,))
    assert 6 <= launches(module).round <= 30
    assert module.count("__gpu$xla.gpu.ptx") == 6


def test_what_is_refused_is_named():
    with pytest.raises(Unavailable, match=r"NVRTC failed with status 6: .*identifier \"wrong\" is undefined"):
        nvrtc.compile_text('extern "C" __global__ void f(int *x) { *x = wrong; }', 90)
    with pytest.raises(Unavailable, match=r"ptxas failed with exit code"):
        figures("this is no PTX")
