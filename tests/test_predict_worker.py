"""Predictions made in predict workers: web processes hold no model, and a worker that dies costs a few of them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from ml_backend.cli.show import open_services
from ml_backend.errors import Unavailable
from ml_backend.predictions import Desk, PredictWorker, RemotePredictions
from ml_backend.settings import Settings
from tests.calls import BOXES
from tests.faults.stage import CONFIG, annotation, below, uid
from tests.parrot import CONFIG as PARROTS
from tests.parrot import UID, publish, server, tasks, word_of
from tests.running import RunningBackend, wait_until
from tests.valkey import connect, running_valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from ml_backend.registry import Registry

LIBRARY = """
import os
from pathlib import Path

with Path(__file__).with_name("imported").open("a") as log:
    log.write(f"{os.getpid()}\\n")
WEIGHTS = bytes(1000)
"""
CALL = {"project": uid(7), "label_config": CONFIG, "params": {"context": None}}
SETUP = {"project": uid(7), "schema": CONFIG, "hostname": "", "access_token": "", "extra_params": None}


# With real processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heavy")


@pytest.fixture(scope="module")
def backend(folder: Path) -> Iterator[RunningBackend]:
    """A whole product whose model is served by a predict worker, with one version."""
    shutil.copy(Path(__file__).parent / "models" / "heavy.py", folder / "heavy.py")
    (folder / "heavy_library.py").write_text(LIBRARY)
    told = {"ML_BACKEND_PREDICT": "worker", "ML_BACKEND_PREDICT_DEADLINE": "45", "ML_BACKEND_RETRAIN_QUIET": "0"}
    with RunningBackend(folder / "data", arguments=[str(folder / "heavy.py")], environment=told) as running:
        for number in range(1, 11):
            assert running.post("/webhook", annotation(number))[0] == 200
        wait_until(lambda: running.post("/setup", SETUP)[1].get("model_version"), 60, f"a version\n{running.log()}")
        yield running


def predicted(backend: RunningBackend, *texts: str) -> list[str | None]:
    """What was said of each text, which each prediction repeats; None where there is no prediction."""
    body = {**CALL, "tasks": [{"id": number, "data": {"text": text}} for number, text in enumerate(texts, 1)]}
    status, answer = backend.post("/predict", body)
    assert status == 200, answer
    return [one[0]["result"][0]["meta"]["text"] if one else None for one in answer["results"]]


def processes_of(backend: RunningBackend, kind: str) -> list[int]:
    assert backend.process is not None
    return [one.pid for one in below(backend.process.pid) if f"ml_backend.processes {kind}" in one.command]


def test_a_request_is_answered_in_order_whatever_its_size(backend: RunningBackend) -> None:
    assert predicted(backend, "a") == ["a"]
    many = [f"text {number}" for number in range(3000)]
    assert predicted(backend, *many) == many


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_no_web_process_imports_the_models_library(backend: RunningBackend, folder: Path) -> None:
    predicted(backend, "a")
    imported = {int(line) for line in (folder / "imported").read_text().split()}
    web = processes_of(backend, "web")
    assert len(web) >= 2
    assert imported.isdisjoint(web)
    assert not imported.isdisjoint(processes_of(backend, "predictor"))


def test_what_the_model_says_of_a_label_config_still_reaches_setup(backend: RunningBackend) -> None:
    status, answer = backend.post("/validate", {"config": BOXES})
    assert (status, answer) == (200, {"status": "unsupported", "reason": "it has no Choices"})


def test_a_task_that_is_nested_too_deeply_is_refused(backend: RunningBackend) -> None:
    deep = orjson.loads("[" * 300 + "]" * 300)
    for body in (
        {**CALL, "tasks": [{"id": 1, "data": {"text": "a"}}, {"id": 2, "data": {"text": deep}}]},
        {**CALL, "tasks": [{"id": 1, "data": {"text": "a"}}], "params": {"context": {"result": deep}}},
    ):
        status, answer = backend.post("/predict", body)
        assert (status, answer["error"]) == (400, {"field": "body", "reason": "is nested too deeply"})


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_killed_predict_worker_costs_what_it_worked_on_and_heals(backend: RunningBackend, folder: Path) -> None:
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(predicted(backend, *["fine"] * 32, "stuck")))
    [before] = processes_of(backend, "predictor")
    services = open_services(Settings.from_environment({}, data_dir=backend.data_dir))
    asking.start()
    wait_until((folder / "stuck").exists, 30, "it works on the second part")
    taken = "mlb:predict:taken:*"
    wait_until(lambda: [services.redis.llen(key) for key in services.redis.keys(taken)] == [1], 30, "on nothing else")
    os.kill(before, signal.SIGKILL)
    began = time.monotonic()
    asking.join(60)
    assert not asking.is_alive()
    assert time.monotonic() - began < 30, "the request waited for its deadline"
    assert answers == [[*["fine"] * 32, None]]
    wait_until(lambda: predicted(backend, "a") == ["a"], 30, "predictions again")
    services.close()


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_task_that_kills_the_worker_does_so_once(backend: RunningBackend) -> None:
    [before] = processes_of(backend, "predictor")
    assert predicted(backend, "dies") == [None]
    wait_until(lambda: predicted(backend, "a") == ["a"], 30, "predictions again")
    [after] = processes_of(backend, "predictor")
    assert after != before


# The parts


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def registry(valkey: redis.Redis, store: Path) -> Registry:
    from ml_backend.registry import Registry as Made

    return Made(store, valkey)


@pytest.fixture
def web(valkey: redis.Redis, store: Path) -> RemotePredictions:
    return RemotePredictions(server(valkey, store), Desk(valkey))


@pytest.fixture
def start_worker(valkey: redis.Redis, store: Path) -> Iterator[Callable[[], PredictWorker]]:
    running: list[tuple[PredictWorker, threading.Thread]] = []

    def start() -> PredictWorker:
        worker = PredictWorker(server(valkey, store), Desk(valkey), lambda config: "no" if "no" in config else None)
        thread = threading.Thread(target=worker.run)
        thread.start()
        running.append((worker, thread))
        wait_until(lambda: valkey.zcard("mlb:web") == len(running), 10, "its first beat")
        return worker

    yield start
    for worker, thread in running:
        worker.stop()
        thread.join()


def test_a_worker_answers_with_the_version_that_serves(
    web: RemotePredictions, start_worker: Callable[[], PredictWorker], registry: Registry
) -> None:
    start_worker()
    assert web.predict(UID, tasks("a", "b"), PARROTS) == [[], []]
    name = publish(registry, "one")
    wait_until(lambda: web.predict(UID, tasks("a"), PARROTS)[0], 10, "a prediction")
    [[first], [second]] = web.predict(UID, tasks("a", "b"), PARROTS)
    assert (first["model_version"], word_of([first]), word_of([second])) == (name, "one", "one")
    assert web.served(UID) == name


def test_what_is_not_done_in_time_gets_an_empty_list_and_the_rest_is_kept(
    web: RemotePredictions, start_worker: Callable[[], PredictWorker], registry: Registry
) -> None:
    publish(registry, "takes its time")  # 10 ms a task
    start_worker()
    wait_until(lambda: web.predict(UID, tasks("a"), PARROTS)[0], 20, "the version is loaded")
    began = time.monotonic()
    answers = web.predict(UID, tasks(*["x"] * 1000), PARROTS, deadline_s=2.0)
    assert time.monotonic() - began < 3
    answered = [bool(answer) for answer in answers]
    assert len(answered) == 1000
    assert any(answered)
    assert not all(answered)


def test_setup_has_a_worker_load_the_version_before_the_first_request(
    web: RemotePredictions, start_worker: Callable[[], PredictWorker], registry: Registry, valkey: redis.Redis
) -> None:
    start_worker()
    name = publish(registry, "one")
    assert web.served(UID) == name
    wait_until(lambda: valkey.hvals(f"mlb:{{{UID}}}:loaded") == [name.encode()], 10, "the version is loaded")


def test_setup_names_a_version_once_every_worker_serves_it(
    web: RemotePredictions, start_worker: Callable[[], PredictWorker], registry: Registry, valkey: redis.Redis
) -> None:
    start_worker()
    start_worker()
    first = publish(registry, "one")
    loaded = f"mlb:{{{UID}}}:loaded"
    wait_until(lambda: web.predict(UID, tasks("a"), PARROTS)[0] and valkey.hlen(loaded) == 2, 10, "both serve it")
    second = publish(registry, "slow two")
    assert web.served(UID) == first
    wait_until(lambda: web.served(UID) == second, 20, "both serve the second")
    assert set(valkey.hvals(loaded)) == {second.encode()}


def test_without_any_worker_a_request_gets_nothing_after_a_while_and_leaves_nothing(
    web: RemotePredictions, valkey: redis.Redis
) -> None:
    began = time.monotonic()
    assert web.predict(UID, tasks("a"), PARROTS, deadline_s=30) == [[]]
    assert 4 < time.monotonic() - began < 10
    assert valkey.keys("mlb:predict:*") == []
    with pytest.raises(Unavailable, match="no predict worker"):
        web.check(PARROTS)


def test_a_worker_that_comes_meanwhile_answers(
    web: RemotePredictions, start_worker: Callable[[], PredictWorker], registry: Registry
) -> None:
    publish(registry, "one")
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(web.predict(UID, tasks("a"), PARROTS)))
    asking.start()
    start_worker()
    asking.join()
    assert word_of(answers[0][0]) == "one"


def test_no_more_than_the_limit_wait_and_a_request_that_finds_no_room_gets_nothing(
    valkey: redis.Redis, store: Path, start_worker: Callable[[], PredictWorker]
) -> None:
    desk = Desk(valkey, limit=2)
    assert desk.put(b"1", 9) is not None
    assert desk.put(b"2", 9) is not None
    assert desk.put(b"3", 9) is None
    began = time.monotonic()
    assert RemotePredictions(server(valkey, store), desk).predict(UID, tasks("a"), PARROTS, deadline_s=60) == [[]]
    assert time.monotonic() - began < 20, "it holds a thread that events need"


def test_a_model_that_never_comes_back_costs_a_request_no_more_than_its_deadline(
    valkey: redis.Redis, store: Path
) -> None:
    desk = Desk(valkey)
    valkey.zadd("mlb:web", {"stuck": time.time() + 60})
    taken: list[object] = []

    def take() -> None:
        while not taken:
            taken.extend(filter(None, [desk.take("stuck", 1)]))

    worker = threading.Thread(target=take, daemon=True)
    worker.start()
    began = time.monotonic()
    assert RemotePredictions(server(valkey, store), desk).predict(UID, tasks("a"), PARROTS, deadline_s=4) == [[]]
    took = time.monotonic() - began
    worker.join(10)
    assert taken, "a worker had it all the while"
    assert 3.9 < took < 30


def test_a_question_whose_time_is_up_is_not_answered(valkey: redis.Redis) -> None:
    desk = Desk(valkey)
    assert desk.put(b"{}", 0.02) is not None
    fresh = desk.put(b"{}", 9)
    time.sleep(0.05)
    assert desk.take("w", 1) is None
    taken = desk.take("w", 1)
    assert taken is not None
    assert taken[0] == fresh
    assert 8 < taken[2] <= 9


def test_what_a_dead_worker_had_taken_is_known_to_be_lost(valkey: redis.Redis) -> None:
    desk = Desk(valkey)
    name = desk.put(b"{}", 9)
    assert name is not None
    assert desk.fate(name) == "nobody"
    valkey.zadd("mlb:web", {"w": time.time()})
    assert desk.fate(name) == "waits"
    desk.take("w", 1)
    assert desk.fate(name) == "taken"
    valkey.zadd("mlb:web", {"w": time.time() - 60})
    assert desk.fate(name) == "lost"


def test_an_answer_comes_back_once_and_expires_when_nobody_wants_it(valkey: redis.Redis) -> None:
    desk = Desk(valkey)
    name = desk.put(b"{}", 9)
    assert name is not None
    desk.take("w", 1)
    desk.answer("w", name, b"[1]")
    assert 0 < valkey.pttl(f"mlb:predict:answer:{name}") <= 30_000
    assert desk.wait([name], 1) == (name, b"[1]")
    assert desk.wait([name], 0.01) is None
    assert valkey.keys("mlb:predict:*") == []


@pytest.mark.parametrize("question", [b"no JSON", b"[]", b'{"kind": "predict", "uid": 5}', b'{"kind": "__reduce__"}'])
def test_a_question_that_is_none_gets_no_answer_and_the_next_one_does(
    web: RemotePredictions, start_worker: Callable[[], PredictWorker], valkey: redis.Redis, question: bytes
) -> None:
    start_worker()
    Desk(valkey).put(question, 9)
    assert web.check("<View>no</View>") == "no"
    assert web.check("<View/>") is None


def test_who_asked_what_cannot_be_answered_does_not_wait_for_the_deadline(
    web: RemotePredictions, start_worker: Callable[[], PredictWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("no such control")

    worker = start_worker()
    monkeypatch.setattr(worker, "_answered", broken)
    began = time.monotonic()
    assert web.predict(UID, tasks("a"), PARROTS, deadline_s=30) == [[]]
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("answer", [b"no JSON", b"[]", orjson.dumps({"answers": [[], []]}), b'{"answers": [1]}'])
def test_an_answer_that_is_none_is_no_prediction(web: RemotePredictions, valkey: redis.Redis, answer: bytes) -> None:
    desk = Desk(valkey)

    def forge() -> None:
        taken = wait_until(lambda: desk.take("w", 1), 10, "the question")
        desk.answer("w", taken[0], answer)

    forger = threading.Thread(target=forge)
    forger.start()
    assert web.predict(UID, tasks("a"), PARROTS, deadline_s=5) == [[]]
    forger.join()


def test_a_redis_that_is_away_gives_empty_lists(tmp_path: Path) -> None:
    with running_valkey() as own:
        client = connect(own, timeout=1)
        web = RemotePredictions(server(client, tmp_path), Desk(client))
    began = time.monotonic()
    assert web.predict(UID, tasks("a"), PARROTS) == [[]]
    assert web.served(UID) is None
    assert time.monotonic() - began < 5
