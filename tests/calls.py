"""The web over real parts, for tests: services on a private Valkey, an easily read model, and one web process."""

from __future__ import annotations

import copy
import http.client
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from ml_backend.bootstrap import make_services
from ml_backend.settings import Settings
from tests import samples
from tests.parrot import UID, Parrot
from tests.running import free_port, until_redis_answers, wait_for_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from ml_backend.bootstrap import Services

SENTIMENT = (
    '<View><Text name="t" value="$text"/>'
    '<Choices name="c" toName="t"><Choice value="yes"/><Choice value="no"/></Choices></View>'
)
BOXES = (
    '<View><Image name="i" value="$image"/>'
    '<RectangleLabels name="r" toName="i"><Label value="car"/></RectangleLabels></View>'
)


class Picky(Parrot):
    """Says what its version's file says, knows choices only, and repeats the context it is given."""

    def check(self, label_config: str) -> str | None:
        if "crash" in label_config:
            raise RuntimeError("this check is broken")
        return None if "<Choices" in label_config else "it has no Choices"

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        found = super().predict(tasks, context, **kwargs)
        if context:
            for one in found:
                one["result"][0]["meta"] = context
        return found


def environment(socket: Path, store: Path, **more: str) -> dict[str, str]:
    return {
        "REDIS_URL": f"unix://{socket}",
        "ML_BACKEND_STORE": str(store),
        "ML_BACKEND_MODEL": "tests.calls:Picky",
        **more,
    }


@contextmanager
def services_on(socket: Path, store: Path, **more: str) -> Iterator[Services]:
    services = make_services(Settings.from_environment(environment(socket, store, **more)), timeout_s=5)
    with services.server:
        yield services
    services.close()


def everything(client: redis.Redis) -> dict[bytes, bytes]:
    """All that Redis holds, but for the heartbeats of web processes."""
    return {key: client.dump(key) for key in client.scan_iter() if key != b"mlb:web"}


@cache
def _recorded(action: str) -> dict[str, Any]:
    return next(request.body for request in samples.webhooks() if request.body and request.body["action"] == action)


def event(action: str, **changes: Any) -> dict[str, Any]:
    """The first recorded event of that action; ``changes`` replace fields of its annotation."""
    body = copy.deepcopy(_recorded(action))
    if changes:
        body["annotation"].update(changes)
    return body


def setup_body(uid: str = UID, schema: str = SENTIMENT, **more: Any) -> dict[str, Any]:
    return {
        "project": uid,
        "schema": schema,
        "hostname": "http://localhost:8080",
        "access_token": "0123456789abcdef",
        "extra_params": None,
        **more,
    }


def predict_body(
    tasks: list[Any], project: Any = UID, label_config: str | None = SENTIMENT, **more: Any
) -> dict[str, Any]:
    return {
        "tasks": tasks,
        "project": project,
        "label_config": label_config,
        "params": {"login": None, "password": None, "context": None},
        **more,
    }


@dataclass
class Answer:
    """What a web process answered; ``reason`` is the status line's text."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class WebProcess:
    """``ml-backend``'s web process alone, under its real server."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.port = free_port()
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> WebProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ml_backend.processes", "web"],
            env={"PATH": os.environ["PATH"], "WORKERS": "1", "PORT": str(self.port), **self._environment},
        )
        wait_for_server(self._process, self._healthy, 30, "the web process")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)

    def _healthy(self) -> bool:
        try:
            return self.ask("GET", "/health").status == 200
        except OSError:
            return False

    def posted(self, path: str, body: Any) -> Answer:
        """A POST that must succeed; tried again where Redis did not answer in time, and only there."""
        answer = until_redis_answers(lambda: self.ask("POST", path, body), lambda found: found.status)
        assert answer.status == 200, answer.body[:1000]
        return answer

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request on its own connection; ``body`` is sent as JSON, bytes as they are, an iterator in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            if body is not None:
                headers.setdefault("Content-Type", "application/json")
                if isinstance(body, dict | list):
                    body = json.dumps(body).encode()
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.reason, dict(answer.headers.items()), answer.read())
        finally:
            connection.close()


def fail(services: Services, uid: str, error: str, traceback: str = "") -> str:
    """Let a run of the project begin, and fail for this reason; returns its id."""
    runs, now = services.runs, services.runs.time()
    run_id = runs.request(uid, trigger="policy", reason="ten labels", due=now, click=False, now=now).id
    runs.dispatch(uid, now, lambda *_: False)
    lease = runs.start(uid, run_id, "worker", now)
    assert lease is not None
    assert runs.finish(lease, "failed", reason=error, error=error, traceback=traceback, now=now)
    return run_id
