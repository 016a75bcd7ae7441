"""Events and predictions go round Flask: an annotator waits, and routing, contexts and hooks bring them nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ml_backend.web.answers import JSON, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Door(Protocol):
    """Who decides whether a request may pass."""

    def require(self, environ: Mapping[str, str], call: str | None) -> None:
        """Let it pass, or raise `BadInput`."""


class ShortWay:
    """A WSGI application: answers a POST to one of the ``calls`` by itself and hands everything else to ``app``.

    Each call, by its name (``webhook`` for ``/webhook``), turns a request into the answer's JSON. ``door`` is None when
    everybody may call.
    """

    def __init__(
        self, app: WSGIApplication, calls: Mapping[str, Callable[[WSGIEnvironment], bytes]], door: Door | None
    ) -> None:
        self._app = app
        self._calls = {f"/{name}": (name, call) for name, call in calls.items()}
        self._door = door

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        found = self._calls.get(environ["PATH_INFO"])
        if found is None or environ["REQUEST_METHOD"] != "POST":
            return self._app(environ, start_response)
        name, call = found
        status, headers = "200 OK", [("Content-Type", JSON)]
        try:
            if self._door is not None:
                self._door.require(environ, name)
            body = call(environ)
        except Exception as error:
            # Whatever it is: a server that gets it would answer with a page of its own.
            refusal = refuse(error, "POST", environ["PATH_INFO"])
            status, body = refusal.status_line, refusal.body
            headers += refusal.headers
        headers.append(("Content-Length", str(len(body))))
        start_response(status, headers)
        return [body]
