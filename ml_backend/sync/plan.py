"""When to sync, and how: a pure decision about one project, with the reason that people read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ml_backend.state import ProjectState
    from ml_backend.state.syncing import SyncKind
    from ml_backend.sync.standing import Standing

DIFFERED_AGAIN_S = 30.0
"""After a complete sync that left a difference the next one comes this much later, then twice as much, and so on."""
DATALESS_SHARE = 10
"""Events without task data (releases before 1.0) ask for a complete sync each: it may take this share of the time."""


@dataclass(frozen=True, slots=True)
class Due:
    """Sync now."""

    kind: SyncKind
    reason: str


@dataclass(frozen=True, slots=True)
class Later:
    """Not yet: look again at ``until``."""

    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class _Wish:
    at: float
    kind: SyncKind
    reason: str


def plan(project: ProjectState, standing: Standing, *, every: float, quiet: float, now: float) -> Due | Later:
    """What a project needs next. ``every``: seconds between complete syncs; ``quiet``: before a difference counts."""
    wishes = [_held(wish, standing) for wish in _wishes(project, standing, every, quiet)]
    due = [wish for wish in wishes if wish.at <= now]
    if due:
        first = min(due, key=lambda wish: (wish.kind != "complete", wish.at))
        return Due(first.kind, first.reason)
    soonest = min(wishes, key=lambda wish: wish.at)
    return Later(soonest.at, soonest.reason)


def may_differ(project: ProjectState) -> str | None:
    """Why the training set may not be Label Studio's; None when nothing speaks against it."""
    if project.drift:
        return difference(project)
    if project.complete_at is None:
        return "Label Studio was never asked for its annotations"
    if project.dataless:
        return "the data of some tasks did not come"
    if project.complete_wanted_at is not None or project.incremental_wanted_at is not None:
        return "events came that do not tell everything"
    return None


def difference(project: ProjectState) -> str:
    """The drift in words: what Label Studio counts more (or less) than is known here."""
    said = ", ".join(f"{name} {value:+d}" for name, value in project.drift.items() if value)
    return f"Label Studio counts differently: {said}"


def _wishes(project: ProjectState, standing: Standing, every: float, quiet: float) -> Iterator[_Wish]:
    """All that asks for a sync, and from when. There is always one: the schedule."""
    if project.complete_at is None:
        yield _Wish(0.0, "complete", "Label Studio was not asked yet for what it holds")
    else:
        yield _Wish(project.complete_at + every, "complete", f"on schedule, every {every:g} s")
    if (at := project.complete_wanted_at) is not None:
        wait = 0.0 if standing.asked else quiet
        reason = "several were deleted at once, which counters may not tell"
        yield _Wish(at + wait, "complete", standing.asked or reason)
    if (at := project.incremental_wanted_at) is not None:
        wait = 0.0 if standing.asked else quiet
        yield _Wish(at + wait, "incremental", standing.asked or "an event came without saying what changed")
    if "syncing" in project.meta:
        kind: SyncKind = "complete" if project.meta.get("sync_kind") == "complete" else "incremental"
        yield _Wish(0.0, kind, "the last sync was interrupted")
    if project.dataless:
        at = float(project.meta.get("dataless") or 0.0) + quiet
        at = max(at, (standing.complete_ended or 0.0) + DATALESS_SHARE * standing.complete_seconds)
        yield _Wish(at, "complete", "events came without the data of their tasks")
    if project.drift and project.drift_since is not None:
        # A sync that ended since did not help: what is missing is older, or gone without a trace.
        tried = project.synced_at is not None and project.synced_at >= project.drift_since
        kind = "complete" if tried else "incremental"
        yield _Wish(_after_differing(standing, every, project.drift_since + quiet), kind, difference(project))


def _after_differing(standing: Standing, every: float, at: float) -> float:
    if not standing.differed or standing.complete_ended is None:
        return at
    wait = min(DIFFERED_AGAIN_S * 2.0 ** min(standing.differed - 1, 30), every)
    return max(at, standing.complete_ended + wait)


def _held(wish: _Wish, standing: Standing) -> _Wish:
    """Not while Label Studio is left alone after a failure, nor more than half of the time; people need not wait."""
    if standing.forced:
        return wish
    seconds = standing.complete_seconds if wish.kind == "complete" else standing.incremental_seconds
    ended = standing.complete_ended if wish.kind == "complete" else standing.ended
    at = max(wish.at, standing.next_try or 0.0, (ended or 0.0) + seconds)
    return _Wish(at, wish.kind, wish.reason)
