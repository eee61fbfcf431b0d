"""One request over the wire, and a name for whatever else than an answer comes back.

The `openai` package sends it. Its own retries are not used: they can wait longer than our deadline, and cannot be told
to stop.
"""

from __future__ import annotations

import contextlib
import email.utils
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from jaxprl.llm.settings import OTHERWISE, Settings, refused

if TYPE_CHECKING:
    import openai

_CONNECT = 10.0
"""Seconds for a connection to come about."""
_DETAIL = 300
"""Characters of a server's message that are passed on."""


class Failure(Exception):
    """A request without an answer: `reason` is one of `source.FAILURES`, `detail` is what the server said."""

    def __init__(self, reason: str, detail: str, *, lasting: bool = False, free: bool = True):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.lasting = lasting
        """Whether another attempt cannot help."""
        self.free = free
        """Whether it certainly has cost nothing."""
        self.status: int | None = None
        self.wait: float | None = None
        """Seconds after which the server wants to be asked again."""
        self.parameter: str | None = None
        """The parameter that the model refuses."""
        self.guessed = False
        """Whether that is only a guess."""


class Transport:
    """Requests to one server, from any thread. The key is known here alone."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        self._client: openai.OpenAI | None = None
        self._making = threading.Lock()

    @property
    def has_key(self) -> bool:
        return bool(self._key)

    def prepare(self) -> None:
        """Import what sends requests: it takes a second, which is no part of a request's time."""
        import openai  # noqa: F401

    def close(self) -> None:
        """Close connections that are kept open."""
        if self._client:
            self._client.close()

    def post(self, sent: Mapping[str, Any], seconds: float, given_up: threading.Event) -> bytes:
        """Return the body of the response, read within about `seconds`, at once less if it is `given_up`. One that is
        whole by then is returned, if it comes ever so late.

        Raises Failure.
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
                    if late:
                        raise Failure("timeout", f"{len(body)} bytes had come by the deadline", free=False)
                    body += part
                    late = given_up.is_set() or time.monotonic() > end
                    if len(body) > self.settings.most_bytes:
                        raise Failure("too many bytes", f"more than {self.settings.most_bytes}", free=False)
        return self._hidden_bytes(bytes(body))

    def _made(self) -> openai.OpenAI:
        """Return the client, made at its first use: the package takes a second to import."""
        with self._making:
            if self._client is None:
                import openai

                self._client = openai.OpenAI(
                    api_key=self._key or "none", base_url=self.settings.base_url, max_retries=0
                )
            return self._client

    @contextlib.contextmanager
    def _failures(self, sent: Mapping[str, Any]) -> Iterator[None]:
        """Turn the exceptions of the package and of what is below it into failures."""
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
            # While the body is read the errors of the HTTP library come through, and which library that is depends on
            # the version of the package; they are told by where they are defined.
            if not type(error).__module__.startswith(("httpx", "httpcore")):
                raise
            raise self._connection_failure(error) from None

    def _status_failure(self, error: openai.APIStatusError, sent: Mapping[str, Any]) -> Failure:
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
                failure.parameter, failure.guessed = "n", True  # it is asked again the simplest way
        return failure

    def _connection_failure(self, error: BaseException) -> Failure:
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
        """Return the beginning of a message, without the key if somebody put it there."""
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


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in a Retry-After header, whether they are a number or a date."""
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
