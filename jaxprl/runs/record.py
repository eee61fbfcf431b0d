"""A run's directory: what was asked for, on what, how it went, what came out.

config.json     the configuration                    env.json        versions, device, git revision
metrics.jsonl   a line per new best program and per interval: seed, evaluated, best, seconds
programs.jsonl  a line per new best program: seed, evaluated, program, return, source
llm/            every answer of the language model and what became of it
seed-N/result.json   what search seed N found
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax

from jaxprl.errors import UserError

_LOCK = ".lock"
PACKAGES = ("jaxprl", "jax", "jaxlib", "numpy")


class RunDirectory:
    """One run's directory, held by one process at a time."""

    def __init__(self, path: Path, config: dict[str, Any], *, resume: bool = False):
        """Create the directory, or with `resume` go on in it.

        Raises UserError if it is in use, not empty without `resume`, not a run, or of another configuration. Searches
        that have a result are kept; the lines of the others are removed, since they start again.
        """
        self.path = path
        config = json.loads(json.dumps(config))  # as it will be read back
        try:
            self._check_place(resume)
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / _LOCK).open("a")
        except OSError as error:
            raise UserError(f"output directory {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"output directory {path} is in use by another process") from None
        if (path / "config.json").exists():
            self._check_config(config)
            self._drop_unfinished(set(config["seeds"]) - set(self.finished()))
        self.write_json("config.json", config)
        self.write_json("env.json", environment())

    def close(self) -> None:
        """Leave the directory to other processes."""
        self._lock.close()

    def _check_place(self, resume: bool) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UserError(f"output {self.path} is not a directory")
        names = {entry.name for entry in self.path.iterdir()} - {_LOCK}
        if names and not resume:
            raise UserError(
                f"output directory {self.path} is not empty; choose another one, or --resume to go on in it"
            )
        if names and "config.json" not in names:
            raise UserError(f"output directory {self.path} is not empty and holds no run that could be resumed")

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file whole: it is the old one or the new one, never half of it."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(file.name + ".new")
        fresh.write_text(json.dumps(value, indent=2) + "\n")
        fresh.replace(file)

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Add a line to a JSON-lines file."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")

    def finished(self) -> dict[int, dict[str, Any]]:
        """Return the results that are there, by search seed; one that cannot be read does not count."""
        results = [_read_object(file) for file in self.path.glob("seed-*/result.json")]
        return {result["seed"]: result for result in results if result and "seed" in result}

    def _check_config(self, config: dict[str, Any]) -> None:
        old = _read_object(self.path / "config.json")
        if old is None:
            raise UserError(f"{self.path / 'config.json'} cannot be read: the run cannot be resumed")
        differing = [name for name in sorted(old | config) if old.get(name) != config.get(name)]
        if differing:
            what = "; ".join(f"{name} was {old.get(name)!r}, is {config.get(name)!r}" for name in differing)
            raise UserError(f"{self.path} is a run of another configuration: {what}")

    def _drop_unfinished(self, seeds: set[int]) -> None:
        for name in ("metrics.jsonl", "programs.jsonl", "llm/answers.jsonl"):
            file = self.path / name
            if file.exists():
                rows = file.read_text(errors="replace").splitlines()
                kept = [row for row in rows if _seed_of(row) not in seeds | {None}]
                fresh = file.with_name(file.name + ".new")
                fresh.write_text("".join(f"{row}\n" for row in kept))
                fresh.replace(file)


def _read_object(file: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, None if there is no whole one."""
    try:
        value = json.loads(file.read_text(errors="replace"))
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _seed_of(row: str) -> int | None:
    """Return the search seed of a line, None if the line is torn."""
    try:
        return json.loads(row)["seed"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return None


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
