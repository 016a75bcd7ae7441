"""A project whose runs failed three times in a row: everybody can see why, until a click or a label lifts it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from ml_backend.cli.jobs import show_jobs
from ml_backend.cli.show import show_status
from tests.calls import SENTIMENT, event, fail, services_on
from tests.parrot import UID
from tests.valkey import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask.testing import FlaskClient

    from ml_backend.bootstrap import Services

WHY = "3 runs failed in a row; the last one: CUDA is out of memory"
GAUGE = f'ml_backend_training_paused{{project="{UID}"}}'


@pytest.fixture
def services(redis_socket: Path, tmp_path: Path) -> Iterator[Services]:
    with connect(redis_socket) as client:
        client.flushall()
    with services_on(redis_socket, tmp_path) as services:
        services.state.setup(UID, SENTIMENT, None, time.time())
        for _ in range(3):
            fail_again(services)
        yield services


def fail_again(services: Services) -> None:
    fail(services, UID, "CUDA is out of memory", "Traceback: in train")


def page(web: FlaskClient, path: str) -> str:
    return web.get(path, headers={"Accept": "text/html"}).text


def metrics(web: FlaskClient) -> str:
    return web.get("/metrics", headers={"Accept": "text/plain"}).text


def test_the_page_says_why_and_what_to_do(web: FlaskClient) -> None:
    assert WHY in page(web, "/")
    shown = page(web, f"/projects/{UID}")
    assert f"Automatic training is paused: {WHY}." in shown
    assert "tries again" in shown
    assert "in train" not in shown, "the traceback is the operator's"


def test_the_api_says_why(web: FlaskClient) -> None:
    assert web.get(f"/api/v1/projects/{UID}").json["paused"] == WHY


def test_the_command_line_says_why(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    show_status(services.settings, None, as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 runs" in shown
    assert "memory" in shown
    show_status(services.settings, None, as_json=True)
    assert WHY in capsys.readouterr().out
    show_jobs(services.settings, None, limit=5, as_json=True)
    assert "CUDA is out of memory" in capsys.readouterr().out


def test_the_operator_reads_the_traceback_of_a_failed_run(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = services.runs.history(UID)[0].id
    show_jobs(services.settings, run_id, limit=5, as_json=False)
    shown = capsys.readouterr().out
    assert f"run {run_id} failed" in shown
    assert "Traceback: in train" in shown
    show_jobs(services.settings, run_id, limit=5, as_json=True)
    assert json.loads(capsys.readouterr().out)["traceback"] == "Traceback: in train"


def test_the_metrics_can_raise_an_alarm(web: FlaskClient) -> None:
    assert f"{GAUGE} 1.0" in metrics(web)


def test_a_click_lifts_it_everywhere(web: FlaskClient) -> None:
    asked = web.post(f"/api/v1/projects/{UID}/runs", json={}).json
    assert asked["run"]["status"] == "queued"
    assert web.get(f"/api/v1/projects/{UID}").json["paused"] is None
    assert "paused" not in page(web, f"/projects/{UID}").lower()
    assert f"{GAUGE} 0.0" in metrics(web)


def test_a_changed_training_set_lifts_it_everywhere(web: FlaskClient, services: Services) -> None:
    body = event("ANNOTATION_CREATED")
    body["project"].update(id=5, created_at="2026-11-22T07:51:23.096964Z")
    assert web.post("/webhook", json=body).json["status"] == "recorded"
    services.clock().consider(UID, services.runs.time())
    assert web.get(f"/api/v1/projects/{UID}").json["paused"] is None
    assert f"{GAUGE} 0.0" in metrics(web)
    decisions = web.get(f"/api/v1/projects/{UID}/decisions").json["decisions"]
    assert any(one["kind"] == "resumed" for one in decisions)
