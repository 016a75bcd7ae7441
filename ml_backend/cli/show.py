"""status and versions: what people look at in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from pydantic import SecretStr
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ml_backend.bootstrap import PATIENT_TIMEOUT_S, make_services
from ml_backend.cli.terminal import Console, one_line
from ml_backend.connecting import kept_model
from ml_backend.embedded import PrivateValkey
from ml_backend.errors import ProjectUnknown
from ml_backend.overview.words import drift_in_words
from ml_backend.uids import id_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ml_backend.bootstrap import Services
    from ml_backend.overview.views import Project
    from ml_backend.settings import Settings

_COLOURS = {"serving": "green", "standby": "", "kept aside": "yellow"}


def show_status(settings: Settings, project: str | None, *, as_json: bool) -> None:
    """Every project, or one, for people or as JSON (the same as the JSON API's)."""
    services = open_services(settings)
    overview = services.overview()
    found = [overview.project(find_uid(services, project))] if project else overview.projects()
    console = Console()
    if as_json:
        rows = [one.model_dump() for one in found]
        console.json(rows)
        return
    if not found:
        console.print("No project is known yet: connect this backend in Label Studio (Settings → Model).")
        return
    for number, one in enumerate(found):
        if number:
            console.print()
        _show_project(console, one)


def _show_project(console: Console, one: Project) -> None:
    # Names, reasons and errors are as long as people make them: lines of their own are never cut off.
    title = one_line(one.title) or f"Project {one.id}"
    console.print(Text.assemble((title, "bold"), "  ", (one.uid, "dim"), overflow="fold"))
    have, need = one.progress.have, one.progress.need
    run = one.running or one.waiting
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    progress = Table.grid(padding=(0, 1, 0, 0))
    progress.add_row(ProgressBar(total=need, completed=min(have, need), width=20), f"{have} of {need} annotations")
    rows: list[tuple[str, RenderableType]] = [("next training", progress)]
    why = one.paused or one.next_training.reason
    if not why.startswith(f"{have} of {need} "):
        rows.append(("", Text(why)))
    rows += [
        ("training set", Text(f"{one.training_set.trainable} to train on, {drift_in_words(one)}")),
        ("serving", Text(one.serving.name if one.serving else "nothing yet")),
    ]
    if run is not None:
        rows.append(("run", Text(f"{run.phase or run.status} {run.fraction:.0%}, {run.id}")))
    if one.unsupported:
        rows.append(("problem", Text(f"the model does not support the label config: {one.unsupported}", style="red")))
    if not one.connected:
        rows.append(("problem", Text("not connected any more: nothing trains", style="yellow")))
    for name, value in rows:
        table.add_row(f"  {name}", value)
    console.print(table)


def show_versions(settings: Settings, project: str | None, *, as_json: bool) -> None:
    """A project's versions, newest first."""
    services = open_services(settings)
    found = services.registry.versions(find_uid(services, project))
    console = Console()
    if as_json:
        rows = [{"status": one.status, **orjson.loads(orjson.dumps(one.manifest))} for one in found]
        console.json(rows)
        return
    if not found:
        console.print("No version yet: the first training makes one.")
    for one in found:
        manifest = one.manifest
        tasks, seconds = manifest.sizes.get("tasks", "?"), sum(manifest.durations.values())
        status = Text(one.status, style=_COLOURS[one.status])
        console.print(Text.assemble((one.name, "bold"), "  ", status, f"  {tasks} tasks, {seconds:.1f} s"))
        metrics = manifest.metrics
        for said in (
            _scores(metrics.candidate, metrics.incumbent),
            _scores(metrics.information, {}, "for information: "),
            manifest.promotion.reason,
        ):
            if said:
                console.print(Padding(Text(said, overflow="fold"), (0, 0, 0, 2)))


def find_uid(services: Services, project: str | None) -> str:
    """The uid of a project named by its id or uid; the only one, if not named. Raises `ProjectUnknown`."""
    uids = services.state.uids()
    if project is None and len(uids) == 1:
        return uids[0]
    fits = [uid for uid in uids if project in {uid, str(id_of(uid))}]
    if len(fits) == 1:
        return fits[0]
    if not uids:
        raise ProjectUnknown("project", "none is known yet: connect this backend in Label Studio (Settings → Model)")
    wrong = f"{project} is not known here; " if project is not None and not fits else ""
    raise ProjectUnknown("project", f"{wrong}name one of {', '.join(sorted(uids))}")


def _scores(scores: dict[str, float], before: dict[str, float], title: str = "") -> str:
    told = [
        f"{name} {value:.3f}" + (f" (before {before[name]:.3f})" if name in before else "")
        for name, value in scores.items()
    ]
    return title + ", ".join(told) if told else ""


def as_started(settings: Settings) -> Settings:
    """The settings with the model that the backend of the data folder was started with, unless they name one."""
    return settings if settings.model is not None else settings.model_copy(update={"model": kept_model(settings)})


def open_services(settings: Settings) -> Services:
    """The parts, over the private Valkey of the data folder unless REDIS_URL is set."""
    if settings.redis_url is None:
        valkey = PrivateValkey(settings.data_dir.absolute() / "valkey")
        settings = settings.model_copy(update={"redis_url": SecretStr(valkey.url)})
    return make_services(settings, timeout_s=PATIENT_TIMEOUT_S)
