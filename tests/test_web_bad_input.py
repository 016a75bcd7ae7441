"""What Label Studio's calls refuse: the status, the field, the status line, and that nothing is changed by it."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_backend.web import create_app
from tests.calls import SENTIMENT, event, everything, predict_body, services_on, setup_body
from tests.parrot import UID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis
    from flask.testing import FlaskClient

    from ml_backend.bootstrap import Services

JSON = "application/json"
POSTS = [
    "/setup",
    "/predict",
    "/webhook",
    "/train",
    "/versions",
    "/job_status",
    "/delete",
    "/duplicate_model",
    "/validate",
]
SETTINGS = {"ML_BACKEND_MAX_BODY": "100000"}


@dataclasses.dataclass
class Refused:
    status: int
    phrase: str
    field: str
    reason: str


def refused(web: FlaskClient, path: str, body: object = None, **how: Any) -> Refused:
    """Send it, and hold what every refusal must be: JSON that names the field, one clean status line, no traceback."""
    if body is not None:
        how["data"] = body if isinstance(body, bytes) else json.dumps(body)
        how.setdefault("content_type", JSON)
    answer = web.post(path, **how)
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json["error"]
    phrase = answer.status.partition(" ")[2]
    assert re.fullmatch(r"[ -~]{1,120}", phrase)
    assert phrase.startswith(error["field"][:20])
    assert "Traceback" not in answer.text
    return Refused(answer.status_code, phrase, error["field"], error["reason"])


# --- the body ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b'{"action": NaN}', "is not JSON"),
        (b'{"action": 1e999}', "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b'{"action": "\\ud800"}', "is not JSON"),
        (b"[" * 5000 + b"]" * 5000, "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(web: FlaskClient, path: str, body: bytes, why: str) -> None:
    answer = refused(web, path, body)
    assert (answer.status, answer.field) == (400, "body")
    assert why in answer.reason


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "json", ""]
)
def test_another_content_type_is_refused(web: FlaskClient, path: str, content_type: str) -> None:
    answer = refused(web, path, b"{}", content_type=content_type)
    assert (answer.status, answer.field) == (415, "Content-Type")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_the_content_type_may_have_parameters_and_capitals(web: FlaskClient, content_type: str) -> None:
    assert web.post("/validate", data=json.dumps({"config": SENTIMENT}), content_type=content_type).status_code == 200


def test_a_compressed_body_is_refused(web: FlaskClient) -> None:
    answer = refused(web, "/webhook", b"{}", headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.field) == (415, "Content-Encoding")


@pytest.mark.parametrize("length", ["100001", "9" * 5000])
def test_a_body_over_the_limit_is_refused_before_it_is_read(web: FlaskClient, length: str) -> None:
    class Unreadable:
        def read(self, *_: object) -> bytes:
            raise AssertionError("it was read")

    overrides = {"CONTENT_LENGTH": length, "wsgi.input": Unreadable()}
    answer = refused(web, "/webhook", content_type=JSON, environ_overrides=overrides)
    assert (answer.status, answer.field) == (413, "body")


def test_a_body_of_the_limit_is_read(web: FlaskClient) -> None:
    body = json.dumps({"config": SENTIMENT, "more": ""})
    body = body.replace('""', '"' + "x" * (100_000 - len(body)) + '"')
    assert len(body) == 100_000
    assert web.post("/validate", data=body, content_type=JSON).status_code == 200


def test_a_body_that_is_cut_short_is_refused(web: FlaskClient) -> None:
    answer = refused(web, "/webhook", b'{"action": "X"}', environ_overrides={"CONTENT_LENGTH": "50"})
    assert answer.field == "body"


# --- the fields -------------------------------------------------------------------------------------------------------

WRONG = [
    ("/setup", {}, 400, "project"),
    ("/setup", setup_body(uid="../../etc"), 400, "project"),
    ("/setup", setup_body(uid="5"), 400, "project"),
    ("/setup", setup_body(uid=f"{UID}\n"), 400, "project"),
    ("/setup", {**setup_body(), "project": 5}, 400, "project"),
    ("/setup", {**setup_body(), "project": "\u0665.1795333883"}, 400, "project"),
    ("/setup", {"project": UID}, 400, "label_config"),
    ("/setup", {**setup_body(), "schema": 7}, 400, "label_config"),
    ("/setup", setup_body(schema="<View>"), 400, "label_config"),
    ("/setup", setup_body(schema="Choices"), 400, "label_config"),
    ("/setup", setup_body(schema=""), 400, "label_config"),
    ("/setup", setup_body(schema='<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>'), 400, "label_config"),
    ("/setup", setup_body(schema="<View/>"), 400, "label_config"),
    ("/setup", setup_body(schema='<View><Text name="t" value="$text"/></View>'), 400, "label_config"),
    ("/setup", setup_body(extra_params=[]), 400, "extra_params"),
    ("/setup", setup_body(extra_params="not json"), 400, "extra_params"),
    ("/setup", setup_body(extra_params=5), 400, "extra_params"),
    ("/setup", setup_body(extra_params={"refit": 5}), 400, "extra_params.refit"),
    ("/setup", setup_body(extra_params={"refit": {"quick": True}}), 400, "extra_params.refit.quick"),
    ("/setup", setup_body(extra_params={"refit": {"retrain": {"evry": 5}}}), 400, "extra_params.refit.retrain.evry"),
    (
        "/setup",
        setup_body(extra_params={"refit": {"retrain": {"every": "x"}}}),
        400,
        "extra_params.refit.retrain.every",
    ),
    ("/predict", {"project": UID}, 400, "tasks"),
    ("/predict", predict_body({}), 400, "tasks"),  # type: ignore[arg-type]
    ("/predict", predict_body([], project="x"), 400, "project"),
    ("/predict", predict_body([], project="5.x"), 400, "project"),
    ("/predict", predict_body([], project=5), 404, "project"),
    ("/predict", predict_body([], project=True), 400, "project"),
    ("/predict", predict_body([], label_config="<View>"), 400, "label_config"),
    ("/predict", predict_body([], label_config=3), 400, "label_config"),  # type: ignore[arg-type]
    ("/predict", predict_body([], label_config="<View/>"), 400, "label_config"),
    ("/predict", predict_body([], params=[]), 400, "params"),
    ("/predict", predict_body([], params={"context": "x"}), 400, "params.context"),
    ("/webhook", {}, 400, "action"),
    ("/webhook", {"action": None}, 400, "action"),
    ("/webhook", {"action": 5}, 400, "action"),
    ("/webhook", {"action": "ANNOTATION_CREATED", "project": 5}, 400, "annotation"),
    ("/webhook", {**event("ANNOTATION_CREATED"), "project": {"id": 5}}, 404, "project.id"),
    ("/webhook", {**event("ANNOTATION_UPDATED"), "project": 5}, 404, "project.id"),
    ("/webhook", {**event("ANNOTATIONS_DELETED"), "project": {"id": 5}}, 404, "project.id"),
    ("/webhook", {"action": "START_TRAINING"}, 400, "project"),
    ("/webhook", {"action": "START_TRAINING", "project": 5}, 404, "project.id"),
    ("/webhook", {"action": "PROJECT_UPDATED", "project": {"id": 5, "created_at": "now"}}, 400, "project.created_at"),
    ("/train", {}, 400, "project"),
    ("/train", {"project": UID, "label_config": "<"}, 400, "label_config"),
    ("/train", {"project": UID, "label_config": "<View/>"}, 400, "label_config"),
    ("/versions", {"project": []}, 400, "project"),
    ("/job_status", {}, 400, "job"),
    ("/job_status", {"job": 5}, 400, "job"),
    ("/job_status", {"job": "../5-1-1"}, 410, "job"),
    ("/delete", {}, 400, "project"),
    ("/delete", {"project": UID}, 404, "project"),
    ("/duplicate_model", {}, 400, "project_src"),
    ("/duplicate_model", {"project_src": UID, "project_dst": "../x"}, 400, "project_dst"),
    ("/validate", {}, 400, "config"),
    ("/validate", {"config": 5}, 400, "config"),
    ("/validate", {"config": "<View"}, 400, "config"),
    ("/validate", {"config": "<View/>"}, 400, "config"),
]


@pytest.mark.parametrize(("path", "body", "status", "field"), WRONG)
def test_a_wrong_field_is_named_and_nothing_changes(
    web: FlaskClient, redis_client: redis.Redis, path: str, body: Any, status: int, field: str
) -> None:
    before = everything(redis_client)
    answer = refused(web, path, body)
    assert (answer.status, answer.field) == (status, field)
    assert everything(redis_client) == before


@pytest.mark.parametrize(("path", "body", "status", "field"), WRONG)
def test_a_refusal_is_one_log_line(
    web: FlaskClient, caplog: pytest.LogCaptureFixture, path: str, body: Any, status: int, field: str
) -> None:
    with caplog.at_level(logging.INFO):
        refused(web, path, body)
    (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert f"refused POST {path} with {status}: {field}: " in record.getMessage()
    assert record.exc_info is None


@pytest.mark.parametrize("depth", [300, 900], ids=lambda depth: f"{depth} levels")
def test_what_is_nested_too_deeply_is_refused_and_changes_nothing(
    web: FlaskClient, redis_client: redis.Redis, depth: int
) -> None:
    body = event("ANNOTATION_CREATED")
    body["task"]["data"]["text"] = "the deep one"
    deep = json.dumps(body).replace('"the deep one"', "[" * depth + "]" * depth).encode()
    before = everything(redis_client)
    answer = refused(web, "/webhook", deep)
    assert (answer.status, answer.field) == (400, "body")
    assert everything(redis_client) == before
    params = json.dumps(setup_body(extra_params={"own": 5})).replace("5}", "[" * depth + "]" * depth + "}").encode()
    assert refused(web, "/setup", params).field == "extra_params"


def test_wrong_keys_below_refit_leave_the_last_valid_settings_in_force(web: FlaskClient, services: Services) -> None:
    web.post("/setup", json=setup_body(extra_params={"refit": {"retrain": {"every": 5}}}))
    answer = refused(web, "/setup", setup_body(extra_params={"refit": {"retrain": {"evry": 9}}}))
    assert answer.phrase == "extra_params.refit.retrain.evry: no such setting"
    project = services.state.load(UID)
    assert project is not None
    assert services.project_settings.of(project).retrain.every == 5


def test_what_was_sent_can_forge_neither_the_status_line_nor_the_log(
    web: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    key = "a\r\nX-Evil: yes\r\n\r\n\x1b[31mключ"
    answer = refused(web, "/setup", setup_body(extra_params={"refit": {key: 1}}))
    assert answer.phrase.startswith("extra_params.refit.a??X-Evil: yes????")
    assert "\n" not in caplog.text.rstrip("\n")
    assert "\x1b" not in caplog.text


def test_a_long_name_is_cut_in_the_status_line(web: FlaskClient) -> None:
    answer = refused(web, "/setup", setup_body(extra_params={"refit": {"k" * 5000: 1}}))
    assert len(answer.phrase) == 120
    assert len(answer.field) <= 400


def test_other_paths_and_methods_are_refused_in_the_same_form(web: FlaskClient) -> None:
    missing = web.get("/admin")
    assert (missing.status_code, missing.json) == (
        404,
        {"error": {"field": "path", "reason": "is no call of this backend"}},
    )
    wrong = web.get("/webhook")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
    assert wrong.json["error"]["field"] == "method"
    assert web.options("/webhook").status_code == 405


def test_a_mistake_of_ours_answers_with_an_incident_that_leads_to_the_log(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def check(self, _config: str) -> None:
            return None

        def fit(self, *_: object) -> None:
            raise KeyError("a secret detail")

    web = create_app(dataclasses.replace(services, backend=Broken())).test_client()  # type: ignore[arg-type]
    answer = web.post("/webhook", json=event("ANNOTATION_CREATED"))
    assert answer.status_code == 500
    assert "secret detail" not in answer.text + answer.status
    (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    incident = re.search(r"incident \w{12}", answer.json["error"]["reason"])
    assert incident is not None
    assert incident[0] in record.getMessage()
    assert record.exc_info is not None


# --- anything at all --------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        *("project", "tasks", "schema", "label_config", "extra_params", "refit", "params", "context", "action", "x"),
        *("annotation", "annotations", "task", "id", "result", "data", "created_at", "job", "config", "project_src"),
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from([UID, "5", "ANNOTATION_CREATED", "TASKS_DELETED", "START_TRAINING", "PROJECT_UPDATED", SENTIMENT]),
)
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=5), max_leaves=12
)
BODIES = st.dictionaries(KEYS, VALUES, max_size=7)


@pytest.fixture(scope="module")
def any_web(redis_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    with services_on(redis_socket, tmp_path_factory.mktemp("store")) as services:
        yield create_app(services).test_client()


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(POSTS), body=BODIES)
def test_any_object_is_answered_or_refused_but_never_an_error_of_ours(
    any_web: FlaskClient, path: str, body: dict[str, Any]
) -> None:
    answer = any_web.post(path, data=json.dumps(body), content_type=JSON)
    assert answer.status_code < 500, answer.text
    assert answer.json is not None


@settings(max_examples=200)
@given(path=st.sampled_from(POSTS), body=st.binary(max_size=60))
def test_any_bytes_are_refused(any_web: FlaskClient, path: str, body: bytes) -> None:
    answer = any_web.post(path, data=body, content_type=JSON)
    assert answer.status_code in {200, 201, 400, 404, 410}, answer.text
