"""Jobs: hands work to the worker processes through RQ, and sees what RQ still holds.

RQ only carries: what waits, what trains and what is over is known by `Runs` and never read from RQ. A job is a function
name out of the worker's own table and JSON arguments. This module stays light; what subclasses RQ is in `carriage`.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Literal, cast

from ml_backend.redis_errors import answering

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis import Redis

    from ml_backend.jobs.carriage import CarriedQueue

Queue = Literal["train", "sync", "predict"]
QUEUES: tuple[Queue, ...] = ("train", "sync", "predict")

Argument = str | int | float | bool | None

ABANDONED_AFTER_S = 60.0
KEPT_S = 7 * 24 * 3600


def run_job_id(run_id: str, enqueue: int) -> str:
    """RQ's id of the job that carries a run; each hand-over has its own."""
    return f"{run_id}-a{enqueue}"


class Jobs:
    """The queues ``train``, ``sync`` and ``predict`` of one installation; a worker process serves one of them.

    Every method raises `Unavailable` when Redis does not answer or refuses writes.
    """

    def __init__(self, redis: Redis, prefix: str = "mlb:") -> None:
        self._redis = redis
        self._prefix = prefix

    def enqueue_run(self, uid: str, run_id: str, enqueue: int, *, timeout_s: float, front: bool = False) -> str:
        """Hand a run to the training workers, as `Runs.dispatch` said; returns the job's id."""
        job_id = run_job_id(run_id, enqueue)
        self._enqueue("train", "train", {"uid": uid, "run_id": run_id}, job_id, timeout_s, front)
        return job_id

    def is_queued(self, run_id: str, enqueue: int) -> bool:
        """Whether that hand-over of a run still waits in the queue; what `Runs.dispatch` asks."""
        return self.position("train", run_job_id(run_id, enqueue)) is not None

    def enqueue(
        self,
        queue: Queue,
        function: str,
        arguments: Mapping[str, Argument],
        *,
        key: str,
        timeout_s: float,
        front: bool = False,
    ) -> bool:
        """Hand a call of one of the worker's functions to a queue; False when the same one waits there already.

        ``key`` (letters, digits, dashes) says what is the same: one waiting call per function and key. A call that is
        being carried out does not count, since it may have looked too early.
        """
        start = f"{function}-{key}-"
        with answering():
            waiting = cast("list[bytes]", self._redis.lrange(self.queue_key(queue), 0, -1))
        if any(job_id.startswith(start.encode()) for job_id in waiting):
            return False
        self._enqueue(queue, function, arguments, f"{start}{secrets.token_hex(4)}", timeout_s, front)
        return True

    def position(self, queue: Queue, job_id: str) -> int | None:
        """Return a job's place in the queue, 0 = next; None when it is not, or no longer, waiting there."""
        with answering():
            return cast("int | None", self._redis.lpos(self.queue_key(queue), job_id))

    def depth(self, queue: Queue) -> int:
        """Count the jobs that wait in a queue."""
        with answering():
            return self._redis.llen(self.queue_key(queue))

    def workers(self, queue: Queue) -> int:
        """Count the live worker processes of a queue."""
        with answering():
            names = self._redis.smembers(f"rq:workers:{self.queue_name(queue)}")
            return self._redis.exists(*names) if names else 0

    def tidy(self, queue: Queue, now: float) -> int:
        """Remove what killed workers left in RQ's books; returns how many jobs that were.

        Nothing is run again from here: the clock hands over again whatever is still due. A job counts as left behind
        when its execution was not renewed in time, or when it was taken from the queue and not started for a minute.
        """
        started, taken = f"rq:wip:{self.queue_name(queue)}", f"{self.queue_key(queue)}:intermediate"
        removed = 0
        with answering():
            for entry in cast("list[bytes]", self._redis.zrangebyscore(started, 0, now)):
                job_id = entry.partition(b":")[0]
                self._redis.zrem(started, entry)
                self._redis.delete(b"rq:execution:" + entry, b"rq:executions:" + job_id)
                self._forget(taken, job_id)
                removed += 1
            seen_at = f"{self._prefix}taken:{queue}"
            listed = cast("list[bytes]", self._redis.lrange(taken, 0, -1))
            known = cast("dict[bytes, bytes]", self._redis.hgetall(seen_at))
            if gone := known.keys() - set(listed):
                self._redis.hdel(seen_at, *gone)
            for job_id in listed:
                if job_id not in known:
                    self._redis.hset(seen_at, cast("str", job_id), f"{now:.3f}")
                elif now - float(known[job_id]) > ABANDONED_AFTER_S:
                    self._forget(taken, job_id)
                    removed += 1
        return removed

    def queue_name(self, queue: Queue) -> str:
        """Return a queue's name in RQ; other programs may have queues in the same Redis."""
        return f"{self._prefix.strip(':')}-{queue}"

    def queue_key(self, queue: Queue) -> str:
        """Return the Redis key of a queue's list."""
        return f"rq:queue:{self.queue_name(queue)}"

    def rq_queue(self, queue: Queue, connection: Redis | None = None) -> CarriedQueue:
        """Return RQ's object for a queue; for the worker, which brings a connection of its own."""
        # RQ takes a moment to import, and the web process never needs it.
        from ml_backend.jobs.carriage import CarriedQueue  # noqa: PLC0415

        return CarriedQueue(self.queue_name(queue), connection=connection or self._redis)

    def _enqueue(
        self,
        queue: Queue,
        function: str,
        arguments: Mapping[str, Argument],
        job_id: str,
        timeout_s: float,
        front: bool,
    ) -> None:
        with answering():
            self.rq_queue(queue).enqueue_call(
                function,
                kwargs=dict(arguments),
                job_id=job_id,
                timeout=math.ceil(timeout_s),
                ttl=KEPT_S,
                result_ttl=0,
                description=function,
                at_front=front,
            )

    def _forget(self, taken: str, job_id: bytes) -> None:
        self._redis.lrem(taken, 0, cast("str", job_id))
        self._redis.delete(b"rq:job:" + job_id)
