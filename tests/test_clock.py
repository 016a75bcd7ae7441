"""The clock: what waits becomes due, what is due is handed over, what was lost comes back; real state, runs, queue."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from ml_backend.clock import IDLE_S
from ml_backend.errors import Unavailable
from ml_backend.policy import DAY_S, Train, TrainingState, decide
from ml_backend.settings import RetrainSettings
from tests.modelled import CONFIG, ModelLabelStudio
from tests.pace import TICK_S, Pace
from tests.valkey import connect, running_valkey

if TYPE_CHECKING:
    import redis

    from ml_backend.state import ProjectState

UNLIKE = CONFIG.replace('<Choice value="Negative"/>', '<Choice value="Bad"/>')
WIDER = CONFIG.replace('<Choice value="Negative"/>', '<Choice value="Negative"/><Choice value="Mixed"/>')


@pytest.fixture
def pace(valkey: redis.Redis) -> Pace:
    return Pace(valkey)


def trained(pace: Pace, size: int = 10, *, seconds: float = 1.0) -> Pace:
    """A first version is there, and nothing has changed since."""
    pace.submit(size)
    pace.wait(2.4)
    pace.succeed(pace.start(), seconds=seconds)
    pace.wait(TICK_S)
    return pace


# --- from the threshold to the queue ----------------------------------------------------------------------------------


def test_at_the_threshold_a_run_is_handed_over_after_the_quiet_period(pace: Pace) -> None:
    pace.submit(10)
    pace.wait(1.8)
    assert pace.queued == 0
    pace.wait(0.4)
    assert pace.queued == 1
    run = pace.runs.waiting(pace.uid)
    assert run is not None
    assert (run.trigger, run.reason) == ("policy", "10 annotations, 10 start the first training")
    assert pace.reasons[0] == "train: 10 annotations, 10 start the first training"


def test_the_logs_line_of_a_decision_to_train_names_its_run(pace: Pace, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        pace.submit(10)
        pace.wait(2.4)
    begin = f"project {pace.uid} run {pace.waiting}: "
    assert begin + "train: 10 annotations, 10 start the first training" in caplog.messages
    why = "asked for by policy: 10 annotations, 10 start the first training"
    assert begin + f"due ({why}), handed to the training workers" in caplog.messages


def test_every_new_annotation_prolongs_the_quiet_period(pace: Pace) -> None:
    pace.submit(10)
    pace.wait(1.8)
    pace.submit()
    pace.wait(1.8)
    assert pace.queued == 0
    pace.wait(0.4)
    assert pace.queued == 1


def test_at_most_thirty_seconds_after_the_threshold_it_begins_though_annotations_keep_coming(pace: Pace) -> None:
    pace.submit(9, every_s=1.0)
    began = pace.now
    while pace.queued == 0:
        pace.submit(every_s=1.0)
        assert pace.now < began + 40
    assert 30 <= pace.now - began <= 32


def test_a_run_is_handed_over_once_however_many_clocks_tick(pace: Pace) -> None:
    other = Pace(pace.redis, pace.studio)
    pace.submit(10)
    for _ in range(40):
        pace.wait(TICK_S)
        other.clock.tick(pace.now)
    assert pace.queued == 1


def test_it_looks_again_just_when_something_is_due(pace: Pace) -> None:
    pace.submit(10)
    assert pace.clock.consider(pace.uid, pace.now) == pytest.approx(pace.now + 2)


def test_without_anything_to_wait_for_it_looks_every_ten_minutes(pace: Pace) -> None:
    pace.submit(3)
    assert pace.clock.consider(pace.uid, pace.now) == pytest.approx(pace.now + IDLE_S)
    pace.wait(1)
    assert pace.clock.tick(pace.now) == 0
    pace.studio.pass_time(IDLE_S)
    assert pace.clock.tick(pace.now) == 1


def test_a_job_that_redis_or_a_worker_lost_is_handed_over_again(pace: Pace) -> None:
    pace.submit(10)
    pace.wait(2.4)
    pace.redis.delete(pace.jobs.queue_key("train"))
    pace.wait(20)
    assert pace.queued == 1


def test_after_a_training_the_next_one_waits_for_its_own_threshold(pace: Pace) -> None:
    trained(pace)
    pace.submit(9)
    pace.wait(60)
    assert pace.waiting is None
    pace.submit()
    pace.wait(2.4)
    assert pace.queued == 1


def test_labels_that_came_during_a_training_count_for_the_next_one(pace: Pace) -> None:
    pace.submit(10)
    pace.wait(2.4)
    lease = pace.start()
    snapshot = pace.state.snapshot(pace.uid)
    pace.submit(10)
    pace.wait(5)
    assert pace.waiting is None
    pace.state.attempted(pace.uid, snapshot, pace.now, seconds=5.0, trained_size=10)
    pace.runs.finish(lease, "succeeded", reason="fine", now=pace.now)
    pace.wait(4.8)
    assert pace.queued == 0
    assert pace.reasons[0].endswith("trainings are at least 5 s apart")
    pace.wait(0.6)
    assert pace.queued == 1


def test_stale_changes_force_a_run_when_that_is_set(valkey: redis.Redis) -> None:
    pace = trained(Pace(valkey, retrain=RetrainSettings(max_staleness=100)))
    pace.submit()
    pace.wait(99)
    assert pace.queued == 0
    pace.wait(3)
    assert pace.queued == 1


def test_automatic_trainings_of_a_day_are_bounded_and_clicks_neither_count_nor_wait(valkey: redis.Redis) -> None:
    pace = trained(Pace(valkey, retrain=RetrainSettings(max_runs_per_day=2)))
    for _ in range(3):
        pace.hear(pace.studio.click())
        pace.wait(TICK_S)
        pace.succeed(pace.start())
    pace.submit(10)
    pace.wait(4)
    pace.succeed(pace.start())
    pace.submit(10)
    pace.wait(60)
    assert pace.queued == 0
    assert pace.reasons[0].endswith("2 of 2 automatic trainings in 24 hours are used")
    pace.hear(pace.studio.click())
    pace.wait(TICK_S)
    pace.succeed(pace.start())
    pace.submit(10)
    pace.studio.now_us += round((DAY_S - 120) * 1e6)
    pace.wait(4)
    assert pace.queued == 0
    pace.wait(120)
    assert pace.queued == 1


def test_what_people_read_is_not_said_again_with_every_number(pace: Pace) -> None:
    pace.submit(9, every_s=1.0)
    assert len(pace.reasons) == 1
    pace.submit()
    pace.wait(3)
    assert [one.partition(":")[0] for one in pace.reasons] == ["train", "wait", "wait"]


# --- Start Training ---------------------------------------------------------------------------------------------------


def test_a_click_is_handed_over_at_the_next_tick(pace: Pace) -> None:
    pace.submit(2)
    pace.hear(pace.studio.click())
    pace.wait(TICK_S)
    assert pace.queued == 1


def test_a_click_during_a_training_follows_it(pace: Pace) -> None:
    trained(pace)
    pace.hear(pace.studio.click())
    pace.wait(TICK_S)
    lease = pace.start()
    pace.hear(pace.studio.click())
    pace.wait(1)
    assert pace.queued == 0
    pace.succeed(lease)
    pace.wait(TICK_S)
    assert pace.queued == 1


def test_a_held_start_training_without_an_annotation_is_a_click(pace: Pace) -> None:
    pace.submit(2)
    pace.studio.min_annotations = 1
    pace.wait(10)
    pace.hear(pace.studio.click())
    pace.wait(1.8)
    assert pace.queued == 0
    pace.wait(0.4)
    assert pace.queued == 1
    run = pace.runs.waiting(pace.uid)
    assert run is not None
    assert run.click


def test_one_that_an_annotation_follows_is_label_studios_own_and_leaves_it_to_the_policy(pace: Pace) -> None:
    pace.studio.min_annotations = 1
    run = pace.submit() and pace.waiting
    assert run is not None
    pace.wait(3)
    assert pace.waiting is None
    assert pace.queued == 0
    ended = pace.runs.get(run)
    assert ended is not None
    assert ended.status == "cancelled"
    assert ended.ending == (
        "sent by Label Studio's own counter, not by a click; 1 of 10 annotations for the first training"
    )


def test_it_trains_when_the_policy_says_so_too(pace: Pace) -> None:
    pace.studio.min_annotations = 1
    pace.submit(10)
    pace.wait(4)
    assert pace.queued == 1


def test_a_click_soon_after_a_submit_is_not_taken_for_the_submits_own(pace: Pace) -> None:
    pace.studio.min_annotations = 1
    pace.submit()
    pace.wait(1.4)
    pace.hear(pace.studio.click())
    pace.wait(4)
    assert pace.queued == 1
    run = pace.runs.waiting(pace.uid)
    assert run is not None
    assert run.click


@pytest.mark.parametrize("every_s", [0.1, 0.7, 3.0])
def test_two_hundred_submits_with_a_threshold_of_one_bring_no_more_runs_than_the_policy_allows(
    valkey: redis.Redis, every_s: float
) -> None:
    pace = Pace(valkey)
    pace.studio.min_annotations = 1
    runs = 0
    for _ in range(200):
        pace.submit(every_s=every_s)
        if pace.queued:
            runs += 1
            pace.succeed(pace.start(), seconds=0.0)
    pace.wait(40)
    if pace.queued:
        runs += 1
        pace.succeed(pace.start(), seconds=0.0)
    pace.wait(40)
    assert pace.queued == 0
    assert 1 <= runs <= allowed(200)


def allowed(count: int) -> int:
    """Runs of a project that grows one by one and never has to wait for anything but its thresholds."""
    state, runs, settings = TrainingState(), 0, RetrainSettings(quiet=0)
    for size in range(1, count + 1):
        state = TrainingState(
            useful=size,
            trainable=size,
            changed=state.changed + 1,
            seq=size,
            trained=state.trained,
            trained_size=state.trained_size,
            attempted_seq=state.attempted_seq,
            last_change_at=0.0,
        )
        if isinstance(decide(state, settings, 1.0), Train):
            runs += 1
            state = TrainingState(trained=True, trained_size=size, attempted_seq=size)
    return runs


# --- a changed label config -------------------------------------------------------------------------------------------


def change_config(pace: Pace, config: str) -> None:
    pace.state.setup(pace.uid, config, None, pace.now)


def test_a_label_that_is_gone_makes_the_model_outdated_and_trains_again(pace: Pace) -> None:
    trained(pace)
    change_config(pace, UNLIKE)
    pace.wait(2.4)
    assert pace.queued == 1
    assert pace.reasons[0] == "train: the label config changed: 'sentiment' no longer has 'Negative'"
    pace.succeed(pace.start())
    pace.wait(10)
    assert pace.queued == 0
    assert pace.project.training.outdated is None


def test_a_new_label_does_not(pace: Pace) -> None:
    trained(pace)
    change_config(pace, WIDER)
    pace.wait(10)
    assert pace.queued == 0


def test_nor_a_label_that_came_back_before_anything_was_trained(pace: Pace) -> None:
    trained(pace, seconds=100.0)
    change_config(pace, UNLIKE)
    pace.wait(1)
    assert pace.project.training.outdated is not None
    change_config(pace, CONFIG)
    pace.wait(300)
    assert pace.project.training.outdated is None
    assert pace.queued == 0


def test_a_config_that_no_model_can_be_trained_for_is_tried_once(pace: Pace) -> None:
    trained(pace)
    change_config(pace, UNLIKE)
    pace.wait(2.4)
    lease = pace.start()
    snapshot = pace.state.snapshot(pace.uid)
    pace.state.attempted(pace.uid, snapshot, pace.now, seconds=0.1, config_hash=pace.project.config_hash)
    pace.runs.finish(lease, "failed", reason="it has no Choices", counts=False, now=pace.now)
    pace.wait(60)
    assert pace.queued == 0


# --- failures, pauses, losses -----------------------------------------------------------------------------------------


def test_a_failed_run_is_tried_again_later_and_later_and_then_pauses(pace: Pace) -> None:
    pace.submit(10)
    waits = []
    for _ in range(3):
        began = pace.now
        while pace.queued == 0:
            pace.wait(TICK_S)
            assert pace.now < began + 60
        waits.append(pace.now - began)
        pace.fail(pace.start())
    assert waits[1] == pytest.approx(5, abs=0.3)
    assert waits[2] == pytest.approx(10, abs=0.3)
    pace.wait(3600)
    assert pace.queued == 0
    assert "paused: 3 runs failed in a row; the last one: no such layer" in pace.reasons[0]


def paused(pace: Pace) -> Pace:
    pace.submit(10)
    pace.wait(2.4)
    for number in range(3):
        pace.fail(pace.start())
        pace.wait(0.2 if number == 2 else 30)
    assert pace.runs.standing(pace.uid).paused
    return pace


def test_a_new_annotation_lifts_the_pause(pace: Pace) -> None:
    paused(pace)
    pace.wait(60)
    pace.submit()
    pace.wait(30)
    assert pace.runs.standing(pace.uid).paused == ""
    assert pace.queued == 1
    assert any(one.startswith("resumed: the training set changed") for one in pace.reasons)


def test_a_click_lifts_it_too(pace: Pace) -> None:
    paused(pace)
    pace.hear(pace.studio.click())
    pace.wait(TICK_S)
    assert pace.queued == 1


def test_a_run_whose_worker_fell_silent_comes_back(pace: Pace) -> None:
    pace.submit(10)
    pace.wait(2.4)
    run = pace.start("w1").run_id
    pace.wait(14)
    assert pace.waiting is None
    pace.wait(3)
    assert pace.waiting == run
    assert pace.queued == 1
    assert any("its worker w1 fell silent" in one for one in pace.reasons)


def test_a_run_that_is_lost_over_and_over_pauses_until_something_changes(pace: Pace) -> None:
    pace.submit(10)
    began = pace.now
    while not pace.runs.standing(pace.uid).paused:
        pace.wait(1)
        if pace.queued:
            pace.start()
        assert pace.now < began + 3600
    pace.wait(600)
    assert pace.queued == 0
    pace.submit()
    pace.wait(30)
    assert pace.queued == 1


# --- others, deletions, trouble ---------------------------------------------------------------------------------------


@dataclass
class Asked:
    """Somebody else who wants to look at projects."""

    at: float | None = None
    projects: list[ProjectState] = field(default_factory=list)

    def consider(self, project: ProjectState, now: float) -> float | None:
        self.projects.append(project)
        return self.at


def test_others_are_asked_and_may_want_to_be_asked_again_sooner(valkey: redis.Redis) -> None:
    asked = Asked()
    pace = Pace(valkey, others=(asked,))
    pace.submit()
    asked.at = pace.now + 6.9
    pace.wait(TICK_S)
    assert [one.uid for one in asked.projects] == [pace.uid]
    pace.wait(6.4)
    assert len(asked.projects) == 1
    pace.wait(0.4)
    assert len(asked.projects) == 2


def test_a_deleted_project_is_left_alone_and_thrown_away_in_its_time(valkey: redis.Redis) -> None:
    asked, purged = Asked(), []

    def purge(uid: str, now: float) -> bool:
        purged.append((uid, now))
        return True

    pace = Pace(valkey, others=(asked,), purge=purge)
    pace.submit(10)
    pace.way.handle("PROJECT_DELETED", {"id": pace.studio.project_id})
    pace.wait(10)
    assert pace.queued == 0
    assert asked.projects == []
    assert {uid for uid, _ in purged} == {pace.uid}


def test_a_run_that_an_event_asks_for_while_its_project_is_deleted_is_cancelled(
    pace: Pace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace.submit()
    plain = pace.runs.request

    def request(*arguments: Any, **named: Any) -> Any:
        monkeypatch.undo()
        pace.way.handle("PROJECT_DELETED", {"id": pace.studio.project_id})
        return plain(*arguments, **named)

    monkeypatch.setattr(pace.runs, "request", request)
    run_id = pace.hear(pace.studio.click())["job"]
    assert pace.waiting == run_id
    pace.wait(TICK_S)
    run = pace.runs.get(run_id)
    assert run is not None
    assert (run.status, run.ending) == ("cancelled", "the project was deleted, or is not connected any more")


def test_what_is_kept_of_a_deleted_project_stays_until_its_last_run_has_come_to_an_end(valkey: redis.Redis) -> None:
    purged: list[str] = []
    pace = Pace(valkey, purge=lambda uid, _now: bool(purged.append(uid)) or True)
    pace.submit(10)
    pace.wait(2.4)
    lease = pace.start()
    pace.state.mark(pace.uid, deleted_at=pace.now)
    pace.pass_running(lease, 20)
    assert pace.runs.look(lease).cancelled
    assert purged == []
    pace.wait(16)
    run = pace.runs.get(lease.run_id)
    assert run is not None
    assert run.status == "cancelled", "its worker fell silent"
    assert set(purged) == {pace.uid}


def test_one_broken_project_does_not_stop_the_others(valkey: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    pace, broken = Pace(valkey), Pace(valkey, ModelLabelStudio(project_id=3))
    broken.submit()
    valkey.hset(f"mlb:{{{broken.uid}}}:meta", "threshold", "not a number")
    pace.submit(10)
    with caplog.at_level(logging.ERROR):
        pace.wait(2.4)
    assert pace.queued == 1
    assert f"project {broken.uid}: the clock could not decide" in caplog.text


def test_an_unknown_project_on_the_list_is_looked_at_once_in_a_while(pace: Pace) -> None:
    assert pace.clock.consider("9.1", 100.0) == 100.0 + IDLE_S


def test_without_redis_the_clock_says_unavailable() -> None:
    with running_valkey() as socket:
        client = connect(socket)
        pace = Pace(client)
        pace.submit()
    with pytest.raises(Unavailable):
        pace.clock.tick(pace.now)
    client.close()
