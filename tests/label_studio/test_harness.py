"""The harness itself: a server that starts, survives a kill with its data, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.label_studio.driver import choices, choices_config
from tests.label_studio.server import RealLabelStudio, wait_for

if TYPE_CHECKING:
    from tests.label_studio.driver import Driver


def test_a_person_imports_annotates_and_sees_the_counters_move(driver: Driver) -> None:
    project = driver.create_project(choices_config(["yes", "no"]), min_annotations=3)["id"]
    first, second, third = driver.import_tasks(project, [{"text": "a"}, {"text": "b"}, {"text": "c"}])
    driver.annotate(first, choices("yes"))
    driver.skip(second)
    marked = driver.annotate(third, choices("no"))
    driver.mark_ground_truth(marked["id"])
    counters = driver.project(project)
    assert counters["task_number"] == 3
    assert counters["useful_annotation_number"] == 1
    assert counters["skipped_annotations_number"] == 1
    assert counters["ground_truth_number"] == 1
    assert counters["min_annotations_to_start_training"] == 3


def test_a_second_person_is_given_a_task(driver: Driver) -> None:
    project = driver.create_project(choices_config(["yes", "no"]))["id"]
    (task,) = driver.import_tasks(project, [{"text": "a"}])
    with driver.invite("annotator@example.com") as annotator:
        assert annotator.me()["email"] == "annotator@example.com"
        assert annotator.next_task(project)["id"] == task


def test_an_error_names_what_label_studio_answered(driver: Driver) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="No Project matches"):
        driver.project(999_999)


def test_a_killed_server_comes_back_with_its_data_and_tokens(label_studio: RealLabelStudio, driver: Driver) -> None:
    project = driver.create_project(choices_config(["yes", "no"]), title="survives")["id"]
    label_studio.kill()
    try:
        assert not label_studio.running
        with pytest.raises(httpx.TransportError):
            driver.project(project)
    finally:
        label_studio.restart()
    assert driver.project(project)["title"] == "survives"


def test_the_server_dies_with_a_killed_test_run() -> None:
    """The leash alone, with a sleeper in the server's place: a second Label Studio would be too heavy."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    leash = str(Path(__file__).with_name("leash.py"))
    run = (
        "import subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, {leash!r}, '{sleeper.pid}'], stdin=subprocess.PIPE); "
        "print('ready', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        assert sleeper.poll() is None
        holder.send_signal(signal.SIGKILL)
        wait_for(lambda: sleeper.poll() is not None, 10.0, "the sleeper outlived the test run")
    finally:
        for process in (holder, sleeper):
            process.kill()
            process.wait()
        if holder.stdout is not None:
            holder.stdout.close()
