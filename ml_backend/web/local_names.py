"""Without a password on a loopback address: only by a name of this machine, since browsers bring others' pages here.

A page can have its own name lead to 127.0.0.1 (DNS rebinding). Its browser then takes this server for the page's own,
and lets it read and order what it likes; but the requests name the page's host.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ml_backend.connecting.addresses import FROM_DOCKER, LOOPBACK
from ml_backend.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ml_backend.settings import Settings

_OPEN = frozenset({"health"})
_OURS = frozenset({"localhost", FROM_DOCKER, "host.containers.internal"})
"""Docker Desktop and Podman lead theirs to the loopback address of the host; nobody can have a page under them."""
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[^\[\]:]{1,253})(?::\d{0,5})?", re.ASCII | re.IGNORECASE)
_REMEMBERED = 64


class LocalNames:
    """Knows by which hosts a server may be called that anybody on this machine may call."""

    def __init__(self, url: str | None) -> None:
        """``url``: another address of it (``ML_BACKEND_URL``), such as that of a proxy in front."""
        self._names = _OURS | ({urlsplit(url).hostname or ""} if url else set())
        self._admitted: set[str] = set()  # as they were written: nearly every request names the same one

    @classmethod
    def needed(cls, settings: Settings) -> LocalNames | None:
        """What has to be asked with these settings; None where a password is, or where others are served on purpose."""
        return cls(settings.url) if not settings.passwords and settings.host in LOOPBACK else None

    def require(self, environ: Mapping[str, str], call: str | None) -> None:
        """Let a WSGI request pass, or raise `BadInput` with status 403. ``call`` is None for what is no call at all."""
        host = environ.get("HTTP_HOST")
        # No browser leaves it out.
        if host is None or host in self._admitted or call in _OPEN:
            return
        if not self._is_local(host):
            raise BadInput(
                "Host",
                "is no name of this machine, and there is no password: set BASIC_AUTH_PASS, or ML_BACKEND_URL to it",
                status=403,
            )
        if len(self._admitted) < _REMEMBERED:
            self._admitted.add(host)

    def _is_local(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].lower().removesuffix(".")
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return False
