"""Has XLA compile loops on a CPU to one piece of machine code, which makes running programs one by one fast."""

from __future__ import annotations

import functools
import os

import jax
import jax.numpy as jnp

_OPTION = "xla_cpu_small_while_loop_byte_threshold"
_FLAG = f"--xla_backend_extra_options={_OPTION}=1000000000"


def prefer_whole_loops() -> None:
    """Ask XLA to compile every loop on a CPU to one function, unless XLA_FLAGS already has backend options.

    By itself XLA does so only for loops that touch less than 1 kB a round, and runs others an operation at a time. It
    reads XLA_FLAGS when JAX compiles something for the first time, so this has to be called before.

    Example:
      >>> prefer_whole_loops()
      >>> "xla_backend_extra_options" in os.environ["XLA_FLAGS"]
      True
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}".strip()


@functools.cache
def has_whole_loops() -> bool:
    """Return whether XLA compiles loops whole in this process."""
    if jax.default_backend() != "cpu":
        return False
    probe = jax.jit(lambda row: jax.lax.fori_loop(0, 4, lambda _, row: row * 3 + jnp.roll(row, 1), row))
    return "xla_cpu_small_call" in (probe.lower(jnp.zeros(2**14, jnp.int32)).compile().as_text() or "")
