"""The line that says how a run is going: live on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Shows best return, programs evaluated, programs/s and elapsed time.

    On a terminal the line is rewritten; otherwise a new one is printed when the best return has changed, at most one
    a second, and at least every `every` seconds.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 10.0):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.every = every
        self.started = time.monotonic()
        self.shown_at = float("-inf")
        self.shown_best: float | None = None

    def show(self, best: float | None, evaluated: int, *, note: str = "", final: bool = False) -> None:
        """Show how it is going: `best` return so far, programs `evaluated`, and a `note`."""
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
