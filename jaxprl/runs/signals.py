"""SIGTERM and SIGINT: the run ends at the next whole step, or soon in any case."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from types import TracebackType

CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
"""Exit codes of a run that was told to stop and can be resumed: EX_TEMPFAIL, and the shell's for SIGINT."""
PATIENCE = 8.0
"""Seconds that the step at hand and its saving may take after a signal."""
ECHO = 1.0
"""Seconds within which the same signal again is the same request: a scheduler signals a sweep and its run, and the
sweep passes the signal on."""


class StopRequest:
    """Context in which the first signal sets `signal` and the second ends the process at once, with 128 + its number.

    The same signal again within `ECHO` is no second one. If the context is not left within `PATIENCE` after the first
    signal (a long compilation), the process ends with the signal's code and without saving: what was saved before
    stands. A thread takes the signals, since Python's own handlers wait for compiled code to return. To be entered in
    the main thread.
    """

    def __init__(self, patience: float = PATIENCE):
        self.patience = patience
        self.signal: signal.Signals | None = None

    def __enter__(self) -> StopRequest:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._handlers = {each: signal.signal(each, lambda number, frame: None) for each in CODES}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each, handler in self._handlers.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write)  # ends the thread
        self._thread.join()
        os.close(self._read)

    def _watch(self) -> None:
        first = self._next(None)
        if first is None:
            return
        _say(f"{first.name}: finishing the step at hand and saving; a second signal exits at once")
        self.signal = first
        begun = time.monotonic()
        try:
            second = self._next(self.patience)
            while second is first and time.monotonic() < begun + ECHO:
                second = self._next(max(begun + self.patience - time.monotonic(), 0))
        except TimeoutError:
            _say(f"the step at hand takes longer than {self.patience:g} s: --resume does it again")
            os._exit(CODES[first])
        if second is not None:
            os._exit(128 + second)

    def _next(self, patience: float | None) -> signal.Signals | None:
        """Return the next signal, None when the context is left. Raises TimeoutError."""
        while select.select([self._read], [], [], patience)[0]:
            byte = os.read(self._read, 1)
            if not byte:
                return None
            if byte[0] in CODES:
                return signal.Signals(byte[0])
        raise TimeoutError


def _say(message: str) -> None:
    """Write to standard error, even while the main thread holds its lock."""
    os.write(2, f"{message}\n".encode())
