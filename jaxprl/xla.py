"""How this package uses XLA: which loops it compiles whole, which types it computes with, and what it keeps.

Array code of this package goes through `jit`, and what computes with arrays otherwise through `guarded`. So

- results do not depend on `jax_enable_x64`: inside, JAX has types of 32 bits;
- compiled code does not fill the process: every compiled program is mapped into memory in some 18 regions, Linux
  allows a process about 65,530 (`vm.max_map_count`), and at the limit XLA ends the process with a segmentation fault;
- a process that JAX would hang in says so (`forks.py`).
"""

from __future__ import annotations

import functools
import gc
import inspect
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from jaxprl.errors import UserError
from jaxprl.forks import require_working_jax

P = ParamSpec("P")
R = TypeVar("R")

KEPT = 16
"""Tasks (or grammars, languages, ..) for which a function stays compiled; those used last are kept."""
_REGIONS = Path("/proc/self/maps")
_LIMIT = Path("/proc/sys/vm/max_map_count")
_LOOK_SECONDS = 1.0
"""How long regions are not counted again."""
_NARROW = {"int64": "int32", "uint64": "uint32", "float64": "float32"}

_OPTION = "xla_cpu_small_while_loop_byte_threshold"
_VARIABLE = "XLA_FLAGS"
_SPACE = " \t\r\n"
"""What XLA takes for space between flags."""
_TRY = "from jaxlib import xla_client; xla_client.CompileOptions()"
"""Has XLA read its flags, in a tenth of a second."""
_FLAG = f"--xla_backend_extra_options={_OPTION}=1000000000"


def prefer_whole_loops() -> None:
    """Ask XLA to compile every loop on a CPU to one function, unless XLA_FLAGS already has backend options.

    By itself XLA does so only for loops that touch less than 1 kB a round, and runs others an operation at a time. It
    reads XLA_FLAGS when JAX compiles something for the first time, so this has to be called before. XLA_FLAGS can also
    be the name of a file of flags; then it becomes the flags themselves.

    Raises:
      UserError: XLA_FLAGS names a file that cannot be read.

    Example:
      >>> prefer_whole_loops()
      >>> "xla_backend_extra_options" in os.environ["XLA_FLAGS"]
      True
    """
    flags = os.environ.get(_VARIABLE, "")
    names_file = not flags.lstrip(_SPACE).startswith("-") and bool(flags.strip(_SPACE))
    content = _content(flags) if names_file else flags
    if "xla_backend_extra_options" in content:
        return
    # What begins with something else than a flag would be the name of a file, so the content of one comes last.
    os.environ[_VARIABLE] = (f"{_FLAG} {content}" if names_file else f"{content} {_FLAG}").strip(_SPACE)


def _content(file: str) -> str:
    """Return the content of a file of flags. Raises UserError if it cannot be read."""
    try:
        content = os.fsdecode(Path(file).read_bytes())
    except OSError as error:
        raise UserError(f"{_VARIABLE} names a file of flags, {file!r}: {error.strerror}") from None
    if "\0" in content:
        raise UserError(f"{_VARIABLE} names a file of flags, {file!r}: it is not a text")
    return content


def check_flags() -> None:
    """Check in another process whether XLA takes the flags that the user has set.

    XLA ends a process that has flags which it does not know.

    Raises:
      UserError: it does not take them; the message has XLA's reason.
    """
    flags = os.environ.get(_VARIABLE, "")
    if flags in ("", _FLAG):
        return
    tried = subprocess.run([sys.executable, "-c", _TRY], capture_output=True, check=False)
    said = tried.stderr.decode(errors="replace")
    if tried.returncode and "parse_flags_from_env" in said:
        reason = said.partition("] ")[2].partition("\n")[0]
        raise UserError(f"XLA does not take {_VARIABLE}={flags.removesuffix(_FLAG).strip()!r}: {reason}")


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function compute with types of 32 bits, whatever `jax_enable_x64` says, and only where JAX can run.

    Args:
      function: the function.

    Returns:
      The function. It gets arrays of JAX with 32 bits instead of 64, and raises UserError in a process in which JAX
      would hang.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        require_working_jax()
        let_go()
        if not jax.enable_x64.value:  # in this thread
            return function(*args, **kwargs)
        args, kwargs = jax.tree.map(_narrowed, (args, kwargs))
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return run


class Jitted(Generic[R]):
    """A function that `jit` has made."""

    def __init__(self, function: Callable[..., R], per: tuple[str, ...], options: dict[str, Any]):
        self._function, self._options, self._lock = function, options, threading.Lock()
        names = list(inspect.signature(function).parameters)
        self._places = [(names.index(name), name) for name in per]
        self._compiled = functools.lru_cache(KEPT)(self._new)
        self._call = guarded(lambda args, kwargs: self._for(args, kwargs)(*args, **kwargs))
        self._lower = guarded(lambda args, kwargs: self._for(args, kwargs).lower(*args, **kwargs))
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        return self._call(args, kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lower the function for some arguments, as `jax.jit(..).lower` does."""
        return self._lower(args, kwargs)

    def _for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._lock:  # so that threads which come at the same time share what is compiled
            return self._compiled(*(args[at] if at < len(args) else kwargs.get(name) for at, name in self._places))

    def _new(self, *_: object) -> Any:
        # JAX keeps what it compiles as long as the function lives, whatever its static arguments are. So there is one
        # for each of `per`.
        function = self._function

        @functools.wraps(function)
        def copy(*args: Any, **kwargs: Any) -> R:
            return function(*args, **kwargs)

        return jax.jit(copy, **self._options)


def jit(*, per: str | Iterable[str] = (), **options: Any) -> Callable[[Callable[..., R]], Jitted[R]]:
    """Return a decorator that makes a jitted function, with types of 32 bits whatever `jax_enable_x64` says.

    Args:
      per: names of static arguments. What is compiled is kept for the `KEPT` combinations of them used last: so what
        was compiled for a task, say, is let go of some tasks later.
      options: those of `jax.jit`, by name.

    Returns:
      The decorator; what it makes is `guarded`.

    Example:
      >>> @jit(per="count", static_argnames="count")
      ... def numbers(first: jax.Array, count: int) -> jax.Array:
      ...     return first + jnp.arange(count)
      >>> with jax.enable_x64(True):
      ...     numbers(jnp.arange(2)[1], 3)
      Array([1, 2, 3], dtype=int32)
    """
    names = (per,) if isinstance(per, str) else tuple(per)
    return lambda function: Jitted(function, names, options)


def _narrowed(leaf: Any) -> Any:
    """Return an array of JAX with 32 bits instead of 64; other values are converted when they become arrays."""
    narrow = _NARROW.get(str(leaf.dtype)) if isinstance(leaf, jax.Array) else None
    return leaf if narrow is None else leaf.astype(narrow)


def let_go() -> None:
    """Drop everything that JAX has compiled if the process has a quarter of the regions of memory that it may have.

    What is needed again is compiled again. Where other things have that many regions, so that dropping does not help,
    it is done again when an eighth has come on top of them. This looks at most once a second, since counting takes some
    milliseconds.
    """
    global _next_look, _left
    now = time.monotonic()
    with _look:
        if now < _next_look or not _REGIONS.exists():
            return
        _next_look = now + _LOOK_SECONDS
    limit = _limit()
    if _regions() > max(limit // 4, _left + limit // 8):
        jax.clear_caches()
        gc.collect()
        _left = _regions()


def _regions() -> int:
    return _REGIONS.read_bytes().count(b"\n")


def _limit() -> int:
    try:
        return int(_LIMIT.read_text())
    except (OSError, ValueError):
        return 65_530


_left = 0
"""Regions that were left when everything was dropped for the last time."""
_next_look = 0.0
_look = threading.Lock()
"""Held while a thread decides whether it is time to look."""


@functools.cache
@guarded
def has_whole_loops() -> bool:
    """Return whether XLA compiles loops whole in this process."""
    if jax.default_backend() != "cpu":
        return False
    probe = jax.jit(lambda row: jax.lax.fori_loop(0, 4, lambda _, row: row * 3 + jnp.roll(row, 1), row))
    return "xla_cpu_small_call" in (probe.lower(jnp.zeros(2**14, jnp.int32)).compile().as_text() or "")
