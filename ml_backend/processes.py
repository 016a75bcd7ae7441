"""What each process of the tree runs: ``python -P -m ml_backend.processes`` and one of the names in `main`.

Settings come through the environment, secrets too: a command line can be read by everybody.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ml_backend import heap
from ml_backend.connecting.addresses import in_url
from ml_backend.demo import Place
from ml_backend.errors import RefitError, Unavailable
from ml_backend.logs import set_up_logs
from ml_backend.secret_files import read_secret_files
from ml_backend.settings import Settings
from ml_backend.supervisor import HOPELESS

if TYPE_CHECKING:
    from ml_backend.jobs import Queue

log = logging.getLogger("ml_backend")

PRIVATE = 0o077
"""The umask of every process: what they write (training sets, models, logs) is its owner's alone."""
QUEUES = ("train", "sync", "predict")
MEDIA_EVERY_S = 30.0
"""How soon the cached files of what was deleted in Label Studio go."""


def web(settings: Settings) -> None:
    """Serve Label Studio's calls."""
    from ml_backend.web.server import serve  # noqa: PLC0415 - gunicorn is for this process alone

    def make_app() -> object:
        from ml_backend.bootstrap import make_services  # noqa: PLC0415 - in the web process, after the fork
        from ml_backend.web import create_app  # noqa: PLC0415

        # Fewer than half of the threads: the others are for events, and for clients with long bodies.
        waiters = max(1, settings.threads // 2 - 1)
        services = make_services(settings, models=settings.predict == "web", media_waiters=waiters)
        services.server.start()
        return create_app(services)

    heap.share(os.environ)
    serve(
        make_app,  # type: ignore[arg-type]
        bind=f"{in_url(settings.host)}:{settings.port}",
        workers=settings.web_workers,
        threads=settings.threads,
        log_level=settings.log_level.lower(),
    )


def clock(settings: Settings) -> None:
    """Tick until told to stop. Redis may come and go meanwhile."""
    from ml_backend.bootstrap import PATIENT_TIMEOUT_S, make_services  # noqa: PLC0415 - not for the other processes
    from ml_backend.state.due import BEAT_S  # noqa: PLC0415

    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stop.set())
    services = make_services(settings, timeout_s=PATIENT_TIMEOUT_S)
    ticking, syncs, due = services.clock(), services.syncs(), services.due()
    away = started = False
    sweep_at = 0.0
    beat_at = 0.0
    while not stop.wait(settings.tick):
        try:
            if not started:
                syncs.start_up(time.time())
                started = True
            if time.monotonic() >= beat_at:
                due.beat()
                beat_at = time.monotonic() + BEAT_S
            # Leases are in Redis's time: a machine whose clock is ahead must not take them for expired.
            ticking.tick(services.runs.time())
            if time.monotonic() >= sweep_at:
                sweep_at = time.monotonic() + MEDIA_EVERY_S
                services.media.sweep()
            if away:
                log.warning("clock: Redis answers again")
            away = False
        except Unavailable as error:
            if not away:
                log.warning("clock: %s", error)
            away = True


def work(settings: Settings, queue: Queue) -> None:
    """Carry out the jobs of one queue."""
    from ml_backend.worker import run_worker  # noqa: PLC0415 - RQ and the model's libraries

    run_worker(settings, queue)


def plain(settings: Settings, descriptor: int) -> None:
    """Be the process of a plain class, for whoever holds the other end of that socket."""
    from ml_backend.bootstrap import PATIENT_TIMEOUT_S, connect  # noqa: PLC0415 - not for the other processes
    from ml_backend.plain.child import serve  # noqa: PLC0415
    from ml_backend.plain_state import PlainState  # noqa: PLC0415

    serve(descriptor, PlainState(connect(settings, timeout_s=PATIENT_TIMEOUT_S), settings.redis_prefix).values)


def demo(settings: Settings, what: str, place: Place) -> None:
    """What `ml-backend quickstart` runs beside the rest."""
    if what == "label-studio":
        from ml_backend.demo.server import become  # noqa: PLC0415 - for these processes alone

        become(place, os.environ)
    from ml_backend.bootstrap import PATIENT_TIMEOUT_S, make_services  # noqa: PLC0415
    from ml_backend.demo import steps  # noqa: PLC0415

    if what == "login":
        steps.log_in(place)
    else:
        steps.set_up(place, make_services(settings, timeout_s=PATIENT_TIMEOUT_S))


def predictor(settings: Settings) -> None:
    """Make the predictions that web processes ask for, until told to stop."""
    from ml_backend.bootstrap import PATIENT_TIMEOUT_S, make_services  # noqa: PLC0415 - not for the other processes

    heap.share(os.environ)
    working = make_services(settings, timeout_s=PATIENT_TIMEOUT_S).predict_worker()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: working.stop())
    working.run()


def main(argv: list[str]) -> int:
    """Run one process; 78 tells the supervisor that trying again would end the same way."""
    os.umask(PRIVATE)
    try:
        if argv[:1] != ["label-studio"]:
            read_secret_files(os.environ)
        settings = Settings.from_environment(os.environ)
        set_up_logs(settings.log_level)
        if argv[:1] == ["web"]:
            web(settings)
        elif argv[:1] == ["clock"]:
            clock(settings)
        elif argv[:1] == ["predictor"]:
            predictor(settings)
        elif argv[:1] == ["work"] and argv[1:] in ([queue] for queue in QUEUES):
            work(settings, cast("Queue", argv[1]))
        elif argv[:1] == ["plain"] and argv[1:2] and argv[1].isdecimal():
            plain(settings, int(argv[1]))
        elif argv[:1] in (["label-studio"], ["login"], ["project"]) and len(argv) == 3:
            demo(settings, argv[0], Place(Path(argv[1]), int(argv[2])))
        else:
            log.error("no such process: %s", " ".join(argv))
            return HOPELESS
    except RefitError as error:
        log.error("%s", error)  # noqa: TRY400 - an error made for people needs no traceback
        return HOPELESS
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
