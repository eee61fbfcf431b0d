"""The interface of all sources of a language model's answers.

There are two sources: `client.Client` asks a server, through a cache, and `replay.Replay` reads a cache alone. The
recorded answers that ship with the package (`answers.recorded`) are not a source. They answer only the first prompt of
a task, in an order that depends on the search seed (`programs.recorded_answers`); a source of them would have to take
the search seed when it is created.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from jaxprl.errors import UserError

FAILURES = {
    "timeout": "no whole answer within the deadline",
    "connection": "no connection, or it broke off",
    "unknown host": "the address names a host that does not exist",
    "untrusted": "the server's certificate is not accepted",
    "misconfigured": "a proxy, a certificate or a header that the process's environment variables name cannot be used",
    "no key": "the server needs a key and OPENAI_API_KEY is not set",
    "refused": "status 401 or 403, or words of it: the key is not good for this",
    "not found": "status 404 or 405, or a redirect: no such model or address",
    "bad request": "another status 4xx: the same request will not be answered later either",
    "rate limited": "status 429: too many requests",
    "out of quota": "status 402, or words of it: the account has no money left",
    "server error": "status 5xx, or an error in the place of an answer",
    "not json": "an answer that is no JSON object: HTML, a stream, cut off, nested without end",
    "no choices": "JSON without a list of choices, or an empty one",
    "too many bytes": "an answer longer than what is read",
    "empty answer": "a choice without text; it counts as one of the answers asked for and is not asked again, unless "
    "a run finds nothing else in the cache",
    "spending limit": "the request could cost more than what is left",
    "interrupted": "the run was told to stop",
    "lost": "the process ended while it waited; it counts with what it can have cost at most",
    "not in the cache": "a replay was asked for what its file does not hold",
}
"""The names of the ways in which a request, or one of its answers, can fail, and what they mean."""

Messages = Sequence[Mapping[str, str]]
"""Chat messages: `{"role": ..., "content": ...}`."""


class Usage(NamedTuple):
    """The tokens of one request, with all its answers."""

    prompt: int
    completion: int


@dataclasses.dataclass(frozen=True)
class Reply:
    """One answer of a language model."""

    text: str
    """The text as it arrived; it can contain NUL and lone surrogates."""
    index: int
    """Index of the sample within the request, from 0. Samples without text leave gaps."""
    cached: bool
    """Whether the cache had it before it was asked for."""
    finish: str | None
    """Why the model stopped, in the server's words: "stop", "length", ..."""
    usage: Usage | None
    """The tokens of the request that returned it, if the server reported them."""


class Source(Protocol):
    """A source of answers."""

    failures: collections.Counter[str]
    """What has failed so far, by the names of `FAILURES`."""

    def ask(self, messages: Messages, count: int, *, name: str) -> list[Reply]:
        """Return answers to a request, as many as can be had.

        Args:
          messages: the chat messages.
          count: number of samples.
          name: the name of the request within the run, like "seed 3, round 0, ask 1". The same messages under another
            name have other samples.

        Returns:
          Up to `count` answers in the order of their samples, possibly none.

        Raises:
          Hopeless: if there is no answer and trying again cannot help.
          Interrupted: if the run was told to stop.
        """
        ...


class Hopeless(UserError):
    """There is no answer, and trying again cannot help: the model, the key or the money is missing."""


class Interrupted(Exception):
    """The run was told to stop while it waited for answers. The answers that had arrived are in the cache."""
