"""What a run is: its id, its record, and the answers that transitions give. Pure; times are seconds since the epoch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from ml_backend.uids import is_uid, without_dot

if TYPE_CHECKING:
    from collections.abc import Mapping

Status = Literal["queued", "started", "succeeded", "failed", "cancelled", "lost"]
Outcome = Literal["succeeded", "failed", "cancelled"]

_RUN_ID = re.compile(r"(\d+)-(\d+)-(\d{1,12})", re.ASCII)


def check_uid(uid: str) -> str:
    """Return `uid` when it has Label Studio's form ``<id>.<created_at>``; else raise `ValueError`."""
    if not is_uid(uid):
        raise ValueError(f"not a project uid: {uid!r}")
    return uid


def run_id_start(uid: str) -> str:
    """What every run id of a project begins with."""
    return without_dot(check_uid(uid)) + "-"


def uid_of(run_id: str) -> str | None:
    """Return the project of a run id, or None when it is not one of ours (nothing is looked up)."""
    found = _RUN_ID.fullmatch(run_id)
    uid = f"{found[1]}.{found[2]}" if found else ""
    return uid if is_uid(uid) else None


@dataclass(frozen=True, slots=True)
class Run:
    """One run as its record has it. Times are None until they happen; `fraction` is 0 to 1."""

    id: str
    uid: str
    status: Status
    trigger: str
    reason: str
    click: bool
    requested_at: float
    due_at: float
    updated_at: float
    enqueued_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    joined: int = 0
    attempts: int = 0
    losses: int = 0
    hand_backs: int = 0
    worker: str = ""
    phase: str = ""
    fraction: float = 0.0
    message: str = ""
    cancelling: bool = False
    ending: str = ""
    error: str = ""
    traceback: str = field(default="", repr=False)
    details: str = "{}"

    @property
    def number(self) -> int:
        """The run's place in its project, from 1."""
        return int(self.id.rsplit("-", 1)[1])

    @property
    def over(self) -> bool:
        """Nothing will happen to it any more."""
        return self.status not in {"queued", "started"}

    @property
    def duration_s(self) -> float | None:
        """Seconds from its last start to its end; None while it is not over or when it never started."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, self.ended_at - self.started_at)


@dataclass(frozen=True, slots=True)
class Requested:
    """The answer to a request: the id of the run that waits, and whether it was there already.

    ``held`` says why the run does not start although it waits (the project is paused); empty when nothing holds it.
    """

    id: str
    joined: bool
    held: str = ""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """What must be handed to RQ now. `enqueue` counts the hand-overs of this run; `front`: a person waits for it."""

    run_id: str
    enqueue: int
    front: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to train and to publish for one project, until `expires_at` unless renewed.

    ``token`` grows with every start of the project; ``nonce`` tells two leases apart even where a Redis without
    persistence forgot its counter.
    """

    uid: str
    run_id: str
    token: int
    nonce: str
    worker: str
    expires_at: float
    attempt: int
    trigger: str
    reason: str
    click: bool


@dataclass(frozen=True, slots=True)
class Renewed:
    """The answer to a renewal: whether the lease still holds, and whether somebody cancelled the run."""

    ok: bool
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Left:
    """A run that left its worker: it waits again (``queued``, not before `retry_at`), or it ended."""

    run_id: str
    worker: str
    status: Literal["queued", "cancelled", "lost"]
    losses: int
    retry_at: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything about a project's runs, from one read.

    ``look_at`` is when the clock must look again for the runs' sake: a lease that may run out, a due time, or a job
    that may have been lost in RQ; None when nothing is under way.
    """

    waiting: Run | None
    running: Run | None
    lease_expires_at: float | None
    look_at: float | None
    paused: str
    failures: int
    last_id: str | None
    last_status: Status | None
    last_started_at: float | None
    last_ended_at: float | None


def label_studio_status(run: Run | None) -> str:
    """Return the word that `/job_status` answers: Label Studio polls on at ``queued`` and ``started`` only."""
    if run is None:
        return "unknown"
    return {
        "queued": "queued",
        "started": "started",
        "succeeded": "finished",
        "failed": "failed",
        "cancelled": "canceled",
        "lost": "failed",
    }[run.status]


def read_run(stored: Mapping[str, str]) -> Run | None:
    """Read a record as Redis has it; None when it is empty or not a whole record."""
    if not stored.get("id") or not stored.get("status"):
        return None
    requested = _time(stored, "requested") or 0.0
    return Run(
        id=stored["id"],
        uid=stored.get("uid", ""),
        status=cast("Status", stored["status"]),
        trigger=stored.get("trigger", ""),
        reason=stored.get("reason", ""),
        click=stored.get("click") == "1",
        requested_at=requested,
        due_at=_time(stored, "due") or requested,
        updated_at=_time(stored, "updated") or requested,
        enqueued_at=_time(stored, "enqueued"),
        started_at=_time(stored, "started"),
        ended_at=_time(stored, "ended"),
        joined=_count(stored, "joined"),
        attempts=_count(stored, "attempts"),
        losses=_count(stored, "losses"),
        hand_backs=_count(stored, "hand_backs"),
        worker=stored.get("worker", ""),
        phase=stored.get("phase", ""),
        fraction=_time(stored, "fraction") or 0.0,
        message=stored.get("message", ""),
        cancelling=stored.get("cancelling") == "1",
        ending=stored.get("ending", ""),
        error=stored.get("error", ""),
        traceback=stored.get("traceback", ""),
        details=stored.get("details") or "{}",
    )


def _time(stored: Mapping[str, str], name: str) -> float | None:
    value = stored.get(name)
    return float(value) if value else None


def _count(stored: Mapping[str, str], name: str) -> int:
    return int(stored.get(name) or 0)
