"""A soak: steady events, predictions and retrainings for minutes, and whether anything grows that should not.

A whole ``ml-backend start`` serves a project whose annotators never stop: they label, relabel, skip, delete and label
again among a fixed number of tasks, so that nothing has a reason to grow. Every few seconds the resident memory and the
open files of every process that stays, and Redis' memory, are read; after a warm-up a line is fitted through them. At
the end the kept counters are held against the annotators' own books.
Linux only. Usage: python -m benchmarks.soak [--minutes 10] [--json] [--short]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import math
import random
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import redis

from benchmarks.common import PASSWORD, USER, Options, Row, folder, report
from benchmarks.fed import UID, config_of, predict_body
from benchmarks.load import AUTHORIZATION
from benchmarks.memory import socket_of
from benchmarks.processes import command, tree
from ml_backend.bootstrap import make_services
from ml_backend.settings import Settings
from tests.running import RunningBackend, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LABELS = ("good", "bad", "neither")
TASKS = 400
EVENTS_PER_S, PREDICTIONS_PER_S = 10, 1
WARM_UP = 0.4
"""The share of the time that nothing is fitted to: libraries load, allocators fill, the first versions are made."""
MOST_GROWTH = 0.05
"""Of what a process holds, over the time that is looked at; what is below 2 MB is no growth."""
SMALL_MB = 2.0


@dataclass
class Annotators:
    """What they have done, as Label Studio would count it. One of them at a time."""

    dice: random.Random = field(default_factory=lambda: random.Random(8))
    number: int = 0
    labels: dict[int, tuple[str, bool]] = field(default_factory=dict)
    """By task: its one annotation's label, and whether it was skipped."""

    def act(self) -> bytes:
        """The next event: half of them label or relabel, some skip, some delete."""
        self.number += 1
        task = self.dice.randrange(1, TASKS + 1)
        if task in self.labels and self.dice.random() < 0.15:
            del self.labels[task]
            return self._body("ANNOTATIONS_DELETED", annotations=[{"id": task}])
        action = "ANNOTATION_UPDATED" if task in self.labels else "ANNOTATION_CREATED"
        label, skipped = self.dice.choice(LABELS), self.dice.random() < 0.1
        if action == "ANNOTATION_CREATED":
            self.created[task] = self._time()
        self.labels[task] = (label, skipped)
        region = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
        dates = {"created_at": self.created[task], "updated_at": self._time()}
        data = {"text": f"text {task} of a {label} kind, {'very ' * (task % 7)}much so"}
        return self._body(
            action,
            annotation={"id": task, "task": task, "result": [region], "was_cancelled": skipped, **dates},
            task={"id": task, "data": data, "created_at": _START, "updated_at": _START},
        )

    def __post_init__(self) -> None:
        self.created: dict[int, str] = {}

    def _time(self) -> str:
        return f"2026-11-22T{8 + self.number // 3600 % 16:02}:{self.number // 60 % 60:02}:{self.number % 60:02}Z"

    def _body(self, action: str, **more: Any) -> bytes:
        skipped = sum(1 for _, cancelled in self.labels.values() if cancelled)
        done = len(self.labels) - skipped
        counters = {
            "task_number": TASKS,
            "finished_task_number": len(self.labels),
            "total_predictions_number": 0,
            "total_annotations_number": done,
            "num_tasks_with_annotations": done,
            "useful_annotation_number": done,
            "ground_truth_number": 0,
            "skipped_annotations_number": skipped,
        }
        project = {"id": 2, "created_at": _CREATED, "title": "soak", "label_config": config_of(LABELS), **counters}
        return orjson.dumps({"action": action, "project": project, **more})


_CREATED, _START = "2026-11-22T07:51:23.096964Z", "2026-11-22T07:52:00Z"


@dataclass
class Load:
    """Steady requests from one connection: due at fixed times, whatever became of the one before."""

    port: int
    stop: threading.Event = field(default_factory=threading.Event)
    sent: int = 0
    repeated: int = 0
    failed: list[str] = field(default_factory=list)
    took: list[float] = field(default_factory=list)

    def keep_sending(self, path: str, per_s: float, body: Callable[[], bytes]) -> None:
        """Until told to stop. What is answered with 503 is sent again, as the order of events must stay."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json", "Authorization": AUTHORIZATION}
        began = time.monotonic()
        while not self.stop.wait(max(0.0, began + self.sent / per_s - time.monotonic())):
            what = body()
            at = time.monotonic()
            while True:
                connection.request("POST", path, what, headers)
                answer = connection.getresponse()
                said = answer.read()
                if answer.status != 503:
                    break
                self.repeated += 1
                time.sleep(0.1)
            self.took.append(time.monotonic() - at)
            self.sent += 1
            if self.sent % 20 == 0:
                connection.close()  # the next one may be another web process's
            if answer.status != 200:
                self.failed.append(f"{answer.status} {said[:100]!r}")
        connection.close()


@dataclass
class Course:
    """What was seen of one process (or of Redis) over time."""

    what: str
    at: list[float] = field(default_factory=list)
    mb: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def after(self, moment: float) -> tuple[list[float], list[float], list[int]]:
        """(seconds, MB, files) from a moment on."""
        first = next((number for number, at in enumerate(self.at) if at >= moment), len(self.at))
        return self.at[first:], self.mb[first:], self.files[first:]


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """How much a line through them rises in a second."""
    return statistics.linear_regression(at, values).slope if len(set(at)) > 1 else 0.0


def standard_error(at: Sequence[float], values: Sequence[float]) -> float:
    """That of the slope, as if what was read did not depend on what was read before."""
    if len(set(at)) < 3:
        return 0.0
    line = statistics.linear_regression(at, values)
    left = [value - line.intercept - line.slope * moment for moment, value in zip(at, values, strict=True)]
    return math.sqrt(sum(one**2 for one in left) / (len(at) - 2) / (statistics.pvariance(at) * len(at)))


def look(backend: RunningBackend, client: redis.Redis, courses: dict[str, Course], now: float) -> None:
    """Read everything once. Horses come and go: only who stays is followed."""
    assert backend.process is not None
    supervisor = backend.process.pid
    pids = [supervisor]
    for pid in tree(supervisor)[1:]:
        parent = _parent(pid)
        if parent == supervisor or command(parent).endswith("processes web"):
            pids.append(pid)
    for pid in pids:
        with contextlib.suppress(OSError):  # gone meanwhile
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            name = f"{_name(command(pid))} ({pid})"
            course = courses.setdefault(name, Course(name))
            course.at.append(now)
            course.mb.append(resident)
            course.files.append(files)
    course = courses.setdefault("Redis, used memory", Course("Redis, used memory"))
    info = client.info()
    course.at.append(now)
    course.mb.append(int(info["used_memory"]) / 2**20)
    course.files.append(int(info["connected_clients"]))


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _name(line: str) -> str:
    if "valkey-server" in line or "redis-server" in line:
        return "valkey"
    return line.rpartition("ml_backend.processes ")[2] if "ml_backend.processes" in line else "supervisor"


def measured(minutes: float, chosen: Options) -> list[Row]:
    """One backend, soaked."""
    seconds = minutes * 60
    told = {
        "BASIC_AUTH_USER": USER,
        "BASIC_AUTH_PASS": PASSWORD,
        "ML_BACKEND_RETRAIN_EVERY": "50",
        "ML_BACKEND_RETRAIN_GROWTH": "0",
        "ML_BACKEND_RETRAIN_QUIET": "0.5",
        "ML_BACKEND_RETRAIN_MAX_WAIT": "2",
        "ML_BACKEND_RETRAIN_MIN_INTERVAL": "3" if chosen.short else "10",
    }
    with folder() as where:
        (where / "data").mkdir()
        with RunningBackend(where / "data", environment=told) as backend:
            return _soaked(backend, seconds, chosen)


def _soaked(backend: RunningBackend, seconds: float, chosen: Options) -> list[Row]:
    people = Annotators()
    texts = [f"text {number} of a {LABELS[number % 3]} kind" for number in range(20)]
    events, predictions = Load(backend.port), Load(backend.port)
    body = predict_body(texts, config_of(LABELS))
    threads = [
        threading.Thread(target=events.keep_sending, args=("/webhook", EVENTS_PER_S, people.act)),
        threading.Thread(target=predictions.keep_sending, args=("/predict", PREDICTIONS_PER_S, lambda: body)),
    ]
    courses: dict[str, Course] = {}
    socket = socket_of(backend)  # type: ignore[arg-type]
    settings = Settings.from_environment(
        {"REDIS_URL": f"unix://{socket}", "ML_BACKEND_DATA_DIR": str(backend.data_dir)}
    )
    services = make_services(settings, timeout_s=5.0)
    with redis.Redis(unix_socket_path=str(socket)) as client:
        for thread in threads:
            thread.start()
        started, began = time.time(), time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            look(backend, client, courses, now)
            time.sleep(min(1.0 if chosen.short else 3.0, max(0.0, seconds - now)))
        events.stop.set()
        predictions.stop.set()
        for thread in threads:
            thread.join()
        standing = services.runs.standing
        wait_until(lambda: not (standing(UID).running or standing(UID).waiting), 120, "the last run is over")
        wait_until(lambda: services.runs.history(UID, 1), 60, "a run came of it")
    runs = services.runs.history(UID, 200)
    project = services.state.load(UID)
    services.close()
    if project is None:
        raise RuntimeError("the project is not known")
    skipped = sum(1 for _, cancelled in people.labels.values() if cancelled)
    done = len(people.labels) - skipped
    wanted = {
        "total_annotations_number": done,
        "num_tasks_with_annotations": done,
        "useful_annotation_number": done,
        "ground_truth_number": 0,
        "skipped_annotations_number": skipped,
    }
    differ = {
        name: (project.counters[name], value) for name, value in wanted.items() if project.counters[name] != value
    }
    failed = [*events.failed, *predictions.failed, *(one.error for one in runs if one.status != "succeeded")]
    rows = [
        Row(
            "events taken",
            events.sent,
            "events",
            note=f"median {1000 * statistics.median(events.took):.1f} ms, {events.repeated} sent again after a 503",
        ),
        Row(
            "requests for 20 predictions", predictions.sent, "requests", note=f"{len(failed)} failed {failed[:2] or ''}"
        ),
        Row("failed requests and runs", len(failed), "", goal="0", met=not failed),
        Row("trainings", len(runs), "runs"),
        Row("counters that differ at the end", len(differ), "of 5", goal="0", met=not differ, note=str(differ or "")),
    ]
    late = sum((one.ended_at or 0.0) > started + WARM_UP * seconds for one in runs)
    return rows + [row for course in courses.values() for row in _rows(course, seconds, late, chosen)]


def _rows(course: Course, seconds: float, trainings: int, chosen: Options) -> list[Row]:
    at, mb, files = course.after(WARM_UP * seconds)
    if len(at) < 3:
        return [Row(f"{course.what}: gone or new", len(at), "looks", note="restarted meanwhile?", met=chosen.short)]
    rise = slope(at, mb) * (at[-1] - at[0])
    allowed = max(SMALL_MB, MOST_GROWTH * statistics.median(mb))
    per_hour, error = slope(at, mb) * 3600, standard_error(at, mb) * 3600
    opened = slope(at, files) * (at[-1] - at[0])
    return [
        Row(
            course.what,
            statistics.median(mb),
            "MB",
            goal=f"rises by <= {allowed:.1f}",
            met=None if chosen.short else rise <= allowed,
            note=f"{rise:+.2f} MB in {at[-1] - at[0]:.0f} s ({per_hour:+.1f} ± {error:.1f} MB/h, "
            f"{1024 * rise / max(1, trainings):+.1f} KB for each of {trainings} trainings); "
            f"{min(files)} to {max(files)} files or clients ({opened:+.1f})",
        ),
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--short", action="store_true", help="a smoke test of some seconds: that it works")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: %(default)g)")
    given = parser.parse_args()
    chosen = Options(1, given.short, given.json)
    report("Soak", measured(0.25 if given.short else given.minutes, chosen), chosen)


if __name__ == "__main__":
    main()
