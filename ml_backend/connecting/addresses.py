"""Addresses of a backend: with and without credentials, of its webhook, and which ones Label Studio may reach it at."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

Login = tuple[str, str]
"""User and password."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared only
FROM_DOCKER = "host.docker.internal"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def bare(url: str) -> str:
    """The URL without credentials, query and closing slash, host and scheme in small letters; "" if it is none.

    Names of the same loopback address are written alike, since they are the same place.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if parts.scheme not in _DEFAULT_PORTS or not host:
        return ""
    host = "localhost" if host in LOOPBACK else host
    shown = in_url(host)
    if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
        shown += f":{port}"
    return urlunsplit((parts.scheme, shown, parts.path.rstrip("/"), "", ""))


def in_url(host: str) -> str:
    """A name or an address as it stands before the port: version 6 in brackets."""
    return f"[{host}]" if ":" in host else host


def without_login(url: str) -> str:
    """The URL as it is, without credentials and closing slash."""
    parts = urlsplit(url.strip())
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def login_of(url: str) -> Login | None:
    """The credentials in a URL."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return None
    if parts.username is None:
        return None
    return unquote(parts.username), unquote(parts.password or "")


def with_login(url: str, login: Login | None) -> str:
    """The URL with these credentials in it."""
    if login is None:
        return without_login(url)
    parts = urlsplit(without_login(url))
    user, password = (quote(one, safe="") for one in login)
    return urlunsplit((parts.scheme, f"{user}:{password}@{parts.netloc}", parts.path, "", ""))


def webhook_of(url: str) -> str:
    """Where a connection's events go: what Label Studio makes of its URL."""
    return url.rstrip("/") + "/webhook"


def bare_of_webhook(url: str) -> str:
    """The bare address of the backend that a webhook's URL leads to; "" if it leads to none."""
    found = bare(url)
    return found.removesuffix("/webhook") if found.endswith("/webhook") else ""


def basic(login: Login) -> str:
    """The value of the header ``Authorization`` for these credentials."""
    return "Basic " + base64.b64encode(":".join(login).encode()).decode()


def candidates(host: str, port: int, label_studio_url: str, outward: Sequence[str] = ()) -> list[str]:
    """Addresses at which Label Studio may reach a backend that binds to ``host``, the likeliest first.

    ``outward``: names and addresses of this machine as the network knows it.
    """
    there = (urlsplit(label_studio_url).hostname or "").lower()
    if host in LOOPBACK:
        # Only this machine is served. Label Studio behind a published port of a container would not get through.
        return [f"http://localhost:{port}"]
    if host not in EVERYWHERE:
        return [f"http://{in_url(host)}:{port}"]
    here = [f"http://{in_url(one)}:{port}" for one in outward]
    if there in LOOPBACK or there == FROM_DOCKER:
        return [f"http://localhost:{port}", f"http://{FROM_DOCKER}:{port}", *here]
    return here or [f"http://localhost:{port}"]
