"""`ml-backend doctor` names each planted fault, and nothing else: against a real Label Studio and a real backend."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.connecting.addresses import basic, with_login
from tests.label_studio.driver import Driver, choices, choices_config
from tests.running import RunningBackend, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.label_studio.server import RealLabelStudio

LOGIN = ("label-studio", "secret")
CONFIG = choices_config(["yes", "no"])
UNSUPPORTED = '<View><Audio name="a" value="$text"/><TextArea name="t" toName="a"/></View>'
Findings = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def backend(label_studio: RealLabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBackend]:
    environment = {
        "LABEL_STUDIO_URL": label_studio.base_url,
        "LABEL_STUDIO_API_KEY": label_studio.personal_token,
        "BASIC_AUTH_PASS": LOGIN[1],
        "WORKERS": "1",
        "THREADS": "4",
        # Syncs would mend what is planted.
        "ML_BACKEND_RETRAIN_QUIET": "3600",
    }
    with RunningBackend(tmp_path_factory.mktemp("doctor") / "data", environment=environment) as running:
        # A worker says that it lives once its libraries are loaded.
        alive = ("processes.web", "processes.workers", "processes.clock")
        wait_until(lambda: not problems(examined(running)[1]) & set(alive), 60, "every process lives", every_s=0.5)
        yield running


def run(backend: RunningBackend, *arguments: str, **environment: str) -> tuple[int, str]:
    """(exit status, what it printed) of one command with the backend's environment."""
    ours = ("ML_BACKEND_", "LABEL_STUDIO_", "REDIS_", "BASIC_AUTH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ml_backend.cli", *arguments, "--data-dir", str(backend.data_dir)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**kept, "COLUMNS": "100", **backend.environment, **environment},
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode, done.stdout


def examined(backend: RunningBackend, *arguments: str, **environment: str) -> tuple[int, Findings]:
    """(exit status, findings by check and project number)."""
    status, printed = run(backend, "doctor", "--json", *arguments, **environment)
    return status, {(one["check"], one["subject"].partition(" ")[0]): one for one in json.loads(printed)}


def problems(found: Findings, subject: int | str = "") -> set[str]:
    return {check for (check, whose), one in found.items() if whose == str(subject) and one["verdict"] == "problem"}


def in_the_database(label_studio: RealLabelStudio, change: str, *values: object) -> None:
    """What Label Studio would refuse to store, since it asks the backend first."""
    database = label_studio.folder / "data" / "label_studio.sqlite3"
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connected, connected:
        assert connected.execute(change, values).rowcount == 1


def synced(backend: RunningBackend, project: int) -> bool:
    _, printed = run(backend, "status", str(project), "--json")
    sync = json.loads(printed)[0]["sync"]
    return bool(sync["outcome"]) and not sync["running"]


class Ward:
    """Projects with one fault each, by the fault's name."""

    def __init__(self, driver: Driver, backend: RunningBackend, label_studio: RealLabelStudio) -> None:
        self.driver = driver
        self.address = f"http://127.0.0.1:{backend.port}"
        self.number: dict[str, int] = {}
        self._make("healthy")
        self._make("no credentials", headers={})
        self._make("switched off", is_active=False)
        self._make("no payload", send_payload=False)
        self._make("too few events", send_for_all_actions=False, actions=["ANNOTATION_CREATED"])
        driver.delete_webhook(driver.webhooks(self._make("no webhook"))[0]["id"])
        orphan = f"http://localhost:{free_port()}/webhook"
        driver.create_webhook(orphan, project=self._make("orphaned"), headers={"Authorization": basic(LOGIN)})
        twice = f"http://localhost:{backend.port}/webhook"
        driver.create_webhook(twice, project=self._make("doubled"), headers={"Authorization": basic(LOGIN)})
        change = "UPDATE ml_mlbackend SET {} = ? WHERE project_id = ?"
        in_the_database(label_studio, change.format("basic_auth_pass"), "not it", self._make("wrong password"))
        nowhere = with_login(f"http://127.0.0.1:{free_port()}", LOGIN)
        in_the_database(label_studio, change.format("url"), nowhere, self._make("not reached"))
        second = with_login(self.address, LOGIN)
        driver.connect(self._make("connected twice"), second, extra_params={"refit": {"serve": 1}})
        driver.update_project(self._make("threshold too high"), min_annotations_to_start_training=50)
        self._make("unsupported", config=UNSUPPORTED)
        lost = self._make("sampling lost")
        run(backend, "connect", "--project", str(lost), "--active-learning")
        driver.update_project(lost, sampling="Sequential sampling")
        drifted = self._make("drifted", is_active=False)
        # The first sync, which every new connection brings, would see it.
        wait_until(lambda: synced(backend, drifted), 60, "the first sync", every_s=0.5)
        driver.annotate(driver.tasks(drifted)[0]["id"], choices("yes"))

    def _make(self, name: str, *, config: str = CONFIG, **webhook: Any) -> int:
        project = self.number[name] = self.driver.create_project(config, title=name)["id"]
        self.driver.import_tasks(project, [{"text": name}])
        self.driver.connect(project, self.address, basic_auth=LOGIN)
        (made,) = self.driver.webhooks(project)
        self.driver.update_webhook(made["id"], **{"headers": {"Authorization": basic(LOGIN)}, "actions": [], **webhook})
        return int(project)


@pytest.fixture(scope="module")
def ward(label_studio: RealLabelStudio, backend: RunningBackend) -> Iterator[Ward]:
    with Driver(label_studio.base_url, label_studio.personal_token) as driver:
        made = Ward(driver, backend, label_studio)
        yield made
        for project in made.number.values():
            driver.delete_project(project)


@pytest.fixture(scope="module")
def found(ward: Ward, backend: RunningBackend) -> Findings:
    """All projects looked at in one go."""
    named = [one for number in ward.number.values() for one in ("--project", str(number))]
    status, findings = examined(backend, *named)
    assert status == 1
    return findings


@pytest.mark.parametrize(
    ("fault", "check", "says"),
    [
        ("no credentials", "webhook", "no valid credentials"),
        ("switched off", "webhook", "is switched off"),
        ("no payload", "webhook", "sends no payload"),
        ("too few events", "webhook", "ANNOTATION_UPDATED"),
        ("no webhook", "webhook", "no event arrives"),
        ("orphaned", "webhook.orphaned", "no connection leads where it does"),
        ("doubled", "webhook.doubled", "2 webhooks"),
        ("wrong password", "connection", "401"),
        ("not reached", "connection", "gets no answer"),
        ("connected twice", "connection.twice", "different extra params"),
        ("threshold too high", "threshold", "asks for 50 annotations, and there are 1 tasks"),
        ("unsupported", "label-config", "does not support"),
        ("sampling lost", "sampling", "has sequential sampling now"),
        ("drifted", "training-set", "has 1 annotations, the training set 0"),
    ],
)
def test_each_fault_of_a_project_is_named_with_what_to_do(
    ward: Ward, found: Findings, fault: str, check: str, says: str
) -> None:
    number = ward.number[fault]
    assert check in problems(found, number), [one for (_, whose), one in found.items() if whose == str(number)]
    one = found[check, str(number)]
    assert says in one["found"]
    assert one["advice"]


def test_a_project_without_a_fault_has_none(ward: Ward, found: Findings, backend: RunningBackend) -> None:
    assert problems(found, ward.number["healthy"]) == set()
    assert problems(found) == set()
    status, _ = examined(backend, "--project", str(ward.number["healthy"]))
    assert status == 0


def test_no_finding_holds_a_secret(found: Findings, label_studio: RealLabelStudio) -> None:
    printed = json.dumps(list(found.values()))
    assert basic(LOGIN) not in printed
    assert f":{LOGIN[1]}@" not in printed
    assert label_studio.personal_token not in printed


def test_connect_mends_what_doctor_finds(ward: Ward, found: Findings, backend: RunningBackend) -> None:
    mended = ["no credentials", "switched off", "no payload", "no webhook", "orphaned", "doubled", "wrong password"]
    named = [one for name in mended for one in ("--project", str(ward.number[name]))]
    status, printed = run(backend, "connect", *named)
    assert status == 0, printed
    status, after = examined(backend, *named)
    assert {name: problems(after, ward.number[name]) for name in mended} == {name: set() for name in mended}
    assert status == 0


@pytest.mark.parametrize(
    ("environment", "check", "says"),
    [
        ({"LABEL_STUDIO_API_KEY": ""}, "label-studio.key", "LABEL_STUDIO_API_KEY not set"),
        ({"LABEL_STUDIO_API_KEY": "f" * 40}, "label-studio.key", "does not know"),
        ({"LABEL_STUDIO_URL": "http://127.0.0.1:9"}, "label-studio", "cannot be reached"),
        ({"HTTP_PROXY": "http://user:hidden@127.0.0.1:9", "NO_PROXY": ""}, "proxy", "through the proxy 127.0.0.1:9"),
        ({"ML_BACKEND_STORE": "/dev/null/versions"}, "store", "cannot be used"),
        ({"BASIC_AUTH_PASS": "another"}, "answers", "refuses the login"),
    ],
)
def test_each_fault_of_the_installation_is_named_with_what_to_do(
    backend: RunningBackend, ward: Ward, environment: dict[str, str], check: str, says: str
) -> None:
    status, after = examined(backend, "--project", str(ward.number["healthy"]), **environment)
    assert status == 1
    assert check in problems(after)
    assert says in after[check, ""]["found"]
    assert after[check, ""]["advice"]


def test_a_redis_that_keeps_nothing_and_serves_nobody_is_told(
    backend: RunningBackend, valkey_socket: Path, valkey: Any
) -> None:
    valkey.config_set("maxmemory", "100mb")
    valkey.config_set("maxmemory-policy", "allkeys-lru")
    try:
        status, after = examined(backend, REDIS_URL=f"unix://{valkey_socket}")
    finally:
        valkey.config_set("maxmemory-policy", "noeviction")
        valkey.config_set("maxmemory", "0")
    assert status == 1
    expected = {"redis.persistent", "redis.eviction", "processes.web", "processes.workers", "processes.clock"}
    assert expected <= problems(after)


def test_a_redis_that_does_not_answer_is_told_at_once(backend: RunningBackend, tmp_path: Path) -> None:
    status, after = examined(backend, REDIS_URL=f"unix://{tmp_path}/nobody")
    assert (status, "redis" in problems(after)) == (1, True)


def test_people_get_a_table_that_fits_their_terminal(backend: RunningBackend, ward: Ward) -> None:
    status, printed = run(backend, "doctor", "--project", str(ward.number["healthy"]), COLUMNS="80")
    assert status == 0
    assert "No problem found." in printed
    assert max(len(line) for line in printed.splitlines()) <= 80
    assert "…" not in printed
