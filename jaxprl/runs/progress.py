"""The progress line of a run: rewritten in place on a terminal, printed line by line otherwise."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TextIO

from jaxprl.output import say

_TICK = 0.25
"""Seconds between two looks at whether a line is due."""


class Progress:
    """Shows the best return, the programs evaluated, programs per second, the elapsed time, and what is being done.

    On a terminal one line is rewritten. Otherwise a line is printed when the best return has changed, at most once a
    second, when the run has been doing something else for a moment, and at least every `every` seconds. Within the
    context, a thread does so even while the run waits for an answer or a compiler.

    Args:
      stream: where to write; standard error by default.
      every: the longest time between two lines, in seconds.

    Attributes:
      started: when the run has started, on the clock of `time.monotonic`.
      activity: what is being done, in a word.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 10.0):
        self.stream = stream or sys.stderr
        self.live = self.stream is not None and self.stream.isatty()
        self.every = every
        self.started = time.monotonic()
        self.activity = ""
        self._best: float | None = None
        self._evaluated = 0
        self._note = ""
        self._shown_at = float("-inf")
        self._shown: tuple[float | None, str] | None = None
        self._ended = True
        """Whether the latest line has its end."""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if not self._ended:
            say("", stream=self.stream)

    @contextlib.contextmanager
    def doing(self, activity: str) -> Iterator[None]:
        """A context in which the run does something else."""
        before, self.activity = self.activity, activity
        try:
            yield
        finally:
            self.activity = before

    def show(self, best: float | None, evaluated: int, *, note: str = "", final: bool = False) -> None:
        """Show the progress, unless it was shown a moment ago.

        Args:
          best: the best return so far, or None if there is none.
          evaluated: how many programs have been evaluated.
          note: text for the end of the line.
          final: whether this is the last call, which always writes.
        """
        with self._lock:
            self._best, self._evaluated, self._note = best, evaluated, note
            if final:
                self.activity = ""
                self._over.set()  # the thread writes nothing behind the last line
            if final or time.monotonic() - self._shown_at >= self._patience():
                self._write(final=final)

    def _watch(self) -> None:
        """Show the progress whenever it is due, until the context is left."""
        while not self._over.wait(_TICK):
            with self._lock:
                if self._over.is_set():
                    return
                changed = self._shown is None or self.activity != self._shown[1]
                if time.monotonic() - self._shown_at >= (_TICK if changed else self._patience()):
                    self._write()

    def _patience(self) -> float:
        """Return the seconds that have to pass between the latest line and the next one."""
        if self.live:
            return 0.1
        return 1.0 if self._shown is None or self._best != self._shown[0] else self.every

    def _write(self, *, final: bool = False) -> None:
        now = time.monotonic()
        elapsed = now - self.started
        best = "-" if self._best is None else f"{self._best:.4f}"
        doing = f" | {self.activity}" if self.activity else ""
        text = (
            f"best return {best} | {self._evaluated:,} programs | {self._evaluated / max(elapsed, 1e-9):,.0f} "
            f"programs/s | {elapsed:.0f} s{self._note}{doing}"
        )
        self._ended = final or not self.live
        say(f"\r\x1b[K{text}" if self.live else text, end="\n" if self._ended else "", stream=self.stream)
        self._shown_at, self._shown = now, (self._best, self.activity)
