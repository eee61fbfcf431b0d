"""Sends one request to a server, and gives a name to everything that comes back instead of an answer.

The `openai` package sends the request. Its own retries are switched off, since they can wait longer than our deadline
and cannot be interrupted.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from jaxprl.errors import UserError
from jaxprl.llm import address, network, server_errors
from jaxprl.llm.failure import MOST_DETAIL, Failure, judged
from jaxprl.llm.network import Proxy
from jaxprl.llm.settings import Settings
from jaxprl.types import JSON

if TYPE_CHECKING:
    import openai

_CONNECT = 10.0
"""The most seconds to wait for a connection."""
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
"""OpenSSL's names for the answer of a server that does not encrypt."""
_CERTIFICATES = {
    9: "the certificate is not valid yet: is the clock of this computer right?",
    10: "the certificate has expired: the server needs a new one, unless the clock of this computer is wrong",
    **dict.fromkeys((62, 64), "the certificate is for another name: has --base-url the name that it is for?"),
}
"""What to do about a certificate, by OpenSSL's codes: not yet valid, expired, wrong host, wrong IP address."""
_PROXY_REFUSALS = (400, 401, 403, 404, 405, 407)
"""Statuses with which a proxy refuses to pass a request on."""
_PROXY_LETS = "does the proxy let requests to this server through?"


class Transport:
    """A connection to one server, which any thread can use.

    This is the only object that knows the API key.

    Args:
      settings: the server. The key comes from the environment variable OPENAI_API_KEY.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self._key = network.header("OPENAI_API_KEY") or ""
        self._client: openai.OpenAI | None = None
        self._making = threading.Lock()

    @functools.cached_property
    def proxy(self) -> Proxy | None:
        """The proxy that requests go through. Raises UserError if it cannot be used."""
        return network.proxy_for(self.settings.base_url)

    @property
    def address(self) -> str:
        """The address that is asked, in words, with the proxy if there is one."""
        return self.settings.base_url + self._way

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
        """Return the client of the `openai` package, which is created at its first use.

        Raises:
          UserError: if an environment variable says something that cannot be used.
        """
        with self._making:
            if self._client is None:
                import openai

                network.check_headers()
                url, query = address.endpoint(self.settings.base_url, self.settings.model)
                self._client = openai.OpenAI(
                    api_key=self._key or "none",
                    organization=network.header("OPENAI_ORG_ID"),
                    project=network.header("OPENAI_PROJECT_ID"),
                    base_url=url,
                    default_headers={"api-key": self._key} if self._key and address.is_azure(query) else None,
                    max_retries=0,
                    http_client=openai.DefaultHttpxClient(
                        params=query,
                        proxy=self.proxy.url if self.proxy else None,
                        verify=network.certificates(),
                        trust_env=False,
                        follow_redirects=False,  # the key is for this server alone
                    ),
                )
            return self._client

    @contextlib.contextmanager
    def _failures(self, sent: JSON) -> Iterator[None]:
        """Turn the exceptions of the `openai` package and of its HTTP library into failures."""
        import openai

        try:
            yield
        except UserError as error:
            raise Failure("misconfigured", str(error), lasting=True) from None
        except openai.APIStatusError as error:
            raise self._status_failure(error, sent) from None
        except openai.APIConnectionError as error:
            raise self._connection_failure(error) from None
        except (openai.OpenAIError, UnicodeError) as error:  # text that cannot be sent
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
        headers, status = error.response.headers, error.status_code
        if status < 400:
            place = self._hidden(address.pointed_to(str(error.request.url), headers.get("location", "")))
            return _redirect(f"status {status}: the server points to {place or 'no address'}{self._way}", place)
        said = server_errors.from_body(self._hidden_bytes(error.response.content))
        failure = judged(said, status, sent, wait=_retry_after(headers))
        if status == 407 and self.proxy:
            return _proxy_refusal(f"the {self.proxy}: {failure.detail}", status)
        if not self.proxy or "json" in headers.get("content-type", ""):
            return failure
        failure.detail += self._way  # it can be the proxy's
        if status in _PROXY_REFUSALS:
            failure.advice = f"{_PROXY_LETS}; {network.WITHOUT_PROXY}"
        return failure

    def _connection_failure(self, error: BaseException) -> Failure:
        """Return the failure for a request without a complete response.

        It is free if no connection was made, and lasting if the name of the host does not exist or the server's
        certificate is not accepted.
        """
        causes = [error]
        while following := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(following)
        names = " ".join(type(cause).__name__ for cause in causes)
        detail = self._hidden(next((str(cause) for cause in reversed(causes) if str(cause)), names)) + self._way
        if "InvalidURL" in names:
            return Failure("unknown host", detail, lasting=True)
        for cause in causes:
            if isinstance(cause, socket.gaierror):
                reason = "misconfigured" if self.proxy else "unknown host"
                return Failure(reason, detail, lasting=cause.errno != socket.EAI_AGAIN)
            if isinstance(cause, ssl.SSLCertVerificationError):
                failure = Failure("untrusted", detail, lasting=True)
                failure.advice = _CERTIFICATES.get(cause.verify_code, "")
                return failure
            if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
                return Failure("connection", detail, lasting=True)
        status = int(detail[:3]) if re.match(r"\d{3}\b", detail) else 0
        if "ProxyError" in names and status in _PROXY_REFUSALS:
            return _proxy_refusal(detail, status)
        if "Timeout" in names and "ConnectTimeout" not in names:
            return Failure("timeout", detail, free=False)
        free = any(name in names for name in ("ConnectError", "ConnectTimeout", "ProxyError"))
        return Failure("connection", detail, free=free)

    @property
    def _way(self) -> str:
        """In words, which proxy a request goes through."""
        with contextlib.suppress(UserError):
            return f" (through the {self.proxy})" if self.proxy else ""
        return ""

    def _hidden(self, text: str) -> str:
        """Return the beginning of a message, with the API key replaced if it occurs."""
        return (text.replace(self._key, "[key]") if self._key else text)[:MOST_DETAIL]

    def _hidden_bytes(self, body: bytes) -> bytes:
        return body.replace(self._key.encode(), b"[key]") if len(self._key) >= 4 else body


def _proxy_refusal(detail: str, status: int) -> Failure:
    """Return the failure for a refusal that is certainly the proxy's."""
    advice = "name the proxy as http://USER:PASSWORD@HOST" if status == 407 else _PROXY_LETS
    failure = Failure("misconfigured", detail, lasting=True)
    failure.advice = f"{advice}; {network.WITHOUT_PROXY}"
    return failure


def _redirect(detail: str, place: str) -> Failure:
    """Return the failure for a response that points elsewhere. It is not followed, since that would send the key."""
    failure = Failure("not found", detail, lasting=True)
    failure.advice = "if that is the right server, --base-url should be that address" if place else ""
    return failure


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
