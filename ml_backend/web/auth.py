"""Who may call: Basic auth as Label Studio sends it, or a secret header on webhooks. `/health` stays open."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING

from ml_backend.errors import BadInput
from ml_backend.web.failed_logins import FailedLogins

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SECRET_HEADER = "X-Refit-Secret"  # noqa: S105 - the header's name
"""Carries a password where Label Studio cannot send Basic auth: a webhook's own headers (fact 2)."""

_SECRET_VARIABLE = "HTTP_" + SECRET_HEADER.upper().replace("-", "_")
_OPEN = frozenset({"health"})
_SECRET_HEADER_TAKEN = frozenset({"webhook"})


class Gate:
    """Knows a user and one or more valid passwords (several while they are being rotated)."""

    def __init__(self, user: str, passwords: Iterable[str], failures: FailedLogins | None = None) -> None:
        self._failures = FailedLogins() if failures is None else failures
        # Digests under a key of this process: all of one length, so that comparing tells nothing, not even a length.
        self._key = secrets.token_bytes(32)
        passwords = list(passwords)
        self._logins = self._digests(f"{user}:{password}" for password in passwords)
        self._passwords = self._digests(passwords)

    def admits(self, authorization: str | None) -> bool:
        """Whether an ``Authorization`` header holds a valid login."""
        scheme, _, value = (authorization or "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            login = base64.b64decode(value.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return self._is_one_of(login, self._logins)

    def admits_secret(self, secret: str | None) -> bool:
        """Whether the secret header holds a valid password. WSGI hands headers over as Latin-1."""
        if secret is None:
            return False
        return self._is_one_of(secret.encode("latin-1", "replace"), self._passwords)

    def require(self, environ: Mapping[str, str], call: str | None) -> None:
        """Let a WSGI request pass, or raise `BadInput` with status 401, 429 after too many wrong logins.

        ``call`` is None for what is no call at all.
        """
        authorization = environ.get("HTTP_AUTHORIZATION")
        if call in _OPEN or self.admits(authorization):
            return
        secret = environ.get(_SECRET_VARIABLE) if call in _SECRET_HEADER_TAKEN else None
        if not self.admits_secret(secret):
            given = secret is not None or authorization is not None
            if given:
                self.failed(environ)
            # Nothing was guessed: the webhook that Label Studio makes by itself comes so, and a Submit waits for it.
            raise BadInput("Authorization", _refused(call, given=given), status=401)

    def failed(self, environ: Mapping[str, str]) -> None:
        """Note that a WSGI request brought a wrong login; raises `BadInput` (429) when there were too many."""
        if self._failures.failed(environ.get("REMOTE_ADDR") or "a local socket"):
            raise BadInput("Authorization", "too many wrong logins from this address", status=429)

    def _is_one_of(self, given: bytes, valid: list[bytes]) -> bool:
        digest = self._digest(given)
        found = False
        for one in valid:
            # No early end: the time does not tell which one it was.
            found |= hmac.compare_digest(digest, one)
        return found

    def _digests(self, texts: Iterable[str]) -> list[bytes]:
        # requests (and so Label Studio) writes Latin-1 where it can, browsers write UTF-8.
        found: dict[bytes, None] = {}
        for text in texts:
            found[self._digest(text.encode("utf-8", "surrogatepass"))] = None
            try:
                found[self._digest(text.encode("latin-1"))] = None
            except UnicodeEncodeError:
                continue
        return list(found)

    def _digest(self, value: bytes) -> bytes:
        return hashlib.blake2b(value, key=self._key, digest_size=32).digest()


def _refused(call: str | None, *, given: bool) -> str:
    if given:
        return "the credentials are wrong"
    if call in _SECRET_HEADER_TAKEN:
        # The webhook that Label Studio makes by itself has none, and loses every event unless somebody is told.
        return f"no credentials: connect with http://user:password@host, or give the webhook {SECRET_HEADER}"
    return "no credentials"
