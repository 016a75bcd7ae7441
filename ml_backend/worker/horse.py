"""The horse: the process in which one job is carried out, forked or spawned by a worker, and never outliving it."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from rq.timeouts import UnixSignalDeathPenalty

from ml_backend import lifeline
from ml_backend.errors import RunTimedOut, Unavailable, WorkerStopping

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from redis import Redis

    from ml_backend.jobs import Jobs
    from ml_backend.runs import Runs

log = logging.getLogger(__name__)

DONE = os.EX_OK
FAILED = os.EX_SOFTWARE
INTERRUPTED = os.EX_TEMPFAIL
"""Exit statuses: the function returned; it raised; it was stopped, or Redis was away."""


@dataclass(frozen=True)
class Work:
    """What a worker and its horses work with; each process opens its own.

    ``connect`` makes a further client of the same Redis. ``functions`` is the allow-list: a job names one of them, and
    it is called with the worker's name and the job's arguments, by name.
    """

    runs: Runs
    jobs: Jobs
    connect: Callable[[], Redis]
    functions: Mapping[str, Callable[..., None]]


@dataclass(frozen=True)
class Order:
    """One job, as a horse needs to know it."""

    job_id: str
    function: str
    arguments: dict[str, Any]
    worker: str
    timeout_s: int


def carry_out(order: Order, open_work: Callable[[], Work], worker_pid: int) -> int:
    """Call the function; returns the process's exit status, whatever happens.

    Raises `WorkerStopping` in the function when the worker is asked to stop, and `RunTimedOut` when it takes too long.
    """
    try:
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the worker's business
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        lifeline.die_with_parent(signal.SIGKILL, parent=worker_pid)
        random.seed()
        with TimeLimit(order.timeout_s):  # type: ignore[no-untyped-call]
            work = open_work()
            work.functions[order.function](order.worker, **order.arguments)
    except WorkerStopping:
        log.info("job %s: stopped", order.job_id)
        return INTERRUPTED
    except Unavailable as error:
        log.warning("job %s: %s", order.job_id, error)
        return INTERRUPTED
    except BaseException:
        log.exception("job %s: failed", order.job_id)
        return FAILED
    return DONE


class TimeLimit(UnixSignalDeathPenalty):
    """``with TimeLimit(seconds):`` raises `RunTimedOut` inside the block, once."""

    def handle_death_penalty(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler
        """The alarm went off."""
        raise RunTimedOut(f"it took longer than {self._timeout} s, the limit for one run")


def leave(status: int) -> NoReturn:
    """End this process as it is: nothing that was inherited from the worker is run or closed."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(status)


def command(order: Order, open_work: str, log_level: str) -> list[str]:
    """Return the command line of a spawned horse; settings and secrets reach it through the environment."""
    message = json.dumps(
        {"order": asdict(order), "open_work": open_work, "worker": os.getpid(), "log_level": log_level}
    )
    return [sys.executable, "-P", "-m", "ml_backend.worker", message]


def _stop(_signum: int, _frame: FrameType | None) -> None:
    # Once: what the run does about it must not be interrupted a second time.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise WorkerStopping("the worker was asked to stop")
