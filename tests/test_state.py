"""What an event does to the training set that Redis holds. Payloads come from a modelled Label Studio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ml_backend.counters import DerivedCounters
from ml_backend.errors import Unavailable
from ml_backend.events import Annotation, AnnotationsWritten, Project, parse
from ml_backend.state.due import DueList
from tests import samples
from tests.followers import Follower, Monitored, only, stored
from tests.modelled import CONFIG, ModelLabelStudio
from tests.valkey import connect, running_valkey

if TYPE_CHECKING:
    import redis

POSITIVE = [{"from_name": "sentiment", "to_name": "text", "type": "choices", "value": {"choices": ["Positive"]}}]


# --- one event --------------------------------------------------------------------------------------------------------


def test_a_created_annotation_is_in_the_training_set_with_its_tasks_data(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    recorded = follower.hear(only(studio.create(1, "Positive")))
    assert (recorded.uid, recorded.changes, recorded.stale) == (studio.uid, 1, 0)
    one = stored(follower)[1]
    assert one.task["data"] == {"text": studio.tasks[1].text}
    assert one.task["created_at_us"] == studio.tasks[1].created_us
    (annotation,) = one.annotations
    assert annotation.result == POSITIVE
    assert annotation.completed_by == "1"
    assert (annotation.created_at_us, annotation.updated_at_us) == (
        studio.annotations[1].created_us,
        studio.annotations[1].updated_us,
    )
    follower.check()


def test_an_update_replaces_it(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    assert follower.hear(only(studio.update(1, label="Negative"))).changes == 1
    assert stored(follower)[1].annotations[0].result[0]["value"] == {"choices": ["Negative"]}
    follower.check()


def test_a_skip_takes_it_out_of_the_examples_and_its_undoing_brings_it_back(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    project = follower.hear(only(studio.update(1, cancelled=True))).project
    assert (project.derived.skipped_annotations_number, project.training.trainable) == (1, 0)
    assert stored(follower) == {}
    project = follower.hear(only(studio.update(1, cancelled=False))).project
    assert (project.derived.skipped_annotations_number, project.training.trainable) == (0, 1)
    assert list(stored(follower)) == [1]
    follower.check()


def test_an_empty_result_is_an_example_and_no_result_is_none(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "")))
    project = follower.hear(only(studio.create(2, None))).project
    assert project.derived.useful_annotation_number == 1
    assert stored(follower)[1].annotations[0].result == []
    assert 2 not in stored(follower)
    follower.check()


def test_a_deletion_removes_it_and_the_task_with_the_last_one(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    follower.hear(only(studio.create(1, "Negative")))
    follower.hear(only(studio.delete([1])))
    assert list(follower.texts()) == [1]
    follower.hear(only(studio.delete([2])))
    assert follower.texts() == {}
    follower.check()


def test_many_are_deleted_in_one_event(studio: ModelLabelStudio, follower: Follower) -> None:
    for task in (1, 2, 1):
        follower.hear(only(studio.create(task, "Positive")))
    recorded = follower.hear(only(studio.delete([1, 2, 3])))
    assert recorded.changes == 3
    assert recorded.project.derived == DerivedCounters()
    follower.check()


def test_a_new_ground_truth_takes_the_mark_from_its_sibling_of_which_nobody_tells(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive", ground_truth=True)))
    follower.hear(only(studio.create(1, "Negative")))
    follower.hear(only(studio.create(2, "Negative", ground_truth=True)))
    recorded = follower.hear(only(studio.update(2, ground_truth=True)))
    assert recorded.changes == 2
    assert recorded.project.drift == {}
    marks = {one.id: one.ground_truth for task in stored(follower).values() for one in task.annotations}
    assert marks == {1: False, 2: True, 3: True}
    follower.check()


def test_an_edit_of_one_of_several_imported_ground_truths_leaves_the_others(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    studio.import_tasks([["Positive", "Negative"]])
    follower.sync()
    recorded = follower.hear(only(studio.update(1, label="Negative")))
    assert recorded.changes == 1
    follower.check()


def test_thousands_of_annotations_without_the_data_of_their_tasks_are_stored_and_missed(
    follower: Follower,
) -> None:
    many = tuple(Annotation(one, one, [], created_at_us=1, updated_at_us=1) for one in range(1, 5001))
    project = Project(id=2, created_at_us=follower.studio.created_us)
    known = follower.state.record(AnnotationsWritten("ANNOTATIONS_CREATED", project, many, ()), follower.now).project
    assert (known.derived.total_annotations_number, known.dataless) == (5000, True)


def test_a_bulk_of_accepted_predictions_is_left_out_of_the_examples_and_counted(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    project = follower.hear(only(studio.accept_predictions([1, 2], "Positive"))).project
    assert (project.bulk_accepted, project.training.trainable) == (2, 0)
    assert project.derived.useful_annotation_number == 2
    assert {task: (one.annotations, one.left_out) for task, one in stored(follower).items()} == {
        1: ((), 1),
        2: ((), 1),
    }
    assert len(stored(follower, bulk_accepted=True)[1].annotations) == 1
    follower.check()


def test_an_accepted_prediction_that_somebody_looked_at_again_counts(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.accept_predictions([1, 2], "Positive")))
    project = follower.hear(only(studio.update(1, label="Positive"))).project
    assert (project.bulk_accepted, project.training.trainable) == (1, 1)
    (annotation,) = stored(follower)[1].annotations
    assert annotation.from_prediction
    follower.check()


def test_a_submitted_prediction_is_an_annotators_word(studio: ModelLabelStudio, follower: Follower) -> None:
    project = follower.hear(only(studio.create(1, "Positive", prediction=7))).project
    assert (project.bulk_accepted, project.training.trainable) == (0, 1)
    assert stored(follower)[1].annotations[0].from_prediction


def test_a_deleted_task_takes_the_annotations_last_seen_under_it(studio: ModelLabelStudio, follower: Follower) -> None:
    for task in (1, 1, 2):
        follower.hear(only(studio.create(task, "Positive")))
    recorded = follower.hear(only(studio.delete_tasks([1])))
    assert recorded.changes == 2
    assert list(follower.held()) == [3]
    follower.check()


def test_an_annotation_that_moved_before_its_old_task_was_deleted_stays(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(2, "Positive")))
    gone = only(studio.remove_duplicates(1, 2))
    follower.hear(only(studio.update(1, label="Negative")))
    assert follower.hear(gone).changes == 0
    follower.check()


def test_an_annotation_of_a_deleted_duplicate_comes_back_with_its_next_event(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(2, "Positive")))
    follower.hear(only(studio.remove_duplicates(1, 2)))
    assert follower.held() == {}
    follower.hear(only(studio.update(1, label="Positive")))
    follower.check()


def test_new_task_data_is_taken_over_and_counts_as_a_change_of_its_annotations(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    follower.hear(only(studio.create(1, "Negative")))
    uid = studio.uid
    follower.state.attempted(uid, follower.state.snapshot(uid), follower.now, seconds=1, trained_size=2)
    studio.edit_task(1, "new text")
    follower.hear(only(studio.create(1, "Positive")))
    assert follower.state.snapshot(uid).changed == {1, 2, 3}
    follower.check()


def test_large_task_data_lies_compressed_and_comes_back_whole(studio: ModelLabelStudio, follower: Follower) -> None:
    studio.edit_task(1, "a long text " * 10_000)
    follower.hear(only(studio.create(1, "Positive")))
    (size,) = [len(value) for value in follower.redis.hvals(f"mlb:{{{studio.uid}}}:tasks")]
    assert size < 2_000
    assert stored(follower)[1].task["data"]["text"] == "a long text " * 10_000


@pytest.mark.parametrize("request_", samples.webhooks(), ids=lambda one: one.name)
def test_every_recorded_webhook_can_be_recorded(follower: Follower, request_: samples.Request) -> None:
    assert request_.body is not None
    event = parse(request_.body["action"], request_.body)
    assert follower.state.record(event, 1.0).uid == "2.1795333883"


def test_the_recorded_session_ends_with_label_studios_own_counts(follower: Follower) -> None:
    # Until the recording imports tasks with annotations, every count agrees without a sync.
    for request in samples.webhooks():
        assert request.body is not None
        project = follower.state.record(parse(request.body["action"], request.body), 1.0).project
        if request.name < "14":
            assert project.drift == {}, request.name
        else:
            missing = {name: number for name, number in project.drift.items() if number}
            assert missing == {"total_annotations_number": 3, "ground_truth_number": 3}, request.name
            assert project.missing == 3


# --- the project's own settings ---------------------------------------------------------------------------------------


def test_title_threshold_and_label_config_come_with_every_event(studio: ModelLabelStudio, follower: Follower) -> None:
    studio.change_project("Sentiment", 7)
    project = follower.hear(only(studio.create(1, "Positive"))).project
    assert (project.title, project.training.project_min_annotations) == ("Sentiment", 7)
    assert follower.state.label_config(studio.uid) == CONFIG


def test_an_older_payload_does_not_bring_old_settings_back(studio: ModelLabelStudio, follower: Follower) -> None:
    old = only(studio.create(1, "Positive"))
    follower.hear(only(studio.change_project("New", 7)))
    project = follower.hear(old).project
    assert (project.title, project.training.project_min_annotations) == ("New", 7)


def test_setup_brings_label_config_and_extra_params(follower: Follower) -> None:
    project = follower.state.setup("2.1795333883", CONFIG, '{"refit": {}}', 5.0)
    assert (project.uid, project.project_id, project.extra_params) == ("2.1795333883", 2, '{"refit": {}}')
    assert project.meta["first_seen"] == "5.0"
    assert follower.state.setup("2.1795333883", CONFIG, None, 6.0).extra_params == '{"refit": {}}'


def test_whatever_the_webhook_brings_is_heard_a_saved_project_too_and_what_the_connection_brings_is_not(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.state.setup(studio.uid, CONFIG, None, follower.now)
    assert follower.hear(only(studio.click())).project.heard_at is None
    studio.pass_time(1)
    saved = follower.hear(only(studio.change_project("As it was", 0))).project
    assert saved.heard_at == follower.now
    studio.pass_time(1)
    again = follower.hear(only(studio.change_project("As it was", 0))).project.heard_at
    assert again == follower.now
    studio.pass_time(1)
    follower.state.setup(studio.uid, CONFIG, "{}", follower.now)
    assert follower.hear(only(studio.click())).project.heard_at == again


def test_what_is_not_known_is_none_or_empty(follower: Follower) -> None:
    assert follower.state.load("2.1795333883") is None
    assert follower.state.label_config("2.1795333883") == ""
    assert follower.state.trained_config("2.1795333883") == ""
    assert list(follower.state.stored("2.1795333883")) == []
    assert follower.state.uids() == []


# --- round trips ------------------------------------------------------------------------------------------------------


def test_every_event_is_one_script_call(valkey: redis.Redis, studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    events = [
        *studio.create(1, "Positive"),
        *studio.create(2, None, cancelled=True),
        *studio.update(1, label="Negative"),
        *studio.update(2, ground_truth=True),
        *studio.accept_predictions([1, 2], "Positive"),
        *studio.delete([1]),
        *studio.delete_tasks([2]),
        *studio.import_tasks([[], []]),
        *studio.change_project("Other", 3),
        *studio.click(),
    ]
    with Monitored(valkey) as commands:
        for event in events:
            follower.hear(event)
    assert len(commands) == len(events)
    assert all(one.startswith("EVALSHA ") for one in commands)


def test_an_event_that_comes_twice_writes_nothing_the_second_time(
    valkey: redis.Redis, studio: ModelLabelStudio, follower: Follower
) -> None:
    event = only(studio.create(1, "Positive"))
    first = follower.hear(event).project
    written = valkey.info("persistence")["rdb_changes_since_last_save"]
    again = follower.hear(event)
    assert again.changes == 0
    assert again.project == first
    assert valkey.info("persistence")["rdb_changes_since_last_save"] == written


def test_an_event_that_a_sync_was_faster_than_still_follows_its_start_training(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    event = only(studio.create(2, "Positive"))
    follower.sync()
    began = follower.hear(only(studio.click())).project.last_start_at
    project = follower.hear(event).project
    assert began is not None
    assert project.last_annotation_at is not None
    assert project.last_annotation_at >= began


def test_the_label_config_is_sent_once(valkey: redis.Redis, studio: ModelLabelStudio, follower: Follower) -> None:
    with Monitored(valkey) as commands:
        for _ in range(3):
            follower.hear(only(studio.create(1, "Positive")))
    assert sum("Choices" in one and "toName" in one for one in commands if one.startswith("EVALSHA")) == 1


def test_a_label_config_that_redis_lost_is_sent_again(
    valkey: redis.Redis, studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    valkey.flushall()
    recorded = follower.hear(only(studio.create(2, "Positive")))
    assert recorded.changes == 1
    assert follower.state.label_config(studio.uid) == CONFIG
    assert recorded.project.config_hash != ""
    assert recorded.project.drift["total_annotations_number"] == 1


def test_a_script_that_redis_lost_is_loaded_again(
    valkey: redis.Redis, studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    valkey.script_flush()
    assert follower.hear(only(studio.create(2, "Positive"))).changes == 1
    follower.check()


def test_without_redis_every_method_says_unavailable(studio: ModelLabelStudio) -> None:
    with running_valkey() as socket:
        valkey = connect(socket)
        follower = Follower(valkey, "mlb:", studio)
        payload = only(studio.create(1, "Positive"))
        follower.hear(payload)
    calls = [
        lambda: follower.hear(payload),
        lambda: follower.state.load(studio.uid),
        follower.state.uids,
        lambda: list(follower.state.stored(studio.uid)),
        lambda: follower.state.snapshot(studio.uid),
        lambda: follower.state.mark(studio.uid, x=1.0),
        lambda: follower.state.decided(studio.uid, "wait", "why", 1.0),
        follower.begin,
        lambda: DueList(valkey).claim(1.0),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            call()
    valkey.close()
