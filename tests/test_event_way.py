"""What `fit` answers to each event, and the run that it asks for: real state, runs and Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ml_backend.errors import BadInput
from ml_backend.event_way import ProjectSettings
from ml_backend.settings import Refit, RetrainSettings
from tests.followers import Monitored, only
from tests.modelled import CONFIG, ModelLabelStudio
from tests.pace import Pace

if TYPE_CHECKING:
    import redis

AT_ONCE = RetrainSettings(quiet=0)


@pytest.fixture
def pace(valkey: redis.Redis) -> Pace:
    return Pace(valkey)


def extra_params(pace: Pace, text: str) -> None:
    pace.state.setup(pace.uid, CONFIG, text, pace.now)


# --- annotations ------------------------------------------------------------------------------------------------------


def test_an_annotation_below_the_threshold_is_recorded_and_the_answer_says_how_many_there_are(pace: Pace) -> None:
    assert pace.submit() == {"status": "recorded", "reason": "1 of 10 annotations for the first training"}


def test_at_the_threshold_the_answer_says_what_it_waits_for(pace: Pace) -> None:
    answer = pace.submit(10)
    assert answer["status"] == "recorded"
    assert answer["reason"] == ("10 annotations, 10 start the first training; waiting for 2 s without a new annotation")
    assert pace.waiting is None


def test_without_a_quiet_period_the_event_itself_asks_for_the_run(valkey: redis.Redis) -> None:
    pace = Pace(valkey, retrain=AT_ONCE)
    answer = pace.submit(10)
    assert answer == {
        "status": "training",
        "reason": "10 annotations, 10 start the first training",
        "job": pace.waiting,
    }
    run = pace.runs.waiting(pace.uid)
    assert run is not None
    assert (run.trigger, run.click, run.due_at) == ("ANNOTATION_CREATED", False, pytest.approx(pace.now))


def test_further_events_join_the_run_that_waits(valkey: redis.Redis) -> None:
    pace = Pace(valkey, retrain=AT_ONCE)
    first = pace.submit(10)["job"]
    assert {pace.submit()["job"] for _ in range(20)} == {first}
    assert pace.runs.waiting(pace.uid).joined == 20  # type: ignore[union-attr]


def test_a_repeated_event_changes_nothing_and_says_so(pace: Pace) -> None:
    created = pace.studio.create(1, "Positive")
    pace.hear(created)
    assert pace.hear(created) == {
        "status": "unchanged",
        "reason": "known already; 1 of 10 annotations for the first training",
    }


def test_a_late_event_changes_nothing_and_says_so(pace: Pace) -> None:
    late = pace.studio.create(1, "Positive")
    pace.hear(pace.studio.update(1, label="Negative"))
    assert pace.hear(late)["reason"].startswith("older than what is known; ")


def test_a_deletion_is_recorded(pace: Pace) -> None:
    pace.submit(2)
    assert pace.hear(pace.studio.delete([1])) == {
        "status": "recorded",
        "reason": "1 of 10 annotations for the first training",
    }


def test_imported_tasks_and_changed_projects_are_recorded(pace: Pace) -> None:
    assert pace.hear(pace.studio.import_tasks([[]]))["status"] == "recorded"
    assert pace.hear(pace.studio.change_project("Other", 0))["status"] == "recorded"


def test_while_a_training_runs_the_answer_says_so(valkey: redis.Redis) -> None:
    pace = Pace(valkey, retrain=AT_ONCE)
    pace.submit(10)
    pace.wait(0.2)
    pace.start()
    answer = pace.submit()
    assert answer["status"] == "recorded"
    assert answer["reason"].endswith("a training is running")


# --- what is of no use ------------------------------------------------------------------------------------------------


def test_an_unknown_action_is_ignored_with_the_reason(pace: Pace, valkey: redis.Redis) -> None:
    assert pace.way.handle("WEATHER_CHANGED", {}) == {"status": "ignored", "reason": "unknown action"}
    assert valkey.dbsize() == 0


def test_of_an_ignored_action_the_counts_are_heard(pace: Pace) -> None:
    pace.submit()
    pace.studio.create(1, "Positive")
    answer = pace.way.handle("LABEL_LINK_CREATED", {"project": pace.studio.project_payload()})
    assert answer == {"status": "ignored", "reason": "label links do not change annotations"}
    assert pace.project.missing == 1


def test_an_event_that_cannot_be_read_changes_nothing(pace: Pace, valkey: redis.Redis) -> None:
    payload = only(pace.studio.create(1, "Positive"))
    payload["annotation"]["result"] = "Positive"
    with pytest.raises(BadInput, match=r"annotation\.result"):
        pace.hear([payload])
    assert valkey.dbsize() == 0


def test_an_event_without_payload_is_the_only_projects_and_asks_for_a_sync(pace: Pace) -> None:
    pace.submit()
    assert pace.way.handle("ANNOTATION_CREATED", {"action": "ANNOTATION_CREATED"})["status"] == "recorded"
    assert pace.project.incremental_wanted_at is not None


def test_an_event_without_payload_is_ignored_with_the_reason_where_no_project_or_several_are_known(pace: Pace) -> None:
    answer = pace.way.handle("ANNOTATION_CREATED", {"action": "ANNOTATION_CREATED"})
    assert answer["status"] == "ignored"
    assert "sends no payload" in answer["reason"]
    pace.submit()
    pace.state.setup("9.1795339999", CONFIG, None, pace.now)
    answer = pace.way.handle("ANNOTATION_CREATED", {"action": "ANNOTATION_CREATED"})
    assert answer["status"] == "ignored"
    assert "2 projects are known" in answer["reason"]
    assert pace.project.incremental_wanted_at is None


# --- Start Training ---------------------------------------------------------------------------------------------------


def test_a_click_is_due_at_once_though_there_is_little_to_train_on(pace: Pace) -> None:
    answer = pace.hear(pace.studio.click())
    assert answer == {"status": "queued", "reason": "Start Training", "job": pace.waiting}
    run = pace.runs.waiting(pace.uid)
    assert run is not None
    assert (run.trigger, run.click, run.due_at) == ("START_TRAINING", True, pytest.approx(pace.now))


def test_a_second_click_joins_the_first(pace: Pace) -> None:
    first = pace.hear(pace.studio.click())
    assert pace.hear(pace.studio.click()) == {
        "status": "joined",
        "reason": "joined the training that waits",
        "job": first["job"],
    }


def test_a_click_makes_an_automatic_run_due_at_once_and_lifts_a_pause(pace: Pace) -> None:
    pace.runs.request(pace.uid, trigger="policy", reason="20 changed", due=pace.now + 60, click=False, now=pace.now)
    pace.runs.pause(pace.uid, "3 runs failed in a row", pace.now)
    pace.hear(pace.studio.click())
    run = pace.runs.waiting(pace.uid)
    assert run is not None
    assert run.click
    assert pace.runs.standing(pace.uid).paused == ""
    pace.clock.tick(pace.now)
    assert pace.queued == 1


@pytest.mark.parametrize(("threshold", "clicks"), [(1, False), (2, False), (5, True), (0, True)])
def test_it_is_held_for_the_quiet_period_where_label_studios_counter_may_have_sent_it(
    pace: Pace, threshold: int, clicks: bool
) -> None:
    pace.studio.change_project("T", threshold)
    pace.studio.min_annotations = 0
    pace.submit(2)
    pace.studio.min_annotations = threshold
    answer = pace.hear(pace.studio.click())
    run = pace.runs.waiting(pace.uid)
    assert run is not None
    assert run.click is clicks
    assert run.due_at == pytest.approx(pace.now if clicks else pace.now + 2)
    assert answer["reason"] == ("Start Training" if clicks else "Start Training, or Label Studio's own counter")


def test_an_automatic_run_of_a_paused_project_says_why_it_is_held(pace: Pace) -> None:
    pace.studio.min_annotations = 1
    pace.submit()
    pace.runs.cancel(pace.waiting or "", pace.now)
    pace.runs.pause(pace.uid, "3 runs failed in a row", pace.now)
    assert pace.hear(pace.studio.click())["reason"] == "3 runs failed in a row"


# --- the project's own settings ---------------------------------------------------------------------------------------


def test_the_projects_extra_params_count(pace: Pace) -> None:
    extra_params(pace, '{"refit": {"retrain": {"min_annotations": 2, "quiet": 0}}}')
    assert pace.submit()["reason"] == "1 of 2 annotations for the first training"
    assert pace.submit()["status"] == "training"


def test_the_projects_own_threshold_counts_above_them(pace: Pace) -> None:
    extra_params(pace, '{"refit": {"retrain": {"min_annotations": 2}}}')
    pace.hear(pace.studio.change_project("T", 30))
    assert pace.submit()["reason"] == "1 of 30 annotations for the first training"


def test_extra_params_that_cannot_be_used_any_more_fall_back_to_the_operators(pace: Pace) -> None:
    # A release that no longer knows a setting must not stop the project.
    extra_params(pace, '{"refit": {"retrain": {"of_old": 2}}}')
    assert pace.submit()["reason"] == "1 of 10 annotations for the first training"


def test_settings_are_read_once_for_each_text() -> None:
    settings = ProjectSettings(Refit())
    text = '{"refit": {"retrain": {"every": 50}}, "epochs": 3}'
    assert settings.read(text) is settings.read(text)
    assert settings.read(text)[1] == {"epochs": 3}
    for number in range(1_100):
        settings.read(f'{{"number": {number}}}')
    assert settings.read(text)[0].retrain.every == 50


# --- a deleted project ------------------------------------------------------------------------------------------------


def test_a_deleted_project_trains_no_more(valkey: redis.Redis) -> None:
    pace = Pace(valkey, retrain=AT_ONCE)
    pace.submit(10)
    pace.wait(0.2)
    lease = pace.start()
    pace.hear(pace.studio.click())
    answer = pace.way.handle("PROJECT_DELETED", {"project": {"id": pace.studio.project_id}})
    assert answer == {"status": "recorded", "reason": "the project was deleted in Label Studio; its runs are cancelled"}
    assert pace.waiting is None
    assert pace.runs.renew(lease, pace.now).cancelled
    assert pace.project.deleted_at == pace.now
    assert pace.submit(10) == {
        "status": "recorded",
        "reason": "the project is not connected any more: nothing is trained for it",
    }
    assert pace.hear(pace.studio.click()) == {
        "status": "ignored",
        "reason": "the project is not connected any more: nothing is trained for it",
    }
    assert pace.waiting is None


def test_other_projects_go_on(valkey: redis.Redis) -> None:
    pace, other = Pace(valkey), Pace(valkey, ModelLabelStudio(project_id=3))
    pace.submit()
    other.submit()
    pace.way.handle("PROJECT_DELETED", {"id": pace.studio.project_id})
    assert other.submit()["reason"] == "2 of 10 annotations for the first training"


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_an_event_costs_one_script_call_and_a_run_one_more(valkey: redis.Redis) -> None:
    pace = Pace(valkey, retrain=AT_ONCE)
    pace.submit(1)
    with Monitored(valkey) as commands:
        pace.submit(8)
    assert [one.partition(" ")[0] for one in commands] == ["EVALSHA"] * 8
    pace.submit(1)
    with Monitored(valkey) as commands:
        assert pace.submit(1)["status"] == "training"
    assert [one.partition(" ")[0] for one in commands] == ["EVALSHA"] * 2
