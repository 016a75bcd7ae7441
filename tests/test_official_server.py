"""The same TrainingBackend under label-studio-ml's own server: fit enqueues, our workers train, predict serves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend import generations
from ml_backend.errors import SettingsError
from tests.models.counting import CountingModel
from tests.running import free_port, wait_until
from tests.valkey import running_valkey
from tests.wheel import CONFIG, UID, annotated

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent


@contextmanager
def process(argv: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("ab") as file:
        running = subprocess.Popen(
            argv, env={**os.environ, **environment}, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def post(port: int, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return answer.status, json.loads(answer.read())


def up(port: int) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"http://127.0.0.1:{port}/health", timeout=5
        ) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.skipif(generations.installed() is None, reason="no label-studio-ml is installed")
def test_fit_enqueues_our_worker_trains_and_predict_serves(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    port = free_port()
    with running_valkey() as socket:
        environment = {
            "REDIS_URL": f"unix://{socket}",
            "ML_BACKEND_STORE": str(tmp_path / "versions"),
            "ML_BACKEND_DATA_DIR": str(tmp_path / "data"),
            "ML_BACKEND_RETRAIN_MIN_ANNOTATIONS": "4",
            "ML_BACKEND_RETRAIN_QUIET": "0.2",
            "OFFICIAL_MODEL_DIR": str(tmp_path / "theirs"),
            "MODEL_DIR": str(tmp_path / "theirs"),
            "PYTHONPATH": str(ROOT),
        }
        python = [sys.executable, "-P", "-m"]
        bind = ["-w", "1", "--threads", "4", "-b", f"127.0.0.1:{port}", "--no-control-socket"]
        log = tmp_path / "log.txt"
        with (
            process([*python, "gunicorn", *bind, "tests.models.official_server:app"], environment, log),
            process([*python, "ml_backend.cli", "worker", "tests.models.counting:CountingModel"], environment, log),
        ):
            wait_until(lambda: up(port), 60, "label-studio-ml's server answers")
            setup = {"project": UID, "schema": CONFIG, "hostname": "", "access_token": ""}
            assert post(port, "/setup", setup)[0] == 200
            for number in range(1, 5):
                status, said = post(port, "/webhook", annotated(number))
                answers = {"job_id"} if generations.installed() == 1 else {"result", "status"}
                assert (status, set(said)) == (201, answers), "what that server answers"
            tasks = [
                {"id": 91, "project": 7, "data": {"text": "a good one"}},
                {"id": 92, "project": 7, "data": {"text": "a bad one"}},
            ]
            body = {"project": UID, "label_config": CONFIG, "tasks": tasks, "params": {"context": None}}

            def results() -> list[list[dict[str, Any]]]:
                made = post(port, "/predict", body)[1]["results"]
                return made if all(made) else []

            try:
                made = wait_until(results, 90, "predictions of the version that a worker made", every_s=0.3)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{log.read_text()[-4000:]}") from None
            assert [one[0]["result"][0]["value"]["choices"] for one in made] == [["good"], ["bad"]]
            assert {one[0]["model_version"].partition("-")[0] for one in made} == {"v1"}


def test_without_a_redis_to_reach_the_workers_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(SettingsError, match="REDIS_URL: is not set: under label-studio-ml's server"):
        CountingModel(label_config=CONFIG, train_output=None, hostname="").fit((), event="START_TRAINING", data={})


def test_an_instance_that_was_loaded_by_hand_answers_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "label_studio_ml.api", sys)
    (tmp_path / "words.json").write_text('{"good": {"fine": 3}, "bad": {}}')
    model = CountingModel("7", CONFIG)
    model.load(tmp_path)
    assert model.predict([{"data": {"text": "fine"}}])[0]["result"][0]["value"]["choices"] == ["good"]
    assert model.for_config(CONFIG + " ").predict([{"data": {"text": "fine"}}])
