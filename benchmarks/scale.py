"""More and more processes on one Redis: events a second, and runs a minute, with 1, 2 and 4 of them.

Everything shares one machine, so the cores are soon used up; what tells is the CPU that an event and a run cost in each
part. Redis is the part that cannot be doubled: the CPU that it needs for one says how many there can be at most.
Usage: python -m benchmarks.scale [--json] [--short] [--rounds N] [--only events|runs]
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.common import ROOT, Options, Row, environment, folder, options, report, seconds, serve, valkey
from benchmarks.http import NO_TRAINING, created
from benchmarks.load import ask, load
from benchmarks.processes import cpu_seconds, settled
from tests.faults.stage import annotation, click
from tests.running import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNTS = (1, 2, 4)
PARTS = ("events", "runs")
PROJECTS, LABELS = 12, 20
CONNECTIONS = 8


def events(chosen: Options) -> list[Row]:
    """New annotations from 8 connections on 1, 2 and 4 web processes; ``always``, as a private Valkey has it."""
    rows, sent = [], 0
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(folder())
        redis, pid = stack.enter_context(valkey(where / "valkey"))
        for count in COUNTS[:1] if chosen.short else COUNTS:
            rates, web_us, redis_us = [], [], []
            (where / str(count)).mkdir()
            with serve(where / str(count), redis.url, more={**NO_TRAINING, "WORKERS": str(count)}) as server:
                load(server.port, created(new=False), 0.2 if chosen.short else 1.0)
                for _ in range(chosen.rounds):
                    before = cpu_seconds(server.process.pid), cpu_seconds(pid)
                    length_s = 0.2 if chosen.short else 3.0
                    found = load(server.port, created(new=True), length_s, connections=CONNECTIONS, start=sent)
                    after = cpu_seconds(server.process.pid), cpu_seconds(pid)
                    sent += 2 * found.requests
                    rates.append(found.per_second)
                    web_us.append(1e6 * (after[0] - before[0]) / found.requests)
                    redis_us.append(1e6 * (after[1] - before[1]) / found.requests)
            used = (
                f"CPU of an event: web {statistics.median(web_us):.0f} us, Redis {statistics.median(redis_us):.0f} us"
            )
            what = f"events, {count} web process{'es' if count > 1 else ''}"
            rows.append(Row(what, statistics.median(rates), "a second", note=used))
            rows.append(_limit(f"  Redis alone could take, {count}", statistics.median(redis_us), 1, "a second"))
    return rows


def runs(chosen: Options) -> list[Row]:
    """A click in each of 12 projects with 20 labels of the shipped model, on 1, 2 and 4 processes that train."""
    rows = []
    projects = range(1, (2 if chosen.short else PROJECTS) + 1)
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(folder())
        redis, pid = stack.enter_context(valkey(where / "valkey"))
        server = stack.enter_context(serve(where, redis.url, more={**NO_TRAINING, "WORKERS": "1"}))
        for project in projects:
            for number in range(LABELS):
                _asked(server.port, "/webhook", annotation(1000 * project + number, project=project))
        for count in COUNTS[:1] if chosen.short else COUNTS:
            with _workers(where, redis.url, count) as worker:
                _train(server.port, projects[:1])  # the first one waits for the workers to be there
                settled(worker)
                rates, worker_s, redis_us = [], [], []
                for _ in range(chosen.rounds):
                    before = cpu_seconds(pid)
                    took = seconds(lambda: _train(server.port, projects))
                    rates.append(60 * len(projects) / took)
                    redis_us.append(1e6 * (cpu_seconds(pid) - before) / len(projects))
                    worker_s.append(took * count / len(projects))
            redis_ms = statistics.median(redis_us) / 1000
            used = f"{statistics.median(worker_s):.2f} s of a worker each; CPU of Redis {redis_ms:.1f} ms"
            what = f"runs, {count} worker{'s' if count > 1 else ''}"
            rows.append(Row(what, statistics.median(rates), "a minute", note=used))
            rows.append(_limit(f"  Redis alone could take, {count}", statistics.median(redis_us), 60, "a minute"))
    return rows


def _limit(what: str, redis_us: float, times: int, unit: str) -> Row:
    # A clock tick of 10 ms may be all that a short measurement sees.
    return Row(what, times * 1e6 / max(redis_us, 1.0), unit)


@contextlib.contextmanager
def _workers(where: Path, redis_url: str, count: int) -> Iterator[int]:
    """``ml-backend worker`` with so many processes that train; its process id."""
    told = {
        "REDIS_URL": redis_url,
        "ML_BACKEND_DATA_DIR": str(where / "data"),
        "ML_BACKEND_TRAIN_WORKERS": str(count),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **NO_TRAINING,
    }
    with (where / "worker.log").open("ab") as out:
        argv = [sys.executable, "-P", "-m", "ml_backend.cli", "worker"]
        process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, env=environment(told), cwd=ROOT)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def _train(port: int, projects: range) -> None:
    """Click on Start Training in every project, and wait until all have been trained."""
    waiting = [_asked(port, "/webhook", click(project))["job"] for project in projects]

    def over() -> bool:
        while waiting:
            said = _asked(port, "/job_status", {"job": waiting[0]})
            if said["job_status"] in ("queued", "started"):
                return False
            if said["job_status"] != "finished":
                raise RuntimeError(f"a run did not succeed: {said}")
            del waiting[0]
        return True

    wait_until(over, 120, "all runs are over", every_s=0.02)


def _asked(port: int, path: str, body: dict[str, object]) -> dict[str, str]:
    status, answer = ask(port, "POST", path, body)
    if status >= 300:
        raise RuntimeError(f"{path}: {status} {answer}")
    return dict(answer)


def measured(chosen: Options) -> list[Row]:
    """The parts that are wanted."""
    rows = events(chosen) if chosen.wants("events") else []
    return rows + (runs(chosen) if chosen.wants("runs") else [])


def main() -> None:
    """The command."""
    chosen = options(__doc__, parts=PARTS, rounds=3)
    report("More processes on one Redis", measured(chosen), chosen)


if __name__ == "__main__":
    main()
