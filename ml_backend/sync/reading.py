"""One sync of one project: what Label Studio holds goes into the state page by page; then both counts are compared."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ml_backend.errors import LabelStudioError
from ml_backend.events import ProjectChanged, Task

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable

    from ml_backend.counters import Counters
    from ml_backend.events import Project
    from ml_backend.label_studio import LabelledTask, LabelStudioApi
    from ml_backend.state import ProjectState, State, Sync, SyncState
    from ml_backend.state.syncing import SyncKind

OVERLAP_US = 60 * 1_000_000
"""An incremental sync looks this much further back: what was saved may become visible later than it is dated."""
RESUME_S = 3600.0
"""A complete sync that was interrupted is gone on with for this long; later it begins again."""


class AnotherLabelStudio(LabelStudioError):
    """The project that Label Studio gave is not the one that is meant: its creation date says so."""


class Teller(Protocol):
    """Hears how far a sync is, and may raise to end it."""

    def __call__(self, *, phase: str, done: int, total: int, now: bool = False) -> None:
        """``done`` of ``total`` annotations, 0 where that is not known; ``now``: do not wait until it is time again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``read`` annotations came, ``changes`` were made; ``compared`` is the project afterwards."""

    kind: SyncKind
    read: int
    changes: int
    compared: ProjectState


@dataclass(frozen=True, slots=True)
class _Counted:
    """Label Studio's counters, their date, the project's ``touch`` before they were asked for; whether all agree."""

    counters: Counters | None
    date_us: int | None
    touch: int
    agrees: bool


class Reader:
    """Reads one project. Raises `LabelStudioError`, `LeaseLost`, `Unavailable`, and whatever ``tell`` raises.

    What was applied until then stays; a complete sync is gone on with from there.
    """

    def __init__(
        self, state: State, syncs: SyncState, api: LabelStudioApi, clock: Callable[[], float], tell: Teller
    ) -> None:
        self._state = state
        self._syncs = syncs
        self._api = api
        self._clock = clock
        self._tell = tell
        self._read = 0
        self._changes = 0

    def read(self, project: ProjectState, kind: SyncKind) -> Outcome:
        """Sync the project."""
        self._tell(phase="asking", done=0, total=0, now=True)
        known_until = None if kind == "complete" else project.synced_until_us
        since = None if known_until is None else known_until - OVERLAP_US
        theirs = self._project(project, counted=since is None)
        # Label Studio's clock before the first page is asked for: the next incremental sync looks from there.
        from_us = self._api.time_us or int(self._clock() * 1e6)
        if since is None or from_us < since:
            sync = self._complete(project, theirs, from_us)
        else:
            sync = self._labelled_since(project, since, from_us)
            counted = self._counted(project)
            if counted.agrees:
                # All that is labelled is known by now, and nothing is known beside it: nobody lost annotations.
                return self._finish(project, sync, counted)
            self._unlabelled_since(project, sync, since)
        return self._finish(project, sync, self._counted(project))

    def _complete(self, project: ProjectState, theirs: Project, from_us: int) -> Sync:
        now = self._clock()
        sync = self._left_behind(project, now) or self._syncs.begin(project.uid, "complete", now, from_us=from_us)
        counters = theirs.counters
        total = counters.total_annotations_number + counters.skipped_annotations_number if counters is not None else 0
        after = sync.cursor
        for page in self._api.labelled_tasks(project.project_id, after=after):
            up_to = max(one.task.id for one in page)
            self._apply(sync, page, "reading", total, between=(after, up_to))
            after = up_to
        self._apply(sync, [], "reading", total, between=(after, None))
        return sync

    def _labelled_since(self, project: ProjectState, since: int, from_us: int) -> Sync:
        sync = self._syncs.begin(project.uid, "incremental", self._clock(), from_us=from_us)
        for page in self._api.labelled_tasks(project.project_id, since_us=since):
            self._apply(sync, page, "reading", 0)
        return sync

    def _unlabelled_since(self, project: ProjectState, sync: Sync, since: int) -> None:
        """Remove what tasks held that have no annotation any more."""
        for ids in self._api.unlabelled_since(project.project_id, since):
            # Of new tasks, which have no annotations yet, nothing is kept.
            lost = [(Task(one), ()) for one in ids if _is_among(sync.stored, one)]
            self._changes += self._syncs.apply(sync, lost, self._clock())

    def _counted(self, project: ProjectState) -> _Counted:
        self._tell(phase="comparing", done=self._read, total=self._read, now=True)
        known = self._state.load(project.uid)
        theirs = self._project(project, counted=True).counters
        date = self._api.time_us
        now = self._state.load(project.uid)
        if known is None or now is None or theirs is None:
            return _Counted(theirs, date, -1, agrees=False)
        # Of what was counted before an event and after it, nothing can be said.
        agrees = known.touch == now.touch and not known.derived.differences(theirs)
        return _Counted(theirs, date, known.touch, agrees=agrees)

    def _finish(self, project: ProjectState, sync: Sync, counted: _Counted) -> Outcome:
        self._syncs.finish(
            sync, self._clock(), counters=counted.counters, counters_us=counted.date_us, touch=counted.touch
        )
        return Outcome(sync.kind, self._read, self._changes, self._state.load(project.uid) or project)

    def _left_behind(self, project: ProjectState, now: float) -> Sync | None:
        """The complete sync that somebody did not end, unless that was long ago."""
        return self._syncs.resume(project.uid, now) if is_resumable(project, now) else None

    def _apply(
        self,
        sync: Sync,
        page: list[LabelledTask],
        phase: str,
        total: int,
        *,
        between: tuple[int, int | None] | None = None,
    ) -> None:
        labelled = [(one.task, one.annotations) for one in page]
        self._changes += self._syncs.apply(sync, labelled, self._clock(), between=between)
        self._read += sum(len(one.annotations) for one in page)
        self._tell(phase=phase, done=self._read, total=total)

    def _project(self, project: ProjectState, *, counted: bool) -> Project:
        """The project as Label Studio has it now; its config and threshold are kept. Its creation date must fit."""
        found = self._api.project(project.project_id, counted=counted).project
        if found.uid != project.uid:
            raise AnotherLabelStudio(
                f"project {project.project_id} there is another one ({found.uid}, not {project.uid}): "
                "LABEL_STUDIO_URL leads to another Label Studio than the one that is connected, or its database is new"
            )
        self._state.record(ProjectChanged("SYNC", replace(found, counters=None)), self._clock())
        return found


def is_resumable(project: ProjectState, now: float) -> bool:
    """Whether the project has a complete sync that somebody did not end, and not long ago."""
    meta = project.meta
    return meta.get("sync_kind") == "complete" and now - float(meta.get("sync_began") or 0.0) <= RESUME_S


def _is_among(ids: array[int], one: int) -> bool:
    at = bisect_left(ids, one)
    return at < len(ids) and ids[at] == one
