"""`ml-backend connect` and `disconnect` against a real Label Studio, with Basic auth on."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.connecting.addresses import basic
from tests.label_studio.driver import choices, choices_config
from tests.running import RunningBackend, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.label_studio.driver import Driver
    from tests.label_studio.server import RealLabelStudio

LOGIN = ("label-studio", "p@ss/word: 1")
CONFIG = choices_config(["yes", "no"])


@pytest.fixture(scope="module")
def backend(label_studio: RealLabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBackend]:
    environment = {"BASIC_AUTH_PASS": LOGIN[1], "WORKERS": "1", "THREADS": "4"}
    with RunningBackend(tmp_path_factory.mktemp("connect") / "data", environment=environment) as running:
        # The commands alone have the key: with it, the backend's own syncs would find what no event told it.
        running.environment |= {
            "LABEL_STUDIO_URL": label_studio.base_url,
            "LABEL_STUDIO_API_KEY": label_studio.personal_token,
        }
        yield running


@pytest.fixture
def project(driver: Driver) -> Iterator[int]:
    made = driver.create_project(CONFIG)["id"]
    yield made
    driver.delete_project(made)


def run(backend: RunningBackend, *arguments: str, expect: int = 0, **environment: str) -> str:
    """One command beside the backend; what it printed."""
    ours = ("ML_BACKEND_", "LABEL_STUDIO_", "REDIS_", "BASIC_AUTH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ml_backend.cli", *arguments, "--data-dir", str(backend.data_dir)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**kept, "COLUMNS": "120", **backend.environment, **environment},
    )
    assert done.returncode == expect, f"{done.stdout}\n{done.stderr}\n{backend.log()[-3000:]}"
    return done.stdout + done.stderr


def annotations(backend: RunningBackend, project: int) -> int:
    import json

    found = json.loads(run(backend, "status", "--json"))
    return sum(one["counters"]["total_annotations_number"] for one in found if one["uid"].startswith(f"{project}."))


def settled(driver: Driver, project: int) -> tuple[Any, ...]:
    """Everything that connecting may touch."""
    moving = {"updated_at", "state", "readable_state"}

    def still(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in one.items() if name not in moving} for one in found]

    return still(driver.connections(project)), still(driver.webhooks(project)), driver.project(project)["sampling"]


def test_annotation_events_do_not_arrive_with_the_forms_own_basic_auth_and_do_after_connect(
    driver: Driver, backend: RunningBackend, project: int
) -> None:
    first, second, third = driver.import_tasks(project, [{"text": one} for one in "abc"])
    address = f"http://127.0.0.1:{backend.port}"
    driver.connect(project, address, title="mine", basic_auth=LOGIN)
    driver.annotate(first, choices("yes"))
    assert "refused" in wait_until(lambda: "no credentials" in backend.log() and backend.log(), 10, "the refusal")
    assert annotations(backend, project) == 0
    said = run(backend, "connect", "--project", str(project))
    assert "credentials added" in said
    assert "an event sent by Label Studio arrived" in said
    driver.annotate(second, choices("no"))
    driver.annotate(third, choices("no"))
    wait_until(lambda: annotations(backend, project) == 2, 30, "both are counted; the first was lost", every_s=0.5)
    (connection,) = driver.connections(project)
    assert (connection["title"], connection["readable_state"]) == ("mine", "Connected")


def test_connecting_twice_changes_nothing(driver: Driver, backend: RunningBackend, project: int) -> None:
    params = '{"refit": {"retrain": {"every": 50}}, "own": 1}'
    first = run(backend, "connect", "--project", str(project), "--active-learning", "--extra-params", params)
    assert "uncertainty sampling switched on" in first
    before = settled(driver, project)
    again = run(backend, "connect", "--project", str(project), "--active-learning", "--extra-params", params)
    assert "nothing had to change" in again
    assert settled(driver, project) == before
    (connection,) = before[0]
    assert connection["extra_params"] == {"refit": {"retrain": {"every": 50}}, "own": 1}
    assert (connection["auth_method"], connection["basic_auth_user"]) == ("BASIC_AUTH", LOGIN[0])
    (webhook,) = before[1]
    assert webhook["headers"] == {"Authorization": basic(LOGIN)}
    assert before[2] == "Uncertainty sampling"


def test_orphaned_and_doubled_webhooks_go_and_those_of_others_stay(
    driver: Driver, backend: RunningBackend, project: int
) -> None:
    earlier = f"http://127.0.0.1:{free_port()}"
    theirs = driver.create_webhook("http://127.0.0.1:9/webhook", project=project)["id"]
    driver.create_webhook(f"{earlier}/webhook", project=project, headers={"Authorization": basic(LOGIN)})
    kept = driver.create_webhook(
        f"http://127.0.0.1:{backend.port}/webhook", project=project, is_active=False, send_payload=False
    )["id"]
    driver.create_webhook(f"http://localhost:{backend.port}/webhook", project=project)
    said = run(backend, "connect", "--project", str(project))
    assert "no connection leads there" in said
    assert "it brought every event twice" in said
    left = {one["id"]: one for one in driver.webhooks(project)}
    assert left.keys() == {theirs, kept}
    assert (left[kept]["is_active"], left[kept]["send_payload"]) == (True, True)


def test_disconnect_undoes_it(driver: Driver, backend: RunningBackend, project: int) -> None:
    run(backend, "connect", "--project", str(project), "--active-learning")
    said = run(backend, "disconnect", "--project", str(project))
    assert "sequential sampling again" in said
    assert settled(driver, project) == ([], [], "Sequential sampling")
    assert "was not connected" in run(backend, "disconnect", "--project", str(project))


def test_a_project_that_was_deleted_in_label_studio_can_be_forgotten(driver: Driver, backend: RunningBackend) -> None:
    gone = driver.create_project(CONFIG)["id"]
    run(backend, "connect", "--project", str(gone))
    driver.delete_project(gone)
    assert "forgotten" in run(backend, "disconnect", "--project", str(gone))
    known = {one["id"]: one for one in backend.get("/api/v1/projects")[1]["projects"]}
    assert not known[gone]["connected"]
    assert "has no project" in run(backend, "disconnect", "--project", str(gone), expect=1)


def test_all_connects_what_the_model_supports_and_says_why_not_the_rest(
    driver: Driver, backend: RunningBackend, project: int
) -> None:
    other = driver.create_project('<View><Audio name="a" value="$a"/><TextArea name="t" toName="a"/></View>')["id"]
    try:
        said = run(backend, "connect", "--all")
        assert "left alone" in said
        assert driver.connections(other) == []
        assert len(driver.connections(project)) == 1
    finally:
        run(backend, "disconnect", "--all")
        driver.delete_project(other)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--project", "999999"], {}, "Label Studio has no project 999999"),
        (["--project", "{project}", "--url", "http://127.0.0.1:9"], {}, "--host 0.0.0.0"),
        (["--project", "{project}", "--url", "http://nowhere.invalid:9"], {}, "as seen from Label Studio"),
        (["--project", "{project}", "--extra-params", '{"refit": {"retrain": {"evry": 5}}}'], {}, "refit.retrain.evry"),
        (["--project", "{project}"], {"LABEL_STUDIO_API_KEY": "f" * 40}, "does not know LABEL_STUDIO_API_KEY"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    driver: Driver,
    backend: RunningBackend,
    project: int,
    arguments: list[str],
    environment: dict[str, str],
    said: str,
) -> None:
    filled = [one.replace("{project}", str(project)) for one in arguments]
    assert said in run(backend, "connect", *filled, expect=1, **environment)
    assert driver.connections(project) == []
    assert driver.webhooks(project) == []


def test_without_a_running_backend_it_is_said_first(
    driver: Driver, backend: RunningBackend, project: int, valkey_socket: Any
) -> None:
    said = run(backend, "connect", "--project", str(project), expect=1, REDIS_URL=f"unix://{valkey_socket}")
    assert "no web process of this backend is alive" in said
