"""What the command line says when something is wrong: what it is, and what to do about it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ml_backend import __version__
from ml_backend.cli.jobs import cancel_run, train_now
from ml_backend.cli.show import find_uid
from ml_backend.cli.sync import sync_now
from ml_backend.errors import BadInput, ProjectUnknown, RefitError
from ml_backend.event_way import forget
from tests.calls import SENTIMENT, UID, fail

if TYPE_CHECKING:
    from pathlib import Path

    from ml_backend.bootstrap import Services

NOT_OURS = ("ML_BACKEND_", "LABEL_STUDIO_", "REDIS_", "BASIC_AUTH")


def cli(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    return subprocess.run(
        [sys.executable, "-P", "-m", "ml_backend.cli", *arguments],
        cwd=folder,
        env={**kept, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def project(services: Services) -> str:
    services.state.setup(UID, SENTIMENT, None, time.time())
    return UID


@pytest.fixture
def disconnected(services: Services, project: str) -> str:
    forget(services.state, services.runs, project, time.time(), "the project was disconnected")
    return project


def test_it_tells_its_release(tmp_path: Path) -> None:
    assert cli("--version", folder=tmp_path).stdout == f"ml-backend {__version__}\n"


@pytest.mark.parametrize("command", ["status", "versions", "jobs", "train"])
def test_where_no_backend_runs_it_says_what_to_do_and_leaves_nothing(tmp_path: Path, command: str) -> None:
    done = cli(command, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Redis does not answer: ")
    assert "ml-backend start" in done.stderr
    assert "--data-dir" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_variable_that_is_no_setting_is_told(tmp_path: Path) -> None:
    said = cli("status", folder=tmp_path, ML_BACKEND_KEEP_VERSION="3").stderr
    assert said.startswith("note: ML_BACKEND_KEEP_VERSION is no setting: is ML_BACKEND_KEEP_VERSIONS meant?\n")


@pytest.mark.parametrize(
    "hint", ["run `pip install transformers[torch]`", "no [/bold] here", "a list[int] is wanted", "[red]no[/red]"]
)
def test_brackets_in_an_error_are_text(tmp_path: Path, hint: str) -> None:
    (tmp_path / "mine.py").write_text(f"raise ImportError({hint!r})")
    done = cli("doctor", "--model", "mine.py", folder=tmp_path)
    assert done.returncode == 1
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_not_broken_into_lines_so_that_what_it_names_can_be_copied(tmp_path: Path) -> None:
    far = "/".join(["a-folder-with-a-long-name"] * 5)
    assert f"{far}/model.py" in cli("doctor", "--model", f"{far}/model.py", folder=tmp_path).stderr


def test_connect_names_all_that_it_needs_of_label_studio(services: Services, tmp_path: Path) -> None:
    address = services.settings.redis_url
    assert address is not None
    done = cli("connect", "--project", "1", folder=tmp_path, REDIS_URL=address.get_secret_value())
    assert done.stderr.startswith("error: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY: must be set")
    assert "personal access token" in done.stderr


def test_a_sync_names_all_that_it_needs_of_label_studio(services: Services, project: str) -> None:
    with pytest.raises(RefitError, match=r"LABEL_STUDIO_URL to .* and LABEL_STUDIO_API_KEY to a personal access token"):
        sync_now(services.settings, project, complete=False, watch=False)


def test_a_project_that_is_not_known_is_named_beside_those_that_are(services: Services, project: str) -> None:
    with pytest.raises(ProjectUnknown, match=f"99 is not known here; name one of {UID}"):
        find_uid(services, "99")


def test_a_project_that_is_not_connected_any_more_is_not_trained_and_nobody_waits_for_it(
    services: Services, disconnected: str
) -> None:
    with pytest.raises(BadInput, match="not connected any more: nothing is trained for it"):
        train_now(services.settings, disconnected, watch=True)
    assert services.runs.standing(disconnected).waiting is None


def test_a_project_that_is_not_connected_any_more_is_not_synced_and_nobody_waits_for_it(
    services: Services, disconnected: str
) -> None:
    told = {"label_studio_url": "http://127.0.0.1:9", "label_studio_api_key": services.settings.redis_url}
    with pytest.raises(BadInput, match="not connected any more: there is nothing to sync"):
        sync_now(services.settings.model_copy(update=told), disconnected, complete=False, watch=True)


def test_what_a_run_came_to_is_shown_as_it_is(
    services: Services, project: str, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "run `pip install transformers[torch]` [/first]"
    run_id = fail(services, project, why)
    assert cancel_run(services.settings, run_id) == 1
    assert why in " ".join(capsys.readouterr().out.split())
