"""This installation: its processes, its own answers, its store, its packages and its model."""

from __future__ import annotations

import http.client
import importlib.metadata
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.connecting import own
from ml_backend.connecting.addresses import basic
from ml_backend.doctor.finding import Finding, note, ok, problem, unknown
from ml_backend.errors import RegistryError, Unavailable
from ml_backend.jobs import QUEUES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ml_backend.bootstrap import Services

LIMIT_S = 1.0
"""What Label Studio waits for a webhook's answer and for /health (fact 1)."""
_FELT_S = 0.25
_IDLE = {"train": "nothing is trained", "sync": "nothing is synced", "predict": "no predictions are sent"}
_LEAST = {"flask": (3, 0), "werkzeug": (3, 0)}


def processes(services: Services) -> Iterator[Finding]:
    """Web processes, workers and the clock, as Redis sees them."""
    try:
        web = services.web_processes()
        workers = {queue: services.jobs().workers(queue) for queue in QUEUES}
        clock = services.due().alive()
    except Unavailable:
        yield unknown("processes", "which processes live stands in Redis, which does not answer")
        return
    if web:
        yield ok("processes.web", f"{web} web {'process' if web == 1 else 'processes'}")
    else:
        yield problem("processes.web", "no web process lives", "start one: ml-backend start, or ml-backend serve")
    missing = [queue for queue, count in workers.items() if not count]
    if missing:
        yield problem(
            "processes.workers",
            f"no worker for {', '.join(missing)}: {' and '.join(_IDLE[queue] for queue in missing)}",
            "start workers (ml-backend start, or ml-backend worker); new ones need some seconds",
        )
    else:
        yield ok("processes.workers", ", ".join(f"{count} for {queue}" for queue, count in workers.items()))
    if clock:
        yield ok("processes.clock", "the clock ticks")
    else:
        yield problem(
            "processes.clock",
            "no clock ticks: nothing due is started and nothing lost is noticed",
            "start one: ml-backend start, or ml-backend worker",
        )


def answers(services: Services) -> Iterator[Finding]:
    """Whether the web server answers here, in the time that Label Studio gives it, and takes the present login."""
    this = own(services.settings)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"{this.here}/health", timeout=5).close()
    except (OSError, http.client.HTTPException) as error:
        address = services.settings.redis_url
        # Behind a Unix socket all are on this machine.
        if address is not None and not address.get_secret_value().startswith("unix:"):
            yield note("answers", f"no web server answers at {this.here}: it may run on another machine")
        else:
            yield problem("answers", f"no web server answers at {this.here}: {error}", "start it: ml-backend start")
        return
    request = urllib.request.Request(f"{this.here}/versions")  # noqa: S310 - our own address
    if this.login is not None:
        request.add_header("Authorization", basic(this.login))
    try:
        # One slow answer of three is a busy moment, not a fault.
        took = min(_timed(opener, request) for _ in range(3))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 401:
            yield problem(
                "answers",
                f"the web server at {this.here} refuses the login that this command knows",
                "run doctor with the same BASIC_AUTH_PASS and --data-dir as the backend",
            )
        else:
            yield problem("answers", f"{this.here} answers with {error.code}", "look at the backend's log")
        return
    except (OSError, http.client.HTTPException) as error:
        yield problem("answers", f"{this.here} stopped answering: {error}", "look at the backend's log")
        return
    if took > LIMIT_S:
        yield problem(
            "answers", f"it took {took:.2f} s to answer; Label Studio gives up after 1 s", "raise WORKERS or THREADS"
        )
    elif took > _FELT_S:
        yield note("answers", f"it took {took:.2f} s to answer, which annotators feel", "raise WORKERS or THREADS")
    else:
        yield ok("answers", f"the web server at {this.here} answers after {took * 1000:.0f} ms")


def _timed(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> float:
    began = time.monotonic()
    opener.open(request, timeout=10).close()
    return time.monotonic() - began


def store(services: Services) -> Iterator[Finding]:
    """Whether versions can be written, read and removed."""
    try:
        services.registry.probe()
    except RegistryError as error:
        yield problem("store", str(error), "correct ML_BACKEND_STORE, its credentials or its permissions")
        return
    shared = "://" in services.settings.store_url
    yield ok("store", f"versions can be kept in {services.settings.store_url if shared else _short(services)}")


def packages() -> Iterator[Finding]:
    """Libraries that another package pinned to what is too old (label-studio-ml 1.x pins a Flask of 2020)."""
    old = []
    for name, least in _LEAST.items():
        version = importlib.metadata.version(name)
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < least:
            old.append(f"{name} {version}")
    if old:
        yield problem(
            "packages",
            f"too old: {' and '.join(old)}; label-studio-ml 1.x pins them",
            "install without that pin: the docs' page 'Coming from label-studio-ml' says how",
        )
    else:
        yield ok("packages", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LEAST))


def model(services: Services) -> Iterator[Finding]:
    """Which model runs; that it could be imported is known by now."""
    yield ok("model", f"{services.model_class.__module__}:{services.model_class.__name__}")


def _short(services: Services) -> str:
    return str(Path(services.settings.store_url).absolute())
