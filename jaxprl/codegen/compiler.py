"""Has the C compiler that is there compile texts, loads what it makes, and keeps it (`kept.py`)."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import weakref
from pathlib import Path

from jaxprl.codegen import kept

VARIABLE = "JAXPRL_CC"
"""The environment variable that names the compiler, with further flags behind it; empty for none."""
COMPILERS = ("cc", "gcc", "clang")
# Sums wrap around. Branches stay branches: those of programs are easy to foresee, and computing both sides takes more
# time.
FLAGS = ("-O2", "-fwrapv", "-fno-if-conversion", "-w", "-shared", "-fPIC")
KEPT = 32
"""Texts whose functions stay loaded; those used last are kept."""
SECONDS = 120
"""How long the compiler may take."""
_CHECK = "\nint works(int x) { return 3 * x + 1; }\n"
_CHECK_CPP = '\nextern "C"' + _CHECK


class Unavailable(Exception):
    """Code cannot be compiled or run here; the message says why.

    `expected`: nothing is broken, there is just no compiler or GPU to use.
    """

    def __init__(self, message: str, *, expected: bool = False):
        super().__init__(message)
        self.expected = expected

    def anew(self) -> Unavailable:
        """Return a copy. A cached exception that is raised keeps everything alive that its traceback refers to."""
        return Unavailable(str(self), expected=self.expected)


def command() -> tuple[str, ...]:
    """Return the command of the compiler.

    Raises:
      Unavailable: there is none.
    """
    found = _command(os.environ.get(VARIABLE), os.environ.get("PATH"))
    if isinstance(found, Unavailable):
        raise found.anew()
    return found


@functools.lru_cache(16)
def _command(chosen: str | None, path: str | None) -> tuple[str, ...] | Unavailable:
    if chosen is not None:
        words = shlex.split(chosen)
        if not words:
            return Unavailable(f"{VARIABLE} is empty: no C compiler is to be used", expected=True)
        if shutil.which(words[0], path=path) is None:
            return Unavailable(f"{VARIABLE}={chosen!r}: there is no such program")
        return tuple(words)
    for name in COMPILERS:
        file = shutil.which(name, path=path)
        if file is not None:
            return (file,)
    return Unavailable(f"there is no C compiler ({', '.join(COMPILERS)}); {VARIABLE} can name one", expected=True)


def load(text: str, compiler: tuple[str, ...], flags: tuple[str, ...] = FLAGS) -> ctypes.CDLL:
    """Return the functions of a text, compiled now or earlier.

    Args:
      text: the text.
      compiler: the compiler's `command`.
      flags: what it is told.

    Raises:
      Unavailable: the compiler fails.
    """
    try:
        return _load(text, compiler, flags)
    except OSError as error:  # no room for temporary files, say
        raise Unavailable(f"the C compiler cannot be used: {error}") from error


@functools.lru_cache(KEPT)
def _load(text: str, compiler: tuple[str, ...], flags: tuple[str, ...]) -> ctypes.CDLL:
    text += _CHECK_CPP if "c++" in flags else _CHECK
    name = kept.name_of([*_identity(compiler), *flags, text]) + ".so"
    if kept.read(name) is not None:
        try:
            return _checked(_opened(kept.folder() / name), compiler)
        except OSError:
            pass  # on a disk from which nothing may be run, say
    data = _compiled(text, compiler, flags)
    functions = _checked(_loaded(data), compiler)
    kept.write(name, data)
    return functions


def _identity(compiler: tuple[str, ...]) -> list[str]:
    """Return what tells a compiler from others, and this machine from others that share its folders."""
    file = shutil.which(compiler[0]) or compiler[0]
    state = os.stat(file)
    return [os.path.realpath(file), str(state.st_size), str(state.st_mtime_ns), *compiler[1:], platform.machine()]


def _loaded(data: bytes) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="jaxprl-") as folder:
        file = Path(folder, "kernel.so")
        file.write_bytes(data)
        try:
            return _opened(file)  # which may be removed as soon as it is loaded
        except OSError as error:
            raise Unavailable(f"the C compiler makes what cannot be loaded: {error}") from error


def _opened(file: Path) -> ctypes.CDLL:
    """Return the functions of a shared object, which leaves the process when nobody has them any more."""
    functions = ctypes.CDLL(str(file))
    weakref.finalize(functions, _close, functions._handle).atexit = False  # threads may still be in them
    return functions


def _close(handle: int) -> None:
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(handle))


def _checked(functions: ctypes.CDLL, compiler: tuple[str, ...]) -> ctypes.CDLL:
    """Return functions whose compiler has shown with one of them that it works."""
    named = f"the C compiler {shlex.join(compiler)}"
    if not hasattr(functions, "works"):
        raise Unavailable(f"{named} makes code that lacks functions")
    if functions.works(5) != 16:
        raise Unavailable(f"{named} makes code that gives wrong numbers")
    return functions


def _compiled(text: str, compiler: tuple[str, ...], flags: tuple[str, ...]) -> bytes:
    """Return what a compiler makes of a text: the bytes of a shared object."""
    named = f"the C compiler {shlex.join(compiler)}"
    with tempfile.TemporaryDirectory(prefix="jaxprl-") as folder:
        source, target = Path(folder, "kernel.c"), Path(folder, "kernel.so")
        source.write_text(text, encoding="utf-8")
        arguments = [*compiler, *flags, str(source), "-o", str(target)]
        try:
            done = subprocess.run(
                arguments, capture_output=True, text=True, errors="replace", check=False, timeout=SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{named} was stopped: it took more than {SECONDS} s") from error
        except OSError as error:
            raise Unavailable(f"{named} cannot be started: {error.strerror}") from error
        if done.returncode < 0:
            raise Unavailable(f"{named} was killed by {signal.Signals(-done.returncode).name}")
        if done.returncode or not target.exists():
            line = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
            raise Unavailable(f"{named} failed with exit code {done.returncode}: {line or 'it gave no reason'}")
        return target.read_bytes()
