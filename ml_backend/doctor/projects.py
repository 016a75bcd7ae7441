"""Each project: how it is connected in Label Studio, and whether training set and settings are as they should be."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ml_backend.connecting.addresses import FROM_DOCKER, LOOPBACK, bare, bare_of_webhook, without_login
from ml_backend.connecting.connector import UNCERTAINTY
from ml_backend.connecting.plan import Ours, connections_here, faults_of, webhooks_here
from ml_backend.doctor.finding import Finding, note, ok, problem
from ml_backend.errors import LabelStudioError, LabelStudioRefused
from ml_backend.sync.plan import may_differ
from ml_backend.uids import id_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ml_backend.bootstrap import Services
    from ml_backend.label_studio import Connection, LabelStudioApi, ProjectDetails, Webhook
    from ml_backend.state import ProjectState

_OWN_THRESHOLD_FROM = 2
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that is known of a project, on both sides. ``unsupported``: why the model cannot use its config."""

    details: ProjectDetails
    known: ProjectState | None
    connections: Sequence[Connection]
    webhooks: Sequence[Webhook]
    ours: Ours
    unsupported: str | None
    sync_error: str = ""

    @property
    def subject(self) -> str:
        """How findings name it."""
        return f"{self.details.project.id} {self.details.project.title or ''}".strip()

    @property
    def fix(self) -> str:
        """The command that puts the connection right."""
        return f"run: ml-backend connect --project {self.details.project.id}"


def check(services: Services, project_ids: Sequence[int]) -> Iterator[Finding]:
    """Findings about the named projects, or about all that are known here."""
    known = {id_of(uid) for uid in services.state.uids() if _lives(services, uid)}
    wanted = list(project_ids) or sorted(known)
    if not wanted:
        yield note("projects", "no project is connected yet", "run: ml-backend connect --project NUMBER")
        return
    with services.label_studio(timeout_s=10.0, patience_s=2.0) as api:
        organizations = [one for one in api.webhooks() if one.project_id is None]
        for project_id in wanted:
            try:
                seen = look(services, api, project_id, organizations)
            except LabelStudioRefused as refused:
                if refused.status == 404:
                    advice = f"ask for access, or forget it: ml-backend disconnect --project {project_id}"
                    yield note(
                        "project", "Label Studio does not show it: deleted, or not the key's", advice, str(project_id)
                    )
                    continue
                yield problem("project", str(refused), "look at Label Studio's log", str(project_id))
                continue
            except LabelStudioError as error:
                yield problem("project", str(error), "look at Label Studio's log", str(project_id))
                continue
            yield from judge(seen)


def look(services: Services, api: LabelStudioApi, project_id: int, organizations: Sequence[Webhook]) -> Seen:
    """Ask both sides. Label Studio asks its connections for /health and /setup on the way."""
    details = api.project(project_id, counted=True)
    uid = details.project.uid or ""
    connections = api.connections(project_id)
    if any(one.state == "DI" for one in connections):
        # It waits a second for the answer, and not longer: one miss may be a busy moment.
        time.sleep(_PAUSE_S)
        connections = api.connections(project_id)
    return Seen(
        details=details,
        known=services.state.load(uid),
        connections=connections,
        webhooks=[*api.webhooks(project_id), *organizations],
        ours=services.connector(api).ours(uid),
        unsupported=services.model_class().check(details.project.label_config or ""),
        sync_error=services.standings().load(uid).error or "",
    )


def judge(seen: Seen) -> Iterator[Finding]:
    """All findings about a project; pure."""
    yield from _connection(seen)
    yield from _webhook(seen)
    yield from _label_config(seen)
    yield from _threshold(seen)
    yield from _sampling(seen)
    yield from _drift(seen)


def _connection(seen: Seen) -> Iterator[Finding]:
    mine = connections_here(seen.ours, seen.connections)
    if not mine:
        yield problem("connection", "no connection leads to this backend", seen.fix, seen.subject)
        return
    one = mine[0]
    where = without_login(one.url)
    if one.state == "DI":
        yield problem("connection", f"Label Studio gets no answer at {where}", _unreachable(one.url), seen.subject)
    elif one.state == "ER":
        yield problem("connection", f"in error: {one.error}", _error_advice(seen, one.error), seen.subject)
    else:
        yield ok("connection", f"Label Studio reaches {where}", seen.subject)
    if len(mine) > 1:
        numbers = " and ".join(str(other.id) for other in mine)
        differ = len({repr(other.extra_params or None) for other in mine}) > 1
        told = "with different extra params: the last asked wins" if differ else "each prediction is made twice"
        yield problem(
            "connection.twice",
            f"connections {numbers} lead here, {told}",
            "remove one (Settings > Model)",
            seen.subject,
        )


def _webhook(seen: Seen) -> Iterator[Finding]:
    mine = connections_here(seen.ours, seen.connections)
    others = [one.url for one in seen.connections if one not in mine]
    hooks = webhooks_here(seen.ours, seen.webhooks, others)
    present = {bare(one.url) for one in mine} or {bare(seen.ours.url)}
    at_present = [one for one in hooks if bare_of_webhook(one.url) in present]
    if not at_present:
        elsewhere = f" (webhook {hooks[0].id} leads to {without_login(hooks[0].url)})" if hooks else ""
        yield problem(
            "webhook", f"no webhook leads to this backend{elsewhere}: no event arrives", seen.fix, seen.subject
        )
    for one in at_present:
        if faults := faults_of(seen.ours, one):
            told = "; ".join(fault.found for fault in faults)
            yield problem("webhook", f"webhook {one.id} {told}", seen.fix, seen.subject)
        else:
            yield ok("webhook", f"webhook {one.id} is active, with credentials and payload", seen.subject)
    orphans = [one for one in hooks if one not in at_present]
    if orphans and at_present:
        listed = ", ".join(f"{one.id} at {without_login(one.url)}" for one in orphans)
        yield problem(
            "webhook.orphaned", f"no connection leads where it does: webhook {listed}", seen.fix, seen.subject
        )
    if len(at_present) > 1:
        yield problem("webhook.doubled", f"{len(at_present)} webhooks bring every event here", seen.fix, seen.subject)
    for one in seen.webhooks:
        if one.project_id is None and bare_of_webhook(one.url) in present:
            text = f"webhook {one.id} of the organization brings every event once more"
            yield note("webhook.organization", text, "it does no harm but costs time", seen.subject)


def _label_config(seen: Seen) -> Iterator[Finding]:
    if seen.unsupported is not None:
        yield problem(
            "label-config",
            f"the model does not support it: {seen.unsupported}",
            "change it, or start a model that does (ml-backend start MODEL)",
            seen.subject,
        )
    else:
        yield ok("label-config", "the model supports it", seen.subject)


def _threshold(seen: Seen) -> Iterator[Finding]:
    asked, counters = seen.details.project.min_annotations or 0, seen.details.project.counters
    if asked >= _OWN_THRESHOLD_FROM and counters is not None and asked > counters.task_number:
        yield problem(
            "threshold",
            f"the first training asks for {asked} annotations, and there are {counters.task_number} tasks",
            "lower min_annotations_to_start_training, or import more tasks",
            seen.subject,
        )
    elif asked >= _OWN_THRESHOLD_FROM:
        yield ok("threshold", f"the project's own: {asked} annotations", seen.subject)
    elif asked == 1:
        yield note(
            "threshold",
            "Label Studio sends START_TRAINING with every Submit (its threshold is 1); ours decides",
            "set min_annotations_to_start_training to 0",
            seen.subject,
        )
    else:
        yield ok("threshold", "the project sets none: the backend's holds", seen.subject)


def _sampling(seen: Seen) -> Iterator[Finding]:
    asked = seen.known is not None and seen.known.meta.get("active_learning") == "1"
    if asked and seen.details.sampling != UNCERTAINTY:
        yield problem(
            "sampling",
            f"active learning was switched on, and the project has {seen.details.sampling.lower() or 'no order'} now",
            f"{seen.fix} --active-learning",
            seen.subject,
        )
    elif seen.details.sampling == UNCERTAINTY:
        current, ours = seen.details.model_version, seen.ours.versions
        mine = {one.title for one in connections_here(seen.ours, seen.connections)}
        if ours and current not in {*ours, *mine, ""}:
            yield note(
                "sampling",
                f"tasks follow {current!r}, which is not ours",
                "choose ours under Settings > Model",
                seen.subject,
            )
        else:
            yield ok("sampling", "the most useful tasks come first", seen.subject)
    else:
        yield ok("sampling", f"{seen.details.sampling.lower() or 'not told'}, as the project has it", seen.subject)


def _drift(seen: Seen) -> Iterator[Finding]:
    known = seen.known
    if known is None:
        yield problem("training-set", "nothing of this project has arrived yet", seen.fix, seen.subject)
        return
    counters = seen.details.project.counters
    theirs = 0 if counters is None else counters.total_annotations_number
    ours = known.derived.total_annotations_number
    if seen.sync_error:
        yield problem(
            "training-set", f"the last sync failed: {seen.sync_error}", "run: ml-backend sync --watch", seen.subject
        )
    elif known.drift or theirs != ours:
        yield problem(
            "training-set",
            f"Label Studio has {theirs} annotations, the training set {ours}",
            f"run: ml-backend sync {known.project_id} --complete --watch",
            seen.subject,
        )
    elif (why := may_differ(known)) is not None:
        yield note("training-set", f"{ours} annotations; {why}", "a sync does it", seen.subject)
    else:
        yield ok("training-set", f"{ours} annotations, as Label Studio has", seen.subject)


def _unreachable(url: str) -> str:
    host = (urlsplit(url).hostname or "").lower()
    if host in LOOPBACK:
        return (
            f"if Label Studio runs in a container, localhost is the container: use http://{FROM_DOCKER}:PORT and start "
            "the backend with --host 0.0.0.0; else name the host in Label Studio's NO_PROXY if it has HTTP_PROXY"
        )
    return (
        "is the address right as seen from Label Studio? A firewall, HTTP_PROXY without NO_PROXY there, or its "
        "SSRF_PROTECTION_ENABLED and ML_BLOCK_LOCAL_IP may be in the way"
    )


def _error_advice(seen: Seen, error: str) -> str:
    if "401" in error:
        return f"the password in the connection is wrong; {seen.fix}"
    if "extra_params" in error:
        return "correct the connection's extra params (Settings > Model)"
    return "look at the backend's log"


def _lives(services: Services, uid: str) -> bool:
    known = services.state.load(uid)
    return known is not None and known.deleted_at is None
