"""Carries out syncs, one process per project at a time, and says how each ended; a training may wait for one."""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ml_backend.errors import (
    LabelStudioError,
    LabelStudioRefused,
    LeaseLost,
    RefitError,
    RunEnded,
    SettingsError,
    Unavailable,
    WrongToken,
)
from ml_backend.sync.plan import Due, difference, may_differ, plan
from ml_backend.sync.reading import AnotherLabelStudio, Outcome, Reader, is_resumable
from ml_backend.sync.standing import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_backend.label_studio import LabelStudioApi
    from ml_backend.state import ProjectState, State, SyncState
    from ml_backend.sync.access import Access
    from ml_backend.sync.standing import Held, Standing, Standings

    OpenApi = Callable[[float, float, Callable[[float], None]], LabelStudioApi]
    NextStep = Callable[[ProjectState, Standing], Due | None]

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 600.0
"""How long Label Studio is left alone after a failure: at first, and at most."""
_STEPS = 3
_TOLD_EVERY_S = 0.25
_TOO_LONG = "its sync takes longer than a training waits"


class TimeIsUp(RefitError):
    """The time that a training waits for its sync is over."""


class Syncer:
    """Syncs projects in a worker process. While one process syncs a project, others leave it to that one."""

    def __init__(
        self,
        state: State,
        syncs: SyncState,
        standings: Standings,
        access: Access,
        open_api: OpenApi,
        *,
        every: float,
        quiet: Callable[[ProjectState], float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``open_api(timeout_s, patience_s, pause)`` makes a client; the rest is as for `Syncs`."""
        self._state = state
        self._syncs = syncs
        self._standings = standings
        self._access = access
        self._open_api = open_api
        self._every = every
        self._quiet = quiet
        self._clock = clock

    def sync(self, uid: str) -> None:
        """Do what is due for a project. Whatever Label Studio does ends in its `Standing`; raises `Unavailable`."""
        if self._access.problem is not None:
            return
        held = self._standings.take(uid)
        if held is None:
            log.info("project %s: another process syncs it", uid)
            return

        def next_step(project: ProjectState, standing: Standing) -> Due | None:
            found = plan(project, standing, every=self._every, quiet=self._quiet(project), now=self._clock())
            return found if isinstance(found, Due) else None

        try:
            with held:
                self._steps(_Attempt(held, math.inf), uid, next_step, timeout_s=60.0, patience_s=30.0)
        except LeaseLost as error:
            log.warning("project %s: %s", uid, error)

    def before_training(self, uid: str, wait_s: float) -> None:
        """Bring the set up to date if it is known not to be, for at most ``wait_s``; a training goes on in any case."""
        project = self._state.load(uid)
        if project is None or may_differ(project) is None:
            return
        why = self._access.problem or self._hurry(uid, time.monotonic() + wait_s)
        project = self._state.load(uid)
        if project is None or why is None or (self._access.problem and not project.missing):
            return
        unseen = f", {project.missing} annotations not seen" if project.missing else ""
        self._say(uid, f"training with what is known{unseen}: {why}")

    def _hurry(self, uid: str, deadline: float) -> str | None:
        """Sync now, or wait for who does; returns why that did not work out, None when it did."""
        while (left := deadline - time.monotonic()) > 0:
            project = self._state.load(uid)
            if project is None or may_differ(project) is None:
                return None
            held = self._standings.take(uid)
            if held is None:
                time.sleep(min(0.2, left))
                continue
            try:
                with held:
                    attempt = _Attempt(held, deadline)
                    limits = {"timeout_s": max(1.0, left / 4), "patience_s": min(5.0, left)}
                    return self._steps(attempt, uid, self._next_in_a_hurry, **limits)
            except LeaseLost:
                continue
        return _TOO_LONG

    def _next_in_a_hurry(self, project: ProjectState, standing: Standing) -> Due | None:
        if may_differ(project) is None:
            return None
        found = plan(project, replace(standing, forced=True), every=math.inf, quiet=0.0, now=self._clock())
        return found if isinstance(found, Due) else None

    # --- one step after the other -------------------------------------------------------------------------------------

    def _steps(
        self, attempt: _Attempt, uid: str, next_step: NextStep, *, timeout_s: float, patience_s: float
    ) -> str | None:
        """Sync until nothing is due; returns why it did not work out, None when it did."""
        try:
            with self._open_api(timeout_s, patience_s, attempt.pause) as api:
                for _ in range(_STEPS):
                    project = self._state.load(uid)
                    if project is None or project.deleted_at is not None:
                        return None
                    standing = self._standings.load(uid).with_access(self._access.fingerprint)
                    step = next_step(project, standing)
                    if step is None:
                        return None
                    began, now = time.monotonic(), self._clock()
                    attempt.begin(step, now)
                    log.info("project %s: %s sync begins: %s", uid, step.kind, step.reason)
                    outcome = Reader(self._state, self._syncs, api, self._clock, attempt.tell).read(project, step.kind)
                    self._ended(attempt, uid, standing, step, outcome, time.monotonic() - began)
        except TimeIsUp:
            # What was read is kept, and the sync workers go on from there.
            return _TOO_LONG
        except (LabelStudioError, SettingsError) as error:
            self._failed(attempt, uid, error, _in_words(error))
            return str(error)
        except (Unavailable, RunEnded):
            raise
        except Exception as error:
            # A mistake of ours: without a pause the clock would hand it over again and again.
            log.exception("project %s: sync", uid)
            self._failed(attempt, uid, error, f"{type(error).__name__}: {error}")
            return str(error)
        return None

    def _ended(
        self, attempt: _Attempt, uid: str, standing: Standing, step: Due, outcome: Outcome, seconds: float
    ) -> None:
        now, project = self._clock(), outcome.compared
        left = difference(project) if project.drift else ""
        said = (
            f"{outcome.kind} sync ({step.reason}): {outcome.read} annotations read, {outcome.changes} changes, "
            f"{seconds:.1f} s" + (f"; still, {left}" if left else "")
        )
        attempt.held.say(
            ended=now,
            outcome=said,
            changes=outcome.changes,
            error=None,
            failures=None,
            next_try=None,
            access=None,
            **{f"{outcome.kind}_seconds": seconds},
        )
        if outcome.kind == "complete":
            attempt.held.say(complete_ended=now, differed=standing.differed + 1 if left else None)
        self._settle(attempt, uid)
        log.info("project %s: %s", uid, said)
        if outcome.changes or left or standing.forced or standing.error or project.complete_at == project.synced_at:
            self._say(uid, said)

    def _failed(self, attempt: _Attempt, uid: str, error: Exception, said: str) -> None:
        now = self._clock()
        standing = self._standings.load(uid).with_access(self._access.fingerprint)
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(standing.failures, 20))
        if _is_lasting(error):
            pause = LONGEST_PAUSE_S
        attempt.held.say(
            ended=now,
            error=said,
            failures=standing.failures + 1,
            # Many projects fail at once when Label Studio is away: they must not come back at once.
            next_try=now + pause * random.uniform(0.8, 1.2),  # noqa: S311 - not a secret
            access=self._access.fingerprint,
        )
        self._settle(attempt, uid)
        self._give_up_what_is_old(uid, now)
        log.warning("project %s: sync failed, the next in about %.0f s: %s", uid, pause, said)
        if said != standing.error:
            self._say(uid, f"sync failed: {said}")

    def _give_up_what_is_old(self, uid: str, now: float) -> None:
        """What nobody will go on with must not make every event be remembered as one that came during a sync."""
        project = self._state.load(uid)
        if project is None or "syncing" not in project.meta or is_resumable(project, now):
            return
        left = self._syncs.resume(uid, now)
        if left is not None:
            self._syncs.abort(left, now)

    def _settle(self, attempt: _Attempt, uid: str) -> None:
        """What was asked for before this step began has been answered, whatever came of it."""
        asked_at = self._standings.load(uid).asked_at
        if asked_at is None or asked_at <= attempt.began:
            attempt.held.say(asked=None, asked_at=None, forced=None)

    def _say(self, uid: str, reason: str) -> None:
        self._state.decided(uid, "sync", reason, self._clock())


class _Attempt:
    """A held sync under way: tells how far it is, and ends it when its time is up."""

    def __init__(self, held: Held, deadline: float) -> None:
        """``deadline`` is on the monotonic clock."""
        self.held = held
        self.began = 0.0
        self._deadline = deadline
        self._pace = Pace(_TOLD_EVERY_S)

    def begin(self, step: Due, now: float) -> None:
        """A step begins."""
        self.began = now
        self.held.say(kind=step.kind, reason=step.reason, began=now, message=None, phase=None, done=None, total=None)

    def tell(self, *, phase: str, done: int, total: int, now: bool = False) -> None:
        """See `Teller`. Raises `TimeIsUp` and `LeaseLost`."""
        if time.monotonic() > self._deadline:
            raise TimeIsUp(_TOO_LONG)
        if now or self._pace():
            self.held.say(phase=phase, done=done, total=total, message=None)

    def pause(self, seconds: float) -> None:
        """Sleep before Label Studio is asked the same again. Raises `TimeIsUp` and `LeaseLost`."""
        if time.monotonic() + seconds > self._deadline:
            raise TimeIsUp(_TOO_LONG)
        self.held.say(message=f"Label Studio does not answer as it should; asking again in {seconds:.1f} s")
        time.sleep(seconds)


def _is_lasting(error: Exception) -> bool:
    """Whether only a person can mend it."""
    if isinstance(error, LabelStudioRefused):
        return error.status < 500 and error.status != 429
    return isinstance(error, (WrongToken, SettingsError, AnotherLabelStudio))


def _in_words(error: RefitError) -> str:
    if isinstance(error, LabelStudioRefused) and error.status in (403, 404):
        return f"{error}. The project was deleted, or the owner of LABEL_STUDIO_API_KEY may not see it"
    return str(error)
