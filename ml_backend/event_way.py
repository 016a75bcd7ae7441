"""The way of one event: parse it, record it, decide, and ask for a run. This is what fit() does."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

from ml_backend import policy
from ml_backend.errors import BadInput, ProjectUnknown
from ml_backend.events import (
    AnnotationsDeleted,
    AnnotationsWritten,
    Ignored,
    ProjectDeleted,
    StartTraining,
    WithoutPayload,
    parse,
)
from ml_backend.settings import Refit, read_extra_params

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_backend.events import Event
    from ml_backend.runs import Requested, Runs, Standing
    from ml_backend.state import ProjectState, Recorded, State

log = logging.getLogger(__name__)

_REMEMBERED = 1024
CLICK = "START_TRAINING"
_NOT_CONNECTED = "the project is not connected any more: nothing is trained for it"


class First(Protocol):
    """Who is asked about an event before the policy is."""

    def line(self, event: Event, data: dict[str, Any], /) -> bytes:
        """The event as it would be kept. Raises `TypeError` for what could not be; nothing is recorded yet."""

    def __call__(
        self, recorded: Recorded, event: Event, data: dict[str, Any], line: bytes, now: float, /
    ) -> dict[str, Any] | None:
        """The answer; None where the policy shall decide."""


class ProjectSettings:
    """Each project's settings, read from the extra params that the state holds; remembered by their text."""

    def __init__(self, defaults: Refit) -> None:
        self._defaults = defaults
        self._read: OrderedDict[str, tuple[Refit, dict[str, Any]]] = OrderedDict()

    def of(self, project: ProjectState) -> Refit:
        """The settings in force."""
        return self.read(project.extra_params)[0]

    def read(self, extra_params: str) -> tuple[Refit, dict[str, Any]]:
        """(settings, the model's own params). What cannot be used any more falls back to the operator's defaults."""
        found = self._read.get(extra_params)
        if found is None:
            try:
                found = read_extra_params(extra_params, self._defaults)
            except BadInput:
                found = self._defaults, {}
            self._read[extra_params] = found
            if len(self._read) > _REMEMBERED:
                self._read.popitem(last=False)
        return found


class EventWay:
    """Handles events for all projects. Safe to share between threads."""

    def __init__(
        self,
        state: State,
        runs: Runs,
        settings: ProjectSettings,
        clock: Callable[[], float],
        *,
        first: First | None = None,
    ) -> None:
        """What ``first`` answers, if anything, is the answer."""
        self._first = first
        self._state = state
        self._runs = runs
        self._settings = settings
        self._clock = clock

    def handle(self, action: str, data: dict[str, Any]) -> dict[str, Any]:
        """What `TrainingBackend.fit` answers. One Redis round trip, more only when a run is asked for."""
        event = parse(action, data)
        if isinstance(event, Ignored) and (event.project is None or event.project.uid is None):
            return {"status": "ignored", "reason": event.reason}
        line = self._first.line(event, data) if self._first is not None else b""
        now = self._clock()
        try:
            recorded = self._state.record(event, now)
        except ProjectUnknown as error:
            if not isinstance(event, WithoutPayload):
                raise
            # Nobody can tell whose it is (fact 11), and nobody did anything wrong.
            why = f"the webhook sends no payload, and {error}: switch its payload on in Label Studio"
            return {"status": "ignored", "reason": why}
        if self._first is not None and (said := self._first(recorded, event, data, line, now)) is not None:
            return said
        if isinstance(event, StartTraining):
            return self._start_training(event, recorded, now)
        if isinstance(event, ProjectDeleted):
            return self._project_deleted(recorded, now)
        return self._decide(event, recorded, now)

    def _decide(self, event: Event, recorded: Recorded, now: float) -> dict[str, Any]:
        project = recorded.project
        if project.deleted_at is not None:
            # The webhook outlives its connection (fact 3): what it tells is kept, should somebody connect again.
            return {"status": "recorded", "reason": _NOT_CONNECTED}
        decision = policy.decide(project.training, self._settings.of(project).retrain, now)
        if isinstance(decision, policy.Train):
            asked = self._runs.request_if_free(recorded.uid, trigger=event.action, reason=decision.reason, now=now)
            if asked is None:
                return {"status": "recorded", "reason": f"{decision.reason}; a training has just started"}
            _say(recorded.uid, asked, event.action, decision.reason)
            return {"status": "training", "reason": decision.reason, "job": asked.id}
        if isinstance(event, Ignored):
            return {"status": "ignored", "reason": event.reason}
        if isinstance(event, (AnnotationsWritten, AnnotationsDeleted)) and not recorded.changes:
            why = "older than what is known" if recorded.stale else "known already"
            return {"status": "unchanged", "reason": f"{why}; {decision.reason}"}
        return {"status": "recorded", "reason": decision.reason}

    def _start_training(self, event: StartTraining, recorded: Recorded, now: float) -> dict[str, Any]:
        if recorded.project.deleted_at is not None:
            return {"status": "ignored", "reason": _NOT_CONNECTED}
        # Label Studio's own counter cannot be told from a click by the payload (fact 12): it is held for the quiet
        # period, and the clock decides by whether an annotation event came meanwhile.
        click = policy.is_click(event.project.counters, recorded.project.training.project_min_annotations)
        quiet = self._settings.of(recorded.project).retrain.quiet
        reason = "Start Training" if click else "Start Training, or Label Studio's own counter"
        asked = self._runs.request(
            recorded.uid, trigger=CLICK, reason=reason, due=now if click else now + quiet, click=click, now=now
        )
        _say(recorded.uid, asked, event.action, reason)
        status = "joined" if asked.joined else "queued"
        said = "joined the training that waits" if asked.joined else reason
        return {"status": status, "reason": asked.held or said, "job": asked.id}

    def _project_deleted(self, recorded: Recorded, now: float) -> dict[str, Any]:
        forget(self._state, self._runs, recorded.uid, now)
        return {"status": "recorded", "reason": "the project was deleted in Label Studio; its runs are cancelled"}


def _say(uid: str, asked: Requested, action: str, reason: str) -> None:
    """One line for a run that begins to wait; those that join it would be a line for each event."""
    if not asked.joined:
        log.info("project %s run %s: asked for by %s: %s", uid, asked.id, action, reason)


def forget(state: State, runs: Runs, uid: str, now: float, why: str = "the project was deleted") -> None:
    """A project is gone: cancel what waits and runs, and mark it deleted."""
    cancel_runs(runs, uid, now, why)
    state.mark(uid, deleted_at=now)


def cancel_runs(runs: Runs, uid: str, now: float, why: str) -> Standing:
    """Cancel what waits and runs; returns how they stood before."""
    standing = runs.standing(uid, now)
    for run in (standing.waiting, standing.running):
        if run is not None:
            runs.cancel(run.id, now, why)
    return standing
