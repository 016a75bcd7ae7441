"""quickstart: backend and Label Studio in one process tree, with a project to label."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from ml_backend.cli.start import answers, log, process_argv, told_to_children, valkey_spec, web_specs, worker_specs
from ml_backend.cli.terminal import Console
from ml_backend.connecting import USER, keep_address, kept_secret
from ml_backend.demo import RELEASE, Place
from ml_backend.demo.place import EMAIL
from ml_backend.demo.server import uv
from ml_backend.embedded import PrivateValkey
from ml_backend.errors import SettingsError
from ml_backend.logs import set_up_logs
from ml_backend.processes import PRIVATE
from ml_backend.supervisor import ProcessSpec, Supervisor

if TYPE_CHECKING:
    from ml_backend.settings import Settings

_INSTALL_S = 1800.0


def quick_start(settings: Settings, label_studio_port: int) -> int:
    """Run until Ctrl-C; the exit status. What was labelled and learned stays in the data folder."""
    uv(os.environ)
    folder = settings.data_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = Place(folder / "label-studio", label_studio_port)
    for name, port in (("--port", settings.port), ("--label-studio-port", label_studio_port)):
        _need_free(name, port)
    set_up_logs(settings.log_level)
    os.umask(PRIVATE)
    credentials = (USER, kept_secret(settings))
    told = told_to_children(settings, credentials)
    say = Console(soft_wrap=True, highlight=False).print
    if not place.kept(place.key_file.name):
        say(f"Label Studio {RELEASE} starts; the first time it is installed too, which takes a minute or two.")
    with PrivateValkey(folder / "valkey", fsync=settings.redis_fsync) as valkey:
        told["REDIS_URL"] = valkey.url
        told |= {"LABEL_STUDIO_URL": place.url, "LABEL_STUDIO_API_KEY_FILE": str(place.key_file)}
        where = (str(place.folder), str(place.port))
        plain = {"LABEL_STUDIO_API_KEY": "", "LABEL_STUDIO_API_KEY_FILE": ""}
        specs = [
            valkey_spec(valkey),
            ProcessSpec(
                name="label-studio",
                argv=process_argv("label-studio", *where),
                ready=answers(f"http://127.0.0.1:{place.port}/health"),
                ready_within_s=_INSTALL_S,
                explain=place.last_words,
                env=plain,
            ),
            # Everything else is told the key, which exists only then.
            ProcessSpec(
                name="login", argv=process_argv("login", *where), env=plain, after=("label-studio",), restart=False
            ),
            *web_specs(settings, told, after=("valkey", "login")),
            ProcessSpec(name="project", argv=process_argv("project", *where), env=told, after=("web",), restart=False),
            *worker_specs(settings, told, after=("project",)),
        ]

        def ready() -> None:
            keep_address(settings)
            _greet(settings, place)

        return Supervisor(specs, log, on_ready=ready).run()


def _need_free(option: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SettingsError(option, f"port {port} cannot be had: {error.strerror}") from None


def _greet(settings: Settings, place: Place) -> None:
    say = Console(soft_wrap=True, highlight=False).print
    say("\n[bold green]Everything runs.[/] Label Studio, with a project of 180 messages to sort:\n")
    say(f"  address   [bold]{place.url}/projects/{place.kept('project')}[/]")
    say(f"  e-mail    [bold]{EMAIL}[/]")
    say(f"  password  [bold]{place.password}[/]\n")
    say("Press Label All Tasks and label. After ten annotations the first version trains; a few")
    say("seconds later tasks come with its predictions, the ones it is least sure of first.\n")
    say("  To look on, in another terminal:")
    say(f"    ml-backend status --data-dir {settings.data_dir}", style="bold")
    say("  For the commands that ask Label Studio (connect, doctor, sync):")
    say(f"    export LABEL_STUDIO_URL={place.url} LABEL_STUDIO_API_KEY_FILE={place.key_file}", style="bold")
    say(f"\n  Data lies in {settings.data_dir.absolute()}. Stop with Ctrl-C.\n")
