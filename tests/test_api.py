"""The JSON API: what each call answers, and that every answer is what the OpenAPI document says."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from ml_backend.web import create_app
from ml_backend.web.api import CALLS
from tests.calls import SENTIMENT, event, services_on, setup_body
from tests.parrot import UID, publish

if TYPE_CHECKING:
    from pathlib import Path

    import redis
    from flask.testing import FlaskClient

    from ml_backend.bootstrap import Services

NOBODY = "9.1795333883"
SETTINGS = {"LABEL_STUDIO_URL": "http://127.0.0.1:9", "LABEL_STUDIO_API_KEY": "a key"}


class Api:
    """A client that holds every answer against the document."""

    def __init__(self, web: FlaskClient) -> None:
        self._web = web
        self.document: dict[str, Any] = web.get("/api/v1/openapi.json").json
        self.seen: set[tuple[str, str, int]] = set()

    def get(self, path: str, status: int = 200) -> Any:
        return self._held("GET", path, status, self._web.get(f"/api/v1{path}"))

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        return self._held("POST", path, status, self._web.post(f"/api/v1{path}", json=body or {}))

    def _held(self, method: str, path: str, status: int, answer: Any) -> Any:
        assert answer.status_code == status, answer.text
        assert answer.content_type == "application/json"
        template = self._template(method, path)
        told = self.document["paths"][template][method.lower()]["responses"]
        schema = told[str(status)]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator({**schema, "components": self.document["components"]}).validate(answer.json)
        self.seen.add((method, template, status))
        return answer.json

    def _template(self, method: str, path: str) -> str:
        path = "/api/v1" + path.partition("?")[0]
        for template, calls in self.document["paths"].items():
            if method.lower() in calls and re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path):
                return str(template)
        raise AssertionError(f"the document does not know {method} {path}")


@pytest.fixture
def services(services: Services) -> Services:
    services.state.setup(UID, SENTIMENT, None, time.time())
    return services


@pytest.fixture
def api(web: FlaskClient) -> Api:
    return Api(web)


# --- the document -----------------------------------------------------------------------------------------------------


def test_the_document_is_openapi_3_1_and_valid(api: Api) -> None:
    assert api.document["openapi"].startswith("3.1.")
    validate(api.document)


def test_the_document_names_every_route_and_no_other(services: Services, api: Api) -> None:
    routes = {
        (method, rule.rule.replace("<", "{").replace(">", "}"))
        for rule in create_app(services).url_map.iter_rules()
        for method in rule.methods or ()
        if rule.rule.startswith("/api/") and method != "HEAD" and not rule.rule.endswith("openapi.json")
    }
    told = {(method.upper(), path) for path, calls in api.document["paths"].items() for method in calls}
    assert told == routes
    assert len(told) == len(CALLS)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_project_says_its_progress_counters_and_what_is_decided(api: Api, web: FlaskClient) -> None:
    body = event("ANNOTATION_CREATED")
    body["project"].update(id=5, created_at="2026-11-22T07:51:23.096964Z", min_annotations_to_start_training=4)
    assert web.post("/webhook", json=body).status_code == 200
    (project,) = api.get("/projects")["projects"]
    assert project == api.get(f"/projects/{UID}")
    assert project["progress"] == {"have": 1, "need": 4, "fraction": 0.25, "first": True}
    assert project["counters"]["useful_annotation_number"] == 1
    assert project["next_training"]["kind"] == "wait"
    assert "1 of 4" in project["next_training"]["reason"]


def test_drift_is_what_label_studio_counts_more_than_we_have(api: Api, web: FlaskClient) -> None:
    body = event("ANNOTATION_CREATED")
    body["project"].update(id=5, created_at="2026-11-22T07:51:23.096964Z", total_annotations_number=7)
    web.post("/webhook", json=body)
    drift = api.get(f"/projects/{UID}")["drift"]
    assert drift["missing"] == 6
    assert drift["differences"]["total_annotations_number"] == 6


def test_versions_come_newest_first_with_the_one_that_serves(api: Api, services: Services) -> None:
    first, second = publish(services.registry, "yes"), publish(services.registry, "no", promote=False)
    versions = api.get(f"/projects/{UID}/versions")["versions"]
    assert [(one["name"], one["status"]) for one in versions] == [(second, "standby"), (first, "serving")]
    assert api.get(f"/projects/{UID}")["serving"]["name"] == first


def test_decisions_come_newest_first_and_as_many_as_asked_for(api: Api, services: Services) -> None:
    for number in range(5):
        services.state.decided(UID, "wait", f"reason {number}", float(number))
    found = api.get(f"/projects/{UID}/decisions?limit=2")["decisions"]
    assert [one["reason"] for one in found] == ["reason 4", "reason 3"]


def test_sync_and_refresh_and_the_system_are_told(api: Api) -> None:
    assert api.get(f"/projects/{UID}/sync")["running"] is False
    assert api.get(f"/projects/{UID}/refresh")["status"] == ""
    assert api.get("/system")["queues"]["train"] == {"waiting": 0, "workers": 0}


def test_a_run_that_trains_tells_how_far_it_is_and_what_it_said_last(api: Api, services: Services) -> None:
    run_id = api.post(f"/projects/{UID}/runs", status=202)["run"]["id"]
    runs, now = services.runs, services.runs.time()
    runs.dispatch(UID, now, lambda *_: False)
    lease = runs.start(UID, run_id, "worker", now)
    assert lease is not None
    for step in range(1, 31):
        runs.progress(lease, "train", step / 100, f"step {step}", now)
        runs.progress(lease, "train", step / 100, f"step {step}", now)
    run = api.get(f"/runs/{run_id}")
    assert (run["phase"], run["fraction"], run["message"]) == ("train", 0.3, "step 30")
    assert [one["message"] for one in run["messages"]] == [f"step {step}" for step in range(30, 10, -1)]
    assert api.get(f"/projects/{UID}")["running"] == run


# --- ordering ---------------------------------------------------------------------------------------------------------


def test_train_now_is_a_click_that_joins_the_run_that_waits(api: Api) -> None:
    first = api.post(f"/projects/{UID}/runs", status=202)
    assert (first["joined"], first["run"]["click"], first["run"]["status"]) == (False, True, "queued")
    second = api.post(f"/projects/{UID}/runs", status=202)
    assert (second["joined"], second["run"]["id"]) == (True, first["run"]["id"])
    assert [one["id"] for one in api.get(f"/projects/{UID}/runs")["runs"]] == [first["run"]["id"]]


def test_a_waiting_run_is_cancelled_at_once_and_a_training_one_is_told(api: Api, services: Services) -> None:
    run_id = api.post(f"/projects/{UID}/runs", status=202)["run"]["id"]
    assert api.post(f"/runs/{run_id}/cancel", status=202)["outcome"] == "cancelled"
    assert api.post(f"/runs/{run_id}/cancel", status=202)["outcome"] == "over"
    run_id = api.post(f"/projects/{UID}/runs", status=202)["run"]["id"]
    now = services.runs.time()
    services.runs.dispatch(UID, now, lambda *_: False)
    services.runs.start(UID, run_id, "worker", now)
    assert api.post(f"/runs/{run_id}/cancel", status=202)["outcome"] == "cancelling"
    assert api.get(f"/runs/{run_id}")["cancelling"] is True


def test_every_order_leaves_a_line_in_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run = api.post(f"/projects/{UID}/runs", status=202)["run"]["id"]
        api.post(f"/projects/{UID}/runs", status=202)
        api.post(f"/runs/{run}/cancel", status=202)
        api.post(f"/projects/{UID}/sync", {"kind": "complete"}, status=202)
    assert [line for line in caplog.messages if line.startswith(f"project {UID}")] == [
        f"project {UID} run {run}: asked for through the API",
        f"project {UID} run {run}: asked for through the API, joined",
        f"project {UID} run {run}: to be cancelled through the API: cancelled",
        f"project {UID}: sync: complete, asked for through the API",
    ]


def test_promote_and_roll_back_move_what_serves_and_leave_a_reason(api: Api, services: Services) -> None:
    first, second = publish(services.registry, "yes"), publish(services.registry, "no", promote=False)
    moved = api.post(f"/projects/{UID}/versions/2/promote")
    assert (moved["version"], moved["before"]) == (second, first)
    assert api.get(f"/projects/{UID}")["serving"]["name"] == second
    assert api.post(f"/projects/{UID}/rollback")["version"] == first
    assert "through the API" in api.get(f"/projects/{UID}/decisions")["decisions"][0]["reason"]


@pytest.mark.parametrize("kind", ["incremental", "complete"])
def test_a_sync_is_ordered_and_the_clock_hands_it_over(api: Api, services: Services, kind: str) -> None:
    assert api.post(f"/projects/{UID}/sync", {"kind": kind}, status=202)["waiting"] is True
    assert services.jobs().depth("sync") == 0
    services.clock().tick(time.time())
    assert services.jobs().depth("sync") == 1


# --- refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("GET", f"/projects/{NOBODY}", None, 404, "project"),
        ("GET", "/projects/five", None, 400, "project"),
        ("GET", "/projects/5.1795333883%0a", None, 400, "project"),
        ("GET", f"/projects/{UID}/runs?limit=0", None, 400, "query.limit"),
        ("GET", f"/projects/{UID}/runs?limit=201", None, 400, "query.limit"),
        ("GET", f"/projects/{UID}/runs?page=2", None, 400, "query.page"),
        ("GET", f"/projects/{UID}?limit=2", None, 400, "query.limit"),
        ("GET", f"/projects/{NOBODY}/versions", None, 404, "project"),
        ("GET", "/runs/5-1795333883-1", None, 404, "run"),
        ("GET", "/runs/nonsense", None, 400, "run"),
        ("POST", "/runs/5-1795333883-1/cancel", {}, 404, "run"),
        ("POST", f"/projects/{NOBODY}/runs", {}, 404, "project"),
        ("POST", f"/projects/{UID}/runs", {"fast": True}, 400, "fast"),
        ("POST", f"/projects/{UID}/versions/0/promote", {}, 400, "version"),
        ("POST", f"/projects/{UID}/versions/-1/promote", {}, 400, "version"),
        ("POST", f"/projects/{UID}/versions/7/promote", {}, 404, "version"),
        ("POST", f"/projects/{UID}/rollback", {}, 404, "version"),
        ("POST", f"/projects/{UID}/sync", {"kind": "quick"}, 400, "kind"),
    ],
)
def test_a_wrong_request_is_refused_in_the_one_form_with_the_field(
    api: Api, method: str, path: str, body: Any, status: int, field: str
) -> None:
    answer = api.get(path, status) if method == "GET" else api.post(path, body, status)
    assert answer["error"]["field"] == field
    assert answer["error"]["reason"]


def test_what_no_page_of_another_site_could_keep_from_sending_is_not_taken(web: FlaskClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None):
        answer = web.post(f"/api/v1/projects/{UID}/runs", data=b"{}", content_type=kind)
        assert (answer.status_code, answer.json["error"]["field"]) == (415, "Content-Type")


def test_a_project_that_was_disconnected_is_neither_trained_nor_synced(api: Api, web: FlaskClient) -> None:
    web.post("/delete", json={"project": UID})
    assert api.post(f"/projects/{UID}/runs", status=409)["error"]["field"] == "project"
    assert api.post(f"/projects/{UID}/sync", status=409)["error"]["field"] == "project"
    assert api.get(f"/projects/{UID}")["connected"] is False


def test_a_sync_without_a_key_is_refused_with_what_to_do(
    redis_socket: Path, redis_client: redis.Redis, tmp_path: Path
) -> None:
    with services_on(redis_socket, tmp_path) as services:
        services.state.setup(UID, SENTIMENT, None, time.time())
        refused = Api(create_app(services).test_client()).post(f"/projects/{UID}/sync", status=409)
    assert "LABEL_STUDIO_API_KEY" in refused["error"]["reason"]


def test_a_pinned_version_is_not_moved_by_hand(api: Api, services: Services, web: FlaskClient) -> None:
    for word in ("yes", "no"):
        publish(services.registry, word)
    web.post("/setup", json=setup_body(extra_params={"refit": {"serve": 2}}))
    assert "pinned" in api.post(f"/projects/{UID}/versions/1/promote", status=409)["error"]["reason"]
    assert api.get(f"/projects/{UID}")["serving"]["pinned"] is True


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_every_call_is_behind_the_login(redis_socket: Path, tmp_path: Path, call: Any) -> None:
    path = "/api/v1" + call.path.format(uid=UID, run="5-1795333883-1", number=1)
    with services_on(redis_socket, tmp_path, BASIC_AUTH_PASS="s3cret") as services:
        web = create_app(services).test_client()
        refused = web.open(path, method=call.method, json={} if call.body else None)
        assert (refused.status_code, refused.json["error"]["field"]) == (401, "Authorization")
        assert web.open(path, method=call.method, json={}, auth=("label-studio", "s3cret")).status_code != 401


def test_status_on_the_command_line_says_the_same(api: Api, services: Services, capsys: pytest.CaptureFixture) -> None:
    from ml_backend.cli.show import show_status

    show_status(services.settings, None, as_json=True)
    assert json.loads(capsys.readouterr().out) == api.get("/projects")["projects"]
