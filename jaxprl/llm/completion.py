"""Reads the body of a chat completion; servers that follow only half of the format are expected."""

from __future__ import annotations

import contextlib
import json
import re
from typing import NamedTuple

from jaxprl.llm import server_errors
from jaxprl.llm.server_errors import ServerError
from jaxprl.llm.source import Usage
from jaxprl.types import JSON

_ELSEWHERE = (
    "reasoning", "reasoning_content", "reasoning_details", "thinking", "refusal", "tool_calls", "function_call",
    "audio",
)  # fmt: skip
"""Fields of a message in which servers put text that is no answer."""
_NO_ANSWER = re.compile("reason|think|thought|refusal|tool", re.IGNORECASE)
"""Matches types of parts of a content that are no answer."""
_STREAM = re.compile(rb"\s*(?:data|event|id|retry)?:")
"""Matches the beginning of a stream of server-sent events."""

CUT_OFF = ("length", "max_tokens", "max_output_tokens", "model_length")
"""What servers call the end of an answer at the limit of tokens."""


class Unusable(Exception):
    """A body without an answer.

    Args:
      reason: one of `source.FAILURES`.
      detail: what the body is instead.
      error: the error, if the body says that there was one.
      lasting: whether the same request gets no better answer later.
    """

    def __init__(self, reason: str, detail: str, error: ServerError | None = None, *, lasting: bool = False):
        super().__init__(detail)
        self.reason, self.error, self.lasting = reason, error, lasting


class Choice(NamedTuple):
    """One answer."""

    text: str
    """The text; empty if the choice has none."""
    finish: str | None
    """Why the model stopped, in the server's words."""
    elsewhere: str = ""
    """The fields that have a text instead, like "reasoning_content", if this choice has none."""

    def why_empty(self) -> str:
        """Return in words why the choice has no text."""
        words = f"finish_reason {self.finish}"
        words += f", text only in {self.elsewhere}" if self.elsewhere else ""
        return f"{words}: --max-tokens was too small" if str(self.finish).lower() in CUT_OFF else words


class Completion(NamedTuple):
    """The content of one body."""

    choices: tuple[Choice, ...]
    """The answers, at least one."""
    usage: Usage | None
    """The tokens, if the server reports them."""
    errors: tuple[ServerError, ...] = ()
    """The errors that stand in the place of further answers."""


def read(body: bytes) -> Completion:
    """Parse the body of a response.

    Args:
      body: the bytes as they arrived.

    Returns:
      The answers and the tokens.

    Raises:
      Unusable: if the body holds no answer. No other exception is raised, whatever the body is.

    Example:
      >>> read(b'{"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}').choices
      (Choice(text='Hello', finish='stop', elsewhere=''),)
    """
    try:
        value = json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as mistake:
        if _STREAM.match(body):
            raise _stream(body) from None
        raise Unusable("not json", f"{type(mistake).__name__}; {_beginning(body)}") from None
    error = server_errors.from_json(value) if isinstance(value, dict | list) else None
    if isinstance(value, list) and error:
        raise _unusable(error)
    if not isinstance(value, dict):
        raise Unusable("not json", f"not an object; {_beginning(body)}")
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        if error and (error.message or error.status or server_errors.says_loading(error, unavailable=False)):
            raise _unusable(error)
        raise Unusable("no choices", f"it begins {body[:200]!r}")
    parsed = [_error(choice) or _choice(choice) for choice in choices]
    answers = tuple(each for each in parsed if isinstance(each, Choice))
    errors = tuple(each for each in parsed if isinstance(each, ServerError))
    if value.get("error") and error and not any(answer.text for answer in answers):
        raise _unusable(error)
    if not answers:
        raise _unusable(errors[0])
    return Completion(answers, _usage(value.get("usage")), errors)


def _stream(body: bytes) -> Unusable:
    """Return what is wrong with a stream of events: the error that it holds, or else that it is one."""
    for event in re.findall(rb"^data:(.*)$", body, re.MULTILINE):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(event.decode(errors="replace"))
            error = server_errors.from_json(value) if isinstance(value, dict) else None
            if error and error.message and not value.get("choices"):
                return _unusable(error)
    return Unusable("not json", f"it streams, though it was not asked to; {_beginning(body)}", lasting=True)


def _unusable(error: ServerError) -> Unusable:
    return Unusable("server error", error.message, error)


def _beginning(body: bytes) -> str:
    """Return in words how a body begins; of a web page, its title."""
    if body.lstrip().startswith(b"<"):
        return (
            f"a web page ({server_errors.page_text(body[:10_000].decode(errors='replace'))[:80]}): is --base-url right?"
        )
    return f"it begins {body[:80]!r}"


def _error(value: object) -> ServerError | None:
    """Return the error that stands in the place of an answer, or None."""
    choice: JSON = value if isinstance(value, dict) else {}
    if choice.get("error"):
        return server_errors.from_json({"error": choice["error"]}) or ServerError("")
    return ServerError("finish_reason error") if choice.get("finish_reason") == "error" else None


def _choice(value: object) -> Choice:
    choice: JSON = value if isinstance(value, dict) else {}
    message: JSON = choice["message"] if isinstance(choice.get("message"), dict) else {}
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]  # some servers send the content in parts
    text = "".join(map(_part, parts))
    finish = choice.get("finish_reason")
    answer = Choice(text if text.strip() else "", finish if isinstance(finish, str) else None)
    return answer if answer.text else answer._replace(elsewhere=_elsewhere(choice, message, parts))


def _part(part: object) -> str:
    """Return the text of a part of a content; thoughts and refusals are none."""
    if isinstance(part, dict):
        thought = part.get("thought") or _NO_ANSWER.search(_type(part))
        part = None if thought else part.get("text")
    return part if isinstance(part, str) else ""


def _elsewhere(choice: JSON, message: JSON, parts: list[object]) -> str:
    """Return the names of the fields that have a text in the place of the content."""
    names = [name for name in _ELSEWHERE if _is_filled(message.get(name))]
    names += [name for name in ("text", "delta") if _is_filled(choice.get(name))]
    types = dict.fromkeys(_type(part) for part in parts if isinstance(part, dict) and _type(part))
    return ", ".join([*names, *(f"a part of type {each}" for each in types)])


def _type(part: JSON) -> str:
    """Return the type of a part of a content, or an empty text if it names none."""
    kind = part.get("type")
    return kind[:40] if isinstance(kind, str) else ""


def _is_filled(value: object) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)


def _usage(value: object) -> Usage | None:
    """Return the tokens that a body reports. Some servers count those of thoughts in `total_tokens` alone."""
    usage: JSON = value if isinstance(value, dict) else {}
    prompt, completion, total = (
        number if type(number) is int and 0 <= number < 2**53 else None
        for number in map(usage.get, ("prompt_tokens", "completion_tokens", "total_tokens"))
    )
    if prompt is None or completion is None:
        return None
    return Usage(prompt, max(completion, (total or 0) - prompt))
