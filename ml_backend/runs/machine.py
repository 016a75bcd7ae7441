"""Runs: the state machine of each project's training runs in Redis, one Lua script per transition."""

from __future__ import annotations

import json
import uuid
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, cast

from ml_backend.redis_errors import answering
from ml_backend.runs.records import (
    Dispatch,
    Lease,
    Left,
    Outcome,
    Renewed,
    Requested,
    Run,
    Standing,
    Status,
    check_uid,
    read_run,
    run_id_start,
    uid_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis import Redis
    from redis.commands.core import Script

MAX_FAILURES = 3
MAX_LOSSES = 10
MAX_BACKOFF_S = 60.0
TEXT_LIMIT = 2_000
TRACEBACK_LIMIT = 20_000

_TRANSITIONS = ("request", "dispatch", "start", "renew", "progress", "finish", "leave", "cancel", "standing")


class Runs:
    """At most one run of a project trains and at most one waits; every method is one atomic step in Redis.

    ``lease_s`` is how long a trainer may stay silent. `now` is seconds since the epoch; callers on several machines
    take it from `time` so that their clocks need not agree. Every method raises `Unavailable` when Redis does not
    answer or refuses writes, and `ValueError` for a uid that is not one.
    """

    def __init__(self, redis: Redis, prefix: str = "mlb:", lease_s: float = 15.0) -> None:
        self._redis = redis
        self._prefix = prefix
        self.lease_s = lease_s
        here = files("ml_backend.runs")
        common = (here / "common.lua").read_text("utf-8")
        self._scripts: dict[str, Script] = {
            name: redis.register_script(common + (here / f"{name}.lua").read_text("utf-8")) for name in _TRANSITIONS
        }

    def time(self) -> float:
        """Redis's own clock: the `now` that all machines share."""
        with answering():
            seconds, micros = self._redis.time()
        return seconds + micros / 1e6

    def request(self, uid: str, *, trigger: str, reason: str, due: float, click: bool, now: float) -> Requested:
        """Ask for a run that starts at `due`; joins the run that waits. A click lifts a pause and a back-off."""
        asked = (_text(trigger), _text(reason), _s(due), int(click), 0)
        run_id, joined, held = self._call("request", uid, now, run_id_start(uid), *asked)
        return Requested(_str(run_id), bool(joined), _str(held))

    def request_if_free(self, uid: str, *, trigger: str, reason: str, now: float) -> Requested | None:
        """Ask for a run at once as the policy does, by what it saw at `now`; joins the run that waits.

        None when the run that waited has started since, or even ended: what was seen is out of date then, and a run
        behind it would train without need.
        """
        asked = (_text(trigger), _text(reason), _s(now), 0, 1)
        answer = self._call("request", uid, now, run_id_start(uid), *asked)
        return Requested(_str(answer[0]), bool(answer[1]), _str(answer[2])) if answer else None

    def dispatch(self, uid: str, now: float, is_queued: Callable[[str, int], bool]) -> Dispatch | None:
        """Mark the waiting run as handed to RQ when it is its turn, and return what must be enqueued.

        ``is_queued(run id, enqueue)`` tells whether RQ still has that job in its queue; it is asked only when a run
        was handed over longer than a lease ago and has not started. A job that is gone (its worker died between
        taking it and starting it) is handed over again under a new job id; should both start, `start` lets one in.
        """
        answer = self._call("dispatch", uid, now, _s(self.lease_s), "", "")
        if answer[0] == b"check":
            seen = "queued" if is_queued(_str(answer[1]), int(answer[2])) else "gone"
            answer = self._call("dispatch", uid, now, _s(self.lease_s), seen, answer[2])
        if answer[0] != b"enqueue":
            return None
        return Dispatch(_str(answer[1]), int(answer[2]), answer[3] == b"1")

    def start(self, uid: str, run_id: str, worker: str, now: float) -> Lease | None:
        """Take the waiting run through the gate; None when it is not, or no longer, that run's turn."""
        nonce = uuid.uuid4().hex
        answer = self._call("start", uid, now, run_id, _text(worker), nonce, _s(self.lease_s))
        if not answer:
            return None
        token, expires, attempt, trigger, reason, click = answer
        return Lease(
            uid=uid,
            run_id=run_id,
            token=int(token),
            nonce=nonce,
            worker=worker,
            expires_at=float(expires),
            attempt=int(attempt),
            trigger=_str(trigger),
            reason=_str(reason),
            click=click == b"1",
        )

    def renew(self, lease: Lease, now: float) -> Renewed:
        """Count the lease from `now` again."""
        ok, cancelled = self._call("renew", lease.uid, now, *_proof(lease), _s(self.lease_s))
        return Renewed(bool(ok), bool(cancelled))

    def look(self, lease: Lease) -> Renewed:
        """Ask what `renew` would answer, without a write; cheap enough for every second."""
        with answering():
            found = self._redis.hmget(self._key(lease.uid, "running"), ["id", "token", "nonce", "cancel"])
        ok = found[:3] == [lease.run_id.encode(), str(lease.token).encode(), lease.nonce.encode()]
        return Renewed(ok, ok and found[3] == b"1")

    def check(self, lease: Lease) -> bool:
        """Return whether the lease's fencing token is still the project's current one."""
        return self.look(lease).ok

    def released(self, lease: Lease) -> bool:
        """Whether the lease was given up by its holder's own word, with an end or handed back: it was not lost."""
        with answering():
            return self._record(lease.run_id).get("released") == lease.nonce

    def progress(self, lease: Lease, phase: str, fraction: float, message: str, now: float) -> bool:
        """Record how far the run is (`fraction` 0 to 1); False when the lease is lost, and nothing is written."""
        bounded = min(1.0, max(0.0, fraction)) if fraction == fraction else 0.0  # noqa: PLR0124 - not a number
        return bool(
            self._call("progress", lease.uid, now, *_proof(lease), _text(phase), f"{bounded:.4f}", _text(message))
        )

    def finish(
        self,
        lease: Lease,
        outcome: Outcome,
        *,
        reason: str,
        now: float,
        details: Mapping[str, object] | None = None,
        error: str = "",
        traceback: str = "",
        counts: bool = True,
    ) -> bool:
        """End a run; False when the lease is lost, and nothing is written.

        ``reason`` is the sentence people read; ``error`` one line, ``traceback`` for the operator only; ``details``
        any JSON. A failure that is no fault of the model (too little to train on) passes ``counts=False``: it does
        not add to the failures in a row that pause the project.
        """
        return bool(
            self._call(
                "finish",
                lease.uid,
                now,
                *_proof(lease),
                outcome,
                _text(reason),
                _text(error),
                _text(traceback[-TRACEBACK_LIMIT:], TRACEBACK_LIMIT),
                json.dumps(dict(details or {}), default=str),
                int(counts),
                MAX_FAILURES,
            )
        )

    def hand_back(self, lease: Lease, reason: str, now: float) -> Left | None:
        """The worker was asked to stop: the run waits again, at once and without a penalty. None: lease lost."""
        return self._leave("hand_back", lease.uid, now, lease, reason)

    def lose(self, lease: Lease, reason: str, now: float) -> Left | None:
        """The trainer is gone through no fault of the model: the run waits again after a back-off. None: lease lost."""
        return self._leave("lose", lease.uid, now, lease, reason)

    def expire(self, uid: str, now: float) -> Left | None:
        """Take the project from a trainer whose lease ran out; None when there is no such lease.

        The run waits again, with a pause of 1, 2, 4 … 60 s, or ends as ``lost`` after `MAX_LOSSES`.
        """
        return self._leave("expire", uid, now, None, "its worker fell silent")

    def cancel(
        self, run_id: str, now: float, reason: str = "cancelled"
    ) -> Literal["cancelled", "cancelling", "over"] | None:
        """Cancel a waiting run at once, tell a training one to stop; None for a run that nobody knows."""
        uid = uid_of(run_id)
        if uid is None:
            return None
        answer = _str(self._call("cancel", uid, now, run_id, _text(reason)))
        return cast("Literal['cancelled', 'cancelling', 'over']", answer) if answer else None

    def pause(self, uid: str, reason: str, now: float) -> None:
        """Start nothing by itself until `resume` or a click."""
        with answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.set(self._key(uid, "paused"), _text(reason))
            pipe.zadd(f"{self._prefix}due", {uid: now}, lt=True)
            pipe.execute()

    def resume(self, uid: str, now: float) -> bool:
        """Lift a pause (the training set changed); False when there was none. Failures in a row stay counted:
        a run that fails again pauses again."""
        with answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(self._key(uid, "paused"))
            pipe.zadd(f"{self._prefix}due", {uid: now}, lt=True)
            removed, _ = pipe.execute()
        return bool(removed)

    def get(self, run_id: str) -> Run | None:
        """Return a run's record (the one it joined, if it did), up to 30 days after its end."""
        if uid_of(run_id) is None:
            return None
        with answering():
            stored = self._record(run_id)
            if stored.get("into"):
                stored = self._record(stored["into"])
        return read_run(stored)

    def standing(self, uid: str, now: float = 0.0) -> Standing:
        """Read all about a project's runs at once."""
        waiting, first, running, second, paused, summary = self._call("standing", uid, now)
        waits, runs, last = _pairs(waiting), _pairs(running), _pairs(summary)
        look_at: float | None = None
        if runs:
            look_at = float(runs["expires"])
        elif waits and (not paused or waits["click"] == "1"):
            look_at = max(float(waits["due"]), float(waits["not_before"]))
            if waits["enqueued"]:
                look_at = float(waits["enqueued"]) + self.lease_s
        return Standing(
            waiting=read_run(_pairs(first)),
            running=read_run(_pairs(second)),
            lease_expires_at=float(runs["expires"]) if runs else None,
            look_at=look_at,
            paused=_str(paused),
            failures=int(last.get("failures") or 0),
            last_id=last.get("last_id") or None,
            last_status=cast("Status | None", last.get("last_status") or None),
            last_started_at=float(last["last_started"]) if last.get("last_started") else None,
            last_ended_at=float(last["last_ended"]) if last.get("last_ended") else None,
        )

    def waiting(self, uid: str) -> Run | None:
        """Return the run that waits."""
        return self.standing(uid).waiting

    def running(self, uid: str) -> Run | None:
        """Return the run that trains."""
        return self.standing(uid).running

    def history(self, uid: str, limit: int = 50) -> list[Run]:
        """Return ended runs, newest first, without tracebacks; the last 200 are kept."""
        with answering():
            entries = cast("list[bytes]", self._redis.lrange(self._key(uid, "history"), 0, max(0, limit - 1)))
        runs = (read_run(json.loads(entry)) for entry in entries[:limit])
        return [run for run in runs if run is not None]

    def messages(self, run_id: str) -> list[dict[str, Any]]:
        """What a run said last, newest first: ``at`` (s), ``phase``, ``fraction``, ``message``. Kept for a day."""
        with answering():
            entries = cast("list[bytes]", self._redis.lrange(f"{self._prefix}run:{run_id}:messages", 0, -1))
        return [json.loads(entry) for entry in entries]

    def totals(self, uid: str) -> dict[Status, tuple[int, float]]:
        """How many runs ended so, ever, and the seconds that they took."""
        with answering():
            raw = cast("dict[bytes, bytes]", self._redis.hgetall(self._key(uid, "totals")))
        found = {_str(field): float(value) for field, value in raw.items()}
        return {
            cast("Status", field.partition("|")[2]): (int(value), found.get(f"seconds|{field.partition('|')[2]}", 0.0))
            for field, value in found.items()
            if field.startswith("runs|")
        }

    def started_since(self, uid: str, since: float) -> int:
        """Count the automatic runs that started after `since` (at most a day back); a retried run counts once."""
        with answering():
            return self._redis.zcount(self._key(uid, "starts"), since, "+inf")

    def holder(self, uid: str, run_id: str, worker: str) -> Lease | None:
        """Return the lease under which `worker` trains `run_id` now; None when it does not.

        For the process that watches a trainer and must speak for it after its death. Worker names are unique.
        """
        with answering():
            raw = cast("dict[bytes, bytes]", self._redis.hgetall(self._key(uid, "running")))
        held = {_str(key): _str(value) for key, value in raw.items()}
        if held.get("id") != run_id or held.get("worker") != worker:
            return None
        run = self.get(run_id)
        return Lease(
            uid=uid,
            run_id=run_id,
            token=int(held["token"]),
            nonce=held["nonce"],
            worker=worker,
            expires_at=float(held["expires"]),
            attempt=run.attempts if run else 0,
            trigger=run.trigger if run else "",
            reason=run.reason if run else "",
            click=run.click if run else False,
        )

    def _leave(
        self, how: Literal["hand_back", "lose", "expire"], uid: str, now: float, lease: Lease | None, message: str
    ) -> Left | None:
        proof = _proof(lease) if lease else ("", "", "")
        answer = self._call("leave", uid, now, how, *proof, _text(message), MAX_LOSSES, _s(MAX_BACKOFF_S))
        if not answer[0]:
            return None
        status, run_id, worker, losses, retry_at = answer
        return Left(
            run_id=_str(run_id),
            worker=_str(worker),
            status=cast("Literal['queued', 'cancelled', 'lost']", _str(status)),
            losses=int(losses),
            retry_at=float(retry_at),
        )

    def _key(self, uid: str, name: str) -> str:
        return f"{self._prefix}{{{check_uid(uid)}}}:{name}"

    def _record(self, run_id: str) -> dict[str, str]:
        raw = cast("dict[bytes, bytes]", self._redis.hgetall(f"{self._prefix}run:{run_id}"))
        return {_str(key): _str(value) for key, value in raw.items()}

    # Any: a script's answer is whatever Lua returns; each caller above knows its own.
    def _call(self, name: str, uid: str, now: float, *args: bytes | str | float) -> Any:  # noqa: ANN401
        names = ("waiting", "running", "history", "token", "run-seq", "paused", "runs", "starts", "totals")
        keys = [*(self._key(uid, each) for each in names), f"{self._prefix}due"]
        with answering():
            return self._scripts[name](keys=keys, args=[uid, f"{self._prefix}run:", _s(now), *args])


def _proof(lease: Lease) -> tuple[str, str, str]:
    return lease.run_id, str(lease.token), lease.nonce


def _s(seconds: float) -> str:
    return f"{seconds:.6f}"


def _str(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _text(value: str, limit: int = TEXT_LIMIT) -> bytes:
    # Messages of exceptions may hold lone surrogates (file names), which UTF-8 cannot carry.
    return value[:limit].encode("utf-8", "replace")


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    return {_str(flat[i]): _str(flat[i + 1]) for i in range(0, len(flat), 2)}
