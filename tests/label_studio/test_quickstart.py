"""`ml-backend quickstart`: from nothing to a prediction by a model that learned from labels given in this very run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest

from ml_backend.demo.texts import KINDS, texts
from tests.label_studio.driver import Driver
from tests.running import free_port, free_ports, wait_until
from tests.test_start import mentions

if TYPE_CHECKING:
    from pathlib import Path

TRUTH = dict(texts())


class Quickstart:
    """The command, run as a person runs it and stopped with Ctrl-C."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "demo"
        self.log_path = folder / "quickstart.log"
        port, label_studio_port = map(str, free_ports(2))
        self.ports = ("--port", port, "--label-studio-port", label_studio_port)
        self.process: subprocess.Popen[bytes] | None = None
        self.elsewhere = {
            "LABEL_STUDIO_URL": "http://127.0.0.1:9",
            "LABEL_STUDIO_API_KEY": "f" * 40,
            "ML_BACKEND_URL": "http://127.0.0.1:9",
            "ML_BACKEND_MODEL": str(folder / "nowhere.py"),
            "ML_BACKEND_STORE": str(folder / "theirs"),
            "ML_BACKEND_INSECURE": "true",
        }
        """What a terminal may say of another installation."""

    def __enter__(self) -> Self:
        ours = ("ML_BACKEND_", "LABEL_STUDIO_", "REDIS_", "BASIC_AUTH")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        with self.log_path.open("ab") as log:
            self._from = log.tell()
            command = [sys.executable, "-P", "-m", "ml_backend.cli", "quickstart", "--data-dir", str(self.data)]
            self.process = subprocess.Popen(
                [*command, *self.ports],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**kept, **self.elsewhere, "COLUMNS": "120", "WORKERS": "1", "THREADS": "4"},
                start_new_session=True,
            )
        try:
            wait_until(self._greeted, 300, "the greeting", every_s=0.2)
        except BaseException as error:
            self.__exit__()
            raise AssertionError(f"{error}\n{self.printed()}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                raise

    def printed(self) -> str:
        with self.log_path.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    def shown(self, name: str) -> str:
        found = re.search(rf"^ +{name} +(\S+)$", self.printed(), re.MULTILINE)
        return found.group(1) if found else ""

    def _greeted(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "it ended"
        return "Stop with Ctrl-C" in self.printed()


def predictions(driver: Driver, project: int) -> list[dict[str, Any]]:
    return [one for one in driver.predictions(project=project) if str(one["model_version"]).startswith("v")]


@pytest.mark.label_studio
@pytest.mark.timeout(900)
def test_it_ends_with_predictions_learned_in_this_run_and_a_second_start_keeps_them(tmp_path: Path) -> None:
    with Quickstart(tmp_path) as running:
        address, email, password = (running.shown(name) for name in ("address", "e-mail", "password"))
        base, _, number = address.partition("/projects/")
        project = int(number)
        key = (running.data / "label-studio" / "key").read_text().strip()
        with Driver(base, key) as driver:
            assert driver.me()["email"] == email
            assert driver.project(project)["sampling"] == "Uncertainty sampling"
            tasks = {one["id"]: one["data"]["text"] for one in driver.tasks(project)}
            assert set(tasks.values()) == TRUTH.keys()
            labelled = list(tasks)[:12]
            for task in labelled:
                driver.annotate(task, choices(TRUTH[tasks[task]]))
            wait_until(
                lambda: len(predictions(driver, project)) >= len(tasks),
                240,
                f"every task has a prediction of the first version\n{running.printed()[-4000:]}",
                every_s=0.5,
            )
            made = {one["task"]: one["result"][0]["value"]["choices"][0] for one in predictions(driver, project)}
            assert [made[task] for task in labelled] == [TRUTH[tasks[task]] for task in labelled]
            unseen = [task for task in tasks if task not in labelled]
            right = sum(made[task] == TRUTH[tasks[task]] for task in unseen)
            assert right > len(unseen) / len(KINDS), "better than guessing"
    assert running.process is not None
    assert running.process.returncode == 0
    wait_until(lambda: not mentions(str(running.data)), 15, "every process is gone")
    with running as again:
        assert (again.shown("address"), again.shown("password")) == (address, password)
        with Driver(base, key) as driver:
            assert driver.project(project)["total_annotations_number"] == 12
            assert len(driver.call("GET", "/api/projects/")["results"]) == 1
    wait_until(lambda: not mentions(str(running.data)), 15, "every process is gone again")
    assert not (tmp_path / "theirs").exists()


def test_the_sample_data_are_distinct_and_of_every_kind() -> None:
    found = list(texts())
    assert len({text for text, _ in found}) == len(found) == 180
    assert {kind for _, kind in found} == set(KINDS)
    assert {kind for _, kind in found[:12]} == set(KINDS)


def choices(kind: str) -> list[dict[str, Any]]:
    return [{"from_name": "kind", "to_name": "text", "type": "choices", "value": {"choices": [kind]}}]


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-P", "-m", "ml_backend.cli", "quickstart", "--label-studio-port", port]
        done = subprocess.run(
            [*command, "--port", str(free_port()), "--data-dir", str(tmp_path / "demo")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"--label-studio-port: port {port} of 127.0.0.1 is taken" in done.stderr
