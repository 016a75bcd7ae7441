"""quickstart: backend and Label Studio in one process tree, with a project to label."""

from __future__ import annotations

import os
from shlex import quote
from typing import TYPE_CHECKING

from rich.markup import escape

from ml_backend.cli.start import (
    answers,
    log,
    need_free,
    process_argv,
    told_to_children,
    valkey_spec,
    web_specs,
    with_port,
    worker_specs,
)
from ml_backend.cli.terminal import Console
from ml_backend.connecting import USER, keep_address, kept_secret
from ml_backend.demo import RELEASE, Place
from ml_backend.demo.place import EMAIL
from ml_backend.demo.server import uv
from ml_backend.embedded import PrivateValkey
from ml_backend.logs import set_up_logs
from ml_backend.processes import PRIVATE
from ml_backend.supervisor import ProcessSpec, Supervisor

if TYPE_CHECKING:
    from ml_backend.settings import Settings

_INSTALL_S = 1800.0
_THEIRS = ("LABEL_STUDIO_API_KEY", "ML_BACKEND_URL", "ML_BACKEND_MODEL", "ML_BACKEND_INSECURE")
"""What a terminal may say of another installation, and nothing here may go by."""


def quick_start(settings: Settings, label_studio_port: int) -> int:
    """Run until Ctrl-C; the exit status. What was labelled and learned stays in the data folder."""
    uv(os.environ)
    settings = with_port(settings)
    folder = settings.data_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = Place(folder / "label-studio", label_studio_port)
    for name, port in (("--port", settings.port), ("--label-studio-port", label_studio_port)):
        need_free("127.0.0.1", port, name, wait_s=0)
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
        told |= dict.fromkeys(_THEIRS, "")
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
            keep_address(settings, None)
            _greet(settings, place)

        return Supervisor(specs, log, on_ready=ready).run()


def _greet(settings: Settings, place: Place) -> None:
    say = Console(soft_wrap=True, highlight=False).print
    say("\n[bold green]Everything runs.[/] Label Studio, with a project of 180 messages to sort:\n")
    say(f"  address   [bold]{place.url}/projects/{place.kept('project')}[/]")
    say(f"  e-mail    [bold]{EMAIL}[/]")
    say(f"  password  [bold]{place.password}[/]\n")
    say("Press Label All Tasks and label. After ten annotations the first version trains; a few")
    say("seconds later tasks come with its predictions, the ones it is least sure of first.\n")
    say("  To look on, in another terminal:")
    say(f"    ml-backend status --data-dir {escape(quote(str(settings.data_dir)))}", style="bold")
    say("  For the commands that ask Label Studio (connect, doctor, sync):")
    key_file = escape(quote(str(place.key_file)))
    say(f"    export LABEL_STUDIO_URL={place.url} LABEL_STUDIO_API_KEY_FILE={key_file}", style="bold")
    say(f"\n  Data lies in {escape(str(settings.data_dir.absolute()))}. Stop with Ctrl-C.\n")
