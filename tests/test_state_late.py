"""Events that come twice, late, without dates or in another order; ids that are used again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.events import AnnotationsWritten, parse
from tests.followers import Follower, only, stored
from tests.modelled import ModelLabelStudio

if TYPE_CHECKING:
    pass

POSITIVE = [{"from_name": "sentiment", "to_name": "text", "type": "choices", "value": {"choices": ["Positive"]}}]


# --- repeats, late arrivals, ids used again ---------------------------------------------------------------------------


def test_the_same_event_twice_changes_nothing(studio: ModelLabelStudio, follower: Follower) -> None:
    events = [
        *studio.create(1, "Positive"),
        *studio.update(1, label="Negative"),
        *studio.create(1, "Positive", ground_truth=True),
        *studio.accept_predictions([2], "Negative"),
    ]
    for event in events:
        follower.hear(event)
    before = follower.project()
    for event in events:
        assert follower.hear(event).changes == 0
    after = follower.project()
    assert before is not None
    assert after is not None
    assert (after.training.seq, after.derived, after.drift) == (before.training.seq, before.derived, {})
    follower.check()


def test_a_repeated_deletion_changes_nothing(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    gone = only(studio.delete([1]))
    assert follower.hear(gone).changes == 1
    recorded = follower.hear(gone)
    assert (recorded.changes, recorded.stale) == (0, 1)
    follower.check()


def test_an_older_event_never_overwrites_a_newer_one(studio: ModelLabelStudio, follower: Follower) -> None:
    created = only(studio.create(1, "Positive"))
    follower.hear(only(studio.update(1, label="Negative")))
    recorded = follower.hear(created)
    assert (recorded.changes, recorded.stale) == (0, 1)
    follower.check()


def test_other_content_with_the_same_date_is_not_taken_from_an_event(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    created = only(studio.create(1, "Positive"))
    follower.hear(created)
    other = {**created, "annotation": {**created["annotation"], "result": []}}
    recorded = follower.hear(other)
    assert (recorded.changes, recorded.stale) == (0, 1)
    follower.check()


def test_an_update_without_new_content_moves_its_date_and_is_no_change(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    assert follower.hear(only(studio.update(1, label="Positive"))).changes == 0
    follower.check()


def test_a_deleted_annotation_does_not_come_back_with_a_late_event(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    created, updated = only(studio.create(1, "Positive")), only(studio.update(1, label="Negative"))
    follower.hear(created)
    follower.hear(only(studio.delete([1])))
    assert follower.hear(updated).changes == 0
    assert follower.hear(created).changes == 0
    follower.check()


def test_nor_does_one_whose_deletion_came_first(studio: ModelLabelStudio, follower: Follower) -> None:
    created, updated = only(studio.create(1, "Positive")), only(studio.update(1, label="Negative"))
    follower.hear(only(studio.delete([1])))
    assert follower.hear(updated).changes == 0
    assert follower.hear(created).changes == 0
    follower.check()


def test_a_new_annotation_that_was_given_a_deleted_ones_id_is_alive(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    first = only(studio.create(1, "Positive"))
    follower.hear(first)
    follower.hear(only(studio.delete([1])))
    second = only(studio.create(2, "Negative"))
    assert second["annotation"]["id"] == first["annotation"]["id"]
    assert follower.hear(second).changes == 1
    assert follower.hear(first).changes == 0
    follower.check()


def test_it_is_alive_too_when_the_first_ones_deletion_was_lost(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    studio.delete([1])
    follower.hear(only(studio.create(2, "Negative")))
    follower.check()


def test_a_deletion_that_its_successor_overtook_does_not_hit_the_successor(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    gone = only(studio.delete([1]))
    follower.hear(only(studio.create(2, "Negative")))
    assert follower.hear(gone).changes == 0
    follower.check()
    follower.hear(only(studio.delete([1])))
    follower.check()


def test_a_deletion_long_after_is_the_successors_own(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    studio.delete([1])
    follower.hear(only(studio.create(2, "Negative")))
    studio.pass_time(60)
    follower.hear(only(studio.delete([1])))
    follower.check()


def test_annotations_of_a_deleted_task_do_not_come_back_with_late_events(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    created = only(studio.create(1, "Positive"))
    another = only(studio.create(1, "Negative"))
    follower.hear(created)
    follower.hear(only(studio.delete_tasks([1])))
    for late in (created, another, {**another, "task": {"id": 1}}):
        assert follower.hear(late).changes == 0
    follower.check()


def test_annotations_of_a_new_task_with_a_deleted_ones_id_are_alive(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(2, "Positive")))
    follower.hear(only(studio.delete_tasks([2])))
    follower.hear(only(studio.import_tasks([[]])))
    follower.hear(only(studio.create(2, "Negative")))
    follower.check()


def test_a_new_task_with_the_id_of_one_whose_deletion_was_lost_throws_the_old_annotations_out(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(2, "Positive")))
    follower.hear(only(studio.create(2, "Negative")))
    gone = only(studio.delete_tasks([2]))
    studio.import_tasks([[]])
    follower.hear(only(studio.create(2, "Negative")))
    follower.check()
    follower.hear(gone)
    follower.check()


@pytest.mark.parametrize("order", ["BA", "AB"])
def test_of_two_ground_truths_the_later_keeps_the_mark_in_whatever_order_they_come(
    studio: ModelLabelStudio, follower: Follower, order: str
) -> None:
    for _ in range(2):
        follower.hear(only(studio.create(1, "Positive")))
    marked = {"A": only(studio.update(1, ground_truth=True)), "B": only(studio.update(2, ground_truth=True))}
    for one in order:
        follower.hear(marked[one])
    follower.check()


def test_a_mark_that_was_taken_and_given_up_again_stays_taken_in_any_order(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive", ground_truth=True)))
    follower.hear(only(studio.create(1, "Negative")))
    marked = only(studio.update(2, ground_truth=True))
    follower.hear(only(studio.update(2, ground_truth=False)))
    follower.hear(marked)
    follower.check()


def test_a_deleted_ground_truth_had_taken_the_mark_though_its_event_comes_late(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive", ground_truth=True)))
    marked = only(studio.create(1, "Negative", ground_truth=True))
    follower.hear(only(studio.delete([2])))
    follower.hear(marked)
    follower.check()


def test_a_task_that_is_found_to_be_another_keeps_what_was_made_after_it(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(2, "Positive")))
    studio.delete_everything()  # nothing is sent (fact 9)
    follower.hear(only(studio.import_tasks([[], []])))  # the ids come back (fact 5)
    for _ in range(2):
        told = only(studio.create(2, "Negative"))
        del told["task"]
        follower.hear(told)
    follower.hear(only(studio.update(1, label="Positive")))
    follower.check()


def test_a_task_keeps_its_data_where_its_last_annotations_id_goes_to_another_and_it_gets_a_new_one(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(2, "Positive")))
    gone = only(studio.delete([1]))
    follower.hear(only(studio.accept_predictions([1, 2], "Negative")))  # 1 is on the first task now (fact 5)
    follower.hear(gone)
    follower.check()


# --- payloads without dates (the page of 2021) ------------------------------------------------------------------------


def undated(annotation: int, result: list[Any], task: int = 1) -> AnnotationsWritten:
    event = parse(
        "ANNOTATION_CREATED",
        {"annotation": {"id": annotation, "result": result, "task": task}, "project": {"id": 2}},
    )
    assert isinstance(event, AnnotationsWritten)
    return event


def test_of_undated_events_the_last_to_come_counts(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.click()))
    assert follower.state.record(undated(5, POSITIVE), 1.0).changes == 1
    assert follower.state.record(undated(5, POSITIVE), 2.0).changes == 0
    assert follower.state.record(undated(5, []), 3.0).changes == 1
    assert follower.held()[5][4] == []


def test_an_undated_event_after_a_dated_one_counts_and_keeps_the_date(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    created = only(studio.create(1, "Positive"))
    follower.hear(created)
    assert follower.state.record(undated(1, []), 3.0).changes == 1
    assert follower.held()[1][2] == studio.annotations[1].updated_us
    assert follower.hear(created).changes == 0


def test_what_is_deleted_does_not_come_back_undated(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    follower.hear(only(studio.delete([1])))
    assert follower.state.record(undated(1, POSITIVE), 9e9).changes == 0


def test_annotations_without_their_tasks_data_are_counted_and_marked_as_missing_it(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.click()))
    project = follower.state.record(undated(5, POSITIVE), 1.0).project
    assert project.dataless
    assert project.training.trainable == 1
    assert stored(follower) == {}
