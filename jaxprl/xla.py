"""Has XLA compile loops on a CPU to one piece of machine code, which makes running programs one by one fast."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxprl.errors import UserError

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
    """Have another process find out whether XLA takes XLA_FLAGS, if the user has set it: XLA ends a process that has
    flags which it does not know.

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


@functools.cache
def has_whole_loops() -> bool:
    """Return whether XLA compiles loops whole in this process."""
    if jax.default_backend() != "cpu":
        return False
    probe = jax.jit(lambda row: jax.lax.fori_loop(0, 4, lambda _, row: row * 3 + jnp.roll(row, 1), row))
    return "xla_cpu_small_call" in (probe.lower(jnp.zeros(2**14, jnp.int32)).compile().as_text() or "")
