"""status and versions: what people look at in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ml_backend.bootstrap import PATIENT_TIMEOUT_S, make_services
from ml_backend.cli.terminal import Console
from ml_backend.embedded import PrivateValkey
from ml_backend.errors import ProjectUnknown
from ml_backend.overview.words import drift_in_words
from ml_backend.uids import id_of

if TYPE_CHECKING:
    from ml_backend.bootstrap import Services
    from ml_backend.settings import Settings


def show_status(settings: Settings, project: str | None, *, as_json: bool) -> None:
    """Every project, or one, as a table or as JSON (the same as the JSON API's)."""
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
    table = Table(title="Projects")
    for name in ("project", "next training", "", "annotations", "serving", "run", "last decision"):
        table.add_column(name)
    for one in found:
        have, need = one.progress.have, one.progress.need
        run = one.running or one.waiting
        table.add_row(
            Text.assemble(one.title or "-", "\n", (one.uid, "dim")),
            ProgressBar(total=need, completed=min(have, need), width=20),
            f"{have} of {need}",
            Text.assemble(f"{one.training_set.trainable} to train on\n", (drift_in_words(one), "dim")),
            one.serving.name if one.serving else "-",
            Text(f"{run.phase or run.status} {run.fraction:.0%}" if run else "-"),
            Text(one.paused or one.next_training.reason),
        )
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
    table = Table(title="Versions")
    for name in ("version", "status", "tasks", "score", "before", "seconds", "why"):
        table.add_column(name)
    for one in found:
        manifest = one.manifest
        table.add_row(
            one.name,
            one.status,
            str(manifest.sizes.get("tasks", "-")),
            _scores(manifest.metrics.candidate),
            _scores(manifest.metrics.incumbent),
            f"{sum(manifest.durations.values()):.1f}",
            manifest.promotion.reason,
        )
    console.print(table)


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
    raise ProjectUnknown("project", f"name one of {', '.join(sorted(uids))}")


def _scores(scores: dict[str, float]) -> str:
    return "\n".join(f"{name} {value:.3f}" for name, value in scores.items()) or "-"


def open_services(settings: Settings) -> Services:
    """The parts, over the private Valkey of the data folder unless REDIS_URL is set."""
    if settings.redis_url is None:
        valkey = PrivateValkey(settings.data_dir.absolute() / "valkey")
        settings = settings.model_copy(update={"redis_url": _secret(valkey.url)})
    return make_services(settings, timeout_s=PATIENT_TIMEOUT_S)


def _secret(text: str) -> Any:  # noqa: ANN401 - the field's own type
    from pydantic import SecretStr  # noqa: PLC0415 - kept beside its one use

    return SecretStr(text)
