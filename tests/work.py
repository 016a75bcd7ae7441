"""Work for worker processes under test: training functions that are slow, deaf, hold the interpreter or crash.

The environment says where Redis is and which kind of training it is; what happens is written to a log, a line each.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import itertools
import logging
import os
import signal
import sys
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ml_backend.errors import LeaseLost, RunCancelled, WorkerStopping
from ml_backend.jobs import Jobs
from ml_backend.lease import LeaseKeeper
from ml_backend.runs import Lease, Runs
from ml_backend.worker import Work, serve_queue


def connect() -> redis.Redis:
    patience = 0.4
    return redis.Redis(
        unix_socket_path=os.environ["TEST_SOCKET"],
        socket_timeout=patience,
        socket_connect_timeout=patience,
        retry=Retry(NoBackoff(), 0),
    )


def open_runs() -> Runs:
    return Runs(connect(), lease_s=float(os.environ["TEST_LEASE"]))


def note(*words: object) -> None:
    with Path(os.environ["TEST_LOG"]).open("a") as log:
        log.write(" ".join(str(word) for word in words) + "\n")


def train(worker: str, *, uid: str, run_id: str) -> None:
    """The way of one run, as short as it can be."""
    runs = open_runs()
    kind = os.environ["TEST_KIND"]
    if kind == "crashes-early":
        os.kill(os.getpid(), signal.SIGSEGV)
    lease = runs.start(uid, run_id, worker, runs.time())
    if lease is None:
        note("refused", os.getpid())
        return
    with LeaseKeeper(lease, open_runs, grace_s=0.5, method=os.environ["TEST_METHOD"]) as keeper:
        note("started", os.getpid(), keeper._pid)
        try:
            _train(kind, keeper)
        except WorkerStopping:
            runs.hand_back(lease, "its worker was asked to stop", runs.time())
            note("handed-back")
            _linger(runs, kind)
        except RunCancelled:
            runs.finish(lease, "cancelled", reason="cancelled", now=runs.time())
            note("cancelled")
            _linger(runs, kind)
        except LeaseLost:
            note("lost")
        else:
            _end(runs, lease, kind)


def _end(runs: Runs, lease: Lease, kind: str) -> None:
    if kind != "forgets":
        note("finished", runs.finish(lease, "succeeded", reason="trained", now=runs.time()))
    _linger(runs, kind)


def _linger(runs: Runs, kind: str) -> None:
    """Stay for longer than its keeper may look away, and for less than the worker waits for who ended by itself."""
    if kind == "lingers":
        time.sleep(2 * runs.lease_s)
        note("lingered")
    elif kind == "listens-and-lingers":
        time.sleep(0.45 * runs.lease_s)
        note("lingered")


def _train(kind: str, keeper: LeaseKeeper) -> None:
    if kind == "holds-the-lock":
        # A call through PyDLL keeps the interpreter's lock.
        ctypes.PyDLL(None).usleep(ctypes.c_uint(int(float(os.environ["TEST_LEASE"]) * 3e6)))
    elif kind == "hangs-in-c":
        collections.deque(itertools.repeat(0), maxlen=0)  # never returns, and never looks at signals
    elif kind == "crashes":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "exits":
        os._exit(3)
    elif kind == "deaf":
        _ignore_everything()
    elif kind == "has-a-child":
        _have_a_child()
    if kind in {"listens", "listens-and-lingers", "has-a-child"}:
        while True:
            keeper.stop_if_asked()
            time.sleep(0.02)


def _ignore_everything() -> None:
    while True:
        try:
            time.sleep(60)
        except WorkerStopping:
            note("ignored")


def _have_a_child() -> None:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    note("child", pid)


def open_work() -> Work:
    client = connect()
    return Work(
        runs=Runs(client, lease_s=float(os.environ["TEST_LEASE"])),
        jobs=Jobs(client),
        connect=connect,
        functions={"train": train, "note": lambda worker, text: note("noted", text)},
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(process)d %(name)s %(message)s", stream=sys.stderr)
    spawned = os.environ["TEST_METHOD"] == "spawn"
    work = functools.partial(open_work) if not spawned else __import__("tests.work", fromlist=["open_work"]).open_work
    serve_queue(sys.argv[1], work, spawn=spawned, burst=sys.argv[2:] == ["burst"], grace_s=0.7, overtime_s=1.0)  # type: ignore[arg-type]
