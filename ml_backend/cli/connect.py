"""connect and disconnect: a project's connection and webhook in Label Studio, made right and proven."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson
from rich.markup import escape

from ml_backend.cli.show import as_started, open_services
from ml_backend.cli.terminal import Console, one_line
from ml_backend.errors import BadInput, LabelStudioError, LabelStudioRefused, RefitError
from ml_backend.settings import read_extra_params

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ml_backend.bootstrap import Services
    from ml_backend.connecting.connector import Connected, Connector
    from ml_backend.label_studio import Identity, LabelStudioApi, ProjectDetails
    from ml_backend.settings import Settings

_KINDS = {"personal": "a personal access token", "legacy": "a legacy token", "access": "an access token"}


def connect_projects(
    settings: Settings,
    projects: Sequence[int],
    *,
    every: bool,
    url: str | None,
    title: str,
    extra_params: str | None,
    active_learning: bool,
) -> int:
    """Connect projects and have an event of each arrive; the exit status, 1 when any of them failed."""
    services = open_services(as_started(settings))
    params = _checked(settings, extra_params)
    console = Console(highlight=False, soft_wrap=True)
    with services.label_studio(timeout_s=30.0, patience_s=5.0) as api:
        who = api.check()
        _need_a_web_process(services)
        connector = services.connector(api)
        _greet(console, services, who)
        failed = False
        for details in _wanted(api, projects, every=every):
            console.print(f"\n[bold]{_named(details)}[/]")
            if every and (why := services.model_class().check(details.project.label_config or "")) is not None:
                console.print(f"  [yellow]-[/] left alone: {escape(why)}")
                continue
            try:
                done = connector.connect(
                    details, url=url, title=title, extra_params=params, active_learning=active_learning
                )
            except BadInput:
                raise
            except LabelStudioError as error:
                told = str(error).replace("\n", "\n    ")
                console.print(f"  [red]✗[/] {escape(told)}")
                failed = True
                continue
            _show(console, done, nothing=f"connected at {done.url}: nothing had to change")
            console.print(f"  [green]✓[/] an event sent by Label Studio arrived after {done.arrived_s:.2f} s")
    return 1 if failed else 0


def disconnect_projects(settings: Settings, projects: Sequence[int], *, every: bool) -> int:
    """Undo that; data and versions stay."""
    services = open_services(settings)
    console = Console(highlight=False, soft_wrap=True)
    with services.label_studio(timeout_s=30.0, patience_s=5.0) as api:
        who = api.check()
        connector = services.connector(api)
        _greet(console, services, who)
        for details in _wanted(api, projects, every=every, gone=lambda one: _forget(console, connector, one)):
            console.print(f"\n[bold]{_named(details)}[/]")
            _show(console, connector.disconnect(details), nothing="was not connected to this backend")
    return 0


def _checked(settings: Settings, extra_params: str | None) -> dict[str, Any] | None:
    if extra_params is None:
        return None
    try:
        given = orjson.loads(extra_params)
    except orjson.JSONDecodeError:
        raise BadInput("--extra-params", "must be a JSON object") from None
    read_extra_params(given, settings.refit)
    return dict(given)


def _forget(console: Console, connector: Connector, project_id: int) -> bool:
    """Forget a project that Label Studio does not show; False where it is not known here either."""
    if not connector.forget(project_id):
        return False
    console.print(f"\n[bold]project {project_id}[/]")
    console.print("  [green]✓[/] forgotten: Label Studio does not show it, and nothing is trained for it any more")
    return True


def _wanted(
    api: LabelStudioApi, projects: Sequence[int], *, every: bool, gone: Callable[[int], bool] = lambda _: False
) -> Iterator[ProjectDetails]:
    """``gone`` is asked about a project that Label Studio does not show: whether that is as well."""
    if not every and not projects:
        raise BadInput("--project", "name one (the number in its address, /projects/NUMBER), or give --all")
    for one in projects:
        try:
            yield api.project(one)
        except LabelStudioRefused as refused:
            if refused.status != 404:
                raise
            if not gone(one):
                raise BadInput("--project", f"Label Studio has no project {one} that this key sees") from None
    if every and not projects:
        for page in api.projects():
            yield from page


def _need_a_web_process(services: Services) -> None:
    if not services.web_processes():
        raise RefitError(
            "no web process of this backend is alive: start it first (ml-backend start, or serve), and run this with "
            "the same --data-dir or REDIS_URL"
        )


def _greet(console: Console, services: Services, who: Identity) -> None:
    release = f" {who.release}" if who.release else ""
    host = urlsplit(services.settings.label_studio_shown or "").netloc
    console.print(f"Label Studio{release} at {host}: {escape(who.email)}, {_KINDS[who.token_kind]}", style="dim")


def _named(details: ProjectDetails) -> str:
    return f"project {details.project.id} {escape(one_line(details.project.title or ''))}".rstrip()


def _show(console: Console, done: Connected, *, nothing: str) -> None:
    for one in done.done or [nothing]:
        console.print(f"  [green]✓[/] {escape(one)}")
    for one in done.notes:
        console.print(f"  [yellow]![/] {escape(one)}")
