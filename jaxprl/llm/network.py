"""What the process's environment variables say about the way to a server: a proxy, certificates, headers.

The HTTP library would read the same variables. It would, however, fail without naming the variable, and it would need
a package for a proxy that the server's address is excepted from.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import ssl
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

from jaxprl.errors import UserError
from jaxprl.llm import address

_HEADERS = {"OPENAI_API_KEY": "key", "OPENAI_ORG_ID": "organization", "OPENAI_PROJECT_ID": "project"}
"""Environment variables that are sent in headers, and what they hold."""
WITHOUT_PROXY = "NO_PROXY names hosts that are reached without a proxy"
_CUSTOM = "OPENAI_CUSTOM_HEADERS"
"""Environment variable of the `openai` package with further headers, one a line."""


class Proxy(NamedTuple):
    """A proxy that requests go through."""

    url: str
    variable: str
    """The environment variable that names it."""

    def __str__(self) -> str:
        return f"proxy {address.without_secrets(self.url)} of {self.variable}"


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy for an address, or None if the address is reached without one.

    HTTP_PROXY, HTTPS_PROXY and ALL_PROXY name proxies and NO_PROXY excepts hosts from them, in upper or lower case.

    Raises:
      UserError: if the proxy cannot be used.
    """
    server = urllib.parse.urlsplit(url)
    proxies = urllib.request.getproxies()
    kind = server.scheme if proxies.get(server.scheme) else "all"
    named = proxies.get(kind, "").strip()
    if not named or _excepted(server.hostname or "", server.port, proxies.get("no", "")):
        return None
    lower = f"{kind}_proxy"
    variable = lower if os.environ.get(lower) else lower.upper()
    proxy = Proxy(named if "://" in named else f"http://{named}", variable)
    _check_proxy(proxy)
    return proxy


def _check_proxy(proxy: Proxy) -> None:
    """Raise UserError if a proxy cannot be used."""
    scheme = proxy.url.partition("://")[0].lower()
    advice = f"; {WITHOUT_PROXY}"
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):  # it can be a part of a password
        raise UserError(f"{proxy.variable}: expected a proxy like http://localhost:3128{advice}")
    schemes = ("http", "https", "socks5", "socks5h")
    if scheme not in schemes:
        raise UserError(f"{proxy}: {scheme!r} is no scheme of a proxy; there are {', '.join(schemes)}{advice}")
    parts = address.split(proxy.url, (scheme,))
    if parts is None:
        raise UserError(f"{proxy.variable}: expected a proxy like http://localhost:3128{advice}")
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise UserError(f"{proxy.variable}: '/', '?', '#' and '@' in a password are written %2F, %3F, %23 and %40")
    address.check_host(parts.hostname or "", proxy.variable)
    if scheme.startswith("socks") and not importlib.util.find_spec("socksio"):
        raise UserError(f"{proxy}: a SOCKS proxy needs the package socksio, which is not installed{advice}")


def _excepted(host: str, port: int | None, exceptions: str) -> bool:
    """Whether NO_PROXY excepts a host: by its name, a domain, HOST:PORT, an address, a network (10.0.0.0/8) or "*"."""
    for entry in (entry.strip().lower() for entry in exceptions.split(",")):
        name = entry.lstrip("*").lstrip(".").strip("[]")
        if entry == "*" or (name and host in (name, entry)) or (name and f"{host}:{port}" == name):
            return True
        if name and host.endswith(f".{name}"):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
        except ValueError:  # the host or the entry is a name
            continue
    return False


def certificates() -> ssl.SSLContext | bool:
    """Return what certificates are checked with: those of SSL_CERT_FILE or SSL_CERT_DIR, or True for the usual ones.

    Raises:
      UserError: if the variable names no certificates.
    """
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file:
        try:
            return ssl.create_default_context(cafile=file)
        except ssl.SSLError:
            raise UserError(f"SSL_CERT_FILE={file}: the file holds no certificate") from None
        except OSError as error:
            raise UserError(f"SSL_CERT_FILE={file}: {error.strerror}") from None
    if folders:
        if not any(Path(folder).is_dir() for folder in folders.split(os.pathsep) if folder):
            raise UserError(f"SSL_CERT_DIR={folders}: no such folder")
        return ssl.create_default_context(capath=folders)
    return True


def check_headers() -> None:
    """Raise UserError if an environment variable that is sent in a header has characters that no header has.

    No message repeats the value, which can be a secret.
    """
    for name, what in _HEADERS.items():
        if not _fits(header(name) or ""):
            raise UserError(f"{name} holds characters that no {what} has: only printable ASCII can be sent")
    for number, line in enumerate(os.environ.get(_CUSTOM, "").splitlines(), 1):
        name, colon, value = line.partition(":")
        if colon and not (re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name.strip(), re.ASCII) and _fits(value.strip())):
            raise UserError(f"{_CUSTOM}, line {number}: expected NAME: VALUE in printable ASCII")


def header(name: str) -> str | None:
    """Return the value of an environment variable that is sent in a header, or None if it is not set."""
    return os.environ[name].strip() if name in os.environ else None


def _fits(value: str) -> bool:
    return value.isascii() and value.isprintable()
