"""What the product asks of Label Studio, call by call.

Tasks are read through the Data Manager's list. ``include`` names the fields to compute and ``expand`` has all
annotations of a page made by one serializer: 5,000 annotated tasks take 2.0 s (5.4 s by export, which moreover leaves a
file in Label Studio's data folder each time). Pages are asked for by id greater than the last, since page numbers skip
rows while others delete (fact 24).
"""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self, TypeVar

import orjson

from ml_backend.counters import Counters
from ml_backend.errors import LabelStudioError, LabelStudioRefused
from ml_backend.fields import read_id, read_text
from ml_backend.label_studio.connection_calls import ConnectionCalls
from ml_backend.label_studio.records import (
    Identity,
    LabelledTask,
    PlacedPrediction,
    PlainTask,
    ProjectDetails,
    StoredPrediction,
    read_labelled_task,
    read_list,
    read_one,
    read_plain_task,
    read_predictions,
    read_project,
    read_task_id,
)
from ml_backend.label_studio.transport import TimedOut, TooLarge, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Read = TypeVar("Read")
Filter = dict[str, object]

LARGEST_PAGE = 1000
_LARGEST_ID_PAGE = 5000
_FIRST_PAGE = 100
_PROJECTS_PAGE = 100
_PAGE_BYTES = 8_000_000
"""Pages are made as large as this allows: one task with brush strokes may be larger than a thousand texts."""

_PROJECT_FIELDS = (
    "id",
    "title",
    "created_at",
    "label_config",
    "min_annotations_to_start_training",
    "model_version",
    "show_collab_predictions",
    "sampling",
)
_ANNOTATION_FIELDS = (
    "id",
    "created_at",
    "updated_at",
    "result",
    "completed_by",
    "was_cancelled",
    "ground_truth",
    "parent_prediction",
    "updated_by",
    "lead_time",
)


def _with_annotations(of_task: Sequence[str], of_annotations: Sequence[str]) -> dict[str, str]:
    # With the dot for the serializer that ``expand`` makes; without it for the task itself, and for a Label Studio that
    # does not expand.
    named = (*of_task, "annotations", *of_annotations, *(f"annotations.{name}" for name in of_annotations))
    # One serializer for all annotations of the page; otherwise one is made for each task: half of the time.
    return {"include": ",".join(named), "fields": "all", "expand": "annotations"}


# What is asked of each task. ``fields=all`` takes a quarter longer, and ids do without it: a filter by a column has
# that column computed.
_LABELLED = _with_annotations(("data",), _ANNOTATION_FIELDS)
_PLAIN = {"include": "id,data,created_at,updated_at,is_labeled,predictions_model_versions", "fields": "all"}
_PREDICTIONS = _with_annotations(("id", "predictions"), ("parent_prediction",))
_IDS = {"include": "id"}


class LabelStudioApi(ConnectionCalls):
    """One Label Studio, as the owner of one API key sees it. A context manager; threads may share it.

    ``base_url`` may hold a path prefix. ``timeout_s`` limits each request, ``patience_s`` how long a failing one is
    repeated (5xx, 429 and connection errors only), ``pause`` sleeps in between and may raise to end it.
    Every call may raise `WrongToken`, `LabelStudioRefused` (its ``status``), `LabelStudioUnreachable`, or
    `LabelStudioError` for an answer that makes no sense; creating one raises `WrongToken` and `SettingsError`.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout_s: float = 60.0,
        patience_s: float = 30.0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = Transport(base_url, api_key, timeout_s=timeout_s, patience_s=patience_s, pause=pause)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    @property
    def time_us(self) -> int | None:
        """Label Studio's own clock at its last answer, in microseconds, cut to seconds; None where it did not say."""
        return self._transport.time_us

    def authorization(self, *, renew: bool = False) -> dict[str, str]:
        """The header that Label Studio's own files ask for. Send it to ``base_url`` only, and across no redirect."""
        return self._transport.authorization(renew=renew)

    def check(self) -> Identity:
        """Whom the key belongs to: the cheapest call that proves address and key."""
        who = self._transport.json("GET", "/api/current-user/whoami")
        release = self._transport.json("GET", "/api/version")

        def read(entry: Mapping[str, object]) -> Identity:
            return Identity(
                user_id=read_id(entry.get("id"), "id"),
                email=read_text(entry.get("email"), "email") or "",
                token_kind=self._transport.token_kind,
                release=str(release.get("release") or "") if isinstance(release, dict) else "",
            )

        return read_one(who, read, "a user")

    def project(self, project_id: int, *, counted: bool = False) -> ProjectDetails:
        """Its settings, and with ``counted`` all eight counters. `LabelStudioRefused` 404: gone, or not the key's.

        At 5,000 tasks 15 ms, 19 with the counters, and 30 with all that Label Studio knows of it.
        """
        wanted = (*_PROJECT_FIELDS, *(Counters.names() if counted else ()))
        answer = self._transport.json("GET", f"/api/projects/{project_id}/", parameters={"include": ",".join(wanted)})
        return read_one(answer, read_project, "a project")

    def projects(self) -> Iterator[list[ProjectDetails]]:
        """Pages of all projects of the key's organization that its owner sees, newest first."""
        page = 0
        while True:
            page += 1
            parameters: dict[str, str | int] = {"page": page, "page_size": _PROJECTS_PAGE}
            answer = self._transport.json("GET", "/api/projects/", parameters=parameters)
            results = answer.get("results") if isinstance(answer, dict) else None
            yield read_list(results, read_project, "projects")
            if not isinstance(answer, dict) or not answer.get("next"):
                return

    def create_project(self, title: str, label_config: str, **settings: object) -> int:
        """Create one; its id. ``settings`` are Label Studio's own (``sampling``, for instance)."""
        body = {"title": title, "label_config": label_config, **settings}
        answer = self._transport.json("POST", "/api/projects/", body=body, repeatable=False)
        return read_one(answer, lambda entry: read_id(entry.get("id"), "id"), "a project")

    def set_sampling(self, project_id: int, sampling: str) -> None:
        """Set the order of tasks: "Sequential sampling", "Uniform sampling" or "Uncertainty sampling"."""
        self._transport.json("PATCH", f"/api/projects/{project_id}/", body={"sampling": sampling})

    def touch_project(self, project_id: int) -> None:
        """Save the project as it is: nothing changes for anybody, and `PROJECT_UPDATED` goes to its webhooks."""
        self._transport.json("PATCH", f"/api/projects/{project_id}/", body={})

    # Tasks

    def import_tasks(self, project_id: int, tasks: Sequence[Mapping[str, object]]) -> int:
        """Import data objects as tasks; how many were created."""
        path = f"/api/projects/{project_id}/import"
        answer = self._transport.json("POST", path, body=list(tasks), repeatable=False)
        created = answer.get("task_count") if isinstance(answer, dict) else None
        if not isinstance(created, int):
            raise LabelStudioError("Label Studio does not say how many tasks it stored")
        return created

    def labelled_tasks(
        self, project_id: int, *, after: int = 0, since_us: int | None = None
    ) -> Iterator[list[LabelledTask]]:
        """Pages of the tasks that have annotations, by ascending id greater than ``after``.

        ``since_us``: only those whose ``updated_at`` is that or later. A task's ``updated_at`` moves when one of its
        annotations is created, edited or deleted (facts 23 and 24 name the exceptions).
        Storage URLs in ``data`` stay as they are stored, as events carry them.
        """
        wanted = [_has_annotations(True), *_since(since_us)]
        yield from self._pages(project_id, wanted, _LABELLED, read_labelled_task, after=after, certain=True)

    def unlabelled_since(self, project_id: int, since_us: int) -> Iterator[list[int]]:
        """Pages of the ids of tasks updated since then that have no annotation: new, or they lost theirs."""
        wanted = [_has_annotations(False), *_since(since_us)]
        yield from self._pages(project_id, wanted, _IDS, read_task_id, largest=_LARGEST_ID_PAGE)

    def plain_tasks(
        self, project_id: int, *, after: int = 0, lacking: str | None = None, created_from_us: int | None = None
    ) -> Iterator[list[PlainTask]]:
        """Pages of all tasks without their annotations, with the versions of their stored predictions.

        ``lacking``: only those without a prediction of that version; ``created_from_us``: only those created since.
        """
        wanted = [*_lacking(lacking), *_since(created_from_us, "created_at")]
        yield from self._pages(project_id, wanted, _PLAIN, read_plain_task, after=after)

    def plain_tasks_by_id(
        self, project_id: int, ids: Sequence[int], *, lacking: str | None = None
    ) -> Iterator[list[PlainTask]]:
        """Pages of the given tasks without their annotations; deleted ones are missing. ``lacking`` as above."""
        for part in _parts(ids):
            yield from self._pages(project_id, [_among(part), *_lacking(lacking)], _PLAIN, read_plain_task)

    def _pages(
        self,
        project_id: int,
        wanted: list[Filter],
        asked: Mapping[str, str],
        read: Callable[[Mapping[str, object]], Read],
        *,
        after: int = 0,
        largest: int = LARGEST_PAGE,
        certain: bool = False,
    ) -> Iterator[list[Read]]:
        """Pages of the Data Manager's list. One that takes too long or is too large is asked for again at a quarter.

        ``certain``: the end is where a page is empty. The total is counted before the page is read, which then ends at
        that number: a task that came in between pushes out the last one.
        """
        size = min(_FIRST_PAGE, largest)
        while True:
            filters = {"conjunction": "and", "items": [*wanted, _filter("id", "greater", "Number", after)]}
            query = {"filters": filters, "ordering": ["tasks:id"]}
            parameters: dict[str, str | int] = {
                "project": project_id,
                "page_size": size,
                "resolve_uri": "false",
                **asked,
                "query": orjson.dumps(query).decode(),
            }
            try:
                answer, length = self._transport.sized(
                    "GET", "/api/tasks/", parameters=parameters, timeouts_pass=size == 1
                )
            except (TimedOut, TooLarge):
                if size == 1:
                    raise
                size = max(1, size // 4)
                continue
            tasks = answer.get("tasks") if isinstance(answer, dict) else None
            page = read_list(tasks, read, "tasks")
            total = answer.get("total") if isinstance(answer, dict) else None
            if not isinstance(tasks, list) or not isinstance(total, int):
                raise LabelStudioError("Label Studio answered /api/tasks/ without the total of its tasks")
            if not page:
                return
            yield page
            # Not a short page, the total says that it was the last: servers may limit the page's size below ours.
            if len(page) >= total and not certain:
                return
            after = max(after + 1, *(read_id(task["id"], "task.id") for task in tasks))
            size = max(1, min(largest, size * 4, len(page) * _PAGE_BYTES // max(1, length)))

    # Predictions

    def import_predictions(self, project_id: int, predictions: Sequence[StoredPrediction]) -> int:
        """Store them; how many were created. Never repeated by itself, since it would store them twice.

        `LabelStudioRefused` 400 when one names a deleted task: earlier chunks of 500 stay stored (fact 27).
        """
        body = [
            {"task": one.task, "result": one.result, "score": one.score, "model_version": one.model_version}
            for one in predictions
        ]
        path = f"/api/projects/{project_id}/import/predictions"
        answer = self._transport.json("POST", path, body=body, repeatable=False)
        created = answer.get("created") if isinstance(answer, dict) else None
        if not isinstance(created, int):
            raise LabelStudioError("Label Studio does not say how many predictions it stored")
        return created

    def prediction_versions(self, project_id: int) -> dict[str, int]:
        """How many predictions are stored of each version."""
        answer = self._transport.json("GET", f"/api/projects/{project_id}/model-versions/")
        if not isinstance(answer, dict):
            raise LabelStudioError("Label Studio answered with something else than a count by version")
        return {str(version): int(count) for version, count in answer.items() if isinstance(count, int)}

    def stored_predictions(self, project_id: int, version: str) -> Iterator[list[PlacedPrediction]]:
        """Pages of that version's predictions, in the order of their tasks."""
        wanted = [_filter("predictions_model_versions", "contains", "List", [version])]
        for page in self._pages(project_id, wanted, _PREDICTIONS, functools.partial(read_predictions, version)):
            yield list(dict.fromkeys(one for found in page for one in found))

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete one, if it is still there; nothing else changes."""
        try:
            self._transport.json("DELETE", f"/api/predictions/{prediction_id}/")
        except LabelStudioRefused as refused:
            if refused.status != 404:
                raise

    def set_model_version(self, project_id: int, version: str, *, show: bool | None = None) -> None:
        """Set whose predictions order the tasks and are shown; ``show`` False shows them to nobody (fact 22).

        `LabelStudioRefused` 400 unless predictions of it exist, or a connection has it as its title.
        """
        body: dict[str, object] = {"model_version": version}
        if show is not None:
            body["show_collab_predictions"] = show
        self._transport.json("PATCH", f"/api/projects/{project_id}/", body=body)


def _filter(column: str, operator: str, kind: str, value: object) -> Filter:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def _has_annotations(yes: bool) -> Filter:
    """Asks the annotations themselves: a task's own counts leave skipped ones out."""
    return _filter("annotations_ids", "empty", "Number", not yes)


def _since(since_us: int | None, column: str = "updated_at") -> list[Filter]:
    if since_us is None:
        return []
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=since_us)
    return [_filter(column, "greater_or_equal", "Datetime", moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))]


def _lacking(version: str | None) -> list[Filter]:
    """Asks the predictions themselves: the text that lists a task's versions is cut short (`PlainTask`)."""
    if version is None:
        return []
    return [_filter("predictions_model_versions", "not_contains", "List", [version])]


def _among(ids: Sequence[int]) -> Filter:
    return _filter("id", "in_list", "List", list(ids))


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Parts that fit into a request line, whatever server stands before Label Studio (4 KB is a common limit)."""
    for start in range(0, len(ids), 200):
        yield ids[start : start + 200]
