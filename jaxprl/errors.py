"""The one exception that means "you asked for something that cannot be done"."""


class UserError(ValueError):
    """A mistake in what the user gave: a name, a number, a file, a program.

    The message says what was wrong, where, and what is allowed; command lines print it without a traceback.
    """


def unknown(what: str, name: str, known) -> UserError:
    """Return the error for a `name` that is not among `known`, which it lists."""
    return UserError(f"unknown {what} {name!r}; known: {', '.join(known)}")
