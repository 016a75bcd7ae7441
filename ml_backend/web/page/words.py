"""How the page writes moments, durations, sizes and states."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ml_backend.overview.views import Project, Run

_UNITS = (("B", 1), ("KB", 1000), ("MB", 1000**2), ("GB", 1000**3))

TRIGGERS = {"START_TRAINING": "Start Training", "policy": "the policy"}


PHASES = {
    "starting": "starting",
    "sync": "fetching what is missing",
    "snapshot": "taking a snapshot",
    "train": "training",
    "compare": "comparing with what serves",
    "publish": "publishing",
    "promote": "promoting",
}


class State(NamedTuple):
    """A project's state in one word, and its tone for the eye."""

    word: str
    tone: str


def state_of(project: Project) -> State:
    """The one thing to know of a project."""
    if not project.connected:
        return State("Disconnected", "quiet")
    if project.running is not None:
        doing = "Stopping" if project.running.cancelling else "Training"
        return State(f"{doing} {project.running.fraction:.0%}", "busy")
    if project.load_errors or project.unsupported or project.paused:
        return State("Needs attention", "bad")
    if project.waiting is not None:
        return State("Training soon", "busy")
    if project.drift.missing or project.sync.error:
        return State("Out of step", "warn")
    return State("Serving" if project.serving else "Collecting", "good" if project.serving else "quiet")


def phase(name: str) -> str:
    """What a run does, for people."""
    return PHASES.get(name, name)


def beyond_progress(project: Project, reason: str) -> str | None:
    """A reason, where it says more than the bar does."""
    return None if reason.startswith(f"{project.progress.have} of {project.progress.need} ") else reason


def sentence(text: str) -> str:
    """With a capital and a full stop; what ends in one already keeps it."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")


def moment(seconds: float) -> str:
    """For people without JavaScript: ``24 Nov 2026, 14:05 UTC``."""
    return f"{datetime.fromtimestamp(seconds, UTC):%-d %b %Y, %H:%M} UTC"


def iso(seconds: float) -> str:
    """For the script: ``2026-11-24T14:05:31.250Z``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """``812 B``, ``3.4 MB``."""
    name, unit = next(((name, unit) for name, unit in reversed(_UNITS) if count >= unit), _UNITS[0])
    return f"{count} B" if unit == 1 else f"{count / unit:.1f} {name}"


def count(number: int, one: str, many: str | None = None) -> str:
    """``1 annotation``, ``1,204 annotations``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def asked_by(run: Run) -> str:
    """Who asked for a run."""
    if run.click:
        return "a person"
    return TRIGGERS.get(run.trigger, run.trigger.lower().replace("_", " "))
