"""A whole ml-backend, started as a person starts it and stopped with SIGTERM: for tests, benchmarks and the wheel."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

T = TypeVar("T")

LONG_LEASE = {"ML_BACKEND_LEASE": "120"}
"""For tests that train in their own process: a keeper kills its trainer when the machine stands still for a lease."""

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """A port that was free a moment ago."""
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """As many ports that were free a moment ago, no two the same: each is held until all are chosen."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def wait_until(look: Callable[[], T], deadline_s: float, what: str, *, every_s: float = 0.05) -> T:
    """Poll until ``look`` gives something true; returns it. Fails saying what was waited for."""
    until = time.monotonic() + deadline_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"not within {deadline_s:g} s: {what}; last seen: {found!r}")
        time.sleep(every_s)


def until_redis_answers(ask: Callable[[], T], status: Callable[[T], int], within_s: float = 30.0) -> T:
    """Ask until it is no 503: the web waits for a third of a second for Redis, and a machine may stand still."""
    until = time.monotonic() + within_s
    while status(found := ask()) == 503 and time.monotonic() < until:
        time.sleep(0.1)
    return found


def wait_for_server(
    process: subprocess.Popen[bytes], answers: Callable[[], bool], deadline_s: float, what: str
) -> None:
    """Poll until a process that was started answers; fails at once when it has ended."""

    def look() -> bool:
        assert process.poll() is None, f"{what} ended with {process.returncode}"
        return answers()

    wait_until(look, deadline_s, f"{what} answers", every_s=0.01)


class RunningBackend:
    """``ml-backend start`` on a free port, in its own data folder. ``url`` is the one it prints."""

    def __init__(
        self,
        data_dir: Path,
        *,
        command: list[str] | None = None,
        arguments: list[str] | None = None,
        environment: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self.address = "127.0.0.1"
        self._command = command or [sys.executable, "-P", "-m", "ml_backend.cli"]
        self._arguments = arguments or []
        self.environment = dict(environment or {})
        self.log_path = data_dir.with_name(data_dir.name + ".log")
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.seconds_to_health = 0.0

    def start(self) -> Self:
        """Start it and wait until it has printed its URL."""
        ours = ("ML_BACKEND_", "LABEL_STUDIO_", "REDIS_", "BASIC_AUTH")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        began = time.monotonic()
        with self.log_path.open("ab") as log:
            self._from = log.tell()
            self.process = subprocess.Popen(
                [*self._command, "start", *self._arguments, "--port", str(self.port), "--data-dir", str(self.data_dir)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**kept, "COLUMNS": "200", **self.environment},
                cwd=self.data_dir.parent,
                start_new_session=True,
            )
        try:
            self.wait_for_health(30)
            self.seconds_to_health = time.monotonic() - began
            self.url = wait_until(self._printed_url, 30, "the URL that start prints")
        except BaseException:
            self.stop()
            raise
        return self

    def wait_for_health(self, deadline_s: float) -> None:
        """Poll /health."""

        def healthy() -> bool:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.process.returncode}:\n{self.log()}")
            try:
                return self.get("/health")[0] == 200
            except (OSError, http.client.HTTPException):
                # A process that is killed while it answers leaves half an answer.
                return False

        try:
            wait_until(healthy, deadline_s, "/health answers", every_s=0.02)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def log(self) -> str:
        """What it has printed since its last start."""
        with self.log_path.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    def _printed_url(self) -> str:
        log = self.log()
        found = re.search(r"http://\S*localhost:\d+", log) if "Stop with Ctrl-C" in log else None
        return found.group(0).replace("localhost", "127.0.0.1") if found else ""

    def stop(self) -> int:
        """SIGTERM, wait; the exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"it did not stop within 30 s:\n{self.log()}") from None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def get(self, path: str) -> tuple[int, Any]:
        """(status, JSON) of a GET."""
        return self.call("GET", path)

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """(status, JSON) of a POST."""
        return self.call("POST", path, body)

    def posted(self, path: str, body: Any) -> Any:
        """The JSON of a POST that must succeed; tried again where Redis did not answer in time, and only there."""
        status, answer = until_redis_answers(lambda: self.post(path, body), lambda found: found[0])
        assert 200 <= status < 300, (status, answer)
        return answer

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request with the credentials of the printed URL."""
        request = urllib.request.Request(f"http://{self.address}:{self.port}{path}", method=method)
        found = re.match(r"http://([^@/]+)@", self.url)
        if found:
            request.add_header("Authorization", "Basic " + base64.b64encode(unquote(found.group(1)).encode()).decode())
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with _NO_PROXY.open(request, timeout=100) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")
