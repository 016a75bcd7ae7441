"""What syncs do to the training set, and what events do to syncs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ml_backend.errors import LeaseLost
from ml_backend.events import Task
from tests.followers import Follower, Monitored, only, page_of
from tests.modelled import ModelLabelStudio

if TYPE_CHECKING:
    import redis


def test_a_complete_sync_brings_what_nobody_said(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    follower.hear(only(studio.import_tasks([["Positive"], ["Negative", "Positive"]])))
    follower.sync()
    follower.check()
    project = follower.project()
    assert project is not None
    assert (project.drift, project.synced_at, project.complete_at) == ({}, follower.now, follower.now)
    assert project.synced_until_us == studio.now_us


def test_it_removes_what_is_not_there_any_more(studio: ModelLabelStudio, follower: Follower) -> None:
    for task in (1, 1, 2):
        follower.hear(only(studio.create(task, "Positive")))
    studio.delete([1])
    studio.delete_tasks([2])
    follower.sync()
    follower.check()


def test_it_says_what_changed(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    follower.hear(only(studio.create(2, "Positive")))
    studio.update(2, label="Negative")
    studio.create(2, "Negative")
    sync = follower.begin()
    page, between = follower.fetch(0, 10)
    assert follower.syncs.apply(sync, page, follower.now, between=between) == 2
    assert follower.syncs.apply(sync, page, follower.now, between=between) == 0


def test_label_studio_wins_on_equal_dates_and_on_older_ones(studio: ModelLabelStudio, follower: Follower) -> None:
    # Older ones: its database was restored from a backup.
    follower.hear(only(studio.create(1, "Positive")))
    backup = studio.annotations[1]
    follower.hear(only(studio.update(1, label="Negative")))
    studio.annotations[1] = backup
    follower.sync()
    follower.check()
    studio.annotations[1] = replace(backup, label="Negative")
    follower.sync()
    follower.check()


def test_it_brings_back_what_was_thought_deleted(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(2, "Positive")))
    follower.hear(only(studio.remove_duplicates(1, 2)))
    follower.hear({**only(studio.click()), "action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}]})
    assert follower.held() == {}
    follower.sync()
    follower.check()
    follower.hear(only(studio.update(1, label="Negative")))
    follower.check()


def test_it_moves_annotations_between_tasks_in_both_directions(studio: ModelLabelStudio, follower: Follower) -> None:
    studio.import_tasks([[], []])
    for task in (1, 4):
        follower.hear(only(studio.create(task, "Positive")))
    studio.remove_duplicates(2, 4)
    studio.remove_duplicates(3, 1)
    follower.sync(size=1)
    follower.check()


def test_it_knows_accepted_predictions_that_no_event_told_of(studio: ModelLabelStudio, follower: Follower) -> None:
    studio.accept_predictions([1, 2], "Positive")
    follower.sync()
    project = follower.project()
    assert project is not None
    assert project.bulk_accepted == 2
    follower.check()


def accepted_and_trainable(follower: Follower) -> tuple[int, int]:
    project = follower.project()
    assert project is not None
    return project.bulk_accepted, project.training.trainable


def test_what_was_accepted_in_bulk_stays_so_when_its_prediction_is_deleted(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.accept_predictions([1, 2], "Positive")))
    studio.delete_predictions()
    assert all(one.payload["parent_prediction"] is None for one in studio.annotations.values())
    follower.sync()
    assert accepted_and_trainable(follower) == (2, 0)
    follower.hear(only(studio.update(1, label="Negative")))
    follower.sync()
    assert accepted_and_trainable(follower) == (1, 1)


def test_what_a_person_submitted_stays_so_when_the_person_is_deleted(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive", prediction=7)))
    studio.delete_person()
    assert studio.annotations[1].payload["updated_by"] is None
    follower.sync()
    assert accepted_and_trainable(follower) == (0, 1)


def test_what_was_changed_once_more_than_events_told_is_taken_from_it(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive", ground_truth=True)))
    sync = follower.begin()
    follower.hear(only(studio.update(1, label="Negative")))
    studio.update(1, label="Neither")
    page, between = follower.fetch(0, 10)
    follower.syncs.apply(sync, page, follower.now, between=between)
    follower.check()


def test_a_mark_that_came_back_meanwhile_is_told_by_its_event(studio: ModelLabelStudio, follower: Follower) -> None:
    for label in ("Positive", "Negative"):
        follower.hear(only(studio.create(1, label)))
    sync = follower.begin()
    follower.hear(only(studio.update(1, label="Negative")))
    follower.hear(only(studio.update(2, ground_truth=True)))
    back = only(studio.update(1, ground_truth=True))
    page, between = follower.fetch(0, 10)
    follower.syncs.apply(sync, page, follower.now, between=between)
    follower.hear(back)
    follower.check()


def test_what_an_event_changed_after_it_began_is_not_overwritten(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    sync = follower.begin()
    page, between = follower.fetch(0, 10)
    follower.hear(only(studio.update(1, label="Negative")))
    follower.syncs.apply(sync, page, follower.now, between=between)
    follower.check()


def test_nor_removed(studio: ModelLabelStudio, follower: Follower) -> None:
    sync = follower.begin()
    page, between = follower.fetch(0, 10)
    follower.hear(only(studio.create(1, "Positive")))
    follower.syncs.apply(sync, page, follower.now, between=between)
    follower.check()


def test_nor_brought_back(studio: ModelLabelStudio, follower: Follower) -> None:
    for task in (1, 2):
        follower.hear(only(studio.create(task, "Positive")))
    studio.create(1, "Negative")  # lost
    sync = follower.begin()
    page, between = follower.fetch(0, 10)
    follower.hear(only(studio.delete([3])))
    follower.hear(only(studio.delete_tasks([2])))
    follower.syncs.apply(sync, page, follower.now, between=between)
    follower.check()


def test_nor_given_a_mark_that_an_event_took(studio: ModelLabelStudio, follower: Follower) -> None:
    # The sibling that loses it was never heard of.
    studio.import_tasks([["Positive"]])
    sync = follower.begin()
    page, between = follower.fetch(0, 10)
    follower.hear(only(studio.create(3, "Negative", ground_truth=True)))
    follower.syncs.apply(sync, page, follower.now, between=between)
    follower.check()


def test_nor_given_old_task_data(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    sync = follower.begin()
    page, between = follower.fetch(0, 10)
    studio.edit_task(1, "new text")
    follower.hear(only(studio.create(1, "Positive")))
    follower.syncs.apply(sync, page, follower.now, between=between)
    follower.check()


def test_what_events_changed_before_it_began_is_not_held_against_it(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.finish(follower.begin())
    follower.hear(only(studio.create(1, "Positive")))
    studio.update(1, label="Negative")
    follower.sync()
    follower.check()


def test_a_sync_goes_on_after_a_crash_where_it_was(studio: ModelLabelStudio, follower: Follower) -> None:
    studio.import_tasks([["Positive"]] * 6)
    sync = follower.begin()
    page, between = follower.fetch(0, 4)
    follower.syncs.apply(sync, page, follower.now, between=between)
    began, studio_time = sync.began, sync.from_us
    studio.pass_time(5)
    again = follower.syncs.resume(studio.uid, follower.now)
    assert again is not None
    assert (again.kind, again.cursor, again.began, again.from_us) == ("complete", 6, began, studio_time)
    page, between = follower.fetch(again.cursor, 4)
    follower.syncs.apply(again, page, follower.now, between=between)
    assert not follower.finish(again)
    follower.check()


def test_there_is_nothing_to_go_on_with_after_an_end(studio: ModelLabelStudio, follower: Follower) -> None:
    assert follower.syncs.resume(studio.uid, 1.0) is None
    follower.sync()
    assert follower.syncs.resume(studio.uid, 1.0) is None
    follower.syncs.abort(follower.begin(), 1.0)
    assert follower.syncs.resume(studio.uid, 1.0) is None


def test_who_held_a_sync_before_writes_nothing_any_more(studio: ModelLabelStudio, follower: Follower) -> None:
    studio.import_tasks([["Positive"]])
    page, between = follower.fetch(0, 10)
    old = follower.begin()
    follower.begin()
    for call in (
        lambda: follower.syncs.apply(old, page, 1.0, between=between),
        lambda: follower.syncs.finish(old, 1.0),
        lambda: follower.syncs.abort(old, 1.0),
    ):
        with pytest.raises(LeaseLost):
            call()
    assert follower.held() == {}


def test_an_aborted_sync_leaves_its_work_and_no_claim_to_be_complete(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    studio.import_tasks([["Positive"]] * 3)
    sync = follower.begin()
    page, between = follower.fetch(0, 2)
    follower.syncs.apply(sync, page, follower.now, between=between)
    follower.syncs.abort(sync, follower.now)
    project = follower.project()
    assert project is not None
    assert len(follower.held()) == 2
    assert (project.synced_at, project.complete_at, project.synced_until_us) == (None, None, None)


def test_a_difference_that_a_complete_sync_leaves_is_said(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    sync = follower.begin()
    studio.import_tasks([["Positive"]])
    assert follower.finish(sync)
    project = follower.project()
    assert project is not None
    assert project.drift["ground_truth_number"] == 1
    assert project.drift_since == follower.now
    assert project.reported == studio.counters()


def test_counters_that_are_older_than_an_event_are_not_compared(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    sync = follower.begin()
    project = follower.project()
    assert project is not None
    counters, touch = studio.counters(), project.touch
    follower.hear(only(studio.create(2, "Positive")))
    assert not follower.syncs.finish(sync, follower.now, counters=counters, counters_us=studio.now_us, touch=touch)
    project = follower.project()
    assert project is not None
    assert (project.drift, project.reported) == ({}, studio.counters())


def test_after_a_sync_older_payloads_do_not_bring_old_counters_back(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    late = only(studio.create(1, "Positive"))
    studio.create(2, "Positive")
    follower.sync()
    project = follower.hear(late).project
    assert (project.drift, project.reported) == ({}, studio.counters())


def test_an_incremental_sync_replaces_the_tasks_it_is_given(studio: ModelLabelStudio, follower: Follower) -> None:
    for task in (1, 1, 2, 2):
        follower.hear(only(studio.create(task, "Positive")))
    studio.delete([1, 3, 4])
    sync = follower.syncs.begin(studio.uid, "incremental", follower.now, from_us=studio.now_us)
    follower.syncs.apply(sync, [*page_of(studio, [1]), (Task(2), ())], follower.now)
    assert not follower.finish(sync)
    follower.check()
    project = follower.project()
    assert project is not None
    assert (project.synced_at, project.complete_at) == (follower.now, None)


def test_wishes_for_a_sync_are_settled_unless_they_came_meanwhile(studio: ModelLabelStudio, follower: Follower) -> None:
    for task in (1, 1, 1, 2, 2):
        follower.hear(only(studio.create(task, "Positive")))
    follower.hear(only(studio.delete([1, 2])))
    follower.hear({"action": "ANNOTATION_CREATED"})
    studio.pass_time(1)
    sync = follower.syncs.begin(studio.uid, "incremental", follower.now)
    follower.finish(sync)
    project = follower.project()
    assert project is not None
    assert project.complete_wanted_at is not None
    assert project.incremental_wanted_at is None
    sync = follower.begin()
    studio.pass_time(1)
    follower.hear(only(studio.delete([3, 4])))
    follower.finish(sync)
    project = follower.project()
    assert project is not None
    assert project.complete_wanted_at == follower.now
    studio.pass_time(1)
    follower.sync()
    project = follower.project()
    assert project is not None
    assert project.complete_wanted_at is None


def test_a_complete_sync_brings_the_data_that_was_missing(studio: ModelLabelStudio, follower: Follower) -> None:
    payload = only(studio.create(1, "Positive"))
    payload["task"] = {"id": 1}
    assert follower.hear(payload).project.dataless
    studio.pass_time(1)
    follower.sync()
    project = follower.project()
    assert project is not None
    assert not project.dataless
    follower.check()


def test_old_deletions_are_forgotten_after_a_complete_sync(
    valkey: redis.Redis, studio: ModelLabelStudio, follower: Follower
) -> None:
    gone = f"mlb:{{{studio.uid}}}:gone"
    follower.hear(only(studio.create(1, "Positive", ground_truth=True)))
    follower.hear(only(studio.delete([1])))
    follower.hear(only(studio.delete_tasks([2])))
    follower.sync()
    assert valkey.hlen(gone) == 3
    studio.pass_time(7200)
    follower.hear(only(studio.create(1, "Positive")))
    follower.hear(only(studio.delete([1])))
    follower.sync()
    assert valkey.hkeys(gone) == [b"a1"]


def test_a_sync_of_a_project_that_no_event_told_of_makes_it_known(valkey: redis.Redis) -> None:
    studio = ModelLabelStudio()
    studio.import_tasks([["Positive"]])
    follower = Follower(valkey, "mlb:", studio)
    follower.sync()
    follower.check()
    assert follower.state.uids() == [studio.uid]


def test_a_large_page_is_applied_in_parts(valkey: redis.Redis, studio: ModelLabelStudio, follower: Follower) -> None:
    studio.import_tasks([["Positive"]] * 1_000)
    with Monitored(valkey) as commands:
        follower.sync(size=2_000)
    assert sum(one.startswith("EVALSHA") for one in commands) >= 6
    follower.check()


def test_what_a_sync_has_in_another_order_of_keys_is_no_change(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    ((task, (annotation,)),) = page_of(studio, [1])
    turned = replace(annotation, result=[dict(reversed(region.items())) for region in annotation.result or []])
    sync = follower.begin()
    assert follower.syncs.apply(sync, [(task, [turned])], follower.now) == 0


def test_operations_can_be_applied_outside_of_a_sync(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    assert follower.state.apply(studio.uid, [("o", 1, "", "", "", "", "")], 1.0) == 1
    assert follower.held() == {}


def test_what_took_the_ids_of_a_replaced_tasks_annotations_comes_with_the_sync_that_saw_it(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(2, "Positive")))
    studio.delete_everything()
    studio.import_tasks([["Negative"], []])
    sync = follower.begin()
    page, between = follower.fetch(0, 10)
    # It tells that task 2 is another one; the annotation that was last seen under the first goes with that.
    follower.hear(only(studio.create(2, "Positive")))
    follower.syncs.apply(sync, page, follower.now, between=between)
    assert not follower.finish(sync)
    follower.check()


def test_what_has_the_ids_of_a_task_and_its_annotation_now_comes_although_events_told_of_those_before(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    sync = follower.begin()
    follower.hear(only(studio.create(2, "Positive")))
    studio.delete_everything()  # nothing is sent (fact 9)
    follower.hear(only(studio.import_tasks([[], ["Negative", "Positive"]])))  # the ids come back (fact 5)
    page, between = follower.fetch(0, 10)
    follower.syncs.apply(sync, page, follower.now, between=between)
    assert not follower.finish(sync)
    follower.check()


def test_what_a_task_had_before_another_took_its_id_is_not_brought_back(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    studio.import_tasks([["Positive", "Positive"]])  # annotations without events (fact 8)
    sync = follower.begin()
    page, between = follower.fetch(0, 10)
    studio.delete_everything()  # nothing is sent (fact 9)
    follower.hear(only(studio.import_tasks([[], [], []])))  # the ids come back (fact 5)
    follower.hear(only(studio.create(3, "Negative")))
    follower.syncs.apply(sync, page, follower.now, between=between)
    assert not follower.finish(sync)
    follower.check()


def test_a_mark_that_an_event_gave_is_told_from_one_that_was_there_by_an_older_answer(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    studio.import_tasks([["Positive", "Positive"]])
    follower.sync()
    one, other = sorted(studio.annotations)
    # Several ground truths come with imports: marking one again looks like any edit of it, which takes no mark away.
    follower.hear(only(studio.update(one, ground_truth=True)))
    sync = follower.begin()
    page, between = follower.fetch(0, 10)
    follower.hear(only(studio.update(other, ground_truth=True)))
    follower.syncs.apply(sync, page, follower.now, between=between)
    assert not follower.finish(sync)
    follower.check()


def test_a_mark_that_went_to_and_fro_is_where_it_went_last(studio: ModelLabelStudio, follower: Follower) -> None:
    studio.import_tasks([["Positive", "Positive"]])  # both are ground truths (fact 8)
    follower.sync()
    follower.hear(only(studio.update(1, ground_truth=True)))  # known to have it: no news, but the second has lost it
    sync = follower.begin()
    page, between = follower.fetch(0, 10)
    follower.hear(only(studio.update(2, ground_truth=True)))
    follower.hear(only(studio.update(1, ground_truth=True)))
    follower.syncs.apply(sync, page, follower.now, between=between)
    assert not follower.finish(sync)
    follower.check()


def test_what_nobody_told_of_a_task_comes_although_the_last_annotation_known_of_it_went_meanwhile(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    studio.import_tasks([["Positive"]])  # an annotation without an event (fact 8)
    sync = follower.begin()
    follower.hear(only(studio.create(3, "Negative")))
    follower.hear(only(studio.delete([2])))
    page, between = follower.fetch(0, 10)
    follower.syncs.apply(sync, page, follower.now, between=between)
    assert not follower.finish(sync)
    follower.check()


def test_a_task_that_was_deleted_meanwhile_is_not_brought_back(studio: ModelLabelStudio, follower: Follower) -> None:
    studio.import_tasks([["Positive"]])
    sync = follower.begin()
    page, between = follower.fetch(0, 10)
    follower.hear(only(studio.create(3, "Negative")))
    follower.hear(only(studio.delete_tasks([3])))
    follower.syncs.apply(sync, page, follower.now, between=between)
    follower.check()


def test_nor_is_one_of_which_only_another_with_its_id_was_known(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(2, "Positive")))
    studio.delete_everything()  # nothing is sent (fact 9)
    follower.hear(only(studio.import_tasks([["Positive"], ["Positive"]])))  # the ids come back (fact 5)
    sync = follower.begin()
    page, between = follower.fetch(0, 10)
    follower.hear(only(studio.delete_tasks([2])))
    follower.syncs.apply(sync, page, follower.now, between=between)
    assert not follower.finish(sync)
    follower.check()


def test_a_mark_that_a_sibling_took_without_a_word_goes_although_an_event_changed_its_owner_meanwhile(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    studio.import_tasks([["Positive", "Positive"]])  # both are ground truths (fact 8)
    follower.sync()
    studio.update(1, ground_truth=True)  # takes the mark from the second (fact 23); lost
    sync = follower.begin()
    follower.hear(only(studio.update(1, label="Negative")))
    follower.hear(only(studio.update(2, ground_truth=True)))  # known to have it: no news
    page, between = follower.fetch(0, 10)
    follower.syncs.apply(sync, page, follower.now, between=between)
    assert not follower.finish(sync)
    follower.check()
