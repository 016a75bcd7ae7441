"""The eight counters: read as Label Studio sends them, derived as Label Studio counts them."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_backend.counters import CountedAnnotation, Counters, DerivedCounters, derive
from ml_backend.errors import BadInput
from ml_backend.events import Annotation, AnnotationsDeleted, AnnotationsWritten, action_of, parse, parse_project
from tests import samples

NAMES = (
    "task_number",
    "finished_task_number",
    "total_predictions_number",
    "total_annotations_number",
    "num_tasks_with_annotations",
    "useful_annotation_number",
    "ground_truth_number",
    "skipped_annotations_number",
)
COUNTS = st.integers(min_value=0, max_value=2**53)
ANNOTATIONS = st.lists(
    st.builds(CountedAnnotation, st.integers(1, 5), st.booleans(), st.booleans(), st.booleans()), max_size=30
)


def payload(**changes: object) -> dict[str, Any]:
    return {**{name: number for number, name in enumerate(NAMES)}, **changes}


def counted(annotation: Annotation) -> CountedAnnotation:
    return CountedAnnotation(
        annotation.task, annotation.was_cancelled, annotation.ground_truth, annotation.result is not None
    )


class TestReading:
    def test_the_names_are_the_eight_of_the_reference_page_in_its_order(self) -> None:
        assert Counters.names() == NAMES

    @pytest.mark.parametrize("name", NAMES)
    def test_each_counter_is_read_from_its_own_name(self, name: str) -> None:
        counters = Counters.from_payload(payload(**{name: 777}))
        assert counters is not None
        assert getattr(counters, name) == 777
        assert counters.as_dict() == payload(**{name: 777})

    @settings(deadline=None)
    @given(st.fixed_dictionaries(dict.fromkeys(NAMES, COUNTS), optional={"id": st.integers(), "title": st.text()}))
    def test_any_eight_counts_survive_reading_and_writing(self, project: dict[str, Any]) -> None:
        counters = Counters.from_payload(project)
        assert counters is not None
        assert counters.as_dict() == {name: project[name] for name in NAMES}

    @pytest.mark.parametrize("project", [{}, {"id": 2}, dict.fromkeys(NAMES)])
    def test_a_project_without_any_has_none(self, project: dict[str, Any]) -> None:
        assert Counters.from_payload(project) is None

    @pytest.mark.parametrize("name", NAMES)
    def test_one_that_is_missing_among_the_others_is_bad_input(self, name: str) -> None:
        for project in (payload(**{name: None}), {key: value for key, value in payload().items() if key != name}):
            with pytest.raises(BadInput) as caught:
                Counters.from_payload(project)
            assert caught.value.field == f"project.{name}"

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("value", [-1, True, False, 1.0, math.nan, "1", [], {}, 2**53 + 1, 10**400])
    def test_anything_but_a_whole_number_from_zero_is_bad_input(self, name: str, value: object) -> None:
        with pytest.raises(BadInput) as caught:
            Counters.from_payload(payload(**{name: value}))
        assert caught.value.field == f"project.{name}"
        assert "whole number" in caught.value.reason

    @settings(deadline=None)
    @given(st.dictionaries(st.sampled_from(NAMES), st.none() | st.integers() | st.floats() | st.text() | st.booleans()))
    def test_any_values_give_counters_none_or_bad_input(self, project: dict[str, Any]) -> None:
        try:
            counters = Counters.from_payload(project)
        except BadInput:
            return
        assert counters is None or counters.as_dict() == project


class TestDeriving:
    @pytest.mark.parametrize(
        ("annotation", "total", "with_annotations", "useful", "ground_truth", "skipped"),
        [
            (CountedAnnotation(1, was_cancelled=False, ground_truth=False, has_result=True), 1, 1, 1, 0, 0),
            (CountedAnnotation(1, was_cancelled=False, ground_truth=False, has_result=False), 1, 0, 0, 0, 0),
            (CountedAnnotation(1, was_cancelled=True, ground_truth=False, has_result=True), 0, 0, 0, 0, 1),
            (CountedAnnotation(1, was_cancelled=False, ground_truth=True, has_result=True), 1, 0, 0, 1, 0),
            (CountedAnnotation(1, was_cancelled=True, ground_truth=True, has_result=True), 0, 0, 0, 1, 1),
        ],
        ids=["submitted", "result is null", "skipped", "ground truth", "skipped ground truth"],
    )
    def test_one_annotation_counts_where_it_should(
        self,
        annotation: CountedAnnotation,
        total: int,
        with_annotations: int,
        useful: int,
        ground_truth: int,
        skipped: int,
    ) -> None:
        assert derive([annotation]) == DerivedCounters(total, with_annotations, useful, ground_truth, skipped)

    def test_nothing_counts_nothing(self) -> None:
        assert derive([]) == DerivedCounters()

    @given(ANNOTATIONS)
    def test_the_counters_add_up(self, annotations: list[CountedAnnotation]) -> None:
        counters = derive(iter(annotations))
        assert counters.total_annotations_number + counters.skipped_annotations_number == len(annotations)
        assert counters.num_tasks_with_annotations <= counters.useful_annotation_number
        assert counters.useful_annotation_number <= counters.total_annotations_number
        assert counters.useful_annotation_number + counters.ground_truth_number <= len(annotations)

    @given(ANNOTATIONS, st.randoms(use_true_random=False))
    def test_the_order_does_not_matter(self, annotations: list[CountedAnnotation], random: Any) -> None:
        shuffled = list(annotations)
        random.shuffle(shuffled)
        assert derive(shuffled) == derive(annotations)

    @given(ANNOTATIONS, ANNOTATIONS)
    def test_projects_add_up_where_they_share_no_task(
        self, here: list[CountedAnnotation], there: list[CountedAnnotation]
    ) -> None:
        moved = [
            CountedAnnotation(one.task + 100, one.was_cancelled, one.ground_truth, one.has_result) for one in there
        ]
        both, first, second = derive(here + moved), derive(here), derive(moved)
        for name in NAMES[3:]:
            assert getattr(both, name) == getattr(first, name) + getattr(second, name)

    @given(ANNOTATIONS)
    def test_tasks_are_counted_once_however_many_useful_annotations_they_have(
        self, annotations: list[CountedAnnotation]
    ) -> None:
        useful: defaultdict[int, int] = defaultdict(int)
        for one in annotations:
            useful[one.task] += one.useful
        assert derive(annotations).num_tasks_with_annotations == sum(count > 0 for count in useful.values())


class TestAgainstTheRecording:
    def test_what_is_derived_from_the_recorded_annotations_is_what_label_studio_counted(self) -> None:
        annotations: dict[int, Annotation] = {}
        compared = 0
        for request in samples.webhooks():
            event = parse(action_of(request.body or {}), request.body or {})
            if isinstance(event, AnnotationsWritten):
                annotations.update({one.id: one for one in event.annotations})
            elif isinstance(event, AnnotationsDeleted):
                for number in event.ids:
                    annotations.pop(number, None)
            if request.step == "import tasks with annotations":
                break
            project = parse_project((request.body or {})["project"])
            assert project is not None
            assert project.counters is not None
            assert derive(map(counted, annotations.values())).differences(project.counters) == {}
            compared += 1
        assert compared == 9

    def test_imported_annotations_show_as_a_difference(self) -> None:
        """Three came with tasks: no event told of them, and they are ground truth (fact 8)."""
        body = next(one.body for one in samples.webhooks() if one.step == "import tasks with annotations")
        assert body is not None
        reported = Counters.from_payload(body["project"])
        assert reported is not None
        seen = DerivedCounters(2, 2, 2, 0, 0)
        assert seen.differences(reported) == {"total_annotations_number": 3, "ground_truth_number": 3}

    @given(ANNOTATIONS, ANNOTATIONS)
    def test_a_difference_is_reported_minus_derived(
        self, kept: list[CountedAnnotation], reported: list[CountedAnnotation]
    ) -> None:
        ours, theirs = derive(kept), derive(reported)
        numbers = {name: getattr(theirs, name) for name in NAMES[3:]}
        found = ours.differences(Counters(0, 0, 0, **numbers))
        assert found == {
            name: numbers[name] - getattr(ours, name) for name in NAMES[3:] if numbers[name] != getattr(ours, name)
        }
