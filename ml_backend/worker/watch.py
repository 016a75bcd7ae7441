"""What a worker sees to for the run that its horse carries: a lease that is lost, and an end without a word."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ml_backend.errors import Unavailable
from ml_backend.exit_status import in_words
from ml_backend.worker.horse import DONE, INTERRUPTED

if TYPE_CHECKING:
    from ml_backend.jobs.carriage import CarriedJob
    from ml_backend.runs import Lease, Run, Runs

log = logging.getLogger(__name__)


class RunWatch:
    """Watches the run of one job from outside its horse; made before the horse is. Other jobs have nothing to watch."""

    def __init__(self, runs: Runs, job: CarriedJob, worker: str) -> None:
        uid, run_id = job.arguments.get("uid"), job.arguments.get("run_id")
        self._uid = self.run_id = ""
        if job.function == "train" and isinstance(uid, str) and isinstance(run_id, str):
            self._uid, self.run_id = uid, run_id
        self._runs = runs
        self._worker = worker
        self._limit_s = int(job.timeout or 0)
        self._look_at = 0.0
        self._held: Lease | None = None
        self._gone_at: float | None = None
        self.every_s = min(1.0, runs.lease_s / 3)
        self._attempts = self._attempts_so_far()

    def lost(self, at: float) -> bool:
        """Whether the horse trains on without its lease; `at` is monotonic. Redis is asked three times a lease
        from when it is seen to train.

        Its keeper sees to that at once. This is for a keeper that was killed beside a trainer that never looks up.
        """
        if not self.run_id or at < self._look_at:
            return False
        self._look_at = at + self._runs.lease_s / 3
        try:
            if (lease := self._runs.holder(self._uid, self.run_id, self._worker)) is not None:
                self._held, self._gone_at = lease, None
                return False
            if self._held is None:
                self._look_at = at  # that it did start must be known, should Redis forget it
                return False
            released = self._runs.released(self._held)
            if not released and self._gone_at is None:
                return True
            run = self._runs.get(self.run_id)
        except (Unavailable, ValueError):
            return False
        # It gave the run up itself, whatever became of the run since, and may still tidy up; what follows a promotion
        # takes its time.
        self._gone_at = self._gone_at or at
        succeeded = released and run is not None and run.status == "succeeded"
        return not succeeded and at - self._gone_at > self._runs.lease_s

    def settle(self, status: int | None, *, stopped: bool, overdue: bool) -> None:
        """Speak for a horse that ended without a word: its run must not wait for the lease to run out."""
        if not self.run_id:
            return
        try:
            now = self._runs.time()
            broken = status not in {DONE, INTERRUPTED} and not stopped
            run = self._runs.get(self.run_id)
            lease = self._runs.holder(self._uid, self.run_id, self._worker)
            never_began = self._held is None and run is not None and run.attempts == self._attempts
            if lease is None and broken and never_began:
                # The same would happen again and again, and never count. Where it was seen to train, Redis went back to
                # what it knew before that, and the attempt is no failure.
                lease = self._runs.start(self._uid, self.run_id, self._worker, now)
            if lease is not None:
                why = f"took longer than {self._limit_s} s, and did not stop" if overdue else in_words(status)
                self._end(lease, run, why, now, stopped=stopped, broken=broken)
                log.warning("project %s run %s: the training process %s", self._uid, self.run_id, why)
        except (Unavailable, ValueError) as error:
            log.warning("project %s run %s: left to its lease: %s", self._uid, self.run_id, error)

    def _end(self, lease: Lease, run: Run | None, why: str, now: float, *, stopped: bool, broken: bool) -> None:
        if lease.expires_at <= now:
            self._runs.expire(self._uid, now)
        elif run is not None and run.cancelling:
            self._runs.finish(lease, "cancelled", reason="cancelled", now=now)
        elif stopped:
            self._runs.hand_back(lease, "its worker was asked to stop", now)
        elif broken:
            self._runs.finish(lease, "failed", reason=f"the training process {why}", error=why, now=now)
        else:
            self._runs.lose(lease, "it ended without a result", now)

    def _attempts_so_far(self) -> int | None:
        try:
            run = self._runs.get(self.run_id) if self.run_id else None
        except (Unavailable, ValueError):
            return None
        return run.attempts if run is not None else None
