"""Exceptions that end a command without a traceback."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator

MOST_NAMED = 30
"""How many names an error lists at most."""


class UserError(ValueError):
    """A user's mistake in a name, a number, a file or a program.

    The message says what is wrong, where, and what is allowed. The command line prints it without a traceback.

    Example:
      >>> from jaxprl.worlds.make import make
      >>> try:
      ...     make("DoorKay")
      ... except UserError as error:
      ...     print(error)
      unknown task 'DoorKay', one of 90; similar ones: DoorKey, RedBlueDoor, ...
    """


class MissingPackage(UserError):
    """A package that is needed is not installed. The message names it and says how to install it."""


@contextlib.contextmanager
def needed_by(what: str, *, extra: str = "") -> Iterator[None]:
    """Turn a failure to import a package, in a `with` block, into a MissingPackage error.

    Args:
      what: what needs the package.
      extra: the extra of jaxprl that installs it, if there is one.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package == "jaxprl":  # our own fault
            raise
        source = f"'jaxprl[{extra}]'" if extra else package
        how = f"the package {package}: pip install {source}" if package else f"what cannot be imported: {error}"
        raise MissingPackage(f"{what} needs {how}") from None


class Stopped(Exception):
    """A run was asked to stop and has saved what it needs to go on. `code` is the exit code of the process."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for an unknown name.

    Args:
      what: what the name is a name of.
      name: the unknown name.
      known: the known names. The message lists them or, if there are many, only those that are similar.
    """
    known = list(known)
    if len(known) > MOST_NAMED:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        return UserError(f"unknown {what} {name!r}, one of {len(known)}; similar ones: {', '.join(near) or 'none'}")
    return UserError(f"unknown {what} {name!r}; known: {', '.join(known)}")
