"""Where the user's caches are."""

from __future__ import annotations

import functools
import os
import stat
import tempfile
from pathlib import Path

from jaxprl.output import say


def cache_folder() -> Path:
    """Return the folder of the user's caches: answers of language models and compiled code. It is created.

    It is in XDG_CACHE_HOME, if that is an absolute path, otherwise in `.cache` of the home directory. Where there is
    neither, or nothing can be created, it is among the temporary files, and a note is printed once.
    """
    configured = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return _usable(Path(configured) if os.path.isabs(configured) else Path.home() / ".cache")
    except RuntimeError:  # HOME is not set, and the user has no entry with a home
        return _usable(None)


@functools.lru_cache(16)
def _usable(caches: Path | None) -> Path:
    """Return the package's folder among the user's caches, or one among the temporary files."""
    reason = "there is no home directory"
    if caches is not None and caches.is_absolute():
        try:
            (caches / "jaxprl").mkdir(parents=True, exist_ok=True)
            return caches / "jaxprl"
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}"
    folder = _temporary()
    say(f"note: {reason}; caches are in {folder} (XDG_CACHE_HOME can name another place)")
    return folder


def _temporary() -> Path:
    """Return a folder among the temporary files that no other user can write to, if possible the user's earlier one."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"jaxprl-{user}")
    try:
        folder.mkdir(0o700, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="jaxprl-"))
    own = stat.S_ISDIR(state.st_mode) and state.st_uid == user and not state.st_mode & 0o022
    return folder if own else Path(tempfile.mkdtemp(prefix="jaxprl-"))
