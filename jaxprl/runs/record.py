"""The directory of a run: its configuration, its records and its results.

config.json          the configuration
env.json             versions of the packages, the device and the git revision
metrics.jsonl        a line for every new best program and every interval: seed, evaluated, best, seconds
programs.jsonl       a line for every new best program: seed, evaluated, program, return, source
updates.jsonl        a line for every update of a policy: seed, evaluated, updates, policy_return, ...
llm/answers.jsonl    every answer of the language model that was read, and whether it gave a program
llm/rounds.jsonl     what came of every later prompt to the language model
llm/requests.jsonl   every request to the language model and its outcome, in order of time
llm/usage.json       requests, tokens and dollars, summed up
seed-N/result.json   the result of search seed N
lost_output.json     the streams on which something could not be printed, and why, if there are any
checkpoints/         what the searches can be continued from (`checkpoint.py`)

A JSON file is written as a whole and reaches the disk before its name does, so a crash leaves the old file or the new
one. A crash can tear the last line of a record, and can leave lines that are newer than the newest checkpoint. A
resumed run therefore cuts its records back to the checkpoint and writes those lines again. Only `llm/requests.jsonl` is
never cut, since the requests in it have been paid for.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from jaxprl import output
from jaxprl.errors import UserError
from jaxprl.runs import lock
from jaxprl.types import JSON

ANSWERS = "llm/answers.jsonl"
UPDATES = "updates.jsonl"
ROUNDS = "llm/rounds.jsonl"
REQUESTS = "llm/requests.jsonl"
USAGE = "llm/usage.json"
RECORDS = ("metrics.jsonl", "programs.jsonl", UPDATES, ANSWERS, ROUNDS)
"""The records that are cut back to the newest checkpoint when a run is resumed."""
PACKAGES = ("jaxprl", "jax", "jaxlib", "numpy")
"""The packages whose versions env.json has."""
_NOT_CONTENT = {lock.LOCK, lock.HOLDER, "config.json.new"}
"""Files that a directory without a run can hold."""


class Position(NamedTuple):
    """How far a record had been written at some moment."""

    size: int
    """Length in bytes."""
    sha256: str
    """Checksum of these bytes, in hexadecimal."""


class RunDirectory:
    """The directory of a run, which this process alone writes to until it is closed.

    Args:
      path: the directory. It is created if it does not exist.
      config: the configuration, a JSON object.
      resume: whether the directory may hold a run of the same configuration already, which is then continued.

    Raises:
      UserError: the directory is in use by another process, cannot be written, holds a run of another configuration,
        holds something else than a run, or is not empty although `resume` is false.

    Attributes:
      path: the directory.
      config: the configuration as JSON gives it back, with lists for tuples.
      resumed: whether the directory held a run already.
      mirror: called with the name of the record and the row whenever a row is appended, if it is not None.
    """

    def __init__(self, path: Path, config: JSON, *, resume: bool = False):
        self.path = path
        self.config: JSON = json.loads(json.dumps(config))
        self.mirror: Callable[[str, JSON], None] | None = None
        self._lock = lock.DirectoryLock(path)
        self._lost = 0
        with self._errors_naming(path):
            if not (path / lock.LOCK).exists():
                self._check_place(resume)
            path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        try:
            self._check_place(resume)  # again, since only now nobody else changes it
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
        """Release the directory, so that other processes can write to it."""
        if self._lock.held:
            with contextlib.suppress(UserError):
                self._note_lost_output()
        self._lock.release()

    def _note_lost_output(self) -> None:
        """Note which streams have been lost since this was last asked."""
        if len(output.LOST) > self._lost:
            self.write_json("lost_output.json", output.LOST)
            self._lost = len(output.LOST)

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file, so that a crash leaves the old content or the new one.

        Args:
          name: path of the file below the directory.
          value: anything that JSON can represent.

        Raises:
          UserError: the file cannot be written.
        """
        file = self.path / name
        with self._errors_naming(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(value, indent=2) + "\n")

    def append(self, name: str, row: JSON) -> None:
        """Append a row to a record.

        Args:
          name: path of the JSON-lines file below the directory.
          row: the row.

        Raises:
          UserError: the file cannot be written.
        """
        file = self.path / name
        with self._errors_naming(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as lines:
                lines.write(json.dumps(row).encode() + b"\n")
        if self.mirror:
            self.mirror(name, row)

    def positions(self) -> dict[str, Position]:
        """Return how far each of the `RECORDS` has been written, by its name."""
        files = {name: self.path / name for name in RECORDS}
        return {name: Position(file.stat().st_size, _checksum(file)) for name, file in files.items() if file.exists()}

    def sync(self) -> None:
        """Wait until the operating system has written the records to the disk, and note if output was lost."""
        self._note_lost_output()
        for name in RECORDS:
            file = self.path / name
            with self._errors_naming(file):
                if file.exists():
                    sync(file)
                    sync(file.parent)

    def mismatch(self, positions: dict[str, Position]) -> str | None:
        """Compare the records with what they were earlier.

        Args:
          positions: what `positions` returned then.

        Returns:
          What differs, in words, or None if every record still begins with the same bytes.
        """
        for name, (size, sha256) in positions.items():
            file = self.path / name
            now = file.stat().st_size if file.exists() else 0
            if now < size:
                return f"{name} has {now} bytes of the {size} that it had then"
            if _checksum(file, size) != sha256:
                return f"{name} is not what it was then"
        return None

    def cut(self, positions: dict[str, Position]) -> None:
        """Cut the records back.

        Args:
          positions: what `positions` returned earlier. A record that it does not name is emptied.

        Raises:
          UserError: a file cannot be written.
        """
        for name in RECORDS:
            file = self.path / name
            with self._errors_naming(file):
                if file.exists():
                    os.truncate(file, positions[name].size if name in positions else 0)

    def finished(self) -> dict[int, JSON]:
        """Return the results of the finished searches by search seed. Results that cannot be read are left out."""
        results = [_read_object(file) for file in self.path.glob("seed-*/result.json")]
        return {result["seed"]: result for result in results if result and "seed" in result}

    @contextlib.contextmanager
    def _errors_naming(self, file: Path) -> Iterator[None]:
        """Turn errors of the operating system into a UserError that names the file."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            kept = "; what was written before is kept: make room and --resume" if full else ""
            raise UserError(f"{file}: {error.strerror or error}{kept}") from None

    def _check_place(self, resume: bool) -> None:
        """Raise UserError if no run can be written to, or resumed in, the directory."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UserError(f"output {self.path} is not a directory")
        names = {entry.name for entry in self.path.iterdir()} - _NOT_CONTENT
        if names and not resume:
            raise UserError(
                f"output directory {self.path} is not empty; choose another one, or go on in it with --resume (from "
                "Python: resume=True)"
            )
        if names and "config.json" not in names:
            raise UserError(f"output directory {self.path} is not empty and holds no run that could be resumed")

    def _check_config(self) -> None:
        """Raise UserError if the run in the directory has another configuration."""
        old = _read_object(self.path / "config.json")
        if old is None:
            raise UserError(f"{self.path / 'config.json'} cannot be read: the run cannot be resumed")
        differing = differences(old, self.config)
        if differing:
            raise UserError(f"{self.path} is a run of another configuration: {differing}")

    def _mend(self, file: Path) -> None:
        """Cut off a last line that a crash has torn, so that other lines can follow."""
        with self._errors_naming(file):
            if file.exists():
                os.truncate(file, file.read_bytes().rfind(b"\n") + 1)


def differences(old: JSON, new: JSON, prefix: str = "") -> str:
    """Describe how two JSON objects differ.

    Args:
      old: an object.
      new: another one.
      prefix: what precedes the names of entries, for objects within objects.

    Returns:
      The differences in words, such as `budget was 1, is 2`. Empty if the objects are equal.
    """
    parts = []
    for name in sorted(old | new):
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            parts.append(differences(was, now, f"{prefix}{name} "))
        elif was != now:
            parts.append(f"{prefix}{name} was {_brief(was)}, is {_brief(now)}")
    return "; ".join(filter(None, parts))


def _brief(value: object) -> str:
    """Return a value of a configuration as text; of an object, such as checksums, only how much there is."""
    return f"{len(value)} entries" if isinstance(value, dict) else repr(value)


def read_lines(file: Path) -> list[JSON]:
    """Read a JSON-lines file.

    Args:
      file: the file.

    Returns:
      Its rows, without a torn last line.

    Raises:
      UserError: another line is not a JSON object.
    """
    rows = []
    lines = file.read_bytes().split(b"\n")  # what follows the last line end is nothing, or a torn line
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number}: not a JSON object")
        rows.append(row)
    return rows


def write_whole(file: Path, text: str) -> None:
    """Write a file, so that a crash leaves the old content or the new one.

    Args:
      file: the file.
      text: its content. Characters that UTF-8 cannot encode are written as `\\udc80`.
    """
    fresh = file.with_name(file.name + ".new")
    fresh.write_bytes(text.encode(errors="backslashreplace"))
    sync(fresh)
    fresh.replace(file)
    sync(file.parent)


def sync(path: Path) -> None:
    """Wait until the operating system has written a file, or the names in a directory, to the disk.

    Windows has no such call for directories, and none is needed on its usual file system: nothing is done for them.
    """
    windows = os.name == "nt"
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)  # Windows writes out only what it may write
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


def _read_object(file: Path) -> JSON | None:
    """Return the JSON object in a file, or None if there is no complete one."""
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def environment() -> JSON:
    """Return what this process runs on: versions, platform, device and git revision, as env.json holds them."""
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
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.processor()


def _git_revision() -> str | None:
    """Return the git revision of the clone that the package is imported from, or None if it was installed."""
    root = Path(__file__).parents[2]
    git = shutil.which("git")
    if not git or not (root / ".git").exists():
        return None
    done = subprocess.run([git, "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
