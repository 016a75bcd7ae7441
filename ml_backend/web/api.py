"""The JSON API below ``/api/v1``: one table of calls, from which the routes and the OpenAPI document are made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Response, request
from pydantic import ValidationError

from ml_backend import __version__
from ml_backend.errors import BadInput
from ml_backend.overview import views
from ml_backend.overview.reading import system_view
from ml_backend.runs import uid_of
from ml_backend.uids import require_uid
from ml_backend.web.answers import JSON, answer
from ml_backend.web.bodies import read_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flask import Flask

    from ml_backend.overview import Orders, Overview
    from ml_backend.web.outage import Outage
    from ml_backend.web.ports import Services

PREFIX = "/api/v1"
LIMIT, MOST = 50, 200
_BODY_LIMIT = 64 * 1024
_BY = "through the API"

M = TypeVar("M", bound=views.View)


@dataclass(frozen=True, slots=True)
class Call:
    """One call. ``path`` is below `PREFIX`; ``body`` is None for a GET; ``limited``: takes the query ``limit``."""

    method: str
    path: str
    name: str
    summary: str
    answer: type[views.View]
    status: int = 200
    body: type[views.View] | None = None
    limited: bool = False


CALLS = (
    Call("GET", "/system", "system", "The backend itself, its queues and workers", views.System),
    Call("GET", "/projects", "projects", "Every project", views.Projects),
    Call(
        "GET",
        "/projects/{uid}",
        "project",
        "One project: progress to the next training, counters, drift, what serves, waits and trains",
        views.Project,
    ),
    Call("GET", "/projects/{uid}/decisions", "decisions", "What was decided, and why", views.Decisions, limited=True),
    Call("GET", "/projects/{uid}/runs", "runs", "What waits, what trains, what is over", views.Runs, limited=True),
    Call(
        "POST",
        "/projects/{uid}/runs",
        "train",
        "Train now, with whatever there is; joins the run that waits",
        views.Asked,
        202,
        views.Nothing,
    ),
    Call("GET", "/projects/{uid}/versions", "versions", "Its versions, with their scores", views.Versions),
    Call(
        "POST",
        "/projects/{uid}/versions/{number}/promote",
        "promote",
        "Let a version serve",
        views.Moved,
        body=views.Nothing,
    ),
    Call(
        "POST",
        "/projects/{uid}/rollback",
        "roll_back",
        "Let the version serve that served before",
        views.Moved,
        body=views.Nothing,
    ),
    Call("GET", "/projects/{uid}/sync", "sync_state", "How the sync with Label Studio stands", views.Sync),
    Call(
        "POST",
        "/projects/{uid}/sync",
        "sync",
        "Ask Label Studio for what its events did not tell",
        views.Sync,
        202,
        views.SyncWish,
    ),
    Call("GET", "/projects/{uid}/refresh", "refresh", "How the refresh of predictions stands", views.Refresh),
    Call("GET", "/runs/{run}", "run", "One run, with what it said last", views.Run),
    Call(
        "POST",
        "/runs/{run}/cancel",
        "cancel",
        "End a run that waits or trains; nothing of it is published",
        views.Cancelled,
        202,
        views.Nothing,
    ),
)


class JsonApi:
    """The calls over one set of services. Every view raises what `answers.install` maps."""

    def __init__(self, services: Services, overview: Overview, orders: Orders, outage: Outage) -> None:
        self._services = services
        self._overview = overview
        self._orders = orders
        self._outage = outage

    def install(self, app: Flask) -> None:
        """Add every call to the application, each as the endpoint ``api.<name>``."""
        for call in CALLS:
            rule = PREFIX + call.path.replace("{", "<").replace("}", ">")
            app.add_url_rule(
                rule, f"api.{call.name}", self._view(call), methods=[call.method], provide_automatic_options=False
            )
        app.add_url_rule(
            f"{PREFIX}/openapi.json", "api.openapi", _openapi, methods=["GET"], provide_automatic_options=False
        )

    def _view(self, call: Call) -> Callable[..., Response]:
        carry_out: Callable[..., views.View] = getattr(self, call.name)

        def view(**path: str) -> Response:
            given: dict[str, Any] = {name: PATH[name](value) for name, value in path.items()}
            _only_known(("limit",) if call.limited else ())
            if call.limited:
                given["limit"] = _limit(request.args.get("limit"))
            if call.body is not None:
                given["body"] = _read(call.body)
            made = self._outage.attempt(lambda: carry_out(**given))
            return Response(made.model_dump_json(), call.status, content_type=JSON)

        return view

    def system(self) -> views.View:
        """See `CALLS`, as for all below."""
        settings = self._services.settings
        model = self._services.model_class.__name__
        return system_view(__version__, model, settings.label_studio_shown, self._services.jobs())

    def projects(self) -> views.View:
        """Every project."""
        return views.Projects(projects=self._overview.projects())

    def project(self, uid: str) -> views.View:
        """One project."""
        return self._overview.project(uid)

    def decisions(self, uid: str, limit: int) -> views.View:
        """Newest first."""
        return views.Decisions(decisions=self._overview.decisions(uid, limit))

    def runs(self, uid: str, limit: int) -> views.View:
        """Newest first."""
        return views.Runs(runs=self._overview.runs(uid, limit))

    def train(self, uid: str, body: views.Nothing) -> views.View:  # noqa: ARG002 - an empty object
        """Ask for a run."""
        return self._orders.train(uid, _BY)

    def versions(self, uid: str) -> views.View:
        """Newest first."""
        return views.Versions(versions=self._overview.versions(uid))

    def promote(self, uid: str, number: int, body: views.Nothing) -> views.View:  # noqa: ARG002
        """Move what serves."""
        return self._orders.promote(uid, number, _BY)

    def roll_back(self, uid: str, body: views.Nothing) -> views.View:  # noqa: ARG002
        """Move it back."""
        return self._orders.roll_back(uid, _BY)

    def sync_state(self, uid: str) -> views.View:
        """Of one project."""
        return self._overview.sync(uid)

    def sync(self, uid: str, body: views.SyncWish) -> views.View:
        """Ask for one."""
        return self._orders.sync(uid, body.kind, _BY)

    def refresh(self, uid: str) -> views.View:
        """Of one project."""
        return self._overview.refresh(uid)

    def run(self, run: str) -> views.View:
        """One run."""
        return self._overview.run(run)

    def cancel(self, run: str, body: views.Nothing) -> views.View:  # noqa: ARG002
        """End it."""
        return self._orders.cancel(run, _BY)


def read_number(text: str) -> int:
    """A version's number in a path. Raises `BadInput`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and text[0] != "0"):
        raise BadInput("version", "must be a version's number, such as 12")
    return int(text)


def read_run_id(text: str) -> str:
    """A run's id in a path. Raises `BadInput`."""
    if uid_of(text) is None:
        raise BadInput("run", "must be a run's id, such as 2-1795333883-1")
    return text


PATH: Mapping[str, Callable[[str], str | int]] = {"uid": require_uid, "run": read_run_id, "number": read_number}
"""What reads each part of a path."""


def _openapi() -> Response:
    return answer(_document())


@cache
def _document() -> dict[str, Any]:
    from ml_backend.web.openapi import document  # noqa: PLC0415 - only those who ask pay for making the schemas

    return document()


def _only_known(names: tuple[str, ...]) -> None:
    for name in request.args:
        if name not in names:
            raise BadInput(f"query.{name}"[:100], "no such parameter")


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MOST):
        raise BadInput("query.limit", f"must be a whole number from 1 to {MOST}")
    return int(text)


def _read(model: type[M]) -> M:
    # Only application/json: no page of another site can send that without being asked first (CORS).
    given = read_object(request.environ, _BODY_LIMIT)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadInput(field, "no such field" if first["type"] == "extra_forbidden" else first["msg"]) from None
