"""The clock: looks at projects whose time has come and decides again. Whatever crashed elsewhere, this repairs it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ml_backend import policy
from ml_backend.errors import BadInput, Unavailable
from ml_backend.event_way import CLICK, cancel_runs
from ml_backend.label_config import outdated, parse_label_config
from ml_backend.state.due import FARTHEST_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ml_backend.event_way import ProjectSettings
    from ml_backend.jobs import Jobs
    from ml_backend.runs import Runs
    from ml_backend.runs.records import Run, Standing
    from ml_backend.state import ProjectState, State
    from ml_backend.state.due import DueList

log = logging.getLogger(__name__)

IDLE_S = FARTHEST_S


class Considering(Protocol):
    """What the clock needs of whoever brings training sets, predictions or what serves up to date."""

    def consider(self, project: ProjectState, now: float) -> float | None:
        """Ask for a sync, or a refresh, if one is due; returns when to consider it again."""


class Clock:
    """Decides for every project that is due. Any number may tick at once: each transition is atomic."""

    def __init__(
        self,
        state: State,
        due: DueList,
        runs: Runs,
        jobs: Jobs,
        settings: ProjectSettings,
        *,
        run_timeout: float,
        others: Sequence[Considering] = (),
        purge: Callable[[str, float], bool] | None = None,
    ) -> None:
        """``others`` are asked in this order, before it is decided whether to train.

        ``purge(uid, now)`` throws away what is kept of a project that was deleted long enough ago.
        """
        self._state = state
        self._due = due
        self._runs = runs
        self._jobs = jobs
        self._settings = settings
        self._run_timeout = run_timeout
        self._others = others
        self._purge = purge
        self._last: dict[str, str] = {}

    def tick(self, now: float) -> int:
        """Look at every project whose time has come; returns how many. Raises `Unavailable` when Redis is away."""
        uids, claim = self._due.claim(now)
        for uid in uids:
            look_at = now + IDLE_S
            try:
                look_at = self.consider(uid, now)
            except Unavailable:
                raise
            except Exception:
                # One broken project must not stop the others.
                log.exception("project %s: the clock could not decide", uid)
            self._due.settle(uid, claim, look_at)
        return len(uids)

    def consider(self, uid: str, now: float) -> float:
        """Decide for one project; returns when to look again."""
        if (left := self._runs.expire(uid, now)) is not None:
            self._say(uid, "lost", f"run {left.run_id}: its worker {left.worker} fell silent; it is {left.status}", now)
        project = self._state.load(uid)
        if project is None:
            return now + IDLE_S
        if project.deleted_at is not None:
            return self._deleted(uid, now)
        if project.training.paused and policy.changed_since_last_run(project.training) and self._runs.resume(uid, now):
            self._say(uid, "resumed", "the training set changed: automatic training goes on", now)
        standing = self._runs.standing(uid, now)
        looks = [now + IDLE_S]
        looks += [at for one in self._others if (at := one.consider(project, now)) is not None]
        if standing.waiting is not None:
            looks.append(self._waiting(project, standing.waiting, standing, now))
        elif standing.running is None:
            looks.append(self._decide(project, now))
        after = self._runs.standing(uid, now)
        if after.look_at is not None:
            looks.append(after.look_at)
        return max(min(looks), now + 0.05)

    def _deleted(self, uid: str, now: float) -> float:
        # An event that was on its way when the project was deleted may have asked for a run after all.
        standing = cancel_runs(self._runs, uid, now, "the project was deleted, or is not connected any more")
        if standing.lease_expires_at is not None:
            # Without its lease the run would never come to an end.
            return max(min(standing.lease_expires_at, now + IDLE_S), now + 0.05)
        if self._purge is not None and self._purge(uid, now):
            log.info("project %s: deleted long ago: its training set is thrown away", uid)
        return now + IDLE_S

    def _waiting(self, project: ProjectState, waiting: Run, standing: Standing, now: float) -> float:
        if waiting.trigger == CLICK and not waiting.click and waiting.attempts == 0:
            if waiting.due_at > now:
                return waiting.due_at
            if (held_until := self._held_until(project, waiting)) is not None and held_until > now:
                return held_until
            if not self._resolve_start_training(project, waiting, held_until is not None, now):
                return now + IDLE_S
        if standing.running is None:
            self._dispatch(project.uid, now)
        return now + IDLE_S

    def _held_until(self, project: ProjectState, waiting: Run) -> float | None:
        """How long the last `START_TRAINING` is held; None when an annotation followed it (fact 12)."""
        asked = max(waiting.requested_at, project.last_start_at or 0.0)
        if project.last_annotation_at is not None and project.last_annotation_at >= asked:
            return None
        return asked + self._settings.of(project).retrain.quiet

    def _resolve_start_training(self, project: ProjectState, waiting: Run, click: bool, now: float) -> bool:
        """Whether a held `START_TRAINING` stands: no annotation followed it, or the policy says so (fact 12)."""
        if click:
            self._runs.request(project.uid, trigger=CLICK, reason="Start Training", due=now, click=True, now=now)
            self._say(project.uid, "train", "Start Training", now, run=waiting.id)
            return True
        decision = self._policy(project, now)
        if isinstance(decision, policy.Train):
            self._say(project.uid, "train", decision.reason, now, run=waiting.id)
            return True
        reason = f"sent by Label Studio's own counter, not by a click; {decision.reason}"
        self._runs.cancel(waiting.id, now, reason)
        self._say(project.uid, "wait", reason, now, run=waiting.id)
        self._mark_reached(project, decision, now)
        return False

    def _decide(self, project: ProjectState, now: float) -> float:
        uid = project.uid
        project = self._mark_outdated(project)
        decision = self._policy(project, now)
        if isinstance(decision, policy.Train):
            asked = self._runs.request_if_free(uid, trigger="policy", reason=decision.reason, now=now)
            if asked is not None:
                self._say(uid, "train", decision.reason, now, run=asked.id)
                self._dispatch(uid, now)
            return now + IDLE_S
        self._say(uid, "wait" if isinstance(decision, policy.Wait) else "nothing", decision.reason, now)
        self._mark_reached(project, decision, now)
        if isinstance(decision, policy.Wait) and decision.until is not None:
            return decision.until
        return now + IDLE_S

    def _policy(self, project: ProjectState, now: float) -> policy.Decision:
        return policy.decide(project.training, self._settings.of(project).retrain, now)

    def _mark_reached(self, project: ProjectState, decision: policy.Decision, now: float) -> None:
        reached = isinstance(decision, policy.Wait) and decision.reached
        if reached and project.training.threshold_at is None:
            self._state.mark(project.uid, threshold_at=now)
        elif not reached and project.training.threshold_at is not None:
            self._state.mark(project.uid, threshold_at=None)

    def _mark_outdated(self, project: ProjectState) -> ProjectState:
        """Compare the label config with the one of the last training, once per change of it."""
        seen = f"{project.trained_config_hash}>{project.config_hash}"
        if not project.trained_config_hash or project.meta.get("compared_config") == seen:
            return project
        reason: str | None = None
        if project.trained_config_hash != project.config_hash:
            try:
                before = parse_label_config(self._state.trained_config(project.uid))
                reason = outdated(before, parse_label_config(self._state.label_config(project.uid)))
            except BadInput as error:
                reason = str(error)
        self._state.mark(project.uid, outdated=reason, compared_config=seen)
        return replace(project, training=replace(project.training, outdated=reason))

    def _dispatch(self, uid: str, now: float) -> None:
        job = self._runs.dispatch(uid, now, self._jobs.is_queued)
        if job is not None:
            self._jobs.enqueue_run(uid, job.run_id, job.enqueue, timeout_s=self._run_timeout, front=job.front)
            run = self._runs.get(job.run_id)
            why = f" (asked for by {run.trigger}: {run.reason})" if run is not None else ""
            log.info("project %s run %s: due%s, handed to the training workers", uid, job.run_id, why)

    def _say(self, uid: str, kind: str, reason: str, now: float, *, run: str = "") -> None:
        """Keep a decision for people, when it is not the one before with other numbers."""
        shape = f"{kind} {''.join(letter for letter in reason if not letter.isdigit())}"
        if kind in {"wait", "nothing"} and self._last.get(uid) == shape:
            return
        self._last[uid] = shape
        log.info("project %s%s: %s: %s", uid, f" run {run}" if run else "", kind, reason)
        self._state.decided(uid, kind, reason, now)
