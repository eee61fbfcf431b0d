"""Reads what servers say instead of an answer, in the many forms that they have for it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from jaxprl.types import JSON

_MOST = 5000
"""The most characters of a message that are read."""
_DEPTH = 4
"""How deep objects in objects are read."""
_MESSAGES = (
    "message", "msg", "detail", "details", "error", "errors", "error_message", "error_msg", "error_description",
    "description", "reason", "title", "faultstring", "fault",
)  # fmt: skip
"""Fields that hold a message, the most telling first."""
_CODES = ("code", "status", "state", "statusCode", "status_code", "error_code", "type", "error_type")
"""Fields that hold a code, the most telling first."""
_LOADING = re.compile(
    r"\b(?:re|down)?loading\b|\bbeing (?:(?:re|down)?loaded|initiali[sz]ed|started)\b|\binitiali[sz]ation in progress\b"
    r"|\b(?:warm|start|spinn|scal|boot|wak)ing up\b|\b(?:starting|booting|initiali[sz]ing|cold start)\b"
    r"|\bnot (?:yet )?(?:ready|loaded yet)\b",
    re.IGNORECASE,
)
"""Matches messages of a server that is loading the model."""
_UNAVAILABLE = re.compile(
    r"\b(?:pull|provision|warm|prepar|deploy|start|scal|wak|schedul|resum|compil)ing\b|\bbeing \w+ed\b"
    r"|\b(?:warm|start)[- ]?up\b|\binitiali[sz]ation\b|\bin progress\b|\bwait(?:ing)? (?:for|until|while)\b"
    r"|\bnot (?:loaded|healthy|started)\b|\byet\b",
    re.IGNORECASE,
)
"""Matches messages of such a server that could mean something else if they came with another status than 503."""
_LOAD = r"(?:be )?(?:(?:re|down)?load|start|initiali[sz]|boot|find|open|allocat|pull|creat)"
_IN_VAIN = re.compile(
    rf"\bfail|\b(?:error|exception)\b[\w\s]{{0,30}}\b{_LOAD}|\b(?:unable to|could(?: not|n't)|can(?:not|'t)) {_LOAD}"
    r"|\bout of memory\b|\b(?:crash|abort|corrupt)",
    re.IGNORECASE,
)
"""Matches messages of a server that has tried to load a model in vain. Gateways write "Error: " before any message."""


class ServerError(NamedTuple):
    """An error in a server's words."""

    message: str
    """What the server says, possibly nothing."""
    codes: tuple[str, ...] = ()
    """Its codes and types, like "insufficient_quota"."""
    status: int | None = None
    """The HTTP status that its code stands for, if it is one of an error."""
    parameter: str = ""
    """The parameter that it is about, if a field names one."""


def from_json(value: object) -> ServerError | None:
    """Read an error from JSON.

    Args:
      value: the whole body, or the part that stands for an error.

    Returns:
      The error; None if the value has none of the fields in which servers put it.

    Example:
      >>> from_json({"error": "Model not loaded", "error_type": "validation"})
      ServerError(message='Model not loaded', codes=('validation',), status=None, parameter='')
      >>> from_json({"object": "error", "message": "busy", "code": 503}).status
      503
    """
    if isinstance(value, str):
        return ServerError(value.strip()[:_MOST]) if value.strip() else None
    if isinstance(value, list):
        return next(filter(None, map(from_json, value[:3])), None)
    if not isinstance(value, dict):
        return None
    inner = value.get("error") or value.get("errors") or value.get("fault")
    parts: list[JSON] = [part for part in (_first(inner), value) if isinstance(part, dict)]
    message = _text(inner) or _text(value)
    if raw := next((_text(_field(part, "metadata", "raw")) for part in parts if "metadata" in part), ""):
        message = f"{message} ({raw})"  # OpenRouter quotes the provider
    codes = [str(part[name]) for part in parts for name in _CODES if type(part.get(name)) in (int, str)]
    if not message and not codes:
        return None
    parameters = [part["param"] for part in parts if isinstance(part.get("param"), str)]
    return ServerError(message[:_MOST], tuple(codes), _status(codes), parameters[0] if parameters else "")


def says_loading(error: ServerError, *, unavailable: bool) -> bool:
    """Whether a server says that it is still loading the model.

    Args:
      error: what it says.
      unavailable: whether its status is 503, Service Unavailable.

    Example:
      >>> says_loading(ServerError("Error: model is still loading"), unavailable=False)
      True
      >>> says_loading(ServerError("Error loading model"), unavailable=True)
      False
    """
    text = " ".join((error.message, *error.codes)).replace("_", " ")
    says = _LOADING.search(text) or (unavailable and _UNAVAILABLE.search(text))
    return bool(says) and not _IN_VAIN.search(text)


def from_body(body: bytes) -> ServerError:
    """Read an error from the body of a response with an error status: JSON, text or a web page.

    Example:
      >>> from_body(b"<html><head><title>502 Bad Gateway</title></head></html>").message
      '502 Bad Gateway'
    """
    text = body[: 2**20].decode("utf-8-sig", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ServerError(page_text(text))
    return from_json(value) or ServerError("" if value in ({}, [], None, "") else text.strip()[:_MOST])


def page_text(text: str) -> str:
    """Return the title of a web page or, if it has none, its text; other text is returned in one line."""
    text = text[:10_000]
    if text.lstrip().startswith("<"):
        title = re.search(r"<title[^>]*>(.*?)</title", text, re.IGNORECASE | re.DOTALL)
        without = re.sub(r"(?is)<(script|style).*?</\1\s*>|<[^>]*>", " ", text)
        text = html.unescape(title[1] if title and title[1].strip() else without)
    return " ".join(text[:_MOST].split())


def _first(value: object) -> object:
    return next(iter(value), None) if isinstance(value, list) else value


def _field(value: object, *names: str) -> object:
    """Return a field of objects in objects, or None."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(value: object, depth: int = _DEPTH) -> str:
    """Return the message in a value: a text, an object with a message, or a list of them."""
    if isinstance(value, str):
        return value.strip()[:_MOST]
    if isinstance(value, list) and depth:
        return "; ".join(filter(None, (_text(each, depth - 1) for each in value[:5])))
    if not isinstance(value, dict) or not depth:
        return ""
    message = next(filter(None, (_text(value.get(name), depth - 1) for name in _MESSAGES)), "")
    place = value.get("loc")  # FastAPI's place of a mistake, like ["body", "seed"]
    return f"{'.'.join(map(str, place[:9]))}: {message}" if message and isinstance(place, list) else message


def _status(codes: list[str]) -> int | None:
    """Return the first code that is the HTTP status of an error."""
    return next((int(code) for code in codes if re.fullmatch(r"[45]\d\d", code)), None)
