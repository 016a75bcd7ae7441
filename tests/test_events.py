"""Reading payloads: every sample gives the event it should, and every form that a payload can have is taken."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from ml_backend.errors import BadInput
from ml_backend.events import (
    Annotation,
    AnnotationsDeleted,
    AnnotationsWritten,
    Ignored,
    Project,
    ProjectDeleted,
    StartTraining,
    Task,
    TasksCreated,
    TasksDeleted,
    WithoutPayload,
    action_of,
    parse,
    parse_project,
)
from tests import samples
from tests.samples import expected

RESULT: list[dict[str, object]] = [
    {"from_name": "sentiment", "to_name": "text", "type": "choices", "value": {"choices": ["Positive"]}}
]
WRITTEN = ["ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_UPDATED"]
DELETED = ["ANNOTATION_DELETED", "ANNOTATIONS_DELETED", "TASK_DELETED", "TASKS_DELETED"]
KNOWN = [*WRITTEN, *DELETED, "TASK_CREATED", "TASKS_CREATED", "PROJECT_CREATED", "PROJECT_UPDATED", "PROJECT_DELETED"]


def written(action: str = "ANNOTATION_CREATED", **data: Any) -> AnnotationsWritten:
    event = parse(action, {"action": action, **data})
    assert isinstance(event, AnnotationsWritten)
    return event


def one(**fields: Any) -> Annotation:
    """The annotation that a payload with these fields gives."""
    (annotation,) = written(annotation={"id": 1, "task": 2, "result": RESULT, **fields}).annotations
    return annotation


def complaint(action: str, **data: Any) -> tuple[str, str]:
    with pytest.raises(BadInput) as caught:
        parse(action, data)
    return caught.value.field, caught.value.reason


class TestSamples:
    @pytest.mark.parametrize("request_", samples.webhooks(), ids=lambda request: f"{request.name} {request.step}")
    def test_a_recorded_request_gives_exactly_the_expected_event(self, request_: samples.Request) -> None:
        assert request_.body is not None
        assert parse(action_of(request_.body), request_.body) == expected.RECORDED[request_.name]

    @pytest.mark.parametrize("name", samples.pages())
    def test_a_payload_of_the_reference_pages_gives_exactly_the_expected_event(self, name: str) -> None:
        body = samples.pages()[name]
        assert parse(action_of(body), body) == expected.PAGES[name]

    def test_no_sample_is_left_out(self) -> None:
        assert {request.name for request in samples.webhooks()} == set(expected.RECORDED)
        assert set(samples.pages()) == set(expected.PAGES)

    def test_the_projects_of_setup_and_predict_are_the_project_of_the_events(self) -> None:
        uids = {
            project.uid
            for request in samples.requests()
            if request.body is not None and (project := parse_project(request.body["project"])) is not None
        }
        assert uids == {"2.1795333883"}

    def test_five_thousand_tasks_cost_less_than_ten_milliseconds(self) -> None:
        body = orjson.loads(samples.import_of_5000())
        durations = []
        for _ in range(10):
            start = time.perf_counter()
            event = parse("TASKS_CREATED", body)
            durations.append(time.perf_counter() - start)
        assert isinstance(event, TasksCreated)
        assert event.count == 5000
        assert min(durations) < 0.010

    def test_an_annotation_costs_less_than_two_hundred_microseconds(self) -> None:
        body = samples.pages()["page-current/annotation_created"]
        durations = []
        for _ in range(10):
            start = time.perf_counter()
            for _ in range(100):
                parse("ANNOTATION_CREATED", body)
            durations.append((time.perf_counter() - start) / 100)
        assert min(durations) < 0.000_2


class TestActions:
    @pytest.mark.parametrize(
        "text", ["annotation_created", "Annotation created", "ANNOTATION CREATED", " Annotation-Created "]
    )
    def test_other_spellings_of_a_known_action_are_the_same(self, text: str) -> None:
        event = parse(text, {"annotation": {"id": 1, "task": 2, "result": RESULT}})
        assert isinstance(event, AnnotationsWritten)
        assert event.action == "ANNOTATION_CREATED"

    def test_the_action_stands_under_action_or_name(self) -> None:
        assert action_of({"action": "START_TRAINING"}) == "START_TRAINING"
        assert action_of({"name": "Task created"}) == "Task created"
        assert action_of({"action": "START_TRAINING", "name": "A model"}) == "START_TRAINING"

    @pytest.mark.parametrize("data", [{}, {"action": None}, {"action": ""}, {"action": 3}, {"name": ["x"]}])
    def test_a_payload_without_an_action_is_bad_input(self, data: dict[str, object]) -> None:
        with pytest.raises(BadInput) as caught:
            action_of(data)
        assert caught.value.field == "action"

    @pytest.mark.parametrize("action", [*KNOWN, "Task created"])
    def test_a_known_action_with_nothing_beside_it_is_a_webhook_without_payload(self, action: str) -> None:
        assert parse(action, {"action": action}) == WithoutPayload(action.upper().replace(" ", "_"))
        assert parse(action, {}) == WithoutPayload(action.upper().replace(" ", "_"))

    @pytest.mark.parametrize(
        ("action", "about"),
        [
            ("LABEL_LINK_CREATED", "label links"),
            ("LABEL_LINK_UPDATED", "label links"),
            ("LABEL_LINK_DELETED", "label links"),
            ("ANNOTATION_REVIEW_CREATED", "reviews"),
            ("REVIEW_CREATED", "reviews"),
            ("REVIEWS_DELETED", "reviews"),
            ("COMMENT_CREATED", "comments"),
            ("COMMENTS_DELETED", "comments"),
            ("SOMETHING_NEW", "unknown action"),
            ("", "unknown action"),
        ],
    )
    def test_an_action_of_no_use_is_ignored_with_a_reason(self, action: str, about: str) -> None:
        event = parse(action, {"project": {"id": 4}})
        assert isinstance(event, Ignored)
        assert event.reason.startswith(about)
        assert event.project == Project(4)

    @pytest.mark.parametrize("project", [True, [], {"id": "x"}, "abc", {"id": 1, "task_number": 2}])
    def test_an_unknown_action_is_never_an_error_whatever_its_project(self, project: object) -> None:
        assert parse("WHATEVER", {"project": project}) == Ignored("WHATEVER", "unknown action")

    def test_an_unknown_action_is_kept_short(self) -> None:
        event = parse("X" * 10_000, {})
        assert isinstance(event, Ignored)
        assert len(event.action) == 80


class TestAnnotationsWritten:
    @pytest.mark.parametrize("action", WRITTEN)
    @pytest.mark.parametrize("key", ["annotation", "annotations"])
    @pytest.mark.parametrize("listed", [True, False])
    def test_a_list_or_an_object_is_taken_under_either_key(self, action: str, key: str, listed: bool) -> None:
        entry = {"id": 1, "task": 2, "result": RESULT}
        event = written(action, **{key: [entry] if listed else entry})
        assert event.annotations == (Annotation(1, 2, RESULT),)

    def test_lists_under_singular_keys_are_matched_by_task_id(self) -> None:
        event = written(
            "ANNOTATIONS_CREATED",
            annotation=[{"id": 1, "task": 11, "result": []}, {"id": 2, "task": 12, "result": []}],
            task=[{"id": 12, "data": {"text": "b"}}, {"id": 11, "data": {"text": "a"}}],
        )
        assert [annotation.task for annotation in event.annotations] == [11, 12]
        assert {task.id: task.data for task in event.tasks} == {11: {"text": "a"}, 12: {"text": "b"}}

    @pytest.mark.parametrize("task", [2, "2", {"id": 2}, {"id": "2", "data": None}])
    def test_the_task_is_an_id_or_an_object(self, task: object) -> None:
        assert one(task=task).task == 2

    @pytest.mark.parametrize("task", [2, "2", {"id": 2}])
    def test_a_missing_task_is_the_one_beside_the_annotation(self, task: object) -> None:
        (annotation,) = written(annotation={"id": 1, "result": RESULT}, task=task).annotations
        assert annotation.task == 2

    def test_missing_tasks_are_those_beside_in_the_same_order(self) -> None:
        event = written(
            "ANNOTATIONS_CREATED", annotations=[{"id": 1, "result": []}, {"id": 2, "result": []}], tasks=[11, 12]
        )
        assert [annotation.task for annotation in event.annotations] == [11, 12]

    def test_a_task_nested_in_the_annotation_brings_its_data(self) -> None:
        event = written(annotation={"id": 1, "result": [], "task": {"id": 2, "data": {"text": "a"}}})
        assert event.tasks == (Task(2, {"text": "a"}),)

    def test_an_annotation_of_no_known_task_is_bad_input(self) -> None:
        entries = [{"id": 1, "result": []}, {"id": 2, "result": []}]
        assert complaint("ANNOTATIONS_CREATED", annotation=entries, task=[1, 2, 3])[0] == "annotation[0].task"
        assert complaint("ANNOTATION_CREATED", annotation=entries[0]) == ("annotation.task", "is missing")

    @pytest.mark.parametrize("result", [None, [], RESULT])
    def test_a_result_is_a_list_or_null_and_the_two_stay_apart(self, result: object) -> None:
        assert one(result=result).result == result

    def test_missing_flags_and_times_are_no_error(self) -> None:
        assert one(was_cancelled=None) == Annotation(1, 2, RESULT)

    @pytest.mark.parametrize(
        ("given_", "kept"),
        [
            (1, "1"),
            ("7", "7"),
            ("anna@example.com", "anna@example.com"),
            ({"id": 3, "email": "anna@example.com"}, "3"),
            ({"email": "anna@example.com"}, "anna@example.com"),
            (None, None),
            ("", None),
        ],
    )
    def test_the_annotator_is_an_id_an_address_or_an_object(self, given_: object, kept: str | None) -> None:
        assert one(completed_by=given_).completed_by == kept

    def test_predictions_accepted_in_bulk_are_marked(self) -> None:
        entry = {"id": 1, "task": 2, "result": RESULT, "parent_prediction": 5}
        assert written("ANNOTATIONS_CREATED", annotation=[entry]).annotations[0].bulk_accepted
        assert not written("ANNOTATION_CREATED", annotation=entry).annotations[0].bulk_accepted
        assert not written("ANNOTATIONS_UPDATED", annotation=[entry]).annotations[0].bulk_accepted
        assert (
            not written("ANNOTATIONS_CREATED", annotation=[{**entry, "parent_prediction": None}])
            .annotations[0]
            .bulk_accepted
        )

    def test_a_prediction_that_was_only_looked_at_is_no_parent(self) -> None:
        assert one(prediction={"id": 5, "result": RESULT}).parent_prediction is None
        assert one(parent_prediction={"id": 5}).parent_prediction == 5

    def test_the_annotation_names_the_project_where_the_payload_does_not(self) -> None:
        entry = {"id": 1, "task": 2, "result": RESULT, "project": 9}
        assert written(annotation=entry).project == Project(9)
        assert written(annotation=entry, project={"id": 8}).project == Project(8)
        assert written(annotation={**entry, "project": None}).project is None

    def test_fields_that_are_not_needed_are_never_looked_at(self) -> None:
        assert one(lead_time="long", prediction=3, unique_id=[], draft_created_at={}) == Annotation(1, 2, RESULT)


class TestOtherEvents:
    @pytest.mark.parametrize("action", DELETED)
    @pytest.mark.parametrize("entries", [[{"id": 3}, {"id": 4}], [3, 4], ["3", "4"], [{"id": "3"}, 4]])
    @pytest.mark.parametrize("plural", [True, False])
    def test_deletions_carry_ids_in_any_form(self, action: str, entries: list[object], plural: bool) -> None:
        kind = action.split("_", maxsplit=1)[0].rstrip("S").lower()
        event = parse(action, {kind + "s" if plural else kind: entries, "project": 1})
        assert isinstance(event, AnnotationsDeleted | TasksDeleted)
        assert event.ids == (3, 4)
        assert event.project == Project(1)

    @pytest.mark.parametrize("data", [{"task": 7}, {"tasks": {"id": 7}}, {"id": 7}, {"id": "7"}])
    def test_a_single_deletion_may_be_an_object_an_id_or_the_payload_itself(self, data: dict[str, object]) -> None:
        assert parse("TASK_DELETED", data) == TasksDeleted("TASK_DELETED", None, (7,))

    def test_tasks_created_are_counted_and_dated_by_the_newest(self) -> None:
        tasks = [{"updated_at": "2026-11-22T07:00:00Z"}, {"updated_at": "2026-11-22T08:00:00Z"}, {"id": 1}, 5]
        event = parse("TASKS_CREATED", {"tasks": tasks})
        assert event == TasksCreated("TASKS_CREATED", None, 4, expected.us("08:00:00"))

    def test_start_training_needs_a_project(self) -> None:
        assert parse("START_TRAINING", {"project": "2.1795333883"}) == StartTraining(
            "START_TRAINING", Project(2, 1795333883_000_000)
        )
        assert parse("START_TRAINING", {"id": 2}) == StartTraining("START_TRAINING", Project(2))
        assert complaint("START_TRAINING") == ("project", "is missing")

    def test_a_deleted_project_is_an_id_alone(self) -> None:
        event = parse("PROJECT_DELETED", {"project": {"id": 3}})
        assert event == ProjectDeleted("PROJECT_DELETED", Project(3))
        assert event.project.uid is None


class TestProjects:
    @pytest.mark.parametrize("value", [2, "2", {"id": 2}, {"id": "2"}])
    def test_a_project_may_be_a_number_digits_or_an_object(self, value: object) -> None:
        assert parse_project(value) == Project(2)

    def test_a_uid_gives_id_and_creation_time(self) -> None:
        project = parse_project("2.1795333883")
        assert project == Project(2, 1_795_333_883_000_000)
        assert project.uid == "2.1795333883"

    def test_the_uid_of_an_object_has_whole_seconds(self) -> None:
        project = parse_project({"id": 2, "created_at": "2026-11-22T07:51:23.996964Z"})
        assert project is not None
        assert project.uid == "2.1795333883"

    def test_no_project_is_none(self) -> None:
        assert parse_project(None) is None

    @pytest.mark.parametrize(
        ("value", "field"),
        [
            (True, "project"),
            (2.5, "project"),
            (-1, "project"),
            ([], "project"),
            ("", "project"),
            ("2.", "project"),
            (".5", "project"),
            ("2.5.6", "project"),
            ("2.-5", "project"),
            ("2.1234567890123", "project"),
            ("٢.5", "project"),
            ({}, "project.id"),
            ({"id": None}, "project.id"),
            ({"id": 1, "created_at": 5}, "project.created_at"),
            ({"id": 1, "updated_at": "soon"}, "project.updated_at"),
            ({"id": 1, "title": 5}, "project.title"),
            ({"id": 1, "label_config": {}}, "project.label_config"),
            ({"id": 1, "min_annotations_to_start_training": -1}, "project.min_annotations_to_start_training"),
            ({"id": 1, "min_annotations_to_start_training": "3"}, "project.min_annotations_to_start_training"),
            ({"id": 1, "min_annotations_to_start_training": True}, "project.min_annotations_to_start_training"),
            ({"id": 1, "task_number": "many"}, "project.task_number"),
        ],
    )
    def test_a_wrong_project_is_bad_input_that_names_the_field(self, value: object, field: str) -> None:
        with pytest.raises(BadInput) as caught:
            parse_project(value)
        assert caught.value.field == field
