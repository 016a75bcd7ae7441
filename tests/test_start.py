"""`ml-backend start`, as a person starts and stops it."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ml_backend.cli.start import answers
from tests.loopback import speaking
from tests.running import RunningBackend, wait_until
from tests.wheel import CONFIG, UID, annotated

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBackend]:
    """One backend, started once before so that the second start is the one that counts."""
    running = RunningBackend(tmp_path_factory.mktemp("start") / "data")
    running.start()
    running.stop()
    with running:
        yield running


def mentions(text: str) -> set[int]:
    """Processes whose command line or environment mentions the text, this one aside."""
    found: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            about = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            running = "State:\tZ" not in (folder / "status").read_text()
        except OSError:
            continue
        if text.encode() in about and running and int(folder.name) != os.getpid():
            found.add(int(folder.name))
    return found


def test_a_second_start_answers_health_within_five_seconds(backend: RunningBackend) -> None:
    assert backend.seconds_to_health < 5


def test_it_prints_the_url_to_paste_and_where_the_data_lies(backend: RunningBackend) -> None:
    assert backend.url.startswith("http://label-studio:")
    assert "host.docker.internal" in backend.log()
    assert str(backend.data_dir) in backend.log()


def test_the_secret_is_kept_for_the_owner_alone(backend: RunningBackend) -> None:
    secret = backend.data_dir / "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert secret.read_text().strip() in backend.url
    assert stat.S_IMODE(backend.data_dir.stat().st_mode) == 0o700


def test_the_secret_stands_on_no_command_line(backend: RunningBackend) -> None:
    secret = (backend.data_dir / "secret").read_text().strip()
    lines = b"".join((Path("/proc") / str(pid) / "cmdline").read_bytes() for pid in mentions(str(backend.data_dir)))
    assert lines
    assert secret.encode() not in lines


def test_annotations_from_webhooks_alone_bring_a_version(backend: RunningBackend) -> None:
    setup = {"project": UID, "schema": CONFIG, "hostname": "", "access_token": "", "extra_params": None}
    for number in range(1, 12):
        status, answer = backend.post("/webhook", annotated(number))
        assert status == 200, answer
    version = wait_until(
        lambda: backend.post("/setup", setup)[1].get("model_version"), 60, f"a version is named\n{backend.log()}"
    )
    assert version.startswith("v1-")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_no_process_stays(tmp_path: Path, how: signal.Signals) -> None:
    backend = RunningBackend(tmp_path / "data").start()
    assert backend.process is not None
    backend.process.send_signal(how)
    backend.process.wait(30)
    wait_until(lambda: not mentions(str(backend.data_dir)), 15, "every process is gone")
    if how != signal.SIGKILL:
        assert backend.process.returncode == 0


def test_a_second_start_on_the_same_folder_is_refused_with_the_reason(backend: RunningBackend) -> None:
    other = RunningBackend(backend.data_dir)
    with pytest.raises(AssertionError, match="in use by process"):
        other.start()


@pytest.mark.parametrize("words", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1."])
def test_whoever_answers_something_else_on_the_port_is_not_taken_for_the_backend(words: bytes) -> None:
    with speaking(words) as port:
        assert not answers(f"http://127.0.0.1:{port}/health")()
