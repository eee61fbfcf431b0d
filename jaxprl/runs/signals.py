"""Stopping a run by a signal: SIGTERM and SIGINT save a checkpoint and end the process soon."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType

from jaxprl.output import say_at_once

CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
"""Exit codes of a process that was stopped by a signal and can be resumed: EX_TEMPFAIL, and the shell's for SIGINT."""
PATIENCE = 8.0
"""How long, in seconds, the process may take after a signal to finish its current step and to save."""
ECHO = 1.0
"""For how many seconds the same signal counts as the same request. A scheduler signals both a sweep and its run, and
the sweep passes the signal on."""


class StopRequest:
    """A context in which signals ask the process to stop.

    The first signal sets the attribute `signal`; whoever runs the search is expected to look at it after every step, to
    save and to leave the context. A second signal ends the process at once, with 128 + its number as exit code. If the
    context is not left in time, for example because of a long compilation, the process ends with the exit code of the
    first signal and without saving; earlier checkpoints remain.

    Signals are received by a thread, because handlers in Python wait until compiled code returns. The context has to be
    entered in the main thread.

    Args:
      patience: how long, in seconds, the context may be kept after the first signal.

    Attributes:
      signal: the first signal, or None.

    Example:
      >>> with StopRequest() as stop:
      ...     for step in range(3):
      ...         if stop.signal:
      ...             break
    """

    def __init__(self, patience: float = PATIENCE):
        self.patience = patience
        self.signal: signal.Signals | None = None

    def __enter__(self) -> StopRequest:
        self._read, self._write = socket.socketpair()  # on Windows, select waits for nothing else
        self._write.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
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
        self._write.close()  # ends the thread
        self._thread.join()
        self._read.close()

    def _watch(self) -> None:
        """Wait for signals until the context is left."""
        first = self._next(None)
        if first is None:
            return
        self.signal = first
        begun = time.monotonic()
        say_at_once(f"{first.name}: finishing the step at hand and saving; a second signal exits at once")
        try:
            second = self._next(self.patience)
            while second is first and time.monotonic() < begun + ECHO:
                second = self._next(max(begun + self.patience - time.monotonic(), 0))
        except TimeoutError:
            say_at_once(f"the step at hand takes longer than {self.patience:g} s: --resume does it again")
            os._exit(CODES[first])
        if second is not None:
            os._exit(128 + second)

    def _next(self, patience: float | None) -> signal.Signals | None:
        """Wait for the next signal.

        Args:
          patience: how long to wait, in seconds; None for no limit.

        Returns:
          The signal, or None when the context is left.

        Raises:
          TimeoutError: neither has happened in time.
        """
        while select.select([self._read], [], [], patience)[0]:
            byte = self._read.recv(1)
            if not byte:
                return None
            if byte[0] in CODES:
                return signal.Signals(byte[0])
        raise TimeoutError


@contextlib.contextmanager
def stopped_at_once() -> Iterator[None]:
    """A context in which a signal of `CODES` ends the process at once, with its code: there is nothing to be saved.

    A `StopRequest` within it takes its place. KeyboardInterrupt would be no substitute: Python drops it if it is raised
    in a callback of the garbage collector, as JAX has one.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number)
        say_at_once(f"{name.name}: stopped; what is saved is kept")
        os._exit(CODES[name])

    before = {each: signal.signal(each, stop) for each in CODES}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler or signal.SIG_DFL)
