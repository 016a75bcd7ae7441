"""From payloads to events: pure, and it takes what JSON gives.

Sources: both generations of the webhook reference page and recordings of Label Studio 1.23.2.
Where a page and the program disagree (fact 4), both are accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from ml_backend.counters import Counters
from ml_backend.errors import BadInput
from ml_backend.events.types import (
    Annotation,
    AnnotationsDeleted,
    AnnotationsWritten,
    Event,
    Ignored,
    Project,
    ProjectChanged,
    ProjectDeleted,
    StartTraining,
    Task,
    TasksCreated,
    TasksDeleted,
    WithoutPayload,
)
from ml_backend.fields import read_count, read_flag, read_id, read_object, read_text, read_time
from ml_backend.uids import created_us_of, id_of, is_uid

_ENVELOPE = frozenset({"action", "name"})
_LONGEST_ACTION = 80
_USUAL_DATES = re.compile(r"(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)+", re.ASCII)
_OF_NO_USE = (
    ("LABEL_LINK", "label links do not change annotations"),
    ("REVIEW", "reviews do not change annotations by themselves"),
    ("COMMENT", "comments do not change annotations"),
    ("DRAFT", "drafts are no annotations yet"),
)


def action_of(data: Mapping[str, object]) -> str:
    """The action that a payload names: ``action``, or ``name`` as the page of 2021 has it.

    Raises `BadInput` (field ``action``) when there is none or it is no text, ``payload`` when it is no object at all.
    """
    if not isinstance(data, Mapping):
        raise BadInput("payload", "must be an object")
    value = data.get("action")
    if value is None:
        value = data.get("name")
    if not isinstance(value, str) or not value.strip():
        raise BadInput("action", "must be the name of an action")
    return value


def parse(action: str, data: Mapping[str, object]) -> Event:
    """Turn an action and its payload into an event.

    ``data`` is the decoded JSON object, with or without its ``action``. Raises `BadInput` naming the field when a field
    that the event needs has a wrong type; fields that it does not need are never looked at. The event's ``action`` is
    the name in capitals (``ANNOTATION_CREATED`` for the 2021 text "Annotation created"), an unknown one as it came.
    """
    if not isinstance(action, str):
        raise BadInput("action", "must be the name of an action")
    if not isinstance(data, Mapping):
        raise BadInput("payload", "must be an object")
    reader = _READERS.get(action)
    if reader is None:
        name = action.strip().upper().replace(" ", "_").replace("-", "_")
        reader = _READERS.get(name)
        if reader is None:
            return _ignored(action, name, data)
        action = name
    if reader is not _start_training and not data.keys() - _ENVELOPE:
        return WithoutPayload(action)
    return reader(action, data)


def parse_project(value: object, field: str = "project") -> Project | None:
    """Read a project as any of Label Studio's calls name it: object, id, or uid (``2.1795333883``); None for null.

    Raises `BadInput` naming ``field`` or what is below it.
    """
    if value is None:
        return None
    if isinstance(value, dict):
        return Project(
            id=read_id(value.get("id"), f"{field}.id"),
            created_at_us=read_time(value.get("created_at"), f"{field}.created_at"),
            updated_at_us=read_time(value.get("updated_at"), f"{field}.updated_at"),
            title=read_text(value.get("title"), f"{field}.title"),
            label_config=read_text(value.get("label_config"), f"{field}.label_config"),
            min_annotations=read_count(
                value.get("min_annotations_to_start_training"), f"{field}.min_annotations_to_start_training"
            ),
            counters=Counters.from_payload(value),
        )
    if isinstance(value, str) and "." in value:
        if not is_uid(value):
            raise BadInput(field, "must be an id, or an id and its creation time such as 2.1795333883")
        return Project(id=read_id(id_of(value), field), created_at_us=created_us_of(value))
    return Project(id=read_id(value, field))


@dataclass(frozen=True, slots=True)
class _Entries:
    """What an event is about: the entries, the key they stood under, and whether as a list."""

    items: Sequence[object]
    key: str
    listed: bool

    def at(self, index: int) -> str:
        """The path of one entry: ``annotations[2]``, ``annotation``; empty where the payload itself is the entry."""
        return f"{self.key}[{index}]" if self.listed else self.key

    def prefix(self, index: int) -> str:
        """What stands before the name of one entry's field."""
        return f"{self.at(index)}." if self.key else ""


def _entries(data: Mapping[str, object], keys: tuple[str, str], mark: str) -> _Entries:
    """Find the entries under either key, as a list, an object or an id (fact 4).

    The page of 2021 has the fields of a single one in the payload itself; ``mark`` is the field that shows it.
    """
    for key in keys:
        value = data.get(key)
        if isinstance(value, list):
            return _Entries(value, key, listed=True)
        if value is not None:
            return _Entries((value,), key, listed=False)
    if mark in data:
        return _Entries((data,), "", listed=False)
    raise BadInput(keys[0], "is missing")


def _annotations_written(action: str, data: Mapping[str, object]) -> AnnotationsWritten:
    entries = _entries(data, ("annotation", "annotations"), "result")
    beside = _tasks_beside(data)
    tasks = {task.id: task for task in beside}
    bulk = entries.listed and action.endswith("_CREATED")
    annotations: list[Annotation] = []
    for index, entry in enumerate(entries.items):
        if not isinstance(entry, Mapping):
            raise BadInput(entries.at(index), "must be an object")
        at = entries.prefix(index)
        if entry.get("task") is not None:
            task = parse_task(entry["task"], f"{at}task")
        elif len(beside) == len(entries.items):
            task = beside[index]
        elif len(beside) == 1:
            task = beside[0]
        else:
            raise BadInput(f"{at}task", "is missing")
        if task.data is not None:
            tasks.setdefault(task.id, task)
        annotations.append(parse_annotation(entry, at, task.id, bulk=bulk))
    return AnnotationsWritten(action, _project_of(data, entries), tuple(annotations), tuple(tasks.values()))


def parse_annotation(entry: Mapping[str, object], at: str, task: int, *, bulk: bool) -> Annotation:
    """Read one annotation of a payload, or of Label Studio's API: both must give the same, or a sync would see changes.

    ``at`` stands before the name of a field in errors; ``bulk``: created in a list, or never saved by a person.
    Raises `BadInput`.
    """
    parent = entry.get("parent_prediction")
    if isinstance(parent, dict):
        parent = parent.get("id")
    return Annotation(
        id=read_id(entry.get("id"), f"{at}id"),
        task=task,
        result=_result(entry, f"{at}result"),
        was_cancelled=read_flag(entry.get("was_cancelled"), f"{at}was_cancelled"),
        ground_truth=read_flag(entry.get("ground_truth"), f"{at}ground_truth"),
        created_at_us=read_time(entry.get("created_at"), f"{at}created_at"),
        updated_at_us=read_time(entry.get("updated_at"), f"{at}updated_at"),
        completed_by=_person(entry.get("completed_by"), f"{at}completed_by"),
        parent_prediction=None if parent is None else read_id(parent, f"{at}parent_prediction"),
        bulk_accepted=bulk and parent is not None,
    )


def _annotations_deleted(action: str, data: Mapping[str, object]) -> AnnotationsDeleted:
    entries = _entries(data, ("annotations", "annotation"), "id")
    return AnnotationsDeleted(action, _project_of(data, entries), _ids(entries))


def _tasks_deleted(action: str, data: Mapping[str, object]) -> TasksDeleted:
    entries = _entries(data, ("tasks", "task"), "id")
    return TasksDeleted(action, _project_of(data, entries), _ids(entries))


def _tasks_created(action: str, data: Mapping[str, object]) -> TasksCreated:
    entries = _entries(data, ("tasks", "task"), "id")
    newest = _newest(entries)
    return TasksCreated(action, _project_of(data, entries), len(entries.items), newest)


def _newest(entries: _Entries) -> int | None:
    """The latest ``updated_at``, in microseconds. Nothing else of a task is looked at: an import brings thousands."""
    dates = [entry.get("updated_at") for entry in entries.items if isinstance(entry, dict)]
    if dates and len(dates) == len(entries.items) and all(isinstance(date, str) for date in dates):
        texts = cast("list[str]", dates)
        # Written as Label Studio writes them, they order as text.
        if _USUAL_DATES.fullmatch("".join(texts)):
            return read_time(max(texts), "tasks.updated_at")
    newest: int | None = None
    for index, entry in enumerate(entries.items):
        try:
            moment = read_time(entry.get("updated_at"), "") if isinstance(entry, Mapping) else None
        except BadInput as wrong:
            raise BadInput(f"{entries.prefix(index)}updated_at", wrong.reason) from None
        if moment is None:
            if not isinstance(entry, Mapping):
                read_id(entry, entries.at(index))
        elif newest is None or moment > newest:
            newest = moment
    return newest


def _project_changed(action: str, data: Mapping[str, object]) -> ProjectChanged:
    return ProjectChanged(action, _needed_project(data))


def _project_deleted(action: str, data: Mapping[str, object]) -> ProjectDeleted:
    return ProjectDeleted(action, _needed_project(data))


def _start_training(action: str, data: Mapping[str, object]) -> StartTraining:
    return StartTraining(action, _needed_project(data))


def _ignored(action: str, name: str, data: Mapping[str, object]) -> Ignored:
    reason = next((reason for part, reason in _OF_NO_USE if part in name), "unknown action")
    try:
        project = parse_project(data.get("project"))
    except BadInput:
        project = None
    return Ignored(action[:_LONGEST_ACTION], reason, project)


_READERS: dict[str, Callable[[str, Mapping[str, object]], Event]] = {
    "ANNOTATION_CREATED": _annotations_written,
    "ANNOTATIONS_CREATED": _annotations_written,
    "ANNOTATION_UPDATED": _annotations_written,
    "ANNOTATIONS_UPDATED": _annotations_written,
    "ANNOTATION_DELETED": _annotations_deleted,
    "ANNOTATIONS_DELETED": _annotations_deleted,
    "TASK_CREATED": _tasks_created,
    "TASKS_CREATED": _tasks_created,
    "TASK_DELETED": _tasks_deleted,
    "TASKS_DELETED": _tasks_deleted,
    "PROJECT_CREATED": _project_changed,
    "PROJECT_UPDATED": _project_changed,
    "PROJECT_DELETED": _project_deleted,
    "START_TRAINING": _start_training,
}


def _project_of(data: Mapping[str, object], entries: _Entries) -> Project | None:
    """The payload's project; without one, what the first entry names."""
    value = data.get("project")
    if value is not None:
        return parse_project(value)
    first = entries.items[0] if entries.items else None
    if isinstance(first, Mapping):
        return parse_project(first.get("project"), f"{entries.prefix(0)}project")
    return None


def _needed_project(data: Mapping[str, object]) -> Project:
    """The payload's project, or the ``id`` in its place (the page of 2021, on deletion)."""
    project = parse_project(data.get("project"))
    if project is not None:
        return project
    if data.get("id") is None:
        raise BadInput("project", "is missing")
    return Project(id=read_id(data["id"], "id"))


def _tasks_beside(data: Mapping[str, object]) -> list[Task]:
    """The tasks beside the annotations, in the order of the payload."""
    if data.get("task") is None and data.get("tasks") is None:
        return []
    entries = _entries(data, ("task", "tasks"), "id")
    return [parse_task(entry, entries.at(index)) for index, entry in enumerate(entries.items)]


def parse_task(value: object, field: str) -> Task:
    """Read one task, an object or an id alone. Raises `BadInput` naming ``field`` or what is below it."""
    if not isinstance(value, dict):
        return Task(id=read_id(value, field))
    return Task(
        id=read_id(value.get("id"), f"{field}.id"),
        data=read_object(value.get("data"), f"{field}.data"),
        created_at_us=read_time(value.get("created_at"), f"{field}.created_at"),
        updated_at_us=read_time(value.get("updated_at"), f"{field}.updated_at"),
    )


def _ids(entries: _Entries) -> tuple[int, ...]:
    found: list[int] = []
    for index, entry in enumerate(entries.items):
        if isinstance(entry, Mapping):
            found.append(read_id(entry.get("id"), f"{entries.prefix(index)}id"))
        else:
            found.append(read_id(entry, entries.at(index)))
    return tuple(found)


def _result(entry: Mapping[str, object], field: str) -> list[dict[str, object]] | None:
    if "result" not in entry:
        raise BadInput(field, "is missing")
    result = entry["result"]
    if result is None:
        return None
    if not isinstance(result, list):
        raise BadInput(field, "must be a list or null")
    for index, region in enumerate(result):
        if not isinstance(region, dict):
            raise BadInput(f"{field}[{index}]", "must be an object")
    return result


def _person(value: object, field: str) -> str | None:
    """Who annotated: an id, an e-mail address (2021), or an object with either."""
    if isinstance(value, dict):
        value = value.get("id") if value.get("id") is not None else value.get("email")
    if value is None or isinstance(value, str):
        return value or None
    return str(read_id(value, field))
