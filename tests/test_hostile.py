"""Hostile names and texts: in paths, ids and titles, on the page, in a terminal and in a log."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from ml_backend.bootstrap import make_services
from ml_backend.settings import Settings
from ml_backend.web import create_app
from tests.calls import environment, event, everything, setup_body
from tests.parrot import UID, publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis
    from flask.testing import FlaskClient

    from ml_backend.bootstrap import Services

NAMES = [
    "../../etc/passwd",
    "..%2f..%2fetc",
    "/etc/passwd",
    "5.1795333883/../6.1795333883",
    "5.1795333883\n",
    "5.1795333883\0",
    "*",
    "mlb:{5.1795333883}:meta",
    "{5.1795333883}",
    "5.1795333883-1:messages",
    "\u0665.1795333883",
    "\u202e5.1795333883",
    "x" * 5000,
]
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\nINFO fake line\u2028[red]x[/red][link=http://203.0.113.9]y[/link]"


@pytest.fixture
def services(valkey_socket: Path, valkey: redis.Redis, tmp_path: Path) -> Iterator[Services]:
    services = make_services(Settings.from_environment(environment(valkey_socket, tmp_path)), timeout_s=5)
    yield services
    services.close()


@pytest.fixture
def web(services: Services) -> FlaskClient:
    web = create_app(services).test_client()
    assert web.post("/setup", json=setup_body()).status_code == 200
    publish(services.registry, "yes")
    return web


@pytest.mark.parametrize("name", NAMES)
def test_no_name_from_outside_becomes_a_path_or_a_key(
    web: FlaskClient, valkey: redis.Redis, tmp_path: Path, name: str
) -> None:
    files = sorted(tmp_path.rglob("*"))
    before = everything(valkey)
    for path, body in (
        ("setup", setup_body(uid=name)),
        ("predict", {"tasks": [], "project": name}),
        ("job_status", {"job": name}),
        ("delete", {"project": name}),
        ("train", setup_body(uid=name)),
        ("versions", {"project": name}),
        ("duplicate_model", {"project_src": name, "project_dst": UID}),
    ):
        assert web.post(f"/{path}", json=body).status_code in {400, 404, 410}, path
    quoted = quote(name)
    for method, path in (
        ("GET", f"projects/{quoted}"),
        ("GET", f"projects/{quoted}/versions"),
        ("POST", f"projects/{quoted}/runs"),
        ("POST", f"projects/{UID}/versions/{quoted}/promote"),
        ("GET", f"runs/{quoted}"),
        ("POST", f"runs/{quoted}/cancel"),
    ):
        answer = web.open(f"/api/v1/{path}", method=method, json={} if method == "POST" else None)
        assert 300 <= answer.status_code < 500, (path, answer.text)
    assert everything(valkey) == before
    assert sorted(tmp_path.rglob("*")) == files


def test_a_title_with_terminal_codes_and_markup_is_shown_as_text_on_a_terminal(
    services: Services, web: FlaskClient
) -> None:
    body = event("ANNOTATION_CREATED")
    body["project"]["title"] = ESCAPES
    assert web.post("/webhook", json=body).status_code == 200
    address = services.settings.redis_url
    assert address is not None
    for arguments in (["status"], ["jobs"], ["status", "--json"]):
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "ml_backend.cli", *arguments],
            env={"REDIS_URL": address.get_secret_value(), "COLUMNS": "300", "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        for code in ("\x1b", "\x9b", "\x07", "\r"):
            assert code not in ran.stdout + ran.stderr, arguments
        assert "\nINFO fake line" not in ran.stdout


def test_a_title_with_terminal_codes_is_one_line_of_the_log(services: Services, web: FlaskClient) -> None:
    import logging

    from ml_backend.logs import OneLine

    record = logging.LogRecord("x", logging.INFO, "", 1, "project %s", (ESCAPES,), None)
    line = OneLine("%(message)s").format(record)
    assert line.isprintable()
    assert "owned" in line
