"""On a real Label Studio: whatever its events lost, the training set ends up equal to its annotations, id by id."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import redis

from ml_backend.counters import DerivedCounters
from ml_backend.embedded import PrivateValkey
from ml_backend.state import State
from ml_backend.state.keys import Keys
from ml_backend.state.packing import HAS_RESULT, SKIPPED, task_of, unpack_annotation, unpack_task
from tests.label_studio.driver import Driver, choices, choices_config
from tests.running import RunningBackend, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.label_studio.server import RealLabelStudio

LABELS = ("invoice", "letter")
MODEL = "tests.models.counting:CountingModel"
QUIET = "0.3"


def environment(label_studio: RealLabelStudio, key: str | None = None) -> dict[str, str]:
    """What the operator sets."""
    return {
        "LABEL_STUDIO_URL": label_studio.base_url,
        "LABEL_STUDIO_API_KEY": label_studio.personal_token if key is None else key,
        "ML_BACKEND_RETRAIN_QUIET": QUIET,
        # Trainings come when a test asks for one.
        "ML_BACKEND_RETRAIN_MIN_ANNOTATIONS": "100000",
        "PYTHONPATH": os.getcwd(),  # noqa: PTH109 - as text
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def start(label_studio: RealLabelStudio, tmp_path: Path) -> Iterator[Callable[..., RunningBackend]]:
    """Starts a backend that may ask that Label Studio; with ``like``, on another one's folder and port."""
    started: list[RunningBackend] = []

    def one(*, key: str | None = None, like: RunningBackend | None = None, **more: str) -> RunningBackend:
        backend = RunningBackend(
            like.data_dir if like else tmp_path / f"backend-{len(started)}",
            arguments=[MODEL],
            environment={**environment(label_studio, key), **more},
            port=like.port if like else None,
        )
        started.append(backend.start())
        return backend

    yield one
    for backend in started:
        backend.stop()


def connected(driver: Driver, backend: RunningBackend) -> tuple[int, str]:
    """(id, uid) of a new project with that backend, which has read it once if it has a key that is good."""
    created = driver.create_project(choices_config(LABELS))
    driver.connect(created["id"], backend.url)
    (uid,) = [uid for uid in state(backend).uids() if uid.startswith(f"{created['id']}.")]
    if backend.environment["LABEL_STUDIO_API_KEY"] == driver.token:
        wait_until(lambda: state(backend).load(uid).complete_at, 30, "the first sync")  # type: ignore[union-attr]
    return created["id"], uid


def texts(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"document number {number}"} for number in range(start, start + count)]


def labelled(count: int, start: int) -> list[dict[str, Any]]:
    """Tasks to import with an annotation each."""
    results = itertools.cycle(choices(label) for label in LABELS)
    return [{"data": data, "annotations": [{"result": next(results)}]} for data in texts(count, start)]


# --- both sides, in one form ----------------------------------------------------------------------------------------


def client(backend: RunningBackend) -> redis.Redis:
    return redis.Redis.from_url(PrivateValkey(backend.data_dir / "valkey").url)


def state(backend: RunningBackend) -> State:
    return State(client(backend))


def ours(backend: RunningBackend, uid: str) -> dict[str, Any]:
    """Every annotation by id, every task that has some, and the counters: as stored."""
    keys, store = Keys("mlb:"), client(backend)
    annotations = {}
    for raw_id, value in store.hgetall(keys.of(uid, "annotations")).items():
        flags, one = unpack_annotation(int(raw_id), value)
        result = one.result if flags & HAS_RESULT else None
        annotations[one.id] = (task_of(value), bool(flags & SKIPPED), one.ground_truth, result, one.completed_by)
    tasks = {
        int(raw_id): unpack_task(int(raw_id), value)["data"]
        for raw_id, value in store.hgetall(keys.of(uid, "tasks")).items()
    }
    project = State(store).load(uid)
    assert project is not None
    counters = {name: project.counters[name] for name in DerivedCounters.__dataclass_fields__}
    return {"annotations": annotations, "tasks": tasks, "counters": counters}


def person(annotation: dict[str, Any]) -> str | None:
    """Nobody where the person was deleted."""
    return None if annotation["completed_by"] is None else str(annotation["completed_by"])


def theirs(driver: Driver, project: int) -> dict[str, Any]:
    """The same as Label Studio's API tells it."""
    tasks = [task for task in driver.tasks(project) if task["annotations"]]
    details = driver.project(project)
    return {
        "annotations": {
            one["id"]: (task["id"], one["was_cancelled"], one["ground_truth"], one["result"], person(one))
            for task in tasks
            for one in task["annotations"]
        },
        "tasks": {task["id"]: task["data"] for task in tasks},
        "counters": {name: details[name] for name in DerivedCounters.__dataclass_fields__},
    }


def wait_for_equality(driver: Driver, project: int, backend: RunningBackend, uid: str, deadline_s: float = 60) -> None:
    wanted = theirs(driver, project)
    try:
        wait_until(lambda: ours(backend, uid) == wanted, deadline_s, "the training set is Label Studio's", every_s=0.3)
    except AssertionError:
        assert ours(backend, uid) == wanted, backend.log()[-3000:]


def cli(backend: RunningBackend, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "ml_backend.cli", *arguments, "--data-dir", str(backend.data_dir)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **backend.environment, "COLUMNS": "250"},
    )


def status(backend: RunningBackend, uid: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli(backend, "status", uid, "--json").stdout)[0]
    return found


def said(backend: RunningBackend, uid: str) -> str:
    """All decisions, newest first."""
    return "\n".join(one["reason"] for one in state(backend).decisions(uid))


def wait_for_saying(backend: RunningBackend, uid: str, words: str) -> None:
    wait_until(lambda: words in said(backend, uid), 30, f"{words!r} among the decisions:\n{backend.log()[-3000:]}")


def deaf(driver: Driver, project: int, *, yes: bool) -> None:
    """Switch the project's webhooks off or on: nothing tells the backend what happens."""
    for webhook in driver.webhooks(project):
        driver.update_webhook(
            webhook["id"],
            url=webhook["url"],
            is_active=not yes,
            send_payload=webhook["send_payload"],
            send_for_all_actions=True,
            headers=webhook["headers"],
        )


# --- the tests ------------------------------------------------------------------------------------------------------


def test_a_project_that_is_labelled_already_is_read_when_it_is_connected(
    driver: Driver, start: Callable[..., RunningBackend]
) -> None:
    backend = start()
    project = driver.create_project(choices_config(LABELS))["id"]
    driver.import_tasks(project, [*labelled(30, 0), *texts(5, 30)])
    driver.connect(project, backend.url)
    (uid,) = state(backend).uids()
    wait_for_equality(driver, project, backend, uid)
    wait_for_saying(backend, uid, "complete sync (Label Studio was not asked yet")


def test_what_happened_while_the_backend_was_killed_is_made_up_for(
    driver: Driver, start: Callable[..., RunningBackend]
) -> None:
    backend = start()
    project, uid = connected(driver, backend)
    tasks = driver.import_tasks(project, texts(200))
    twins = driver.import_tasks(project, [{"text": "the same text"}] * 2)
    first = {task: driver.annotate(task, choices(LABELS[task % 2]))["id"] for task in tasks[:100]}
    pair = [driver.annotate(tasks[0], choices(LABELS[1]))["id"], first[tasks[0]]]
    driver.mark_ground_truth(pair[0])
    driver.annotate(twins[1], choices(LABELS[0]))
    wait_for_equality(driver, project, backend, uid)

    assert backend.process is not None
    os.killpg(backend.process.pid, signal.SIGKILL)
    backend.process.wait()
    for task in tasks[100:]:
        driver.annotate(task, choices(LABELS[task % 2]))
    driver.delete_tasks(project, tasks[10:20])
    for task in tasks[20:30]:
        driver.delete_annotation(first[task])
    driver.skip(tasks[30])
    driver.update_annotation(first[tasks[31]], result=choices("letter"), was_cancelled=True)
    driver.import_tasks(project, labelled(50, 1000))
    driver.mark_ground_truth(pair[1])
    driver.action(project, "remove_duplicates")

    again = start(like=backend)
    wait_for_equality(driver, project, again, uid)
    assert len(theirs(driver, project)["annotations"]) > 200
    assert state(again).load(uid).drift == {}  # type: ignore[union-attr]


def test_annotations_without_a_result_and_of_people_who_were_deleted_are_kept_as_label_studio_has_them(
    driver: Driver, start: Callable[..., RunningBackend]
) -> None:
    backend = start()
    project, uid = connected(driver, backend)
    seen, silent, unseen, kept = driver.import_tasks(project, texts(4))
    with driver.invite(f"leaves-{uuid.uuid4().hex[:8]}@example.com") as leaving:
        leaving.annotate(seen, choices("letter"))
        leaving.annotate_without_result(silent)
        deaf(driver, project, yes=True)
        leaving.annotate_without_result(unseen)
        driver.annotate(kept, [])
        driver.delete_person(leaving.me()["id"])
    wanted = theirs(driver, project)
    assert [(one[3] is None, one[4] is None) for one in wanted["annotations"].values()] == [
        (False, True),
        (True, True),
        (True, True),
        (False, False),
    ]
    assert cli(backend, "sync", uid, "--complete", "--watch").returncode == 0
    assert ours(backend, uid) == wanted


def test_accepted_predictions_are_not_trained_on_although_label_studio_forgets_that_they_were_some(
    driver: Driver, start: Callable[..., RunningBackend]
) -> None:
    backend = start()
    project, uid = connected(driver, backend)
    tasks = driver.import_tasks(project, texts(3))
    guesses = [{"task": one, "result": choices("letter"), "model_version": "a guess"} for one in tasks]
    driver.import_predictions(project, guesses)
    driver.predictions_to_annotations(project, tasks)
    wait_until(lambda: state(backend).load(uid).bulk_accepted == 3, 30, "the accepted ones")  # type: ignore[union-attr]
    driver.delete_model_version(project, "a guess")
    left = [one for task in driver.tasks(project) for one in task["annotations"]]
    assert [one["parent_prediction"] for one in left] == [None] * 3
    assert cli(backend, "sync", uid, "--complete", "--watch").returncode == 0
    known = state(backend).load(uid)
    assert known is not None
    assert (known.bulk_accepted, known.training.trainable) == (3, 0)


def test_lost_events_are_noticed_by_the_counters_of_the_next_one(
    driver: Driver, start: Callable[..., RunningBackend]
) -> None:
    backend = start()
    project, uid = connected(driver, backend)
    tasks = driver.import_tasks(project, texts(10))
    gone = driver.annotate(tasks[0], choices("letter"))["id"]
    wait_for_equality(driver, project, backend, uid)
    deaf(driver, project, yes=True)
    driver.annotate(tasks[1], choices("letter"))
    driver.delete_annotation(gone)
    driver.annotate(tasks[2], choices("letter"))
    deaf(driver, project, yes=False)
    driver.annotate(tasks[3], choices("letter"))
    wait_for_equality(driver, project, backend, uid)
    wait_for_saying(backend, uid, "incremental sync (Label Studio counts differently: total_annotations_number +1")


def test_a_moved_ground_truth_mark_and_a_moved_annotation_come_with_the_next_complete_sync(
    driver: Driver, start: Callable[..., RunningBackend]
) -> None:
    backend = start()
    project, uid = connected(driver, backend)
    task, *twins = driver.import_tasks(project, [{"text": "one"}, {"text": "twin"}, {"text": "twin"}])
    pair = [driver.annotate(task, choices(label))["id"] for label in LABELS]
    driver.mark_ground_truth(pair[0])
    driver.annotate(twins[1], choices("letter"))
    wait_for_equality(driver, project, backend, uid)
    deaf(driver, project, yes=True)
    driver.mark_ground_truth(pair[1])
    driver.action(project, "remove_duplicates")
    done = cli(backend, "sync", uid, "--complete", "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete sync (ml-backend sync): 3 annotations read" in done.stdout
    assert ours(backend, uid) == theirs(driver, project)


def test_a_bulk_deletion_brings_a_complete_sync(driver: Driver, start: Callable[..., RunningBackend]) -> None:
    backend = start()
    project, uid = connected(driver, backend)
    tasks = driver.import_tasks(project, texts(6))
    for task in tasks:
        driver.annotate(task, choices("letter"))
    wait_for_equality(driver, project, backend, uid)
    driver.delete_tasks(project, tasks[:3])
    wait_for_saying(backend, uid, "complete sync (several were deleted at once")
    wait_for_equality(driver, project, backend, uid)


def test_deleting_all_tasks_is_found_out(driver: Driver, start: Callable[..., RunningBackend]) -> None:
    backend = start()
    project, uid = connected(driver, backend)
    for task in driver.import_tasks(project, texts(6)):
        driver.annotate(task, choices("letter"))
    driver.delete_tasks(project)  # which tells nobody (fact 9)
    driver.annotate(driver.import_tasks(project, texts(1))[0], choices("invoice"))
    wait_for_equality(driver, project, backend, uid)
    assert len(ours(backend, uid)["annotations"]) == 1


def test_an_event_without_payload_brings_a_sync(driver: Driver, start: Callable[..., RunningBackend]) -> None:
    backend = start()
    project, uid = connected(driver, backend)
    tasks = driver.import_tasks(project, texts(3))
    (webhook,) = driver.webhooks(project)
    driver.update_webhook(webhook["id"], url=webhook["url"], send_payload=False, send_for_all_actions=True)
    driver.annotate(tasks[0], choices("letter"))
    wait_for_equality(driver, project, backend, uid)
    wait_for_saying(backend, uid, "incremental sync (an event came without saying what changed)")


def test_a_training_is_brought_up_to_date_first_when_the_set_is_known_to_differ(
    driver: Driver, start: Callable[..., RunningBackend]
) -> None:
    backend = start(ML_BACKEND_RETRAIN_QUIET="60")  # so that nothing but the training asks for a sync
    project, uid = connected(driver, backend)
    tasks = driver.import_tasks(project, texts(8))
    driver.annotate(tasks[0], choices("letter"))
    wait_for_equality(driver, project, backend, uid)
    deaf(driver, project, yes=True)
    for task in tasks[1:6]:
        driver.annotate(task, choices(LABELS[task % 2]))
    deaf(driver, project, yes=False)
    driver.start_training(driver.connections(project)[0]["id"])
    wait_until(lambda: status(backend, uid)["serving"], 60, "a version")
    (version,) = json.loads(cli(backend, "versions", uid, "--json").stdout)
    assert version["sizes"]["annotations"] == 6
    assert ours(backend, uid) == theirs(driver, project)


def test_a_training_goes_on_with_what_is_known_when_label_studio_is_away(
    driver: Driver, start: Callable[..., RunningBackend], label_studio: RealLabelStudio
) -> None:
    backend = start(ML_BACKEND_RETRAIN_QUIET="60", ML_BACKEND_SYNC_WAIT="5")
    project, uid = connected(driver, backend)
    tasks = driver.import_tasks(project, texts(6))
    for task in tasks[:4]:
        driver.annotate(task, choices(LABELS[task % 2]))
    wait_for_equality(driver, project, backend, uid)
    deaf(driver, project, yes=True)
    driver.annotate(tasks[4], choices("letter"))
    deaf(driver, project, yes=False)
    driver.annotate(tasks[5], choices("letter"))
    label_studio.kill()
    try:
        cli(backend, "train", uid)
        wait_until(lambda: status(backend, uid)["serving"], 60, "a version")
        assert "training with what is known, 1 annotations not seen: " in said(backend, uid)
        found = status(backend, uid)["sync"]
        assert "cannot be reached" in found["error"] or "longer than a training waits" in said(backend, uid)
    finally:
        label_studio.restart()
    cli(backend, "sync", uid, "--watch")
    wait_for_equality(driver, project, backend, uid)


def test_without_a_key_what_is_missing_is_shown(driver: Driver, start: Callable[..., RunningBackend]) -> None:
    backend = start(key="")
    project, uid = connected(driver, backend)
    tasks = driver.import_tasks(project, texts(6))
    deaf(driver, project, yes=True)
    for task in tasks[:3]:
        driver.annotate(task, choices("letter"))
    deaf(driver, project, yes=False)
    driver.annotate(tasks[3], choices("invoice"))
    wait_until(lambda: status(backend, uid)["drift"]["missing"] == 3, 10, "three missing annotations")
    shown = " ".join(cli(backend, "status").stdout.split())
    assert "3 annotations not seen; set LABEL_STUDIO_API_KEY" in shown
    asked = cli(backend, "sync", uid)
    assert asked.returncode == 1
    assert "LABEL_STUDIO_API_KEY" in asked.stderr
    assert len(ours(backend, uid)["annotations"]) == 1


def test_a_key_of_the_wrong_kind_says_which_one_is_needed_and_the_right_one_works_at_once(
    driver: Driver, start: Callable[..., RunningBackend], label_studio: RealLabelStudio
) -> None:
    backend = start(key=label_studio.legacy_token)
    project, uid = connected(driver, backend)
    driver.import_tasks(project, labelled(4, 0))
    needed = "Account & Settings > Personal Access Token"
    wait_until(lambda: needed in status(backend, uid)["sync"]["error"], 20, "the error")
    assert "legacy token" in status(backend, uid)["sync"]["error"]
    wait_for_saying(backend, uid, needed)
    assert needed in " ".join(cli(backend, "status").stdout.replace("│", " ").split())
    backend.stop()
    again = start(like=backend)
    wait_for_equality(driver, project, again, uid, deadline_s=20)
    assert status(again, uid)["sync"]["error"] == ""


def test_a_project_of_another_label_studio_is_not_mixed_with_one_of_the_same_id(
    driver: Driver, start: Callable[..., RunningBackend]
) -> None:
    backend = start()
    project = driver.create_project(choices_config(LABELS))["id"]
    driver.import_tasks(project, labelled(4, 0))
    foreign = f"{project}.1600000000"
    assert backend.post("/setup", {"project": foreign, "schema": choices_config(LABELS)})[0] == 200
    wait_until(lambda: "another Label Studio" in status(backend, foreign)["sync"]["error"], 20, "the error")
    assert ours(backend, foreign)["annotations"] == {}


def test_a_project_that_was_disconnected_and_is_connected_again_is_read_again(
    driver: Driver, start: Callable[..., RunningBackend]
) -> None:
    backend = start()
    project, uid = connected(driver, backend)
    tasks = driver.import_tasks(project, texts(6))
    driver.annotate(tasks[0], choices("letter"))
    wait_for_equality(driver, project, backend, uid)
    driver.disconnect(driver.connections(project)[0]["id"])
    for webhook in driver.webhooks(project):
        driver.delete_webhook(webhook["id"])
    assert backend.post("/delete", {"project": uid})[0] == 200  # as other releases say it; 1.23.2 does not
    for task in tasks[1:4]:
        driver.annotate(task, choices("invoice"))
    driver.connect(project, backend.url)
    wait_for_equality(driver, project, backend, uid)
    assert state(backend).load(uid).deleted_at is None  # type: ignore[union-attr]


def test_a_deleted_project_is_asked_for_no_more(
    label_studio: RealLabelStudio, driver: Driver, start: Callable[..., RunningBackend]
) -> None:
    backend = start()
    project, uid = connected(driver, backend)
    elsewhere = driver.create_project(choices_config(LABELS))["id"]
    everywhere = driver.create_webhook(f"{backend.url}/webhook", project=elsewhere)
    label_studio.tell_everything(everywhere["id"])  # only the organization's tell of it (fact 10)
    try:
        driver.delete_project(project)
        wait_until(lambda: state(backend).load(uid).deleted_at, 10, "it is marked")  # type: ignore[union-attr]
    finally:
        driver.delete_webhook(everywhere["id"])
    assert "is queued" not in cli(backend, "sync").stdout
    assert status(backend, uid)["sync"]["error"] == ""


def test_an_event_that_comes_twice_by_the_organizations_webhook_too_counts_once(
    label_studio: RealLabelStudio, driver: Driver, start: Callable[..., RunningBackend]
) -> None:
    backend = start()
    project, uid = connected(driver, backend)
    tasks = driver.import_tasks(project, texts(3))
    elsewhere = driver.create_project(choices_config(LABELS))["id"]
    everywhere = driver.create_webhook(f"{backend.url}/webhook", project=elsewhere)
    label_studio.tell_everything(everywhere["id"])
    try:
        first, second = (driver.annotate(task, choices("letter"))["id"] for task in tasks[:2])
        driver.update_annotation(first, result=choices("invoice"))
        driver.delete_annotation(second)
        third = driver.annotate(tasks[2], choices("invoice"))["id"]  # mostly it gets the id of the second (fact 5)
    finally:
        driver.delete_webhook(everywhere["id"])
    wait_for_equality(driver, project, backend, uid)
    assert state(backend).load(uid).training.changed == len({first, second, third})  # type: ignore[union-attr]


def test_two_projects_on_one_backend_are_kept_apart(driver: Driver, start: Callable[..., RunningBackend]) -> None:
    backend = start()
    first, uid = connected(driver, backend)
    driver.import_tasks(first, labelled(4, 0))
    second = driver.create_project(choices_config(LABELS))["id"]
    driver.import_tasks(second, labelled(3, 0))
    driver.connect(second, backend.url)
    (other,) = [one for one in state(backend).uids() if one != uid]
    wait_for_equality(driver, second, backend, other)
    wait_for_equality(driver, first, backend, uid)
