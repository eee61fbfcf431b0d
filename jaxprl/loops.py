"""Whether XLA compiles small loops to machine code of one piece, which is what makes runs one by one fast on a CPU."""

from __future__ import annotations

import functools
import os

import jax
import jax.numpy as jnp

_OPTION = "xla_cpu_small_while_loop_byte_threshold"
_FLAG = f"--xla_backend_extra_options={_OPTION}=1000000000"


def prefer_whole_loops() -> None:
    """Ask XLA to compile a loop on a CPU to one function whatever it reads and writes, if nobody has said otherwise.

    XLA does so by itself for loops that touch less than 1 kB a round; others run an operation at a time. It reads
    XLA_FLAGS when JAX first compiles something, so this has to be called before.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}".strip()


@functools.cache
def has_whole_loops() -> bool:
    """Return whether XLA does it here."""
    if jax.default_backend() != "cpu":
        return False
    probe = jax.jit(lambda row: jax.lax.fori_loop(0, 4, lambda _, row: row * 3 + jnp.roll(row, 1), row))
    return "xla_cpu_small_call" in (probe.lower(jnp.zeros(2**14, jnp.int32)).compile().as_text() or "")
