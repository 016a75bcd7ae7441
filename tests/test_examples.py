"""What a model author reads off an example: task data by key, regions, and the label that counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_backend.examples import Example, LabelledAnnotation, labels_of, value_of

Region = dict[str, Any]


def choices(*labels: str, control: str = "sentiment") -> Region:
    return {"from_name": control, "to_name": "text", "type": "choices", "value": {"choices": list(labels)}}


def annotation(number: int, *regions: Region, at: int | None = None, **more: Any) -> LabelledAnnotation:
    return LabelledAnnotation(number, list(regions), number, number if at is None else at, **more)


def example(*annotations: LabelledAnnotation, **data: Any) -> Example:
    return Example({"id": 7, "data": data or {"text": "hello"}}, annotations)


# --- task data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "key", "value"),
    [
        ({"text": "hello"}, "text", "hello"),
        ({"text": "hello"}, "$text", "hello"),
        ({"text": "hello"}, "body", None),
        ({"$undefined$": "a line"}, "$undefined$", "a line"),
        ({"$undefined$": "a line"}, "undefined$", "a line"),
        ({"text": "a line"}, "$undefined$", "a line"),
        ({"$undefined$": "a line", "source": "x"}, "$undefined$", "a line"),
        ({"one": 1, "two": 2}, "$undefined$", None),
        ({"doc": {"title": "T", "parts": ["a", {"b": "c"}]}}, "$doc.title", "T"),
        ({"doc": {"title": "T", "parts": ["a", {"b": "c"}]}}, "$doc.parts.0", "a"),
        ({"doc": {"title": "T", "parts": ["a", {"b": "c"}]}}, "$doc.parts[1].b", "c"),
        ({"images": ["/a.png", "/b.png"]}, "$images", ["/a.png", "/b.png"]),
        ({"images": ["/a.png", "/b.png"]}, "$images[1]", "/b.png"),
        ({"images": ["/a.png"]}, "$images[1]", None),
        ({"images": ["/a.png"]}, "$images.first", None),
        ({"a.b": "dotted"}, "$a.b", "dotted"),
        ({"text": None}, "text", None),
        ({"count": 0}, "count", 0),
        ({}, "text", None),
    ],
)
def test_task_data_is_found_by_the_name_the_label_config_uses(data: Any, key: str, value: object) -> None:
    assert value_of({"id": 1, "data": data}, key) == value
    assert Example({"id": 1, "data": data}, ()).value(key) == value


@pytest.mark.parametrize("task", [{}, {"data": None}, {"data": "text"}])
def test_a_task_without_data_has_no_values(task: Any) -> None:
    assert value_of(task, "text") is None


def test_a_path_is_fetched_by_what_stands_in_the_task_data() -> None:
    asked = []

    def fetch(task: dict[str, Any], url: str) -> Path:
        asked.append((task["id"], url))
        return Path("/cache/a.png")

    one = Example({"id": 7, "data": {"image": "/data/upload/a.png"}}, (), fetch)
    assert one.path("$image") == Path("/cache/a.png")
    assert asked == [(7, "/data/upload/a.png")]


def test_without_a_fetcher_a_path_is_a_lookup_error() -> None:
    with pytest.raises(LookupError, match="nothing here fetches media"):
        example().path("text")


# --- regions ----------------------------------------------------------------------------------------------------------


def test_results_are_the_raw_regions_of_all_annotations() -> None:
    rating = {"from_name": "stars", "type": "rating", "value": {"rating": 4}}
    relation = {"type": "relation", "from_id": "a", "to_id": "b"}
    one = example(annotation(1, choices("Positive"), rating), annotation(2, choices("Negative"), relation))
    assert one.results() == [choices("Positive"), rating, choices("Negative"), relation]
    assert one.results("sentiment") == [choices("Positive"), choices("Negative")]
    assert one.results("stars") == [rating]
    assert one.results("nobody") == []


@pytest.mark.parametrize(
    ("region", "labels"),
    [
        (choices("Positive", "Funny"), ["Positive", "Funny"]),
        ({"type": "labels", "value": {"start": 0, "end": 3, "labels": ["PER"]}}, ["PER"]),
        ({"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["Car"]}}, ["Car"]),
        ({"type": "choices", "value": {"choices": "Positive"}}, ["Positive"]),
        ({"type": "taxonomy", "value": {"taxonomy": [["A", "B"], ["C"]]}}, []),
        ({"type": "choices", "value": {}}, []),
        ({"type": "choices", "value": None}, []),
        ({"type": "choices"}, []),
        ({"type": "relation", "from_id": "a"}, []),
        ({"value": {"choices": ["Positive"]}}, []),
        ({"type": "choices", "value": {"choices": ["Positive", 3, None]}}, ["Positive"]),
    ],
)
def test_labels_are_those_under_the_value_that_a_regions_type_names(region: Region, labels: list[str]) -> None:
    assert labels_of(region) == labels


# --- which label counts -----------------------------------------------------------------------------------------------


def test_most_annotations_decide() -> None:
    one = example(annotation(1, choices("A")), annotation(2, choices("B")), annotation(3, choices("A")))
    assert one.majority("sentiment") == ("A",)


def test_a_tie_goes_to_the_newest() -> None:
    one = example(annotation(1, choices("A"), at=50), annotation(2, choices("B"), at=40))
    assert one.majority("sentiment") == ("A",)
    assert example(annotation(1, choices("A")), annotation(2, choices("B"))).majority("sentiment") == ("B",)
    even = example(annotation(1, choices("A"), at=5), annotation(2, choices("B"), at=5))
    assert even.majority("sentiment") == ("B",)


def test_several_labels_of_one_annotation_are_one_vote_in_their_order() -> None:
    one = example(annotation(1, choices("A", "B")), annotation(2, choices("A", "B")), annotation(3, choices("A")))
    assert one.majority("sentiment") == ("A", "B")


def test_ground_truth_decides_alone() -> None:
    one = example(
        annotation(1, choices("A"), ground_truth=True), annotation(2, choices("B")), annotation(3, choices("B"))
    )
    assert one.majority("sentiment") == ("A",)
    assert one.newest("sentiment") == [choices("A")]
    assert one.ground_truth


def test_an_empty_result_is_a_vote_for_nothing() -> None:
    one = example(annotation(1), annotation(2), annotation(3, choices("A")))
    assert one.majority("sentiment") == ()


def test_other_controls_have_no_say() -> None:
    one = example(annotation(1, choices("A"), choices("X", control="topic")))
    assert one.majority("topic") == ("X",)
    assert one.majority("sentiment") == ("A",)


def test_without_annotations_there_is_no_label() -> None:
    assert example().majority("sentiment") == ()
    assert example().newest("sentiment") == []
    assert not example().ground_truth


def test_the_newest_is_the_one_updated_last() -> None:
    one = example(annotation(1, choices("A"), at=90), annotation(2, choices("B"), at=80))
    assert one.newest("sentiment") == [choices("A")]


def test_an_example_began_as_a_prediction_when_all_its_annotations_did() -> None:
    accepted = annotation(1, choices("A"), from_prediction=True)
    assert example(accepted).from_prediction
    assert not example(accepted, annotation(2, choices("A"))).from_prediction
    assert not example().from_prediction


def test_its_id_is_the_tasks() -> None:
    assert example().id == 7
