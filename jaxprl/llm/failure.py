"""Names for what comes back instead of an answer, and whether another attempt can help."""

from __future__ import annotations

import random
import re

from jaxprl.llm import server_errors
from jaxprl.llm.server_errors import ServerError
from jaxprl.llm.settings import OTHERWISE, refused
from jaxprl.types import JSON

MOST_DETAIL = 300
"""The most characters of a server's message that are passed on."""
_LONGEST_PAUSE = 30.0
"""Upper bound of the wait before another attempt, in seconds."""
_LONGEST_WHILE_LOADING = 5.0
"""Upper bound of the wait before another attempt while a server loads the model, in seconds."""
_STATUS = {
    401: ("refused", True),
    402: ("out of quota", True),
    403: ("refused", True),
    404: ("not found", True),
    405: ("not found", True),
    408: ("server error", False),
    409: ("server error", False),
    425: ("server error", False),
    429: ("rate limited", False),
}
"""(reason, lasting) by HTTP status. Other statuses from 500 on are "server error", the rest is "bad request"."""
_QUOTA = re.compile(r"quota|billing|insufficient_(balance|credits|funds)|budget_exceeded|arrear", re.IGNORECASE)
"""Matches codes of a server that wants money."""
_NO_MONEY = re.compile(
    r"\binsufficient (?:\w+ )?(?:balance|credits?|funds)"
    r"|\b(?:balance|credits?) (?:is|are) (?:too low|insufficient|exhausted)"
    r"|\b(?:out of|no|not enough|exhausted|used (?:up )?all|spent all)\b.{0,25}\b(?:credits?|funds|balance)\b"
    r"|\bspending limit\b|\bbudget (?:has been |was )?exceeded|\bexceeded.{0,20}\bbudget\b|\brecharge\b|\barrears\b",
    re.IGNORECASE,
)
"""Matches messages of such a server, whose status can be the one of a wrong request or of a rate limit."""
_WRONG_KEY = re.compile(
    r"\b(?:invalid|incorrect|missing|expired|no)[_ ]api[_ ]?key"
    r"|\bapi[_ ]?key\b.{0,20}\b(?:invalid|not valid|incorrect|expired)",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(
    r"\brequest too large\b|\btokens must be reduced\b|\breduce the (?:number of )?tokens", re.IGNORECASE
)
"""Matches messages about a request that is larger by itself than what a rate limit allows."""
_PROMPT = re.compile(r"\bmoderation\b|\bflagged\b|\b(?:content|usage)[_ ](?:polic|filter)|\bsafety\b", re.IGNORECASE)
"""Matches messages about a prompt that is not allowed."""
_REGION = re.compile(r"\b(?:country|countries|region|territory|location)\b", re.IGNORECASE)
_WORDS = (
    (r"rate[_ ]?limit|too[_ ]?many[_ ]?requests|throttl|resource[_ ]?exhausted", "rate limited", False),
    (r"(?:invalid|incorrect|missing)[_ ]api[_ ]?key|authentication|unauthori[sz]ed|forbidden", "refused", True),
    (
        r"model[_ ]?not[_ ]?found|model .{0,80}not (?:found|exist)|no models? loaded|unexpected endpoint",
        "not found",
        True,
    ),
    (r"context[_ ]length|content[_ ](?:filter|policy)|unsupported[_ ]", "bad request", True),
)
"""(pattern, reason, lasting) by what an error says, where no status does."""


class Failure(Exception):
    """A request without an answer.

    Args:
      reason: one of `source.FAILURES`.
      detail: what the server said.
      lasting: whether another attempt cannot help.
      free: whether the request has certainly cost nothing.
    """

    def __init__(self, reason: str, detail: str, *, lasting: bool = False, free: bool = True):
        super().__init__(reason, detail)
        self.reason, self.detail, self.lasting, self.free = reason, detail, lasting, free
        self.advice = ""
        """What the user can do, if it is not what the reason suggests."""
        self.status: int | None = None
        """HTTP status of the response, if there was one."""
        self.wait: float | None = None
        """Seconds that the server wants us to wait before the next attempt, if it says so."""
        self.state = ""
        """How the server is, if it will answer soon and is therefore asked on until the deadline: "not ready" or
        "busy"."""
        self.parameter: str | None = None
        """The parameter that the model refuses, if that is the reason."""
        self.guessed = False
        """Whether the refused parameter is only a guess."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def judged(error: ServerError, status: int, sent: JSON, *, wait: float | None = None) -> Failure:
    """Return the failure for an error of a server.

    Args:
      error: the error.
      status: HTTP status of the response. If it is 200, the error's own codes decide.
      sent: the body of the request.
      wait: seconds that the server wants us to wait before the next attempt, if it says so.
    """
    named = status if status >= 400 else error.status
    reason, lasting = _judged(error, named)
    state = "" if lasting else _state(error, reason, named, wait)
    failure = Failure(reason, _detail(error, status), lasting=lasting, free=status >= 400 or bool(state))
    failure.status, failure.wait, failure.state = status, wait, state
    words = " ".join((error.message, *error.codes)).replace("_", " ")
    if reason == "refused" and _REGION.search(words):
        failure.advice = "does the server serve the region of this computer, or of its proxy?"
    if named in (413, 429) and "n" in sent and _TOO_LARGE.search(words):
        failure.parameter = "n"
    if named in (400, 422, 500, 501) and not state and reason not in ("refused", "out of quota"):
        failure.parameter = refused(error.message, error.parameter, sent)
        if named in (400, 422) and not failure.parameter and "n" in sent and not OTHERWISE.search(words):
            failure.parameter, failure.guessed = "n", True  # no reason is named: try the simplest request
    return failure


def _judged(error: ServerError, status: int | None) -> tuple[str, bool]:
    """Return the name of an error and whether it is lasting."""
    if any(map(_QUOTA.search, error.codes)):
        return "out of quota", True
    if status in (None, 400, 403, 429) and _NO_MONEY.search(error.message):
        return "out of quota", True
    if status == 400 and _WRONG_KEY.search(error.message):
        return "refused", True
    if (status == 403 and _PROMPT.search(error.message)) or (status == 429 and _TOO_LARGE.search(error.message)):
        return "bad request", True
    if status in (400, 404, 424) and server_errors.says_loading(error, unavailable=False):
        return "server error", False
    if status is not None:
        return _STATUS.get(status, ("server error", False) if status >= 500 else ("bad request", True))
    text = " ".join((*error.codes, error.message))
    for pattern, reason, lasting in _WORDS:
        if re.search(pattern, text, re.IGNORECASE):
            return reason, lasting
    return "server error", False


def _state(error: ServerError, reason: str, status: int | None, wait: float | None) -> str:
    """Return how a server is that will answer soon, or an empty text."""
    if server_errors.says_loading(error, unavailable=status == 503):
        return "not ready"
    return "busy" if reason == "rate limited" or (status == 503 and wait is not None) else ""


def _detail(error: ServerError, status: int) -> str:
    """Return an error in words."""
    place = f"status {status}"
    if status < 400:
        codes = error.status or ", ".join(error.codes)
        place += f" with error {codes}" if codes else " with an error"
    said = " ".join(error.message.split()) or (status >= 400 and ", ".join(error.codes)) or "no message"
    return f"{place}: {said}"[:MOST_DETAIL]


def pause(failure: Failure, attempts: int, backoff: float, left: float) -> float:
    """Return the seconds to wait before another attempt.

    That grows exponentially with random jitter, and is no shorter than what the server asks for. With `backoff=0.5` it
    is drawn from 0.25 .. 0.5 s after the first attempt, from 0.5 .. 1 s after the second, from 1 .. 2 s after the
    third, up to 15 .. 30 s. A server that loads the model is asked every few seconds. When it says a time beyond the
    deadline, that is no more than an estimate, and it is asked all the same.

    Args:
      failure: why the latest attempt failed.
      attempts: number of attempts so far.
      backoff: upper bound of the first wait.
      left: seconds until the deadline.
    """
    longest = min(backoff * 2.0 ** min(attempts - 1, 30), _LONGEST_PAUSE)
    own = random.uniform(longest / 2, longest)
    if not failure.state or failure.reason == "rate limited":
        return max(own, failure.wait or 0.0)
    own = min(own, _LONGEST_WHILE_LOADING)
    wait = max(own, failure.wait or 0.0)
    return wait if wait < left else own
