"""What Label Studio's API answers, as frozen values; reading is pure and shares its rules with the webhooks' events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ml_backend.errors import BadInput, LabelStudioError
from ml_backend.events import Annotation, Project, Task, parse_annotation, parse_project, parse_task
from ml_backend.fields import read_flag, read_id, read_object, read_text, read_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_backend.label_studio.tokens import TokenKind

Read = TypeVar("Read")

_MAYBE_CUT_FROM = 400
"""Label Studio cuts the text that lists a task's versions at 500 characters, then drops quotes."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the key belongs to; ``release`` is Label Studio's version, empty where it does not tell."""

    user_id: int
    email: str
    token_kind: TokenKind
    release: str


@dataclass(frozen=True, slots=True)
class ProjectDetails:
    """A project: ``project`` as events know it (uid, config, counters), and settings that only the API tells.

    The API gives no ``updated_at`` of a project. ``sampling`` is Label Studio's text ("Uncertainty sampling").
    """

    project: Project
    model_version: str
    show_predictions: bool
    sampling: str


@dataclass(frozen=True, slots=True)
class LabelledTask:
    """A task and all its annotations, skipped ones and ground truth included."""

    task: Task
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True, slots=True)
class PlainTask:
    """A task as predictions need it.

    ``labelled`` is Label Studio's ``is_labeled``: enough annotations for the project's overlap. ``versions``, of its
    stored predictions, is None where Label Studio cut the list short.
    """

    id: int
    data: dict[str, object]
    created_at_us: int
    updated_at_us: int
    labelled: bool
    versions: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class StoredPrediction:
    """A prediction to store: ``result`` is a list of regions, ``score`` the rank that Label Studio orders by."""

    task: int
    result: list[dict[str, object]]
    score: float
    model_version: str


@dataclass(frozen=True, slots=True)
class PlacedPrediction:
    """A prediction that Label Studio has stored. ``is_parent``: an annotation of its task says that it began as it."""

    id: int
    task: int
    is_parent: bool


@dataclass(frozen=True, slots=True)
class Connection:
    """A connected backend. ``basic_auth_user`` is None unless it uses Basic auth; no API tells the password.

    ``state`` is Label Studio's two letters: CO connected, DI disconnected, ER error, TR training, PR predicting.
    """

    id: int
    project_id: int
    url: str
    title: str
    state: str
    error: str
    model_version: str
    basic_auth_user: str | None
    extra_params: object


@dataclass(frozen=True, slots=True)
class WantedConnection:
    """A connection to make: ``login`` is user and password, or None where the URL carries them or none are asked."""

    url: str
    title: str
    login: tuple[str, str] | None = field(repr=False)
    extra_params: object = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook; ``project_id`` is None for the organization's. ``actions`` matter unless ``all_actions``."""

    id: int
    project_id: int | None
    url: str
    active: bool
    send_payload: bool
    all_actions: bool
    actions: tuple[str, ...]
    headers: dict[str, str]


def read_list(value: object, read: Callable[[Mapping[str, object]], Read], what: str) -> list[Read]:
    """Read a list of objects; raises `LabelStudioError` when the answer is none, or one entry cannot be read."""
    if not isinstance(value, list):
        raise LabelStudioError(f"Label Studio answered with something else than a list of {what}")
    return [read_one(entry, read, what) for entry in value]


def read_one(value: object, read: Callable[[Mapping[str, object]], Read], what: str) -> Read:
    """Read one object; raises `LabelStudioError` when the answer is none, or a field has a wrong type."""
    if not isinstance(value, Mapping):
        raise LabelStudioError(f"Label Studio answered with something else than {what}")
    try:
        return read(value)
    except BadInput as wrong:
        raise LabelStudioError(f"Label Studio answered with {what} that cannot be read: {wrong}") from wrong


def read_project(entry: Mapping[str, object]) -> ProjectDetails:
    """Read `GET /api/projects/<id>/`."""
    project = parse_project(entry)
    if project is None:
        raise BadInput("project", "is missing")
    return ProjectDetails(
        project=project,
        model_version=read_text(entry.get("model_version"), "model_version") or "",
        show_predictions=read_flag(entry.get("show_collab_predictions"), "show_collab_predictions"),
        sampling=read_text(entry.get("sampling"), "sampling") or "",
    )


def read_labelled_task(entry: Mapping[str, object]) -> LabelledTask:
    """Read a task of the Data Manager with its annotations.

    An annotation that nobody saved by hand has no ``updated_by``: with a parent prediction it was accepted in bulk and
    never touched since (fact 21); without one it was imported. An annotator's Submit always sets it. It is null again
    once that person is deleted, but the time that the Submit took stays.
    """
    task = parse_task(entry, "task")
    annotations: list[Annotation] = []
    for index, annotation in enumerate(_objects(entry.get("annotations"), "task.annotations")):
        at = f"task.annotations[{index}]."
        unsaved = annotation.get("updated_by") is None and annotation.get("lead_time") is None
        annotations.append(parse_annotation(annotation, at, task.id, bulk=unsaved))
    return LabelledTask(task, tuple(annotations))


def read_task_id(entry: Mapping[str, object]) -> int:
    """Read a task of the Data Manager's list of ids."""
    return read_id(entry.get("id"), "task.id")


def read_plain_task(entry: Mapping[str, object]) -> PlainTask:
    """Read a task of the Data Manager without its annotations."""
    versions = _listed(entry.get("predictions_model_versions"), "predictions_model_versions")
    return PlainTask(
        id=read_id(entry.get("id"), "task.id"),
        data=read_object(entry.get("data"), "task.data") or {},
        created_at_us=_time(entry, "created_at"),
        updated_at_us=_time(entry, "updated_at"),
        labelled=read_flag(entry.get("is_labeled"), "task.is_labeled"),
        versions=None if versions is None else frozenset(versions),
    )


def read_predictions(version: str, entry: Mapping[str, object]) -> list[PlacedPrediction]:
    """Read a task's predictions of that version."""
    task = read_task_id(entry)
    parents = {one.get("parent_prediction") for one in _objects(entry.get("annotations"), "task.annotations")}
    ids = {
        read_id(one.get("id"), "prediction.id")
        for one in _objects(entry.get("predictions"), "task.predictions")
        if one.get("model_version") == version
    }
    return [PlacedPrediction(one, task, is_parent=one in parents) for one in sorted(ids)]


def read_connection(entry: Mapping[str, object]) -> Connection:
    """Read an entry of `GET /api/ml/`."""
    basic = entry.get("auth_method") == "BASIC_AUTH"
    return Connection(
        id=read_id(entry.get("id"), "id"),
        project_id=read_id(entry.get("project"), "project"),
        url=read_text(entry.get("url"), "url") or "",
        title=read_text(entry.get("title"), "title") or "",
        state=read_text(entry.get("state"), "state") or "",
        error=read_text(entry.get("error_message"), "error_message") or "",
        model_version=read_text(entry.get("model_version"), "model_version") or "",
        basic_auth_user=(read_text(entry.get("basic_auth_user"), "basic_auth_user") or "") if basic else None,
        extra_params=entry.get("extra_params"),
    )


def read_webhook(entry: Mapping[str, object]) -> Webhook:
    """Read an entry of `GET /api/webhooks/`."""
    project = entry.get("project")
    actions = entry.get("actions")
    headers = read_object(entry.get("headers"), "headers") or {}
    return Webhook(
        id=read_id(entry.get("id"), "id"),
        project_id=None if project is None else read_id(project, "project"),
        url=read_text(entry.get("url"), "url") or "",
        active=read_flag(entry.get("is_active"), "is_active"),
        send_payload=read_flag(entry.get("send_payload"), "send_payload"),
        all_actions=read_flag(entry.get("send_for_all_actions"), "send_for_all_actions"),
        actions=tuple(str(action) for action in actions) if isinstance(actions, list) else (),
        headers={name: str(value) for name, value in headers.items()},
    )


def _objects(value: object, field: str) -> list[Mapping[str, object]]:
    if not isinstance(value, list):
        raise BadInput(field, "must be a list")
    for entry in value:
        if not isinstance(entry, Mapping):
            raise BadInput(field, "must be a list of objects")
    return value


def _time(entry: Mapping[str, object], name: str) -> int:
    moment = read_time(entry.get(name), f"task.{name}")
    if moment is None:
        raise BadInput(f"task.{name}", "is missing")
    return moment


def _listed(value: object, field: str) -> list[str] | None:
    """The entries of a text like ``12, 7``; None where it may have been cut short."""
    text = read_text(value, field) or ""
    if len(text) >= _MAYBE_CUT_FROM:
        return None
    return [entry for part in text.split(",") if (entry := part.strip())]
