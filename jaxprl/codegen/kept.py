"""Files that any number of processes keep for each other: texts of kernels, and what a compiler made of them.

They lie in the folder of JAX's compilation cache, or in the user's cache folder if JAX has none. A file ends with a
hash of what comes before, so that a damaged one counts as missing, and gets its name when it is complete.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import jax

from jaxprl.caches import cache_folder

PACKAGE = Path(__file__).parents[1]
PARTS = ("codegen", "dsl", "vm", "worlds", "types.py")
"""The files of the package on which the text of a kernel depends."""
_DIGEST = hashlib.sha256().digest_size


def folder() -> Path:
    """Return the folder of the files."""
    configured = jax.config.values.get("jax_compilation_cache_dir")
    return (Path(configured) if configured else cache_folder()) / "kernels"


def name_of(parts: Iterable[str]) -> str:
    """Return the name of a file that depends on some texts, without its ending."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@functools.cache
def version() -> str:
    """Return a hash of what decides the text of a kernel of the package's own tasks: its files, and JAX's version."""
    found = hashlib.sha256(jax.__version__.encode())
    for part in PARTS:
        path = PACKAGE / part
        for file in sorted(path.rglob("*.[pc]*")) if path.is_dir() else [path]:
            if file.suffix in (".py", ".c"):
                found.update(str(file.relative_to(PACKAGE)).encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()


def read(name: str) -> bytes | None:
    """Return what a file holds; None if it is not there or is damaged."""
    try:
        data = (folder() / name).read_bytes()
    except OSError:
        return None
    data, digest = data[:-_DIGEST], data[-_DIGEST:]
    return data if hashlib.sha256(data).digest() == digest else None


def write(name: str, data: bytes) -> None:
    """Write a file; where nothing can be written, nothing is kept, and the next process does the work again."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder(), prefix=name, delete=False) as part:
            part.write(data + hashlib.sha256(data).digest())
        os.replace(part.name, folder() / name)
    except OSError:
        pass
