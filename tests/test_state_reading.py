"""What a run, a person and the clock read of a project, and the marks they leave."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ml_backend.counters import Counters
from ml_backend.state import SyncState
from ml_backend.state.due import CLAIM_S, DueList
from ml_backend.state.store import DECISIONS_KEPT
from tests.followers import Follower, only, stored, truth
from tests.modelled import CONFIG, ModelLabelStudio, iso

if TYPE_CHECKING:
    import redis


# --- a run's view -----------------------------------------------------------------------------------------------------


def test_a_snapshot_holds_what_changed_since_the_last_training(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    follower.hear(only(studio.create(2, "Negative")))
    follower.hear(only(studio.update(2, label="Positive")))
    snapshot = follower.state.snapshot(studio.uid)
    assert snapshot.changed == {1, 2}
    assert snapshot.label_config == CONFIG
    project = follower.project()
    assert project is not None
    assert project.training.changed == 2


def test_after_a_training_the_changes_it_held_are_none_and_those_since_are(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    uid = studio.uid
    follower.hear(only(studio.create(1, "Positive")))
    follower.hear(only(studio.create(2, "Negative")))
    snapshot = follower.state.snapshot(uid)
    follower.hear(only(studio.update(2, label="Positive")))
    follower.hear(only(studio.delete([1])))
    follower.state.attempted(uid, snapshot, 1_000.0, seconds=30.0, trained_size=2, config_hash="abc")
    project = follower.project()
    assert project is not None
    training = project.training
    assert (training.changed, training.trained, training.trained_size, training.last_seconds) == (2, True, 2, 30.0)
    assert training.attempted_seq == snapshot.seq < training.seq
    # The change came while it ran: at 970 at the earliest.
    assert training.first_change_at == 970.0
    assert follower.state.snapshot(uid).changed == {1, 2}
    assert (project.trained_config_hash, follower.state.trained_config(uid)) == ("abc", CONFIG)


def test_after_a_training_that_held_everything_there_is_no_first_change(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    uid = studio.uid
    follower.state.mark(uid, threshold_at=5.0)
    follower.state.attempted(uid, follower.state.snapshot(uid), 1_000.0, seconds=30.0, trained_size=1)
    project = follower.project()
    assert project is not None
    assert project.training.first_change_at is None
    assert project.training.threshold_at is None
    at = follower.now + 60
    studio.pass_time(60)
    training = follower.hear(only(studio.create(1, "Positive"))).project.training
    assert training.first_change_at is not None
    assert training.first_change_at >= at


def test_after_a_failed_attempt_the_changes_stay_changes(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    uid = studio.uid
    snapshot = follower.state.snapshot(uid)
    follower.state.attempted(uid, snapshot, 1_000.0, seconds=30.0)
    project = follower.project()
    assert project is not None
    assert (project.training.changed, project.training.trained) == (1, False)
    assert project.training.attempted_seq == project.training.seq


def test_a_config_that_could_not_be_trained_for_is_not_tried_again_until_something_changes(
    studio: ModelLabelStudio, follower: Follower
) -> None:
    project = follower.hear(only(studio.create(1, "Positive"))).project
    uid = studio.uid
    follower.state.mark(uid, outdated="the control is gone")
    assert follower.project().training.outdated == "the control is gone"  # type: ignore[union-attr]
    snapshot = follower.state.snapshot(uid)
    follower.state.attempted(uid, snapshot, 1_000.0, seconds=30.0, config_hash=project.config_hash)
    assert follower.project().training.outdated is None  # type: ignore[union-attr]


def test_many_tasks_are_streamed_each_once(studio: ModelLabelStudio, follower: Follower) -> None:
    studio.import_tasks([["Positive"]] * 1_200)
    follower.sync(size=500)
    found = [int(one.task["id"]) for one in follower.state.stored(studio.uid)]
    assert len(found) == 1_200
    assert set(found) == {one.task for one in studio.annotations.values()}


def test_annotations_of_a_task_come_oldest_first(studio: ModelLabelStudio, follower: Follower) -> None:
    for _ in range(3):
        follower.hear(only(studio.create(1, "Positive")))
    follower.hear(only(studio.update(1, label="Negative")))
    assert [one.id for one in stored(follower)[1].annotations] == [1, 2, 3]


# --- marks, decisions, the clock's list -------------------------------------------------------------------------------


def test_marks_are_set_and_taken_away(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.click()))
    follower.state.mark(studio.uid, outdated="the control is gone", threshold_at=12.5)
    project = follower.project()
    assert project is not None
    assert (project.training.outdated, project.training.threshold_at) == ("the control is gone", 12.5)
    follower.state.mark(studio.uid, outdated=None, deleted_at=3.0)
    project = follower.project()
    assert project is not None
    assert (project.training.outdated, project.deleted_at) == (None, 3.0)


def test_the_last_decisions_are_kept_newest_first(follower: Follower) -> None:
    for number in range(DECISIONS_KEPT + 5):
        follower.state.decided("2.1795333883", "wait", f"reason {number}", float(number))
    found = follower.state.decisions("2.1795333883", limit=1_000)
    assert len(found) == DECISIONS_KEPT
    assert found[0] == {"at": 204.0, "kind": "wait", "reason": "reason 204"}
    assert len(follower.state.decisions("2.1795333883", limit=3)) == 3


def test_every_change_puts_the_project_on_the_clocks_list(
    valkey: redis.Redis, studio: ModelLabelStudio, follower: Follower
) -> None:
    due = DueList(valkey)
    follower.hear(only(studio.create(1, "Positive")))
    assert due.claim(follower.now)[0] == [studio.uid]


def test_a_claimed_project_is_not_claimed_again_until_its_claim_runs_out(valkey: redis.Redis) -> None:
    due = DueList(valkey)
    due.ask("2.1", 100.0)
    assert due.claim(99.0)[0] == []
    assert due.claim(100.0)[0] == ["2.1"]
    assert due.claim(100.0 + CLAIM_S - 1)[0] == []
    assert due.claim(100.0 + CLAIM_S)[0] == ["2.1"]


def test_it_is_looked_at_when_it_was_settled_or_earlier_if_something_asked_for_that(valkey: redis.Redis) -> None:
    due = DueList(valkey)
    due.ask("2.1", 100.0)
    _, claim = due.claim(100.0)
    due.settle("2.1", claim, 500.0)
    assert due.claim(499.0)[0] == []
    _, claim = due.claim(500.0)
    due.ask("2.1", 501.0)
    due.settle("2.1", claim, 900.0)
    assert due.claim(501.0)[0] == ["2.1"]


def test_an_unknown_project_can_be_settled(valkey: redis.Redis) -> None:
    due = DueList(valkey)
    due.settle("2.1", 5.0, 100.0)
    assert due.claim(100.0)[0] == ["2.1"]


def test_times_are_as_label_studio_wrote_them_to_the_microsecond(studio: ModelLabelStudio, follower: Follower) -> None:
    payload = only(studio.create(1, "Positive"))
    payload["annotation"]["created_at"] = "2026-11-22T07:51:30.660841Z"
    payload["annotation"]["updated_at"] = "2026-11-22T07:51:30.660842+00:00"
    follower.hear(payload)
    (held,) = follower.held().values()
    assert held[1] + 1 == held[2] == 1_795_333_890_660_842


def test_the_largest_id_is_kept_exactly(studio: ModelLabelStudio, follower: Follower) -> None:
    payload = only(studio.create(1, "Positive"))
    payload["annotation"]["id"] = 2**53
    payload["task"]["id"] = payload["annotation"]["task"] = 2**53 - 1
    follower.hear(payload)
    assert {one: held[0] for one, held in follower.held().items()} == {2**53: 2**53 - 1}
    assert [one.task["id"] for one in follower.state.stored(studio.uid)] == [2**53 - 1]


def test_a_truth_of_the_model_is_what_its_payloads_say(studio: ModelLabelStudio) -> None:
    # The model itself: its counts are those of the recordings' rules (fact 7).
    studio.create(1, "Positive")
    studio.create(1, "", cancelled=True)
    studio.create(2, None)
    studio.import_tasks([["Positive"]])
    assert studio.counters() == Counters(3, 3, 0, 3, 1, 1, 1, 1)
    assert sorted(truth(studio)) == [1, 2, 3, 4]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", iso(studio.now_us))


def test_a_state_and_its_syncs_keep_to_their_prefix(valkey: redis.Redis, studio: ModelLabelStudio) -> None:
    follower = Follower(valkey, "other:", studio)
    follower.hear(only(studio.create(1, "Positive")))
    follower.sync()
    assert all(key.startswith(b"other:") for key in valkey.scan_iter())
    assert SyncState(valkey).resume(studio.uid, 1.0) is None


def test_old_deletions_are_forgotten_after_a_run_too(studio: ModelLabelStudio, follower: Follower) -> None:
    follower.hear(only(studio.create(1, "Positive")))
    follower.hear(only(studio.delete([1])))
    uid, gone = studio.uid, f"mlb:{{{studio.uid}}}:gone"
    for passed, left in ((1800, 1), (3600, 0)):
        studio.pass_time(passed)
        follower.state.attempted(uid, follower.state.snapshot(uid), follower.now, seconds=1.0)
        assert follower.redis.hlen(gone) == left
