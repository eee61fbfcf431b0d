"""Reads the body of a chat completion; servers that follow only half of the format are expected."""

from __future__ import annotations

import json
from typing import NamedTuple

from jaxprl.llm.source import Usage
from jaxprl.types import JSON


class Unusable(Exception):
    """A body without an answer. `reason` is one of `source.FAILURES`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


class Choice(NamedTuple):
    """One answer."""

    text: str
    """The text; empty if the choice has none."""
    finish: str | None
    """Why the model stopped, in the server's words."""


class Completion(NamedTuple):
    """The content of one body."""

    choices: tuple[Choice, ...]
    """The answers, at least one."""
    usage: Usage | None
    """The tokens, if the server reports them."""


def read(body: bytes) -> Completion:
    """Parse the body of a response.

    Args:
      body: the bytes as they arrived.

    Returns:
      The answers and the tokens.

    Raises:
      Unusable: if the body holds no answer. No other exception is raised, whatever the body is.

    Example:
      >>> read(b'{"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}')
      Completion(choices=(Choice(text='Hello', finish='stop'),), usage=None)
    """
    try:
        value = json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        raise Unusable("not json", f"{type(error).__name__}; it begins {body[:80]!r}") from None
    if not isinstance(value, dict):
        raise Unusable("not json", f"not an object; it begins {body[:80]!r}")
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        reason = "server error" if value.get("error") else "no choices"
        raise Unusable(reason, f"it begins {body[:200]!r}")
    return Completion(tuple(map(_choice, choices)), _usage(value.get("usage")))


def _choice(value: object) -> Choice:
    choice: JSON = value if isinstance(value, dict) else {}
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):  # some servers send the content in parts
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    finish = choice.get("finish_reason")
    return Choice(content if isinstance(content, str) else "", finish if isinstance(finish, str) else None)


def _usage(value: object) -> Usage | None:
    usage: JSON = value if isinstance(value, dict) else {}
    tokens = [usage.get("prompt_tokens", -1), usage.get("completion_tokens", -1)]
    reported = all(type(number) is int and 0 <= number < 2**53 for number in tokens)
    return Usage(*tokens) if reported else None
