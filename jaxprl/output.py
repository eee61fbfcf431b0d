"""What is said on standard output and standard error. Nothing that is said ends a program or keeps it from saving."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

OUTPUT, ERROR = "standard output", "standard error"
LOST: dict[str, str] = {}
"""The streams on which something could not be written, by name, and why."""
NO_READER = os.strerror(errno.EPIPE)
"""The reason in `LOST` if the reader has gone."""
PATIENCE = 2.0
"""How long, in seconds, a program that has something to save waits for a reader that is too slow."""
_PIECE = select.PIPE_BUF if hasattr(select, "PIPE_BUF") else 512
"""The number of bytes that a pipe with room accepts without blocking."""


def say(text: str, *, end: str = "\n", stream: TextIO | None = None) -> None:
    """Write a text at once. What cannot be written is dropped (`LOST`); characters that the stream lacks are escaped.

    Args:
      text: the text.
      end: what follows it.
      stream: where to write; standard error by default.

    Example:
      >>> import io
      >>> ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
      >>> say("a wall, \\u2588", stream=ascii_only)
      >>> ascii_only.buffer.getvalue()
      b'a wall, \\\\u2588\\n'
    """
    stream = stream or sys.stderr
    if stream is None:  # it was closed when the process began
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write((text + end).encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        _lose(_name(stream), error)
    except ValueError:  # it is closed by now
        _lose(_name(stream), OSError(errno.EBADF, os.strerror(errno.EBADF)))


def say_at_once(text: str) -> None:
    """Write a line to standard error, even while another thread holds the lock of `sys.stderr` or waits in it."""
    if sys.__stderr__ is None and not isinstance(sys.stderr, _Text):
        return  # it was closed when the process began; by now its descriptor can be that of any file
    _Descriptor(2, ERROR, patience=0.0).write(f"{text}\n".encode(errors="backslashreplace"))


def take_over(patience: float | None) -> None:
    """Let no write to the standard streams of this process fail, whoever writes, the interpreter's end included.

    What cannot be written is dropped (`LOST`). Descriptors that are closed become those of the null device, so that no
    file gets their numbers. Streams that something else stands for already (a test, a notebook) stay as they are.

    Args:
      patience: how long, in seconds, to wait for a reader that is too slow before the text is dropped; None for ever.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)  # can be inherited, which what `open` returns cannot
            if null != number:
                os.close(null)
            else:
                os.set_inheritable(number, True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _Text(sys.stdout, _Descriptor(1, OUTPUT, patience))
    if sys.stderr is sys.__stderr__:
        sys.stderr = _Text(sys.stderr, _Descriptor(2, ERROR, patience), by_line=True)


class _Descriptor(io.RawIOBase):
    """An open descriptor of the process that drops what cannot be written.

    Args:
      number: the descriptor.
      name: its name in `LOST`.
      patience: as for `take_over`.
    """

    def __init__(self, number: int, name: str, patience: float | None):
        self.number, self.name, self.patience = number, name, patience
        self.stalled = False
        """Whether the reader was too slow the last time; then it is not waited for again."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.number

    def isatty(self) -> bool:
        return os.isatty(self.number)

    def write(self, data: ReadableBuffer, /) -> int:
        """Write the beginning of some bytes, or drop them, and return how many are dealt with."""
        piece = memoryview(data).cast("B")
        try:
            if not self._has_room():
                raise TimeoutError(errno.ETIMEDOUT, "its reader does not read")
            return os.write(self.number, piece[:_PIECE])
        except BlockingIOError:  # another process has made it a descriptor that does not wait
            return 0
        except OSError as error:
            _lose(self.name, error)
            return len(piece)

    def _has_room(self) -> bool:
        """Wait until something can be written, and return whether it can."""
        if os.name == "nt":  # where only sockets can be waited for
            return True
        patience = 0.0 if self.stalled else self.patience
        self.stalled = not select.select([], [self.number], [], patience)[1]
        return not self.stalled


class _Text(io.TextIOWrapper):
    """The text written to a descriptor, as the interpreter's own stream would write it; it escapes what that lacks.

    Args:
      before: the interpreter's own stream; None if its descriptor was closed.
      descriptor: the descriptor.
      by_line: whether every line is written at once.
    """

    def __init__(self, before: TextIO | None, descriptor: _Descriptor, *, by_line: bool = False):
        unbuffered = isinstance(before, io.TextIOWrapper) and before.write_through
        super().__init__(
            io.BufferedWriter(descriptor),
            encoding=before.encoding if before else "utf-8",
            errors="backslashreplace",
            line_buffering=by_line or unbuffered or descriptor.isatty(),
        )


def _lose(name: str | None, error: OSError) -> None:
    """Note that something could not be written to a standard stream, unless it is another stream (None)."""
    if name is not None:
        LOST.setdefault(name, error.strerror or str(error))


def _name(stream: TextIO) -> str | None:
    return ERROR if stream is sys.stderr else OUTPUT if stream is sys.stdout else None
