"""Sends one request to a server, and gives a name to everything that comes back instead of an answer.

The `openai` package sends the request. Its own retries are switched off, since they can wait longer than our deadline
and cannot be interrupted.
"""

from __future__ import annotations

import contextlib
import email.utils
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from jaxprl.llm.settings import OTHERWISE, Settings, refused
from jaxprl.types import JSON

if TYPE_CHECKING:
    import openai

_CONNECT = 10.0
"""The most seconds to wait for a connection."""
_DETAIL = 300
"""The most characters of a server's message that are passed on."""


class Failure(Exception):
    """A request without an answer.

    Args:
      reason: one of `source.FAILURES`.
      detail: what the server said.
      lasting: whether another attempt cannot help.
      free: whether the request has certainly cost nothing.
    """

    def __init__(self, reason: str, detail: str, *, lasting: bool = False, free: bool = True):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.lasting, self.free = reason, detail, lasting, free
        self.status: int | None = None
        """HTTP status of the response, if there was one."""
        self.wait: float | None = None
        """Seconds that the server wants us to wait before the next attempt, if it says so."""
        self.parameter: str | None = None
        """The parameter that the model refuses, if that is the reason."""
        self.guessed = False
        """Whether the refused parameter is only a guess."""


class Transport:
    """A connection to one server, which any thread can use.

    This is the only object that knows the API key.

    Args:
      settings: the server. The key comes from the environment variable OPENAI_API_KEY.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        self._client: openai.OpenAI | None = None
        self._making = threading.Lock()

    def prepare(self) -> None:
        """Import the `openai` package. This takes a second, which shall not count for the first request."""
        import openai  # noqa: F401

    def close(self) -> None:
        """Close open connections."""
        if self._client:
            self._client.close()

    def post(self, sent: JSON, seconds: float, given_up: threading.Event) -> bytes:
        """Send a request and return the body of the response.

        Reading ends after about `seconds`, or as soon as `given_up` is set. A body that is complete by then is returned
        nevertheless: it has been paid for.

        Args:
          sent: the body of the request.
          seconds: the most seconds that it may take.
          given_up: is set when nobody waits for the response any more.

        Returns:
          The body, with the API key replaced by "[key]" if it occurs.

        Raises:
          Failure: if there is no complete body.
        """
        if not self._key and self.settings.needs_key:
            raise Failure("no key", f"{self.settings.host} needs one", lasting=True)
        if not (self._key.isascii() and self._key.isprintable()):
            raise Failure("refused", "OPENAI_API_KEY holds characters that no key has", lasting=True)
        end = time.monotonic() + seconds
        with self._failures(sent):
            client = self._made()
            import openai

            timeout = openai.Timeout(seconds, connect=min(seconds, _CONNECT))
            chat = client.chat.completions.with_streaming_response
            with chat.create(**sent, timeout=timeout) as response:
                body, late = bytearray(), False
                for part in response.iter_bytes():
                    if late:  # checked one part later, so that a body that ends here is still returned
                        raise Failure("timeout", f"{len(body)} bytes had come by the deadline", free=False)
                    body += part
                    late = given_up.is_set() or time.monotonic() > end
                    if len(body) > self.settings.most_bytes:
                        raise Failure("too many bytes", f"more than {self.settings.most_bytes}", free=False)
        return self._hidden_bytes(bytes(body))

    def _made(self) -> openai.OpenAI:
        """Return the client of the `openai` package, which is created at its first use."""
        with self._making:
            if self._client is None:
                import openai

                self._client = openai.OpenAI(
                    api_key=self._key or "none", base_url=self.settings.base_url, max_retries=0
                )
            return self._client

    @contextlib.contextmanager
    def _failures(self, sent: JSON) -> Iterator[None]:
        """Turn the exceptions of the `openai` package and of its HTTP library into failures."""
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            raise self._status_failure(error, sent) from None
        except openai.APIConnectionError as error:
            raise self._connection_failure(error) from None
        except openai.OpenAIError as error:
            raise Failure("bad request", self._hidden(str(error)), lasting=True) from None
        except Failure:
            raise
        except Exception as error:
            # While the body is read, errors of the HTTP library are not wrapped. Which library that is depends on the
            # version of the package, so they are recognized by the module that defines them.
            if not type(error).__module__.startswith(("httpx", "httpcore")):
                raise
            raise self._connection_failure(error) from None

    def _status_failure(self, error: openai.APIStatusError, sent: JSON) -> Failure:
        """Return the failure for a response with an error status."""
        status, code = error.status_code, str(error.code or error.type or "")
        reason, lasting = _STATUS.get(status, ("server error", False) if status >= 500 else ("bad request", True))
        if status == 429 and "quota" in code:
            reason, lasting = "out of quota", True
        failure = Failure(reason, self._hidden(error.message), lasting=lasting)
        failure.status = status
        failure.wait = _retry_after(error.response.headers)
        if status in (400, 422, 500, 501):
            failure.parameter = refused(error.message[:5000], str(error.param or ""), sent)
            if status in (400, 422) and not failure.parameter and "n" in sent and not OTHERWISE.search(error.message):
                failure.parameter, failure.guessed = "n", True  # no reason is named: try the simplest request
        return failure

    def _connection_failure(self, error: BaseException) -> Failure:
        """Return the failure for a request without a complete response.

        It is free if no connection was made, and lasting if the name of the host does not exist.
        """
        causes = [error]
        while following := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(following)
        names = " ".join(type(cause).__name__ for cause in causes)
        detail = self._hidden(next((str(cause) for cause in reversed(causes) if str(cause)), names))
        for cause in causes:
            if isinstance(cause, socket.gaierror):
                return Failure("unknown host", detail, lasting=cause.errno != socket.EAI_AGAIN)
        if "Timeout" in names and "ConnectTimeout" not in names:
            return Failure("timeout", detail, free=False)
        return Failure("connection", detail, free="ConnectError" in names or "ConnectTimeout" in names)

    def _hidden(self, text: str) -> str:
        """Return the beginning of a message, with the API key replaced if it occurs."""
        return (text.replace(self._key, "[key]") if self._key else text)[:_DETAIL]

    def _hidden_bytes(self, body: bytes) -> bytes:
        return body.replace(self._key.encode(), b"[key]") if len(self._key) >= 4 else body


_STATUS = {
    401: ("refused", True),
    403: ("refused", True),
    404: ("not found", True),
    408: ("server error", False),
    409: ("server error", False),
    425: ("server error", False),
    429: ("rate limited", False),
}
"""(reason, lasting) by HTTP status. Other statuses from 500 on are "server error", the rest is "bad request"."""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait according to a Retry-After header, which holds a number or a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < 10**7:
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(date - time.time(), 0.0)
