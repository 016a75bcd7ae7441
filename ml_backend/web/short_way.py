"""Events go round Flask: an annotator waits for each (fact 1), and routing, contexts and hooks bring them nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ml_backend.web.answers import JSON, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PATH = "/webhook"


class Door(Protocol):
    """Who decides whether a request may pass."""

    def require(self, environ: Mapping[str, str], call: str | None) -> None:
        """Let it pass, or raise `BadInput`."""


class ShortWay:
    """A WSGI application: answers ``POST /webhook`` by itself and hands everything else to ``app``.

    ``webhook`` turns a request into the answer's JSON; ``door`` is None when everybody may call.
    """

    def __init__(self, app: WSGIApplication, webhook: Callable[[WSGIEnvironment], bytes], door: Door | None) -> None:
        self._app = app
        self._webhook = webhook
        self._door = door

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        if environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] != "POST":
            return self._app(environ, start_response)
        status, headers = "200 OK", [("Content-Type", JSON)]
        try:
            if self._door is not None:
                self._door.require(environ, "webhook")
            body = self._webhook(environ)
        except Exception as error:
            # Whatever it is: a server that gets it would answer with a page of its own.
            refusal = refuse(error, "POST", PATH)
            status, body = refusal.status_line, refusal.body
            headers += refusal.headers
        headers.append(("Content-Length", str(len(body))))
        start_response(status, headers)
        return [body]
