"""What every source of a language model's answers does: it is asked in chat messages and gives what could be had.

Sources are `client.Client` (a server, through a cache) and `replay.Replay` (a cache alone). The answers that ship with
the package (`answers.recorded`) answer only a task's first prompt, in an order that the search seed draws
(`starts.recorded_answers`): as a source, a search seed would be given when it is made and the order drawn there.
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
    "unknown host": "the address names a host that there is not",
    "no key": "the server needs a key and OPENAI_API_KEY is not set",
    "refused": "status 401 or 403: the key is not good for this",
    "not found": "status 404: no such model or address",
    "bad request": "another status 4xx: the same request will not be answered later either",
    "rate limited": "status 429: too many requests",
    "out of quota": "status 429: the account has no money left",
    "server error": "status 5xx, or an error in the place of an answer",
    "not json": "an answer that is no JSON object: HTML, cut off, nested without end",
    "no choices": "JSON without a list of choices, or an empty one",
    "too many bytes": "an answer longer than what is read",
    "empty answer": "a choice without text; it counts as one of the answers asked for and is not asked again, unless "
    "a run finds nothing else in the cache",
    "spending limit": "the request could cost more than what is left",
    "interrupted": "the run was told to stop",
    "lost": "the process ended while it waited; it counts with what it can have cost at most",
    "not in the cache": "a replay was asked for what its file does not hold",
}
"""What a request, or one answer of it, can fail by, and what it means."""

Messages = Sequence[Mapping[str, str]]
"""Chat messages: {"role": ..., "content": ...}."""


class Usage(NamedTuple):
    """Tokens of one request, all its answers together."""

    prompt: int
    completion: int


@dataclasses.dataclass(frozen=True)
class Reply:
    """One answer of a language model."""

    text: str
    """As it came; it can hold NUL and lone surrogates."""
    index: int
    """Which sample of the request it is, from 0. Samples without text leave gaps."""
    cached: bool
    """Whether it was there before it was asked for."""
    finish: str | None
    """Why the model stopped, in the server's words: stop, length, ..."""
    usage: Usage | None
    """Tokens of the request that it came with, if the server told."""


class Source(Protocol):
    """Where answers come from."""

    failures: collections.Counter[str]
    """What went wrong so far, by the names of `FAILURES`."""

    def ask(self, messages: Messages, count: int, *, name: str) -> list[Reply]:
        """Return up to `count` answers in the order of their samples: what could be had, possibly none.

        `name` says which request of the run this is ("seed 3, round 0, ask 1"): the same messages under another name
        have other samples. Raises Hopeless if there is no answer and trying again cannot help; Interrupted if the run
        was told to stop.
        """
        ...


class Hopeless(UserError):
    """There is no answer, and trying again cannot help: no such model, no key, no money."""


class Interrupted(Exception):
    """The run was told to stop while it waited for answers. Those that had arrived are in the cache."""
