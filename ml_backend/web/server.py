"""The gunicorn runner: web processes with threads, each with an application of its own, and nothing not asked for."""

import errno
import gc
import logging
import os
import resource
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from ml_backend import heap, lifeline
from ml_backend.errors import RefitError, SettingsError
from ml_backend.supervisor import HOPELESS
from ml_backend.web.connections import PatientWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIApplication

_BACKLOG = 1024
_CONNECTIONS = 400  # per web process; each may hold 128 KiB that was read ahead
_DESCRIPTORS = 4096
_RELEASE_S = 3.0
_COLLECT = (20_000, 20, 50)  # new objects, and generations of them, before Python looks for cycles
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # "localhost" names an IPv6 address also where there is no IPv6
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # gunicorn makes its heartbeat file there and unlinks it at once

log = logging.getLogger(__name__)


def serve(
    make_app: "Callable[[], WSGIApplication]",
    *,
    bind: str,
    workers: int,
    threads: int,
    log_level: str = "info",
    keepalive_s: int = 75,
    graceful_timeout_s: int = 10,
) -> NoReturn:
    """Serve until SIGTERM; does not return but ends the process (``SystemExit``).

    ``make_app`` is called in each web process after the fork, so that connections and threads are its own. A
    `RefitError` that it raises is logged and ends the process with the status ``supervisor.HOPELESS``.
    ``bind``: ``host:port``, ``[v6 address]:port`` or ``unix:/path``; a taken or wrong address ends with the status
    ``supervisor.HOPELESS``. After SIGTERM, requests have ``graceful_timeout_s`` seconds to be answered: whoever
    supervises this must wait a little longer. A web process that ends is replaced; all die with this one.
    """
    try:
        descriptors = [listener.detach() for listener in listen(bind)]
    except (OSError, SettingsError) as error:
        log.error("cannot listen on %s: %s", bind, getattr(error, "strerror", None) or error)  # noqa: TRY400
        raise SystemExit(HOPELESS) from None
    _allow_descriptors(_DESCRIPTORS)
    settings = {
        "bind": [f"fd://{descriptor}" for descriptor in descriptors],
        "workers": workers,
        "threads": threads,
        "worker_class": PatientWorker,
        "worker_connections": _CONNECTIONS,
        "backlog": _BACKLOG,
        "preload_app": False,
        "keepalive": keepalive_s,
        "graceful_timeout": graceful_timeout_s,
        # For a threaded worker this is about its event loop only: a model that holds the interpreter lock for longer.
        "timeout": 120,
        "worker_tmp_dir": str(_SHARED_MEMORY) if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) else None,
        "loglevel": log_level.lower() if log_level.lower() == "debug" else "warning",
        "logger_class": _ProcessLogger,
        "accesslog": None,
        # By default gunicorn opens a socket in the home directory through which workers can be added and stopped.
        "control_socket_disable": True,
        # A header may not rewrite the path or the user, not even one from this machine.
        "forwarder_headers": "",
        # Through the kernel, answers would pass by the limits of PatientWorker.
        "sendfile": False,
        "post_fork": _after_fork,
    }
    master = os.getpid()
    try:
        _Application(make_app, settings).run()
    except SystemExit as end:
        # A web process ends through here too, and gunicorn must see what it says.
        if os.getpid() == master and end.code == Arbiter.APP_LOAD_ERROR:
            raise SystemExit(HOPELESS) from None
        raise
    raise SystemExit(0)


def listen(bind: str) -> list[socket.socket]:
    """Bound sockets for ``bind``: one for each address of the host, the first only when the port is 0.

    An address that is taken is tried again for 3 s, since web processes of a killed predecessor take a moment to end.
    Raises ``OSError`` if it stays taken or is not ours, ``SettingsError`` if ``bind`` has another form.
    """
    deadline = time.monotonic() + _RELEASE_S
    while True:
        try:
            return _bound(bind)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _bound(bind: str) -> list[socket.socket]:
    if bind.startswith("unix:"):
        path = bind.removeprefix("unix:").removeprefix("//")
        _remove_abandoned(path)
        addresses: list[tuple[int, Any]] = [(socket.AF_UNIX, path)]
    else:
        host, separator, port = bind.rpartition(":")
        if not separator or not port.isdecimal() or int(port) > 0xFFFF or (":" in host and not host.startswith("[")):
            raise SettingsError("bind", f"{bind!r} is not host:port, [address]:port or unix:/path")
        found = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        if port == "0":
            del addresses[1:]
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in addresses:
            try:
                listeners.append(_listener(family, address, v6_only=len(addresses) > 1))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    if missing is not None and not listeners:
        raise missing
    return listeners


def _listener(family: int, address: Any, *, v6_only: bool) -> socket.socket:  # noqa: ANN401  # its form depends on the family
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and v6_only:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_abandoned(path: str) -> None:
    """Remove a socket file that nobody listens on; without that the address counts as taken for ever."""
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)


def _allow_descriptors(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _after_fork(_arbiter: object, worker: PatientWorker) -> None:
    lifeline.die_with_parent(signal.SIGKILL, parent=worker.ppid)


class _ProcessLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Gunicorn's words through the logging of this process, where that is set up."""

    def setup(self, cfg: object) -> None:
        super().setup(cfg)
        if logging.getLogger().handlers:
            self.error_log.handlers.clear()
            self.error_log.propagate = True


class _Application(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """What gunicorn asks for its settings and, in each web process, for the application."""

    def __init__(self, make_app: "Callable[[], WSGIApplication]", settings: dict[str, Any]) -> None:
        self._make_app = make_app
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> "WSGIApplication":
        try:
            app = self._make_app()
        except RefitError as error:
            # An error made for people, such as a model that is not there: no traceback, and no second try.
            log.error("%s", error)  # noqa: TRY400
            raise SystemExit(Arbiter.APP_LOAD_ERROR) from None
        # Requests bring thousands of objects at once and hardly a cycle: looking for some among them, and among what
        # will never go, took half of the time of 10,000 predictions.
        gc.freeze()
        gc.set_threshold(*_COLLECT)
        heap.give_back()  # importing all this took a sixth more than it keeps
        return app
