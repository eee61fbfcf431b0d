"""The manifest of a checkpoint: a file with the checksums of all others, so that damage does not go unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxprl.runs.record import sync, write_whole
from jaxprl.types import JSON

NAME = "manifest"


class Saved(NamedTuple):
    """The content of a checkpoint."""

    arrays: dict[str, np.ndarray]
    facts: JSON


class Damaged(Exception):
    """A checkpoint is not what was saved."""


def write(folder: Path, content: Saved, *, format: int, config: JSON) -> None:
    """Wait until the files of a checkpoint are on the disk, and write its manifest.

    Args:
      folder: the folder of the checkpoint.
      content: what its files hold.
      format: version of the format.
      config: configuration of the run.
    """
    files = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            data = file.read_bytes()
            files[file.relative_to(folder).as_posix()] = [len(data), _sha256(data)]
            sync(file)
        sync(Path(parent))
    text = json.dumps({"format": format, "config": config, "content": checksum(content), "files": files}, indent=1)
    write_whole(folder / NAME, f"{_sha256(text.encode())}\n{text}")
    sync(folder.parent)


def read(folder: Path) -> JSON:
    """Read a manifest.

    Args:
      folder: the folder of a checkpoint.

    Returns:
      The entries `format`, `config`, `content` (a checksum) and `files` (sizes and checksums by name).

    Raises:
      Damaged: there is no manifest, or it is not what was written.
    """
    try:
        expected, _, text = (folder / NAME).read_bytes().partition(b"\n")
    except FileNotFoundError:
        raise Damaged(f"{NAME} is missing") from None
    if expected != _sha256(text).encode():
        raise Damaged(f"{NAME} has another content")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Damaged(f"{NAME} is not JSON") from None


def check_files(folder: Path, manifest: JSON) -> None:
    """Compare the files of a checkpoint with its manifest.

    Raises:
      Damaged: a file is missing or is not what was written.
    """
    for name, (size, sha256) in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise Damaged(f"{name} is missing")
        if file.stat().st_size != size:
            raise Damaged(f"{name} has {file.stat().st_size} bytes instead of {size}")
        if _sha256(file.read_bytes()) != sha256:
            raise Damaged(f"{name} has another content")


def checksum(content: Saved) -> str:
    """Return a checksum of the facts and of the names, types, shapes and bytes of the arrays."""
    digest = hashlib.sha256()
    for name, array in sorted(content.arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(json.dumps(content.facts, sort_keys=True).encode())
    return digest.hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
