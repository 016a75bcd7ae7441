"""The whole product with people who annotate, and a hand that kills its processes one by one."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ml_backend.bootstrap import Services, make_services
from ml_backend.embedded import PrivateValkey
from ml_backend.errors import Unavailable
from ml_backend.redis_errors import answering
from ml_backend.settings import Settings
from tests.running import RunningBackend, wait_until
from tests.wheel import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MODEL = f"{Path(__file__).with_name('gated.py')}:GatedModel"
CREATED_AT = "2026-11-22T07:51:23.096964Z"


def uid(project: int) -> str:
    return f"{project}.1795333883"


def annotation(number: int, *, task: int | None = None, project: int = 7) -> dict[str, Any]:
    """The webhook of annotation ``number``, one of several on its task."""
    task = number if task is None else task
    dates = {"created_at": CREATED_AT, "updated_at": CREATED_AT}
    value = {"choices": ["good" if number % 2 else "bad"]}
    region = {"from_name": "mood", "to_name": "text", "type": "choices", "value": value}
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": {"id": number, "task": task, "result": [region], **dates},
        "task": {"id": task, "data": {"text": f"number {task}"}, **dates},
        "project": {"id": project, "created_at": CREATED_AT, "label_config": CONFIG, "title": f"project {project}"},
    }


def click(project: int = 7) -> dict[str, Any]:
    """What *Start Training* sends, without the counters that could mean Label Studio's own."""
    return {"action": "START_TRAINING", "project": {"id": project, "created_at": CREATED_AT, "label_config": CONFIG}}


# --- processes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    command: str


def processes() -> dict[int, Process]:
    """All that run on this machine; the dead that nobody has waited for are left out."""
    found: dict[int, Process] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if state != "Z":
                found[int(folder.name)] = Process(int(folder.name), int(parent), command)
    return found


def below(ancestor: int) -> list[Process]:
    """Its descendants, parents first."""
    everything = processes()
    found: list[Process] = []
    parents = {ancestor}
    while parents:
        children = [one for one in everything.values() if one.parent in parents]
        found += children
        parents = {one.pid for one in children}
    return found


def kill(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


# --- the product ------------------------------------------------------------------------------------------------------


class Stage:
    """A running product, and a view into its Redis and its version store from beside it.

    ``train_s`` is how long the gated model trains where no gate holds it; ``model`` None means the shipped ones.
    """

    def __init__(
        self, folder: Path, *, lease_s: float = 2.0, train_s: float = 0.0, model: str | None = MODEL, **settings: str
    ) -> None:
        self.lease_s = lease_s
        self.gates = folder / "gates"
        self.gates.mkdir(parents=True)
        environment = {
            "ML_BACKEND_LEASE": str(lease_s),
            "ML_BACKEND_TICK": "0.1",
            "ML_BACKEND_KEEP_VERSIONS": "100000",
            "ML_BACKEND_WEB_WORKERS": "1",
            "TEST_GATES": str(self.gates),
            "TEST_TRAIN_SECONDS": str(train_s),
            "PYTHONPATH": str(Path(__file__).parent.parent.parent),
            **settings,
        }
        self.backend = RunningBackend(
            folder / "data", arguments=[*([model] if model else []), "--insecure"], environment=environment
        )
        self.services = self._services(environment)

    def _services(self, environment: dict[str, str]) -> Services:
        ours = {name: value for name, value in environment.items() if name.startswith("ML_BACKEND_")}
        valkey = PrivateValkey(self.backend.data_dir / "valkey")
        told = {"REDIS_URL": valkey.url, "ML_BACKEND_DATA_DIR": str(self.backend.data_dir), "ML_BACKEND_MODEL": MODEL}
        return make_services(Settings.from_environment({**ours, **told}), timeout_s=1.0)

    def __enter__(self) -> Stage:
        self.backend.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open_gates()
        self.backend.stop()
        self.services.close()

    def steadily(self, look: Callable[[], T], within_s: float = 10.0) -> T:
        """What Redis says, once it answers."""
        until = time.monotonic() + within_s
        while True:
            try:
                return look()
            except Unavailable:
                assert time.monotonic() < until, (
                    f"Redis did not answer for {within_s:g} s\n{self.backend.log()[-3000:]}"
                )
                time.sleep(0.05)

    def wait(self, look: Callable[[], T], within_s: float, what: str) -> T:
        """Poll until something true comes; a Redis that is away counts as nothing yet."""

        def patient() -> T | None:
            try:
                return look()
            except Unavailable:
                return None

        try:
            return wait_until(patient, within_s, what, every_s=0.02)  # type: ignore[return-value]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.backend.log()[-4000:]}") from None

    def holder(self, project: int = 7) -> str:
        """What tells the lease under which the project is trained from every other; empty when there is none."""
        with answering():
            held = self.services.redis.hget(f"mlb:{{{uid(project)}}}:running", "nonce")
        return held.decode() if held else ""  # type: ignore[union-attr]

    # --- gates --------------------------------------------------------------------------------------------------------

    def close_gate(self, name: str) -> None:
        (self.gates / f"at-{name}").unlink(missing_ok=True)
        fresh = self.gates / "fresh"
        fresh.write_text(name)
        fresh.rename(self.gates / "stop-at")

    def open_gates(self) -> None:
        (self.gates / "stop-at").unlink(missing_ok=True)

    def waiting_at(self, name: str) -> int:
        """The horse that stands at a gate; 0 while none does."""
        try:
            pid = int((self.gates / f"at-{name}").read_text())
        except FileNotFoundError:
            return 0
        return pid if pid in processes() else 0

    def passages(self) -> list[tuple[float, int, str]]:
        """(when, process, gate) of everybody who came to a gate, in that order."""
        lines = (self.gates / "journal").read_text().splitlines()
        return [(float(at), int(pid), name) for at, pid, name in map(str.split, lines)]

    # --- processes ----------------------------------------------------------------------------------------------------

    @property
    def supervisor(self) -> int:
        assert self.backend.process is not None
        return self.backend.process.pid

    def named(self, what: str) -> list[int]:
        """The supervisor's children of one kind: ``valkey-server``, ``web``, ``clock``, ``work train`` …"""
        wanted = what if what == "valkey-server" else f"ml_backend.processes {what} "
        return [one.pid for one in below(self.supervisor) if one.parent == self.supervisor and wanted in one.command]

    def horses(self) -> list[int]:
        workers = set(self.named("work train"))
        return [one.pid for one in below(self.supervisor) if one.parent in workers]

    def keepers(self) -> list[int]:
        horses = set(self.horses())
        return [one.pid for one in below(self.supervisor) if one.parent in horses]

    def restart(self) -> None:
        """Wait until the tree is gone, then start the product again."""
        assert self.backend.process is not None
        self.backend.process.wait(30)
        self.backend.start()


class Annotators:
    """People who submit annotation after annotation; what is not answered with 2xx is sent again until it is."""

    def __init__(self, stage: Stage, *, every_s: float, tasks: int) -> None:
        self.stage = stage
        self.answered: list[int] = []
        self.repeated = 0
        self._every_s = every_s
        self._tasks = tasks
        self._stop = threading.Event()
        self._numbers = itertools.count(1)
        self._thread = threading.Thread(target=self._submit)

    def __enter__(self) -> Annotators:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _submit(self) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            tries = deliver(self.stage.backend.port, annotation(number, task=number % self._tasks + 1))
            self.repeated += tries - 1
            self.answered.append(number)
            time.sleep(self._every_s)


def deliver(port: int, body: dict[str, Any], within_s: float = 60.0) -> int:
    """Send a webhook until it is answered with 2xx; how often that took."""
    return asked(port, body, within_s)[0]


def asked(port: int, body: dict[str, Any], within_s: float = 60.0) -> tuple[int, Any]:
    """Send a webhook until it is answered with 2xx: how often that took, and the answer."""
    until = time.monotonic() + within_s
    for tries in itertools.count(1):
        status, answer = send(port, body)
        if 200 <= status < 300:
            return tries, answer
        assert time.monotonic() < until, f"not answered within {within_s:g} s: {status} {answer}"
        time.sleep(0.05)
    raise AssertionError


def send(port: int, body: dict[str, Any], timeout: float = 10.0) -> tuple[int, Any]:
    """(status, answer) of one webhook; status 0 when the connection broke."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", "/webhook", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return 0, repr(error)
    finally:
        connection.close()
