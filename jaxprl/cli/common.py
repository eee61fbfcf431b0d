"""What the commands share: seeds in words, errors for people, the compilation cache."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxprl import files, output
from jaxprl.errors import Stopped, UserError
from jaxprl.output import say
from jaxprl.runs.signals import stopped_at_once

MOST_SEEDS = 1_000_000
PLATFORMS = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "CUDA_VISIBLE_DEVICES")
"""The environment variables that decide which devices JAX uses."""


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that a text like `0-31,40` names, in its order. Raises UserError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,20})(?:\s*-\s*(\d{1,20}))?\s*", part, re.ASCII)
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


def one_seed(text: str) -> int:
    """Return the layout seed that a text names. Raises UserError if it names several."""
    seeds = parse_seeds(text)
    if len(seeds) != 1:
        raise UserError(f"layout seed {text!r}: a run is on one layout")
    return seeds[0]


def command_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return an empty parser for the command `jaxprl NAME`; line breaks of the description are kept."""
    return argparse.ArgumentParser(
        prog=f"jaxprl {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def path(text: str) -> Path:
    """Return the file or folder that a word of the command line names: the type of every such option."""
    try:
        return files.expanded(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """Return the type of an option that is a whole number from `least` to `most`."""

    def number(text: str) -> int:
        expected = f"{text!r}: expected a whole number from {least:,} to {most:,}"
        if not re.fullmatch(r"\s*[+-]?[0-9]{1,19}\s*", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(expected)
        return int(text)

    return number


def run_main(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; a user's mistake is a message and code 2, not a traceback."""
    try:
        return main(arguments) or 0
    except UserError as error:
        say(f"error: {error}")
        return 2
    except Stopped as stopped:
        say(str(stopped))
        return stopped.code
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except (RuntimeError, AssertionError):  # JAX's, if a command computes something after all
        if (reason := _no_devices()) is None:
            raise
        say(f"error: {reason}")
        return 2
    except UnicodeEncodeError as error:
        if error.encoding == "utf-8":
            raise
        say(f"error: {files.unencodable(error.object, error.encoding)}")
        return 2
    except OSError as error:
        say(f"error: {error.filename or 'input or output'}: {error.strerror or error}")
        return 2


def run_process(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str], *, saves: bool = False) -> int:
    """Run a command as the whole of a process, whatever becomes of what it prints, and return the exit code.

    Args:
      main: the command.
      arguments: its words.
      saves: whether its results are files, so that it goes on if nothing can be printed any more.
    """
    output.take_over(output.PATIENCE if saves else None)
    with stopped_at_once() if saves else contextlib.nullcontext():
        try:
            code = run_main(main, arguments)
        except SystemExit as ended:  # argparse's, after --help and mistakes
            code, saves = ended.code if isinstance(ended.code, int) else 0, False
    return _printed(code, saves=saves)


def _printed(code: int, *, saves: bool) -> int:
    """Return a command's exit code, or another one if what it was asked for could not be printed."""
    sys.stdout.flush()
    reason = output.LOST.get(output.OUTPUT)
    gone = reason == output.NO_READER  # the reader has closed the pipe, as head does: no error
    if reason is None or (saves and gone):
        return code
    if saves:
        say(f"WARNING: {output.OUTPUT} cannot be written ({reason}): what it would have said is lost")
        return code
    if gone:
        return code or 1
    say(f"error: {output.OUTPUT}: {reason}")
    return 2


def check_devices() -> None:
    """Raise UserError if JAX has no device, most likely because the environment asks for one that is not there.

    This takes the memory of a GPU, so only commands that compute with JAX do it.
    """
    reason = _no_devices()
    if reason is not None:
        raise UserError(reason)


def _no_devices() -> str | None:
    """Return why JAX has no device, or None if it has one."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter, without a message, if no platform that is named works
        asked = ", ".join(f"{name}={os.environ[name]!r}" for name in PLATFORMS if os.environ.get(name))
        return f"{asked or 'JAX'}: {str(error) or 'there is no such device'}; JAX_PLATFORMS=cpu takes the CPU"
    return None


def prepare_jax() -> None:
    """Ask XLA to compile loops whole (`xla.py`), and keep compiled code between processes.

    Compiled code goes to the user's cache folder, unless JAX is configured for another one or nothing can be written
    there.

    Raises:
      UserError: the environment names flags that XLA does not know, or changes what a seed stands for.
    """
    import jax

    from jaxprl.caches import cache_folder
    from jaxprl.xla import check_flags, prefer_whole_loops

    prefer_whole_loops()
    check_flags()
    for name, value in (("jax_threefry_partitionable", True), ("jax_random_seed_offset", 0)):
        if jax.config.values[name] != value:
            found = int(jax.config.values[name])
            raise UserError(f"{name.upper()}={found} gives other random numbers for the same seeds: unset it")
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    caches = cache_folder()
    if not os.access(caches, os.W_OK):
        say(f"note: {caches} cannot be written: compiled code is not kept")
    else:
        jax.config.update("jax_compilation_cache_dir", str(caches))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
