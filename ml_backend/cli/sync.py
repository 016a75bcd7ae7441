"""sync: a person asks for it, and may watch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ml_backend.cli.show import find_uid, open_services
from ml_backend.cli.terminal import Console
from ml_backend.errors import BadInput, ProjectUnknown, RefitError

if TYPE_CHECKING:
    from ml_backend.bootstrap import Services
    from ml_backend.settings import Settings
    from ml_backend.state.syncing import SyncKind

_POLL_S = 0.2


def sync_now(settings: Settings, project: str | None, *, complete: bool, watch: bool) -> int:
    """Ask for a sync of a project, or of all; with ``watch``, follow them to their ends. Returns the exit status."""
    services = open_services(settings)
    if (problem := services.access().problem) is not None:
        raise RefitError(problem)
    alive = _alive(services)
    uids = [find_uid(services, project)] if project is not None else alive
    if not set(uids) <= set(alive):
        raise BadInput("project", "is not connected any more: there is nothing to sync")
    if not uids:
        raise ProjectUnknown("project", "none is connected: connect this backend in Label Studio (Settings → Model)")
    console = Console()
    kind: SyncKind = "complete" if complete else "incremental"
    now = time.time()
    for uid in uids:
        new = services.syncs().request(uid, kind, "ml-backend sync", now)
        console.print(f"{uid}: the sync " + ("is queued" if new else "waits already: joined"), highlight=False)
    return max([_follow(services, uid, now, console) for uid in uids]) if watch else 0


def _alive(services: Services) -> list[str]:
    found = ((uid, services.state.load(uid)) for uid in sorted(services.state.uids()))
    return [uid for uid, project in found if project is not None and project.deleted_at is None]


def _follow(services: Services, uid: str, asked_at: float, console: Console) -> int:
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} annotations {task.fields[message]}"),
        TimeElapsedColumn(),
    )
    standings = services.standings()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("queued", total=None, message="")
        # It is answered when nobody asks any more, and over when nobody holds it.
        while (one := standings.load(uid)).running or one.asked_at == asked_at:
            if one.running:
                description, total = one.phase or one.kind, float(one.total) or None
                bar.update(task, description=description, completed=one.done, total=total, message=one.message)
            time.sleep(_POLL_S)
    console.print(one.error or one.outcome, highlight=False, markup=False)
    return 1 if one.error else 0
