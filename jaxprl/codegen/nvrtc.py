"""Has NVIDIA's library NVRTC compile texts to PTX, the code that a driver turns into that of its GPU.

The library comes with `jax[cuda13]`, and none of this needs a GPU.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from jaxprl.codegen import kept
from jaxprl.codegen.compiler import Unavailable

VARIABLE = "JAXPRL_NVRTC"
"""The environment variable that names the library; empty for none."""
NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
VERSION = "8.0"
"""Version of PTX that is written. Drivers refuse later versions than their own; this one is that of CUDA 12.0."""
LATEST = 90
"""The latest architecture that this version of PTX knows. Code for it runs on later GPUs, too."""
_FLAGS = ("-default-device", "-std=c++17")


def load() -> ctypes.CDLL:
    """Return the library.

    Raises:
      Unavailable: there is none.
    """
    found = _load(os.environ.get(VARIABLE))
    if isinstance(found, Unavailable):
        raise found.anew()
    return found


@functools.lru_cache(4)
def _load(chosen: str | None) -> ctypes.CDLL | Unavailable:
    if chosen == "":
        return Unavailable(f"{VARIABLE} is empty: NVRTC is not to be used")
    reasons = []
    for name in [chosen] if chosen else [*_installed(), *NAMES]:
        try:
            return ctypes.CDLL(str(name))
        except OSError as error:
            reasons.append(str(error))
    if chosen:
        return Unavailable(f"{VARIABLE}={chosen!r} cannot be loaded: {reasons[0]}")
    return Unavailable("NVIDIA's library NVRTC is not there; it comes with jax[cuda13]")


def _installed() -> Iterator[Path]:
    """Yield the files of the library among Python's packages."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for name in NAMES:
            yield from sorted(Path(folder).glob(f"*/lib/{name}"))


def compile_text(text: str, capability: int) -> str:
    """Return the PTX of a text in CUDA, compiled now or earlier.

    Args:
      text: the text.
      capability: the compute capability of the GPU, 90 for 9.0.

    Raises:
      Unavailable: there is no library, or it cannot compile the text.
    """
    library = load()
    flags = (*_FLAGS, f"-arch=compute_{min(capability, LATEST)}")
    name = kept.name_of([*map(str, _version(library)), VERSION, *flags, text]) + ".ptx"
    known = kept.read(name)
    if known is not None:
        return known.decode()
    ptx = re.sub(r"(?m)^\.version .*$", f".version {VERSION}", _compiled(library, text, flags), count=1)
    kept.write(name, ptx.encode())
    return ptx


def _version(library: ctypes.CDLL) -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call(library, "nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def _compiled(library: ctypes.CDLL, text: str, flags: tuple[str, ...]) -> str:
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
    _call(library, "nvrtcCreateProgram", ctypes.byref(program), text.encode(), b"jaxprl.cu", 0, None, None)
    try:
        status = _function(library, "nvrtcCompileProgram")(program, len(flags), options)
        if status:
            _call(library, "nvrtcGetProgramLogSize", program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            _call(library, "nvrtcGetProgramLog", program, log)
            lines = log.value.decode(errors="replace").splitlines()
            line = next((line for line in lines if "error" in line), "it gave no reason")
            raise Unavailable(f"NVRTC failed with status {status}: {line}")
        _call(library, "nvrtcGetPTXSize", program, ctypes.byref(size))
        ptx = ctypes.create_string_buffer(size.value)
        _call(library, "nvrtcGetPTX", program, ptx)
        return ptx.value.decode()
    finally:
        _call(library, "nvrtcDestroyProgram", ctypes.byref(program))


def _call(library: ctypes.CDLL, name: str, *args: object) -> None:
    status = _function(library, name)(*args)
    if status:
        raise Unavailable(f"NVRTC's function {name} failed with status {status}")


def _function(library: ctypes.CDLL, name: str) -> ctypes._NamedFuncPointer:
    try:
        return getattr(library, name)
    except AttributeError:
        raise Unavailable(f"the library that should be NVRTC has no function {name}") from None
