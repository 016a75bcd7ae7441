"""Writing answers: JSON, and every refusal in one form, whose short text stands in the status line too.

Label Studio shows its user the status line only (fact 26), for instance
``400 Client Error: extra_params.refit.quick: no such setting``.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson
from flask import Response, request
from werkzeug.exceptions import HTTPException

from ml_backend.errors import BadInput, NewerState, StoreUnavailable, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from werkzeug.wrappers import Response as AnyResponse

log = logging.getLogger(__name__)

JSON = "application/json"

_REASON_PHRASE = 120
_SAID = 400
_CHALLENGE = ("WWW-Authenticate", 'Basic realm="ml-backend", charset="UTF-8"')
_HEADERS = {401: [_CHALLENGE], 429: [("Retry-After", "60")]}
_REPEATED = frozenset({"Allow", "Location"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer to a request that was not carried out. ``reason`` is the status line's text."""

    status: int
    reason: str
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def status_line(self) -> str:
        """``400 project: is missing``."""
        return f"{self.status} {self.reason}"


def answer(value: object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(value), status, content_type=JSON)


def refuse(error: Exception, method: str, path: str) -> Refusal:
    """What to answer to a request that ended in ``error``; writes one log line."""
    where = plain(f"{method} {path}", _REASON_PHRASE)
    if isinstance(error, BadInput):
        refusal = _refusal(error.status, error.field, error.reason, _HEADERS.get(error.status, []))
    elif isinstance(error, Unavailable | StoreUnavailable):
        # The error's own text may hold addresses: it is for the log alone.
        log.warning("refused %s with 503: %s", where, plain(str(error), _SAID))
        what = "Redis" if isinstance(error, Unavailable) else "the version store"
        return _refusal(503, "", f"{what} does not answer, try again", [("Retry-After", "1")])
    elif isinstance(error, NewerState):
        refusal = _refusal(503, "", str(error), [])
    elif isinstance(error, HTTPException):
        refusal = _of_http(error, method)
    else:
        incident = secrets.token_hex(6)
        log.error("incident %s at %s", incident, where, exc_info=error)
        return _refusal(500, "", f"something went wrong here, see incident {incident} in the log", [])
    if refusal.status != 429:  # they are counted, so that whoever causes them cannot fill the log
        log.warning("refused %s with %d: %s", where, refusal.status, refusal.reason)
    return refusal


def plain(text: str, limit: int) -> str:
    """The text as printable ASCII on one line, cut to ``limit``: safe in a status line and in a log."""
    kept = "".join(one if " " <= one <= "~" else "?" for one in text[: limit + 1])
    return kept if len(kept) <= limit else f"{kept[: limit - 3]}..."


def install(app: Flask, page: Callable[[Exception], AnyResponse | None]) -> None:
    """Map every error that a view lets through; ``page`` answers those who look at a page, None for everybody else."""

    def handle(error: Exception) -> AnyResponse:
        if (shown := page(error)) is not None:
            return shown
        refusal = refuse(error, request.method, request.path)
        response = Response(refusal.body, refusal.status_line, content_type=JSON)
        response.headers.extend(refusal.headers)
        return response

    app.register_error_handler(Exception, handle)


def _refusal(status: int, field: str, reason: str, headers: list[tuple[str, str]]) -> Refusal:
    error = {"field": plain(field, _SAID), "reason": plain(reason, _SAID)}
    phrase = plain(f"{field}: {reason}" if field else reason, _REASON_PHRASE)
    return Refusal(status, phrase, orjson.dumps({"error": error}), [("X-Content-Type-Options", "nosniff"), *headers])


def _of_http(error: HTTPException, method: str) -> Refusal:
    status = error.code or 500
    headers = [(name, value) for name, value in error.get_headers() if name in _REPEATED]
    if status == 404:
        return _refusal(status, "path", "is no call of this backend", headers)
    if status == 405:
        return _refusal(status, "method", f"{method} is not for this call", headers)
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "is refused"
    return _refusal(status, "request", phrase, headers)
