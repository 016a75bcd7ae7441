"""What Label Studio counts held against what is stored, and which project an event is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ml_backend.errors import BadInput, ProjectUnknown
from ml_backend.uids import require_uid
from tests.followers import Follower, only
from tests.modelled import ModelLabelStudio, iso

if TYPE_CHECKING:
    import redis


# --- counters and drift -----------------------------------------------------------------------------------------------


def test_all_eight_counters_are_there_five_of_them_from_the_set_itself(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    studio.create(1, "Positive")  # lost
    project = follower.hear(only(studio.create(2, "Negative"))).project
    assert project.counters == {
        **studio.counters().as_dict(),
        "total_annotations_number": 1,
        "num_tasks_with_annotations": 1,
        "useful_annotation_number": 1,
    }
    assert project.drift == {
        "total_annotations_number": 1,
        "num_tasks_with_annotations": 1,
        "useful_annotation_number": 1,
        "ground_truth_number": 0,
        "skipped_annotations_number": 0,
    }
    assert project.missing == 1
    assert project.drift_since == follower.now


def test_the_drift_keeps_its_beginning_and_ends_when_the_counts_agree(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    lost = only(studio.create(1, "Positive"))
    since = follower.hear(only(studio.create(2, "Negative"))).project.drift_since
    assert follower.hear(only(studio.create(2, "Negative"))).project.drift_since == since
    project = follower.hear(lost).project
    assert (project.drift, project.drift_since, project.training.drifting) == ({}, None, False)


def test_an_older_payloads_counters_do_not_replace_newer_ones(studio: ModelLabelStudio, follower: Follower) -> None:
    late = only(studio.create(1, "Positive"))
    follower.hear(only(studio.create(2, "Negative")))
    project = follower.hear(late).project
    assert project.reported == studio.counters()
    assert project.drift == {}


def test_undated_counters_raise_suspicion_and_are_not_kept(studio: ModelLabelStudio, follower: Follower) -> None:
    project = follower.hear(only(studio.create(1, "Positive"))).project
    kept = project.reported
    studio.import_tasks([["Positive"]])
    project = follower.hear(only(studio.click())).project
    assert project.drift["ground_truth_number"] == 1
    assert project.reported == kept


def test_a_late_repeat_raises_no_suspicion(studio: ModelLabelStudio, follower: Follower) -> None:
    created = only(studio.create(1, "Positive"))
    follower.hear(created)
    follower.hear(only(studio.delete([1])))
    assert follower.hear(created).project.drift == {}


def test_events_that_are_ignored_still_tell_the_counts(studio: ModelLabelStudio, follower: Follower) -> None:
    studio.create(1, "Positive")
    linked = {"action": "LABEL_LINK_CREATED", "project": studio.project_payload()}
    assert follower.hear(linked).project.drift["total_annotations_number"] == 1


def test_a_payload_without_counters_says_nothing_of_them(studio: ModelLabelStudio, follower: Follower) -> None:
    payload = only(studio.create(1, "Positive"))
    payload["project"] = {"id": 2, "created_at": iso(studio.created_us)}
    project = follower.hear(payload).project
    assert (project.reported, project.drift) == (None, {})
    assert project.counters["task_number"] == 0


@pytest.mark.parametrize(("ids", "wanted"), [([1], False), ([1, 2], True)])
@pytest.mark.parametrize("action", ["ANNOTATIONS_DELETED", "TASKS_DELETED"])
def test_a_bulk_deletion_asks_for_a_complete_sync(
    studio: ModelLabelStudio, follower: Follower, action: str, ids: list[int], wanted: bool
) -> None:
    for task in (1, 2):
        follower.hear(only(studio.create(task, "Positive")))
    event = only(studio.delete(ids) if action == "ANNOTATIONS_DELETED" else studio.delete_tasks(ids))
    assert (follower.hear(event).project.complete_wanted_at is not None) is wanted


def test_an_event_without_payload_asks_for_an_incremental_sync_of_the_only_project(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.click()))
    recorded = follower.hear({"action": "ANNOTATION_CREATED"})
    assert recorded.uid == studio.uid
    assert recorded.project.incremental_wanted_at == follower.now


# --- which project ----------------------------------------------------------------------------------------------------


def test_two_projects_do_not_mix(valkey: redis.Redis, studio: ModelLabelStudio, follower: Follower) -> None:
    other = ModelLabelStudio(project_id=3)
    other.import_tasks([[]])
    second = Follower(valkey, "mlb:", other)
    follower.hear(only(studio.create(1, "Positive")))
    second.hear(only(other.create(1, "Negative")))
    second.hear(only(other.delete([1])))
    follower.check()
    second.check()
    assert sorted(follower.state.uids()) == [studio.uid, other.uid]


def test_two_installations_with_the_same_project_id_do_not_mix(
    valkey: redis.Redis, studio: ModelLabelStudio, follower: Follower
) -> None:
    other = ModelLabelStudio(created_us=studio.created_us + 5_000_000)
    other.import_tasks([[]])
    second = Follower(valkey, "mlb:", other)
    follower.hear(only(studio.create(1, "Positive")))
    second.hear(only(other.create(1, "Negative")))
    follower.check()
    second.check()
    assert sorted(follower.state.uids()) == sorted([studio.uid, other.uid])


def test_an_id_alone_is_enough_when_one_known_project_has_it(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.click()))
    assert follower.hear({"action": "PROJECT_DELETED", "id": 2}).uid == studio.uid


def test_an_id_alone_is_refused_when_two_have_it_or_none(studio: ModelLabelStudio, follower: Follower) -> None:
    deleted = {"action": "PROJECT_DELETED", "project": {"id": 2}}
    with pytest.raises(ProjectUnknown, match=r"project\.id: 2 is not known here"):
        follower.hear(deleted)
    follower.hear(only(studio.click()))
    follower.hear(only(ModelLabelStudio(created_us=studio.created_us + 5_000_000).click()))
    with pytest.raises(ProjectUnknown, match="2 known projects have this id"):
        follower.hear(deleted)


def test_an_event_that_names_no_project_is_refused_unless_there_is_one_only(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    with pytest.raises(ProjectUnknown, match="project: is missing"):
        follower.hear({"action": "ANNOTATION_CREATED"})
    follower.hear(only(studio.click()))
    follower.hear(only(ModelLabelStudio(project_id=3).click()))
    with pytest.raises(ProjectUnknown, match="and 2 projects are known"):
        follower.hear({"action": "ANNOTATION_CREATED"})


@pytest.mark.parametrize("uid", ["2.1795333883", "0.0", "9" * 18 + "." + "9" * 12])
def test_a_uid_is_taken_as_label_studio_writes_it(uid: str) -> None:
    assert require_uid(uid) == uid


@pytest.mark.parametrize(
    "uid", [None, 2, "", "2", "2.", ".2", "2.1.3", "-2.1", "2.x", "²2.1", "2.1\n", "../2.1", "1" * 19 + ".1", "}:x{.1"]
)
def test_anything_else_is_refused(uid: object) -> None:
    with pytest.raises(BadInput, match="project: must be Label Studio's project uid"):
        require_uid(uid)
