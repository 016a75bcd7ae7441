"""Secrets planted everywhere, a whole backend at work, and a search through everything that it leaves or says."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import select
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import redis

from tests.faults.stage import MODEL, annotation, below, click, uid
from tests.running import RunningBackend, free_port, wait_until
from tests.test_redis_address import server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")

SECRETS = {
    "BASIC_AUTH_PASS": "planted-password-1",
    "ML_BACKEND_BASIC_AUTH_EXTRA": "planted-password-2",
    "LABEL_STUDIO_API_KEY": "planted-api-key-3",
    "a Redis password": "planted-redis-4",
    "a guess at the login": "planted-guess-5",
    "a guess at the header": "planted-header-6",
    "/setup's access_token": "planted-token-7",
    "LABEL_STUDIO_URL": "planted-url-8",
    "/predict's params": "planted-params-9",
}


@dataclass
class Left:
    """All that can be searched, by where it was found."""

    found: dict[str, bytes] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    log: str = ""
    stranger: int = 0
    """The port of whom /setup's hostname names: nobody may call there, and the key least of all."""
    visited: bool = True

    def add(self, where: str, what: bytes | str) -> None:
        self.found[where] = self.found.get(where, b"") + (what if isinstance(what, bytes) else what.encode())

    def holding(self, secret: str) -> list[str]:
        forms = {secret.encode(), quote(secret).encode(), secret.encode().hex().encode()}
        # In Base64 at each of the three places where it may begin; what surrounds it makes the ends differ.
        forms |= {base64.b64encode(b"x" * shift + secret.encode())[4:-4] for shift in range(3)}
        return [where for where, what in self.found.items() if any(form in what for form in forms)]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "gates").mkdir()
    port = free_port()
    told = {
        "REDIS_URL": f"redis://:{SECRETS['a Redis password']}@127.0.0.1:{port}/0",
        "LABEL_STUDIO_URL": f"http://user:{SECRETS['LABEL_STUDIO_URL']}@127.0.0.1:{free_port()}",
        "LOG_LEVEL": "DEBUG",
        "TEST_GATES": str(folder / "gates"),
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "ML_BACKEND_TRAIN_WORKERS": "1",
        "WORKERS": "1",
        **{name: value for name, value in SECRETS.items() if name.isupper() and name != "LABEL_STUDIO_URL"},
    }
    with server("--port", str(port), "--bind", "127.0.0.1", "--requirepass", SECRETS["a Redis password"]):
        backend = RunningBackend(folder / "data", arguments=[MODEL], environment=told)
        with backend, redis.Redis(port=port, password=SECRETS["a Redis password"]) as client:
            stranger = socket.create_server(("127.0.0.1", 0))
            left = Left(stranger=stranger.getsockname()[1])
            work(backend, client, left)
            assert backend.process is not None
            for pid in (backend.process.pid, *(one.pid for one in below(backend.process.pid))):
                with contextlib.suppress(OSError):
                    left.add("command lines", (Path("/proc") / str(pid) / "cmdline").read_bytes())
            for command in ("status", "jobs", "versions", "export"):
                ran = subprocess.run(
                    [sys.executable, "-P", "-m", "ml_backend.cli", command],
                    env={**told, "ML_BACKEND_DATA_DIR": str(backend.data_dir), "COLUMNS": "300"},
                    capture_output=True,
                    timeout=60,
                    check=False,
                )
                assert ran.returncode == 0, ran.stderr
                left.add(f"ml-backend {command}", ran.stdout + ran.stderr)
            left.visited = bool(select.select([stranger], [], [], 0)[0])
            stranger.close()
        left.log = backend.log()
        left.add("log", "\n".join(line for line in left.log.splitlines() if not _is_greeting(line)))
        for file in (folder / "data").rglob("*"):
            left.modes[str(file.relative_to(folder))] = stat.S_IMODE(file.lstat().st_mode)
            if file.is_file():
                left.add(f"file {file.name}", file.read_bytes())
        yield left


def _is_greeting(line: str) -> bool:
    """The lines that print the URL to paste: the one place where the password is said, as that is what they are for."""
    return re.search(r"http://label-studio:.*@(localhost|host\.docker\.internal|ml-backend):\d+$", line) is not None


def work(backend: RunningBackend, client: redis.Redis, left: Left) -> None:
    """Everything that an evening brings: setups, events, a training that works, wrong logins, broken requests."""
    setup = {
        "project": uid(7),
        "schema": annotation(1)["project"]["label_config"],
        "hostname": f"http://127.0.0.1:{left.stranger}",
        "access_token": SECRETS["/setup's access_token"],
        "extra_params": None,
    }
    params = {"login": "someone", "password": SECRETS["/predict's params"], "context": None}
    ask(backend, left, "POST", "/setup", setup)
    for number in range(1, 12):
        ask(backend, left, "POST", "/webhook", annotation(number))
    ask(backend, left, "POST", "/webhook", click())
    wait_until(lambda: ask(backend, left, "POST", "/versions", {"project": uid(7)})["versions"], 60, "a version")
    ask(backend, left, "POST", "/predict", {"tasks": [{"id": 1, "data": {}}], "project": uid(7), "params": params})
    for path in ("/", "/metrics?format=prometheus", "/health", "/versions", "/no/such/page"):
        ask(backend, left, "GET", path)
    for path in ("system", "projects", f"projects/{uid(7)}", f"projects/{uid(7)}/runs", "openapi.json", "nothing"):
        ask(backend, left, "GET", f"/api/v1/{path}")
    ask(backend, left, "GET", "/", accept="text/html")
    ask(backend, left, "POST", "/setup", {**setup, "schema": "<View>"})
    ask(backend, left, "POST", "/webhook", {"action": "ANNOTATION_CREATED", "annotation": [{}]})
    for _ in range(3):
        ask(backend, left, "GET", "/versions", login=f"label-studio:{SECRETS['a guess at the login']}")
        ask(backend, left, "POST", "/webhook", click(), login="", header=SECRETS["a guess at the header"])
    wait_until(lambda: client.hget(f"mlb:{{{uid(7)}}}:sync", "error"), 60, "a sync that failed")
    for key in client.scan_iter():
        left.add(f"redis {key.decode()}", held(client, key))


def held(client: redis.Redis, key: bytes) -> bytes:
    read: dict[bytes, Any] = {
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"string": client.get,
    }
    return repr(read.get(client.type(key), client.dump)(key)).encode()


def ask(
    backend: RunningBackend,
    left: Left,
    method: str,
    path: str,
    body: Any = None,
    *,
    login: str | None = None,
    header: str = "",
    accept: str = "*/*",
) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{backend.port}{path}", method=method)
    login = f"label-studio:{SECRETS['BASIC_AUTH_PASS']}" if login is None else login
    if login:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    if header:
        request.add_header("X-Refit-Secret", header)
    request.add_header("Accept", accept)
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            said, headers, reason = answer.read(), answer.headers, answer.reason
    except urllib.error.HTTPError as error:
        with error:
            said, headers, reason = error.read(), error.headers, error.reason
    left.add(f"answer to {method} {path}", f"{reason}\n{headers}\n".encode() + said)
    with contextlib.suppress(ValueError):
        return json.loads(said)
    return None


@pytest.mark.parametrize("name", SECRETS)
def test_a_planted_secret_is_found_nowhere(left: Left, name: str) -> None:
    assert left.holding(SECRETS[name]) == []


def test_the_hostname_that_setup_names_is_never_called(left: Left) -> None:
    assert left.visited is False


def test_the_search_finds_what_is_there(left: Left) -> None:
    everything = " ".join(left.found)
    for where in (
        "command lines",
        "log",
        "redis mlb:{7.1795333883}:meta",
        "manifest.json",
        "answer to GET /",
        "export",
    ):
        assert where in everything
    assert "log" in left.holding("seven") or left.found["log"].count(b"project 7.1795333883") > 3
    probe = Left()
    probe.add("base64", base64.b64encode(b"label-studio:planted-password-1"))
    probe.add("quoted", quote("planted password/1"))
    assert probe.holding("planted-password-1") == ["base64"]
    assert probe.holding("planted password/1") == ["quoted"]


def test_the_password_is_printed_once_for_each_way_to_paste_it(left: Left) -> None:
    assert left.log.count(SECRETS["BASIC_AUTH_PASS"]) == 3


def test_a_wrong_login_is_in_the_log_with_its_address(left: Left) -> None:
    assert left.log.count("failed login from 127.0.0.1") == 6


def test_what_is_written_is_the_owners_alone(left: Left) -> None:
    assert left.modes
    wrong = {name: oct(mode) for name, mode in left.modes.items() if mode & 0o077}
    assert wrong == {}
