"""The worker process of one queue: RQ's worker, reduced to taking a job, forking for it and watching over the child.

RQ's own ways of success and failure, its maintenance, commands, callbacks, results and retries are not used: some of
them unpickle, others keep a second truth about runs. What a run's end means is decided here and written to `Runs`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import redis.exceptions
from rq import Worker, worker_registration
from rq.exceptions import StopRequested
from rq.utils import now as rq_now
from rq.worker import WorkerStatus

from ml_backend.errors import Unavailable
from ml_backend.jobs.carriage import CarriedJob, CarriedQueue, drop
from ml_backend.lease import importable
from ml_backend.worker.horse import FAILED, INTERRUPTED, Order, carry_out, command, leave
from ml_backend.worker.watch import RunWatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from redis.client import Pipeline
    from rq.executions import Execution
    from rq.job import Job
    from rq.queue import Queue as RqQueue

    from ml_backend.jobs import Queue
    from ml_backend.worker.horse import Work

log = logging.getLogger(__name__)

# RQ waits for a job this long, less 15 s, in one call; a Redis that hangs is noticed 10 s after that.
_WORKER_TTL_S = 30
_MAINTENANCE_S = 60
_HEARTBEAT_S = 30
_SAME_REQUEST_S = 1.0


class Carrier(Worker):
    """Takes the jobs of one queue, each in a forked horse.

    ``grace_s``: how long a horse may take to hand its run back when the worker is asked to stop (SIGTERM, SIGINT).
    ``overtime_s``: how long it may go on after its time limit, of which code that is deep in C does not hear.
    """

    max_connection_wait_time = 2.0

    def __init__(
        self, queue: Queue, open_work: Callable[[], Work], *, grace_s: float = 5.0, overtime_s: float = 30.0
    ) -> None:
        self._open_work = open_work
        self._carried = queue
        self._work = open_work()
        self._grace_s = grace_s
        self._overtime_s = overtime_s
        self._busy = False
        self._stop_asked_at: float | None = None
        self._hurry = False
        self._wakeup, self._woken = os.pipe()
        connection = self._work.connect()  # of its own: RQ lengthens its time-outs
        super().__init__(
            [self._work.jobs.rq_queue(queue, connection)],
            name=f"{socket.gethostname().partition('.')[0]}-{os.getpid()}-{secrets.token_hex(3)}",
            connection=connection,
            worker_ttl=_WORKER_TTL_S,
            maintenance_interval=_MAINTENANCE_S,
            job_monitoring_interval=_HEARTBEAT_S,
            job_class=CarriedJob,
            queue_class=CarriedQueue,
            log_job_description=False,
        )

    def serve(self, *, burst: bool = False) -> None:
        """Take jobs until SIGTERM or SIGINT; with ``burst``, until there are none."""
        try:
            self.work(burst=burst)
        except StopRequested:
            self.teardown()

    # --- one job ------------------------------------------------------------------------------------------------------

    def execute_job(self, job: Job, queue: RqQueue) -> None:
        """Carry out a job in a horse and see to what it leaves, unless its function is not on the list."""
        if not isinstance(job, CarriedJob) or job.function not in self._work.functions:
            log.warning("dropped job %s: it is for no function of the queue %s", job.id, self._carried)
            drop(self.connection, queue, job.id)
            return
        self._busy = True
        try:
            execution = self.prepare_execution(job)
            with self.connection.pipeline() as pipe:
                job.prepare_for_execution(self.name, pipeline=pipe)
                pipe.persist(job.key)
                pipe.lrem(queue.intermediate_queue_key, 0, job.id)
                pipe.execute()
            watch = RunWatch(self._work.runs, job, self.name)
            self.fork_work_horse(job, queue)
            self._watch_horse(job, execution, watch)
            with self.connection.pipeline() as pipe:
                execution.delete(job=job, pipeline=pipe)
                pipe.execute()
            drop(self.connection, queue, job.id)
        except redis.exceptions.RedisError as error:
            # What is left in RQ's books is tidied up later; the run itself is in the lease's hands.
            log.warning("job %s: Redis does not answer: %s", job.id, error)
        finally:
            self._busy = False
            self.executions.clear()
        self.set_state(WorkerStatus.IDLE)

    def fork_work_horse(self, job: Job, queue: RqQueue) -> None:  # noqa: ARG002 - RQ's signature
        """Fork the horse, in a session of its own, and so in a process group of its own."""
        worker = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = FAILED
            try:  # twice: a stop may come inside the inner `finally`, and this process must not go on as a worker
                try:
                    signal.set_wakeup_fd(-1)
                    os.setsid()
                    stopping = self._stop_asked_at is not None
                    status = INTERRUPTED if stopping else carry_out(self._order(job), self._open_work, worker)
                finally:
                    leave(status)
            finally:
                os._exit(status)
        self._horse_pid = pid

    def _watch_horse(self, job: CarriedJob, execution: Execution, watch: RunWatch) -> None:
        """Wait for the horse's end: hand on a stop, enforce time limit and lease, keep RQ's heartbeats."""
        began = beat = time.monotonic()
        told_at: float | None = None
        overdue = False
        status: int | None = None
        while True:
            ended, status = self._ended()
            if ended:
                break
            at = time.monotonic()
            if self._stop_asked_at is not None and told_at is None:
                told_at = at
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._horse_pid, signal.SIGTERM)
            elif told_at is not None and (self._hurry or at - told_at > self._grace_s):
                self._kill_group()
            elif at - began > (job.timeout or 0) + self._overtime_s:
                overdue = True
                self._kill_group()
            elif watch.lost(at):
                log.error("run %s: killing process %d, which trains without a lease", watch.run_id, self._horse_pid)
                self._kill_group()
            if at - beat > _HEARTBEAT_S:
                beat = at
                self.maintain_heartbeats(job, execution)
            self._sleep(0.1 if told_at is not None else watch.every_s)
        self._kill_group()  # what it started must not outlive it
        self._horse_pid = 0
        # Its process group may have been told before it was: a deploy is no fault of the model.
        watch.settle(status, stopped=self._stop_asked_at is not None, overdue=overdue)

    def _order(self, job: Job) -> Order:
        assert isinstance(job, CarriedJob)  # noqa: S101 - for the types; `execute_job` looked
        return Order(job.id, job.function, job.arguments, self.name, int(job.timeout or 1))

    # --- signals ------------------------------------------------------------------------------------------------------

    def request_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler
        """Stop: at once when idle, after the horse has handed its run back when not; at a second request, now."""
        at = time.monotonic()
        if self._stop_asked_at is not None:
            self._hurry = self._hurry or at - self._stop_asked_at > _SAME_REQUEST_S
            return
        self._stop_asked_at = at
        self._stop_requested = True
        if not self._busy:
            raise StopRequested

    def _ended(self) -> tuple[bool, int | None]:
        try:
            pid, waited, _ = os.wait4(self._horse_pid, os.WNOHANG)
        except ChildProcessError:
            return True, None
        return (True, os.waitstatus_to_exitcode(waited)) if pid else (False, None)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(self._horse_pid, signal.SIGKILL)

    def _sleep(self, seconds: float) -> None:
        """Sleep until a signal comes: the end of the horse is one."""
        if select.select([self._wakeup], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 4096)

    # --- what RQ does around it, less what we do not want -------------------------------------------------------------

    def bootstrap(self, *_args: object, **_kwargs: object) -> None:
        """Register; no log handlers, no command channel (its thread would be there when we fork).

        Raises `StopRequested` when it is asked to stop meanwhile: `serve` sees to that.
        """
        for end in (self._wakeup, self._woken):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        logging.getLogger("rq").setLevel(logging.WARNING)
        self.log.setLevel(logging.WARNING)  # RQ sets its own level when it is imported
        self._install_signal_handlers()  # type: ignore[no-untyped-call]
        self.register_birth()  # type: ignore[no-untyped-call]
        self.set_state(WorkerStatus.STARTED)
        log.info("worker %s: takes jobs of the queue %s", self.name, self._carried)

    def check_for_suspension(self, burst: bool) -> None:
        """Nothing suspends our workers."""

    def run_maintenance_tasks(self) -> None:
        """Tidy up RQ's books in our own way; RQ's would unpickle what it finds in them."""
        self.last_cleaned_at = rq_now()  # type: ignore[assignment]
        try:
            self._work.jobs.tidy(self._carried, time.time())
            worker_registration.clean_worker_registry(self.queues[0])
        except (Unavailable, redis.exceptions.RedisError) as error:
            log.warning("worker %s: %s", self.name, error)

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Tell that this worker lives; a Redis that came back empty learns all about it."""
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)
            return
        with contextlib.suppress(redis.exceptions.RedisError), self.connection.pipeline() as pipe:
            super().heartbeat(timeout, pipe)
            pipe.hset(self.key, mapping=self.serialize())
            worker_registration.register(self, pipe)
            pipe.execute()

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Like RQ, but a Redis that is away for a moment does not end the training."""
        with contextlib.suppress(redis.exceptions.RedisError):
            super().maintain_heartbeats(job, execution)

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """Like RQ, but Redis may be away."""
        with contextlib.suppress(redis.exceptions.RedisError):
            super().set_state(state, pipeline)

    def teardown(self) -> None:
        """Like RQ, but Redis may be away."""
        with contextlib.suppress(redis.exceptions.RedisError):
            super().teardown()  # type: ignore[no-untyped-call]
        signal.set_wakeup_fd(-1)


class SpawningCarrier(Carrier):
    """Starts each horse as a new process instead of a fork: for macOS, and for models that use CUDA.

    ``open_work`` must be importable. RQ's own spawning worker writes the Redis password on the command line.
    """

    def fork_work_horse(self, job: Job, queue: RqQueue) -> None:  # noqa: ARG002 - RQ's signature
        """Start the horse, in a process group of its own, and on Linux in a session of its own."""
        argv = command(self._order(job), importable(self._open_work), logging.getLevelName(log.getEffectiveLevel()))
        if sys.platform == "linux":
            self._horse_pid = os.posix_spawn(argv[0], argv, os.environ, setsid=True)
        else:
            self._horse_pid = os.posix_spawn(argv[0], argv, os.environ, setpgroup=0)
