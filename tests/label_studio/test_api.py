"""What the client reads from, and does to, a real Label Studio."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ml_backend.errors import LabelStudioRefused, WrongToken
from ml_backend.events import AnnotationsWritten, action_of, parse
from ml_backend.fields import read_time
from ml_backend.label_studio import LabelledTask, LabelStudioApi, StoredPrediction
from tests.label_studio.driver import choices, choices_config
from tests.label_studio.server import NEWEST, VERSION, wait_for
from tests.loopback import Answer, Loopback, Received

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.label_studio.driver import Driver
    from tests.label_studio.server import RealLabelStudio

CONFIG = choices_config(["yes", "no"])


@pytest.fixture(scope="module")
def api(label_studio: RealLabelStudio) -> Iterator[LabelStudioApi]:
    with LabelStudioApi(label_studio.base_url, label_studio.personal_token) as client:
        yield client


@pytest.fixture
def project(driver: Driver) -> Iterator[int]:
    made = driver.create_project(CONFIG)["id"]
    yield made
    driver.delete_project(made)


@pytest.fixture
def backend() -> Iterator[Loopback]:
    """Answers as an ML backend that never fails, and remembers what it was sent."""

    def answer(request: Received) -> Answer:
        return Answer({"status": "UP", "model_version": "v0", "results": [], "job": "job-1"})

    with Loopback(answer) as running:
        yield running


def everything(api: LabelStudioApi, project: int, **options: Any) -> dict[int, LabelledTask]:
    return {task.task.id: task for page in api.labelled_tasks(project, **options) for task in page}


def prediction(task: int, version: str = "v1", choice: str = "yes") -> StoredPrediction:
    return StoredPrediction(task=task, result=choices(choice), score=0.5, model_version=version)


# Keys


def test_a_personal_token_says_whose_it_is(api: LabelStudioApi, label_studio: RealLabelStudio) -> None:
    identity = api.check()
    assert (identity.email, identity.token_kind, identity.release) == (label_studio.email, "personal", VERSION)


def test_a_legacy_token_is_refused_with_what_to_do_and_works_once_allowed(
    label_studio: RealLabelStudio, driver: Driver
) -> None:
    with LabelStudioApi(label_studio.base_url, label_studio.legacy_token) as client:
        with pytest.raises(WrongToken, match=r"legacy tokens switched off.*Account & Settings > Personal Access Token"):
            client.check()
        driver.legacy_tokens(enabled=True)
        try:
            assert client.check().token_kind == "legacy"
        finally:
            driver.legacy_tokens(enabled=False)


@pytest.mark.skipif(VERSION != NEWEST, reason="older releases do not know a token that was just made as one to revoke")
def test_a_revoked_personal_token_is_told(label_studio: RealLabelStudio, driver: Driver) -> None:
    with driver.invite("revoked@example.com") as person, LabelStudioApi(label_studio.base_url, person.token) as client:
        assert client.check().email == "revoked@example.com"
        person.call("POST", "/api/token/blacklist/", json={"refresh": person.token})
    with LabelStudioApi(label_studio.base_url, person.token) as later, pytest.raises(WrongToken, match="was revoked"):
        later.check()


def test_a_token_of_another_label_studio_is_told(label_studio: RealLabelStudio) -> None:
    header, claims, _ = label_studio.personal_token.split(".")
    forged = f"{header}.{claims}.c2lnbmF0dXJl"
    with LabelStudioApi(label_studio.base_url, forged) as client, pytest.raises(WrongToken, match="belongs to another"):
        client.project(1)


def test_a_legacy_token_that_nobody_has_is_told(label_studio: RealLabelStudio) -> None:
    with LabelStudioApi(label_studio.base_url, "f" * 40) as client, pytest.raises(WrongToken, match="does not know"):
        client.check()


# Projects and tasks


def test_a_project_has_the_uid_and_counters_that_events_carry(
    api: LabelStudioApi, driver: Driver, project: int
) -> None:
    first, second = driver.import_tasks(project, [{"text": "a"}, {"text": "b"}])
    driver.annotate(first, choices("yes"))
    driver.skip(second)
    details = api.project(project, counted=True)
    created = read_time(driver.project(project)["created_at"], "") or 0
    assert details.project.uid == f"{project}.{created // 1_000_000}"
    assert details.project.label_config == CONFIG
    counters = details.project.counters
    assert counters is not None
    assert (counters.task_number, counters.useful_annotation_number, counters.skipped_annotations_number) == (2, 1, 1)


def test_a_project_is_the_same_without_its_counters(api: LabelStudioApi, driver: Driver, project: int) -> None:
    driver.import_tasks(project, [{"text": "a"}])
    counted, uncounted = api.project(project, counted=True), api.project(project)
    assert uncounted == replace(counted, project=replace(counted.project, counters=None))


def test_a_project_that_is_gone_is_a_404(api: LabelStudioApi) -> None:
    with pytest.raises(LabelStudioRefused, match="No Project matches") as seen:
        api.project(999_999)
    assert seen.value.status == 404


def test_every_annotation_is_read_as_the_export_has_it(api: LabelStudioApi, driver: Driver, project: int) -> None:
    imported = {"data": {"text": "imported"}, "annotations": [{"result": choices("no")}]}
    tasks = driver.import_tasks(project, [imported, *({"text": f"text {i}"} for i in range(5))])
    driver.annotate(tasks[1], choices("yes"))
    driver.annotate(tasks[1], choices("no"))
    driver.skip(tasks[2])
    driver.annotate(tasks[3], [])
    driver.mark_ground_truth(driver.annotate(tasks[4], choices("yes"))["id"])
    read = everything(api, project)
    exported = {task["id"]: task for task in driver.export(project) if task["annotations"]}
    assert read.keys() == exported.keys() == set(tasks[:5])
    for task_id, task in read.items():
        assert task.task.data == exported[task_id]["data"]
        assert task.task.updated_at_us == read_time(exported[task_id]["updated_at"], "")
        assert {
            one.id: (one.result, one.was_cancelled, one.ground_truth, one.created_at_us, one.updated_at_us)
            for one in task.annotations
        } == {
            one["id"]: (
                one["result"],
                one["was_cancelled"],
                one["ground_truth"],
                read_time(one["created_at"], ""),
                read_time(one["updated_at"], ""),
            )
            for one in exported[task_id]["annotations"]
        }
    assert [one.ground_truth for one in read[tasks[0]].annotations] == [True]


def test_reading_every_annotation_takes_less_time_than_an_export(
    api: LabelStudioApi, driver: Driver, project: int
) -> None:
    """Half of it on a quiet machine; a Label Studio that answers as before costs as much as its export."""
    driver.import_tasks(
        project, [{"data": {"text": str(i)}, "annotations": [{"result": choices("yes")}]} for i in range(1000)]
    )
    ours, exports = [], []
    for _ in range(3):
        began = time.monotonic()
        assert len(everything(api, project)) == 1000
        ours.append(time.monotonic() - began)
        began = time.monotonic()
        assert len(driver.export(project)) == 1000
        exports.append(time.monotonic() - began)
    assert median(ours) < 0.8 * median(exports)


def test_an_annotation_reads_the_same_from_the_api_as_from_its_event(
    api: LabelStudioApi, driver: Driver, project: int, backend: Loopback
) -> None:
    """Or a sync would take every annotation for changed."""
    driver.create_webhook(f"{backend.url}/webhook", project=project)
    tasks = driver.import_tasks(project, [{"$undefined$": "a"}, {"text": "b"}, {"text": "c"}])
    api.import_predictions(project, [prediction(tasks[1]), prediction(tasks[2])])
    driver.annotate(tasks[0], choices("yes"))
    driver.predictions_to_annotations(project, [tasks[1]])
    stored = driver.predictions(task=tasks[2])[0]["id"]
    driver.annotate(tasks[2], choices("no"), parent_prediction=stored)
    events = [parse(action_of(one.json), one.json) for one in backend.received]
    sent = [one for event in events if isinstance(event, AnnotationsWritten) for one in event.annotations]
    data = {one.id: one.data for event in events if isinstance(event, AnnotationsWritten) for one in event.tasks}
    read = everything(api, project)
    assert sorted((one for task in read.values() for one in task.annotations), key=lambda one: one.id) == sent
    assert {task_id: task.task.data for task_id, task in read.items()} == data


def test_bulk_accepted_predictions_are_told_from_submitted_ones(
    api: LabelStudioApi, driver: Driver, project: int
) -> None:
    accepted, submitted, edited = driver.import_tasks(project, [{"text": "a"}, {"text": "b"}, {"text": "c"}])
    api.import_predictions(project, [prediction(one) for one in (accepted, submitted, edited)])
    driver.predictions_to_annotations(project, [accepted, edited])
    stored = driver.predictions(task=submitted)[0]["id"]
    driver.annotate(submitted, choices("yes"), parent_prediction=stored)
    (to_edit,) = everything(api, project)[edited].annotations
    driver.update_annotation(to_edit.id, result=choices("no"))
    read = everything(api, project)
    assert {task: read[task].annotations[0].bulk_accepted for task in (accepted, submitted, edited)} == {
        accepted: True,
        submitted: False,
        edited: False,
    }
    assert all(task.annotations[0].parent_prediction is not None for task in read.values())


def test_who_is_deleted_leaves_no_accepted_predictions_behind(
    api: LabelStudioApi, driver: Driver, project: int
) -> None:
    submitted, accepted = driver.import_tasks(project, [{"text": "a"}, {"text": "b"}])
    api.import_predictions(project, [prediction(one) for one in (submitted, accepted)])
    with driver.invite(f"leaves-{uuid.uuid4().hex[:8]}@example.com") as leaving:
        stored = driver.predictions(task=submitted)[0]["id"]
        leaving.annotate(submitted, choices("yes"), parent_prediction=stored)
        leaving.predictions_to_annotations(project, [accepted])
        driver.delete_person(leaving.me()["id"])
    read = everything(api, project)
    assert [read[task].annotations[0].completed_by for task in (submitted, accepted)] == [None, None]
    assert [read[task].annotations[0].bulk_accepted for task in (submitted, accepted)] == [False, True]


def test_a_change_is_found_by_the_tasks_time(api: LabelStudioApi, driver: Driver, project: int) -> None:
    tasks = driver.import_tasks(project, [{"text": str(i)} for i in range(6)])
    made = [driver.annotate(task, choices("yes"))["id"] for task in tasks[:4]]
    since = max(task.task.updated_at_us or 0 for task in everything(api, project).values()) + 1
    assert everything(api, project, since_us=since) == {}
    driver.update_annotation(made[0], result=choices("no"))
    second = driver.annotate(tasks[1], choices("no"))["id"]
    driver.delete_annotation(made[1])
    driver.delete_annotation(made[2])
    changed = everything(api, project, since_us=since)
    assert changed.keys() == {tasks[0], tasks[1]}
    assert [one.id for one in changed[tasks[1]].annotations] == [second]
    assert [one for page in api.unlabelled_since(project, since) for one in page] == [tasks[2]]


def test_all_annotations_of_a_crowded_task_are_read(api: LabelStudioApi, driver: Driver, project: int) -> None:
    many = {"data": {"text": "many"}, "annotations": [{"result": choices("yes")} for _ in range(150)]}
    (crowded,) = driver.import_tasks(project, [many])
    assert len(everything(api, project)[crowded].annotations) == 150


def test_tasks_are_read_by_id_and_deleted_ones_are_missing(api: LabelStudioApi, driver: Driver, project: int) -> None:
    tasks = driver.import_tasks(project, [{"text": str(i)} for i in range(450)])
    driver.annotate(tasks[0], choices("yes"))
    driver.delete_task(tasks[7])
    plain = {task.id: task for page in api.plain_tasks_by_id(project, tasks) for task in page}
    assert list(plain) == [one for one in tasks if one != tasks[7]]
    assert [plain[one].labelled for one in tasks[:3]] == [True, False, False]
    assert plain[tasks[1]].data == {"text": "1"}


# Predictions


def test_predictions_are_stored_counted_and_deleted(api: LabelStudioApi, driver: Driver, project: int) -> None:
    first, second = driver.import_tasks(project, [{"text": "a"}, {"text": "b"}])
    assert api.import_predictions(project, [prediction(first, "v1"), prediction(second, "v1")]) == 2
    assert api.import_predictions(project, [prediction(first, "v2"), prediction(first, "somebody-elses")]) == 2
    assert api.prediction_versions(project) == {"v1": 2, "v2": 1, "somebody-elses": 1}
    plain = {task.id: task for page in api.plain_tasks(project) for task in page}
    assert plain[first].versions == {"v1", "v2", "somebody-elses"}
    assert plain[second].versions == {"v1"}
    driver.predictions_to_annotations(project, [second], model_version="v1")
    stored = [one for page in api.stored_predictions(project, "v1") for one in page]
    assert [(one.task, one.is_parent) for one in stored] == [(first, False), (second, True)]
    for page in api.stored_predictions(project, "v1"):
        for one in page:
            api.delete_prediction(one.id)
    assert {one["model_version"] for one in driver.predictions(project=project)} == {"v2", "somebody-elses"}


def test_one_deleted_task_refuses_the_predictions_of_all(api: LabelStudioApi, driver: Driver, project: int) -> None:
    first, second = driver.import_tasks(project, [{"text": "a"}, {"text": "b"}])
    driver.delete_task(second)
    with pytest.raises(LabelStudioRefused, match=f"'task': {second}, .* contains invalid") as seen:
        api.import_predictions(project, [prediction(first), prediction(second)])
    assert seen.value.status == 400


def test_a_version_orders_the_tasks_only_once_predictions_of_it_exist(
    api: LabelStudioApi, driver: Driver, project: int
) -> None:
    (task,) = driver.import_tasks(project, [{"text": "a"}])
    with pytest.raises(LabelStudioRefused, match="400"):
        api.set_model_version(project, "v1")
    api.import_predictions(project, [prediction(task)])
    api.set_model_version(project, "v1", show=False)
    details = api.project(project)
    assert (details.model_version, details.show_predictions) == ("v1", False)


# Connections and webhooks


@pytest.mark.parametrize("basic_auth", [None, ("user", "secret")], ids=["no auth", "basic auth"])
def test_renaming_a_connection_takes_the_projects_version_along_and_loses_nothing(
    api: LabelStudioApi, driver: Driver, project: int, backend: Loopback, basic_auth: tuple[str, str] | None
) -> None:
    driver.connect(project, backend.url, title="before", basic_auth=basic_auth, extra_params={"refit": {"every": 5}})
    (connection,) = api.connections(project)
    assert (connection.title, connection.state, connection.project_id) == ("before", "CO", project)
    del backend.received[:]
    api.rename_connection(connection, "v7")
    assert api.project(project).model_version == "v7"
    (renamed,) = api.connections(project)
    assert (renamed.title, renamed.extra_params) == ("v7", {"refit": {"every": 5}})
    assert renamed.basic_auth_user == (basic_auth and basic_auth[0])
    setups = [one for one in backend.received if one.path == "/setup"]
    assert setups
    for setup in setups:
        assert setup.json["extra_params"] == {"refit": {"every": 5}}
        assert ("Authorization" in setup.headers) == (basic_auth is not None)


def test_a_webhook_is_changed_without_losing_its_actions(api: LabelStudioApi, driver: Driver, project: int) -> None:
    driver.create_webhook(
        "http://127.0.0.1:9/webhook", project=project, send_for_all_actions=False, actions=["ANNOTATION_CREATED"]
    )
    (webhook,) = api.webhooks(project)
    api.update_webhook(replace(webhook, headers={"Authorization": "Basic abc"}))
    (changed,) = api.webhooks(project)
    assert changed.headers == {"Authorization": "Basic abc"}
    assert changed.actions == ("ANNOTATION_CREATED",)
    assert changed.project_id == project


def test_a_webhook_is_made_used_and_removed(
    api: LabelStudioApi, driver: Driver, project: int, backend: Loopback
) -> None:
    made = api.create_webhook(project, f"{backend.url}/webhook", {"X-Key": "1"})
    driver.import_tasks(project, [{"text": "a"}])
    wait_for(lambda: bool(backend.received), 10.0, "no webhook came")
    assert backend.received[0].headers["X-Key"] == "1"
    assert backend.received[0].json["action"] == "TASKS_CREATED"
    api.delete_webhook(made.id)
    assert api.webhooks(project) == []


def test_the_harness_sees_the_job_of_a_click(
    label_studio: RealLabelStudio, driver: Driver, project: int, backend: Loopback
) -> None:
    connection = driver.connect(project, backend.url)["id"]
    driver.start_training(connection)
    assert label_studio.train_jobs(connection) == ["job-1"]


def test_the_answer_of_the_driver_says_why(driver: Driver, project: int) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        driver.connect(project, "http://127.0.0.1:9")
