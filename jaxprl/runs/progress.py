"""The progress line of a run: rewritten in place on a terminal, printed line by line otherwise."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Shows the best return, the programs evaluated, programs per second and the elapsed time.

    On a terminal one line is rewritten. Otherwise a line is printed when the best return has changed, at most once a
    second, and at least every `every` seconds.

    Args:
      stream: where to write; standard error by default.
      every: the longest time between two lines, in seconds.

    Attributes:
      started: when the run has started, on the clock of `time.monotonic`.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 10.0):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.every = every
        self.started = time.monotonic()
        self.shown_at = float("-inf")
        self.shown_best: float | None = None

    def show(self, best: float | None, evaluated: int, *, note: str = "", final: bool = False) -> None:
        """Show the progress, unless it was shown a moment ago.

        Args:
          best: the best return so far, or None if there is none.
          evaluated: how many programs have been evaluated.
          note: text for the end of the line.
          final: whether this is the last call, which always writes.
        """
        now = time.monotonic()
        patience = 0.1 if self.live else 1.0 if best != self.shown_best else self.every
        if now - self.shown_at < patience and not final:
            return
        elapsed = now - self.started
        text = (
            f"best return {'-' if best is None else f'{best:.4f}'} | {evaluated:,} programs | "
            f"{evaluated / max(elapsed, 1e-9):,.0f} programs/s | {elapsed:.0f} s{note}"
        )
        if self.live:
            self.stream.write(f"\r\x1b[K{text}" + ("\n" if final else ""))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()
        self.shown_at, self.shown_best = now, best
