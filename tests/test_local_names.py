"""Without a password on a loopback address, only who calls this machine by a name of its own is let in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ml_backend.errors import BadInput
from ml_backend.settings import Settings
from ml_backend.web import create_app
from ml_backend.web.local_names import LocalNames
from tests.calls import WebProcess, environment, event, everything, predict_body, services_on, setup_body

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

REBOUND = "attacker.example:9090"
CALLS = [
    ("GET", "/"),
    ("GET", "/metrics"),
    ("GET", "/api/v1/projects"),
    ("GET", "/no/such/path"),
    ("POST", "/webhook"),
    ("POST", "/setup"),
    ("POST", "/predict"),
    ("POST", "/train"),
]


@pytest.fixture(scope="module")
def web(redis_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """A real one, on 127.0.0.1 and without a password."""
    with WebProcess(environment(redis_socket, tmp_path_factory.mktemp("data"))) as running:
        yield running


def admits(host: str | None, url: str | None = None) -> bool:
    try:
        LocalNames(url).require({} if host is None else {"HTTP_HOST": host}, "setup")
    except BadInput as refused:
        return refused.status != 403
    return True


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_page_that_leads_its_own_name_here_gets_nothing_and_changes_nothing(
    web: WebProcess, redis_client: redis.Redis, method: str, path: str
) -> None:
    before = everything(redis_client)
    body = {"/webhook": event("ANNOTATION_CREATED"), "/predict": predict_body([])}.get(path, setup_body())
    answer = web.ask(method, path, body if method == "POST" else None, Host=REBOUND)
    assert answer.status == 403
    assert answer.json["error"]["field"] == "Host"
    assert "BASIC_AUTH_PASS" in answer.reason
    assert "ML_BACKEND_URL" in answer.reason
    assert everything(redis_client) == before


def test_an_event_with_an_unusual_head_is_refused_too(web: WebProcess, redis_client: redis.Redis) -> None:
    before = everything(redis_client)
    answer = web.ask("POST", "/webhook", event("ANNOTATION_CREATED"), Host=REBOUND, TE="trailers")
    assert answer.status == 403
    assert everything(redis_client) == before


def test_label_studio_on_this_machine_is_let_in(web: WebProcess) -> None:
    for host in ("127.0.0.1", "localhost", "host.docker.internal"):
        answer = web.ask("POST", "/webhook", event("ANNOTATION_CREATED"), Host=f"{host}:{web.port}")
        assert answer.status == 200, host
    assert web.ask("POST", "/setup", setup_body(), Host="localhost").status == 200


def test_whether_it_lives_may_be_asked_by_any_name(web: WebProcess) -> None:
    assert web.ask("GET", "/health", Host=REBOUND).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:9090", "LOCALHOST:9090", "localhost.:9090", "backend.localhost"),
        *("127.0.0.1", "127.0.0.1:9090", "127.8.9.1:80", "[::1]:9090", "[::1]"),
        *("host.docker.internal:9090", "host.containers.internal:9090", None),
    ],
)
def test_names_of_this_machine_are_let_in(host: str | None) -> None:
    assert admits(host)


@pytest.mark.parametrize(
    "host",
    [
        *("attacker.example", "attacker.example:9090", "localhost.attacker.example", "127.0.0.1.attacker.example"),
        *("notlocalhost", "localhost:9090@attacker.example", "localhost,attacker.example", "127.0.0.1, localhost"),
        *("10.0.0.5:9090", "0.0.0.0:9090", "[::]:9090", "[::1", "::1", "", ":9090", "localhost:port", "2130706433"),
    ],
)
def test_every_other_name_is_refused(host: str) -> None:
    assert not admits(host)


def test_the_address_that_the_operator_names_is_let_in_and_no_other() -> None:
    assert admits("Labels.example", "https://labels.example/backend")
    assert admits("labels.example:443", "https://labels.example/backend")
    assert not admits("attacker.example", "https://labels.example/backend")


def test_refused_names_are_not_remembered_and_admitted_ones_up_to_a_limit() -> None:
    names = LocalNames(None)
    for number in range(1000):
        names.require({"HTTP_HOST": f"localhost:{number}"}, "setup")
        with pytest.raises(BadInput, match="no name of this machine"):
            names.require({"HTTP_HOST": f"attacker{number}.example"}, "setup")
    assert len(names._admitted) <= 64


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ({}, True),
        ({"ML_BACKEND_INSECURE": "true"}, True),
        ({"ML_BACKEND_HOST": "0.0.0.0", "ML_BACKEND_INSECURE": "true"}, False),
        ({"BASIC_AUTH_PASS": "secret"}, False),
    ],
)
def test_it_is_asked_only_on_a_loopback_address_without_a_password(told: dict[str, str], asked: bool) -> None:
    assert (LocalNames.needed(Settings.from_environment(told)) is not None) is asked


def test_a_browser_is_told_on_a_page(redis_socket: Path, tmp_path: Path) -> None:
    with services_on(redis_socket, tmp_path) as services:
        page = create_app(services).test_client().get("/", headers={"Host": REBOUND, "Accept": "text/html"})
    assert page.status_code == 403
    assert "BASIC_AUTH_PASS" in page.text
