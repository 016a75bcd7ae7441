"""When to retrain, branch by branch, and the laws that hold for every state."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.counters import Counters
from ml_backend.policy import (
    DAY_S,
    LONGEST_BACKOFF_S,
    Decision,
    Ignore,
    Train,
    TrainingState,
    Wait,
    changed_since_last_run,
    decide,
    first_threshold,
    is_click,
    next_threshold,
    progress,
)
from ml_backend.settings import RetrainSettings

NOW = 1_000_000.0
DEFAULTS = RetrainSettings()

# Ten annotations, the last one long ago: the first training is due.
FIRST = TrainingState(useful=10, trainable=10, changed=10, seq=10, last_change_at=NOW - 60, first_change_at=NOW - 90)
# Trained on 100, and 20 changes since: the next one is due.
NEXT = TrainingState(
    useful=100,
    trainable=100,
    changed=20,
    seq=120,
    trained=True,
    trained_size=100,
    attempted_seq=100,
    last_change_at=NOW - 60,
    first_change_at=NOW - 90,
    last_ended_at=NOW - 600,
    last_seconds=5.0,
)


def release(decision: Decision, now: float) -> float:
    """When this decision lets a training begin, as far as it tells."""
    if isinstance(decision, Train):
        return now
    return decision.until if isinstance(decision, Wait) and decision.until is not None else math.inf


# --- the first training -----------------------------------------------------------------------------------------------


def test_the_first_training_begins_at_ten_annotations() -> None:
    assert decide(FIRST, DEFAULTS, NOW) == Train("10 annotations, 10 start the first training")


def test_below_the_threshold_it_waits_and_says_how_many_there_are() -> None:
    state = replace(FIRST, useful=9, trainable=9)
    assert decide(state, DEFAULTS, NOW) == Wait("9 of 10 annotations for the first training")


def test_imported_ground_truth_counts_for_the_first_training_though_it_is_not_useful_to_label_studio() -> None:
    assert isinstance(decide(replace(FIRST, useful=0, trainable=10), DEFAULTS, NOW), Train)


def test_the_operators_number_counts_for_the_first_training() -> None:
    assert isinstance(decide(FIRST, RetrainSettings(min_annotations=11), NOW), Wait)
    assert isinstance(decide(FIRST, RetrainSettings(min_annotations=1), NOW), Train)


@pytest.mark.parametrize(("projects_own", "threshold"), [(None, 10), (0, 10), (1, 10), (2, 2), (500, 500)])
def test_the_projects_own_number_counts_when_it_is_above_one(projects_own: int | None, threshold: int) -> None:
    # Label Studio's form overwrites it with 0 or 1 (fact 12).
    assert first_threshold(replace(FIRST, project_min_annotations=projects_own), DEFAULTS) == threshold


# --- later trainings --------------------------------------------------------------------------------------------------


def test_a_later_training_begins_at_a_fifth_of_the_last_training_set() -> None:
    assert decide(NEXT, DEFAULTS, NOW) == Train("20 annotations changed since the last training, 20 start the next")
    assert decide(replace(NEXT, changed=19), DEFAULTS, NOW) == Wait(
        "19 of 20 changed annotations for the next training"
    )


@pytest.mark.parametrize(
    ("size", "settings", "threshold"),
    [
        (10, DEFAULTS, 10),
        (51, DEFAULTS, 11),
        (10_000, DEFAULTS, 2_000),
        (10_000, RetrainSettings(growth=0), 10),
        (10_000, RetrainSettings(growth=0, every=50), 50),
        (100, RetrainSettings(every=50), 50),
        (1_000, RetrainSettings(every=50), 200),
        (10, RetrainSettings(min_annotations=30), 30),
        (0, DEFAULTS, 10),
    ],
)
def test_the_next_threshold_is_the_larger_of_every_and_growth(
    size: int, settings: RetrainSettings, threshold: int
) -> None:
    assert next_threshold(replace(NEXT, trained_size=size), settings) == threshold


def test_every_follows_the_projects_own_number() -> None:
    assert next_threshold(replace(NEXT, trained_size=10, project_min_annotations=40), DEFAULTS) == 40


def test_progress_counts_annotations_first_and_changes_later() -> None:
    assert progress(replace(FIRST, useful=3, trainable=7, changed=9), DEFAULTS) == (7, 10)
    assert progress(NEXT, DEFAULTS) == (20, 20)


def test_nothing_changed_is_nothing_to_decide() -> None:
    assert decide(replace(NEXT, seq=100), DEFAULTS, NOW) == Ignore("nothing changed since the last training")


def test_a_project_of_which_nothing_is_known_waits_for_annotations() -> None:
    assert decide(TrainingState(), DEFAULTS, NOW) == Wait("0 of 10 annotations for the first training")


# --- a changed label config -------------------------------------------------------------------------------------------


def test_an_outdated_model_is_trained_again_without_any_change_of_annotations() -> None:
    state = replace(NEXT, changed=0, seq=100, outdated="'sentiment' no longer has 'Neutral'")
    assert decide(state, DEFAULTS, NOW) == Train("the label config changed: 'sentiment' no longer has 'Neutral'")


def test_an_outdated_model_without_annotations_waits_for_some() -> None:
    state = replace(NEXT, trainable=0, changed=3, outdated="the control 'sentiment' is gone")
    assert isinstance(decide(state, DEFAULTS, NOW), Wait)


# --- old changes ------------------------------------------------------------------------------------------------------


def test_few_changes_train_when_the_oldest_is_too_old() -> None:
    settings = RetrainSettings(max_staleness=3600)
    state = replace(NEXT, changed=1, first_change_at=NOW - 3600)
    assert decide(state, settings, NOW) == Train("1 annotations changed, the oldest more than 3600 s ago")


def test_until_then_it_waits_for_that_moment() -> None:
    state = replace(NEXT, changed=1, first_change_at=NOW - 600)
    decision = decide(state, RetrainSettings(max_staleness=3600), NOW)
    assert decision == Wait("1 of 20 changed annotations for the next training", NOW + 3000)


def test_without_a_known_first_change_it_waits_from_now() -> None:
    state = replace(NEXT, changed=1, first_change_at=None)
    decision = decide(state, RetrainSettings(max_staleness=3600), NOW)
    assert isinstance(decision, Wait)
    assert decision.until == NOW + 3600


def test_staleness_is_off_unless_it_is_set_and_never_brings_a_first_training() -> None:
    old = replace(NEXT, changed=1, first_change_at=0.0)
    assert decide(old, DEFAULTS, NOW) == Wait("1 of 20 changed annotations for the next training")
    first = replace(FIRST, useful=9, trainable=9, first_change_at=0.0)
    assert decide(first, RetrainSettings(max_staleness=1), NOW) == Wait("9 of 10 annotations for the first training")


# --- what holds a training back ---------------------------------------------------------------------------------------


def test_it_waits_for_two_quiet_seconds_after_the_last_annotation() -> None:
    decision = decide(replace(FIRST, last_change_at=NOW - 0.5), DEFAULTS, NOW)
    assert decision == Wait(
        "10 annotations, 10 start the first training; waiting for 2 s without a new annotation",
        NOW + 1.5,
        reached=True,
    )


def test_it_waits_at_most_thirty_seconds_though_annotations_keep_coming() -> None:
    busy = replace(FIRST, last_change_at=NOW, threshold_at=NOW - 29)
    decision = decide(busy, DEFAULTS, NOW)
    assert isinstance(decision, Wait)
    assert decision.until == NOW + 1
    assert isinstance(decide(replace(busy, threshold_at=NOW - 30), DEFAULTS, NOW), Train)


def test_without_a_quiet_period_it_trains_at_once() -> None:
    assert isinstance(decide(replace(FIRST, last_change_at=NOW), RetrainSettings(quiet=0), NOW), Train)


def test_an_unknown_last_change_counts_as_now() -> None:
    decision = decide(replace(FIRST, last_change_at=None), DEFAULTS, NOW)
    assert isinstance(decision, Wait)
    assert decision.until == NOW + 2


def test_nothing_trains_while_a_training_runs() -> None:
    decision = decide(replace(NEXT, running="2-1795333883-7"), DEFAULTS, NOW)
    assert isinstance(decision, Wait)
    assert decision.reason.endswith("a training is running")
    assert decision.until is None
    assert decision.reached


def test_a_training_comes_no_sooner_than_the_last_one_took() -> None:
    state = replace(NEXT, last_ended_at=NOW - 100, last_seconds=300.0)
    decision = decide(state, DEFAULTS, NOW)
    assert isinstance(decision, Wait)
    assert decision.until == NOW + 200
    assert decision.reason.endswith("trainings are at least 300 s apart")


@pytest.mark.parametrize(("interval", "until"), [(0.0, None), (50.0, None), (101.0, NOW + 1)])
def test_a_set_interval_replaces_the_duration(interval: float, until: float | None) -> None:
    state = replace(NEXT, last_ended_at=NOW - 100, last_seconds=300.0)
    decision = decide(state, RetrainSettings(min_interval=interval), NOW)
    assert (decision.until if isinstance(decision, Wait) else None) == until


def test_no_more_automatic_trainings_a_day_than_are_allowed() -> None:
    settings = RetrainSettings(max_runs_per_day=2)
    starts = (NOW - 80_000, NOW - 1_000, NOW - DAY_S - 5)
    decision = decide(replace(NEXT, recent_starts=starts), settings, NOW)
    assert isinstance(decision, Wait)
    assert decision.until == NOW - 80_000 + DAY_S
    assert decision.reason.endswith("2 of 2 automatic trainings in 24 hours are used")
    assert isinstance(decide(replace(NEXT, recent_starts=starts[1:]), settings, NOW), Train)


# --- after failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "pause"), [(1, 5.0), (2, 10.0), (3, 20.0), (30, LONGEST_BACKOFF_S)])
def test_a_failed_training_is_tried_again_later_and_later(failures: int, pause: float) -> None:
    state = replace(NEXT, failures=failures, seq=100, last_ended_at=NOW - 1, last_seconds=0.0)
    decision = decide(state, DEFAULTS, NOW)
    assert isinstance(decision, Wait)
    assert decision.until == NOW - 1 + pause
    assert isinstance(decide(state, DEFAULTS, NOW - 1 + pause), Train)


def test_a_failed_click_below_the_threshold_is_not_tried_again_by_itself() -> None:
    state = replace(NEXT, failures=1, changed=3)
    assert decide(state, DEFAULTS, NOW) == Wait("3 of 20 changed annotations for the next training")


def test_a_paused_project_waits_for_a_change() -> None:
    paused = replace(NEXT, paused="3 runs failed in a row", failures=3, seq=100)
    decision = decide(paused, DEFAULTS, NOW)
    assert isinstance(decision, Wait)
    assert decision.until is None
    assert "paused: 3 runs failed in a row; a new annotation or Start Training tries again" in decision.reason


def test_a_change_after_the_last_run_lifts_the_pause() -> None:
    paused = replace(NEXT, paused="3 runs failed in a row", failures=3, last_ended_at=NOW - 100)
    assert changed_since_last_run(paused)
    assert isinstance(decide(paused, DEFAULTS, NOW), Train)


def test_a_change_that_the_last_run_may_have_seen_does_not() -> None:
    # A run whose worker died never said what it saw.
    paused = replace(NEXT, paused="its worker was lost 10 times", last_change_at=NOW - 100, last_ended_at=NOW - 50)
    assert not changed_since_last_run(paused)
    assert isinstance(decide(paused, DEFAULTS, NOW), Wait)


# --- clicks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "total", "skipped", "click"),
    [
        (None, 5, 0, True),
        (0, 5, 0, True),
        (1, 5, 0, False),
        (5, 5, 0, False),
        (5, 3, 2, False),
        (5, 4, 2, True),
        (5, 0, 0, False),
    ],
)
def test_a_start_training_is_a_click_when_label_studios_own_counter_cannot_have_sent_it(
    threshold: int | None, total: int, skipped: int, click: bool
) -> None:
    counters = Counters(9, 9, 0, total, total, total, 0, skipped)
    assert is_click(counters, threshold) is click


def test_a_start_training_without_counters_is_a_click() -> None:
    assert is_click(None, 5)


# --- laws -------------------------------------------------------------------------------------------------------------

moments = st.floats(min_value=NOW - 2 * DAY_S, max_value=NOW)
sometimes = st.none() | moments
counts = st.integers(0, 3_000)
states = st.builds(
    TrainingState,
    useful=counts,
    trainable=counts,
    changed=counts,
    seq=counts,
    project_min_annotations=st.none() | st.integers(0, 200),
    first_change_at=sometimes,
    last_change_at=sometimes,
    threshold_at=sometimes,
    trained=st.booleans(),
    trained_size=counts,
    attempted_seq=st.integers(-1, 3_000),
    last_ended_at=sometimes,
    last_seconds=st.floats(0, 10_000),
    recent_starts=st.lists(moments, max_size=4).map(tuple),
    failures=st.integers(0, 4),
    paused=st.none() | st.just("broken"),
    outdated=st.none() | st.just("renamed"),
    running=st.none() | st.just("2-1795333883-7"),
)
retrain = st.builds(
    RetrainSettings,
    min_annotations=st.integers(1, 300),
    every=st.none() | st.integers(1, 300),
    growth=st.floats(0, 2),
    quiet=st.floats(0, 100),
    max_wait=st.floats(0, 1_000),
    min_interval=st.none() | st.floats(0, 10_000),
    max_runs_per_day=st.none() | st.integers(1, 5),
    max_staleness=st.none() | st.floats(1, 1e6),
)


@given(states, retrain)
def test_it_never_trains_while_a_training_runs(state: TrainingState, settings: RetrainSettings) -> None:
    assert not isinstance(decide(replace(state, running="2-1795333883-7"), settings, NOW), Train)


@given(states, retrain)
def test_it_never_trains_below_the_threshold_unless_outdated_or_stale(
    state: TrainingState, settings: RetrainSettings
) -> None:
    have, need = progress(state, settings)
    if have < need and not state.outdated and settings.max_staleness is None:
        assert not isinstance(decide(state, settings, NOW), Train)


@given(states, retrain, st.integers(1, 500))
def test_more_changes_at_the_same_moment_never_make_it_wait_longer(
    state: TrainingState, settings: RetrainSettings, more: int
) -> None:
    changed = replace(
        state,
        useful=state.useful + more,
        trainable=state.trainable + more,
        changed=state.changed + more,
        seq=state.seq + more,
    )
    assert release(decide(changed, settings, NOW), NOW) <= release(decide(state, settings, NOW), NOW)


@given(states, retrain, st.floats(0, 1e6))
def test_what_may_train_now_may_train_later_too(state: TrainingState, settings: RetrainSettings, later: float) -> None:
    # Only what is known may change: unknown moments count as now.
    known = replace(
        state,
        first_change_at=state.first_change_at or NOW,
        last_change_at=state.last_change_at or NOW,
        threshold_at=state.threshold_at or NOW,
    )
    if isinstance(decide(known, settings, NOW), Train):
        assert isinstance(decide(known, settings, NOW + later), Train)


@given(states, retrain)
def test_when_it_says_until_then_something_is_decided_then(state: TrainingState, settings: RetrainSettings) -> None:
    known = replace(
        state,
        first_change_at=state.first_change_at or NOW,
        last_change_at=state.last_change_at or NOW,
        threshold_at=state.threshold_at or NOW,
    )
    now = NOW
    for _ in range(8):
        decision = decide(known, settings, now)
        if not isinstance(decision, Wait) or decision.until is None:
            return
        assert decision.until > now
        now = decision.until
    pytest.fail(f"it waits again and again: {decision}")


@given(states, retrain)
def test_every_decision_has_a_reason_that_a_person_can_read(state: TrainingState, settings: RetrainSettings) -> None:
    reason = decide(state, settings, NOW).reason
    assert reason
    assert "None" not in reason
    assert reason.isprintable()


@given(states, retrain)
def test_only_a_reached_threshold_is_marked_as_reached(state: TrainingState, settings: RetrainSettings) -> None:
    decision = decide(state, settings, NOW)
    if isinstance(decision, Wait) and decision.reached:
        have, need = progress(state, settings)
        assert have >= need or state.outdated or settings.max_staleness is not None


def test_growing_one_by_one_to_ten_thousand_the_work_stays_within_ten_times_that() -> None:
    # Work: the sizes of all training sets together. Every ten would cost 500 times.
    state, work, now = TrainingState(), 0, NOW
    for size in range(1, 10_001):
        now += 10.0
        state = replace(state, useful=size, trainable=size, changed=state.changed + 1, seq=size, last_change_at=now - 5)
        if isinstance(decide(state, DEFAULTS, now), Train):
            work += size
            state = replace(state, trained=True, trained_size=size, changed=0, attempted_seq=size, last_ended_at=now)
    assert 1 <= work / 10_000 <= 10
    assert state.trained_size >= 8_000
