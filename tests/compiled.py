"""The engines whose code is compiled, as far as they are there; a CPU stands for a GPU where there is none."""

import shutil

import jax

from jaxprl.codegen import compiler
from jaxprl.codegen.launch import Emulated
from jaxprl.vm import cuda
from jaxprl.vm.engines import ENGINES as ALL_ENGINES

HAS_C_COMPILER = any(map(shutil.which, compiler.COMPILERS))
HAS_CPP_COMPILER = HAS_C_COMPILER and any(map(shutil.which, ("g++", "clang++")))
MISSING = {"plain"} | (set() if HAS_C_COMPILER else {"native"}) | (set() if HAS_CPP_COMPILER else {"cuda"})
ENGINES = tuple(name for name in ALL_ENGINES if name not in MISSING)


def cuda_here(*args, **options):
    """Return the engine `cuda` on the GPU, or on the CPU where there is none."""
    launcher = None if jax.default_backend() == "gpu" else Emulated()
    return cuda.Batches(*args, launcher=launcher, **options)


ALL_ENGINES["cuda"] = cuda_here
