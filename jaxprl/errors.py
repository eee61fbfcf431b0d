"""The exceptions that end a command without a traceback."""

import difflib
from collections.abc import Iterable

MOST_NAMED = 30
"""Names that an error lists."""


class UserError(ValueError):
    """A mistake in what the user gave: a name, a number, a file, a program.

    The message says what was wrong, where, and what is allowed; command lines print it without a traceback.
    """


class Stopped(Exception):
    """A run was told to stop, and has saved what it needs to go on; `code` is the exit code of the process."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a `name` that is not among `known`: it lists them, or those like it if they are many."""
    known = list(known)
    if len(known) > MOST_NAMED:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        return UserError(f"unknown {what} {name!r}, one of {len(known)}; similar ones: {', '.join(near) or 'none'}")
    return UserError(f"unknown {what} {name!r}; known: {', '.join(known)}")
