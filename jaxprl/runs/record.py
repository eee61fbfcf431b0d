"""A run's directory: what was asked for, on what, how it went, what came out.

config.json     the configuration                    env.json        versions, device, git revision
metrics.jsonl   a line per new best program and per interval: seed, evaluated, best, seconds
programs.jsonl  a line per new best program: seed, evaluated, program, return, source
llm/            answers.jsonl: every answer of the language model that was looked at, and what became of it;
                rounds.jsonl: what each occasion of asking again brought; requests.jsonl: every request and what came
                of it, in the order of time; usage.json: requests, tokens and dollars together
seed-N/result.json   what search seed N found
checkpoints/    what the searches can be continued from (`checkpoint.py`)

A JSON file is written whole and reaches the disk before its name does. A line of a record can be torn by a crash, and
lines can be more than the newest checkpoint knows: a run that goes on cuts the records back to that checkpoint and
writes the lines after it again. Only `llm/requests.jsonl` is never cut: what was asked was asked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxprl.errors import UserError

_LOCK = ".lock"
ANSWERS = "llm/answers.jsonl"
ROUNDS = "llm/rounds.jsonl"
REQUESTS = "llm/requests.jsonl"
USAGE = "llm/usage.json"
RECORDS = ("metrics.jsonl", "programs.jsonl", ANSWERS, ROUNDS)
"""The files that lines are added to."""
PACKAGES = ("jaxprl", "jax", "jaxlib", "numpy")


class Position(NamedTuple):
    """A place in a record."""

    size: int
    """Bytes up to there."""
    sha256: str
    """Their checksum."""


class RunDirectory:
    """One run's directory, held by one process at a time."""

    def __init__(self, path: Path, config: dict[str, Any], *, resume: bool = False):
        """Create the directory, or with `resume` go on in it.

        Raises UserError if it is in use, not empty without `resume`, not a run, or of another configuration.
        """
        self.path = path
        self.config = json.loads(json.dumps(config))  # as it will be read back
        self.mirror: Callable[[str, dict[str, Any]], None] | None = None
        """Gets every row of a record too."""
        with self._telling(path):
            if not (path / _LOCK).exists():
                self._check_place(resume)
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / _LOCK).open("a+")
        try:
            self._hold()
            self._check_place(resume)  # nobody else changes it now
            self.resumed = (path / "config.json").exists()
            if self.resumed:
                self._check_config()
            else:
                self.write_json("config.json", self.config)
            self.write_json("env.json", environment())
            self._mend(self.path / REQUESTS)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the directory to other processes."""
        self._lock.close()

    def _hold(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            raise UserError(f"output directory {self.path} is in use by {holder}") from None
        except OSError as error:
            raise UserError(f"output directory {self.path} cannot be locked: {error.strerror}") from None
        with self._telling(self.path / _LOCK):
            self._lock.truncate(0)
            self._lock.write(
                f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
            )
            self._lock.flush()

    def _check_place(self, resume: bool) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UserError(f"output {self.path} is not a directory")
        names = {entry.name for entry in self.path.iterdir()} - {_LOCK, "config.json.new"}
        if names and not resume:
            raise UserError(
                f"output directory {self.path} is not empty; choose another one, or --resume to go on in it"
            )
        if names and "config.json" not in names:
            raise UserError(f"output directory {self.path} is not empty and holds no run that could be resumed")

    @contextlib.contextmanager
    def _telling(self, file: Path) -> Iterator[None]:
        """Say in the error for people which file could not be read or written, and that the rest is kept."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            kept = "; what was written before is kept: make room and --resume" if full else ""
            raise UserError(f"{file}: {error.strerror or error}{kept}") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file whole: it is the old one or the new one, never half of it."""
        file = self.path / name
        with self._telling(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(value, indent=2) + "\n")

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Add a line to a JSON-lines file."""
        file = self.path / name
        with self._telling(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
        if self.mirror:
            self.mirror(name, row)

    def positions(self) -> dict[str, Position]:
        """Return where the records end."""
        files = {name: self.path / name for name in RECORDS}
        return {name: Position(file.stat().st_size, _checksum(file)) for name, file in files.items() if file.exists()}

    def sync(self) -> None:
        """Bring the records to the disk."""
        for name in RECORDS:
            file = self.path / name
            with self._telling(file):
                if file.exists():
                    sync(file)
                    sync(file.parent)

    def differing(self, positions: dict[str, Position]) -> str | None:
        """Return how the records differ from what they were up to `positions`, None if they do not."""
        for name, (size, sha256) in positions.items():
            file = self.path / name
            there = file.stat().st_size if file.exists() else 0
            if there < size:
                return f"{name} has {there} bytes of the {size} that it had then"
            if _checksum(file, size) != sha256:
                return f"{name} is not what it was then"
        return None

    def cut(self, positions: dict[str, Position]) -> None:
        """Take the records back to `positions`; those of a file that is not among them to nothing."""
        for name in RECORDS:
            file = self.path / name
            with self._telling(file):
                if file.exists():
                    os.truncate(file, positions[name].size if name in positions else 0)

    def _mend(self, file: Path) -> None:
        """Cut off a line that a crash has torn, so that others can follow."""
        with self._telling(file):
            if file.exists():
                os.truncate(file, file.read_bytes().rfind(b"\n") + 1)

    def finished(self) -> dict[int, dict[str, Any]]:
        """Return the results that are there, by search seed; one that cannot be read does not count."""
        results = [_read_object(file) for file in self.path.glob("seed-*/result.json")]
        return {result["seed"]: result for result in results if result and "seed" in result}

    def _check_config(self) -> None:
        old = _read_object(self.path / "config.json")
        if old is None:
            raise UserError(f"{self.path / 'config.json'} cannot be read: the run cannot be resumed")
        differing = differences(old, self.config)
        if differing:
            raise UserError(f"{self.path} is a run of another configuration: {differing}")


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    """Return in words where two JSON objects differ; empty if they do not."""
    found = []
    for name in sorted(old | new):
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            found.append(differences(was, now, f"{prefix}{name} "))
        elif was != now:
            found.append(f"{prefix}{name} was {was!r}, is {now!r}")
    return "; ".join(filter(None, found))


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file; a torn last line is left out.

    Raises UserError for any other line that is not a JSON object.
    """
    rows = []
    lines = file.read_bytes().split(b"\n")  # what follows the last line end is nothing, or a torn line
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number}: not a JSON object")
        rows.append(row)
    return rows


def write_whole(file: Path, text: str) -> None:
    """Write a file so that after a crash it is the old one or the new one. What UTF-8 cannot hold becomes `\\udc80`."""
    fresh = file.with_name(file.name + ".new")
    fresh.write_bytes(text.encode(errors="backslashreplace"))
    sync(fresh)
    fresh.replace(file)
    sync(file.parent)


def sync(path: Path) -> None:
    """Have the system write a file, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(file: Path, size: int | None = None) -> str:
    """Return the SHA-256 of a file, or of its first `size` bytes."""
    with file.open("rb") as content:
        if size is None:
            return hashlib.file_digest(content, "sha256").hexdigest()
        return hashlib.sha256(content.read(size)).hexdigest()


def _read_object(file: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, None if there is no whole one."""
    try:
        value = json.loads(file.read_text(errors="replace"))
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def environment() -> dict[str, Any]:
    """Return versions, device and git revision of this process."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
        "platform": platform.platform(),
        "processor": _processor(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "git": _git_revision(),
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.processor()


def _git_revision() -> str | None:
    here = Path(__file__).parent
    git = shutil.which("git")
    if not git or not any((parent / ".git").exists() for parent in here.parents):
        return None
    asked = subprocess.run([git, "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None
