"""Serving: the promoted version is swapped in without a pause; what cannot be loaded leaves the old one."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import weakref
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ml_backend.predictions import PredictionServer
from ml_backend.predictions.answers import Answering, normalised
from ml_backend.registry import Manifest, Registry
from tests.parrot import CONFIG, UID, Parrot, make_model, publish, server, tasks, word_of
from tests.valkey import connect, running_valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from ml_backend.settings import Strategy


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def registry(redis_client: redis.Redis, store: Path) -> Registry:
    return Registry(store, redis_client)


@pytest.fixture
def serving(redis_client: redis.Redis, store: Path) -> Iterator[PredictionServer]:
    with server(redis_client, store) as running:
        yield running


def soon(what: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until ``what`` holds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def wait_for_looks(serving: PredictionServer) -> None:
    """Until it has looked for the first time which versions there are, and sleeps until the next look."""
    soon(lambda: serving._revision is not None)


def says(serving: PredictionServer, word: str) -> bool:
    answers = serving.predict(UID, tasks("hello"), CONFIG)[0]
    return bool(answers) and word_of(answers) == word


# What a request gets


def test_before_the_first_version_every_task_gets_an_empty_list(serving: PredictionServer) -> None:
    assert serving.predict(UID, tasks("a", "b", "c"), CONFIG) == [[], [], []]
    assert serving.served(UID) is None


def test_the_first_version_serves_as_soon_as_it_is_promoted(serving: PredictionServer, registry: Registry) -> None:
    assert serving.predict(UID, tasks("a"), CONFIG) == [[]]
    name = publish(registry, "one")
    soon(lambda: says(serving, "one"), 2)
    [[prediction]] = serving.predict(UID, tasks("hello"), CONFIG)
    assert prediction["model_version"] == name
    assert prediction["score"] == 0.5
    assert serving.served(UID) == name


def test_what_setup_names_answers_at_once_although_there_was_nothing_to_serve_a_moment_ago(
    redis_client: redis.Redis, store: Path, registry: Registry
) -> None:
    """Label Studio asks /setup and then for predictions; what comes back empty is not asked for again by itself."""
    with server(redis_client, store, poll_s=0.5) as serving:
        wait_for_looks(serving)
        assert serving.predict(UID, tasks("a"), CONFIG) == [[]]
        name = publish(registry, "one")
        assert serving.served(UID) == name
        [[prediction]] = serving.predict(UID, tasks("hello"), CONFIG)
        assert prediction["model_version"] == name


def test_setup_has_the_version_loaded_before_the_first_request(serving: PredictionServer, registry: Registry) -> None:
    name = publish(registry, "one")
    assert serving.served(UID) == name
    soon(lambda: serving.loaded(UID) == name)


def test_a_version_that_was_not_promoted_does_not_serve(serving: PredictionServer, registry: Registry) -> None:
    publish(registry, "kept aside", promote=False)
    assert serving.predict(UID, tasks("a"), CONFIG) == [[]]


def test_a_task_without_a_prediction_keeps_its_place(serving: PredictionServer, registry: Registry) -> None:
    publish(registry, "one")
    answers = serving.predict(UID, tasks("a", "nothing", "b"), CONFIG)
    assert [len(answer) for answer in answers] == [1, 0, 1]


def test_one_bad_task_costs_only_its_own_prediction_and_one_line_of_log(
    serving: PredictionServer, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    publish(registry, "one")
    many = tasks(*["fine"] * 500)
    del many[123]["data"]["text"]
    del many[400]["data"]["text"]
    answers = serving.predict(UID, many, CONFIG)
    assert [place for place, answer in enumerate(answers) if not answer] == [123, 400]
    assert [record.message for record in caplog.records if "could not be predicted" in record.message] == [
        answers[0][0]["model_version"] + ": 2 of 500 tasks could not be predicted; first: task 124: KeyError: 'text'"
    ]


def test_a_model_that_returns_the_wrong_number_of_predictions_gives_none(
    serving: PredictionServer, registry: Registry
) -> None:
    publish(registry, "forgets one")
    assert serving.predict(UID, tasks("a", "b"), CONFIG) == [[], []]


def test_what_is_not_done_in_time_gets_an_empty_list_and_the_rest_is_kept(
    serving: PredictionServer, registry: Registry
) -> None:
    publish(registry, "takes its time")  # 10 ms a task
    serving.predict(UID, tasks("warm"), CONFIG)
    began = time.monotonic()
    answers = serving.predict(UID, tasks(*["x"] * 1000), CONFIG, deadline_s=1.0)
    assert time.monotonic() - began < 1.5
    assert len(answers) == 1000
    answered = [bool(answer) for answer in answers]
    assert 50 < sum(answered) < 110
    assert answered == sorted(answered, reverse=True)


def test_a_request_brings_its_own_label_config_and_leaves_the_loaded_one_alone(
    serving: PredictionServer, registry: Registry
) -> None:
    publish(registry, "one")
    renamed = CONFIG.replace('name="c"', 'name="topic"')
    [[prediction]] = serving.predict(UID, tasks("a"), renamed)
    assert prediction["result"][0]["from_name"] == "topic"
    [[prediction]] = serving.predict(UID, tasks("a"), CONFIG)
    assert prediction["result"][0]["from_name"] == "c"


# Swapping


def test_the_next_version_is_swapped_in_without_any_request(serving: PredictionServer, registry: Registry) -> None:
    publish(registry, "one")
    assert says(serving, "one")
    name = publish(registry, "two")
    soon(lambda: serving.loaded(UID) == name, 2)
    assert says(serving, "two")


def test_a_rollback_is_followed_like_a_promotion(serving: PredictionServer, registry: Registry) -> None:
    first = publish(registry, "one")
    assert says(serving, "one")
    publish(registry, "two")
    soon(lambda: says(serving, "two"))
    registry.rollback(UID, now=time.time())
    soon(lambda: says(serving, "one"))
    assert serving.served(UID) == first


def test_hot_swaps_under_load_fail_no_request_and_make_none_wait(
    redis_client: redis.Redis, store: Path, registry: Registry
) -> None:
    names = {publish(registry, "word 0"): "word 0"}
    seen: list[tuple[str, str]] = []
    slowest: list[float] = []
    failed: list[BaseException] = []
    stop = threading.Event()

    def annotator(serving: PredictionServer) -> None:
        worst = 0.0
        while not stop.is_set():
            began = time.perf_counter()
            try:
                [[first], [second]] = serving.predict(UID, tasks("a", "b"), CONFIG)
            except BaseException as error:
                failed.append(error)
                return
            worst = max(worst, time.perf_counter() - began)
            seen.append((first["model_version"], word_of([first])))
            if first["model_version"] != second["model_version"]:
                failed.append(AssertionError("one request was answered by two versions"))
            time.sleep(0.001)  # a client's own time; without it eight threads only fight for the interpreter
        slowest.append(worst)

    with server(redis_client, store) as serving:
        assert says(serving, "word 0")
        threads = [threading.Thread(target=annotator, args=(serving,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for word in ("slow word 1", "word 2", "slow word 3", "word 4"):
            name = publish(registry, word)
            names[name] = word
            soon(lambda name=name: serving.loaded(UID) == name)
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert len(seen) > 1000
    assert {version for version, _ in seen} >= set(list(names)[:3])
    assert all(names[version] == word for version, word in seen)
    assert max(slowest) < 0.5, "a load takes 1 s here: somebody waited for it"


# What cannot be loaded


@pytest.mark.parametrize("word", ["breaks on load", "breaks on predict", "forgets one"])
def test_a_version_that_cannot_load_or_predict_leaves_the_old_one_and_shows_the_error(
    serving: PredictionServer, registry: Registry, word: str
) -> None:
    first = publish(registry, "one")
    assert says(serving, "one")
    bad = publish(registry, word)
    soon(lambda: serving.errors(UID))
    [error] = serving.errors(UID)
    assert error.version == bad
    assert error.error
    assert says(serving, "one")
    assert serving.served(UID) == first
    good = publish(registry, "three")
    soon(lambda: serving.loaded(UID) == good)
    soon(lambda: serving.errors(UID) == [])
    assert serving.served(UID) == good


@pytest.mark.parametrize("harm", ["truncated", "tampered", "missing"])
def test_a_version_whose_files_are_damaged_leaves_the_old_one_and_the_next_heals_it(
    serving: PredictionServer, registry: Registry, store: Path, harm: str
) -> None:
    publish(registry, "one")
    assert says(serving, "one")
    bad = publish(registry, "two", promote=False)
    word = store / UID / "2" / "word.txt"
    if harm == "missing":
        word.unlink()
    else:
        word.write_text("" if harm == "truncated" else "owt")
    registry.promote(UID, 2, token=2, now=time.time())
    soon(lambda: serving.errors(UID))
    assert [error.version for error in serving.errors(UID)] == [bad]
    assert "word.txt" in serving.errors(UID)[0].error
    assert says(serving, "one")
    publish(registry, "three")
    soon(lambda: says(serving, "three"))


def test_a_failed_load_is_not_tried_again_until_the_alias_moves_or_a_while_has_passed(
    redis_client: redis.Redis, store: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    publish(registry, "one")
    with server(redis_client, store, retry_s=0.6) as serving:
        assert says(serving, "one")
        publish(registry, "breaks on load")
        publish(registry, "elsewhere", uid="6.1795333883")  # another project's alias moves too

        def attempts() -> int:
            return sum("cannot be served" in record.message for record in caplog.records)

        soon(lambda: attempts() == 1)
        began = time.monotonic()
        soon(lambda: attempts() == 2)
        assert time.monotonic() - began > 0.3


def test_a_process_that_starts_when_the_promoted_version_is_broken_serves_the_one_before(
    redis_client: redis.Redis, store: Path, registry: Registry
) -> None:
    first = publish(registry, "one")
    publish(registry, "breaks on load")
    with server(redis_client, store) as serving:
        assert says(serving, "one")
        assert serving.served(UID) == first
        assert [error.version[:2] for error in serving.errors(UID)] == ["v2"]
        registry.rollback(UID, now=time.time())
        soon(lambda: serving.errors(UID) == [])


def test_the_store_may_vanish_while_a_version_is_loaded(
    serving: PredictionServer, registry: Registry, store: Path
) -> None:
    publish(registry, "one")
    assert says(serving, "one")
    store.rename(store.with_name("unmounted"))
    assert says(serving, "one")
    store.with_name("unmounted").rename(store)
    publish(registry, "two")
    soon(lambda: says(serving, "two"))


# Redis


def test_predictions_go_on_while_redis_is_stopped_and_no_request_waits_for_it(tmp_path: Path) -> None:
    with running_valkey() as own, connect(own, timeout=0.3) as client, server(client, tmp_path) as serving:
        registry = Registry(tmp_path, client)
        name = publish(registry, "one")
        assert says(serving, "one")
        pid = int(client.info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(20):
                began = time.monotonic()
                assert says(serving, "one")
                assert time.monotonic() - began < 0.1
            assert serving.served(UID) == name
            began = time.monotonic()
            assert serving.predict("9.1795333883", tasks("a"), CONFIG) == [[]]
            assert time.monotonic() - began < 1.0
        finally:
            os.kill(pid, signal.SIGCONT)
        publish(registry, "two")
        soon(lambda: says(serving, "two"))


def test_a_redis_that_lost_everything_is_told_again(
    serving: PredictionServer, registry: Registry, redis_client: redis.Redis
) -> None:
    name = publish(registry, "one")
    assert says(serving, "one")
    redis_client.flushall()
    soon(lambda: redis_client.hlen(f"mlb:{{{UID}}}:loaded") == 1)
    assert serving.served(UID) == name
    publish(registry, "two")
    soon(lambda: says(serving, "two"))


# Many projects


def test_no_more_models_than_allowed_stay_loaded_and_the_least_used_goes_first(
    redis_client: redis.Redis, store: Path, registry: Registry
) -> None:
    uids = [f"{number}.1795333883" for number in range(1, 5)]
    for uid in uids:
        publish(registry, f"of {uid}", uid=uid)
    with server(redis_client, store, models=3) as serving:
        for uid in (*uids[:3], uids[0], uids[3]):
            assert word_of(serving.predict(uid, tasks("a"), CONFIG)[0]) == f"of {uid}"
        assert [uid for uid in uids if serving.loaded(uid)] == [uids[0], uids[2], uids[3]]
        assert redis_client.hlen(f"mlb:{{{uids[1]}}}:loaded") == 0
        assert word_of(serving.predict(uids[1], tasks("a"), CONFIG)[0]) == f"of {uids[1]}"


def test_many_requests_at_once_load_a_version_once(
    redis_client: redis.Redis, store: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []
    original = Parrot.load
    monkeypatch.setattr(Parrot, "load", lambda self, directory: (loads.append(directory), original(self, directory))[1])
    publish(registry, "slow one")
    with server(redis_client, store) as serving:
        threads = [threading.Thread(target=says, args=(serving, "slow one")) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(loads) == 1


# Many web processes


class WebProcess:
    """A second web process, a real one."""

    def __init__(self, socket: Path, store: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.parrot", str(socket), str(store)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )

    def ask(self, what: str) -> object:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def two(redis_socket: Path, redis_client: redis.Redis, store: Path) -> Iterator[tuple[WebProcess, WebProcess]]:
    processes = (WebProcess(redis_socket, store), WebProcess(redis_socket, store))
    try:
        for one in processes:
            one.ask("hello")
        yield processes
    finally:
        for one in processes:
            one.end()


def test_setup_names_a_version_once_every_live_web_process_serves_it(
    two: tuple[WebProcess, WebProcess], registry: Registry
) -> None:
    one, other = two
    first = publish(registry, "one")
    assert [process.ask("predict") for process in two] == ["one", "one"]
    assert [process.ask("served") for process in two] == [first, first]
    other.signal(signal.SIGSTOP)  # it lives, and cannot load
    second = publish(registry, "two")
    soon(lambda: one.ask("predict") == "two")
    assert one.ask("served") == first
    other.signal(signal.SIGCONT)
    soon(lambda: one.ask("served") == second)
    assert other.ask("predict") == "two"


def test_a_web_process_that_has_nothing_loaded_holds_nothing_back(
    two: tuple[WebProcess, WebProcess], registry: Registry
) -> None:
    one, other = two
    publish(registry, "one")
    assert one.ask("predict") == "one"
    second = publish(registry, "two")
    soon(lambda: one.ask("served") == second)
    assert other.ask("served") == second
    assert other.ask("predict") == "two"


def test_a_web_process_that_was_killed_holds_nothing_back_for_long(
    two: tuple[WebProcess, WebProcess], registry: Registry
) -> None:
    one, other = two
    publish(registry, "one")
    assert [process.ask("predict") for process in two] == ["one", "one"]
    other.signal(signal.SIGKILL)
    second = publish(registry, "two")
    soon(lambda: one.ask("served") == second)


def test_a_web_process_that_slept_too_long_is_waited_for_again_when_it_wakes(
    two: tuple[WebProcess, WebProcess], registry: Registry, redis_client: redis.Redis
) -> None:
    one, other = two
    publish(registry, "one")
    assert [process.ask("predict") for process in two] == ["one", "one"]
    other.signal(signal.SIGSTOP)
    soon(lambda: redis_client.zcard("mlb:web") == 1)
    assert one.ask("served")
    assert redis_client.hlen(f"mlb:{{{UID}}}:loaded") == 1
    other.signal(signal.SIGCONT)
    soon(lambda: redis_client.hlen(f"mlb:{{{UID}}}:loaded") == 2)


def test_a_server_that_is_closed_takes_its_notes_along(
    redis_client: redis.Redis, store: Path, registry: Registry
) -> None:
    publish(registry, "one")
    before = set(threading.enumerate())
    with server(redis_client, store) as serving:
        assert says(serving, "one")
        assert redis_client.zcard("mlb:web") == 1
        assert set(threading.enumerate()) - before
    assert redis_client.zcard("mlb:web") == 0
    assert redis_client.hlen(f"mlb:{{{UID}}}:loaded") == 0
    assert set(threading.enumerate()) - before == set()


# What a model may return


class Response:
    """Shaped like label-studio-ml's own `ModelResponse`."""

    def __init__(self, predictions: list[object]) -> None:
        self.predictions = predictions


class Value:
    """Shaped like its `PredictionValue`, which is a pydantic model."""

    def model_dump(self, *, exclude_none: bool) -> dict[str, object]:
        return {"result": [], "score": 0.25, "model_version": "its own"}


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        ([{"result": []}], [[0.0]]),
        ([{"result": [], "score": None}], [[0.0]]),
        ([{"result": [], "score": float("nan")}], [[0.0]]),
        ([{"result": [], "score": True}], [[0.0]]),
        ([{"result": [], "score": 1}], [[1.0]]),
        ([{"result": [], "score": np.float32(0.5)}], [[0.5]]),
        ([[{"result": [], "score": 0.1}, {"result": [], "score": 0.2}]], [[0.1, 0.2]]),
        ([[]], [[]]),
        ([{}], [[]]),
        ([None], [[]]),
        (({"result": [], "score": 0.1},), [[0.1]]),
        ({"results": [{"result": [], "score": 0.1}]}, [[0.1]]),
        (Response([Value()]), [[0.25]]),
        (Response([[Value(), Value()]]), [[0.25, 0.25]]),
    ],
)
def test_every_usual_form_of_an_answer_becomes_a_list_of_predictions(answer: object, scores: list[list[float]]) -> None:
    got = normalised(answer, 1, "v1")
    assert [[prediction["score"] for prediction in one] for one in got] == scores
    assert all(prediction["model_version"] == "v1" for one in got for prediction in one)


@pytest.mark.parametrize(
    ("strategy", "ranked"),
    [("margin", [0.4, 0.4, 0.0]), ("confidence", [0.2, 0.4, 0.0]), ("priority", [7.0, 0.4, 0.0])],
)
def test_a_strategy_ranks_by_what_there_is_and_never_by_nothing(strategy: Strategy, ranked: list[float]) -> None:
    full = {"result": [{"score": 0.9}, {"score": 0.2}, {"score": None}], "score": 0.4, "priority": 7}
    bare = {"result": [{"value": {}}], "score": 0.4, "priority": None}
    nothing = {"result": []}
    got = normalised([full, bare, nothing], 3, "v1", strategy)
    assert [prediction["score"] for [prediction] in got] == ranked
    assert all(prediction.keys() == {"result", "score", "model_version"} for [prediction] in got)


def test_numpy_values_deep_in_a_result_become_plain_ones() -> None:
    region = {"value": {"x": np.float64(1.5), "labels": np.array(["a"]), "n": np.int64(3)}}
    region["value"].pop("labels")
    [[prediction]] = normalised([{"result": [region | {"points": np.array([[1.0, 2.0]])}]}], 1, "v1")
    assert prediction["result"] == [{"value": {"x": 1.5, "n": 3}, "points": [[1.0, 2.0]]}]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        3,
        "text",
        [],
        [{"result": []}] * 2,
        ["text"],
        [{"result": None}],
        [{"result": ["x"]}],
        [[["deep"]]],
        [object()],
    ],
)
def test_what_is_no_answer_is_said_to_be_none(answer: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        normalised(answer, 1, "v1")


def test_chunks_grow_while_the_model_is_quick() -> None:
    sizes: list[int] = []

    def ask(some: list[dict[str, object]]) -> list[object]:
        sizes.append(len(some))
        return [[] for _ in some]

    Answering(ask, "v1", time.monotonic() + 60).answers([{"id": number} for number in range(10_000)])
    assert sizes == [1, 8, 64, 512, 4096, 4096, 1223]


def test_the_parrot_is_a_model_like_any_other() -> None:
    assert make_model(UID, CONFIG)[0].controls[0].labels == ("a", "b")


# What stays


class Knot(Parrot):
    """Refers to itself, as pipelines and their parts do: nothing but a look for such circles frees it."""

    def load(self, directory: Path) -> None:
        super().load(directory)
        self.parts = [self]


def test_a_model_that_refers_to_itself_goes_when_it_was_replaced_and_the_last_request_that_uses_it_is_over(
    redis_client: redis.Redis, store: Path, registry: Registry
) -> None:
    made: list[weakref.ref[Knot]] = []

    def make(uid: str, label_config: str) -> tuple[Knot, Strategy]:
        knot = Knot(uid, label_config)
        made.append(weakref.ref(knot))
        return knot, "margin"

    gc.disable()  # as good as in a web process, which looks so rarely
    try:
        publish(registry, "takes its time")  # 10 ms a task
        with PredictionServer(Registry(store, redis_client), make, redis_client, poll_s=0.02) as serving:
            assert says(serving, "takes its time")
            asked = threading.Thread(target=serving.predict, args=(UID, tasks(*["x"] * 150), CONFIG))
            asked.start()
            second = publish(registry, "two")
            soon(lambda: serving.loaded(UID) == second)
            assert made[0]() is not None
            asked.join()
            soon(lambda: made[0]() is None)
            publish(registry, "three")
            soon(lambda: made[1]() is None)
            assert says(serving, "three")
    finally:
        gc.enable()


def test_a_projects_lock_is_one_as_long_as_somebody_uses_it_and_leaves_nothing_behind(
    redis_client: redis.Redis, store: Path
) -> None:
    serving = server(redis_client, store)
    turn = serving._turn(UID)
    for number in range(12_000):
        serving._turn(f"{number}.1795333884")
    assert serving._turn(UID) is turn
    del turn
    assert not serving._loading


def test_version_after_version_leaves_nothing_behind(
    redis_client: redis.Redis, store: Path, registry: Registry
) -> None:
    def serve_another(serving: PredictionServer, number: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("word.txt", *(f"part-{part}.txt" for part in range(8))):
                Path(folder, name).write_text(f"word {number}")
            new = registry.new_number(UID)
            manifest = Manifest(label_config=CONFIG, trained_on=f"1-{number}")
            name = registry.publish(UID, new, Path(folder), manifest, lambda: True, now=time.time()).name
        registry.promote(UID, new, token=new, now=time.time())
        soon(lambda: serving.loaded(UID) == name)
        assert serving.predict(UID, tasks("hello"), CONFIG)[0]

    def traced() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    publish(registry, "one")
    with PredictionServer(Registry(store, redis_client), make_model, redis_client, poll_s=0.005) as serving:
        assert says(serving, "one")
        tracemalloc.start()
        try:
            for number in range(36):
                serve_another(serving, number)
            held = [traced()]
            for stretch in range(3):
                for number in range(20):
                    serve_another(serving, 36 + 20 * stretch + number)
                held.append(traced())
        finally:
            tracemalloc.stop()
    # A note of each file would be 80 KB each time; what else this process does meanwhile is not of every time.
    assert statistics.median(after - before for before, after in pairwise(held)) < 25_000
