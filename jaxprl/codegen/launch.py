"""Launches kernels of a text in CUDA within array code: on an NVIDIA GPU, or for tests on a CPU.

On a GPU a kernel is a custom call of XLA, so that it is part of the program that XLA makes of a jitted function and no
host is asked. On a CPU the same text is compiled by a C++ compiler behind a few definitions (`shims.h`), and
threads of the operating system stand for those of the GPU. That is slow, but all that is around the kernels is the
same.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import ctypes
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from jaxprl.codegen import compiler, nvrtc
from jaxprl.codegen.compiler import Unavailable

SHIMS = Path(__file__).with_name("shims.h")
CPP_FLAGS = ("-x", "c++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC")
_CHECK = """\
extern "C" __global__ void check(const int *number, int *, int *changed, int *result)
{
    if (threadIdx.x == 0)
        *result = 3 * *number + *changed, *changed = 7;
}
"""
"""The second operand is changed in place: a kernel gets it twice, among the operands and among the results."""


@dataclasses.dataclass(frozen=True)
class Call:
    """A kernel, and how it is launched. An operand that is changed in place is passed twice, also as a result."""

    kernel: str
    blocks: int
    threads: int  # of a block
    aliases: tuple[tuple[int, int], ...] = ()  # (operand, result): the result is the operand, changed in place


class Launcher(Protocol):
    """Where kernels run. Equal launchers are one and the same for jit."""

    @property
    def multiprocessors(self) -> int:
        """Multiprocessors of one device."""
        ...

    def __hash__(self) -> int: ...

    @property
    def devices(self) -> int | None:
        """Devices that may share work; None for all."""
        ...

    @property
    def is_there(self) -> bool:
        """Whether kernels can run, or only be compiled."""
        ...

    @property
    def most_threads(self) -> int | None:
        """Threads of a launch, at most; None where multiprocessors and blocks decide."""
        ...

    def compiled(self, text: str) -> str:
        """Compile a text, if that can be done before the launch, and return what `launch` takes.

        Raises:
          Unavailable: nothing can be compiled or launched here.
        """
        ...

    def launch(
        self, code: str, call: Call, operands: Sequence[jax.Array], results: Sequence[jax.ShapeDtypeStruct]
    ) -> list[jax.Array]:
        """Launch a kernel and return its results. It gets the addresses of the operands, then those of the results."""
        ...


@dataclasses.dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU."""

    multiprocessors: int
    capability: int  # 90 for compute capability 9.0
    is_there: bool = True  # False: code is made for it, but cannot run
    most_threads: None = None
    devices: None = None

    @classmethod
    def present(cls) -> Gpu:
        """Return the GPU that JAX uses.

        Raises:
          Unavailable: there is none.
        """
        chosen = getattr(jax.config, "jax_default_device", None)  # None, a device, or the name of a platform
        platform = chosen if isinstance(chosen, str) else getattr(chosen, "platform", None) or jax.default_backend()
        if platform not in ("gpu", "cuda"):
            raise Unavailable("JAX uses no GPU here", expected=True)
        device = jax.local_devices(backend="gpu")[0]
        capability = str(getattr(device, "compute_capability", ""))
        if not capability.replace(".", "").isdigit():
            raise Unavailable(f"the GPU {device.device_kind} is not one of NVIDIA's", expected=True)
        return cls(int(device.core_count), round(10 * float(capability)))

    def compiled(self, text: str) -> str:
        """Return the PTX of a text."""
        return nvrtc.compile_text(text, self.capability)

    def launch(
        self, code: str, call: Call, operands: Sequence[jax.Array], results: Sequence[jax.ShapeDtypeStruct]
    ) -> list[jax.Array]:
        """Launch a kernel of some PTX."""
        target = jax.ffi.ffi_call(
            "__gpu$xla.gpu.ptx", list(results), custom_call_api_version=4, input_output_aliases=dict(call.aliases)
        )
        places = np.arange(len(operands), len(operands) + len(results), dtype=np.int32)
        one = np.int32(1)
        found = target(
            *operands, name=call.kernel, kernel_type="ptx", kernel_data=code, grid_x=np.int32(call.blocks),
            grid_y=one, grid_z=one, block_x=np.int32(call.threads), block_y=one, block_z=one,
            shared_mem_bytes=np.int32(0), output_indices=places,
        )  # fmt: skip
        return list(found)


_chosen: contextvars.ContextVar[Launcher | None] = contextvars.ContextVar("chosen", default=None)


def here() -> Launcher:
    """Return where kernels run in this process: on the GPU that JAX uses, unless `using` says otherwise.

    Raises:
      Unavailable: nowhere, or they do not work there.
    """
    launcher = _chosen.get() or Gpu.present()
    fault = _fault(launcher)
    if fault is not None:
        raise fault.anew()
    return launcher


@contextlib.contextmanager
def using(launcher: Launcher) -> Iterator[None]:
    """Have kernels run somewhere else for a while, on a CPU for instance."""
    token = _chosen.set(launcher)
    try:
        yield
    finally:
        _chosen.reset(token)


@functools.lru_cache(8)
def _fault(launcher: Launcher) -> Unavailable | None:
    """Return why kernels do not work somewhere: a driver may refuse code that is newer than itself, say."""
    call, number = Call("check", 1, 1, ((1, 0),)), jax.ShapeDtypeStruct((1,), np.int32)
    try:
        code = launcher.compiled(_CHECK)
        if not launcher.is_there:
            return None
        with jax.ensure_compile_time_eval():  # now, even if somebody asks while a function is traced
            run = jax.jit(lambda *given: launcher.launch(code, call, given, [number, number]))
            found = [int(np.asarray(each)[0]) for each in run(np.array([5], np.int32), np.array([1], np.int32))]
    except Unavailable as reason:
        return reason.anew()
    except jax.errors.JaxRuntimeError as error:
        return Unavailable(f"the GPU does not run kernels: {str(error).splitlines()[0]}")
    return None if found == [7, 16] else Unavailable("the GPU's kernels give wrong numbers")


@dataclasses.dataclass(frozen=True)
class Emulated:
    """A CPU whose threads stand for those of a GPU."""

    threads: int = 8
    devices: int = 1
    multiprocessors: int = 1
    is_there: bool = True

    @property
    def most_threads(self) -> int:
        """All threads: a launch has no others."""
        return self.threads

    def compiled(self, text: str) -> str:
        """Compile a text, and return the text itself."""
        self.functions(text)
        return text

    def functions(self, text: str) -> ctypes.CDLL:
        """Return the kernels of a text as functions of one thread."""
        return compiler.load(SHIMS.read_text() + text, compiler.command(), CPP_FLAGS)

    def launch(
        self, code: str, call: Call, operands: Sequence[jax.Array], results: Sequence[jax.ShapeDtypeStruct]
    ) -> list[jax.Array]:
        """Run a kernel in `threads` threads of the operating system."""
        return jax.pure_callback(functools.partial(self._run, code, call, tuple(results)), list(results), *operands)

    def _run(
        self, code: str, call: Call, results: Sequence[jax.ShapeDtypeStruct], *operands: jax.Array
    ) -> list[np.ndarray]:
        functions = self.functions(code)
        given = [np.ascontiguousarray(operand) for operand in operands]
        old = {result: operand for operand, result in call.aliases}
        found = [
            np.array(given[old[place]]) if place in old else _unset(result) for place, result in enumerate(results)
        ]
        addresses = [ctypes.c_void_p(array.ctypes.data) for array in (*given, *found)]

        def work(thread: int) -> None:
            functions.be_thread(thread, self.threads)
            getattr(functions, call.kernel)(*addresses)

        with concurrent.futures.ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(work, range(self.threads)))
        return found


def _unset(result: jax.ShapeDtypeStruct) -> np.ndarray:
    """Return an array of garbage, as memory of a GPU is before a kernel writes to it."""
    return np.full(result.size * result.dtype.itemsize, 0xCD, np.uint8).view(result.dtype).reshape(result.shape)
