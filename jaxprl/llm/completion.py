"""What the body of a chat completion holds; servers that keep only half of the format are expected."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from jaxprl.llm.source import Usage


class Unusable(Exception):
    """A body without an answer: `reason` is one of `source.FAILURES`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


class Choice(NamedTuple):
    """One answer; its text is empty if it has none."""

    text: str
    finish: str | None


class Completion(NamedTuple):
    """The answers in one body, at least one, and the tokens if they are told."""

    choices: tuple[Choice, ...]
    usage: Usage | None


def read(body: bytes) -> Completion:
    """Return what a body holds. Raises Unusable, and nothing else, if that is no answer."""
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


def _choice(value: Any) -> Choice:
    value = value if isinstance(value, dict) else {}
    message = value.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):  # the parts of a message
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    finish = value.get("finish_reason")
    return Choice(content if isinstance(content, str) else "", finish if isinstance(finish, str) else None)


def _usage(value: Any) -> Usage | None:
    value = value if isinstance(value, dict) else {}
    tokens = [value.get("prompt_tokens"), value.get("completion_tokens")]
    told = all(type(number) is int and 0 <= number < 2**53 for number in tokens)
    return Usage(*tokens) if told else None
