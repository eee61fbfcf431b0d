"""Settings of requests to a language model: the server, the sampling parameters, the deadline and the retries."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import urllib.parse
from collections.abc import Mapping

from jaxprl.errors import UserError
from jaxprl.llm import address
from jaxprl.llm.source import Messages
from jaxprl.types import JSON

MOST_AT_A_TIME = 128
"""The most answers of one request: OpenAI's limit for n."""
_LIMITS: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2), "top_p": (0, 1), "max_tokens": (1, 2**31), "deadline": (0.001, 10**7), "retries": (0, 1000),
    "backoff": (0, 3600), "most_bytes": (1, 2**31), "at_once": (1, 1000),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """A server, a model, and the parameters of requests to it.

    The API key is not part of the settings. It comes from the environment variable OPENAI_API_KEY alone.

    Raises:
      UserError: if a value is outside its range.
    """

    model: str
    """Name of the model."""
    base_url: str = dataclasses.field(default_factory=address.default)
    """Address of a server with OpenAI's chat-completions interface, which usually ends in /v1. By default that of the
    environment variable OPENAI_BASE_URL, or else OpenAI's. A query like Azure's ?api-version=... is sent with each
    request."""
    temperature: float | None = 1.0
    """Sampling temperature, 0 .. 2; None leaves it to the server."""
    top_p: float | None = 1.0
    """Probability mass of nucleus sampling, 0 .. 1; None leaves it to the server."""
    seed: int | None = None
    """Seed from which each request gets a seed of its own; None sends none."""
    max_tokens: int | None = None
    """The most tokens of one answer; None leaves it to the server."""
    deadline: float = 120.0
    """The most seconds that a request may take with all its attempts. They count from its first attempt, or from the
    latest answer to another request if that is later, since a server may answer one request after the other."""
    retries: int = 5
    """The most further attempts of a request that may be answered later. Attempts that find the server loading the
    model, or limiting the rate of requests, do not count."""
    backoff: float = 0.5
    """Upper bound in seconds of the wait before the second attempt. It doubles for each further attempt, and the wait
    is drawn from the upper half of the range."""
    most_bytes: int = 2**26
    """The most bytes of one response."""
    at_once: int = 8
    """The most requests that are under way at the same time."""

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("no model named")
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UserError(f"{name} {value}: expected {least:g} to {most:g}")
        address.check(self.base_url, "base URL")

    @property
    def host(self) -> str:
        """Name of the server's host."""
        return urllib.parse.urlsplit(self.base_url).hostname or ""

    @property
    def needs_key(self) -> bool:
        """Whether the server is known to need an API key."""
        return self.host == "openai.com" or self.host.endswith(".openai.com")

    def request(self) -> JSON:
        """Return the parameters that influence the answers, which are part of their key in the cache.

        Example:
          >>> Settings("m", temperature=0.5, top_p=None).request()
          {'model': 'm', 'temperature': 0.5}
        """
        names = ("model", "temperature", "top_p", "seed", "max_tokens")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class Parameters:
    """The parameters that a model accepts, as far as the server's refusals have shown."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.changed: dict[str, str] = {}
        """What was done about each parameter that was refused, by its name."""
        self.most = MOST_AT_A_TIME
        """The most answers that one request returns."""
        self.guessed = False
        """Whether `most` is 1 on a guess only: a request was refused without a clear reason, which may be n."""

    def sent(self, messages: Messages, number: int, named: str) -> JSON:
        """Return the body of a request.

        With the same seed a server would return the same answer to every request. So each request has a seed of its
        own, derived from the seed of the settings and from its name.

        Args:
          messages: the chat messages.
          number: how many answers to request.
          named: the name of the request, like "seed 0, round 0, sample 5".

        Returns:
          The body, without parameters that were refused.
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
        """Use n again if it was dropped on a guess only: the request was refused without n, too."""
        if self.guessed:
            self.most, self.guessed = MOST_AT_A_TIME, False
            del self.changed["n"]

    def refuse(self, name: str, *, guessed: bool = False) -> None:
        """Do without a parameter from now on.

        `max_tokens` is sent under its newer name `max_completion_tokens` first, and dropped if that is refused, too.

        Args:
          name: the parameter that was refused.
          guessed: whether that is only a guess.
        """
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
"""Matches error messages that are about the prompt, not about a parameter."""
_REFUSED = re.compile(
    r"unsupported|not (?:yet |currently )?(?:be )?(?:support|permitted|allowed|available)|n't support|unrecogni[sz]ed"
    r"|unknown|unexpected|extra (?:inputs|fields)|only (?:one|the default|n ?= ?1)|must be (?:equal to )?1\b"
    r"|cannot (?:both|be (?:used|specified|set))|deprecated",
    re.IGNORECASE,
)
_OUTSIDE = re.compile(
    r"invalid|\b(?:must|should|can only|may only|has to) be\b|\brange\b|\bonly\b.{0,30}\b(?:allowed|accepted|valid)\b"
    r"|\b(?:less|greater|larger|smaller|lower|higher) than\b|\bat (?:most|least)\b|\bbetween\b",
    re.IGNORECASE,
)
"""Matches error messages about a parameter's value."""
_WITHOUT = ("top_p", "seed", "n", "temperature")
"""Parameters whose value may be what is refused, since a request can do without them."""
_NAMES = {
    "top_p": re.compile(r"\btop_p\b"),
    "seed": re.compile(r"\bseed\b"),
    "n": re.compile(r"""['"`]n['"`]|\bn ?(?:=|>|must|is|parameter)|parameter:? n\b|(completion|multiple) choice"""),
    "temperature": re.compile(r"\btemperature\b"),
    "max_tokens": re.compile(r"\bmax_tokens\b"),
    "max_completion_tokens": re.compile(r"\bmax_completion_tokens\b"),
}


def refused(message: str, parameter: str, sent: Mapping[str, object]) -> str | None:
    """Return the parameter that an error message refuses.

    Args:
      message: the error message of the server.
      parameter: the parameter that the error names in a field of its own; empty if it names none.
      sent: the body of the request.

    Returns:
      The name of one of the parameters in `sent`, or None if the error is about something else.

    Example:
      >>> refused("Unsupported value: 'temperature' does not support 0.5 with this model.", "", {"temperature": 0.5})
      'temperature'
    """
    if parameter in _WITHOUT and parameter in sent:
        return parameter
    if _REFUSED.search(message):
        names = tuple(_NAMES)
    elif _OUTSIDE.search(message):
        names = _WITHOUT
    else:
        return None
    if parameter in _NAMES:
        return parameter if parameter in sent and parameter in names else None
    return next((name for name in names if name in sent and _NAMES[name].search(message)), None)
