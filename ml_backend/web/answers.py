"""Writing answers: JSON, and every refusal in one form, whose short text stands in the status line too.

Label Studio shows its user the status line only (fact 26), for instance
``400 Client Error: extra_params.refit.quick: no such setting``.
"""

from __future__ import annotations

import logging
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from flask import Response, request
from werkzeug.exceptions import HTTPException

from ml_backend.errors import BadInput, StoreUnavailable, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Flask

log = logging.getLogger(__name__)

_REASON_PHRASE = 120
_SAID = 400
_JSON = "application/json"


def answer(value: object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(value), status, content_type=_JSON)


def refusal(
    status: int, field: str, reason: str, *, headers: Mapping[str, str] | None = None, incident: str | None = None
) -> Response:
    """``{"error": {"field", "reason"}}`` with the same in the status line; ``incident`` leads to the log."""
    said: dict[str, Any] = {"field": plain(field, _SAID), "reason": plain(reason, _SAID)}
    if incident is not None:
        said["id"] = incident
    phrase = plain(f"{field}: {reason}" if field else reason, _REASON_PHRASE)
    response = Response(orjson.dumps({"error": said}), f"{status} {phrase}", content_type=_JSON)
    response.headers["X-Content-Type-Options"] = "nosniff"
    for name, value in (headers or {}).items():
        response.headers[name] = value
    return response


def plain(text: str, limit: int) -> str:
    """The text as printable ASCII on one line, cut to ``limit``: safe in a status line and in a log."""
    kept = "".join(one if " " <= one <= "~" else "?" for one in text[: limit + 1])
    return kept if len(kept) <= limit else f"{kept[: limit - 3]}..."


def install(app: Flask) -> None:
    """Map every error that a view lets through to an answer, with one log line for each."""
    app.register_error_handler(BadInput, _bad_input)
    app.register_error_handler(Unavailable, _unavailable)
    app.register_error_handler(StoreUnavailable, _unavailable)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def _bad_input(error: BadInput) -> Response:
    headers = {"WWW-Authenticate": 'Basic realm="ml-backend", charset="UTF-8"'} if error.status == 401 else None
    _log(error.status, f"{error.field}: {error.reason}")
    return refusal(error.status, error.field, error.reason, headers=headers)


def _unavailable(error: Unavailable | StoreUnavailable) -> Response:
    what = "the version store" if isinstance(error, StoreUnavailable) else "Redis"
    # The error's own text may hold addresses: it is for the log alone.
    _log(503, str(error))
    return refusal(503, "", f"{what} does not answer, try again", headers={"Retry-After": "1"})


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if status == 404:
        field, reason = "path", "is no call of this backend"
    elif status == 405:
        field, reason = "method", f"{request.method} is not for this call"
    else:
        field, reason = "request", HTTPStatus(status).phrase if status in set(HTTPStatus) else "is refused"
    headers = {name: value for name, value in error.get_headers() if name in {"Allow", "Location"}}
    _log(status, f"{field}: {reason}")
    return refusal(status, field, reason, headers=headers)


def _unexpected(error: Exception) -> Response:
    incident = secrets.token_hex(6)
    log.error("incident %s at %s", incident, _where(), exc_info=error)
    return refusal(500, "", f"something went wrong here, see incident {incident} in the log", incident=incident)


def _log(status: int, why: str) -> None:
    log.warning("refused %s with %d: %s", _where(), status, plain(why, _SAID))


def _where() -> str:
    return plain(f"{request.method} {request.path}", _REASON_PHRASE)
