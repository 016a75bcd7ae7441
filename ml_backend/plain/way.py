"""The way of an event to a plain class's `fit`: into the project's line before it is answered, and a run behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ml_backend.events import AnnotationsDeleted, AnnotationsWritten, StartTraining
from ml_backend.plain_state import line_of

if TYPE_CHECKING:
    from ml_backend.event_way import ProjectSettings
    from ml_backend.events import Event
    from ml_backend.plain_state import PlainState
    from ml_backend.registry import Registry
    from ml_backend.runs import Runs
    from ml_backend.state import ProjectState, Recorded


class PlainEvents:
    """Takes each recorded event. Safe to share between threads."""

    def __init__(self, kept: PlainState, runs: Runs, settings: ProjectSettings) -> None:
        self._kept = kept
        self._runs = runs
        self._settings = settings

    def line(self, event: Event, data: dict[str, Any]) -> bytes:
        """The event as it would wait for `fit`; empty for one that never does.

        Raises `TypeError` for one with a part that is nested too deeply to be kept, whoever reads that part.
        """
        if not isinstance(event, AnnotationsWritten | AnnotationsDeleted | StartTraining):
            return b""
        return line_of(event.action, {name: value for name, value in data.items() if name != "action"})

    def __call__(
        self, recorded: Recorded, event: Event, data: dict[str, Any], line: bytes, now: float
    ) -> dict[str, Any] | None:
        """The answer to an event that waits for `fit`; None for one that the policy decides about."""
        uid, project = recorded.uid, recorded.project
        if project.deleted_at is not None:
            return None
        if isinstance(event, AnnotationsWritten | StartTraining):
            self._kept.newest(uid, _first_of_each(data))
        if not isinstance(event, AnnotationsWritten | AnnotationsDeleted) or self._settings.of(project).fit != "events":
            return None
        self._kept.push(uid, line)
        if project.training.paused:
            self._runs.resume(uid, now)
        reason = "events wait for fit"
        asked = self._runs.request(uid, trigger=event.action, reason=reason, due=now, click=False, now=now)
        return {"status": "queued", "reason": f"{event.action} waits for fit", "job": asked.id}


def _first_of_each(data: dict[str, Any]) -> dict[str, Any]:
    """An event with lists under its singular keys (fact 4) as one with the last of them."""
    return {
        name: value[-1] if name in {"annotation", "task"} and isinstance(value, list) and value else value
        for name, value in data.items()
    }


class PlainTurns:
    """What the clock sees to: events that wait although no run does, and a first version before any `fit`."""

    def __init__(self, kept: PlainState, runs: Runs, registry: Registry) -> None:
        self._kept = kept
        self._runs = runs
        self._registry = registry

    def consider(self, project: ProjectState, now: float) -> float | None:
        """Ask for a run if one is due."""
        uid = project.uid
        standing = self._runs.standing(uid, now)
        if standing.waiting is not None or standing.running is not None or standing.paused:
            return None
        waiting = self._kept.waiting(uid)
        if waiting:
            reason = f"{waiting} events wait for fit"
            self._runs.request(uid, trigger="events", reason=reason, due=now, click=False, now=now)
        elif self._kept.left(uid):
            reason = "what fit left behind is not served yet"
            self._runs.request(uid, trigger="events", reason=reason, due=now, click=False, now=now)
        elif standing.last_id is None and self._registry.alias(uid) is None:
            reason = "the class serves before its first fit"
            self._runs.request(uid, trigger="setup", reason=reason, due=now, click=False, now=now)
        return None
