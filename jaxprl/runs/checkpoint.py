"""Checkpoints: what searches can be continued from, in `checkpoints/` of a run directory.

checkpoints/N/            what orbax wrote for the N-th save: `arrays` and `facts`
checkpoints/N/manifest    written last: its own checksum in a line, then JSON: format, configuration, checksum of the
                          content, size and checksum of every file (orbax does not notice a flipped bit)
checkpoints/N.saving      there while N is being saved
checkpoints/damaged/      what was set aside

The newest `KEPT` are kept. A step with its `.saving` mark and without a manifest is a save that was cut short, and is
removed; any other step that is not exactly what was saved is damaged. Saving is synchronous: it takes some 50 ms.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.errors import UserError
from jaxprl.runs.record import Position, RunDirectory, differences, sync, write_whole

FORMAT = 2
"""Version of what a checkpoint holds."""
KEPT = 3
_MANIFEST = "manifest"
_SET_ASIDE = "damaged"
_REMOVED = "removed"


@dataclasses.dataclass(frozen=True)
class Every:
    """How often to save: when so many seconds or programs have gone by since the last time, whichever comes first."""

    seconds: float = 60
    programs: float = float("inf")

    @classmethod
    def parse(cls, text: str) -> Every:
        """Return what a text like `60s`, `100000` (programs) or `60s,100000` says. Raises UserError."""
        parts = [part.strip() for part in text.split(",")]
        seconds = [int(part[:-1]) for part in parts if re.fullmatch(r"[0-9]{1,9}s", part)]
        programs = [int(part) for part in parts if re.fullmatch(r"[0-9]{1,9}", part)]
        once = len(seconds) <= 1 and len(programs) <= 1 and len(seconds + programs) == len(parts)
        if not once or 0 in seconds + programs:
            raise UserError(f"checkpoint interval {text!r}: it is like 60s, 100000 (programs) or 60s,100000, from 1 on")
        return cls(*(found[0] if found else float("inf") for found in (seconds, programs)))


EVERY = Every()


class Saved(NamedTuple):
    """The content of a checkpoint."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]
    """A JSON object."""


class Damaged(Exception):
    """A checkpoint is not what was saved."""


class Checkpoints:
    """The checkpoints of a run; orbax is imported when there is something to save or to load."""

    def __init__(self, directory: RunDirectory):
        self.directory = directory
        self.folder = directory.path / "checkpoints"
        self._manager: Any = None

    def save(self, content: Saved) -> None:
        """Save; once this has returned, no crash loses it. Raises UserError if it cannot be written."""
        self.directory.sync()
        facts = content.facts | {"records": self.directory.positions()}
        content = Saved(content.arrays, json.loads(json.dumps(facts)))
        step = max(self._steps(), default=0) + 1
        mark = self._mark(step)
        try:
            self.folder.mkdir(exist_ok=True)
            mark.touch()
            sync(self.folder)
            ocp = self._orbax()
            arguments = {"arrays": ocp.args.StandardSave(content.arrays), "facts": ocp.args.JsonSave(content.facts)}
            with _quiet():
                self._manager.save(step, args=ocp.args.Composite(**arguments), force=True)
            _seal(self.folder / str(step), content, self.directory.config)
            mark.unlink()
            self._remove(step - KEPT)
        except (OSError, ValueError, RuntimeError) as error:  # orbax and tensorstore wrap what the system says
            with contextlib.suppress(OSError):
                self._clean()
            raise UserError(
                f"checkpoint {self.folder / str(step)} cannot be saved: {_reason(error)}; what was written before is "
                "kept, and --resume goes on from there"
            ) from None

    def load(self) -> Saved | None:
        """Return the newest checkpoint, None if there has never been one.

        Damaged ones are told of and set aside. Raises UserError if no other is there, or if the newest good one is of
        another format or configuration.
        """
        self._clean()
        damaged: dict[int, str] = {}
        newest: Saved | None = None
        for step in sorted(self._steps(), reverse=True):
            try:
                manifest = self._verify(step)
                newest = newest or self._read(step, manifest)
            except Damaged as reason:
                damaged[step] = str(reason)
            except OSError as error:
                damaged[step] = f"{error.filename}: {error.strerror}"
        for step, text in damaged.items():
            print(f"WARNING: checkpoint {self.folder / str(step)} is damaged: {text}", file=sys.stderr)
        aside = self.folder / _SET_ASIDE
        if newest is None:
            if damaged or aside.exists():
                raise UserError(
                    f"no checkpoint in {self.folder} is whole, so the run cannot go on from one; remove that folder to "
                    "start the searches again from their beginning"
                )
            return None
        if damaged:
            self.close()  # orbax remembers the steps that it has seen
        for step in damaged:
            aside.mkdir(exist_ok=True)
            place = aside / f"{step}-{len(list(aside.iterdir()))}"
            (self.folder / str(step)).rename(place)
            print(f"WARNING: it was set aside as {place}; the newest whole one is used", file=sys.stderr)
        return newest

    def close(self) -> None:
        """Release what orbax holds."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _orbax(self) -> Any:
        import orbax.checkpoint as ocp

        if self._manager is None:
            options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, save_root_metadata=False)
            self._manager = ocp.CheckpointManager(self.folder.absolute(), options=options)
        return ocp

    def _mark(self, step: int) -> Path:
        return self.folder / f"{step}.saving"

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal()]

    def _clean(self) -> None:
        """Remove what a crash left behind in the middle of saving or removing."""
        if not self.folder.is_dir():
            return
        shutil.rmtree(self.folder / _REMOVED, ignore_errors=True)
        for mark in self.folder.glob("*.saving"):
            step = self.folder / mark.stem
            if not (step / _MANIFEST).exists() and step.exists():
                shutil.rmtree(step)
            mark.unlink()
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished)

    def _remove(self, last: int) -> None:
        """Remove the steps up to `last`."""
        removed = self.folder / _REMOVED
        for step in self._steps():
            if step <= last:
                removed.mkdir(exist_ok=True)
                (self.folder / str(step)).rename(removed / str(step))  # at once: a crash leaves no half of it
        shutil.rmtree(removed, ignore_errors=True)

    def _verify(self, step: int) -> dict[str, Any]:
        """Return a step's manifest, to which its files are true.

        Raises Damaged, and UserError if it is of another format or configuration.
        """
        folder = self.folder / str(step)
        manifest = _read_manifest(folder)
        if manifest["format"] != FORMAT:
            raise UserError(f"{folder} has format {manifest['format']}; this version reads format {FORMAT}")
        differing = differences(manifest["config"], self.directory.config)
        if differing:
            raise UserError(f"{folder} is of another configuration: {differing}")
        for name, (size, sha256) in manifest["files"].items():
            file = folder / name
            if not file.is_file():
                raise Damaged(f"{name} is missing")
            if file.stat().st_size != size:
                raise Damaged(f"{name} has {file.stat().st_size} bytes instead of {size}")
            if _sha256(file.read_bytes()) != sha256:
                raise Damaged(f"{name} has another content")
        return manifest

    def _read(self, step: int, manifest: dict[str, Any]) -> Saved:
        """Return a step's content. Raises Damaged."""
        ocp = self._orbax()
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(), facts=ocp.args.JsonRestore())
        try:
            found = self._manager.restore(step, args=args)
        except (ValueError, KeyError, RuntimeError) as error:
            raise Damaged(f"orbax cannot read it: {error}") from None
        saved = Saved({name: np.asarray(leaf) for name, leaf in found["arrays"].items()}, found["facts"])
        if _content_checksum(saved) != manifest["content"]:
            raise Damaged("the content is not what was saved")
        positions = {name: Position(*position) for name, position in saved.facts.pop("records").items()}
        reason = self.directory.differing(positions)
        if reason:
            raise Damaged(f"the record does not go with it: {reason}")
        return Saved(saved.arrays, saved.facts | {"records": positions})


def flat(tree: Any, prefix: str) -> dict[str, np.ndarray]:
    """Return the leaves of a pytree by name; a random key as its data."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {prefix + jax.tree_util.keystr(path): np.asarray(_data(leaf)) for path, leaf in leaves}


def like(tree: Any, prefix: str, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return a pytree of the structure of `tree` with the leaves that `flat` gave."""
    leaves, structure = jax.tree.flatten_with_path(tree)
    fresh = []
    for path, leaf in leaves:
        value = jnp.asarray(arrays[prefix + jax.tree_util.keystr(path)])
        if (value.shape, value.dtype) != (_data(leaf).shape, _data(leaf).dtype):
            raise UserError(f"checkpoint: {prefix}{jax.tree_util.keystr(path)} has shape {value.shape} {value.dtype}")
        fresh.append(jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else value)
    return jax.tree.unflatten(structure, fresh)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep orbax's threads from writing tracebacks of an error that is raised in the main thread as well."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before = [logger.disabled for logger in loggers], threading.excepthook
    for logger in loggers:
        logger.disabled = True
    threading.excepthook = lambda args: None
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before[0], strict=True):
            logger.disabled = disabled
        threading.excepthook = before[1]


def _reason(error: Exception) -> str:
    """Return what the system said, if that is known, and the start of the message otherwise."""
    text = " ".join(str(error).split())
    quoted = re.search(r"os_error_code='(\d+)'", text)  # tensorstore's
    number = int(quoted[1]) if quoted else getattr(error, "errno", None)
    return os.strerror(number) if number else text[:300]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _seal(folder: Path, content: Saved, config: dict[str, Any]) -> None:
    """Bring a step's files to the disk and write its manifest."""
    files = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            data = file.read_bytes()
            files[str(file.relative_to(folder))] = [len(data), _sha256(data)]
            sync(file)
        sync(Path(parent))
    manifest = {"format": FORMAT, "config": config, "content": _content_checksum(content), "files": files}
    text = json.dumps(manifest, indent=1)
    write_whole(folder / _MANIFEST, f"{_sha256(text.encode())}\n{text}")
    sync(folder.parent)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        checksum, _, text = (folder / _MANIFEST).read_bytes().partition(b"\n")
    except FileNotFoundError:
        raise Damaged(f"{_MANIFEST} is missing") from None
    if checksum != _sha256(text).encode():
        raise Damaged(f"{_MANIFEST} has another content")
    return json.loads(text)


def _content_checksum(content: Saved) -> str:
    """Return the checksum of names, types, shapes and bytes of the arrays, and of the facts."""
    digest = hashlib.sha256()
    for name, leaf in sorted(content.arrays.items()):
        digest.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    digest.update(json.dumps(content.facts, sort_keys=True).encode())
    return digest.hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
