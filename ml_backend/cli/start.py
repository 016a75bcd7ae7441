"""start, serve and worker: the process trees."""

from __future__ import annotations

import errno
import http.client
import logging
import os
import signal
import socket
import sys
import time
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.markup import escape

from ml_backend.cli.terminal import Console
from ml_backend.connecting import USER, keep_address, kept_secret
from ml_backend.connecting.addresses import EVERYWHERE, FROM_DOCKER, LOOPBACK, in_url, with_login
from ml_backend.embedded import PrivateValkey
from ml_backend.errors import SettingsError
from ml_backend.logs import set_up_logs
from ml_backend.processes import PRIVATE
from ml_backend.sources import locate
from ml_backend.supervisor import ProcessSpec, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ml_backend.settings import Settings

log = logging.getLogger("ml_backend")

_RELEASE_S = 3.0  # what a web process of a killed predecessor may take to end
_LONGEST_LOADING_S = 300.0  # an append-only file of many gigabytes


def start_all(settings: Settings) -> int:
    """A private Valkey (unless REDIS_URL names another), web server, workers and clock; returns the exit status."""
    set_up_logs(settings.log_level)
    settings = with_port(settings)
    folder = settings.data_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    credentials = None if settings.insecure else settings.credentials or (USER, kept_secret(settings))
    environment = told_to_children(settings, credentials)
    if settings.redis_url is not None:
        need_free(settings.host, settings.port, "--port")
        return _run(
            settings,
            [*web_specs(settings, environment), *worker_specs(settings, environment, after=("web",))],
            credentials,
        )
    with PrivateValkey(folder / "valkey", fsync=settings.redis_fsync) as valkey:
        need_free(settings.host, settings.port, "--port")
        environment["REDIS_URL"] = valkey.url
        specs = [
            valkey_spec(valkey),
            *web_specs(settings, environment, after=("valkey",)),
            *worker_specs(settings, environment, after=("valkey", "web")),
        ]
        return _run(settings, specs, credentials)


def valkey_spec(valkey: PrivateValkey) -> ProcessSpec:
    """The private Valkey as a process; takes its folder."""
    return ProcessSpec(
        name="valkey",
        argv=valkey.argv(),
        ready=valkey.is_ready,
        ready_within_s=_LONGEST_LOADING_S,
        explain=valkey.last_words,
        death_signal=signal.SIGTERM,
        pass_fds=(valkey.lock(),),
        umask=valkey.umask,
    )


def start_web(settings: Settings) -> int:
    """The web server alone."""
    set_up_logs(settings.log_level)
    _needs_redis(settings, "serve")
    settings = with_port(settings)
    need_free(settings.host, settings.port, "--port")
    return _run(settings, web_specs(settings, told_to_children(settings, settings.credentials)), settings.credentials)


def start_workers(settings: Settings) -> int:
    """Workers and the clock."""
    set_up_logs(settings.log_level)
    _needs_redis(settings, "worker")
    return Supervisor(worker_specs(settings, told_to_children(settings, None)), log).run()


def _run(settings: Settings, specs: list[ProcessSpec], credentials: tuple[str, str] | None) -> int:
    def ready() -> None:
        keep_address(settings, None if settings.model is None else _absolute_model(settings.model))
        greet(settings, credentials)

    os.umask(PRIVATE)
    return Supervisor(specs, log, on_ready=ready).run()


def with_port(settings: Settings) -> Settings:
    """The settings with a port that is free just now, where any will do: whoever connects must know which one."""
    if settings.port:
        return settings
    try:
        with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
            probe.bind((settings.host, 0))
            return settings.model_copy(update={"port": probe.getsockname()[1]})
    except OSError as error:
        raise SettingsError("ML_BACKEND_HOST", f"no port of {settings.host} can be had: {error.strerror}") from None


def need_free(host: str, port: int, option: str, *, wait_s: float = _RELEASE_S) -> None:
    """Raise `SettingsError` where the port cannot be had: a server that is there already would be taken for ours.

    ``wait_s`` is for one that is just ending.
    """
    until = time.monotonic() + wait_s
    while (error := _refusal(host, port)) is not None:
        if error.errno != errno.EADDRINUSE:
            raise SettingsError(option, f"port {port} of {host} cannot be had: {error.strerror}") from None
        if time.monotonic() >= until:
            raise SettingsError(
                option, f"port {port} of {host} is taken: stop the program that listens there, or choose another port"
            ) from None
        time.sleep(0.05)


def _refusal(host: str, port: int) -> OSError | None:
    # What else may be wrong with the address, the web server finds out and says.
    with suppress(socket.gaierror):
        for family, kind, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(address)
                except OSError as error:
                    if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                        return error
    return None


def _needs_redis(settings: Settings, command: str) -> None:
    if settings.redis_url is None:
        raise SettingsError(
            "REDIS_URL", f"is not set; `ml-backend {command}` shares a Redis with others, `start` brings its own"
        )


def told_to_children(settings: Settings, credentials: tuple[str, str] | None) -> dict[str, str]:
    """What the children are told: this process's settings, by the names that settings have.

    Raises `ModelNotFound` for a model that is not there, before anything is started.
    """
    if credentials is None and settings.host not in LOOPBACK and not settings.insecure:
        raise SettingsError(
            "BASIC_AUTH_PASS",
            f"is not set: without it only this machine is served, not {settings.host}; set it, or give --insecure",
        )
    told = {
        "PORT": str(settings.port),
        "ML_BACKEND_HOST": settings.host,
        "ML_BACKEND_DATA_DIR": str(settings.data_dir.absolute()),
        "ML_BACKEND_STORE": _absolute(settings.store_url),
    }
    if settings.model is not None:
        told["ML_BACKEND_MODEL"] = _absolute_model(settings.model)
    if credentials is not None:
        told["BASIC_AUTH_USER"], told["BASIC_AUTH_PASS"] = credentials
    return told


def _absolute(store: str) -> str:
    return store if "://" in store else os.path.abspath(os.path.expanduser(store))  # noqa: PTH100, PTH111 - a string that may be a URL


def _absolute_model(model: str) -> str:
    source = locate(model)
    colon = f":{source.wanted}" if source.wanted else ""
    return f"{source.path}{colon}" if source.path is not None else model


def process_argv(*arguments: str) -> list[str]:
    """The command line of one of `ml_backend.processes`."""
    # -P keeps the current folder off the path: a model.py in it must not shadow a package.
    return [sys.executable, "-P", "-m", "ml_backend.processes", *arguments]


def web_specs(settings: Settings, environment: dict[str, str], after: tuple[str, ...] = ()) -> list[ProcessSpec]:
    """The web server as a process."""
    return [
        ProcessSpec(
            name="web",
            argv=process_argv("web"),
            # Many threads predict at once here: a library's own threads would only get in each other's way.
            env={"OMP_NUM_THREADS": "1", **environment},
            after=after,
            ready=answers(f"http://{_reachable(settings.host)}:{settings.port}/health"),
            grace_s=15.0,
        )
    ]


def worker_specs(settings: Settings, environment: dict[str, str], after: tuple[str, ...] = ()) -> list[ProcessSpec]:
    """Clock and workers as processes."""
    queues = [f"train-{number}" for number in range(1, settings.train_workers + 1)]
    queues += ["sync", "predict"]
    specs = [ProcessSpec(name="clock", argv=process_argv("clock"), env=environment, after=after)]
    if settings.predict == "worker":
        specs += [
            ProcessSpec(
                name=f"predictor-{number}",
                argv=process_argv("predictor"),
                env=environment,
                after=after,
                essential=False,
            )
            for number in range(1, settings.predict_workers + 1)
        ]
    for name in queues:
        queue = name.partition("-")[0]
        specs.append(
            ProcessSpec(name=name, argv=process_argv("work", queue), env=environment, after=after, essential=False)
        )
    return specs


def answers(url: str) -> Callable[[], bool]:
    """Whether a server answers there, for `ProcessSpec.ready`."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ready() -> bool:
        try:
            with opener.open(url, timeout=0.5) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False  # nobody, somebody who speaks something else, or half an answer of a process that was killed

    return ready


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, in_url(host))  # noqa: S104 - compared only


def greet(settings: Settings, credentials: tuple[str, str] | None) -> None:
    """Say where to connect, once everything is ready."""
    say = Console(soft_wrap=True, highlight=False).print
    say("\n[bold green]ml-backend is ready.[/] Paste the URL that fits into Label Studio")
    say("(Settings → Model → Connect Model):\n")
    for where, url in _addresses(settings):
        # A password may hold what means something in a URL.
        say(f"  {where:<42}[bold]{escape(with_login(url, credentials))}[/]")
    if settings.host in LOOPBACK:
        say("\n  Containers reach it only when it is started with --host 0.0.0.0.", style="dim")
    say(f"\n  Data lies in {escape(str(settings.data_dir.absolute()))}. Stop with Ctrl-C.\n")


def _addresses(settings: Settings) -> Iterator[tuple[str, str]]:
    """Where Label Studio may be, and the address that it reaches this backend at from there."""
    if settings.url is not None:
        yield "as ML_BACKEND_URL says", settings.url
    elif settings.host not in LOOPBACK | EVERYWHERE:
        yield "Label Studio on a machine that reaches it", f"http://{in_url(settings.host)}:{settings.port}"
    else:
        yield "Label Studio on this machine", f"http://localhost:{settings.port}"
        yield "Label Studio in Docker, this on its host", f"http://{FROM_DOCKER}:{settings.port}"
        yield "both in Docker", f"http://ml-backend:{settings.port}"
