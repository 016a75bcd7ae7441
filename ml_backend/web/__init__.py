"""The web: Label Studio's calls over one set of services, as a Flask application that holds nothing global."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask, request

from ml_backend.web import answers
from ml_backend.web.api import JsonApi
from ml_backend.web.auth import Gate
from ml_backend.web.failed_logins import FailedLogins
from ml_backend.web.label_studio_calls import LabelStudioCalls
from ml_backend.web.outage import Outage
from ml_backend.web.short_way import ShortWay

if TYPE_CHECKING:
    from ml_backend.web.ports import Services


def create_app(services: Services) -> Flask:
    """A WSGI application over ``services``; open to everybody when the settings hold no password."""
    app = Flask("ml_backend.web", static_folder=None)
    answers.install(app)
    settings = services.settings
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    failures = FailedLogins(sleepers=max(1, settings.threads // 4))
    gate = Gate(settings.user, settings.passwords, failures) if settings.passwords else None
    if gate is not None:
        guard = gate

        @app.before_request
        def require_login() -> None:
            guard.require(request.environ, request.endpoint)

    outage = Outage()
    calls = LabelStudioCalls(services, outage)
    calls.install(app)
    overview = services.overview()
    JsonApi(services, overview, services.orders(overview), outage).install(app)
    app.wsgi_app = ShortWay(app.wsgi_app, calls.event, gate)  # type: ignore[method-assign]
    return app
