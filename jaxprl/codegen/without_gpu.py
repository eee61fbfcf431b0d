"""Checks code for GPUs without one: whether it compiles, and how many registers and launches it takes.

This needs JAX_PLATFORMS=cpu and `jax[cuda13]`, of which the plugin and the compilers are enough. JAX is told of a GPU
that is not there.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprl.codegen.compiler import Unavailable
from jaxprl.codegen.launch import Gpu
from jaxprl.types import PyTree

H200 = Gpu(multiprocessors=132, capability=90, is_there=False)
_TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 62914560
  clock_rate_ghz: 1.98 device_memory_size: 150000000000 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H200"
"""
REGISTERS, THREADS, WARP = 65536, 2048, 32
"""Registers and threads of a multiprocessor, and threads of a warp."""
LAUNCHES = {"copy", "custom-call", "fusion", "sort"}
"""Operations of a compiled module that are one launch each. Loops and branches count by what is in them."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the assembler says of a kernel."""

    registers: int
    stack: int  # bytes of a thread's own memory
    spilled: int  # bytes of registers that had to be put there

    def occupancy(self, block: int) -> float:
        """Return the share of a multiprocessor's threads that run at the same time, with blocks of so many threads."""
        each = -(-self.registers // 8) * 8 * block  # given out to warps, in eights to each thread
        return min(REGISTERS // each * block, THREADS) / THREADS


def figures(ptx: str, capability: int = 90) -> dict[str, Figures]:
    """Return what the assembler `ptxas` says of the kernels of a text in PTX.

    Raises:
      Unavailable: it is not there, or refuses the text.
    """
    with tempfile.TemporaryDirectory(prefix="jaxprl-") as folder:
        file = Path(folder, "kernel.ptx")
        file.write_text(ptx)
        command = [_assembler(), f"-arch=sm_{capability}", "-v", str(file), "-o", str(Path(folder, "kernel.cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"ptxas failed with exit code {done.returncode}: {done.stderr.strip()[:300]}")
    found = re.findall(
        r"Function properties for (\w+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, \d+ bytes spill loads\n"
        r".*?Used (\d+) registers",
        done.stdout + done.stderr,
    )
    return {name: Figures(int(registers), int(stack), int(spilled)) for name, stack, spilled, registers in found}


def _assembler() -> str:
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder).glob("*/bin/ptxas")):
            return str(file)
    found = shutil.which("ptxas")
    if found is None:
        raise Unavailable("NVIDIA's assembler ptxas is not there; it comes with jax[cuda13]")
    return found


def module_for_h200(function: Callable[..., Any], *args: PyTree, donated: tuple[int, ...] = ()) -> str:
    """Return the text of the module that XLA makes of a function for an H200.

    Args:
      function: the function.
      args: its arguments, pytrees of arrays or of their shapes.
      donated: numbers of arguments that are used up.

    Raises:
      Unavailable: JAX's plugin for CUDA is not there.
    """
    from jax.experimental import topologies

    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise Unavailable("JAX's plugin for CUDA is not there; it comes with jax[cuda13]")
    topology = topologies.get_topology_desc(platform="cuda", topology_name="", target_config=_TARGET, topology="1x1x1")
    sharding = NamedSharding(Mesh(np.array(topology.devices), ("gpus",)), PartitionSpec())
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), args)
    traced = jax.jit(function, donate_argnums=donated).trace(*shapes)
    return traced.lower(lowering_platforms=("cuda",)).compile().as_text() or ""


class Launches(NamedTuple):
    """The launches of a module."""

    before: int  # outside loops, at most
    round: int  # of a round of its loops, all loops together


def launches(module: str) -> Launches:
    """Count the launches of a compiled module."""
    text = re.sub(r"(backend_config|metadata)=\{?.*", "", module)
    counts: dict[str, collections.Counter[str]] = {}
    inner: dict[str, set[str]] = {}  # bodies and conditions of the loops of a computation
    branches: dict[str, set[str]] = {}  # its branches
    entry = name = ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?(%[\w.\-]+) \(.*\{\s*$", line)
        if head:
            name = head.group(2)
            entry = name if head.group(1) else entry
            counts[name], inner[name], branches[name] = collections.Counter(), set(), set()
        elif name and (found := re.match(r"\s+(?:ROOT )?%[\w.\-]+ = (.*)$", line)):
            operation = _operation(found.group(1))
            counts[name][operation] += 1
            if operation == "while":
                inner[name] |= set(re.findall(r"(?:body|condition)=(%[\w.\-]+)", found.group(1)))
            if operation == "conditional":
                branches[name] |= set(re.findall(r"%[\w.\-]+", found.group(1).partition("computation")[2]))
    looped: set[str] = set()
    waiting = set(inner[entry])
    while waiting:
        name = waiting.pop()
        looped.add(name)
        waiting |= (inner[name] | branches[name] & counts.keys()) - looped
    own = {name: sum(counts[name][operation] for operation in LAUNCHES) for name in counts}
    return Launches(
        own[entry] + sum(own[name] for name in branches[entry] & own.keys()), sum(own[name] for name in looped)
    )


def _operation(text: str) -> str:
    """Return the name of an operation from what stands behind its equals sign: a type, the name, and the operands."""
    if text.startswith("("):
        depth = 0
        for place, letter in enumerate(text):
            depth += (letter == "(") - (letter == ")")
            if not depth:
                text = text[place + 1 :]
                break
    else:
        text = text.partition(" ")[2]
    found = re.match(r"\s*([a-z][\w\-]*)\(", text)
    return found.group(1) if found else ""
