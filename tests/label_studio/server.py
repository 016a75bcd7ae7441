"""Starts, kills and restarts a real Label Studio; knows nothing of pytest, so that benchmarks use it too.

The package is installed by ``uvx`` at the first start (about a minute), later ones take some fifteen seconds.
Everything it writes lies in one folder, it listens on loopback only, and sends nothing anywhere but to the backends and
webhooks that it is told of.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NEWEST = "1.23.2"
VERSION = os.environ.get("ML_BACKEND_TEST_LABEL_STUDIO", NEWEST)
"""The release that runs; another one than the newest to see what it does."""
EMAIL = "lead@example.com"
PASSWORD = "a-password-for-tests"

_QUIET = {
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
}
_LOCAL_BACKENDS_ALLOWED = {"SSRF_PROTECTION_ENABLED": "false", "ML_BLOCK_LOCAL_IP": "false"}


class RealLabelStudio:
    """One Label Studio with its own data folder; use it as a context manager, or call `start` and `close`.

    After `start` it has answered ``/health`` and a personal access token exists. Start one at a time: it is heavy.
    """

    def __init__(
        self, folder: Path, *, environment: Mapping[str, str] | None = None, deadline_s: float = 300.0
    ) -> None:
        """``folder`` is created; ``environment`` overrides what the server gets; ``deadline_s`` is for each start."""
        self.folder = folder
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.email = EMAIL
        self.password = PASSWORD
        self.legacy_token = secrets.token_hex(20)
        self.personal_token = ""
        self.log = folder / "label-studio.log"
        self.local_files = folder / "local-files"
        """Folders below this may become a project's local files storage."""
        self._environment = dict(environment or {})
        self._deadline_s = deadline_s
        self._server: subprocess.Popen[bytes] | None = None
        self._leash: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the server on the same folder and port as before and wait until it answers."""
        if self._server is not None:
            raise RuntimeError("Label Studio is already running")
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        self.local_files.mkdir(exist_ok=True)
        command = [
            *_uvx(),
            *("--from", f"label-studio=={VERSION}", "label-studio", "start", "--no-browser"),
            *("--internal-host", "127.0.0.1", "--port", str(self.port)),
            *("--username", self.email, "--password", self.password, "--user-token", self.legacy_token),
        ]
        ours = {
            **_QUIET,
            **_LOCAL_BACKENDS_ALLOWED,
            "LABEL_STUDIO_BASE_DATA_DIR": str(data),
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.local_files),
            **self._environment,
        }
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(
                command,
                env={**_without_leftovers(os.environ), **ours},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._leash = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("leash.py")), str(self._server.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        wait_for(self._answers, self._deadline_s, f"Label Studio does not answer; see {self.log}")
        if not self.personal_token:
            self.personal_token = personal_token(self.base_url, self.email, self.password)

    def kill(self) -> None:
        """SIGKILL to the whole process group: what a crash of the machine leaves behind stays in the folder."""
        self._end(signal.SIGKILL, patience_s=0.0)

    def restart(self) -> None:
        """Stop it if it still runs, then start it again on the same folder, port and tokens."""
        self.close()
        self.start()

    def close(self) -> None:
        """SIGTERM, after five seconds SIGKILL; returns when no process of the group is left. May be called twice."""
        self._end(signal.SIGTERM, patience_s=5.0)

    @property
    def running(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def train_jobs(self, connection: int) -> list[str]:
        """The ids that Label Studio stored from the ``job`` of our answers, oldest first: no API gives them out."""
        database = self.folder / "data" / "label_studio.sqlite3"
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connected:
            rows = connected.execute(
                "SELECT job_id FROM ml_mlbackendtrainjob WHERE ml_backend_id = ? ORDER BY id", (connection,)
            )
            return [row[0] for row in rows]

    def tell_everything(self, webhook: int) -> None:
        """Make a project's webhook the organization's: the API of this release lets nobody create one (404)."""
        database = self.folder / "data" / "label_studio.sqlite3"
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as connected, connected:
            connected.execute("UPDATE webhook SET project_id = NULL WHERE id = ?", (webhook,))

    def _answers(self) -> bool:
        server = self._server
        if server is None or server.poll() is not None:
            tail = self.log.read_text(errors="replace")[-4000:]
            raise RuntimeError(f"Label Studio ended before it answered:\n{tail}")
        try:
            return httpx.get(f"{self.base_url}/health", timeout=2.0, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def _end(self, how: signal.Signals, patience_s: float) -> None:
        server, self._server = self._server, None
        leash, self._leash = self._leash, None
        if server is not None:
            _end_group(server, how, patience_s)
        if leash is not None:
            leash.communicate()


def personal_token(base_url: str, email: str, password: str) -> str:
    """Log in as the login page does (CSRF) and create a personal access token: a JWT refresh token."""
    with httpx.Client(base_url=base_url, follow_redirects=True, timeout=30.0, trust_env=False) as browser:
        browser.get("/user/login/").raise_for_status()
        form = {"email": email, "password": password, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        browser.post("/user/login/", data=form, headers={"Referer": base_url}).raise_for_status()
        headers = {"X-CSRFToken": browser.cookies["csrftoken"], "Referer": base_url}
        answer = browser.post("/api/token/", headers=headers).raise_for_status()
        token: str = answer.json()["token"]
        return token


def free_port() -> int:
    """A port of the loopback address that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool], deadline_s: float, otherwise: str, *, every_s: float = 0.1) -> None:
    """Poll until the condition holds; `TimeoutError` with the text after ``deadline_s`` seconds."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() >= end:
            raise TimeoutError(f"{otherwise} (waited {deadline_s:.0f} s)")
        time.sleep(every_s)


def _end_group(leader: subprocess.Popen[bytes], how: signal.Signals, patience_s: float) -> None:
    def gone() -> bool:
        leader.poll()
        try:
            os.killpg(leader.pid, 0)
        except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
            return True
        return False

    if gone():
        return
    os.killpg(leader.pid, how)
    with contextlib.suppress(TimeoutError):
        wait_for(gone, patience_s, "", every_s=0.02)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader.pid, signal.SIGKILL)
    wait_for(gone, 20.0, f"processes of group {leader.pid} are still there", every_s=0.02)
    leader.wait()


def _uvx() -> list[str]:
    if uv := os.environ.get("UV"):  # set by uv in everything that it runs
        return [uv, "tool", "run"]
    for name, arguments in (("uvx", []), ("uv", ["tool", "run"])):
        if found := shutil.which(name):
            return [found, *arguments]
    raise RuntimeError("uv is needed to run Label Studio: pip install uv")


def _without_leftovers(environment: Mapping[str, str]) -> dict[str, str]:
    """Our own environment without what would change Label Studio or the tool environment that uvx runs it in."""
    prefixes = ("LABEL_STUDIO_", "DJANGO_", "ML_BACKEND_", "PYTEST_", "COVERAGE_")
    names = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "REDIS_URL", "SECRET_KEY"}
    return {k: v for k, v in environment.items() if k not in names and not k.startswith(prefixes)}
