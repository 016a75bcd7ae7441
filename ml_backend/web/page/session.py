"""Who is logged in on the page: a signed cookie and nothing kept on the server; form tokens; one sentence to say next.

The key comes from the password, so that every web process knows it and a changed password ends every session.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from itsdangerous import BadData, URLSafeSerializer, URLSafeTimedSerializer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask import Request, Response

COOKIE = "refit_session"
SAID_COOKIE = "refit_said"
LIFETIME_S = 12 * 3600
_RENEWED_AFTER_S = 3600
_SAID_S = 60

Tone = Literal["good", "bad"]


@dataclass(frozen=True, slots=True)
class Session:
    """``nonce`` is what form tokens are made for; ``fresh``: its cookie must be set."""

    logged_in: bool
    nonce: str
    fresh: bool


def _derived(key: str) -> bytes:
    """A key to sign with. Slow on purpose: whoever has a signed cookie could try passwords without asking us."""
    return hashlib.scrypt(key.encode("utf-8", "surrogatepass"), salt=b"ml-backend status page", n=2**14, r=8, p=1)


class Sessions:
    """Signs and reads the cookies. ``keys`` are secrets: the first signs, all are read (while they are rotated)."""

    def __init__(self, keys: Iterable[str]) -> None:
        # The last one signs.
        derived = [_derived(key) for key in keys][::-1]
        self._cookies = URLSafeTimedSerializer(derived, salt="session")
        self._forms = URLSafeSerializer(derived, salt="form")
        self._said = URLSafeTimedSerializer(derived, salt="said")

    def read(self, request: Request) -> Session:
        """The visitor's session; a fresh one that is not logged in, if there is none or it cannot be trusted."""
        try:
            content, signed_at = self._cookies.loads(
                request.cookies.get(COOKIE, ""), max_age=LIFETIME_S, return_timestamp=True
            )
            age = (datetime.now(UTC) - signed_at).total_seconds()
            return Session(bool(content["in"]), str(content["nonce"]), fresh=age > _RENEWED_AFTER_S)
        except (BadData, KeyError, TypeError):
            return self.new(logged_in=False)

    def new(self, *, logged_in: bool) -> Session:
        """Another session, with a nonce that nobody has seen."""
        return Session(logged_in, secrets.token_urlsafe(18), fresh=True)

    def keep(self, response: Response, session: Session, *, secure: bool) -> None:
        """Set the cookie."""
        value = self._cookies.dumps({"in": session.logged_in, "nonce": session.nonce})
        response.set_cookie(COOKIE, value, max_age=LIFETIME_S, httponly=True, samesite="Strict", secure=secure)

    def forget(self, response: Response) -> None:
        """Take the cookie away."""
        response.delete_cookie(COOKIE, httponly=True, samesite="Strict")

    def token(self, session: Session) -> str:
        """What every form of this session carries."""
        return str(self._forms.dumps(session.nonce))

    def is_from_form(self, session: Session, token: str | None) -> bool:
        """Whether a form of this session was sent."""
        try:
            return secrets.compare_digest(str(self._forms.loads(token or "")), session.nonce)
        except BadData:
            return False

    def say(self, response: Response, text: str, tone: Tone, *, secure: bool) -> None:
        """Have the next page say something."""
        value = self._said.dumps([tone, text])
        response.set_cookie(SAID_COOKIE, value, max_age=_SAID_S, httponly=True, samesite="Strict", secure=secure)

    def said(self, request: Request) -> tuple[Tone, str] | None:
        """What the page has to say."""
        if (value := request.cookies.get(SAID_COOKIE)) is None:
            return None
        try:
            found: Any = self._said.loads(value, max_age=_SAID_S)
            return ("good" if found[0] == "good" else "bad"), str(found[1])
        except (BadData, LookupError, TypeError):
            return None
