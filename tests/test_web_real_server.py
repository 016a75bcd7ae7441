"""The web under its real server: status lines, bodies in chunks, and a Redis that stands still."""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.calls import BOXES, SENTIMENT, WebProcess, environment, event, predict_body, services_on, setup_body
from tests.loopback import Answer, Loopback
from tests.parrot import publish, tasks, word_of
from tests.running import wait_until
from tests.valkey import connect, running_valkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.loopback import Received


@pytest.fixture(scope="module")
def stalling() -> Iterator[tuple[Path, int]]:
    """A Valkey of its own that tests may stop: (socket, pid)."""
    with running_valkey() as socket, connect(socket) as client:
        yield socket, int(client.info("server")["process_id"])


@pytest.fixture
def process(stalling: tuple[Path, int], tmp_path: Path) -> Iterator[WebProcess]:
    socket, pid = stalling
    with connect(socket) as client:
        client.flushall()
    with WebProcess(environment(socket, tmp_path, ML_BACKEND_MAX_BODY="100000")) as process:
        yield process
        os.kill(pid, signal.SIGCONT)


def test_the_reason_reaches_the_status_line_of_the_real_server(process: WebProcess) -> None:
    answer = process.ask("POST", "/setup", setup_body(extra_params={"refit": {"quick": True}}))
    assert (answer.status, answer.reason) == (400, "extra_params.refit.quick: no such setting")
    assert answer.json == {"error": {"field": "extra_params.refit.quick", "reason": "no such setting"}}


def test_a_body_in_chunks_is_read_up_to_the_limit(process: WebProcess) -> None:
    whole = json.dumps({"config": SENTIMENT}).encode()
    assert process.ask("POST", "/validate", iter([whole[:20], whole[20:]])).status == 200
    answer = process.ask("POST", "/validate", iter([b"x" * 60_000, b"x" * 60_000]))
    assert (answer.status, answer.json["error"]["field"]) == (413, "body")


def test_a_body_over_the_limit_is_refused_by_the_real_server(process: WebProcess) -> None:
    answer = process.ask("POST", "/webhook", b"x" * 100_001)
    assert (answer.status, answer.reason) == (413, "body: is larger than 100000 bytes")


def test_a_redis_that_stands_still_costs_half_a_second_and_predictions_go_on(
    process: WebProcess, stalling: tuple[Path, int], tmp_path: Path
) -> None:
    socket, pid = stalling
    assert process.ask("POST", "/setup", setup_body()).status == 200
    with services_on(socket, tmp_path) as services:
        publish(services.registry, "yes")
    wait_until(lambda: said(process), 10, "the version serves")
    os.kill(pid, signal.SIGSTOP)
    try:
        took = []
        for _ in range(5):
            began = time.monotonic()
            answer = process.ask("POST", "/webhook", event("ANNOTATION_CREATED"))
            took.append(time.monotonic() - began)
            assert (answer.status, answer.reason) == (503, "Redis does not answer, try again")
            assert str(socket) not in answer.body.decode()
        # A machine that does other things too may hold up a single one.
        assert statistics.median(took) < 0.5
        took = []
        for path, body in (
            ("/setup", setup_body()),
            ("/job_status", {"job": "5-1795333883-1"}),
            ("/train", setup_body()),
        ):
            began = time.monotonic()
            assert process.ask("POST", path, body).status == 503
            took.append(time.monotonic() - began)
        assert statistics.median(took) < 0.5
        took = []
        for _ in range(3):
            began = time.monotonic()
            assert said(process) == "yes"
            assert process.ask("GET", "/health").status == 200
            took.append(time.monotonic() - began)
        assert statistics.median(took) < 0.5
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: process.ask("POST", "/webhook", event("ANNOTATION_CREATED")).status == 200, 5, "it recovers")


def test_a_crowd_of_events_on_a_redis_that_stands_still_holds_up_neither_each_other_nor_predictions(
    process: WebProcess, stalling: tuple[Path, int], tmp_path: Path
) -> None:
    socket, pid = stalling
    with services_on(socket, tmp_path) as services:
        publish(services.registry, "yes")
    wait_until(lambda: said(process), 10, "the version serves")

    def send() -> tuple[int, float]:
        began = time.monotonic()
        status = process.ask("POST", "/webhook", event("ANNOTATION_CREATED")).status
        return status, time.monotonic() - began

    os.kill(pid, signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        wait_until(lambda: send()[0] == 503 and time.monotonic() - stopped > 1.5, 5, "the outage is known")
        with ThreadPoolExecutor(max_workers=32) as crowd:
            answers = [crowd.submit(send) for _ in range(64)]
            began = time.monotonic()
            assert said(process) == "yes"
            predicted_after = time.monotonic() - began
        assert {answer.result()[0] for answer in answers} == {503}
        took = [answer.result()[1] for answer in answers]
        # One after the other on 8 threads, the last would have waited for 2.8 s, half of them for 1.4.
        assert statistics.median(took) < 0.5
        assert max(took) < 1.5
        assert predicted_after < 1.0
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: send()[0] == 200, 5, "it recovers")


def test_a_redis_that_stands_still_holds_nobody_up_where_predict_workers_hold_the_models(
    stalling: tuple[Path, int], tmp_path: Path
) -> None:
    socket, pid = stalling
    with connect(socket) as client:
        client.flushall()
    with WebProcess(environment(socket, tmp_path, ML_BACKEND_PREDICT="worker")) as process:
        assert process.ask("POST", "/setup", setup_body()).status == 200
        os.kill(pid, signal.SIGSTOP)
        try:
            # A label config that nobody was asked about yet: a predict worker would have to say.
            for schema in (SENTIMENT, SENTIMENT.replace("yes", "maybe")):
                began = time.monotonic()
                assert process.ask("POST", "/setup", setup_body(schema=schema)).status == 503
                assert time.monotonic() - began < 2.5  # Label Studio gives up after 3 s
            began = time.monotonic()
            answer = process.ask("POST", "/predict", predict_body(tasks("one", "two")))
            assert (answer.status, answer.json["results"]) == (200, [[], []])
            assert time.monotonic() - began < 2.5
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: process.ask("POST", "/setup", setup_body()).status == 200, 10, "it recovers")


def said(process: WebProcess) -> str | None:
    """What the served version says of a task; None before there is one."""
    results = process.ask("POST", "/predict", predict_body(tasks("one"))).json["results"]
    return word_of(results[0]) if results[0] else None


def test_files_that_label_studio_does_not_send_hold_up_one_prediction_and_neither_the_others_nor_events(
    stalling: tuple[Path, int], tmp_path: Path
) -> None:
    socket, _ = stalling
    with connect(socket) as client:
        client.flushall()
    asked, over = threading.Event(), threading.Event()

    def silent(_request: Received) -> Answer:
        asked.set()
        over.wait(120)
        return Answer(status=503)

    def predicted(number: int) -> list[list[dict[str, object]]]:
        task = {"id": number, "data": {"image": f"/data/upload/5/{number}.png"}}
        answer = process.ask("POST", "/predict", predict_body([task], label_config=BOXES))
        assert answer.status == 200
        return list(answer.json["results"])

    with Loopback(silent) as studio, ThreadPoolExecutor(8) as pool:
        told = {
            "ML_BACKEND_MODEL": "tests.models.looking:Looker",
            "ML_BACKEND_DATA_DIR": str(tmp_path / "data"),
            "LABEL_STUDIO_URL": studio.url,
            "LABEL_STUDIO_API_KEY": "a" * 40,
            "THREADS": "4",
        }
        with WebProcess(environment(socket, tmp_path) | told) as process:
            try:
                with services_on(socket, tmp_path) as services:
                    publish(services.registry, "yes")
                crowd = [pool.submit(predicted, number) for number in range(8)]
                wait_until(asked.is_set, 10, "a file is asked for")
                began = time.monotonic()
                wait_until(lambda: sum(one.done() for one in crowd) == 7, 15, "the others are answered")
                assert [one.result() for one in crowd if one.done()] == [[[]]] * 7
                assert process.ask("POST", "/webhook", event("ANNOTATION_CREATED")).status == 200
                assert time.monotonic() - began < 17, "one file is waited for for 20 s"
                assert len(studio.received) == 1
            finally:
                over.set()


def test_slow_predictions_leave_a_thread_to_events(stalling: tuple[Path, int], tmp_path: Path) -> None:
    socket, _ = stalling
    with connect(socket) as client:
        client.flushall()
    body = predict_body(tasks(*["x"] * 600))  # 10 ms a task

    with (
        WebProcess(environment(socket, tmp_path, THREADS="3")) as process,
        services_on(socket, tmp_path) as services,
        ThreadPoolExecutor(8) as pool,
    ):
        assert process.ask("POST", "/setup", setup_body()).status == 200
        publish(services.registry, "takes its time")
        wait_until(lambda: said(process), 10, "the version serves")
        crowd = [pool.submit(process.ask, "POST", "/predict", body) for _ in range(8)]
        wait_until(lambda: sum(one.done() for one in crowd) >= 6, 9, "the others are answered")
        assert process.ask("POST", "/webhook", event("ANNOTATION_CREATED")).status == 200
        assert sum(one.done() for one in crowd) == 6, "two are at it for 6 s"
        found = sorted(sum(map(bool, one.result().json["results"])) for one in crowd)
        assert found == [0] * 6 + [600] * 2
