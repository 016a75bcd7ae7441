"""The event that each sample must give, written down by hand from the payloads."""

from __future__ import annotations

import calendar
from datetime import datetime
from typing import Any

from ml_backend.counters import Counters
from ml_backend.events import (
    Annotation,
    AnnotationsDeleted,
    AnnotationsWritten,
    Event,
    Project,
    ProjectChanged,
    ProjectDeleted,
    StartTraining,
    Task,
    TasksCreated,
    TasksDeleted,
)

_TWO = (
    '<View><Text name="text" value="$text"/><Choices name="sentiment" toName="text">'
    '<Choice value="Positive"/><Choice value="Negative"/></Choices></View>'
)
_THREE = _TWO.replace("</Choices>", '<Choice value="Neutral"/></Choices>')
_EMPTY = "<View></View>"
_COMMENT = '<!-- {"data": {"text": "An example, as a comment behind the config."}} -->'
_SPANS = (
    '<View> <Header value="Read this"/> <Text name="text" value="$ner" granularity="word"/> '
    '<Header value="Mark the words that answer:"/> <Text name="question" value="$ner"/>\n'
    '<Labels name="answer" toName="text"> <Label value="Answer" maxUsage="1" background="red"/> </Labels>\n</View>'
) + _COMMENT
_BOXES = (
    '<View> <Image name="image" value="$image"/> <RectangleLabels name="label" toName="image"> '
    '<Label value="Airplane" background="green"/> <Label value="Car" background="blue"/> </RectangleLabels> </View>\n'
) + _COMMENT
_BIRDS = (
    '<View><Image name="image" value="$image"/><Choices name="bird" toName="image">'
    '<Choice value="Heron"/><Choice value="Stork"/></Choices></View>'
)


def us(text: str, day: str = "2026-11-22") -> int:
    """Microseconds since the epoch of a time of day in UTC, ``07:51:23.096964``."""
    moment = datetime.fromisoformat(f"{day} {text}+00:00")
    return calendar.timegm(moment.utctimetuple()) * 1_000_000 + moment.microsecond


def _early(*counters: int) -> Project:
    """The recorded project as it was made."""
    return Project(
        2,
        us("07:51:23.096964"),
        us("07:51:23.096997"),
        "Text clf",
        _TWO,
        min_annotations=0,
        counters=Counters(*counters),
    )


def _late(*counters: int) -> Project:
    """The recorded project after its threshold, title and label config were changed."""
    return Project(
        2,
        us("07:51:23.096964"),
        us("07:51:43.268361"),
        "Text clf 2",
        _THREE,
        min_annotations=3,
        counters=Counters(*counters),
    )


def _choice(label: str) -> list[dict[str, object]]:
    return [{"from_name": "sentiment", "to_name": "text", "type": "choices", "value": {"choices": [label]}}]


def _written(action: str, counters: tuple[int, ...], annotation: Annotation, task: Task) -> AnnotationsWritten:
    return AnnotationsWritten(action, _early(*counters), (annotation,), (task,))


def _annotation(number: int, task: int, label: str | None, created: str, updated: str, **flags: bool) -> Annotation:
    result = [] if label is None else _choice(label)
    return Annotation(
        number, task, result, created_at_us=us(created), updated_at_us=us(updated), completed_by="1", **flags
    )


def _task(number: int, text: str, created: str, updated: str) -> Task:
    return Task(number, {"text": text}, us(created), us(updated))


RECORDED: dict[str, Event] = {
    "05-tasks-created": TasksCreated("TASKS_CREATED", _early(1, 0, 0, 0, 0, 0, 0, 0), 1, us("07:51:26.906004")),
    "06-tasks-created": TasksCreated("TASKS_CREATED", _early(4, 0, 0, 0, 0, 0, 0, 0), 3, us("07:51:28.158618")),
    "07-tasks-created": TasksCreated("TASKS_CREATED", _early(5, 0, 0, 0, 0, 0, 0, 0), 1, us("07:51:29.414051")),
    "08-annotation-created": _written(
        "ANNOTATION_CREATED",
        (5, 1, 0, 1, 1, 1, 0, 0),
        _annotation(1, 2, "Positive", "07:51:30.660842", "07:51:30.660864"),
        _task(2, "text 0", "07:51:28.158515", "07:51:30.681330"),
    ),
    "09-annotation-updated": _written(
        "ANNOTATION_UPDATED",
        (5, 1, 0, 1, 1, 1, 0, 0),
        _annotation(1, 2, "Negative", "07:51:30.660842", "07:51:31.952772"),
        _task(2, "text 0", "07:51:28.158515", "07:51:31.975142"),
    ),
    "10-annotation-created": _written(  # skipped
        "ANNOTATION_CREATED",
        (5, 1, 0, 1, 1, 1, 0, 1),
        _annotation(2, 3, None, "07:51:33.227990", "07:51:33.228018", was_cancelled=True),
        _task(3, "text 1", "07:51:28.158581", "07:51:33.243074"),
    ),
    "11-annotation-created": _written(
        "ANNOTATION_CREATED",
        (5, 2, 0, 2, 1, 1, 1, 1),
        _annotation(3, 4, "Positive", "07:51:34.488941", "07:51:34.488965", ground_truth=True),
        _task(4, "text 2", "07:51:28.158612", "07:51:34.504847"),
    ),
    "12-annotation-updated": _written(  # the skip is undone
        "ANNOTATION_UPDATED",
        (5, 3, 0, 3, 2, 2, 1, 0),
        _annotation(2, 3, "Positive", "07:51:33.227990", "07:51:35.764843"),
        _task(3, "text 1", "07:51:28.158581", "07:51:35.784555"),
    ),
    "13-annotations-deleted": AnnotationsDeleted("ANNOTATIONS_DELETED", _early(5, 2, 0, 2, 2, 2, 0, 0), (3,)),
    "14-tasks-created": TasksCreated("TASKS_CREATED", _early(8, 5, 3, 5, 2, 2, 3, 0), 3, us("07:51:39.508564")),
    "15-project-updated": ProjectChanged(
        "PROJECT_UPDATED",
        Project(
            2,
            us("07:51:23.096964"),
            us("07:51:42.009310"),
            "Text clf 2",
            _TWO,
            min_annotations=3,
            counters=Counters(8, 5, 4, 5, 2, 2, 3, 0),
        ),
    ),
    "16-project-updated": ProjectChanged("PROJECT_UPDATED", _late(8, 5, 4, 5, 2, 2, 3, 0)),
    "17-start-training": StartTraining("START_TRAINING", _late(8, 5, 4, 5, 2, 2, 3, 0)),
    "27-annotations-deleted": AnnotationsDeleted("ANNOTATIONS_DELETED", _late(8, 5, 12, 3, 0, 0, 3, 0), (1, 2)),
    "28-tasks-deleted": TasksDeleted("TASKS_DELETED", _late(5, 3, 8, 3, 0, 0, 3, 0), (2, 3, 4)),
    "29-tasks-deleted": TasksDeleted("TASKS_DELETED", _late(4, 3, 7, 3, 0, 0, 3, 0), (5,)),
    "30-tasks-created": TasksCreated("TASKS_CREATED", _late(6004, 3, 7, 3, 0, 0, 3, 0), 5000, us("07:51:58.007665")),
}


def _on_page(number: int, title: str, config: str, created: str, updated: str) -> Project:
    made, changed = (us(time, day) for day, time in (created.split(), updated.split()))
    return Project(number, made, changed, title, config, min_annotations=10)


def _page_two(updated: str, config: str = _SPANS) -> Project:
    return _on_page(2, "New Project #2", config, "2021-08-17 13:49:34.326416", f"2021-08-17 {updated}")


def _page_one(updated: str) -> Project:
    return _on_page(1, "New Project #5", _BOXES, "2021-08-12 14:15:01.744507", f"2021-08-17 {updated}")


def _birds(title: str = "Birds", updated: str = "08:00:00") -> Project:
    return _on_page(3, title, _BIRDS, "2021-05-03 08:00:00", f"2021-05-04 {updated}")


def _bird(label: str, updated: str, by: str) -> dict[str, Any]:
    """The annotation of 2021: e-mail address or id as author, and a prediction that it was *not* made from."""
    result: list[dict[str, object]] = [
        {"id": "a1", "from_name": "bird", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    ]
    made, changed = us("09:11:00", "2021-05-04"), us(updated, "2021-05-04")
    annotation = Annotation(12, 7, result, created_at_us=made, updated_at_us=changed, completed_by=by)
    task = Task(
        7, {"image": "s3://bucket/heron.png"}, us("09:10:11.123456", "2021-05-04"), us("09:11:00", "2021-05-04")
    )
    return {"annotations": (annotation,), "tasks": (task,)}


def _box(number: str, label: str, x: float, y: float, width: float, height: float) -> dict[str, object]:
    shape = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [label]}
    names = {"from_name": "label", "to_name": "image", "type": "rectanglelabels"}
    return {"original_width": 1024, "original_height": 1024, "image_rotation": 0, "value": shape, "id": number, **names}


_SPAN: dict[str, object] = {
    "value": {"start": 0, "end": 18, "text": "Herons are patient", "labels": ["Answer"]},
    "id": "WArqkkifYE",
    "from_name": "answer",
    "to_name": "text",
    "type": "labels",
}
_PAGE_DAY = "2021-08-17"

PAGES: dict[str, Event] = {
    "page-2021/task_created": TasksCreated("TASK_CREATED", None, 2),
    "page-2021/task_created_fields": TasksCreated("TASK_CREATED", Project(3), 1, us("09:10:12.000001", "2021-05-04")),
    "page-2021/task_deleted": TasksDeleted("TASK_DELETED", None, (1, 2)),
    "page-2021/task_deleted_fields": TasksDeleted("TASK_DELETED", None, (7,)),
    "page-2021/annotation_created_fields": AnnotationsWritten(
        "ANNOTATION_CREATED", _birds(), **_bird("Heron", "09:11:00", "anna@example.com")
    ),
    "page-2021/annotation_updated_fields": AnnotationsWritten(
        "ANNOTATION_UPDATED", _birds(), **_bird("Stork", "09:12:30.500000", "4")
    ),
    "page-2021/annotation_deleted": AnnotationsDeleted("ANNOTATION_DELETED", None, (1,)),
    "page-2021/annotation_deleted_fields": AnnotationsDeleted("ANNOTATION_DELETED", None, (12,)),
    "page-2021/project_created_fields": ProjectChanged("PROJECT_CREATED", _birds()),
    "page-2021/project_updated_fields": ProjectChanged("PROJECT_UPDATED", _birds("Water birds", "10:00:00")),
    "page-2021/project_deleted_fields": ProjectDeleted("PROJECT_DELETED", Project(3)),
    "page-current/tasks_created": TasksCreated(
        "TASKS_CREATED", _page_two("13:49:35.911271", _EMPTY), 3, us("13:51:02.590995", _PAGE_DAY)
    ),
    "page-current/task_created_fields": TasksCreated(
        "TASK_CREATED", _page_two("13:49:35.911271", _EMPTY), 1, us("13:51:02.590873", _PAGE_DAY)
    ),
    "page-current/tasks_deleted": TasksDeleted("TASKS_DELETED", _page_two("13:52:09.334425"), (18, 19, 20, 21, 22, 23)),
    "page-current/task_deleted_fields": TasksDeleted("TASK_DELETED", _page_two("13:52:09.334425"), (18,)),
    "page-current/annotation_created": AnnotationsWritten(
        "ANNOTATION_CREATED",
        _page_two("13:52:09.334425"),
        (
            Annotation(
                17,
                19,
                [_SPAN],
                created_at_us=us("13:52:48.536303", _PAGE_DAY),
                updated_at_us=us("13:52:48.536370", _PAGE_DAY),
                completed_by="1",
            ),
        ),
    ),
    "page-current/annotation_updated": AnnotationsWritten(
        "ANNOTATION_UPDATED",
        _page_one("13:35:25.697471"),
        (
            Annotation(
                16,
                5,
                [
                    _box("5dC-jDgBtG", "Airplane", 42, 36.4, 50.13333333333333, 26),
                    _box("_bJsGZ0_Cm", "Car", 12.533333333333333, 37.733333333333334, 23.6, 22),
                ],
                created_at_us=us("13:35:59.817086", _PAGE_DAY),
                updated_at_us=us("13:37:25.805479", _PAGE_DAY),
                completed_by="1",
            ),
        ),
    ),
    "page-current/annotations_deleted": AnnotationsDeleted("ANNOTATIONS_DELETED", _page_two("13:52:09.334425"), (17,)),
    "page-current/annotation_deleted_fields": AnnotationsDeleted(
        "ANNOTATION_DELETED", _page_two("13:52:09.334425"), (17,)
    ),
    "page-current/project_created": ProjectChanged(
        "PROJECT_CREATED",
        _on_page(3, "New Project #3", _EMPTY, "2021-08-17 13:55:58.809065", "2021-08-17 13:55:58.809098"),
    ),
    "page-current/project_updated": ProjectChanged("PROJECT_UPDATED", _page_one("13:39:14.054849")),
    "page-current/project_deleted": ProjectDeleted("PROJECT_DELETED", Project(3)),
    "page-current/start_training_fields": StartTraining("START_TRAINING", _page_one("13:39:14.054849")),
}
