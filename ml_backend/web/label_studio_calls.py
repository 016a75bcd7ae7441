"""The calls that Label Studio makes to an ML backend, as plain views: read, hand on, answer."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from flask import Response, request

from ml_backend import __version__
from ml_backend.backend import TrainingBackend
from ml_backend.errors import BadInput, ProjectUnknown, RegistryError, StoreUnavailable, Unavailable
from ml_backend.event_way import CLICK, forget
from ml_backend.events import action_of, parse_project
from ml_backend.fields import read_object as object_field
from ml_backend.fields import read_text
from ml_backend.runs import label_studio_status
from ml_backend.settings import read_extra_params
from ml_backend.state import Known
from ml_backend.turns import NoTurn, Turns
from ml_backend.uids import id_of, require_uid
from ml_backend.web import metrics
from ml_backend.web.answers import answer
from ml_backend.web.bodies import read_object, too_deep
from ml_backend.web.configs import LabelConfigs

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment
    from flask import Flask

    from ml_backend.overview import Overview
    from ml_backend.web.outage import Outage
    from ml_backend.web.ports import Services

log = logging.getLogger(__name__)

T = TypeVar("T")

# Label Studio waits 3 s for the list of versions.
_VERSIONS_DEADLINE_S = 2.0


class LabelStudioCalls:
    """Label Studio's calls over one set of services. Every view raises what `answers.install` maps."""

    def __init__(self, services: Services, outage: Outage, overview: Overview) -> None:
        self._services = services
        self._overview = overview
        self._limit = services.settings.max_body
        self._outage = outage
        # A model with a ``fit`` of its own gets everything.
        self._brief = getattr(services.model_class, "fit", None) is TrainingBackend.fit
        self._configs = LabelConfigs(services.backend.check)
        # A slow model, or a predict worker that does not answer, may take every thread but one.
        self._turns = Turns(max(1, services.settings.threads - 1))
        self._up = {"status": "UP", "model_class": services.model_class.__name__, "version": __version__}

    def install(self, app: Flask) -> None:
        """Add every call to the application."""
        get, post = ["GET"], ["POST"]
        for path, methods, call, needs_redis in (
            ("/health", get, self.health, False),
            ("/setup", post, self.setup, True),
            ("/predict", post, self.predict, False),
            ("/webhook", post, self.webhook, True),
            ("/train", post, self.train, True),
            ("/versions", get + post, self.versions, True),
            ("/job_status", post, self.job_status, True),
            ("/delete", post, self.delete, True),
            ("/duplicate_model", post, self.duplicate_model, False),
            ("/validate", post, self.validate, False),
            ("/metrics", get, self.metrics, True),
        ):
            view = partial(self._view, call, needs_redis=needs_redis)
            app.add_url_rule(path, call.__name__, view, methods=methods, provide_automatic_options=False)

    def _view(self, call: Callable[[dict[str, Any]], Response], *, needs_redis: bool) -> Response:
        # The body is read first: a slow client must not be the one that finds out whether Redis is back.
        body = read_object(request.environ, self._limit) if request.method == "POST" else {}
        return self._outage.attempt(lambda: call(body)) if needs_redis else call(body)

    def health(self, _body: dict[str, Any] | None = None) -> Response:
        """Alive, whatever Redis does: Label Studio takes anything else for "disconnected"."""
        return answer(self._up)

    def event(self, environ: WSGIEnvironment) -> bytes:
        """One event: from the WSGI request to the answer's JSON. Label Studio waits inside a Submit (fact 1)."""
        data = read_object(environ, self._limit, brief=self._brief)
        action = action_of(data)
        return orjson.dumps(self._counted(action, lambda: self._outage.attempt(lambda: self._fit(action, data))))

    def webhook(self, body: dict[str, Any]) -> Response:
        """The same for what did not take the short way."""
        action = action_of(body)
        return answer(self._counted(action, lambda: self._fit(action, body)))

    def train(self, body: dict[str, Any]) -> Response:
        """The call of older releases in place of `START_TRAINING`: a click, whose answer's ``job`` is followed."""
        uid = self._project(body.get("project"))
        label_config = read_text(body.get("label_config"), "label_config")
        if label_config:
            self._configs.check(label_config)
            self._services.state.setup(uid, label_config, None, time.time())
        found = self._counted(CLICK, lambda: self._fit(CLICK, {"action": CLICK, "project": uid}))
        return answer(found, 201)

    def setup(self, body: dict[str, Any]) -> Response:
        """A project's label config and extra params; the answer names the version that serves it (fact 17)."""
        uid = require_uid(body.get("project"))
        schema = body.get("schema")
        label_config = read_text(body.get("label_config") if schema is None else schema, "label_config")
        if label_config is None:
            raise BadInput("label_config", "is missing")
        extra_params = _extra_params(body, self._services)
        unsupported = self._configs.check(label_config)
        served, known = self._services.server.served_with(uid, Known.FIELDS)
        self._learn(uid, label_config, extra_params, unsupported, Known(*known))
        said: dict[str, Any] = {"model_version": served or ""}
        if unsupported:
            said["unsupported"] = unsupported
        return answer(said)

    def _learn(
        self, uid: str, label_config: str, extra_params: str | None, unsupported: str | None, known: Known
    ) -> None:
        """Record what is new in a ``/setup``. Label Studio calls it before almost everything: mostly nothing is."""
        state = self._services.state
        if not known.holds(label_config, extra_params):
            state.setup(uid, label_config, extra_params, time.time())
        if unsupported != (known.unsupported or None):
            state.mark(uid, unsupported=unsupported)
            if unsupported:
                log.warning("project %s: this model does not support its label config: %s", uid, unsupported)

    def prediction(self, environ: WSGIEnvironment) -> bytes:
        """`predict`, from the WSGI request to the answer's JSON: an annotator may wait for the next task's."""
        return orjson.dumps(self._answered(read_object(environ, self._limit)))

    def predict(self, body: dict[str, Any]) -> Response:
        """The same for what did not take the short way."""
        return answer(self._answered(body))

    def _answered(self, body: dict[str, Any]) -> dict[str, Any]:
        """Predictions, as many lists as tasks; a task that cannot be read has an empty one in its place (fact 26)."""
        tasks = body.get("tasks")
        if not isinstance(tasks, list):
            raise BadInput("tasks", "is missing" if tasks is None else "must be a list")
        params = object_field(body.get("params"), "params") or {}
        context = object_field(params.get("context"), "params.context")
        label_config = read_text(body.get("label_config"), "label_config") or ""
        if label_config:
            self._configs.check(label_config)
        uid = self._project(body.get("project"))
        readable = [index for index, task in enumerate(tasks) if _is_readable(task)]
        results: list[list[dict[str, Any]]] = [[] for _ in tasks]
        if readable:
            began = time.perf_counter()
            asked = [tasks[index] for index in readable]
            made = _within_depth(body, lambda: self._predicted(uid, asked, label_config, context))
            for index, predictions in zip(readable, made, strict=True):
                results[index] = predictions
            tally, answered = self._services.tally, sum(map(bool, made))
            tally.observe(metrics.PREDICTION, time.perf_counter() - began)
            tally.add(metrics.PREDICTED, "answered", by=answered)
            tally.add(metrics.PREDICTED, "empty", by=len(tasks) - answered)
        return {"results": results}

    def _predicted(
        self, uid: str, tasks: list[dict[str, Any]], label_config: str, context: dict[str, Any] | None
    ) -> list[list[dict[str, Any]]]:
        try:
            with self._turns.turn():
                deadline = self._services.settings.predict_deadline
                return self._services.server.predict(uid, tasks, label_config, context, deadline)
        except NoTurn as error:
            log.warning("project %s: %d tasks get no prediction: %s", uid, len(tasks), error)
            return [[] for _ in tasks]

    def versions(self, body: dict[str, Any]) -> Response:
        """Names of versions, newest first: of one project, or, as Label Studio names none, of all."""
        project = body.get("project")
        uids = self._services.state.uids() if project is None else [self._project(project)]
        deadline = time.monotonic() + _VERSIONS_DEADLINE_S
        found: list[tuple[float, str]] = []
        for uid in uids:
            if time.monotonic() > deadline:
                log.warning("the list of versions is cut short: reading it took more than %g s", _VERSIONS_DEADLINE_S)
                break
            try:
                found.extend((one.manifest.created_at, one.name) for one in self._services.registry.versions(uid))
            except StoreUnavailable:
                raise
            except RegistryError as error:
                log.warning("the versions of project %s are left out: %s", uid, error)
        return answer({"versions": [name for _, name in sorted(found, reverse=True)]})

    def job_status(self, body: dict[str, Any]) -> Response:
        """How a run stands; Label Studio asks on while it reads ``queued`` or ``started``, and forgets at a 410."""
        job = read_text(body.get("job"), "job")
        if job is None:
            raise BadInput("job", "is missing")
        run = self._services.runs.get(job)
        if run is None:
            raise BadInput("job", "is not known, or no longer", status=410)
        return answer(
            {
                "job_status": label_studio_status(run),
                "job": run.id,
                "project": run.uid,
                "reason": run.reason,
                "ending": run.ending,
                "error": run.error,
                "phase": run.phase,
                "fraction": run.fraction,
                "message": run.message,
                "attempts": run.attempts,
                "requested_at": run.requested_at,
                "started_at": run.started_at,
                "ended_at": run.ended_at,
            }
        )

    def delete(self, body: dict[str, Any]) -> Response:
        """The connection was removed: nothing of the project waits or trains any more. Its data and versions stay."""
        uid = self._project(body.get("project"))
        if self._services.state.load(uid) is None:
            raise ProjectUnknown("project", "is not known here")
        forget(self._services.state, self._services.runs, uid, time.time())
        return answer({"status": "deleted", "reason": "its runs are cancelled; its data and versions are kept"})

    def duplicate_model(self, body: dict[str, Any]) -> Response:
        """A project was copied; the copy starts without a model."""
        require_uid(body.get("project_src"), "project_src")
        require_uid(body.get("project_dst"), "project_dst")
        return answer({"status": "ignored", "reason": "a copied project trains its own model from its own annotations"})

    def validate(self, body: dict[str, Any]) -> Response:
        """Whether the model supports a label config."""
        config = read_text(body.get("config"), "config")
        if config is None:
            raise BadInput("config", "is missing")
        reason = self._configs.check(config, field="config")
        return answer(
            {"status": "unsupported" if reason else "ok", "reason": reason or "this label config is supported"}
        )

    def metrics(self, _body: dict[str, Any]) -> Response:
        """Prometheus text on demand, else the empty object that Label Studio's own servers answer."""
        if not metrics.wants_prometheus(request.accept_mimetypes, request.args.get("format")):
            return answer({})
        text, content_type = metrics.render(self._services, self._overview)
        return Response(text, content_type=content_type)

    def _fit(self, action: str, data: dict[str, Any]) -> dict[str, Any]:
        return _within_depth(data, lambda: self._services.backend.fit(action, data))

    def _counted(self, action: str, fit: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``fit`` gives; the event is counted by what came of it."""
        outcome: object = "failed"
        try:
            found = fit()
            outcome = found.get("status") if isinstance(found, dict) else "other"
        except BadInput:
            outcome = "refused"
            raise
        except Unavailable:
            outcome = "unanswered"
            raise
        finally:
            self._services.tally.add(metrics.EVENTS, *metrics.event_labels(action, outcome))
        return found

    def _project(self, value: object) -> str:
        """A uid from whatever names a project; Redis is asked only when it is not the uid itself."""
        if isinstance(value, str) and "." in value:
            return require_uid(value)
        project = parse_project(value)
        if project is not None and project.uid is not None:
            return project.uid
        known = self._services.state.uids()
        if project is not None:
            known = [uid for uid in known if id_of(uid) == project.id]
        if len(known) == 1:
            return known[0]
        if project is None:
            raise BadInput("project", "is missing")
        reason = f"{len(known)} known projects have this id" if known else "is not known here"
        raise ProjectUnknown("project", reason)


def _extra_params(body: dict[str, Any], services: Services) -> str | None:
    """The extra params as JSON text, checked; None when the call does not say, an empty object when it clears them."""
    if "extra_params" not in body:
        return None
    given = body["extra_params"]
    if isinstance(given, str) and given:
        try:
            given = orjson.loads(given)
        except orjson.JSONDecodeError:
            raise BadInput("extra_params", "must be a JSON object") from None
    if given is None or given == "":
        given = {}
    read_extra_params(given, services.settings.refit)
    try:
        return orjson.dumps(given).decode()
    except TypeError:
        raise BadInput("extra_params", "is nested too deeply") from None


def _within_depth(body: dict[str, Any], call: Callable[[], T]) -> T:
    """What ``call`` gives, which writes parts of ``body`` as JSON again. Raises `BadInput` where it is too deep."""
    try:
        return call()
    except TypeError as error:
        # What is decoded can be encoded again, except for its depth; only who failed pays for finding out.
        if too_deep(body):
            raise BadInput("body", "is nested too deeply") from error
        raise


def _is_readable(task: object) -> bool:
    return isinstance(task, dict) and isinstance(task.get("data"), dict)
