"""Reading junk: what is wrong in a payload is named by its field, and nothing but `BadInput` is ever raised."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_backend.errors import BadInput
from ml_backend.events import Annotation, AnnotationsWritten, action_of, parse
from tests import samples
from tests.samples import expected

if TYPE_CHECKING:
    from ml_backend.events import Event

WRITTEN = ["ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_UPDATED"]
DELETED = ["ANNOTATION_DELETED", "ANNOTATIONS_DELETED", "TASK_DELETED", "TASKS_DELETED"]
KNOWN = [*WRITTEN, *DELETED, "TASK_CREATED", "TASKS_CREATED", "PROJECT_CREATED", "PROJECT_UPDATED", "PROJECT_DELETED"]
LARGEST = 2**53


def one(**fields: Any) -> Annotation:
    """The annotation that a payload with these fields gives."""
    event = parse("ANNOTATION_CREATED", {"annotation": {"id": 1, "task": 2, "result": [], **fields}})
    assert isinstance(event, AnnotationsWritten)
    (annotation,) = event.annotations
    return annotation


def complaint(action: str, **data: Any) -> tuple[str, str]:
    with pytest.raises(BadInput) as caught:
        parse(action, data)
    return caught.value.field, caught.value.reason


class TestIds:
    @pytest.mark.parametrize("value", [0, 1, "1", "0001", LARGEST, str(LARGEST)])
    def test_an_id_is_a_whole_number_or_its_digits(self, value: int | str) -> None:
        assert one(id=value).id == int(value)

    @pytest.mark.parametrize(
        "value",
        [
            True,
            False,
            -1,
            LARGEST + 1,
            str(LARGEST + 1),
            "9" * 5000,
            1.0,
            math.nan,
            math.inf,
            "",
            " 1",
            "1.0",
            "-1",
            "٣",
            "²",
            [],
        ],
        ids=lambda value: repr(value)[:20],
    )
    @pytest.mark.parametrize("field", ["id", "task", "parent_prediction"])
    def test_anything_else_is_bad_input(self, value: object, field: str) -> None:
        at, _ = complaint("ANNOTATION_CREATED", annotation={"id": 1, "task": 2, "result": [], field: value})
        assert at == f"annotation.{field}"

    @pytest.mark.parametrize("field", ["id", "task"])
    def test_a_needed_id_that_is_null_is_missing(self, field: str) -> None:
        at, reason = complaint("ANNOTATION_CREATED", annotation={"id": 1, "task": 2, "result": [], field: None})
        assert (at, reason) == (f"annotation.{field}", "is missing")

    @pytest.mark.parametrize("value", [None, {}, {"id": None}])
    def test_no_parent_prediction_is_none(self, value: object) -> None:
        assert one(parent_prediction=value).parent_prediction is None


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "microseconds"),
        [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-22T07:51:30.660842Z", 1_795_333_890_660_842),
            ("2026-11-22T07:51:30.660842+00:00", 1_795_333_890_660_842),
            ("2026-11-22T07:51:30.660842", 1_795_333_890_660_842),
            ("2026-11-22 07:51:30.660842Z", 1_795_333_890_660_842),
            ("2026-11-22T08:51:30.660842+01:00", 1_795_333_890_660_842),
            ("2026-11-22T02:21:30.660842-05:30", 1_795_333_890_660_842),
            ("2026-11-22T07:51:30.66Z", 1_795_333_890_660_000),
            ("2026-11-22T07:51:30Z", 1_795_333_890_000_000),
            ("2026-11-22T07:51Z", 1_795_333_860_000_000),
        ],
    )
    def test_every_form_of_a_time_is_read_to_the_microsecond(self, text: str, microseconds: int) -> None:
        assert one(updated_at=text).updated_at_us == microseconds

    @settings(deadline=None)
    @given(st.datetimes(min_value=datetime(1970, 1, 1)))  # noqa: DTZ001 - hypothesis takes naive bounds
    def test_any_time_is_read_to_the_microsecond(self, moment: datetime) -> None:
        read = one(created_at=f"{moment.isoformat()}Z").created_at_us
        assert read == expected.us(moment.time().isoformat(), moment.date().isoformat())

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "now",
            "2026-11-22",
            "20261122T075130Z",
            "2026-11-22T25:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-11-22T07:51:30.660842Zulu",
            "2026-11-22X07:51:30Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "0001-01-01T00:00:00+23:59",
            "2" * 10_000,
            1_795_333_890,
            1.5,
            True,
            [],
            {},
        ],
        ids=lambda value: repr(value)[:35],
    )
    @pytest.mark.parametrize("field", ["created_at", "updated_at"])
    def test_what_is_no_time_is_bad_input(self, value: object, field: str) -> None:
        at, reason = complaint("ANNOTATION_CREATED", annotation={"id": 1, "task": 2, "result": [], field: value})
        assert at == f"annotation.{field}"
        assert "date and time" in reason


class TestPaths:
    """A complaint names the field as the sender wrote it."""

    @pytest.mark.parametrize(
        ("action", "data", "field"),
        [
            ("ANNOTATION_CREATED", {"annotations": [{}, {}]}, "annotations[0].task"),
            ("ANNOTATION_CREATED", {"annotations": [{"task": 1}]}, "annotations[0].id"),
            (
                "ANNOTATIONS_CREATED",
                {"annotations": [{"id": 1, "task": 1, "result": []}] * 2 + [{"id": True, "task": 1, "result": []}]},
                "annotations[2].id",
            ),
            ("ANNOTATION_CREATED", {"annotation": {"id": 1, "task": 2}}, "annotation.result"),
            ("ANNOTATION_CREATED", {"annotation": {"id": 1, "task": 2, "result": {}}}, "annotation.result"),
            ("ANNOTATION_CREATED", {"annotation": {"id": 1, "task": 2, "result": "[]"}}, "annotation.result"),
            ("ANNOTATION_CREATED", {"annotation": {"id": 1, "task": 2, "result": [{}, 5]}}, "annotation.result[1]"),
            (
                "ANNOTATION_CREATED",
                {"annotation": {"id": 1, "task": 2, "result": [], "was_cancelled": 1}},
                "annotation.was_cancelled",
            ),
            (
                "ANNOTATION_CREATED",
                {"annotation": {"id": 1, "task": 2, "result": [], "ground_truth": "true"}},
                "annotation.ground_truth",
            ),
            (
                "ANNOTATION_CREATED",
                {"annotation": {"id": 1, "task": 2, "result": [], "completed_by": False}},
                "annotation.completed_by",
            ),
            ("ANNOTATION_CREATED", {"annotation": 5}, "annotation"),
            ("ANNOTATION_CREATED", {"annotation": [5]}, "annotation[0]"),
            ("ANNOTATION_CREATED", {"project": 1}, "annotation"),
            ("ANNOTATION_CREATED", {"annotation": {"id": 1, "result": []}, "task": []}, "annotation.task"),
            ("ANNOTATION_CREATED", {"annotation": {"id": 1, "result": []}, "task": {}}, "task.id"),
            ("ANNOTATION_CREATED", {"annotation": {"id": 1, "result": []}, "task": {"id": 1, "data": 5}}, "task.data"),
            ("ANNOTATION_CREATED", {"annotation": {"id": 1, "result": []}, "tasks": [{"id": []}]}, "tasks[0].id"),
            ("ANNOTATION_CREATED", {"result": [], "task": 1}, "id"),
            ("ANNOTATION_DELETED", {"annotation": [{"id": None}]}, "annotation[0].id"),
            ("ANNOTATION_DELETED", {"annotations": "all"}, "annotations"),
            ("ANNOTATIONS_DELETED", {"annotations": [1, [2]]}, "annotations[1]"),
            ("ANNOTATIONS_DELETED", {"project": 1}, "annotations"),
            ("TASKS_DELETED", {"tasks": [{}]}, "tasks[0].id"),
            ("TASKS_CREATED", {"tasks": [{}, {"updated_at": 7}]}, "tasks[1].updated_at"),
            ("TASKS_CREATED", {"tasks": [{}, "x"]}, "tasks[1]"),
            ("TASKS_CREATED", {"project": 1}, "tasks"),
            ("PROJECT_UPDATED", {"project": []}, "project"),
            ("PROJECT_DELETED", {"id": "three"}, "id"),
        ],
    )
    def test_the_field_is_a_dotted_path_with_indexes(self, action: str, data: dict[str, Any], field: str) -> None:
        assert complaint(action, **data)[0] == field

    @pytest.mark.parametrize("data", [None, [], "x", 5])
    def test_a_payload_that_is_no_object_is_bad_input(self, data: Any) -> None:
        with pytest.raises(BadInput) as caught:
            parse("TASKS_CREATED", data)
        assert caught.value.field == "payload"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["2.1795333883", "2026-11-22T07:51:30.660842Z", "7"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "task", "data", "result", "project", "updated_at", "task_number", "completed_by"])
            | st.text(max_size=8),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)
PAYLOADS = st.dictionaries(
    st.sampled_from(["id", "annotation", "annotations", "task", "tasks", "project", "result", "name"]), JSON, max_size=6
)


def parsed(action: str, data: dict[str, Any]) -> Event | tuple[str, str]:
    """The event, or field and reason: both are right for junk, anything else that is raised is not."""
    try:
        return parse(action, data)
    except BadInput as wrong:
        return wrong.field, wrong.reason


class TestAnyJson:
    @settings(max_examples=1000, deadline=None)
    @given(action=st.sampled_from([*KNOWN, "START_TRAINING", "LABEL_LINK_CREATED"]) | st.text(), data=PAYLOADS)
    def test_parsing_gives_an_event_or_bad_input_and_nothing_else(self, action: str, data: dict[str, Any]) -> None:
        event = parsed(action, data)
        assert event == parsed(action, data)

    @settings(max_examples=500, deadline=None)
    @given(
        sample=st.sampled_from([*samples.pages().values(), *(one.body or {} for one in samples.webhooks()[:-1])]),
        data=st.data(),
    )
    def test_one_wrong_value_anywhere_in_a_sample_gives_an_event_or_bad_input(
        self, sample: dict[str, Any], data: st.DataObject
    ) -> None:
        body = orjson.loads(orjson.dumps(sample))
        place: Any = body
        while True:
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(JSON)
        parsed(action_of(sample), body)

    @settings(deadline=None)
    @given(data=JSON)
    def test_a_list_of_anything_is_an_event_or_bad_input(self, data: Any) -> None:
        for action in KNOWN:
            parsed(action, {"annotations": data, "tasks": data, "project": data})

    def test_deep_nesting_is_no_trouble(self) -> None:
        nested: Any = []
        for _ in range(50_000):
            nested = [nested]
        assert one(result=[{"value": nested}]).result is not None
