"""What the command lines share: seeds in words, errors for people, the compilation cache."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from jaxprl.errors import Stopped, UserError
from jaxprl.loops import prefer_whole_loops

MOST_SEEDS = 1_000_000


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that a text like `0-31,40` names, in its order. Raises UserError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})(?:\s*-\s*(\d{1,10}))?\s*", part, re.ASCII)
        if not match:
            raise UserError(f"seeds {text!r}: {part.strip()!r} is neither a number nor a range like 0-31")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"seeds {text!r}: the range {part.strip()} ends before it starts")
        if last >= 2**32:
            raise UserError(f"seeds {text!r}: seeds go up to {2**32 - 1}")
        if last - first + len(seeds) >= MOST_SEEDS:
            raise UserError(f"seeds {text!r}: more than {MOST_SEEDS} seeds")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds {text!r}: a seed is named twice")
    return seeds


def run_main(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; a user's mistake is a message and code 2, not a traceback."""
    try:
        return main(sys.argv[1:] if arguments is None else arguments) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read the output has left
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        return 2


def cache_folder() -> Path:
    """Return where the user's caches are: compiled code and answers of language models."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxprl"


def prepare_jax() -> None:
    """Have loops compiled whole (`loops.py`), and keep compiled code between processes, in `cache_folder`, unless JAX
    was told of another folder or nothing can be written there."""
    prefer_whole_loops()
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
