"""Who may call: Basic auth as Label Studio sends it, a secret header on webhooks, and `/health` for everybody."""

from __future__ import annotations

import base64
import logging
import time
from typing import TYPE_CHECKING

import pytest
import requests

from ml_backend.errors import BadInput
from ml_backend.web import create_app
from ml_backend.web.auth import SECRET_HEADER, Gate
from ml_backend.web.failed_logins import DELAY_S, FREE, WINDOW_S, FailedLogins
from tests.calls import WebProcess, environment, event, everything, services_on, setup_body

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis
    from flask.testing import FlaskClient

PASSWORD = "näve:pass word"
EXTRA = "the next one"
CREDENTIALS = {
    "BASIC_AUTH_USER": "anna",
    "BASIC_AUTH_PASS": PASSWORD,
    "ML_BACKEND_BASIC_AUTH_EXTRA": f"{EXTRA}, пароль",
}
CLOSED = [
    ("GET", "/"),
    ("GET", "/versions"),
    ("GET", "/metrics"),
    ("GET", "/no/such/path"),
    ("GET", "/webhook"),
    *(("POST", path) for path in ("/setup", "/predict", "/webhook", "/train", "/versions", "/job_status", "/delete")),
    ("POST", "/duplicate_model"),
    ("POST", "/validate"),
]


def basic(user: str, password: str, encoding: str = "utf-8") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode(encoding)).decode()}


@pytest.fixture
def web(redis_socket: Path, redis_client: redis.Redis, tmp_path: Path) -> Iterator[FlaskClient]:
    with services_on(redis_socket, tmp_path, **CREDENTIALS) as services:
        yield create_app(services).test_client()


def test_without_credentials_set_everybody_may_call(redis_socket: Path, tmp_path: Path) -> None:
    with services_on(redis_socket, tmp_path) as services:
        assert create_app(services).test_client().post("/setup", json=setup_body()).status_code == 200


def test_health_is_open(web: FlaskClient) -> None:
    assert web.get("/health").status_code == 200


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_everything_else_is_closed_and_changes_nothing(
    web: FlaskClient, redis_client: redis.Redis, method: str, path: str
) -> None:
    before = everything(redis_client)
    answer = web.open(path, method=method, json=setup_body() if method == "POST" else None)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert answer.json["error"]["field"] == "Authorization"
    assert everything(redis_client) == before


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_the_login_may_come_in_the_encoding_of_browsers_or_of_requests(web: FlaskClient, encoding: str) -> None:
    assert web.post("/setup", json=setup_body(), headers=basic("anna", PASSWORD, encoding)).status_code == 200


@pytest.mark.parametrize("password", [PASSWORD, EXTRA, "пароль"])
def test_every_password_is_valid_while_they_are_rotated(web: FlaskClient, password: str) -> None:
    assert web.get("/versions", headers=basic("anna", password)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        basic("anna", "wrong"),
        basic("anna", ""),
        basic("anna", PASSWORD + "x"),
        basic("anna", f"{EXTRA}, пароль"),
        basic("otto", PASSWORD),
        basic("", PASSWORD),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic ünïcode".encode().decode("latin-1")},
        {"Authorization": basic("anna", PASSWORD)["Authorization"].replace("Basic", "Bearer")},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()},
        {SECRET_HEADER: PASSWORD.encode().decode("latin-1")},
    ],
)
def test_a_wrong_login_is_refused(web: FlaskClient, headers: dict[str, str]) -> None:
    assert web.get("/versions", headers=headers).status_code == 401


@pytest.mark.parametrize("password", [PASSWORD, EXTRA])
def test_a_webhook_may_carry_the_password_in_a_header_instead(web: FlaskClient, password: str) -> None:
    headers = {SECRET_HEADER: password.encode().decode("latin-1")}
    assert web.post("/webhook", json=event("ANNOTATION_CREATED"), headers=headers).status_code == 200


def test_a_webhook_with_a_wrong_header_is_refused(web: FlaskClient) -> None:
    answer = web.post("/webhook", json=event("ANNOTATION_CREATED"), headers={SECRET_HEADER: "wrong"})
    assert answer.status_code == 401


def test_the_log_says_that_the_webhook_that_label_studio_makes_carries_no_credentials(
    web: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    web.post("/webhook", json=event("ANNOTATION_CREATED"))
    assert SECRET_HEADER in caplog.text


def test_neither_the_log_nor_the_answer_repeats_a_password(web: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = web.get("/versions", headers=basic("anna", "almost right"))
        web.post("/webhook", json={}, headers={SECRET_HEADER: "almost right"})
    for text in (caplog.text, answer.text, answer.status):
        assert "almost" not in text
        assert "anna" not in text


def test_a_url_with_credentials_in_it_opens_the_real_server(redis_socket: Path, tmp_path: Path) -> None:
    with WebProcess(environment(redis_socket, tmp_path, BASIC_AUTH_USER="anna", BASIC_AUTH_PASS="s3cret/ä")) as process:
        url = f"anna:s3cret%2F%C3%A4@127.0.0.1:{process.port}"
        with requests.Session() as session:
            session.trust_env = False
            # As Label Studio does it: requests takes the credentials out of the URL.
            event_answer = session.post(f"http://{url}/webhook", json=event("ANNOTATION_CREATED"), timeout=10)
            closed = session.get(f"http://127.0.0.1:{process.port}/versions", timeout=10)
    assert event_answer.status_code == 200
    assert (closed.status_code, closed.reason) == (401, "Authorization: no credentials")


# --- wrong logins -----------------------------------------------------------------------------------------------------


class Ticking:
    """A clock that stands still until somebody sleeps or it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_after_ten_wrong_logins_an_address_is_told_to_wait_and_a_valid_login_from_it_still_passes(
    web: FlaskClient,
) -> None:
    statuses = [web.get("/versions", headers=basic("anna", f"guess {number}")).status_code for number in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    refused = web.post("/webhook", json=event("ANNOTATION_CREATED"), headers={SECRET_HEADER: "a guess"})
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")
    began = time.monotonic()
    for _ in range(3):
        assert web.get("/versions", headers=basic("anna", PASSWORD)).status_code == 200
    assert time.monotonic() - began < DELAY_S


def test_another_address_is_not_concerned(web: FlaskClient) -> None:
    for number in range(12):
        web.get("/versions", headers=basic("anna", f"guess {number}"))
    answer = web.get("/versions", headers=basic("anna", "x"), environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    assert answer.status_code == 401


def test_requests_without_credentials_are_no_guesses(web: FlaskClient) -> None:
    answers = [web.post("/webhook", json=event("ANNOTATION_CREATED")) for _ in range(FREE + 5)]
    assert {answer.status_code for answer in answers} == {401}


def test_wrong_logins_are_slowed_down_from_the_eleventh_on_for_a_minute() -> None:
    clock = Ticking()
    failures = FailedLogins(clock=clock, sleep=clock.sleep)
    assert [failures.failed("192.0.2.1") for _ in range(13)] == [False] * 10 + [True] * 3
    assert clock.slept == [DELAY_S] * 3
    clock.now += WINDOW_S
    assert failures.failed("192.0.2.1") is False


def test_no_more_threads_than_allowed_are_held_up() -> None:
    clock = Ticking()
    failures: FailedLogins
    depth: list[int] = []

    def sleep(_seconds: float) -> None:
        depth.append(len(depth))
        failures.failed("192.0.2.1")  # while this one sleeps

    failures = FailedLogins(sleepers=2, clock=clock, sleep=sleep)
    for _ in range(FREE + 1):
        failures.failed("192.0.2.1")
    assert depth == [0, 1]


def test_memory_is_bounded_whoever_tries() -> None:
    clock = Ticking()
    failures = FailedLogins(clock=clock, sleep=clock.sleep)
    for number in range(5000):
        failures.failed(f"192.0.{number // 256}.{number % 256}")
    assert len(failures) == 1024


def test_a_flood_of_wrong_logins_is_a_handful_of_lines_that_name_the_address_and_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Ticking()
    failures = FailedLogins(clock=clock, sleep=clock.sleep)
    gate = Gate("anna", [PASSWORD], failures)
    flood = {"REMOTE_ADDR": "192.0.2.66", "HTTP_AUTHORIZATION": basic("anna", "almost right")["Authorization"]}
    for _ in range(1000):
        with pytest.raises(BadInput):
            gate.require(flood, "versions")
    clock.now += WINDOW_S
    failures.failed("192.0.2.7")
    about = [one.getMessage() for one in caplog.records if "192.0.2.66" in one.getMessage()]
    assert len(about) == FREE + 2
    assert about[-1] == "1000 failed logins came from 192.0.2.66 within a minute"
    assert "almost" not in caplog.text
    assert flood["HTTP_AUTHORIZATION"].partition(" ")[2] not in caplog.text
