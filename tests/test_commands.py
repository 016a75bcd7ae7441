"""The commands of the README and of the documentation are run, as they stand there, beside a backend that runs."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.running import RunningBackend, free_port, wait_until
from tests.wheel import annotated

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PAGES = {
    path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
UID = "7.1795333883"
"""The project that `annotated` tells of."""

HERE = [
    "uv run ml-backend status",
    "uv run ml-backend train --watch",
    "uv run ml-backend versions",
    "uv run ml-backend doctor",
    "uv run ml-backend doctor --json",
    "uv run ml-backend export 7 --to project-7.jsonl",
    "uv run ml-backend import project-7.jsonl",
    "uv run ml-backend new my_model",
]
"""What runs in the folder of a backend that was started there, in this order."""

ELSEWHERE = {
    "uv run ml-backend start": "tests/test_start.py",
    "uv run ml-backend start my_model": "tests/test_bring.py",
    "uv run ml-backend start my_model.py": "tests/test_bring.py",
    "uv run ml-backend serve": "tests/test_commands.py",
    "uv run ml-backend worker": "tests/test_commands.py",
    "uv run ml-backend quickstart": "tests/label_studio/test_quickstart.py",
    "uv run ml-backend connect --project 12": "tests/label_studio/test_connect.py",
    "uv run ml-backend connect --project 12 --active-learning": "tests/label_studio/test_connect.py",
}
"""What has a test of its own, since it needs a Label Studio or is a whole test file."""


def written() -> set[str]:
    """Every command of ours in a console block."""
    blocks = [
        body
        for text in PAGES.values()
        for body in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]
    return {line for body in blocks for line in body.splitlines() if line.startswith("uv run ml-backend ")}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBackend]:
    """Started in an empty folder, with twelve annotations."""
    folder = tmp_path_factory.mktemp("readme")
    with RunningBackend(folder / ".ml-backend", environment={"ML_BACKEND_RETRAIN_QUIET": "600"}) as running:
        for number in range(1, 13):
            running.posted("/webhook", annotated(number))
        yield running


@pytest.fixture(scope="module")
def ran(backend: RunningBackend) -> dict[str, subprocess.CompletedProcess[str]]:
    """What came of each command."""
    ours = ("ML_BACKEND_", "LABEL_STUDIO_", "REDIS_", "BASIC_AUTH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {
        line: subprocess.run(
            [sys.executable, "-P", "-m", "ml_backend.cli", *shlex.split(line)[3:]],
            cwd=backend.data_dir.parent,
            env={**kept, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        for line in HERE
    }


def test_what_runs_here_stands_on_a_page() -> None:
    assert set(HERE) - {"uv run ml-backend new my_model"} <= written()
    assert "`uv run ml-backend new my_model`" in PAGES["README.md"]


def test_status_names_the_project_and_how_far_it_is(ran: dict[str, subprocess.CompletedProcess[str]]) -> None:
    done = ran["uv run ml-backend status"]
    assert done.returncode == 0, done.stderr
    assert "wheel" in done.stdout
    assert "12 of 10" in done.stdout


def test_train_follows_the_training_to_its_end(ran: dict[str, subprocess.CompletedProcess[str]]) -> None:
    done = ran["uv run ml-backend train --watch"]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout


def test_versions_lists_the_version_with_its_scores(ran: dict[str, subprocess.CompletedProcess[str]]) -> None:
    done = ran["uv run ml-backend versions"]
    assert done.returncode == 0, done.stderr
    assert "v1-" in done.stdout
    assert "serving" in done.stdout


@pytest.mark.parametrize("line", [one for one in HERE if one.split()[-1] in {"status", "versions", "doctor"}])
def test_in_eighty_columns_nothing_is_cut_off(ran: dict[str, subprocess.CompletedProcess[str]], line: str) -> None:
    lines = ran[line].stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in one for one in lines)
    assert "\x1b" not in ran[line].stdout


def test_doctor_finds_nothing_wrong_with_what_start_started_but_that_no_key_is_set(
    ran: dict[str, subprocess.CompletedProcess[str]],
) -> None:
    done = ran["uv run ml-backend doctor"]
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 problem found." in done.stdout
    found = json.loads(ran["uv run ml-backend doctor --json"].stdout)
    assert [one["check"] for one in found if one["verdict"] == "problem"] == ["label-studio.key"]


def test_an_export_is_written_and_not_taken_in_over_what_is_there(
    ran: dict[str, subprocess.CompletedProcess[str]], backend: RunningBackend
) -> None:
    done = ran["uv run ml-backend export 7 --to project-7.jsonl"]
    assert done.returncode == 0, done.stderr
    assert json.loads((backend.data_dir.parent / "project-7.jsonl").read_text().splitlines()[0])
    again = ran["uv run ml-backend import project-7.jsonl"]
    assert again.returncode != 0
    assert "--replace" in again.stdout + again.stderr


def test_new_writes_a_model_with_its_test(
    ran: dict[str, subprocess.CompletedProcess[str]], backend: RunningBackend
) -> None:
    done = ran["uv run ml-backend new my_model"]
    assert done.returncode == 0, done.stderr
    assert list((backend.data_dir.parent / "my_model").glob("*.py"))


CALLS = re.findall(r"^curl -u label-studio:PASSWORD (.*)$", PAGES["api.md"], re.MULTILINE)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("ran")
def test_the_calls_of_the_api_are_answered(backend: RunningBackend, call: str) -> None:
    *options, url = shlex.split(call)
    path = url.removeprefix("http://localhost:9090").replace("UID", UID)
    if not options:
        status, answer = backend.get(path)
        assert (status, [one["uid"] for one in answer["projects"]]) == (200, [UID])
        return
    assert options[0] == "--json"
    status, answer = backend.post(path, json.loads(options[1]))
    # Without a key no sync can be asked for: that it says so is an answer, too.
    assert status == 202 or "LABEL_STUDIO_API_KEY" in answer["error"]["reason"], answer


def test_serve_and_worker_share_a_redis_and_do_together_what_start_does(redis_socket: Path, tmp_path: Path) -> None:
    port = free_port()
    told = {
        "PATH": os.environ["PATH"],
        "REDIS_URL": f"unix://{redis_socket}",
        "ML_BACKEND_DATA_DIR": str(tmp_path / "data"),
        "ML_BACKEND_RETRAIN_QUIET": "0",
        "PORT": str(port),
        "WORKERS": "1",
        "BASIC_AUTH_PASS": "s3cret",
    }

    def call(method: str, path: str, body: object = None) -> dict[str, object]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        request.add_header("Authorization", "Basic " + base64.b64encode(b"label-studio:s3cret").decode())
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
                return dict(json.loads(answer.read()))
        except OSError as error:
            return {"error": str(error)}

    started = []
    try:
        for command in ("serve", "worker"):
            argv = [sys.executable, "-P", "-m", "ml_backend.cli", command]
            started.append(subprocess.Popen(argv, env=told, cwd=tmp_path, start_new_session=True))
        wait_until(lambda: call("GET", "/health").get("status") == "UP", 60, "serve answers")
        for number in range(1, 13):
            assert call("POST", "/webhook", annotated(number)).get("status") in {"recorded", "training", "joined"}
        wait_until(
            lambda: call("GET", f"/api/v1/projects/{UID}/versions").get("versions"), 120, "worker has trained a version"
        )
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        ended = [process.wait(60) for process in started]
    assert ended == [0, 0]


def test_every_command_on_a_page_is_run_by_a_test() -> None:
    """Those that only add an address to connect or start are parsed, in `test_docs`."""
    left = written() - set(HERE) - set(ELSEWHERE)
    assert {one for one in left if not re.search(r" --(url|host) ", one)} == set()
    for line, file in ELSEWHERE.items():
        subcommand = line.split()[3]
        source = (ROOT / file).read_text(encoding="utf-8")
        assert f'"{subcommand}"' in source or "RunningBackend(" in source, f"{line}: not in {file}"
