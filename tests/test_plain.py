"""Plain `LabelStudioMLBase` classes, unchanged: their fit runs in a worker, and what it wrote is served afresh."""

from __future__ import annotations

import concurrent.futures
import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.bootstrap import Services, make_services
from ml_backend.errors import ModelNotFound, WorkerStopping
from ml_backend.models import find_model
from ml_backend.plain import PlainBackend
from ml_backend.plain.process import PlainDied, PlainFailed, PlainProcess
from ml_backend.plain_state import PlainState, WaitingEvent, line_of
from ml_backend.settings import Settings
from ml_backend.web import create_app
from tests.faults.stage import Stage, annotation, click, deliver, kill, uid
from tests.running import LONG_LEASE, wait_until
from tests.wheel import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

MODELS = Path(__file__).parent / "models"
HABITS = MODELS / "habits.py"
FIRST = MODELS / "first_generation.py"
FUNCTIONS = MODELS / "functions.py"
TASKS = [{"id": 91, "data": {"text": "a good thing"}}, {"id": 92, "data": {"text": "a bad thing"}}]


IDLE = """
import os
from label_studio_ml.model import LabelStudioMLBase

class Idle(LabelStudioMLBase):
    def setup(self):
        self.set("model_version", "idle")

    def predict(self, tasks, **kwargs):
        return [[] for _ in tasks]

    def fit(self, event, data, **kwargs):
        if data["task"]["data"]["text"] == "write":
            with open(os.path.join(os.environ["MODEL_DIR"], "weights"), "w") as file:
                file.write("w")
"""


LED = """
import os, signal, time
from pathlib import Path
from label_studio_ml.model import LabelStudioMLBase

class Led(LabelStudioMLBase):
    def predict(self, tasks, **kwargs):
        here = Path(os.environ["MODEL_DIR"])
        if tasks[0]["do"] == "fork and die":
            if (pid := os.fork()) == 0:
                time.sleep(120)
                os._exit(0)
            (here / "grandchild").write_text(str(pid))
            os.kill(os.getpid(), signal.SIGKILL)
        if tasks[0]["do"] == "wait":
            (here / "waiting").touch()
            while not (here / "go").exists():
                time.sleep(0.01)
        return [[] for _ in tasks]
"""


def event(number: int, project: int = 7, *, text: str = "") -> dict[str, Any]:
    """Odd ones are good, and say so."""
    made = annotation(number, project=project)
    made["task"]["data"]["text"] = text or ("a good thing" if number % 2 else "a bad thing")
    return made


def setup(project: int, **refit: Any) -> dict[str, Any]:
    return {
        "project": uid(project),
        "schema": CONFIG,
        "extra_params": {"own": 1, **({"refit": refit} if refit else {})},
    }


# --- one run, over real parts -----------------------------------------------------------------------------------------


@pytest.fixture
def open_services(
    redis_socket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Services]]:
    """Services for a plain class; the processes that they start read the environment, as in the product."""
    opened: list[Services] = []

    def open_(model: Path, **settings: str) -> Services:
        environment = {
            "REDIS_URL": f"unix://{redis_socket}",
            "ML_BACKEND_DATA_DIR": str(tmp_path / "data"),
            "ML_BACKEND_STORE": str(tmp_path / "store"),
            "ML_BACKEND_MODEL": str(model),
            "MODEL_DIR": str(tmp_path),
            **LONG_LEASE,
            **settings,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        made = make_services(Settings.from_environment(environment), timeout_s=5)
        made.redis.flushall()
        opened.append(made)
        return made

    yield open_
    for one in opened:
        one.close()


def carry_out(services: Services, project: int = 7) -> Any:
    """Dispatch the run that waits, carry it out, and return its record."""
    job = services.runs.dispatch(uid(project), time.time() + 60, lambda *_: True)
    assert job is not None
    services.trainer().run(uid(project), job.run_id, "worker-1")
    return services.runs.get(job.run_id)


def by_the_clock(services: Services, project: int = 7) -> None:
    """Some minutes, in which whatever is due is carried out."""
    clock = services.clock()
    for minute in range(1, 5):
        clock.tick(time.time() + 61 * minute)
        waiting = services.runs.standing(uid(project)).waiting
        if waiting is not None and waiting.enqueued_at is not None:
            services.trainer().run(uid(project), waiting.id, "worker-1")


def served(services: Services, project: int = 7) -> tuple[list[str], str]:
    """What the serving version says of TASKS, and its name."""
    version = services.registry.serving(uid(project))
    assert version is not None
    model = services.make_model(uid(project), CONFIG, {"own": 1})
    assert isinstance(model, PlainBackend)
    model.loaded(services.registry.fetch(uid(project), version.number), version.name)
    answers = model.predict(copy.deepcopy(TASKS))
    model.close()
    return [one[0]["result"][0]["value"]["choices"][0] for one in answers], version.name


class TestARun:
    def test_lets_fit_see_each_event_in_order_and_serves_what_it_wrote(
        self, open_services: Callable[..., Services], tmp_path: Path
    ) -> None:
        services = open_services(HABITS)
        for number in range(1, 5):
            assert services.backend.fit("ANNOTATION_CREATED", event(number))["status"] == "queued"
        services.backend.fit("ANNOTATIONS_DELETED", {"project": event(1)["project"], "annotations": [{"id": 1}]})
        assert not (tmp_path / "order.txt").exists(), "nothing is fit where the event is answered"
        done = carry_out(services)
        assert (done.status, done.ending) == (
            "succeeded",
            "WordCounter-v0.0.1-1 promoted: after 5 calls of fit",
        )
        assert [line.split()[1] for line in (tmp_path / "order.txt").read_text().splitlines()] == ["1", "2", "3", "4"]
        assert served(services) == (["good", "bad"], "WordCounter-v0.0.1-1")
        assert "label_studio_ml.response" not in sys.modules, "nothing of it is imported where others live"

    def test_an_exception_is_a_failed_run_with_the_reason_and_the_events_after_it_are_seen(
        self, open_services: Callable[..., Services]
    ) -> None:
        services = open_services(HABITS)
        for number, text in ((1, ""), (2, "a bad thing to explode"), (3, ""), (4, "")):
            services.backend.fit("ANNOTATION_CREATED", event(number, text=text))
        done = carry_out(services)
        assert done.status == "failed"
        assert done.ending == "1 of 4 calls of fit failed; first: fit(ANNOTATION_CREATED: ValueError: out of words)"
        assert "in fit" in done.traceback
        assert served(services)[0] == ["good", "bad"]
        assert services.plain().waiting(uid(7)) == 0

    def test_an_exception_may_say_what_no_json_can_hold(self, open_services: Callable[..., Services]) -> None:
        services = open_services(HABITS)
        services.backend.fit("ANNOTATION_CREATED", event(1, text="to explode oddly"))
        done = carry_out(services)
        assert (done.status, done.ending) == ("failed", "fit(ANNOTATION_CREATED: ValueError: out of words?)")
        assert "in fit" in done.traceback

    def test_a_click_brings_fit_the_newest_annotation_that_label_studio_leaves_out(
        self, open_services: Callable[..., Services], tmp_path: Path
    ) -> None:
        services = open_services(HABITS)
        services.backend.fit("ANNOTATION_CREATED", event(3))
        services.backend.fit("START_TRAINING", click())
        assert carry_out(services).status == "succeeded"
        seen = [line.split()[:2] for line in (tmp_path / "order.txt").read_text().splitlines()]
        assert seen == [["ANNOTATION_CREATED", "3"], ["START_TRAINING", "3"]]

    def test_a_fit_that_leaves_nothing_behind_makes_no_version(
        self, open_services: Callable[..., Services], tmp_path: Path
    ) -> None:
        idle = tmp_path / "idle.py"
        idle.write_text(IDLE)
        services = open_services(idle)
        for number in (1, 2):
            services.backend.fit("ANNOTATION_CREATED", event(number))
            done = carry_out(services)
        assert done.status == "succeeded"
        assert [one.name for one in services.registry.versions(uid(7))] == ["idle-1"]
        services.backend.fit("ANNOTATION_CREATED", event(3, text="write"))
        carry_out(services)
        assert [one.name for one in services.registry.versions(uid(7))] == ["idle-2", "idle-1"]

    def test_what_a_killed_run_left_behind_is_served_by_the_next(
        self, open_services: Callable[..., Services], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        services = open_services(HABITS)
        for number in range(1, 5):
            services.backend.fit("ANNOTATION_CREATED", event(number))

        def die(*_: object, **__: object) -> None:
            raise WorkerStopping("the worker was asked to stop")

        with monkeypatch.context() as patch:
            patch.setattr(services.registry, "publish", die)
            assert carry_out(services).status == "queued"
        assert services.plain().waiting(uid(7)) == 0
        assert carry_out(services).ending == "WordCounter-v0.0.1-2 promoted: after calls of fit in an earlier run"
        assert served(services)[0] == ["good", "bad"]
        assert not services.plain().left(uid(7))

    def test_in_the_mode_policy_fit_is_called_once_when_the_policy_says_so(
        self, open_services: Callable[..., Services], tmp_path: Path
    ) -> None:
        services = open_services(HABITS, ML_BACKEND_FIT="policy", ML_BACKEND_RETRAIN_MIN_ANNOTATIONS="3")
        for number in range(1, 4):
            said = services.backend.fit("ANNOTATION_CREATED", event(number))
        assert "waiting for 2 s" in said["reason"]
        by_the_clock(services)
        seen = [line.split()[:2] for line in (tmp_path / "order.txt").read_text().splitlines()]
        assert seen == [["START_TRAINING", "3"]]

    def test_a_class_that_cannot_be_imported_fails_the_run_and_loses_no_event(
        self, open_services: Callable[..., Services], tmp_path: Path
    ) -> None:
        broken = tmp_path / "broken.py"
        broken.write_text("import spacyless\nfrom label_studio_ml.model import LabelStudioMLBase\n")
        services = open_services(broken)
        services.backend.fit("ANNOTATION_CREATED", event(1))
        done = carry_out(services)
        assert done.status == "failed"
        assert "No module named 'spacyless'" in done.ending
        assert services.plain().waiting(uid(7)) == 1

    def test_an_event_with_parts_that_nobody_reads_waits_for_fit_whole_or_is_refused_and_changes_nothing(
        self, open_services: Callable[..., Services]
    ) -> None:
        services = open_services(HABITS)
        web = create_app(services).test_client()
        text = json.dumps({"action": "ANNOTATION_CREATED", **event(1), "unread": "the deep one"})
        outcomes = []
        for depth in (100, *range(248, 258), 300, 900):
            services.redis.flushdb()
            deep = text.replace('"the deep one"', "[" * depth + "]" * depth)
            answer = web.post("/webhook", data=deep, content_type="application/json")
            outcomes.append(answer.status_code)
            if answer.status_code == 200:
                assert services.plain().waiting(uid(7)) == 1
            else:
                assert answer.json["error"] == {"field": "body", "reason": "is nested too deeply"}
                assert set(services.redis.keys()) <= {b"mlb:tally"}
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (200, 400)

    def test_before_any_fit_the_class_serves_as_it_is(self, open_services: Callable[..., Services]) -> None:
        services = open_services(HABITS)
        services.state.setup(uid(7), CONFIG, None, time.time())
        by_the_clock(services)
        assert served(services) == (["bad", "bad"], "WordCounter-v0.0.1-1")
        assert not services.state.load(uid(7)).training.trained  # type: ignore[union-attr]

    def test_a_class_of_the_first_generation_finds_what_its_fit_returned(
        self, open_services: Callable[..., Services], tmp_path: Path
    ) -> None:
        services = open_services(FIRST)
        for number in (2, 3):
            services.backend.fit("ANNOTATION_CREATED", event(number))
        assert carry_out(services).status == "succeeded"
        assert served(services) == (["good", "good"], "Remembering-1")
        without = event(5)
        without["annotation"]["result"] = []
        services.backend.fit("ANNOTATION_CREATED", without)
        assert carry_out(services).status == "failed"
        kept = list((tmp_path / "data" / "plain" / uid(7)).iterdir())
        assert [[file.name for file in folder.iterdir()] for folder in kept] == [["best.json"]] * 2, "no empty folder"

    def test_functions_alone_are_a_model_too_and_what_they_set_is_kept_in_redis(
        self, open_services: Callable[..., Services]
    ) -> None:
        services = open_services(FUNCTIONS)
        services.state.setup(uid(7), CONFIG, json.dumps({"own": 1}), time.time())
        services.backend.fit("ANNOTATION_CREATED", event(3))
        assert carry_out(services).status == "succeeded"
        assert served(services) == (["good", "good"], "0.0.1-1")
        assert services.plain().values(uid(7))["7", "best"] == "good"


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
class TestTheProcess:
    @pytest.fixture
    def process(self, open_services: Callable[..., Services], tmp_path: Path) -> Iterator[PlainProcess]:
        (tmp_path / "led.py").write_text(LED)
        open_services(tmp_path / "led.py")
        hello = {"model": str(tmp_path / "led.py"), "uid": uid(7), "label_config": CONFIG, "params": {}, "output": None}
        made = PlainProcess(hello)
        yield made
        made.close()

    def test_a_task_that_is_nested_too_deeply_does_not_end_it(self, process: PlainProcess) -> None:
        deep = json.loads("[" * 300 + "]" * 300)
        with pytest.raises(TypeError):
            process.predict([{"id": 1, "data": {"text": deep}}], CONFIG, None, timeout_s=60)
        assert process.alive

    def test_its_end_is_noticed_although_a_process_that_it_forked_lives_on(
        self, process: PlainProcess, tmp_path: Path
    ) -> None:
        try:
            with pytest.raises(PlainDied, match="killed by SIGKILL"):
                process.predict([{"do": "fork and die"}], CONFIG, None, timeout_s=60)
            assert _lives(int((tmp_path / "grandchild").read_text()))
        finally:
            kill(int((tmp_path / "grandchild").read_text()))

    def test_who_asks_while_it_works_for_another_waits_no_longer_than_allowed_and_disturbs_nobody(
        self, process: PlainProcess, tmp_path: Path
    ) -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(process.predict, [{"do": "wait"}], CONFIG, None, timeout_s=60)
            try:
                wait_until((tmp_path / "waiting").exists, 30, "it works")
                with pytest.raises(PlainFailed, match="did not come to this question in time"):
                    process.predict([{"do": "nothing"}], CONFIG, None, timeout_s=0.3)
            finally:
                (tmp_path / "go").touch()
            assert first.result(60) == [[]]
        assert process.alive

    def test_closing_a_model_whose_process_died_starts_no_other(
        self, open_services: Callable[..., Services], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        services = open_services(HABITS)
        model = services.make_model(uid(7), CONFIG, {})
        assert isinstance(model, PlainBackend)
        model.close()
        (tmp_path / "plain.json").write_text(json.dumps({"uid": uid(7)}))
        model.load(tmp_path)
        region = model.predict(copy.deepcopy(TASKS))[0][0]["result"][0]
        kill(region["meta"]["pid"])
        wait_until(lambda: not _lives(region["meta"]["pid"]), 20, "its end")
        monkeypatch.setattr(subprocess, "Popen", None)  # whoever starts one now fails
        model.close()


# --- the line of events -----------------------------------------------------------------------------------------------


class TestTheLine:
    def test_only_whoever_holds_the_project_takes_an_event_out_of_it(self, valkey: redis.Redis) -> None:
        from ml_backend.runs import Lease, Runs

        line, runs = PlainState(valkey), Runs(valkey)
        line.push(uid(7), line_of("ANNOTATION_CREATED", {"n": 1}))
        line.push(uid(7), line_of("ANNOTATION_UPDATED", {"n": 2}))
        asked_for = runs.request(uid(7), trigger="test", reason="a test", due=0, click=True, now=1)
        runs.dispatch(uid(7), 2, lambda *_: True)
        lease = runs.start(uid(7), asked_for.id, "worker", 3)
        assert isinstance(lease, Lease)
        first = line.first(uid(7))
        assert first == WaitingEvent(1, "ANNOTATION_CREATED", {"n": 1})
        runs.expire(uid(7), 1000)
        assert not line.seen(first, lease, None, left=True)
        assert line.waiting(uid(7)) == 2
        runs.dispatch(uid(7), 2000, lambda *_: True)
        again = runs.start(uid(7), asked_for.id, "another worker", 2001)
        assert again is not None
        assert not line.left(uid(7))
        assert line.seen(first, again, {"path": "x"}, left=True)
        assert line.left(uid(7))
        assert not line.seen(first, again, None, left=False), "it is the turn of the next"
        assert line.first(uid(7)) == WaitingEvent(2, "ANNOTATION_UPDATED", {"n": 2})
        assert line.output(uid(7)) == {"path": "x"}
        line.served(lease)
        assert line.left(uid(7)), "the project is another's by now, who may have left something newer"
        line.served(again)
        assert not line.left(uid(7))

    def test_what_a_class_sets_is_seen_everywhere_at_once(self, valkey: redis.Redis) -> None:
        here, there = PlainState(valkey).values(uid(7)), PlainState(valkey).values(uid(7))
        here["7", "threshold"] = "0.5"
        assert there["7", "threshold"] == "0.5"
        assert ("7", "threshold") in there
        assert ("7", "other") not in there
        assert there["7", "other"] is None
        assert PlainState(valkey).values(uid(8))["8", "threshold"] is None

    def test_a_value_that_is_no_text_is_refused_as_plain_classes_expect(self, valkey: redis.Redis) -> None:
        with pytest.raises(ValueError, match="must be a string"):
            PlainState(valkey).values(uid(7))["7", "threshold"] = 0.5  # type: ignore[assignment]


# --- names ------------------------------------------------------------------------------------------------------------


def test_several_plain_classes_in_one_file_ask_for_a_name(tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    body = "class One(LabelStudioMLBase): ...\nclass Two(LabelStudioMLBase): ...\n"
    path.write_text("from label_studio_ml.model import LabelStudioMLBase\n" + body)
    with pytest.raises(ModelNotFound, match=r"several models \(One, Two\)"):
        find_model(str(path))
    assert find_model(f"{path}:Two").__name__ == "Two"


# --- the whole product ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("plain")
    (folder / "weights").mkdir()
    # As most of them lie: a folder with a model.py, whose name our own package has too, and a neighbour of it.
    (folder / "example").mkdir()
    (folder / "example" / "utils.py").write_text("HERE = True\n")
    (folder / "example" / "model.py").write_text(f"{HABITS.read_text()}\nimport utils\n\nassert utils.HERE\n")
    settings = {"WORKERS": "2", "MODEL_DIR": str(folder / "weights")}
    with Stage(folder, lease_s=8.0, model=str(folder / "example"), **settings) as running:
        yield running


def answers(stage: Stage, project: int) -> set[tuple[int, str, tuple[str, ...]]]:
    """(process, version, choices) of many predictions asked for at once, so that no web process is left out."""
    body = {"project": uid(project), "label_config": CONFIG, "tasks": TASKS, "params": {}}

    def ask(_: int) -> tuple[int, str, tuple[str, ...]]:
        answer = stage.backend.posted("/predict", body)
        if not all(answer["results"]):
            return (0, "", ())
        made = [one[0] for one in answer["results"]]
        regions = [one["result"][0] for one in made]
        choices = tuple(region["value"]["choices"][0] for region in regions)
        return (regions[0]["meta"]["pid"], made[0]["model_version"], choices)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return set(pool.map(ask, range(16)))


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
class TestTheProduct:
    def test_a_plain_class_retrains_and_serves_the_new_weights_in_every_web_process(self, stage: Stage) -> None:
        stage.backend.posted("/setup", setup(7))
        untrained = stage.wait(
            lambda: (seen := answers(stage, 7)) and 0 not in {one[0] for one in seen} and len(seen) == 2 and seen,
            120,
            "both web processes serve the class as it is",
        )
        assert {one[1:] for one in untrained} == {("WordCounter-v0.0.1-1", ("bad", "bad"))}  # type: ignore[union-attr]
        for number in range(1, 5):
            deliver(stage.backend.port, event(number))
        trained = stage.wait(
            lambda: (seen := answers(stage, 7)) and {one[2] for one in seen} == {("good", "bad")} and seen,
            120,
            "both web processes serve the new weights",
        )
        assert len({one[0] for one in trained}) == 2, "a process for each web process"  # type: ignore[union-attr]
        versions = {one[1] for one in trained}  # type: ignore[union-attr]
        stage.wait(lambda: stage.backend.posted("/setup", setup(7))["model_version"] in versions, 20, "/setup names it")
        fresh = {one[0] for one in trained} - {one[0] for one in untrained}  # type: ignore[union-attr]
        assert fresh, "new weights come with new processes"

    def test_no_event_is_lost_when_the_worker_is_killed_in_the_middle_of_fit(self, stage: Stage) -> None:
        weights = Path(stage.backend.environment["MODEL_DIR"])
        (weights / "wait").touch()
        numbers = [101, 103, 105, 107]
        for number in numbers:
            deliver(stage.backend.port, event(number, 8, text="wait a moment" if number == 103 else ""))

        def order() -> list[int]:
            path = weights / "order.txt"
            lines = path.read_text().splitlines() if path.exists() else []
            return [int(line.split()[1]) for line in lines if int(line.split()[1]) > 100]

        stage.wait(lambda: order() == [101, 103], 60, "fit works on the second event")
        helper = int((weights / "order.txt").read_text().split()[-1])
        for pid in [*stage.named("work train"), *stage.horses()]:
            kill(pid)
        stage.wait(lambda: not _lives(helper), 20, "the end of the process that fit ran in")
        (weights / "wait").unlink()
        stage.wait(lambda: order() == [101, 103, 103, 105, 107], 60, "the event is seen again, and those behind it")
        stage.wait(lambda: stage.services.plain().waiting(uid(8)) == 0, 20, "an empty line")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
