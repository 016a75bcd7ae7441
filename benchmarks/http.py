"""Label Studio's calls beside bare Flask: webhook, big event, setup, health; p99 idle and while a run trains.

Usage: python -m benchmarks.http [--json] [--short] [--rounds N] [--only webhook|training|big|setup]
"""

from __future__ import annotations

import contextlib
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import (
    PASSWORD,
    USER,
    Options,
    Row,
    Server,
    alternate,
    bare,
    compared,
    folder,
    options,
    report,
    seconds,
    serve,
    single,
    valkey,
)
from benchmarks.load import Load, Request, ask, load, numbered
from tests import samples
from tests.running import RunningBackend, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BARE = "benchmarks.bare:app"
PARTS = ("webhook", "training", "big", "setup")
GOALS = {"always": 0.40, "everysec": 0.70}
NO_TRAINING = {"ML_BACKEND_RETRAIN_MIN_ANNOTATIONS": "1000000"}
BURNER = f"{Path(__file__).with_name('burner.py')}:Burner"


def recorded(name: str) -> dict[str, Any]:
    """A recorded request's body."""
    return next(request.body for request in samples.requests() if request.name == name and request.body is not None)


def created(*, new: bool) -> Request:
    """The recorded ANNOTATION_CREATED: the same over and over, or each time another annotation of another task."""
    body = recorded("08-annotation-created")
    paths = ("annotation.id", "annotation.task", "task.id") if new else ()
    return Request("POST", "/webhook", numbered(body, *paths))


class Loaded:
    """Sends a request to a server in rounds; numbers go on where the last round stopped; keeps the worst p99s."""

    def __init__(self, server: Server | RunningBackend, request: Request, seconds: float) -> None:
        self.port = server.port
        self._server = server
        self._request = request
        self._seconds = seconds
        self._sent = 0
        self.p99: list[float] = []
        self.median: list[float] = []
        self.cpu_us: list[float] = []

    def __call__(self) -> float:
        before = self._server.cpu_seconds() if isinstance(self._server, Server) else 0.0
        found: Load = load(self.port, self._request, self._seconds, start=self._sent)
        after = self._server.cpu_seconds() if isinstance(self._server, Server) else 0.0
        self.cpu_us.append(1e6 * (after - before) / found.requests)
        self._sent += 2 * found.requests
        self.p99.append(found.p99_ms)
        self.median.append(found.median_ms)
        return found.per_second


@contextlib.contextmanager
def servers(*, fsyncs: tuple[str, ...] = ("always", "everysec")) -> Iterator[dict[str, Server]]:
    """Ours on a private Valkey of each mode, and the bare one. Without workers: nothing trains."""
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(folder())
        found: dict[str, Server] = {}
        for mode in fsyncs:
            (where / mode).mkdir()
            redis, pid = stack.enter_context(valkey(where / mode / "valkey", mode))
            found[mode] = stack.enter_context(serve(where / mode, redis.url, more=NO_TRAINING))
            found[mode].with_it.append(pid)
        found["bare"] = stack.enter_context(bare(where, BARE))
        yield found


def fdatasync(where: Path, times: int) -> list[float]:
    """Milliseconds of each small write that is on the disk: what ``appendfsync always`` waits for at the least."""
    found = []
    with (where / "fdatasync").open("wb", buffering=0) as file:
        for _ in range(times):
            file.write(b"x" * 1000)
            found.append(1000 * seconds(lambda: os.fdatasync(file.fileno())))
    return found


def webhook(chosen: Options, running: dict[str, Server]) -> list[Row]:
    """Requests per second and p99, idle but for this load; and the disk's own part in ``always``."""
    disk: list[float] = []
    length, rows = (0.2 if chosen.short else 2.0), []
    for title, new in (("the same annotation", False), ("new annotations", True)):
        if chosen.short and not new:
            continue
        measures = {name: Loaded(server, created(new=new), length) for name, server in running.items()}
        for measure in measures.values():
            load(measure.port, created(new=False), length)  # the first requests open connections and load scripts
        found = alternate(chosen.rounds, **measures)
        with folder() as where:
            disk += fdatasync(where, 20 if chosen.short else 200)
        bare_p99 = statistics.median(measures["bare"].p99)
        for mode in ("always", "everysec"):
            p99 = statistics.median(measures[mode].p99)
            rows += [
                compared(
                    f"webhook, {title}, {mode}",
                    found[mode],
                    found["bare"],
                    "requests/s",
                    at_least=GOALS[mode],
                    note=f"{_beside_the_best(found[mode], found['bare'])}; its p99 {bare_p99:.1f} ms",
                ),
                compared(
                    f"webhook, {title}, {mode}: CPU",
                    measures[mode].cpu_us,
                    measures["bare"].cpu_us,
                    "us a request",
                    note="web and Valkey together",
                ),
                single(f"webhook p99, {title}, {mode}", [p99], "ms", at_most=25),
            ]
    note = f"slowest in a hundred {sorted(disk)[int(0.99 * len(disk))]:.1f} ms; always waits for one with each event"
    return [*rows, single("one fdatasync of this disk", disk, "ms", note=note)]


def _beside_the_best(ours: list[float], bare: list[float]) -> str:
    """In some rounds one of gunicorn's two processes takes all connections, which halves the peer's rate."""
    return f"beside bare's best round, {max(bare):,.0f}/s: {statistics.median(ours) / max(bare):.2f}"


def training(chosen: Options) -> list[Row]:
    """p99 of the webhook while a run trains that uses a whole core, on a complete ``ml-backend start``."""
    with folder() as where:
        given = {"BASIC_AUTH_USER": USER, "BASIC_AUTH_PASS": PASSWORD, "ML_BACKEND_RETRAIN_QUIET": "0"}
        (where / "data").mkdir()
        with RunningBackend(where / "data", arguments=[BURNER], environment=given) as backend:
            event = created(new=False)
            ask(backend.port, "POST", "/webhook", event.body)
            uid = "2.1795333883"
            status, answer = ask(
                backend.port,
                "POST",
                "/webhook",
                {"action": "START_TRAINING", "project": recorded("17-start-training")["project"]},
            )
            job = answer["job"]

            def trains() -> bool:
                return bool(ask(backend.port, "POST", "/job_status", {"job": job})[1]["job_status"] == "started")

            wait_until(trains, 30, f"the run {job} of {uid} trains; {status} {answer}")
            loaded = Loaded(backend, created(new=True), 0.2 if chosen.short else 3.0)
            rates = [loaded() for _ in range(chosen.rounds)]
            if not trains():
                raise RuntimeError("the run ended before the measurement")
            return [
                single("webhook p99, while a run trains, always", loaded.p99, "ms", at_most=100),
                single("webhook, while a run trains, always", rates, "requests/s"),
            ]


def big(chosen: Options, running: dict[str, Server]) -> list[Row]:
    """The recorded import of 5,000 tasks, one at a time."""
    body = samples.import_of_5000()

    def once(server: Server) -> Callable[[], float]:
        def measure() -> float:
            took = seconds(lambda: said.append(ask(server.port, "POST", "/webhook", body)[0]))
            if said.pop() >= 300:
                raise RuntimeError("the big event was refused")
            return 1000 * took

        said: list[int] = []
        return measure

    found = alternate(
        3 if chosen.short else max(15, chosen.rounds), **{name: once(one) for name, one in running.items()}
    )
    return [
        compared(f"big event of 5,000 tasks, {mode}", found[mode], found["bare"], "ms", at_most=0.6)
        for mode in ("always", "everysec")
    ]


def setup(chosen: Options, running: dict[str, Server]) -> list[Row]:
    """/setup and /health."""
    rows = []
    for path, request in (
        ("/setup", Request("POST", "/setup", numbered(recorded("02-post-setup")))),
        ("/health", Request("GET", "/health")),
    ):
        measures = {name: Loaded(server, request, 0.2 if chosen.short else 3.0) for name, server in running.items()}
        found = alternate(chosen.rounds, **measures)
        modes = ("always", "everysec") if path == "/setup" else ("always",)
        for mode in modes:
            what = f"{path}, {mode}" if path == "/setup" else path
            rows.append(compared(what, found[mode], found["bare"], "requests/s", at_least=0.5))
    return rows


def measured(chosen: Options) -> list[Row]:
    """The parts that are wanted."""
    rows: list[Row] = []
    if chosen.only != {"training"}:
        with servers() as running:
            for name, part in (("webhook", webhook), ("big", big), ("setup", setup)):
                if chosen.wants(name):
                    rows += part(chosen, running)
    if chosen.wants("training"):
        rows += training(chosen)
    return rows


def main() -> None:
    """The command."""
    chosen = options(__doc__, parts=PARTS)
    report("Label Studio's calls beside bare Flask, 2 processes of 8 threads, 4 connections", measured(chosen), chosen)


if __name__ == "__main__":
    main()
