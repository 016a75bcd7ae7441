"""When to retrain: a pure decision about one project, with the reason that people read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_backend.counters import Counters
    from ml_backend.settings import RetrainSettings

DAY_S = 86400.0
SKEW_S = 60.0
"""How far the clocks of machines may differ; what lies further ahead was written by a clock that was wrong."""
FAILURE_BACKOFF_S = 5.0
LONGEST_BACKOFF_S = 3600.0


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What the decision needs to know of a project. Times are seconds since the epoch, on our clock.

    ``changed``: annotations changed since the last training (a set's size: the same one twice counts once).
    ``seq`` moves with every stored change; ``attempted_seq`` is its value when the last attempt took its snapshot.
    ``threshold_at``: when the threshold was first seen reached; None while it is not.
    ``recent_starts``: of automatic trainings; those that somebody clicked for do not count.
    """

    useful: int = 0
    trainable: int = 0
    changed: int = 0
    seq: int = 0
    project_min_annotations: int | None = None
    first_change_at: float | None = None
    last_change_at: float | None = None
    threshold_at: float | None = None
    trained: bool = False
    trained_size: int = 0
    attempted_seq: int = -1
    last_ended_at: float | None = None
    last_seconds: float = 0.0
    recent_starts: tuple[float, ...] = ()
    failures: int = 0
    paused: str | None = None
    outdated: str | None = None
    running: str | None = None
    drifting: bool = False


@dataclass(frozen=True, slots=True)
class Train:
    """Train now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet. ``until`` is when to decide again; None: when something changes. ``reached``: the threshold is met."""

    reason: str
    until: float | None = None
    reached: bool = False


@dataclass(frozen=True, slots=True)
class Ignore:
    """Nothing to decide."""

    reason: str


Decision = Train | Wait | Ignore


def first_threshold(state: TrainingState, settings: RetrainSettings) -> int:
    """Annotations that the first training needs: the project's own number if above 1, else ours (fact 12)."""
    if state.project_min_annotations is not None and state.project_min_annotations > 1:
        return state.project_min_annotations
    return settings.min_annotations


def next_threshold(state: TrainingState, settings: RetrainSettings) -> int:
    """Changed annotations that the next training needs: growing with the set, so that all work stays proportional."""
    if not state.trained:
        return first_threshold(state, settings)
    every = settings.every if settings.every is not None else first_threshold(state, settings)
    return max(every, math.ceil(settings.growth * state.trained_size))


def progress(state: TrainingState, settings: RetrainSettings) -> tuple[int, int]:
    """(how many there are, how many the next training needs)."""
    have = state.changed if state.trained else max(state.useful, state.trainable)
    return have, next_threshold(state, settings)


def decide(state: TrainingState, settings: RetrainSettings, now: float) -> Decision:
    """Whether to train now, by the project's own changes. *Start Training* does not come through here."""
    if max(state.last_change_at or 0.0, state.threshold_at or 0.0, state.last_ended_at or 0.0) > now + SKEW_S:
        state = _by_this_clock(state, now)
    if state.seq <= state.attempted_seq and not state.outdated and not state.failures:
        return Ignore("nothing changed since the last training")
    met = _threshold(state, settings, now)
    if isinstance(met, Wait):
        return met
    for hold in (
        _held_by_run(state),
        _paused(state, now),
        _settling(state, settings, now),
        _spaced(state, settings, now),
    ):
        if hold is not None:
            return Wait(f"{met}; {hold.reason}", hold.until, reached=True)
    return Train(met)


def _by_this_clock(state: TrainingState, now: float) -> TrainingState:
    """The state without moments that lie ahead: they are of a clock that was wrong, and nothing is to wait for them.

    Such a moment counts as long past. Clocks of machines that share a Redis may differ by `SKEW_S`.
    """

    def past(at: float | None) -> float | None:
        return at if at is None or at <= now + SKEW_S else now - DAY_S

    first = state.first_change_at
    return replace(
        state,
        first_change_at=first if first is None or first <= now + SKEW_S else now,
        last_change_at=past(state.last_change_at),
        threshold_at=past(state.threshold_at),
        last_ended_at=past(state.last_ended_at),
    )


def is_click(counters: Counters | None, min_annotations: int | None) -> bool:
    """Whether a `START_TRAINING` can only be a click.

    False when Label Studio's own counter may have sent it: it does so whenever all annotations, skipped ones included,
    are a multiple of the project's threshold (fact 12).
    """
    if not min_annotations or counters is None:
        return True
    return (counters.total_annotations_number + counters.skipped_annotations_number) % min_annotations != 0


def _threshold(state: TrainingState, settings: RetrainSettings, now: float) -> str | Wait:
    have, need = progress(state, settings)
    if state.outdated and state.trainable > 0:
        return f"the label config changed: {state.outdated}"
    if not state.trained:
        if have >= need:
            return f"{have} annotations, {need} start the first training"
        return Wait(f"{have} of {need} annotations for the first training", _stale_at(state, settings, now))
    if have >= need:
        return f"{have} annotations changed since the last training, {need} start the next"
    stale_at = _stale_at(state, settings, now)
    if stale_at is not None and stale_at <= now:
        return f"{have} annotations changed, the oldest more than {settings.max_staleness:g} s ago"
    return Wait(f"{have} of {need} changed annotations for the next training", stale_at)


def _stale_at(state: TrainingState, settings: RetrainSettings, now: float) -> float | None:
    if settings.max_staleness is None or not state.changed or not state.trained:
        return None
    return (state.first_change_at if state.first_change_at is not None else now) + settings.max_staleness


def _held_by_run(state: TrainingState) -> Wait | None:
    return Wait("a training is running") if state.running else None


def changed_since_last_run(state: TrainingState) -> bool:
    """Whether the training set changed after the last run ended: what lifts a pause.

    A run that died never said which changes it saw, so time decides and not ``attempted_seq``.
    """
    if state.seq <= state.attempted_seq:
        return False
    return state.last_ended_at is None or (state.last_change_at or 0.0) > state.last_ended_at


def _paused(state: TrainingState, now: float) -> Wait | None:
    if state.paused and not changed_since_last_run(state):
        return Wait(f"paused: {state.paused}; a new annotation or Start Training tries again")
    if not state.failures or state.last_ended_at is None:
        return None
    until = state.last_ended_at + min(FAILURE_BACKOFF_S * 2 ** (state.failures - 1), LONGEST_BACKOFF_S)
    return Wait("the last training failed, trying again later", until) if until > now else None


def _settling(state: TrainingState, settings: RetrainSettings, now: float) -> Wait | None:
    last = state.last_change_at if state.last_change_at is not None else now
    reached = state.threshold_at if state.threshold_at is not None else now
    until = min(last + settings.quiet, reached + settings.max_wait)
    return Wait(f"waiting for {settings.quiet:g} s without a new annotation", until) if until > now else None


def _spaced(state: TrainingState, settings: RetrainSettings, now: float) -> Wait | None:
    interval = settings.min_interval if settings.min_interval is not None else state.last_seconds
    if state.last_ended_at is not None and state.last_ended_at + interval > now:
        return Wait(f"trainings are at least {interval:.0f} s apart", state.last_ended_at + interval)
    if settings.max_runs_per_day is not None:
        today = sorted(start for start in state.recent_starts if start > now - DAY_S)
        if len(today) >= settings.max_runs_per_day:
            until = today[-settings.max_runs_per_day] + DAY_S
            return Wait(f"{len(today)} of {settings.max_runs_per_day} automatic trainings in 24 hours are used", until)
    return None
