"""Scores: what is held out, how predictions are measured, and when a new version may serve."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.examples import Example, LabelledAnnotation
from ml_backend.label_config import Control
from ml_backend.scores import (
    Comparison,
    Scores,
    Verdict,
    compare,
    compare_totals,
    decide_promotion,
    held_out,
    iou,
    kind_of,
    score,
    sign_test,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence


@dataclass(frozen=True)
class Task:
    task: int
    created_at_us: int = 1_795_333_883_000_000
    ground_truth: bool = False


def project(size: int, ground_truth: int = 0) -> list[Task]:
    return [Task(number, 1_795_333_883_000_000 + number, number <= ground_truth) for number in range(1, size + 1)]


# What is held out


@given(st.integers(0, 400), st.integers(0, 400))
def test_never_more_than_a_fifth_of_the_tasks_is_held_out(size: int, ground_truth: int) -> None:
    assert len(held_out(project(size, ground_truth), at_least=1)) <= size / 5


def test_nothing_is_held_out_before_it_gives_thirty_examples() -> None:
    assert held_out(project(149)) == frozenset()
    assert len(held_out(project(150))) == 30


def test_ground_truth_is_held_out_first() -> None:
    assert held_out(project(200, ground_truth=25)) > set(range(1, 26))
    some = held_out(project(200, ground_truth=100))
    assert len(some) == 40
    assert some < set(range(1, 101))


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_tasks_does_not_matter(order: random.Random) -> None:
    tasks = project(300, ground_truth=10)
    chosen = held_out(tasks)
    order.shuffle(tasks)
    assert held_out(tasks) == chosen


def test_while_a_project_grows_almost_all_held_out_tasks_stay_so() -> None:
    before = held_out(project(1000))
    after = held_out(project(1100))
    assert len(before - after) <= len(before) * 0.1


def test_a_task_whose_id_was_used_again_is_another_task() -> None:
    again = [Task(one.task, one.created_at_us + 10**9) for one in project(1000)]
    assert len(held_out(project(1000)) & held_out(again)) < 100


# The sign test


def exact(wins: int, losses: int) -> float:
    n = wins + losses
    return sum(math.comb(n, k) for k in range(losses, n + 1)) / 2**n


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_sign_test_is_the_exact_binomial_one(wins: int, losses: int) -> None:
    assert sign_test(wins, losses) == pytest.approx(exact(wins, losses), rel=1e-9)


def test_the_sign_test_takes_large_numbers() -> None:
    assert sign_test(50_000, 50_000) == pytest.approx(0.5, abs=0.002)
    assert sign_test(49_000, 51_000) < 1e-9
    assert sign_test(0, 0) == 1.0


# How predictions are measured

CHOICES = Control("topic", "Choices", (), ("a", "b", "c"))
SPANS = Control("entity", "Labels", (), ("PER", "LOC"))
BOXES = Control("thing", "RectangleLabels", (), ("cat", "dog"))


def example(*regions: dict[str, Any], number: int = 1) -> Example:
    annotation = LabelledAnnotation(id=number, result=list(regions), created_at_us=1, updated_at_us=1)
    return Example({"id": number, "data": {}}, (annotation,))


def choice(*labels: str) -> dict[str, Any]:
    return {"from_name": "topic", "to_name": "t", "type": "choices", "value": {"choices": list(labels)}}


def span(label: str, start: float, end: float) -> dict[str, Any]:
    return {"from_name": "entity", "type": "labels", "value": {"start": start, "end": end, "labels": [label]}}


def box(label: str, x: float, y: float, width: float = 10, height: float = 10, item: int = 0) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [label]}
    return {"from_name": "thing", "type": "rectanglelabels", "value": value, "item_index": item}


def scored(
    control: Control, truth: Sequence[Sequence[dict[str, Any]]], guesses: Sequence[Sequence[dict[str, Any]]]
) -> Scores:
    got = score([control], [example(*regions) for regions in truth], guesses)
    assert got is not None
    return got


def test_choices_are_measured_by_accuracy_and_macro_f1() -> None:
    got = scored(
        CHOICES,
        [[choice("a")], [choice("a")], [choice("b")], [choice("b")]],
        [[choice("a")], [choice("b")], [choice("b")], []],
    )
    assert got.metrics["accuracy"] == 0.5
    assert got.metrics["macro_f1"] == pytest.approx((2 / 3 + 0.5) / 2)
    assert got.per_example == (1.0, 0.0, 1.0, 0.0)


def test_several_choices_may_be_partly_right() -> None:
    got = scored(CHOICES, [[choice("a", "b")]], [[choice("b")]])
    assert got.metrics["accuracy"] == 0.0
    assert got.per_example == (pytest.approx(2 / 3),)


def test_annotators_vote_on_choices() -> None:
    votes = tuple(
        LabelledAnnotation(id=number, result=[choice(label)], created_at_us=number, updated_at_us=number)
        for number, label in enumerate(["a", "a", "b"])
    )
    got = score([CHOICES], [Example({"id": 1, "data": {}}, votes)], [[choice("a")]])
    assert got is not None
    assert got.metrics["accuracy"] == 1.0


def test_spans_must_match_exactly_and_are_measured_overall_and_by_label() -> None:
    got = scored(
        SPANS,
        [[span("PER", 0, 5), span("LOC", 9, 12)], [], [span("PER", 3, 4)]],
        [[span("PER", 0, 5), span("PER", 9, 12)], [], [span("PER", 3, 5)]],
    )
    assert got.metrics == {
        "span_f1": pytest.approx(2 / 6),
        "span_f1.LOC": 0.0,
        "span_f1.PER": pytest.approx(2 / 5),
    }
    assert got.per_example == (0.5, 1.0, 0.0)


@pytest.mark.parametrize(
    ("value", "same", "other"),
    [
        ({"start": 1, "end": 4}, {"start": 1.0, "end": 4.0}, {"start": 1, "end": 5}),
        (
            {"start": "/p[1]/text()[1]", "end": "/p[1]/text()[1]", "globalOffsets": {"start": 3, "end": 9}},
            {"start": "/p[1]", "end": "/p[1]", "startOffset": 0, "globalOffsets": {"start": 3, "end": 9}},
            {"start": "/p[1]/text()[1]", "end": "/p[1]/text()[1]", "globalOffsets": {"start": 4, "end": 9}},
        ),
        (
            {"start": "0", "end": "0", "startOffset": 1, "endOffset": 5},
            {"start": 0, "end": 0, "startOffset": 1, "endOffset": 5},
            {"start": "1", "end": "1", "startOffset": 1, "endOffset": 5},
        ),
        ({"start": 1.234, "end": 2.2}, {"start": 1.21, "end": 2.2}, {"start": 1.4, "end": 2.2}),
    ],
)
def test_spans_of_every_kind_of_text_are_compared_by_their_place(
    value: dict[str, Any], same: dict[str, Any], other: dict[str, Any]
) -> None:
    def region(place: dict[str, Any]) -> dict[str, Any]:
        return {"from_name": "entity", "type": "labels", "value": place | {"labels": ["PER"]}}

    assert scored(SPANS, [[region(value)]], [[region(same)]]).metrics["span_f1"] == 1.0
    assert scored(SPANS, [[region(value)]], [[region(other)]]).metrics["span_f1"] == 0.0


def test_boxes_match_when_they_overlap_by_half_and_each_only_once() -> None:
    got = scored(
        BOXES,
        [[box("cat", 0, 0), box("dog", 50, 50)], [box("cat", 0, 0)], [box("cat", 0, 0, item=1)]],
        [
            [box("cat", 1, 1), box("cat", 0, 1), box("cat", 50, 50)],
            [box("cat", 4, 0)],
            [box("cat", 0, 0, item=0)],
        ],
    )
    assert got.per_example == (pytest.approx(2 * 1 / 5), 0.0, 0.0)
    assert got.metrics["box_f1"] == pytest.approx(2 * 1 / 9)
    assert got.metrics["box_f1.dog"] == 0.0


@given(st.tuples(*[st.floats(0, 50)] * 4), st.tuples(*[st.floats(0, 50)] * 4))
def test_the_overlap_of_boxes_is_the_same_both_ways_and_between_0_and_1(
    one: tuple[float, ...], other: tuple[float, ...]
) -> None:
    assert iou(one, other) == iou(other, one)
    assert 0 <= iou(one, other) <= 1 + 1e-9


def test_the_overlap_of_a_box_with_itself_is_whole_and_of_half_of_it_a_half() -> None:
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert iou((0, 0, 10, 10), (0, 0, 5, 10)) == 0.5
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0


def test_several_control_tags_are_measured_each_and_together() -> None:
    got = score(
        [CHOICES, SPANS],
        [example(choice("a"), span("PER", 0, 2))],
        [[choice("a"), span("PER", 1, 2)]],
    )
    assert got is not None
    assert got.metrics["topic.accuracy"] == 1.0
    assert got.metrics["entity.span_f1"] == 0.0
    assert got.per_example == (0.5,)


def test_what_no_scorer_is_made_for_is_not_scored() -> None:
    assert score([Control("r", "Rating", ())], [example()], [[]]) is None
    assert kind_of(Control("c", "Choices", (), attributes={"perRegion": "true"})) is None
    assert score([CHOICES, SPANS], [example()], [[choice("a")]]) is None  # nobody labelled anything


regions = st.lists(
    st.one_of(
        st.builds(span, st.sampled_from(["PER", "LOC"]), st.integers(0, 5), st.integers(6, 9)),
        st.builds(box, st.sampled_from(["cat", "dog"]), st.integers(0, 20), st.integers(0, 20)),
        st.builds(choice, st.sampled_from("abc")),
    ),
    max_size=6,
)


@given(st.lists(st.tuples(regions, regions), min_size=1, max_size=8))
def test_every_score_lies_between_0_and_1_and_the_truth_itself_scores_1(
    pairs: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]],
) -> None:
    controls = [CHOICES, SPANS, BOXES]
    examples = [example(*truth) for truth, _ in pairs]
    got = score(controls, examples, [guess for _, guess in pairs])
    if got is None:
        return
    assert all(0 <= value <= 1 for value in [*got.metrics.values(), *got.per_example])
    perfect = score(controls, examples, [truth for truth, _ in pairs])
    assert perfect is not None
    assert set(perfect.metrics.values()) == {1.0}
    assert set(perfect.per_example) == {1.0}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"start": None, "end": 3},
        {"start": [1], "end": 3},
        {"globalOffsets": {"start": [1], "end": {}}},
        {"x": "1"},
    ],
)
def test_regions_that_make_no_sense_are_passed_over(value: object) -> None:
    strange = {"from_name": "entity", "type": "labels", "value": value}
    boxed = {"from_name": "thing", "type": "rectanglelabels", "value": value}
    got = score([SPANS, BOXES], [example(span("PER", 0, 1), box("cat", 0, 0))], [[strange, boxed]])
    assert got is not None
    assert got.metrics["entity.span_f1"] == 0.0


# When a version may serve


def on(n: int, wins: int, losses: int) -> Comparison:
    return Comparison(n=n, gain=(wins - losses) / n, wins=wins, losses=losses)


@pytest.mark.parametrize(
    ("rule", "comparison", "promote"),
    [
        ("not_worse", None, True),
        ("not_worse", on(29, 0, 29), True),
        ("not_worse", on(30, 0, 3), True),  # p = 0.125
        ("not_worse", on(30, 0, 4), False),  # p = 0.0625
        ("not_worse", on(100, 20, 20), True),
        ("not_worse", on(100, 20, 30), True),  # p = 0.10
        ("not_worse", on(100, 20, 31), False),
        ("better", on(29, 0, 29), True),
        ("better", on(30, 0, 0), False),
        ("better", on(30, 1, 0), True),
        ("min_gain", on(100, 4, 0), False),
        ("min_gain", on(100, 5, 0), True),
        ("always", on(100, 0, 100), True),
        ("never", on(100, 100, 0), False),
        ("never", None, False),
    ],
)
def test_the_rule_decides(rule: Any, comparison: Comparison | None, promote: bool) -> None:
    verdict = decide_promotion(rule, comparison, min_gain=0.05)
    assert verdict.promote is promote
    assert verdict.reason


def test_the_reason_can_be_read_by_people() -> None:
    old = Scores({"accuracy": 0.9}, (1.0,) * 36 + (0.0,) * 4)
    new = Scores({"accuracy": 0.7}, (1.0,) * 28 + (0.0,) * 12)
    assert decide_promotion("not_worse", compare(new, old)) == Verdict(
        promote=False,
        reason="worse than what serves: accuracy 0.700 against 0.900, better on 0 and worse on 8 of 40 examples "
        "(p = 0.0039)",
    )
    assert decide_promotion("not_worse", on(12, 0, 0)).reason == (
        "too few to compare: 12 examples that neither version was trained on, 30 are needed"
    )


def test_a_models_own_totals_keep_it_aside_only_when_they_fall_far() -> None:
    assert decide_promotion("not_worse", compare_totals({"wer": 0.5}, {"wer": 0.52}, 100)).promote
    assert not decide_promotion("not_worse", compare_totals({"wer": 0.3}, {"wer": 0.6}, 100)).promote
    assert compare_totals({"a": 1.0}, {"b": 1.0}, 100) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=50))
def test_a_comparison_turned_around_has_wins_and_losses_exchanged(pairs: list[tuple[float, float]]) -> None:
    one, other = Scores({}, tuple(new for new, _ in pairs)), Scores({}, tuple(old for _, old in pairs))
    there, back = compare(one, other), compare(other, one)
    assert (there.wins, there.losses) == (back.losses, back.wins)
    assert there.gain == pytest.approx(-back.gain)
