"""Label Studio's calls, as its releases make them: what is answered, and what that leaves behind."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend import __version__
from ml_backend.web import create_app
from tests import samples
from tests.calls import BOXES, SENTIMENT, Picky, event, predict_body, services_on, setup_body
from tests.followers import Monitored
from tests.parrot import UID, publish, tasks, word_of
from tests.running import wait_until
from tests.valkey import connect

if TYPE_CHECKING:
    from pathlib import Path

    import redis
    from flask.testing import FlaskClient

    from ml_backend.bootstrap import Services

RECORDED_UID = "2.1795333883"


def post(web: FlaskClient, path: str, body: Any, status: int = 200) -> Any:
    answer = web.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json


# --- /health ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/"])
def test_health_and_root_say_up_and_what_runs(web: FlaskClient, path: str) -> None:
    assert web.get(path).json == {"status": "UP", "model_class": "Picky", "version": __version__}


# --- /setup -----------------------------------------------------------------------------------------------------------


def test_setup_names_no_version_before_the_first(web: FlaskClient) -> None:
    assert post(web, "/setup", setup_body()) == {"model_version": ""}


def test_setup_names_the_version_that_serves(web: FlaskClient, services: Services) -> None:
    name = publish(services.registry, "yes")
    assert post(web, "/setup", setup_body()) == {"model_version": name}


def test_setup_keeps_the_label_config_and_the_extra_params(web: FlaskClient, services: Services) -> None:
    post(web, "/setup", setup_body(extra_params={"refit": {"retrain": {"every": 5}}, "language": "en"}))
    assert services.state.label_config(UID) == SENTIMENT
    project = services.state.load(UID)
    assert project is not None
    refit, own = services.project_settings.read(project.extra_params)
    assert refit.retrain.every == 5
    assert own == {"language": "en"}


def test_setup_takes_extra_params_as_json_text_too(web: FlaskClient, services: Services) -> None:
    post(web, "/setup", setup_body(extra_params='{"refit": {"retrain": {"every": 7}}}'))
    project = services.state.load(UID)
    assert project is not None
    assert services.project_settings.of(project).retrain.every == 7


@pytest.mark.parametrize("empty", [None, "", {}])
def test_setup_with_empty_extra_params_goes_back_to_the_defaults(
    web: FlaskClient, services: Services, empty: object
) -> None:
    post(web, "/setup", setup_body(extra_params={"refit": {"retrain": {"every": 5}}}))
    post(web, "/setup", setup_body(extra_params=empty))
    project = services.state.load(UID)
    assert project is not None
    assert services.project_settings.of(project).retrain.every is None


def test_setup_without_the_field_leaves_the_extra_params_alone(web: FlaskClient, services: Services) -> None:
    post(web, "/setup", setup_body(extra_params={"refit": {"retrain": {"every": 5}}}))
    post(web, "/setup", {"project": UID, "schema": SENTIMENT})
    project = services.state.load(UID)
    assert project is not None
    assert services.project_settings.of(project).retrain.every == 5


def test_a_setup_that_says_nothing_new_is_one_round_trip_and_no_write(
    web: FlaskClient, services: Services, redis_client: redis.Redis
) -> None:
    body = setup_body(extra_params={"refit": {"retrain": {"every": 5}}})
    post(web, "/setup", body)
    written = redis_client.info("persistence")["rdb_changes_since_last_save"]
    with Monitored(redis_client) as commands:
        post(web, "/setup", body)
    assert [one.split()[0] for one in commands] == ["EVALSHA"]
    assert redis_client.info("persistence")["rdb_changes_since_last_save"] == written


@pytest.mark.parametrize(
    ("schema", "reason"), [(BOXES, "it has no Choices"), (SENTIMENT.replace("yes", "crash"), "its check failed")]
)
def test_setup_succeeds_with_a_config_that_the_model_does_not_support_and_remembers_why(
    web: FlaskClient, services: Services, schema: str, reason: str
) -> None:
    assert reason in post(web, "/setup", setup_body(schema=schema))["unsupported"]
    project = services.state.load(UID)
    assert project is not None
    assert reason in project.meta["unsupported"]
    assert "unsupported" not in post(web, "/setup", setup_body())
    project = services.state.load(UID)
    assert project is not None
    assert "unsupported" not in project.meta


def test_setup_checks_a_label_config_once(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Picky, "check", lambda _self, config: asked.append(config))
    web = create_app(services).test_client()
    for _ in range(3):
        post(web, "/setup", setup_body(schema=SENTIMENT.replace("no", "perhaps")))
    assert len(asked) == 1


def test_setup_brings_a_deleted_project_back(web: FlaskClient, services: Services) -> None:
    post(web, "/setup", setup_body())
    post(web, "/delete", {"project": UID})
    post(web, "/setup", setup_body())
    project = services.state.load(UID)
    assert project is not None
    assert project.deleted_at is None


# --- /predict ---------------------------------------------------------------------------------------------------------


def test_predict_answers_an_empty_list_for_each_task_before_the_first_version(web: FlaskClient) -> None:
    assert post(web, "/predict", predict_body(tasks("one", "two"))) == {"results": [[], []]}


def test_predict_answers_in_the_order_of_the_tasks_with_the_version_that_serves(
    web: FlaskClient, services: Services
) -> None:
    name = publish(services.registry, "yes")
    results = post(web, "/predict", predict_body(tasks("one", "nothing", "two")))["results"]
    assert [len(one) for one in results] == [1, 0, 1]
    assert word_of(results[2]) == "yes"
    assert results[0][0]["model_version"] == name


def test_predict_has_an_empty_list_in_the_place_of_each_task_that_cannot_be_read(
    web: FlaskClient, services: Services
) -> None:
    publish(services.registry, "yes")
    good = tasks("one")[0]
    bad: list[Any] = [None, 7, "task", [], {}, {"id": 3}, {"id": 3, "data": "text"}, {"id": 3, "data": {"image": "x"}}]
    results = post(web, "/predict", predict_body([*bad, good]))["results"]
    assert results[:-1] == [[] for _ in bad]
    assert word_of(results[-1]) == "yes"


def test_predict_hands_the_context_of_an_interactive_annotation_to_the_model(
    web: FlaskClient, services: Services
) -> None:
    publish(services.registry, "yes")
    body = predict_body(tasks("one"), params={"context": {"result": [{"id": "a"}]}})
    assert post(web, "/predict", body)["results"][0][0]["result"][0]["meta"] == {"result": [{"id": "a"}]}


def test_predict_leaves_out_what_is_not_done_at_the_deadline(redis_socket: Path, tmp_path: Path) -> None:
    with services_on(redis_socket, tmp_path, ML_BACKEND_PREDICT_DEADLINE="0.4") as services:
        publish(services.registry, "takes its time")
        began = time.monotonic()
        body = predict_body(tasks(*("text" for _ in range(1000))))
        results = post(create_app(services).test_client(), "/predict", body)["results"]
    assert time.monotonic() - began < 4
    assert len(results) == 1000
    assert results[0]
    assert not results[-1]


@pytest.mark.parametrize(
    "project", [5, "5", {"id": 5}, {"id": 5, "created_at": "2026-11-22T07:51:23.096964Z"}, UID, None]
)
def test_predict_knows_a_project_by_whatever_names_only_it(
    web: FlaskClient, services: Services, project: object
) -> None:
    post(web, "/setup", setup_body())
    publish(services.registry, "yes")
    assert word_of(post(web, "/predict", predict_body(tasks("one"), project=project))["results"][0]) == "yes"


# --- /webhook ---------------------------------------------------------------------------------------------------------


def test_webhook_takes_every_recorded_event(web: FlaskClient) -> None:
    for request in samples.webhooks():
        assert {"status", "reason"} <= post(web, "/webhook", request.body).keys(), request.name


def test_webhook_takes_an_import_of_5000_tasks(web: FlaskClient) -> None:
    answer = web.post("/webhook", data=samples.import_of_5000(), content_type="application/json; charset=utf-8")
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", sorted(samples.pages()))
def test_webhook_takes_the_payloads_of_both_reference_pages_of_a_known_project(web: FlaskClient, name: str) -> None:
    payload = samples.pages()[name]
    project = payload.get("project") or {"id": payload.get("id", 1)}
    number = project["id"] if isinstance(project, dict) else project
    post(web, "/setup", setup_body(f"{number}.1795333883"))
    assert {"status", "reason"} <= post(web, "/webhook", payload).keys()


def test_webhook_with_start_training_names_a_job_that_can_be_followed(web: FlaskClient) -> None:
    job = post(web, "/webhook", event("START_TRAINING"))["job"]
    assert post(web, "/job_status", {"job": job})["job_status"] == "queued"


def test_webhook_ignores_what_it_does_not_know_with_a_reason(web: FlaskClient) -> None:
    assert post(web, "/webhook", {"action": "MOON_ROSE"}) == {"status": "ignored", "reason": "unknown action"}


@dataclass
class Watch:
    """What the process does while it is switched on: files it opens, addresses it connects to."""

    on: bool = False
    seen: list[str] = field(default_factory=list)

    def __call__(self, name: str, arguments: tuple[object, ...]) -> None:
        if self.on and name in {"open", "socket.connect", "subprocess.Popen", "import"}:
            self.seen.append(f"{name} {arguments}")


@pytest.fixture(scope="module")
def watch() -> Watch:
    # An audit hook cannot be taken away again; switched off it costs nothing to speak of.
    watch = Watch()
    sys.addaudithook(watch)
    return watch


def test_webhook_does_one_round_trip_and_touches_no_file_no_model_and_no_other_host(
    redis_socket: Path, web: FlaskClient, redis_client: redis.Redis, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    before = Picky.__init__
    monkeypatch.setattr(
        Picky, "__init__", lambda self, *args, **kwargs: (made.append(self), before(self, *args, **kwargs))[1]
    )
    body = event("ANNOTATION_CREATED")
    body["project"]["min_annotations_to_start_training"] = 1000
    post(web, "/webhook", body)
    commands = Commands(redis_socket)
    with commands:
        body["annotation"]["id"] = 99
        watch.on = True
        answer = post(web, "/webhook", body)
        watch.on = False
        assert answer["status"] == "recorded"
        redis_client.echo("the end")
    assert [one.split()[0] for one in commands.seen if not is_background(one)] == ["EVALSHA"]
    assert watch.seen == []
    assert made == []


def is_background(command: str) -> bool:
    """Whether a web process sends it whoever asks for what.

    Every second: its heartbeat, its counts, what serves. When a connection is new: CLIENT SETINFO.
    """
    name, *arguments = command.split()
    return name in {"MULTI", "EXEC", "CLIENT"} or any(
        one in {"mlb:web", "mlb:tally", "mlb:serving:revision"} for one in arguments
    )


class Commands:
    """The commands that clients send (not what scripts call) until somebody echoes "the end"."""

    def __init__(self, socket: Path) -> None:
        self.seen: list[str] = []
        self._client = connect(socket, timeout=5)
        self._thread = threading.Thread(target=self._read)
        self._ready = threading.Event()

    def _read(self) -> None:
        with self._client.monitor() as monitor:
            self._ready.set()
            for command in monitor.listen():
                if command["command"].startswith("ECHO"):
                    return
                if command["client_type"] != "lua":
                    self.seen.append(command["command"])

    def __enter__(self) -> None:
        self._thread.start()
        assert self._ready.wait(5)

    def __exit__(self, *_: object) -> None:
        self._thread.join(5)
        self._client.close()


# --- /train, /job_status, /versions -----------------------------------------------------------------------------------


def test_train_of_older_releases_asks_for_a_run_as_a_click_does(web: FlaskClient, services: Services) -> None:
    body = {"annotations": [], "project": UID, "label_config": SENTIMENT, "params": {"login": None}}
    job = post(web, "/train", body, 201)["job"]
    run = services.runs.get(job)
    assert run is not None
    assert run.click
    assert services.state.label_config(UID) == SENTIMENT


def test_job_status_follows_a_run_to_its_end(web: FlaskClient, services: Services) -> None:
    job = post(web, "/train", {"project": UID, "label_config": SENTIMENT}, 201)["job"]
    now = time.time()
    services.runs.dispatch(UID, now, lambda *_: True)
    lease = services.runs.start(UID, job, "worker", now)
    assert lease is not None
    services.runs.progress(lease, "training", 0.5, "epoch 3", now)
    started = post(web, "/job_status", {"job": job})
    assert (started["job_status"], started["phase"], started["fraction"]) == ("started", "training", 0.5)
    services.runs.finish(lease, "failed", reason="boom", error="ValueError: boom", traceback="secret", now=now)
    over = post(web, "/job_status", {"job": job})
    assert (over["job_status"], over["ending"], over["error"]) == ("failed", "boom", "ValueError: boom")
    assert "secret" not in str(over)


@pytest.mark.parametrize("job", ["5-1795333883-77", "somebody else's", ""])
def test_job_status_says_gone_for_a_job_that_is_not_known(web: FlaskClient, job: str) -> None:
    assert post(web, "/job_status", {"job": job}, 410)["error"]["field"] == "job"


def test_versions_lists_all_projects_newest_first_when_none_is_named(web: FlaskClient, services: Services) -> None:
    other = "7.1795333999"
    post(web, "/setup", setup_body())
    post(web, "/setup", setup_body(other))
    names = [publish(services.registry, "yes", uid) for uid in (UID, other, UID)]
    assert web.get("/versions").json == {"versions": names[::-1]}
    assert post(web, "/versions", {"project": UID}) == {"versions": [names[2], names[0]]}


def test_versions_of_nothing_is_an_empty_list(web: FlaskClient) -> None:
    assert web.get("/versions").json == {"versions": []}


# --- /delete, /duplicate_model, /validate -----------------------------------------------------------------------------


def test_delete_cancels_what_waits_and_marks_the_project(web: FlaskClient, services: Services) -> None:
    job = post(web, "/train", {"project": UID, "label_config": SENTIMENT}, 201)["job"]
    post(web, "/delete", {"project": UID})
    assert post(web, "/job_status", {"job": job})["job_status"] == "canceled"
    project = services.state.load(UID)
    assert project is not None
    assert project.deleted_at is not None


def test_duplicate_model_says_that_the_copy_trains_its_own(web: FlaskClient) -> None:
    answer = post(web, "/duplicate_model", {"project_src": UID, "project_dst": "6.1795333999"})
    assert answer["status"] == "ignored"
    assert answer["reason"]


def test_validate_says_whether_the_model_supports_a_label_config(web: FlaskClient) -> None:
    assert post(web, "/validate", {"config": SENTIMENT})["status"] == "ok"
    assert post(web, "/validate", {"config": BOXES}) == {"status": "unsupported", "reason": "it has no Choices"}


# --- /metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_is_an_empty_object_for_label_studio(web: FlaskClient) -> None:
    assert web.get("/metrics", headers={"Accept": "*/*"}).json == {}


@pytest.mark.parametrize(
    "asked",
    [
        {"query_string": {"format": "prometheus"}},
        {"headers": {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"}},
    ],
)
def test_metrics_are_prometheus_text_for_who_asks(web: FlaskClient, asked: dict[str, Any]) -> None:
    post(web, "/webhook", event("ANNOTATION_CREATED"))
    answer = web.get("/metrics", **asked)
    assert answer.content_type.startswith("text/plain")
    sample = f'ml_backend_project_counter{{counter="useful_annotation_number",project="{RECORDED_UID}"}} 1.0'
    assert sample in answer.text


def test_served_version_changes_without_a_restart(web: FlaskClient, services: Services) -> None:
    publish(services.registry, "yes")
    post(web, "/predict", predict_body(tasks("one")))
    name = publish(services.registry, "no")
    wait_until(lambda: post(web, "/setup", setup_body())["model_version"] == name, 10, "the new version serves")
    assert word_of(post(web, "/predict", predict_body(tasks("one")))["results"][0]) == "no"
