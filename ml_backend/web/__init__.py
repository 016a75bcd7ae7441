"""The web: Label Studio's calls, the JSON API and the status page, as a Flask application that holds nothing global."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask, request

from ml_backend.web import answers
from ml_backend.web.api import JsonApi
from ml_backend.web.auth import Gate
from ml_backend.web.failed_logins import FailedLogins
from ml_backend.web.label_studio_calls import LabelStudioCalls
from ml_backend.web.local_names import LocalNames
from ml_backend.web.outage import Outage
from ml_backend.web.page import Page
from ml_backend.web.short_way import ShortWay

if TYPE_CHECKING:
    from ml_backend.web.ports import Services


def create_app(services: Services) -> Flask:
    """A WSGI application over ``services``; open to everybody who can reach it when the settings hold no password."""
    app = Flask("ml_backend.web", static_folder=None)
    settings = services.settings
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    failures = FailedLogins(sleepers=max(1, settings.threads // 4))
    gate = Gate(settings.user, settings.passwords, failures) if settings.passwords else None
    door = gate or LocalNames.needed(settings)
    outage = Outage()
    overview = services.overview()
    orders = services.orders(overview)
    calls = LabelStudioCalls(services, outage, overview)
    page = Page(services, overview, orders, outage, gate)
    answers.install(app, page.refused)
    if door is not None:
        guard = door

        @app.before_request
        def require_leave() -> None:
            if gate is None or not page.admits():
                guard.require(request.environ, request.endpoint)

    calls.install(app)
    JsonApi(services, overview, orders, outage).install(app)
    # Label Studio's older releases look at the root; browsers come there too.
    page.install(app, calls.health)
    short = {"webhook": calls.event, "predict": calls.prediction}
    app.wsgi_app = ShortWay(app.wsgi_app, short, door)  # type: ignore[method-assign]
    return app
