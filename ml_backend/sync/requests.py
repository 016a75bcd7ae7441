"""Who asks for syncs: the clock, a person, a process that starts. What is wanted stands in the project's state."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ml_backend.errors import SettingsError
from ml_backend.sync.plan import Due, plan
from ml_backend.uids import without_dot

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_backend.jobs import Jobs
    from ml_backend.state import ProjectState, State
    from ml_backend.state.due import DueList
    from ml_backend.state.syncing import SyncKind
    from ml_backend.sync.access import Access
    from ml_backend.sync.standing import Standing, Standings

log = logging.getLogger(__name__)

ASK_AGAIN_S = 5.0
"""A sync that is due, and not begun, is handed over again after this, should its job have been lost."""
TIMEOUT_S = 6 * 3600.0


class Syncs:
    """Hands syncs to the workers, one waiting per project; the job names the project alone."""

    def __init__(
        self,
        state: State,
        due: DueList,
        standings: Standings,
        jobs: Jobs,
        access: Access,
        *,
        every: float,
        quiet: Callable[[ProjectState], float],
    ) -> None:
        """``every``: seconds between complete syncs; ``quiet``: a project's quiet period."""
        self._state = state
        self._due = due
        self._standings = standings
        self._jobs = jobs
        self._access = access
        self._every = every
        self._quiet = quiet

    def consider(self, project: ProjectState, now: float) -> float | None:
        """Hand a sync over if one is due; returns when to look again, None without access to Label Studio."""
        if self._access.problem is not None:
            return None
        standing = self._standing(project.uid)
        if standing.running:
            return now + ASK_AGAIN_S
        found = plan(project, standing, every=self._every, quiet=self._quiet(project), now=now)
        if not isinstance(found, Due):
            return found.until
        if self._hand_over(project.uid):
            log.info("project %s: sync: %s: %s", project.uid, found.kind, found.reason)
        return now + ASK_AGAIN_S

    def request(self, uid: str, kind: SyncKind, reason: str, now: float) -> bool:
        """A person wants a sync now; False when one waited already and does it."""
        self._wish(uid, kind, reason, now)
        return self._hand_over(uid, front=True)

    def order(self, uid: str, kind: SyncKind, reason: str, now: float) -> None:
        """The same, but that the clock hands it over: the web process, which calls this, needs no RQ for it.

        Raises `SettingsError` when Label Studio cannot be asked.
        """
        if self._access.problem is not None:
            raise SettingsError("sync", self._access.problem)
        self._wish(uid, kind, reason, now)

    def _wish(self, uid: str, kind: SyncKind, reason: str, now: float) -> None:
        self._standings.set(uid, asked=reason, asked_at=now, forced="1", next_try=None)
        self._want(uid, kind, now)

    def start_up(self, now: float) -> None:
        """A clock starts: what happened while nobody listened is asked for, traceless changes too (fact 23)."""
        for uid in self._state.uids():
            if self._access.problem is None:
                self._standings.set(uid, asked="this backend was started")
                self._want(uid, "complete", now)
            else:
                self._due.ask(uid, now)

    def _want(self, uid: str, kind: SyncKind, now: float) -> None:
        self._state.mark(uid, **{f"want_{kind}": now})
        self._due.ask(uid, now)

    def _standing(self, uid: str) -> Standing:
        return self._standings.load(uid).with_access(self._access.fingerprint)

    def _hand_over(self, uid: str, *, front: bool = False) -> bool:
        return self._jobs.enqueue("sync", "sync", {"uid": uid}, key=without_dot(uid), timeout_s=TIMEOUT_S, front=front)
