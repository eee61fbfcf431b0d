"""How a language model is asked: where, with what parameters, how patiently."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from jaxprl.errors import UserError
from jaxprl.llm.source import Messages

OPENAI = "https://api.openai.com/v1"
MOST_AT_A_TIME = 128
"""Answers that one request asks for at most: OpenAI's limit for n."""
_LIMITS: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2), "top_p": (0, 1), "max_tokens": (1, 2**31), "deadline": (0.001, 10**7), "retries": (0, 1000),
    "backoff": (0, 3600), "most_bytes": (1, 2**31), "at_once": (1, 1000),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """A server, a model, and how it is asked. The key is no part of it: it comes from OPENAI_API_KEY alone."""

    model: str
    base_url: str = OPENAI
    """Of any server with OpenAI's chat completions; mostly it ends in /v1."""
    temperature: float | None = 1.0
    """This and the next three: None leaves it to the server."""
    top_p: float | None = 1.0
    seed: int | None = None
    max_tokens: int | None = None
    """Of one answer."""
    deadline: float = 120.0
    """Seconds that a request takes at most with all its attempts, from its first one on; or from the last answer to
    another request, if that is later, since a server can take one after the other."""
    retries: int = 5
    """Further attempts for a request that may be answered later."""
    backoff: float = 0.5
    """Seconds before the second attempt, doubled for each further one and drawn at random from the upper half."""
    most_bytes: int = 2**26
    """Of one response."""
    at_once: int = 8
    """Requests that go on at the same time."""

    def __post_init__(self) -> None:
        """Raise UserError for what cannot be meant."""
        if not self.model:
            raise UserError("no model named")
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UserError(f"{name} {value}: expected {least:g} to {most:g}")
        try:
            address = urllib.parse.urlsplit(self.base_url)
            fits = address.scheme in ("http", "https") and bool(address.hostname) and (address.port or 1) > 0
        except ValueError:
            fits = False
        if not fits or re.search(r"[\s\x00-\x1f]", self.base_url):
            raise UserError("base URL: expected an address like http://localhost:8000/v1")
        if address.username or address.password or address.query or address.fragment:
            raise UserError("base URL: expected an address alone; a key goes into OPENAI_API_KEY")

    @property
    def host(self) -> str:
        return urllib.parse.urlsplit(self.base_url).hostname or ""

    @property
    def needs_key(self) -> bool:
        return self.host == "openai.com" or self.host.endswith(".openai.com")

    def request(self) -> dict[str, Any]:
        """Return what has a say in the answers, but for the messages: the cache keeps answers by it."""
        names = ("model", "temperature", "top_p", "seed", "max_tokens")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class Parameters:
    """The parameters that a model takes, as far as its server's refusals have told."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.changed: dict[str, str] = {}
        """What became of parameters that were refused, by their names."""
        self.most = MOST_AT_A_TIME
        """Answers that one request gives at most."""
        self.guessed = False
        """Whether nobody has said that it is one: a request was refused, and n may have been the reason."""

    def sent(self, messages: Messages, number: int, named: str) -> dict[str, Any]:
        """Return the body of a request for `number` answers.

        Requests with a seed each have one of their own, drawn from it and what they are `named`: with the same seed a
        server gives the same answer.
        """
        body = {name: value for name, value in self.settings.request().items() if self.changed.get(name) != "dropped"}
        if "seed" in body:
            digest = hashlib.sha256(json.dumps([body["seed"], named]).encode()).digest()
            body["seed"] = int.from_bytes(digest[:4], "big") >> 1
        if "max_tokens" in body and "max_tokens" in self.changed:
            body["max_completion_tokens"] = body.pop("max_tokens")
        if number > 1:
            body["n"] = number
        return {**body, "messages": [{key: _encodable(text) for key, text in each.items()} for each in messages]}

    def acquit(self) -> None:
        """Send n again if it was only guessed that it is refused, since without it nothing is better."""
        if self.guessed:
            self.most, self.guessed = MOST_AT_A_TIME, False
            del self.changed["n"]

    def refuse(self, name: str, *, guessed: bool = False) -> None:
        """Do without a parameter from now on; max_tokens gets its newer name first."""
        if name == "n":
            self.guessed = guessed
            self.most, self.changed["n"] = 1, "one answer a request"
        elif name == "max_tokens":
            self.changed[name] = "sent as max_completion_tokens"
        else:
            self.changed["max_tokens" if name == "max_completion_tokens" else name] = "dropped"


def _encodable(text: str) -> str:
    """Return the text without lone surrogates, which cannot be sent."""
    return text.encode(errors="replace").decode()


OTHERWISE = re.compile(r"context|length|too long|policy|policies|content|safety|moderat", re.IGNORECASE)
"""Messages that are about the prompt, not about a parameter."""
_REFUSED = re.compile(
    r"unsupported|not (?:yet |currently )?(?:be )?(?:support|permitted|allowed|available)|n't support|unrecogni[sz]ed"
    r"|unknown|unexpected|extra (?:inputs|fields)|only (?:one|the default|n ?= ?1)|must be (?:equal to )?1\b"
    r"|cannot (?:both|be (?:used|specified|set))|deprecated",
    re.IGNORECASE,
)
_NAMES = {
    "top_p": re.compile(r"\btop_p\b"),
    "seed": re.compile(r"\bseed\b"),
    "n": re.compile(r"""['"`]n['"`]|\bn ?(?:=|>|must|is|parameter)|parameter:? n\b|(completion|multiple) choice"""),
    "temperature": re.compile(r"\btemperature\b"),
    "max_tokens": re.compile(r"\bmax_tokens\b"),
    "max_completion_tokens": re.compile(r"\bmax_completion_tokens\b"),
}


def refused(message: str, told: str, sent: Mapping[str, Any]) -> str | None:
    """Return which of the parameters `sent` an error says the model does not take, None if it is about another thing.

    `told` is the parameter that the error names in a field of its own; empty if it names none.
    """
    if not _REFUSED.search(message):
        return None
    if told in _NAMES:
        return told if told in sent else None
    return next((name for name, pattern in _NAMES.items() if name in sent and pattern.search(message)), None)
