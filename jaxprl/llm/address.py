"""Addresses of servers: which ones are accepted, and where their chat completions are."""

from __future__ import annotations

import os
import re
import urllib.parse

from jaxprl.errors import UserError

OPENAI = "https://api.openai.com/v1"
VARIABLE = "OPENAI_BASE_URL"
"""The environment variable that names a server; the `openai` package has the same."""
_SECRET = re.compile(r"key|token|secret|passw|pwd|auth|credential|sig|code|session", re.IGNORECASE)
"""Matches names of query parameters that hold a secret."""
_KEY = re.compile(r"sk-|(?=\w*\d)(?=\w*[a-zA-Z])[\w-]{24,}")
"""Matches values of query parameters that look like a key."""
_AZURE_ROOTS = ("", "/openai", "/openai/deployments")
"""Paths of an Azure resource that do not say which deployment is meant."""


def default() -> str:
    """Return the address that is asked unless another one is named: the one of `VARIABLE`, or else OpenAI's.

    Raises:
      UserError: if `VARIABLE` holds no address.
    """
    url = os.environ.get(VARIABLE, "").strip()
    if not url:
        return OPENAI
    check(url, VARIABLE)
    return url


def check(url: str, name: str) -> None:
    """Check the address of a server.

    Args:
      url: the address.
      name: what the message calls it, like "base URL".

    Raises:
      UserError: if it is no address, or if it holds a secret. No message repeats a secret.

    Example:
      >>> check("http://localhost:8000/v1?key=1234", "base URL")
      Traceback (most recent call last):
      jaxprl.errors.UserError: base URL: its query holds key; a key goes into OPENAI_API_KEY
    """
    address = split(url, ("http", "https"))
    if address is None:
        raise UserError(f"{name}: expected an address like http://localhost:8000/v1")
    if "@" in url:  # behind a "/" too, where it can be the end of a password that has a "/" itself
        raise UserError(f"{name}: expected an address without a user and a password; a key goes into OPENAI_API_KEY")
    check_host(address.hostname or "", name)
    if address.fragment:
        raise UserError(f"{name}: expected an address without '#'")
    for parameter, value in urllib.parse.parse_qsl(address.query, keep_blank_values=True):
        if _SECRET.search(parameter) or _KEY.match(value):
            raise UserError(f"{name}: its query holds {parameter}; a key goes into OPENAI_API_KEY")


def split(url: str, schemes: tuple[str, ...]) -> urllib.parse.SplitResult | None:
    """Return the parts of an address, or None if it is none or has another scheme."""
    try:
        address = urllib.parse.urlsplit(url)
        fits = address.scheme in schemes and bool(address.hostname) and address.port != 0
    except ValueError:
        return None
    return address if fits and not re.search(r"[\s\x00-\x1f]", url) else None


def check_host(host: str, name: str) -> None:
    """Raise UserError if no host can have this name: it has labels of wrong lengths or characters of no label.

    Example:
      >>> check_host("api..example.org", "base URL")
      Traceback (most recent call last):
      jaxprl.errors.UserError: base URL: host 'api..example.org' has an empty label
    """
    if ":" in host:  # an address of IPv6
        return
    labels = host.removesuffix(".").split(".")
    if not all(labels):
        raise UserError(f"{name}: host {host!r} has an empty label")
    if any(len(label) > 63 for label in labels):
        raise UserError(f"{name}: host {host[:80]!r}... has a label of more than 63 characters")
    try:
        encoded = [label.encode("idna") for label in labels]
    except UnicodeError:
        encoded = [b""]
    if not all(re.fullmatch(rb"[\w-]+", label) for label in encoded):
        raise UserError(f"{name}: no host can have the name {host!r}")


def endpoint(url: str, model: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the address to which "/chat/completions" is appended, and the query of each request.

    An address that is copied as a whole, with "/chat/completions", is taken as well. With Azure's `api-version`, the
    address of a resource is completed by the deployment, which has the model's name.

    Example:
      >>> endpoint("https://x.openai.azure.com?api-version=2024-10-21", "gpt-4o")
      ('https://x.openai.azure.com/openai/deployments/gpt-4o', (('api-version', '2024-10-21'),))
    """
    address = urllib.parse.urlsplit(url)
    query = tuple(urllib.parse.parse_qsl(address.query, keep_blank_values=True))
    path = address.path.rstrip("/").removesuffix("/chat/completions")
    if is_azure(query) and path in _AZURE_ROOTS:
        path = f"/openai/deployments/{urllib.parse.quote(model, safe='')}"
    return address._replace(path=path, query="").geturl(), query


def is_azure(query: tuple[tuple[str, str], ...]) -> bool:
    """Whether the query of an address is Azure's, whose servers take the key in a header of its own, `api-key`."""
    return "api-version" in dict(query)


def without_secrets(url: str) -> str:
    """Return scheme, host and port of an address. Nothing before its last "@" is kept, since a password can hold "/".

    Example:
      >>> without_secrets("http://me:secret@proxy:3128/?key=1")
      'http://proxy:3128'
    """
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest.rpartition('@')[2])[0]}"


def pointed_to(url: str, location: str) -> str:
    """Return the address that a redirect names, as --base-url takes it: without user, password and query.

    The text is empty if the redirect names no address.

    Args:
      url: the address that was asked.
      location: the Location header of the response, possibly relative to `url`.

    Example:
      >>> pointed_to("http://a/v1/chat/completions", "https://a/v2/chat/completions?key=1")
      'https://a/v2'
    """
    try:
        address = urllib.parse.urlsplit(urllib.parse.urljoin(url, location))
    except ValueError:
        location = ""
    if not location:
        return ""
    host = address.netloc.rpartition("@")[2]
    path = address.path.rstrip("/").removesuffix("/chat/completions")
    return f"{address.scheme}://{host}{path.rpartition('@')[2]}"
