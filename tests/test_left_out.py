"""What models answered about tasks they were trained without: kept compactly, judged by the answers as they are now."""

from __future__ import annotations

import base64
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend import left_out
from ml_backend.errors import VersionCorrupt
from ml_backend.examples import Example, LabelledAnnotation
from ml_backend.label_config import parse_label_config
from ml_backend.left_out import Answered

CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="mood" toName="text"><Choice value="good"/>'
    '<Choice value="bad"/></Choices><Labels name="who" toName="text"><Label value="PER"/></Labels></View>'
)
CONTROLS = parse_label_config(CONFIG)
MOOD = CONTROLS[0]


def mood(label: str) -> dict[str, Any]:
    return {"from_name": "mood", "to_name": "text", "type": "choices", "value": {"choices": [label]}}


def person(start: int, end: int) -> dict[str, Any]:
    value = {"start": start, "end": end, "text": "Ada Lovelace"[start:end], "labels": ["PER"]}
    return {"from_name": "who", "to_name": "text", "type": "labels", "value": value}


def example(number: int, *regions: dict[str, Any], text: str = "", created: int = 1) -> Example:
    task = {"id": number, "data": {"text": text or f"number {number}"}, "created_at_us": created}
    return Example(task, (LabelledAnnotation(number, list(regions), 1, 1),))


def answered(examples: list[Example], label: str) -> dict[int, Answered]:
    return left_out.collected(examples, {one.id: {"mood": [mood(label)]} for one in examples})


def test_places_and_labels_are_kept_and_no_text_of_the_users() -> None:
    (kept,) = left_out.collected([example(1)], {1: {"who": [person(0, 3)]}}).values()
    assert kept.controls == ("who",)
    assert kept.regions == ({"from_name": "who", "type": "labels", "value": {"start": 0, "end": 3, "labels": ["PER"]}},)


def test_numbers_of_numpy_are_numbers() -> None:
    (kept,) = left_out.collected([example(1)], {1: {"who": [person(np.int64(0), np.int64(3))]}}).values()  # type: ignore[arg-type]
    assert left_out.decode(left_out.encode({1: kept})) == {1: kept}
    assert kept == left_out.collected([example(1)], {1: {"who": [person(0, 3)]}})[1]


def test_boxes_lie_in_the_picture_that_they_were_drawn_in() -> None:
    config = (
        '<View><Image name="i" valueList="$i"/><RectangleLabels name="b" toName="i"><Label value="A"/>'
        "</RectangleLabels></View>"
    )
    value = {"x": 1, "y": 2, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["A"]}
    box = {"from_name": "b", "to_name": "i", "type": "rectanglelabels", "item_index": 1, "value": value}
    examples = [example(number, box) for number in range(30)]
    right = left_out.collected(examples, {one.id: {"b": [box]} for one in examples})
    elsewhere = left_out.collected(examples, {one.id: {"b": [{**box, "item_index": 0}]} for one in examples})
    found = left_out.compare(parse_label_config(config), examples, right, elsewhere)
    assert found is not None
    assert (found.wins, found.losses) == (30, 0)


def test_what_was_reported_about_tasks_that_it_did_not_learn_from_is_not_kept() -> None:
    assert left_out.collected([example(1)], {2: {"mood": [mood("good")]}}) == {}


def test_both_versions_are_judged_by_the_answers_as_they_are_now() -> None:
    before = [example(number, mood("good")) for number in range(40)]
    new, old = answered(before, "bad"), answered(before, "good")
    relabelled = [example(number, mood("bad")) for number in range(40)]
    (worse, better) = (left_out.compare(CONTROLS, now, new, old) for now in (before, relabelled))
    assert worse is not None
    assert better is not None
    assert (worse.n, worse.wins, worse.losses, worse.left_out) == (40, 0, 40, True)
    assert (better.wins, better.losses) == (40, 0)
    assert (worse.candidate["accuracy"], worse.incumbent["accuracy"]) == (0.0, 1.0)


@pytest.mark.parametrize("changed", [{"text": "another text"}, {"created": 2}], ids=["edited", "its id used again"])
def test_a_task_that_is_not_the_same_any_more_does_not_count(changed: dict[str, Any]) -> None:
    before = [example(number, mood("good")) for number in range(3)]
    now = [*before[:2], example(2, mood("good"), **changed)]
    found = left_out.compare(CONTROLS, now, answered(now, "good"), answered(before, "good"))
    assert found is not None
    assert found.n == 2


def test_only_tasks_count_that_both_answered_for_the_same_control_tags() -> None:
    examples = [example(number, mood("good"), person(0, 3)) for number in range(3)]
    new = left_out.collected(examples, {1: {"mood": [mood("good")]}, 2: {"mood": [mood("good")]}})
    old = left_out.collected(examples, {0: {"mood": []}, 1: {"mood": []}, 2: {"mood": [], "who": []}})
    found = left_out.compare(CONTROLS, examples, new, old)
    assert found is not None
    assert (found.n, found.wins) == (1, 1)
    assert found.candidate.keys() == {"accuracy", "macro_f1"}, "nobody answered who"


def test_without_a_task_in_common_or_a_scorer_nothing_is_compared() -> None:
    examples = [example(1, mood("good"))]
    told = answered(examples, "good")
    assert left_out.compare(CONTROLS, examples, told, {}) is None
    assert left_out.compare([replace(MOOD, type="Rating")], examples, told, told) is None


LABELS = st.text(max_size=5)
REGIONS = st.builds(mood, LABELS) | st.builds(person, st.integers(0, 5), st.integers(5, 9))


@given(st.dictionaries(st.integers(1, 2**40), st.lists(REGIONS, max_size=3), max_size=5))
def test_what_is_written_is_read_as_it_was(reported: dict[int, list[dict[str, Any]]]) -> None:
    examples = [example(task) for task in reported]
    told = left_out.collected(examples, {task: {"mood": regions} for task, regions in reported.items()})
    assert left_out.decode(left_out.encode(told)) == told


def test_nothing_is_written_as_nothing_as_in_manifests_of_older_releases() -> None:
    assert left_out.encode({}) == ""
    assert left_out.decode("") == {}


def packed(plain: bytes) -> str:
    return base64.b64encode(zlib.compress(plain)).decode()


DAMAGED = [b"{", b"1", b"[[1]]", b'[["1","",[],[]]]', b'[[1,"",[],[1]]]']


@pytest.mark.parametrize("text", ["?", "AAAA", packed(b"[]")[:-4], *map(packed, DAMAGED)])
def test_damage_is_told(text: str) -> None:
    with pytest.raises(VersionCorrupt, match="left out"):
        left_out.decode(text)


def test_a_hundred_tasks_take_a_few_bytes_each() -> None:
    examples = [example(number) for number in range(100)]
    assert len(left_out.encode(answered(examples, "good"))) < 100 * 25
