"""`ml-backend start`, as a person starts and stops it."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ml_backend.cli import start
from ml_backend.cli.start import answers
from ml_backend.settings import Settings
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


def test_port_0_takes_a_free_one_and_says_which(tmp_path: Path) -> None:
    argv = [sys.executable, "-P", "-m", "ml_backend.cli", "start", "--port", "0", "--data-dir", str(tmp_path / "data")]
    printed = tmp_path / "printed"
    with printed.open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until(lambda: "Stop with Ctrl-C" in printed.read_text(), 30, "it is ready")
        (port,) = re.findall(r"@localhost:(\d+)", printed.read_text())
        assert int(port) > 0
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/health") as up:
            assert up.status == 200
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize("redis", ["its own", "a shared one"])
def test_a_port_where_somebody_else_answers_is_refused_and_never_called_ours(
    backend: RunningBackend, tmp_path: Path, redis: str
) -> None:
    ours = ("ML_BACKEND_", "LABEL_STUDIO_", "REDIS_", "BASIC_AUTH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ml_backend.cli", "start", "--port", str(backend.port), "--data-dir", "data"],
        cwd=tmp_path,
        env=kept if redis == "its own" else {**kept, "REDIS_URL": "redis://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"port {backend.port} of 127.0.0.1 is taken: stop the program that listens there" in done.stderr
    assert "ready" not in done.stdout


@pytest.mark.parametrize("host", ["::1", "::"])
@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_an_ipv6_address_can_be_bound_to(tmp_path: Path, host: str) -> None:
    backend = RunningBackend(tmp_path / "data", arguments=["--host", host])
    backend.address = "[::1]"
    with backend:
        assert backend.get("/health")[0] == 200


@pytest.mark.parametrize(
    ("environment", "printed"),
    [
        ({"ML_BACKEND_URL": "https://ml.example.com/refit"}, ["https://label-studio:s@ml.example.com/refit"]),
        ({"ML_BACKEND_HOST": "192.0.2.7"}, ["http://label-studio:s@192.0.2.7:9090"]),
        ({"ML_BACKEND_HOST": "2001:db8::7"}, ["http://label-studio:s@[2001:db8::7]:9090"]),
        (
            {"ML_BACKEND_HOST": "0.0.0.0"},
            [f"http://label-studio:s@{one}:9090" for one in ("localhost", "host.docker.internal", "ml-backend")],
        ),
    ],
)
def test_only_addresses_that_it_answers_at_are_printed(
    capsys: pytest.CaptureFixture[str], environment: dict[str, str], printed: list[str]
) -> None:
    start.greet(Settings.from_environment(environment), ("label-studio", "s"))
    assert re.findall(r"https?://\S+", capsys.readouterr().out) == printed


def test_a_second_start_on_the_same_folder_is_refused_with_the_reason(backend: RunningBackend) -> None:
    other = RunningBackend(backend.data_dir)
    with pytest.raises(AssertionError, match="in use by process"):
        other.start()


@pytest.mark.parametrize("words", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1."])
def test_whoever_answers_something_else_on_the_port_is_not_taken_for_the_backend(words: bytes) -> None:
    with speaking(words) as port:
        assert not answers(f"http://127.0.0.1:{port}/health")()
