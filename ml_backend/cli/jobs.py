"""train, jobs and cancel: asking for a run, watching it, listing and ending runs."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ml_backend.cli.show import find_uid, open_services
from ml_backend.cli.terminal import Console
from ml_backend.errors import BadInput, Unavailable
from ml_backend.runs import uid_of

if TYPE_CHECKING:
    from ml_backend.bootstrap import Services
    from ml_backend.runs import Run
    from ml_backend.settings import Settings

_POLL_S = 0.2
_ENDING_S = 30.0
_COLOURS = {"succeeded": "green", "failed": "red", "lost": "red", "cancelled": "yellow", "started": "cyan"}
_INTERRUPTED = 130


def train_now(settings: Settings, project: str | None, *, watch: bool) -> int:
    """Ask for a run as a click does; with ``watch``, follow it to its end. Returns the exit status."""
    services = open_services(settings)
    uid = find_uid(services, project)
    asked = services.orders(services.overview()).train(uid, "ml-backend train")
    run_id = asked.run.id
    console = Console()
    console.print(f"run {run_id} " + ("waits already: joined" if asked.joined else "is queued"), highlight=False)
    if not services.jobs().workers("train"):
        console.print("No training worker is there: it starts when one is (`ml-backend start` or `worker`).")
    if not watch:
        return 0
    try:
        return _follow(services, run_id, console)
    except KeyboardInterrupt:
        console.print(f"The run goes on. End it with: ml-backend cancel {run_id}", highlight=False)
        return _INTERRUPTED


def show_jobs(settings: Settings, project: str | None, *, limit: int, as_json: bool) -> None:
    """What waits, what trains and what is over, newest first; of one run that is named, all that is kept."""
    services = open_services(settings)
    if project is not None and uid_of(project) is not None:
        _show_run(services, project, as_json=as_json)
        return
    uids = [find_uid(services, project)] if project else sorted(services.state.uids())
    found = [run for uid in uids for run in _runs(services, uid, limit)]
    console = Console()
    if as_json:
        console.json([_told(run) for run in found])
        return
    if not found:
        console.print("No run yet.")
        return
    table = Table(title="Runs")
    for name in ("run", "status", "asked for", "by", "seconds", "what came of it, or why it was asked for"):
        table.add_column(name, no_wrap=name in {"run", "status"})
    for run in found:
        seconds = run.duration_s
        table.add_row(
            run.id,
            Text(_status(run), style=_COLOURS.get(run.status, "")),
            _when(run.requested_at),
            _trigger(run),
            "" if seconds is None else f"{seconds:.1f}",
            Text(run.ending or run.message or run.reason),
        )
    console.print(table)


def _show_run(services: Services, run_id: str, *, as_json: bool) -> None:
    """One run, with the traceback that is for the operator alone: neither page nor API has it."""
    run = services.runs.get(run_id)
    if run is None:
        raise BadInput("run", f"there is no run {run_id}; see `ml-backend jobs`")
    console = Console()
    if as_json:
        console.json({**_told(run), "traceback": run.traceback})
        return
    asked = f"asked for {_when(run.requested_at)} by {_trigger(run)}: {run.reason}"
    for line in (f"run {run.id} {_status(run)}; {asked}", run.ending or run.message, *run.traceback.splitlines()):
        console.print(Text(line))


def cancel_run(settings: Settings, run_id: str | None) -> int:
    """Cancel a run, or the only one that waits or trains, and wait for its end. Returns the exit status."""
    services = open_services(settings)
    run_id = run_id or _only_run(services)
    console = Console(highlight=False, markup=False)
    answer = services.runs.cancel(run_id, services.runs.time(), "cancelled by ml-backend cancel")
    if answer is None:
        raise BadInput("run", f"there is no run {run_id}; see `ml-backend jobs`")
    until = time.monotonic() + _ENDING_S
    while (run := services.runs.get(run_id)) is not None and not run.over and time.monotonic() < until:
        time.sleep(_POLL_S)
    if run is None or not run.over:
        console.print(f"run {run_id} is told to stop, and has not yet")
        return 1
    already = "is over already: " if answer == "over" else ""
    console.print(f"run {run_id} {already}{run.status}: {run.ending}")
    return 0 if run.status == "cancelled" else 1


def _follow(services: Services, run_id: str, console: Console) -> int:
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}", markup=False),
    )
    run, phase = services.runs.get(run_id), ""
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("queued", total=1.0, message="")
        while run is not None and not run.over:
            if not console.is_terminal and phase != (phase := run.phase or run.status):
                console.print(f"{phase}: {run.message or run.reason}", highlight=False, markup=False)
            doing = "stopping" if run.cancelling else run.phase or run.status
            message = run.message or (_waits_for(services, run) if run.status == "queued" else run.reason)
            bar.update(task, description=doing, completed=run.fraction, message=message)
            time.sleep(_POLL_S)
            with contextlib.suppress(Unavailable):  # it may be back in a moment, and the run goes on
                run = services.runs.get(run_id)
    if run is None:
        console.print("the run is not known any more")
        return 1
    seconds = f" in {run.duration_s:.1f} s" if run.duration_s is not None else ""
    console.print(f"{run.status}{seconds}: {run.ending}", style=_COLOURS.get(run.status, ""), markup=False)
    return 0 if run.status == "succeeded" else 1


def _waits_for(services: Services, run: Run) -> str:
    try:
        standing = services.runs.standing(run.uid)
    except Unavailable as error:
        return str(error)
    if standing.running is not None:
        return f"behind run {standing.running.id} ({standing.running.phase} {standing.running.fraction:.0%})"
    return standing.paused or run.reason


def _runs(services: Services, uid: str, limit: int) -> list[Run]:
    standing = services.runs.standing(uid)
    live = [run for run in (standing.waiting, standing.running) if run is not None]
    return [*live, *services.runs.history(uid, limit)]


def _only_run(services: Services) -> str:
    live = [run for uid in services.state.uids() for run in _runs(services, uid, 0)]
    if len(live) == 1:
        return live[0].id
    if not live:
        raise BadInput("run", "nothing waits or trains")
    raise BadInput("run", f"name one of {', '.join(run.id for run in live)}")


def _told(run: Run) -> dict[str, Any]:
    plain = {name: value for name, value in dataclasses.asdict(run).items() if name != "traceback"}
    return {**plain, "details": orjson.loads(run.details or "{}"), "seconds": run.duration_s}


def _status(run: Run) -> str:
    if run.status == "started":
        return f"{'stopping' if run.cancelling else run.phase} {run.fraction:.0%}"
    return f"{run.status}, attempt {run.attempts + 1}" if run.status == "queued" and run.attempts else run.status


def _trigger(run: Run) -> str:
    joined = f", {run.joined} joined" if run.joined else ""
    return ("a person" if run.click else run.trigger) + joined


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%d %b %H:%M:%S")
