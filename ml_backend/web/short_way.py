"""Events go round Flask: an annotator waits for each (fact 1), and routing, contexts and hooks bring them nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_backend.web.answers import JSON, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from ml_backend.web.auth import Gate

PATH = "/webhook"


class ShortWay:
    """A WSGI application: answers ``POST /webhook`` by itself and hands everything else to ``app``.

    ``webhook`` turns a request into the answer's JSON; ``gate`` is None when everybody may call.
    """

    def __init__(self, app: WSGIApplication, webhook: Callable[[WSGIEnvironment], bytes], gate: Gate | None) -> None:
        self._app = app
        self._webhook = webhook
        self._gate = gate

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        if environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] != "POST":
            return self._app(environ, start_response)
        status, headers = "200 OK", [("Content-Type", JSON)]
        try:
            if self._gate is not None:
                self._gate.require(environ, "webhook")
            body = self._webhook(environ)
        except Exception as error:
            # Whatever it is: a server that gets it would answer with a page of its own.
            refusal = refuse(error, "POST", PATH)
            status, body = refusal.status_line, refusal.body
            headers += refusal.headers
        headers.append(("Content-Length", str(len(body))))
        start_response(status, headers)
        return [body]
