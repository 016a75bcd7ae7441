"""The main job on a real Label Studio: connect, annotate, and the model retrains by itself."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.counters import Counters
from tests.label_studio.driver import Driver, choices, choices_config
from tests.running import RunningBackend, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.label_studio.server import RealLabelStudio

INTENTS = ("card_arrival", "exchange_rate", "pin_blocked", "top_up_failed")
THRESHOLD = 12
DERIVED = (
    "total_annotations_number",
    "num_tasks_with_annotations",
    "useful_annotation_number",
    "ground_truth_number",
    "skipped_annotations_number",
)


def banking77(per_intent: int) -> list[dict[str, str]]:
    """The first utterances of four intents of BANKING77 (CC-BY 4.0), in turn."""
    path = next((Path(__file__).parents[2] / "benchmarks" / "data").rglob("train.csv*"))
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = list(csv.DictReader(io.StringIO(raw.decode())))
    by_intent = {intent: [row["text"] for row in rows if row["category"] == intent][:per_intent] for intent in INTENTS}
    return [{"text": by_intent[intent][i], "intent": intent} for i in range(per_intent) for intent in INTENTS]


class Project:
    """A connected project of BANKING77 tasks, and what a person does in it."""

    def __init__(self, driver: Driver, backend: RunningBackend, rows: list[dict[str, str]]) -> None:
        self.driver = driver
        self.backend = backend
        self.rows = rows
        self.id: int = driver.create_project(choices_config(INTENTS), title="Intents", min_annotations=THRESHOLD)["id"]
        self.connection: int = driver.connect(self.id, backend.url, title="refit")["id"]
        self.tasks = driver.import_tasks(self.id, [{"text": row["text"]} for row in rows])
        self.intent = {task: row["intent"] for task, row in zip(self.tasks, rows, strict=True)}

    def annotate(self, task: int) -> int:
        return int(self.driver.annotate(task, choices(self.intent[task]))["id"])

    def cli(self, *arguments: str) -> Any:
        """``ml-backend <arguments> --json`` on the same data folder."""
        command = [
            sys.executable,
            "-P",
            "-m",
            "ml_backend.cli",
            *arguments,
            "--json",
            "--data-dir",
            str(self.backend.data_dir),
        ]
        done = subprocess.run(
            command, capture_output=True, check=True, timeout=60, env={**os.environ, "COLUMNS": "200"}
        )
        return json.loads(done.stdout)

    def counters(self) -> Mapping[str, int]:
        return self.cli("status", str(self.id))[0]["counters"]

    def setup_names(self) -> str:
        """What /setup tells Label Studio: it asks for it when the connection is looked at."""
        return str(self.driver.connections(self.id)[0]["model_version"] or "")

    def wait_for_version(self, other_than: str = "", deadline_s: float = 60) -> str:
        return wait_until(
            lambda: name if (name := self.setup_names()) not in {"", "None", other_than} else "",
            deadline_s,
            f"/setup names a version other than {other_than!r}\n{self.backend.log()}",
            every_s=0.2,
        )


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBackend]:
    """One backend, as `ml-backend start` starts it."""
    with RunningBackend(tmp_path_factory.mktemp("backend") / "data with a space") as running:
        yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def project(label_studio: RealLabelStudio, backend: RunningBackend) -> Iterator[Project]:
    with Driver(label_studio.base_url, label_studio.personal_token) as driver:
        yield Project(driver, backend, banking77(12))


def test_label_studio_shows_the_backend_as_connected(project: Project) -> None:
    assert project.driver.connections(project.id)[0]["readable_state"] == "Connected"


def test_before_the_first_version_retrieving_predictions_stores_none(project: Project) -> None:
    project.driver.retrieve_predictions(project.id, project.tasks[:2])
    assert project.driver.predictions(project=project.id) == []


def test_training_starts_by_itself_at_the_threshold(project: Project) -> None:
    for task in project.tasks[: THRESHOLD - 1]:
        project.annotate(task)
    assert project.setup_names() in {"", "None"}
    project.annotate(project.tasks[THRESHOLD - 1])
    assert project.wait_for_version().startswith("v1-")


def test_retrieved_predictions_are_of_that_version_and_agree_with_the_labels(project: Project) -> None:
    version = project.setup_names()
    project.driver.retrieve_predictions(project.id, project.tasks[:THRESHOLD])
    predictions = project.driver.predictions(project=project.id)
    assert {one["model_version"] for one in predictions} == {version}
    predicted = {one["task"]: one["result"][0]["value"]["choices"][0] for one in predictions}
    assert predicted == {task: project.intent[task] for task in project.tasks[:THRESHOLD]}
    assert all(0 < one["result"][0]["score"] <= 1 and one["score"] is not None for one in predictions)


def test_skipped_updated_and_deleted_annotations_move_the_counters_as_label_studio_counts(project: Project) -> None:
    driver, rest = project.driver, iter(project.tasks[THRESHOLD:])

    def agree(what: str) -> None:
        def differ() -> dict[str, tuple[int, int]]:
            theirs, ours = driver.project(project.id), project.counters()
            return {name: (ours[name], theirs[name]) for name in DERIVED if ours[name] != theirs[name]}

        wait_until(lambda: not differ(), 20, f"after {what} the counters are Label Studio's")

    driver.skip(next(rest))
    agree("a skipped task")
    task = next(rest)
    updated = project.annotate(task)
    driver.update_annotation(updated, result=choices(INTENTS[0]))
    agree("an updated annotation")
    driver.mark_ground_truth(updated)
    agree("a ground truth")
    driver.mark_ground_truth(updated, ground_truth=False)
    deleted = project.annotate(next(rest))
    driver.delete_annotation(deleted)
    agree("a deleted annotation")
    driver.update_annotation(updated, result=choices(project.intent[task]))

    def equal() -> bool:
        theirs = driver.project(project.id)
        return project.counters() == {name: theirs[name] for name in Counters.names()}

    wait_until(equal, 20, "all eight are equal, with the next dated event")


def test_more_annotations_bring_the_next_version(project: Project) -> None:
    before = project.setup_names()
    for task in project.tasks[THRESHOLD + 3 : 2 * THRESHOLD + 4]:
        project.annotate(task)
    after = project.wait_for_version(other_than=before)
    assert int(after.partition("-")[0][1:]) > int(before.partition("-")[0][1:])


def test_start_training_trains_and_its_job_is_followed_to_the_end(
    project: Project, label_studio: RealLabelStudio
) -> None:
    before = project.setup_names()
    earlier = label_studio.train_jobs(project.connection)
    project.driver.start_training(project.connection)
    (job,) = [one for one in label_studio.train_jobs(project.connection) if one not in earlier][-1:]
    seen: set[str] = set()

    def over() -> bool:
        answer = project.backend.posted("/job_status", {"job": job})
        seen.add(answer["job_status"])
        return answer["job_status"] not in {"queued", "started"}

    wait_until(over, 60, "the job is over")
    assert "finished" in seen, seen
    assert project.wait_for_version(other_than=before) != before


def test_a_job_that_nobody_knows_is_gone(project: Project) -> None:
    assert project.backend.post("/job_status", {"job": "1-2-3"})[0] == 410


def test_every_run_and_every_decision_has_a_reason(project: Project) -> None:
    decisions = project.cli("status", str(project.id))[0]["decisions"]
    assert decisions
    assert all(one["reason"] for one in decisions)
    assert all(version["promotion"]["reason"] for version in project.cli("versions", str(project.id)))


def test_stopping_leaves_no_process_behind(project: Project) -> None:
    backend = project.backend
    assert backend.process is not None
    leader = backend.process.pid
    assert backend.stop() == 0
    wait_until(lambda: not _running_with(str(backend.data_dir)), 15, f"the end of all of session {leader}")


def _running_with(text: str) -> list[str]:
    """Command lines and environments of running processes that mention the text, this one aside."""
    found: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        try:
            about = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in about:
            found.append(folder.name)
    return found
