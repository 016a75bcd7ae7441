"""The life of a run in the whole product: joined, followed up, watched, cancelled, and ended by its time limit."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ml_backend.policy import TrainingState, next_threshold
from ml_backend.settings import RetrainSettings
from tests.calls import setup_body
from tests.faults.stage import CONFIG, Stage, annotation, asked, click, deliver, kill, uid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ml_backend.runs import Run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One product for all tests here; each has a project of its own."""
    settings = {
        "ML_BACKEND_RETRAIN_QUIET": "0.3",
        "ML_BACKEND_RETRAIN_MAX_WAIT": "1",
        "ML_BACKEND_RETRAIN_MIN_INTERVAL": "0",
    }
    with Stage(tmp_path_factory.mktemp("life"), lease_s=15.0, **settings) as stage:
        yield stage


@pytest.fixture
def stage(running: Stage) -> Iterator[Stage]:
    yield running
    running.open_gates()
    # Who still stands there must not be taken for the next test's run.
    running.wait(lambda: not running.waiting_at("training"), 20, "the gate is free")


def command(stage: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-P", "-m", "ml_backend.cli", *arguments, "--data-dir", str(stage.backend.data_dir)]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=environment)


def annotate(stage: Stage, project: int, numbers: range) -> None:
    for number in numbers:
        deliver(stage.backend.port, annotation(number, project=project))


def train(stage: Stage, project: int) -> str:
    """Click; the id of the run that it joined or began."""
    return str(asked(stage.backend.port, click(project))[1]["job"])


def over(stage: Stage, run_id: str, within_s: float = 20) -> Run:
    return stage.wait(
        lambda: (run := stage.services.runs.get(run_id)) and run.over and run, within_s, f"the end of {run_id}"
    )  # type: ignore[return-value]


def settled(stage: Stage, project: int) -> bool:
    """Nothing waits or trains, and the clock has nothing to decide."""
    standing = stage.services.runs.standing(uid(project))
    state = stage.services.state.load(uid(project))
    assert state is not None
    return not standing.waiting and not standing.running and state.training.threshold_at is None


def trained(stage: Stage, project: int) -> list[Run]:
    """The runs that did train, oldest first."""
    return [run for run in reversed(stage.services.runs.history(uid(project), 200)) if run.status == "succeeded"]


def size(run: Run) -> int:
    return int(json.loads(run.details)["annotations"])


def submits(project: int, number: int) -> list[dict[str, object]]:
    """What Label Studio sends for a submit where ``min_annotations_to_start_training`` is 1 (fact 12)."""

    def counted(annotations: int) -> dict[str, object]:
        counts = ("total_annotations_number", "num_tasks_with_annotations", "useful_annotation_number")
        others = ("task_number", "finished_task_number", "total_predictions_number", "ground_truth_number")
        found = {**dict.fromkeys(counts, annotations), **dict.fromkeys(others, 0), "skipped_annotations_number": 0}
        return {**found, "task_number": 300, "min_annotations_to_start_training": 1}

    start, created = click(project), annotation(number, project=project)
    for event in (start, created):
        event["project"].update(counted(number))
    return [start, created]


def test_two_hundred_submits_with_a_threshold_of_one_bring_no_more_runs_than_the_policy_allows(stage: Stage) -> None:
    # A START_TRAINING that no annotation follows within the quiet time is a click; here one may be held up.
    stage.backend.posted("/setup", setup_body(uid(11), CONFIG, extra_params={"refit": {"retrain": {"quiet": 5}}}))
    for number in range(1, 201):
        for event in submits(11, number):
            deliver(stage.backend.port, event)
    stage.wait(lambda: settled(stage, 11), 40, "the end of the last run")
    runs = trained(stage, 11)
    sizes = [size(run) for run in runs]
    assert not any(run.click for run in runs)
    for before, after in itertools.pairwise([0, *sizes]):
        state = TrainingState(trained=before > 0, trained_size=before)
        assert after - before >= next_threshold(state, RetrainSettings()), sizes
    assert 1 <= len(runs) <= 12, sizes


def test_clicks_during_a_run_bring_one_run_behind_it(stage: Stage) -> None:
    annotate(stage, 12, range(1, 5))
    stage.close_gate("training")
    first = train(stage, 12)
    stage.wait(lambda: stage.waiting_at("training"), 20, "the first run")
    behind = {train(stage, 12) for _ in range(20)}
    assert len(behind) == 1
    assert behind != {first}
    stage.open_gates()
    second = over(stage, behind.pop())
    assert (second.status, second.joined) == ("succeeded", 19)
    assert stage.services.runs.standing(uid(12)).waiting is None


def test_labels_that_come_during_a_run_bring_one_more_run_if_they_are_enough(stage: Stage) -> None:
    annotate(stage, 13, range(1, 5))
    stage.close_gate("training")
    first = train(stage, 13)
    stage.wait(lambda: stage.waiting_at("training"), 20, "the first run")
    annotate(stage, 13, range(5, 17))
    stage.open_gates()
    over(stage, first)
    stage.wait(lambda: len(trained(stage, 13)) == 2 and settled(stage, 13), 20, "the second run")
    assert [size(run) for run in trained(stage, 13)] == [4, 16]


def test_labels_that_come_during_a_run_and_are_too_few_bring_none(stage: Stage) -> None:
    annotate(stage, 14, range(1, 5))
    stage.close_gate("training")
    first = train(stage, 14)
    stage.wait(lambda: stage.waiting_at("training"), 20, "the first run")
    annotate(stage, 14, range(5, 10))
    stage.open_gates()
    over(stage, first)
    decisions = stage.wait(
        lambda: [one for one in stage.services.state.decisions(uid(14)) if one["reason"].startswith("5 of 10")],
        20,
        "the decision to wait",
    )
    assert decisions[0]["kind"] == "wait"
    assert len(trained(stage, 14)) == 1


def test_a_training_run_is_cancelled_from_the_command_line_and_publishes_nothing(stage: Stage) -> None:
    annotate(stage, 15, range(1, 5))
    stage.close_gate("training")
    run_id = train(stage, 15)
    horse = stage.wait(lambda: stage.waiting_at("training"), 20, "the run")
    canceller = subprocess.Popen(
        [sys.executable, "-P", "-m", "ml_backend.cli", "cancel", run_id, "--data-dir", str(stage.backend.data_dir)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with canceller:
        stage.wait(lambda: stage.services.runs.get(run_id).cancelling, 20, "the word to stop")  # type: ignore[union-attr]
        stage.open_gates()
        said, _ = canceller.communicate(timeout=30)
    assert canceller.returncode == 0
    assert said.strip() == f"run {run_id} cancelled: cancelled"
    assert stage.services.registry.versions(uid(15)) == []
    stage.wait(lambda: horse not in stage.horses(), 10, "the end of its process")


def test_a_waiting_run_is_cancelled_at_once(stage: Stage) -> None:
    annotate(stage, 16, range(1, 5))
    stage.close_gate("training")
    train(stage, 16)
    stage.wait(lambda: stage.waiting_at("training"), 20, "the first run")
    behind = train(stage, 16)
    done = command(stage, "cancel", behind)
    assert (done.returncode, done.stdout.strip()) == (0, f"run {behind} cancelled: cancelled by ml-backend cancel")
    assert stage.services.runs.standing(uid(16)).waiting is None


def test_cancelling_names_the_runs_to_choose_from_and_knows_what_is_over(stage: Stage) -> None:
    annotate(stage, 17, range(1, 5))
    stage.close_gate("training")
    first = train(stage, 17)
    stage.wait(lambda: stage.waiting_at("training"), 20, "the first run")
    behind = train(stage, 17)
    asked = command(stage, "cancel")
    assert asked.returncode == 1
    assert first in asked.stderr
    assert behind in asked.stderr
    assert "there is no run" in command(stage, "cancel", "17-1-1").stderr
    stage.open_gates()
    over(stage, behind)
    too_late = command(stage, "cancel", first)
    assert too_late.returncode == 1
    assert f"run {first} is over already: succeeded" in too_late.stdout


def test_runs_are_listed_for_people_and_for_scripts(stage: Stage) -> None:
    annotate(stage, 18, range(1, 5))
    first = over(stage, train(stage, 18))
    stage.close_gate("training")
    second = train(stage, 18)
    stage.wait(lambda: stage.waiting_at("training"), 20, "the second run")
    shown = command(stage, "jobs", "18")
    assert shown.returncode == 0, shown.stderr
    assert re.search(rf"{second}\W+train", shown.stdout), shown.stdout
    assert re.search(rf"{first.id}\W+succeeded", shown.stdout), shown.stdout
    told = json.loads(command(stage, "jobs", "18", "--json").stdout)
    assert [(one["id"], one["status"]) for one in told] == [(second, "started"), (first.id, "succeeded")]
    assert told[1]["details"]["annotations"] == 4


def test_a_watched_training_tells_its_phases_and_its_end(stage: Stage) -> None:
    annotate(stage, 19, range(1, 5))
    done = command(stage, "train", "19", "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"run 19-1795333883-1 is queued", done.stdout)
    assert re.search(r"succeeded in [\d.]+ s: v1-\S+ promoted", done.stdout), done.stdout


def test_a_terminal_gets_a_progress_bar(stage: Stage) -> None:
    annotate(stage, 24, range(1, 5))
    stage.close_gate("training")
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-P", "-m", "ml_backend.cli", "train", "24", "--watch"]
    shown = b""

    def read() -> bool:
        """Take what was written; False at the end, when nobody has the terminal open any more."""
        nonlocal shown
        if not select.select([ours], [], [], 0.1)[0]:
            return True
        try:
            shown += os.read(ours, 65536)
        except OSError:
            return False
        return True

    with subprocess.Popen(
        [*argv, "--data-dir", str(stage.backend.data_dir)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "PYTHONUTF8": "1"},
    ) as watching:
        os.close(theirs)
        until = time.monotonic() + 60
        while not re.search(rb"train +.*\xe2\x94\x81.* 5 %", shown):
            if not read() or time.monotonic() > until:
                watching.kill()
                raise AssertionError(shown)
        stage.open_gates()
        while read():
            assert time.monotonic() < until, shown
        os.close(ours)
        assert watching.wait(20) == 0
    assert b"succeeded in" in shown


def test_who_stops_watching_does_not_stop_the_run(stage: Stage) -> None:
    annotate(stage, 20, range(1, 5))
    stage.close_gate("training")
    argv = [sys.executable, "-P", "-m", "ml_backend.cli", "train", "20", "--watch"]
    watching = subprocess.Popen(
        [*argv, "--data-dir", str(stage.backend.data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests themselves run in the background, a shell has told everything below it to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads here
    )
    with watching:
        stage.wait(lambda: stage.waiting_at("training"), 20, "the run")
        watching.send_signal(signal.SIGINT)
        said, complained = watching.communicate(timeout=20)
    assert watching.returncode == 130, complained
    assert "ml-backend cancel 20-1795333883-1" in said
    stage.open_gates()
    assert over(stage, "20-1795333883-1").status == "succeeded"


def test_every_line_about_a_run_names_its_project_and_itself(stage: Stage) -> None:
    annotate(stage, 21, range(1, 5))
    run = over(stage, train(stage, 21))
    version = json.loads(run.details)["version"]
    # The run is over in Redis a moment before its last line is written.
    stage.wait(lambda: f"run {run.id} version {version}: succeeded" in stage.backend.log(), 10, "the last line")
    lines = [line for line in stage.backend.log().splitlines() if run.id in line]
    assert any(f"project {uid(21)} run {run.id}: asked for by START_TRAINING" in line for line in lines)
    assert any(f"project {uid(21)} run {run.id}: due" in line for line in lines)
    assert any("due (asked for by START_TRAINING: Start Training), handed" in line for line in lines)
    for phase in ("sync", "snapshot", "train", "compare"):
        assert any(f"project {uid(21)} run {run.id}: {phase} took" in line for line in lines), phase
    for phase in ("publish", "promote"):
        assert any(f"project {uid(21)} run {run.id} version {version}: {phase} took" in line for line in lines), phase
    assert any(f"project {uid(21)} run {run.id} version {version}: succeeded" in line for line in lines)


def test_a_cancelled_run_that_does_not_look_up_is_ended_after_a_grace(stage: Stage) -> None:
    annotate(stage, 22, range(1, 5))
    stage.close_gate("training")
    run_id = train(stage, 22)
    horse = stage.wait(lambda: stage.waiting_at("training"), 20, "the run")
    assert command(stage, "cancel", run_id).returncode == 0
    assert over(stage, run_id).status == "cancelled"
    stage.wait(lambda: horse not in stage.horses(), 10, "the end of its process")


def test_a_process_that_dies_over_and_over_pauses_the_project_until_a_click(stage: Stage) -> None:
    annotate(stage, 23, range(1, 5))
    for _ in range(3):
        stage.close_gate("training")
        run_id = train(stage, 23)
        kill(stage.wait(lambda: stage.waiting_at("training"), 20, "the run"))
        assert over(stage, run_id).status == "failed"
    paused = stage.services.runs.standing(uid(23)).paused
    assert paused.startswith("3 runs failed in a row")
    assert "SIGKILL" in paused
    stage.open_gates()
    assert over(stage, train(stage, 23)).status == "succeeded"
    assert not stage.services.runs.standing(uid(23)).paused


def test_a_run_over_its_time_limit_fails_and_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Stage(tmp_path_factory.mktemp("limit"), ML_BACKEND_RUN_TIMEOUT="2") as stage:
        annotate(stage, 30, range(1, 5))
        stage.close_gate("training")
        began = time.monotonic()
        run = over(stage, train(stage, 30))
        assert run.status == "failed"
        assert run.ending == "it took longer than 2 s, the limit for one run"
        assert time.monotonic() - began < 15
        assert stage.services.registry.versions(uid(30)) == []
        assert stage.wait(lambda: not stage.horses(), 10, "the end of its process")
