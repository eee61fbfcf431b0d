"""Knows whether this process is a fork of one in which JAX had run: JAX would wait here forever for threads it lacks.

A child of `os.fork`, or of `multiprocessing` with the method fork, has none of its parent's threads. Where JAX had not
run yet, the child starts its own; and what needs no JAX, such as a rollout in plain Python, runs in any child.
"""

from __future__ import annotations

import os
import sys

_THREADS = "/proc/self/task"


def require_working_jax() -> None:
    """Raise UserError if JAX cannot run in this process."""
    if _lacks_threads:
        from jaxprl.errors import UserError  # `import jaxprl` imports this module, and stays light

        raise UserError(
            f"process {os.getpid()} was forked from a process in which JAX had run, so JAX would hang in it; start "
            'processes anew instead: multiprocessing.get_context("spawn")'
        )


def _jax_has_run() -> bool:
    # JAX has no public name for this. Its own function would take a lock that a lost thread may hold.
    return bool(getattr(sys.modules.get("jax._src.xla_bridge"), "_backends", None))


def _after_fork() -> None:
    global _lacks_threads
    _lacks_threads = _lacks_threads or _jax_has_run()


def _is_fork() -> bool:
    """Say if the fork came before this module was imported: JAX has run, and only Python's threads are there."""
    if not _jax_has_run() or not os.path.exists(_THREADS):
        return False
    import threading

    return len(os.listdir(_THREADS)) <= threading.active_count()


_lacks_threads = _is_fork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
