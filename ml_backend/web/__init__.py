"""The web: Label Studio's calls over one set of services, as a Flask application that holds nothing global."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask

from ml_backend.web import answers, auth
from ml_backend.web.label_studio_calls import LabelStudioCalls

if TYPE_CHECKING:
    from ml_backend.web.ports import Services


def create_app(services: Services) -> Flask:
    """A WSGI application over ``services``; open to everybody when the settings hold no credentials."""
    app = Flask("ml_backend.web", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = services.settings.max_body
    answers.install(app)
    if services.settings.passwords:
        auth.install(app, services.settings.user, services.settings.passwords)
    LabelStudioCalls(services).install(app)
    return app
