"""Checkpoints: what the searches of a run can be continued from, in the folder `checkpoints` of its directory.

checkpoints/N/            what orbax has written for save number N: `arrays` and `facts`
checkpoints/N/manifest    written last. Its first line is the checksum of the rest, which is JSON: format,
                          configuration, checksum of the content, size and checksum of every file. Orbax itself does
                          not notice a flipped bit.
checkpoints/N.saving      exists while save number N is being written
checkpoints/damaged/      damaged checkpoints that were set aside

The newest `KEPT` checkpoints are kept. A checkpoint with a `.saving` file and without a manifest is a save that was
interrupted, and is removed. Any other checkpoint that is not exactly what was saved counts as damaged. Saving is
synchronous and takes about 50 ms.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxprl.errors import UserError
from jaxprl.output import say
from jaxprl.runs import manifest
from jaxprl.runs.manifest import Damaged, Saved
from jaxprl.runs.record import Position, RunDirectory, differences, sync
from jaxprl.types import JSON, PyTree

if TYPE_CHECKING:
    import orbax.checkpoint

FORMAT = 3
"""Version of the content of a checkpoint."""
KEPT = 3
"""How many checkpoints are kept."""
_SET_ASIDE = "damaged"
_REMOVED = "removed"


@dataclasses.dataclass(frozen=True)
class Every:
    """How often a checkpoint is saved: as soon as one of the two limits is reached since the last save."""

    seconds: float = 60
    programs: float = float("inf")
    """Programs evaluated."""

    @classmethod
    def parse(cls, text: str) -> Every:
        """Read an interval.

        Args:
          text: like `60s`, `100000` (programs) or `60s,100000`.

        Returns:
          The interval. A limit that the text does not name is infinite.

        Raises:
          UserError: the text is not an interval.
        """
        parts = [part.strip() for part in text.split(",")]
        seconds = [int(part[:-1]) for part in parts if re.fullmatch(r"[0-9]{1,9}s", part)]
        programs = [int(part) for part in parts if re.fullmatch(r"[0-9]{1,9}", part)]
        once = len(seconds) <= 1 and len(programs) <= 1 and len(seconds + programs) == len(parts)
        if not once or 0 in seconds + programs:
            raise UserError(f"checkpoint interval {text!r}: it is like 60s, 100000 (programs) or 60s,100000, from 1 on")
        return cls(*(limit[0] if limit else float("inf") for limit in (seconds, programs)))


EVERY = Every()
"""The default interval."""


class Checkpoints:
    """The checkpoints of a run. Orbax is imported only when something is saved or loaded.

    Args:
      directory: the directory of the run.
    """

    def __init__(self, directory: RunDirectory):
        self.directory = directory
        self.folder = directory.path / "checkpoints"
        self._manager: orbax.checkpoint.CheckpointManager | None = None
        self._descriptor: int | None = None

    def save(self, content: Saved) -> None:
        """Save a checkpoint. Once this has returned, a crash no longer loses it.

        The positions of the run's records are saved with it, as the entry `records` of its facts.

        Args:
          content: what to save.

        Raises:
          UserError: the checkpoint cannot be written.
        """
        self.directory.sync()
        facts = content.facts | {"records": self.directory.positions()}
        content = Saved(content.arrays, json.loads(json.dumps(facts)))
        step = max(self._steps(), default=0) + 1
        mark = self._mark(step)
        failed = None
        with _quiet():
            try:
                self.folder.mkdir(exist_ok=True)
                mark.touch()
                sync(self.folder)
                self._write(step, content)
                manifest.write(self.folder / str(step), content, format=FORMAT, config=self.directory.config)
                mark.unlink()
                self._remove(step - KEPT)
            except (OSError, ValueError, RuntimeError) as error:  # orbax and tensorstore wrap what the system says
                failed = _reason(error)
                with contextlib.suppress(OSError):
                    self._clean()
            if failed is not None:
                # Orbax has closed its event loop, and the writes that the error held or that go on still report to it.
                gc.collect()
                time.sleep(0.5)
        if failed is not None:
            raise UserError(
                f"checkpoint {self.folder / str(step)} cannot be saved: {failed}; what was written before is kept, and "
                "--resume goes on from there"
            )

    def load(self) -> Saved | None:
        """Load the newest undamaged checkpoint. Damaged ones are set aside, with a warning on standard error.

        Returns:
          The checkpoint, or None if the run has not saved one. `facts["records"]` has the positions of the records.

        Raises:
          UserError: all checkpoints are damaged, or the newest undamaged one is of another format or configuration.
        """
        self._clean()
        newest, damaged = self._newest()
        for step, reason in damaged.items():
            say(f"WARNING: checkpoint {self.folder / str(step)} is damaged: {reason}")
        if newest:
            self._set_aside(damaged)
        elif damaged or (self.folder / _SET_ASIDE).exists():
            raise UserError(
                f"no checkpoint in {self.folder} is whole, so the run cannot go on from one; remove that folder to "
                "start the searches again from their beginning"
            )
        return newest

    def _newest(self) -> tuple[Saved | None, dict[int, str]]:
        """Return the newest undamaged checkpoint, and why others are damaged, by their number."""
        damaged: dict[int, str] = {}
        newest: Saved | None = None
        for step in sorted(self._steps(), reverse=True):
            try:
                expected = self._verify(step)
                newest = newest or self._read(step, expected)
            except Damaged as reason:
                damaged[step] = str(reason)
            except OSError as error:
                damaged[step] = f"{error.filename}: {error.strerror}"
        return newest, damaged

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        """Move damaged checkpoints out of the way."""
        if damaged:
            self.close()  # orbax remembers the steps that it has seen
        aside = self.folder / _SET_ASIDE
        for step in damaged:
            aside.mkdir(exist_ok=True)
            place = aside / f"{step}-{len(list(aside.iterdir()))}"
            (self.folder / str(step)).rename(place)
            say(f"WARNING: it was set aside as {place}; the newest whole one is used")

    def close(self) -> None:
        """Release what orbax holds."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _orbax(self) -> orbax.checkpoint.CheckpointManager:
        """Return orbax's manager of the folder."""
        if self._manager is None:
            import orbax.checkpoint as ocp

            options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, save_root_metadata=False)
            self._manager = ocp.CheckpointManager(self._path(), options=options)
        return self._manager

    def _path(self) -> Path:
        """Return the path of the folder in characters of UTF-8, which tensorstore needs."""
        path = self.folder.absolute()
        try:
            str(path).encode()
        except UnicodeEncodeError:
            self._descriptor = os.open(path, os.O_RDONLY)
            return Path(f"/proc/self/fd/{self._descriptor}")
        return path

    def _write(self, step: int, content: Saved) -> None:
        """Have orbax write a checkpoint."""
        import orbax.checkpoint as ocp

        arguments = {"arrays": ocp.args.StandardSave(content.arrays), "facts": ocp.args.JsonSave(content.facts)}
        self._orbax().save(step, args=ocp.args.Composite(**arguments), force=True)

    def _mark(self, step: int) -> Path:
        return self.folder / f"{step}.saving"

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal()]

    def _clean(self) -> None:
        """Remove what a crash in the middle of saving or removing has left behind."""
        if not self.folder.is_dir():
            return
        shutil.rmtree(self.folder / _REMOVED, ignore_errors=True)
        for mark in self.folder.glob("*.saving"):
            step = self.folder / mark.stem
            if not (step / manifest.NAME).exists() and step.exists():
                shutil.rmtree(step)
            mark.unlink()
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished)

    def _remove(self, last: int) -> None:
        """Remove the checkpoints up to number `last`."""
        removed = self.folder / _REMOVED
        for step in self._steps():
            if step <= last:
                removed.mkdir(exist_ok=True)
                (self.folder / str(step)).rename(removed / str(step))  # at once: a crash leaves no half of it
        shutil.rmtree(removed, ignore_errors=True)

    def _verify(self, step: int) -> JSON:
        """Compare the files of a checkpoint with its manifest.

        Returns:
          The manifest.

        Raises:
          Damaged: the files are not those of the manifest.
          UserError: the checkpoint is of another format or configuration.
        """
        folder = self.folder / str(step)
        expected = manifest.read(folder)
        if expected["format"] != FORMAT:
            raise UserError(f"{folder} has format {expected['format']}; this version reads format {FORMAT}")
        differing = differences(expected["config"], self.directory.config)
        if differing:
            raise UserError(f"{folder} is of another configuration: {differing}")
        manifest.check_files(folder, expected)
        return expected

    def _read(self, step: int, expected: JSON) -> Saved:
        """Return the content of a checkpoint. Raises Damaged if it is not what the manifest says."""
        import orbax.checkpoint as ocp

        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(), facts=ocp.args.JsonRestore())
        try:
            content = self._orbax().restore(step, args=args)
        except (ValueError, KeyError, RuntimeError) as error:
            raise Damaged(f"orbax cannot read it: {error}") from None
        saved = Saved({name: np.asarray(leaf) for name, leaf in content["arrays"].items()}, content["facts"])
        if manifest.checksum(saved) != expected["content"]:
            raise Damaged("the content is not what was saved")
        positions = {name: Position(*position) for name, position in saved.facts.pop("records").items()}
        reason = self.directory.mismatch(positions)
        if reason:
            raise Damaged(f"the record does not go with it: {reason}")
        return Saved(saved.arrays, saved.facts | {"records": positions})


def flat(tree: PyTree, prefix: str) -> dict[str, np.ndarray]:
    """Flatten a pytree into named arrays, as a checkpoint holds them.

    A leaf is named by its path, such as `state.pool.counts`. Random keys are stored as their data, and their name ends
    with their implementation, such as `state.key:threefry2x32`.

    Args:
      tree: a pytree of arrays and typed random keys.
      prefix: what all names begin with.

    Returns:
      The arrays by name.

    Example:
      >>> sorted(flat({"key": jax.random.key(0, impl="threefry2x32"), "n": jnp.int32(3)}, "state"))
      ["state['key']:threefry2x32", "state['n']"]
    """
    leaves, _ = jax.tree.flatten_with_path(tree)
    arrays = {}
    for path, leaf in leaves:
        name = prefix + jax.tree_util.keystr(path)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            name, leaf = f"{name}:{jax.random.key_impl(leaf)}", jax.random.key_data(leaf)
        arrays[name] = np.asarray(leaf)
    return arrays


def rebuilt(template: PyTree, prefix: str, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """Rebuild a pytree from what `flat` has made of it.

    Args:
      template: a pytree of the same structure. Its leaves do not matter; they can be strings, for example.
      prefix: what `flat` was called with.
      arrays: arrays by name. Those whose name does not begin with the prefix are ignored.

    Returns:
      A pytree of the structure of `template`, with the saved arrays and typed random keys as its leaves.

    Raises:
      UserError: an array is missing, or there is one that the template has no leaf for.

    Example:
      >>> arrays = flat({"key": jax.random.key(0), "n": jnp.int32(3)}, "state")
      >>> rebuilt({"key": "any", "n": "any"}, "state", arrays)["n"]
      Array(3, dtype=int32)
    """
    leaves, structure = jax.tree.flatten_with_path(template)
    names = [prefix + jax.tree_util.keystr(path) for path, _ in leaves]
    saved = _leaves(prefix, arrays)
    missing, unexpected = sorted(set(names) - set(saved)), sorted(set(saved) - set(names))
    if missing or unexpected:
        parts = [("missing", missing), ("unexpected", unexpected)]
        words = "; ".join(f"{what} {', '.join(which)}" for what, which in parts if which)
        raise UserError(f"the checkpoint is of another kind of search: {words}")
    return jax.tree.unflatten(structure, [saved[name] for name in names])


def _leaves(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Return the leaves whose names begin with a prefix, by name."""
    leaves = {}
    for name, array in arrays.items():
        path = re.fullmatch(r"((?:[.\[].*?)?)(?::(\w+))?", name.removeprefix(prefix), re.DOTALL)
        if path and name.startswith(prefix):
            data = jnp.asarray(array)
            leaves[prefix + path[1]] = jax.random.wrap_key_data(data, impl=path[2]) if path[2] else data
    return leaves


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the threads of orbax from printing errors that are raised in the main thread as well."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before = [logger.disabled for logger in loggers], threading.excepthook, sys.unraisablehook
    for logger in loggers:
        logger.disabled = True
    threading.excepthook = lambda args: None
    sys.unraisablehook = lambda args: None  # tensorstore's: it reports to an event loop that orbax has closed
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before[0], strict=True):
            logger.disabled = disabled
        threading.excepthook, sys.unraisablehook = before[1:]


def _reason(error: Exception) -> str:
    """Return the message of the operating system, if there is one, and the beginning of the error's text otherwise."""
    text = " ".join(str(error).split())
    quoted = re.search(r"os_error_code='(\d+)'", text)  # tensorstore's
    number = int(quoted[1]) if quoted else getattr(error, "errno", None)
    return os.strerror(number) if number else text[:300]
