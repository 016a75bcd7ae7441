"""RQ's job and queue, made to carry JSON only: nothing is unpickled, imported by name or called back.

A job hash in Redis is material that anybody with access to Redis may have written. What is read from it is a function
name, JSON arguments and a time limit; RQ's callbacks, webhooks, dependencies, retries, results and `meta` are not.
"""

from __future__ import annotations

import json
import logging
import zlib
from typing import TYPE_CHECKING, Any

import redis.exceptions
from rq import Queue
from rq.exceptions import DequeueTimeout, NoSuchJobError
from rq.job import JOB_ID_PATTERN, Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import utcparse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from redis import Redis

log = logging.getLogger(__name__)

PAYLOAD_LIMIT = 64 * 1024
LONGEST_S = 30 * 24 * 3600
DEFAULT_TIMEOUT_S = 3600


class RejectedJobError(NoSuchJobError):
    """A job that is not one of ours, or was tampered with; it is dropped."""


class CarriedJob(Job):
    """A job that always speaks JSON, whatever serializer it is asked to use."""

    def __init__(self, id: str | None = None, connection: Redis | None = None, serializer: object = None) -> None:  # noqa: A002, ARG002
        super().__init__(id, connection=connection, serializer=JSONSerializer)
        self.function = ""
        self.arguments: dict[str, Any] = {}

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Read what a job may say; raises `RejectedJobError` for anything else."""
        raw = {bytes(key): bytes(value) for key, value in raw_data.items()}
        try:
            call = json.loads(_unpacked(raw[b"data"]))
            self.timeout = min(LONGEST_S, max(1, int(raw.get(b"timeout") or DEFAULT_TIMEOUT_S)))
            self._status = JobStatus(raw.get(b"status", b"queued").decode())
            if raw.get(b"enqueued_at"):
                self.enqueued_at = utcparse(raw[b"enqueued_at"].decode())
        except (KeyError, ValueError, RecursionError, zlib.error) as error:
            raise RejectedJobError(f"job {self.id}: not readable: {type(error).__name__}") from error
        if not isinstance(call, list) or len(call) != 4:
            raise RejectedJobError(f"job {self.id}: not a call")
        function, instance, args, arguments = call
        if not isinstance(function, str) or instance is not None or args or not isinstance(arguments, dict):
            raise RejectedJobError(f"job {self.id}: not a function with named arguments")
        self.function = function
        self.arguments = arguments
        self.func_name, self.args, self.kwargs = function, (), arguments
        self.description = function


class CarriedQueue(Queue):
    """A queue of such jobs, taken by one worker at a time; what it cannot read it drops, and goes on."""

    job_class: type[Job] = CarriedJob

    def __init__(self, name: str, connection: Redis | None = None, **_rest: object) -> None:
        super().__init__(name, connection=connection, job_class=CarriedJob, serializer=JSONSerializer)

    @classmethod
    def dequeue_any(
        cls, queues: Iterable[Queue], timeout: int | None, connection: Redis, *_args: object, **_kwargs: object
    ) -> tuple[Job, Queue] | None:
        """Take the next job of the one queue; None when it is empty and `timeout` (seconds) is None.

        Raises RQ's `DequeueTimeout` after `timeout`. The job's id stays in the intermediate list until it starts.
        """
        (queue,) = queues
        while True:
            if timeout is None:
                taken = connection.lmove(queue.key, queue.intermediate_queue_key)
            else:
                taken = connection.blmove(queue.key, queue.intermediate_queue_key, timeout)
            if taken is None:
                if timeout is None:
                    return None
                raise DequeueTimeout(timeout, queue.key)
            try:
                job = CarriedJob.fetch(_job_id(taken), connection=connection)
            except (NoSuchJobError, redis.exceptions.ResponseError) as error:
                if isinstance(error, redis.exceptions.ResponseError) and not str(error).startswith("WRONGTYPE"):
                    raise
                log.warning("dropped a job of %s: %s", queue.name, error)
                drop(connection, queue, taken)
                continue
            job.origin = queue.name
            return job, queue


def drop(connection: Redis, queue: Queue, job_id: bytes | str) -> None:
    """Take a job out of RQ's books."""
    raw = job_id if isinstance(job_id, bytes) else job_id.encode()
    with connection.pipeline(transaction=True) as pipe:
        pipe.lrem(queue.intermediate_queue_key, 0, raw)  # type: ignore[arg-type]
        pipe.delete(b"rq:job:" + raw, b"rq:executions:" + raw)
        pipe.execute()


def _job_id(taken: bytes | str) -> str:
    try:
        name = taken if isinstance(taken, str) else taken.decode("ascii")
    except UnicodeDecodeError:
        raise RejectedJobError("its id is not a job id") from None
    if JOB_ID_PATTERN.fullmatch(name) is None:
        raise RejectedJobError("its id is not a job id")
    return name


def _unpacked(data: bytes) -> bytes:
    try:
        reader = zlib.decompressobj()
        plain = reader.decompress(data, PAYLOAD_LIMIT)
    except zlib.error:
        plain, reader = data, None
    if len(data) > PAYLOAD_LIMIT or (reader is not None and reader.unconsumed_tail):
        raise ValueError("too long")
    return plain
