"""A lock on a run directory, so that only one process at a time writes to it.

.lock           held through the operating system: when a process is killed, its lock is gone with it
.lock.holder    which process holds the lock, for the message to the next one

The two are separate files because acquiring the lock may empty its file, and Windows lets nobody else read it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path

import filelock

from jaxprl.errors import UserError

LOCK, HOLDER = ".lock", ".lock.holder"


class DirectoryLock:
    """The lock of one run directory. It is exclusive between processes and between objects of one process.

    Args:
      directory: the run directory. It has to exist when the lock is acquired.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        self._lock = filelock.FileLock(directory / LOCK, timeout=0, thread_local=False)

    def acquire(self) -> None:
        """Acquire the lock without waiting for it, and leave a note who holds it.

        Raises:
          UserError: the lock is held by another process, which the message names, or the file system has no locks.
          OSError: a file cannot be written.
        """
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise UserError(f"output directory {self._directory} is in use by {self._holder()}") from None
        except NotImplementedError:
            reason = "its file system has no locks"
            raise UserError(f"output directory {self._directory} cannot be locked: {reason}") from None
        note = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        try:
            (self._directory / HOLDER).write_text(note, encoding="utf-8")
        except BaseException:
            self.release()
            raise

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock.is_locked

    def release(self) -> None:
        """Release the lock. Does nothing if this object does not hold it."""
        if self.held:
            with contextlib.suppress(OSError):
                (self._directory / HOLDER).unlink()
            self._lock.release()

    def _holder(self) -> str:
        """Return the note of the process that holds the lock, in words."""
        try:
            note = (self._directory / HOLDER).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            note = ""  # not written yet, or the lock is being released
        return note or "another process"
