"""status and versions: what people look at in a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from ml_backend import policy
from ml_backend.bootstrap import PATIENT_TIMEOUT_S, make_services
from ml_backend.embedded import PrivateValkey
from ml_backend.errors import ProjectUnknown

if TYPE_CHECKING:
    from ml_backend.bootstrap import Services
    from ml_backend.settings import Settings


def show_status(settings: Settings, project: str | None, *, as_json: bool) -> None:
    """Every project, or one, as a table or as JSON."""
    services = open_services(settings)
    uids = [find_uid(services, project)] if project else services.state.uids()
    found = [one for uid in uids if (one := _summary(services, uid)) is not None]
    console = Console()
    if as_json:
        console.out(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode(), highlight=False)
        return
    if not found:
        console.print("No project is known yet: connect this backend in Label Studio (Settings → Model).")
        return
    table = Table(title="Projects")
    for name in ("project", "next training", "", "annotations", "serving", "run", "last decision"):
        table.add_column(name)
    for one in found:
        have, need = one["progress"]
        table.add_row(
            f"{one['title'] or '-'}\n[dim]{one['uid']}[/]",
            ProgressBar(total=need, completed=min(have, need), width=20),
            f"{have} of {need}",
            f"{one['trainable']} to train on\n[dim]{_drift(one)}[/]",
            one["serving"] or "-",
            one["run"] or "-",
            one["decision"],
        )
    console.print(table)


def show_versions(settings: Settings, project: str | None, *, as_json: bool) -> None:
    """A project's versions, newest first."""
    services = open_services(settings)
    found = services.registry.versions(find_uid(services, project))
    console = Console()
    if as_json:
        rows = [{"status": one.status, **orjson.loads(orjson.dumps(one.manifest))} for one in found]
        console.out(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode(), highlight=False)
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


def _summary(services: Services, uid: str) -> dict[str, Any] | None:
    project = services.state.load(uid)
    if project is None:
        return None
    settings = services.project_settings.of(project).retrain
    standing = services.runs.standing(uid)
    serving = services.registry.serving(uid)
    run = standing.running or standing.waiting
    return {
        "uid": uid,
        "title": project.title,
        "progress": policy.progress(project.training, settings),
        "decision": policy.decide(project.training, settings, time.time()).reason,
        "trainable": project.training.trainable,
        "counters": project.counters,
        "missing": project.missing,
        "sync": {"problem": services.access().problem, **services.standings().load(uid).as_dict()},
        "serving": serving.name if serving else None,
        "run": f"{run.phase or run.status} {run.fraction:.0%}" if run else None,
        "paused": standing.paused or None,
        "decisions": services.state.decisions(uid, 10),
    }


def find_uid(services: Services, project: str | None) -> str:
    """The uid of a project named by its id or uid; the only one, if not named. Raises `ProjectUnknown`."""
    uids = services.state.uids()
    if project is None and len(uids) == 1:
        return uids[0]
    fits = [uid for uid in uids if project in {uid, uid.partition(".")[0]}]
    if len(fits) == 1:
        return fits[0]
    if not uids:
        raise ProjectUnknown("project", "none is known yet: connect this backend in Label Studio (Settings → Model)")
    raise ProjectUnknown("project", f"name one of {', '.join(sorted(uids))}")


def _drift(one: dict[str, Any]) -> str:
    """What is known of how far the training set is Label Studio's."""
    sync, missing = one["sync"], one["missing"]
    if sync["running"]:
        return f"{sync['kind']} sync: {sync['message'] or sync['phase']} {sync['done']} of {sync['total'] or '?'}"
    if sync["error"]:
        return f"sync failed: {sync['error']}"
    if missing:
        unseen = f"{missing} annotations not seen"
        return f"{unseen}; set LABEL_STUDIO_API_KEY" if sync["problem"] else f"{unseen}; a sync is due"
    return f"{one['counters']['total_annotations_number']} in all"


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
