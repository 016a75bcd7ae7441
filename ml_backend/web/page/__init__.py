"""The status page for browsers: every project at ``/``, one at ``/projects/<uid>``; what it orders comes from forms."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jinja2
from flask import Response, redirect, request

from ml_backend import __version__
from ml_backend.errors import BadInput
from ml_backend.uids import require_uid
from ml_backend.web.answers import refuse
from ml_backend.web.api import read_number, read_run_id
from ml_backend.web.page import words
from ml_backend.web.page.plot import plot
from ml_backend.web.page.session import SAID_COOKIE, Session, Sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from werkzeug.wrappers import Response as AnyResponse

    from ml_backend.overview import Orders, Overview
    from ml_backend.web.auth import Gate
    from ml_backend.web.outage import Outage
    from ml_backend.web.ports import Services

_FORM_LIMIT = 16 * 1024
_ASSETS = {
    "style.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_OPEN = frozenset({"page.login", "page.log_in", "page.asset"})
_BY = "on the status page"
_RUNS, _DECISIONS = 12, 25

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Page:
    """The pages over one set of services. ``gate`` is None when everybody may look."""

    def __init__(
        self, services: Services, overview: Overview, orders: Orders, outage: Outage, gate: Gate | None
    ) -> None:
        self._services = services
        self._overview = overview
        self._orders = orders
        self._outage = outage
        self._gate = gate
        self._shared: Sessions | None = None
        self._assets = {name: (resources.files(__package__) / "assets" / name).read_bytes() for name in _ASSETS}
        self._templates = _templates({name: _version(content) for name, content in self._assets.items()})

    def install(self, app: Flask, index_for_programs: Callable[[], Response]) -> None:
        """Add the pages to the application; ``index_for_programs`` answers ``/`` to who does not ask for HTML."""

        def index() -> AnyResponse:
            found = self._index() if wants_page() else index_for_programs()
            found.vary.add("Accept")
            return found

        get, post = ["GET"], ["POST"]
        for path, methods, name, view in (
            ("/", get, "index", index),
            ("/projects/<uid>", get, "project", self._project),
            ("/projects/<uid>/train", post, "train", self._train),
            ("/projects/<uid>/sync", post, "sync", self._sync),
            ("/projects/<uid>/rollback", post, "roll_back", self._roll_back),
            ("/projects/<uid>/versions/<number>/promote", post, "promote", self._promote),
            ("/projects/<uid>/runs/<run>/cancel", post, "cancel", self._cancel),
            ("/login", get, "login", self._login),
            ("/login", post, "log_in", self._log_in),
            ("/logout", post, "log_out", self._log_out),
            ("/assets/<name>", get, "asset", self._asset),
        ):
            app.add_url_rule(path, f"page.{name}", view, methods=methods, provide_automatic_options=False)

    def admits(self) -> bool:
        """Whether the request needs no credentials: it is open to all, or its cookie says who is there."""
        endpoint = request.endpoint or ""
        if endpoint in _OPEN:
            return True
        return endpoint.startswith(("page.", "api.")) and self._logged_in()

    def refused(self, error: Exception) -> AnyResponse | None:
        """The answer for a person at a browser to what went wrong; None for programs."""
        endpoint = request.endpoint
        if not wants_page() or not (endpoint is None or endpoint.startswith("page.")):
            return None
        if isinstance(error, BadInput) and error.status == 401 and self._gate is not None and not self._logged_in():
            there = request.full_path.rstrip("?") if request.method == "GET" else "/"
            return self._headed(redirect(f"/login?next={quote(there, safe='')}", 303))
        refusal = refuse(error, request.method, request.path)
        said = refusal.reason
        if refusal.status < 500 and isinstance(error, BadInput):
            said = error.reason
        unknown = isinstance(error, BadInput) and error.field == "project"
        back = None if unknown else _project_page(request.view_args)
        made = self._page("problem.html", None, refusal.status, code=refusal.status, problem=said, back=back)
        made.headers.extend(refusal.headers)
        return made

    # --- pages --------------------------------------------------------------------------------------------------------

    def _index(self) -> Response:
        projects = self._outage.attempt(self._overview.projects)
        least = self._services.settings.retrain.min_annotations
        return self._page("index.html", self._session(), projects=projects, least=least)

    def _project(self, uid: str) -> AnyResponse:
        uid = require_uid(uid)
        whole = self._outage.attempt(lambda: self._overview.whole(uid, runs=_RUNS, decisions=_DECISIONS))
        return self._page(
            "project.html",
            self._session(),
            project=whole.project,
            versions=whole.versions,
            runs=whole.runs,
            decisions=whole.decisions,
            plot=plot(whole.versions),
        )

    def _page(self, template: str, session: Session | None, status: int = 200, **values: Any) -> Response:
        """A page. What it says of an action is said once."""
        said = None if session is None else self._sessions().said(request)
        text = self._templates.get_template(template).render(
            session=session,
            token=None if session is None else self._sessions().token(session),
            guarded=self._gate is not None,
            said=said,
            model=self._services.model_class.__name__,
            version=__version__,
            **values,
        )
        made = Response(text, status, content_type="text/html; charset=utf-8")
        if said is not None:
            made.delete_cookie(SAID_COOKIE, httponly=True, samesite="Strict")
        if session is not None and session.fresh:
            self._sessions().keep(made, session, secure=_is_secure())
        if status == 200:
            made.add_etag()
            made.make_conditional(request)
        self._headed(made)
        return made

    def _asset(self, name: str) -> AnyResponse:
        if name not in self._assets:
            raise BadInput("path", "is no call of this backend", status=404)
        made = Response(self._assets[name], content_type=_ASSETS[name])
        # The pages name them with their version.
        made.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        made.headers["X-Content-Type-Options"] = "nosniff"
        return made

    # --- who is there -------------------------------------------------------------------------------------------------

    def _login(self) -> AnyResponse:
        if self._gate is None or self._logged_in():
            return self._headed(redirect("/", 303))
        return self._page("login.html", self._session(), there=_inside(request.args.get("next")), wrong=None, user="")

    def _log_in(self) -> AnyResponse:
        if self._gate is None:
            return self._headed(redirect("/", 303))
        form = self._form()
        user, password = form.get("user", ""), form.get("password", "")
        there = _inside(form.get("next"))
        login = base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogatepass")).decode()
        try:
            # The same door as for everybody, with its counting of wrong logins.
            self._gate.require({**request.environ, "HTTP_AUTHORIZATION": f"Basic {login}"}, "page")
        except BadInput as error:
            wrong = "The user or the password is wrong." if error.status == 401 else error.reason
            values = {"there": there, "wrong": wrong, "user": user[:100]}
            return self._page("login.html", self._session(), error.status, **values)
        made = redirect(there, 303)
        self._sessions().keep(made, self._sessions().new(logged_in=True), secure=_is_secure())  # type: ignore[arg-type]
        return self._headed(made)

    def _log_out(self) -> AnyResponse:
        self._form()
        made = redirect("/login" if self._gate is not None else "/", 303)
        self._sessions().forget(made)  # type: ignore[arg-type]
        return self._headed(made)

    def _logged_in(self) -> bool:
        return self._gate is not None and self._sessions().read(request).logged_in

    def _session(self) -> Session:
        return self._sessions().read(request)

    def _sessions(self) -> Sessions:
        if self._shared is None:
            settings = self._services.settings
            # Where no password is set, form tokens still keep other sites' pages from ordering anything here.
            keys = [f"{settings.user}\0{one}" for one in settings.passwords] or [self._services.shared_secret()]
            self._shared = Sessions(keys)
        return self._shared

    # --- orders -------------------------------------------------------------------------------------------------------

    def _train(self, uid: str) -> AnyResponse:
        asked = self._ordered(lambda: self._orders.train(require_uid(uid), f"asked for {_BY}"))
        said = "A training was waiting already; it starts now." if asked.joined else "The training starts in a moment."
        return self._done(uid, said)

    def _sync(self, uid: str) -> AnyResponse:
        self._ordered(lambda: self._orders.sync(require_uid(uid), "complete", f"asked for {_BY}"))
        return self._done(uid, "The sync starts in a moment.")

    def _promote(self, uid: str, number: str) -> AnyResponse:
        moved = self._ordered(lambda: self._orders.promote(require_uid(uid), read_number(number), "the status page"))
        return self._done(uid, f"{moved.version} serves now.")

    def _roll_back(self, uid: str) -> AnyResponse:
        moved = self._ordered(lambda: self._orders.roll_back(require_uid(uid), "the status page"))
        return self._done(uid, f"Rolled back: {moved.version} serves now.")

    def _cancel(self, uid: str, run: str) -> AnyResponse:
        outcome = self._ordered(lambda: self._orders.cancel(read_run_id(run), _BY)).outcome
        said = {
            "cancelled": "The training is cancelled.",
            "cancelling": "The training is told to stop; nothing of it is published.",
            "over": "That training is over already.",
        }[outcome]
        return self._done(uid, said)

    def _ordered(self, order: Callable[[], Any]) -> Any:  # noqa: ANN401 - each order has an answer of its own
        self._form()
        return self._outage.attempt(order)

    def _form(self) -> dict[str, str]:
        """The form's fields. Raises `BadInput` for one that is not of this session's pages."""
        request.max_content_length = _FORM_LIMIT
        form = request.form.to_dict()
        cross = request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}
        if cross or not self._sessions().is_from_form(self._session(), form.get("token")):
            raise BadInput("token", "this form is out of date: go back, load the page again, and repeat", status=403)
        return form

    def _done(self, uid: str, said: str) -> AnyResponse:
        made = redirect(f"/projects/{uid}", 303)
        self._sessions().say(made, said, "good", secure=_is_secure())  # type: ignore[arg-type]
        return self._headed(made)

    def _headed(self, response: AnyResponse) -> AnyResponse:
        response.headers.update(_HEADERS)
        response.headers["Cache-Control"] = "private, no-cache"
        response.vary.update(["Accept", "Authorization", "Cookie"])
        return response


def wants_page() -> bool:
    """Whether somebody with a browser asks: Label Studio and other programs do not name HTML."""
    return request.accept_mimetypes.accept_html and "text/html" in request.headers.get("Accept", "")


def _is_secure() -> bool:
    # A proxy in front may speak TLS; who lies about it hurts only the own session.
    return request.is_secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"


def _inside(there: str | None) -> str:
    """Where to go after the login: a path here, never another host."""
    if not there or not there.startswith("/") or there.startswith(("//", "/\\")) or not there.isprintable():
        return "/"
    return there


def _project_page(arguments: dict[str, Any] | None) -> str | None:
    try:
        return f"/projects/{require_uid((arguments or {}).get('uid'))}"
    except BadInput:
        return None


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _templates(versions: dict[str, str]) -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        moment=words.moment,
        iso=words.iso,
        duration=words.duration,
        size=words.size,
        asked_by=words.asked_by,
        phase=words.phase,
        sentence=words.sentence,
        beyond_progress=words.beyond_progress,
    )
    made.globals.update(
        asset=lambda name: f"/assets/{name}?v={versions[name]}",
        state_of=words.state_of,
        count=words.count,
    )
    return made
