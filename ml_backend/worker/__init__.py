"""The worker: a process that carries out the jobs of one queue, each in a horse (a child process) of its own."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import time
from typing import TYPE_CHECKING

import redis.exceptions

from ml_backend.bootstrap import PATIENT_TIMEOUT_S, connect, make_services
from ml_backend.settings import Settings
from ml_backend.stepping_back import step_back
from ml_backend.worker.carrier import Carrier, SpawningCarrier
from ml_backend.worker.horse import Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_backend.jobs import Queue

__all__ = ["Work", "open_work", "run_worker", "serve_queue"]

log = logging.getLogger(__name__)

_PATIENCE_S = 0.5
_BEHIND = 10
"""Who annotates waits for Label Studio and for this server; nobody for a run, or for predictions of tasks that nobody
has opened: on a machine that does all of it these come last."""


def run_worker(settings: Settings, queue: Queue, *, burst: bool = False) -> None:
    """Carry out the jobs of a queue until SIGTERM or SIGINT; with ``burst``, until it is empty.

    The model's libraries are loaded here, once, so that a forked horse starts at once. Raises `ModelNotFound`.
    """
    if settings.worker == "spawn":
        serve_queue(queue, open_work_of_environment, spawn=True, burst=burst)
        return
    model_class = make_services(settings).model_class
    for module in model_class.preload if queue == "train" else ():
        importlib.import_module(module)
    serve_queue(queue, functools.partial(open_work, settings), burst=burst)


def serve_queue(
    queue: Queue,
    work: Callable[[], Work],
    *,
    spawn: bool = False,
    burst: bool = False,
    grace_s: float = 5.0,
    overtime_s: float = 30.0,
) -> None:
    """Be the worker process of a queue. `work` is called here and in each horse; importable when horses are spawned."""
    _wait_for_redis(work)
    (SpawningCarrier if spawn else Carrier)(queue, work, grace_s=grace_s, overtime_s=overtime_s).serve(burst=burst)


def open_work(settings: Settings) -> Work:
    """What the product's workers do, with clients that wait for a slow Redis longer than the web does."""
    services = make_services(settings, timeout_s=PATIENT_TIMEOUT_S)

    def train(worker: str, *, uid: str, run_id: str) -> None:
        services.trainer(behind=_BEHIND).run(uid, run_id, worker)

    def refresh(_worker: str, *, uid: str) -> None:
        step_back(_BEHIND)
        services.refresher().run(uid)

    def sync(_worker: str, *, uid: str) -> None:
        services.syncer().sync(uid)

    return Work(
        runs=services.runs,
        jobs=services.jobs(),
        connect=functools.partial(connect, settings, timeout_s=PATIENT_TIMEOUT_S),
        functions={"train": train, "sync": sync, "refresh": refresh},
    )


def open_work_of_environment() -> Work:
    """The same for a spawned horse, which knows nothing but its environment."""
    return open_work(Settings.from_environment(os.environ))


def _wait_for_redis(work: Callable[[], Work]) -> None:
    """A worker may be started before its Redis; that is no reason to give up."""
    told = False
    with work().connect() as client:
        while True:
            try:
                client.ping()
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
                if not told:
                    log.warning("waiting for Redis: %s", error)
                told = True
                time.sleep(_PATIENCE_S)
            else:
                return
