"""The keeper of a lease: a tiny process beside the trainer that renews it, whatever the training code does.

A thread would not do: training code may hold the interpreter lock for minutes. The keeper ends with its trainer, tells
it of a cancellation through shared memory, kills it when it does not listen, and kills it at once when the lease is
lost, since another worker may train the project from then on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import mmap
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from typing import TYPE_CHECKING, Literal

from ml_backend import lifeline
from ml_backend.errors import LeaseLost, RunCancelled, Unavailable
from ml_backend.logs import set_up_logs
from ml_backend.runs import Lease, Runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

log = logging.getLogger(__name__)

_CANCELLED, _LOST = 0, 1


def importable(function: Callable[..., object]) -> str:
    """Return ``module:name`` of a function; raises `ValueError` for one that another process cannot import."""
    name = f"{function.__module__}:{function.__qualname__}"
    if function.__module__ == "__main__" or "<" in name:
        raise ValueError(f"{name} cannot be imported by another process")
    return name


class LeaseKeeper:
    """``with LeaseKeeper(lease, open_runs) as keeper:`` keeps the lease until the block ends.

    ``open_runs`` makes a `Runs` with a Redis client of its own, whose time-outs are short beside the lease; it is
    called in the keeper's process. ``grace_s``: how long a cancelled trainer may go on before it is killed.
    ``method`` is ``fork``, or ``spawn`` where a fork is unsafe (macOS, CUDA); `open_runs` must be importable then.
    """

    def __init__(
        self,
        lease: Lease,
        open_runs: Callable[[], Runs],
        *,
        grace_s: float = 10.0,
        method: Literal["fork", "spawn"] = "fork",
    ) -> None:
        self._lease = lease
        self._open_runs = open_runs
        self._grace_s = grace_s
        self._method = method
        self._flags: mmap.mmap | None = None
        self._pid = 0
        self._ended = False

    @property
    def cancelled(self) -> bool:
        """Somebody cancelled the run; it has the grace to stop by itself."""
        return self._flags is not None and self._flags[_CANCELLED] == 1

    @property
    def lost(self) -> bool:
        """The lease is lost, or nobody renews it any more: nothing may be published."""
        if not self._ended and self._pid:
            try:
                self._ended = os.waitpid(self._pid, os.WNOHANG)[0] != 0
            except ChildProcessError:
                self._ended = True
        return self._ended or (self._flags is not None and self._flags[_LOST] == 1)

    def stop_if_asked(self) -> None:
        """Raise `LeaseLost` or `RunCancelled` when the run must stop."""
        if self.lost:
            raise LeaseLost("the lease of this run is lost")
        if self.cancelled:
            raise RunCancelled("cancelled")

    def __enter__(self) -> LeaseKeeper:
        if self._method == "spawn":
            self._spawn()
            return self
        self._flags = mmap.mmap(-1, mmap.PAGESIZE)
        trainer = os.getpid()
        with warnings.catch_warnings():
            # Python warns of a fork beside other threads; the keeper uses nothing that they could have locked.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            try:
                _Watch(self._lease, self._open_runs, self._flags, trainer, self._grace_s).run()
            finally:
                os._exit(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # It has nothing to finish, and may hang in a call to a Redis that is gone.
        if self._pid and not self._ended:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
        self._pid = 0
        self._ended = True

    def _spawn(self) -> None:
        shared = tempfile.TemporaryFile()  # noqa: SIM115 - the mapping outlives the file
        os.ftruncate(shared.fileno(), mmap.PAGESIZE)
        self._flags = mmap.mmap(shared.fileno(), mmap.PAGESIZE)
        orders = {
            "lease": dataclasses.asdict(self._lease),
            "open_runs": importable(self._open_runs),
            "flags": shared.fileno(),
            "trainer": os.getpid(),
            "grace_s": self._grace_s,
            "log_level": logging.getLevelName(log.getEffectiveLevel()),
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ml_backend.lease"], stdin=subprocess.PIPE, pass_fds=(shared.fileno(),)
        )
        assert process.stdin is not None  # noqa: S101
        with process.stdin as stdin:
            stdin.write(json.dumps(orders).encode())
        shared.close()
        self._pid = process.pid
        process.returncode = 0  # waited for above, not by the object


class _Watch:
    """What the keeper's process does."""

    def __init__(
        self, lease: Lease, open_runs: Callable[[], Runs], flags: mmap.mmap, trainer: int, grace_s: float
    ) -> None:
        self._lease = lease
        self._open_runs = open_runs
        self._flags = flags
        self._trainer = trainer
        self._grace_s = grace_s

    def run(self) -> None:
        """Renew until the trainer is gone or has ended the run; never returns while the lease holds."""
        began = time.monotonic()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        lifeline.die_with_parent(signal.SIGKILL, parent=self._trainer)
        gc.disable()  # a collection would copy every page shared with the trainer
        try:
            self._renew(began)
        except BaseException:
            # A trainer that nobody renews for must not go on.
            log.exception("run %s: the keeper of its lease failed", self._lease.run_id)
            self._lose("its lease cannot be renewed")

    def _renew(self, began: float) -> None:
        runs = self._open_runs()
        every = runs.lease_s / 3
        renewed, renew_at = began, began
        cancelled_at: float | None = None
        while os.getppid() == self._trainer:
            asked = time.monotonic()
            try:
                if asked >= renew_at:
                    answer = runs.renew(self._lease, runs.time())
                    renewed, renew_at = asked, asked + every
                else:
                    answer = runs.look(self._lease)
                if not answer.ok and runs.released(self._lease):
                    return  # the trainer gave it up itself, and may have something to do still
            except Unavailable:
                if time.monotonic() - renewed >= runs.lease_s:
                    self._lose(f"Redis has not answered for {runs.lease_s:g} s")
                    return
            else:
                if not answer.ok:
                    self._lose("its lease is lost")
                    return
                if answer.cancelled:
                    self._flags[_CANCELLED] = 1
                    cancelled_at = cancelled_at or asked
            if cancelled_at is not None and asked - cancelled_at >= self._grace_s:
                self._kill(f"cancelled, and still busy after {self._grace_s:g} s")
                return
            time.sleep(min(1.0, every / 2))

    def _lose(self, why: str) -> None:
        self._flags[_LOST] = 1
        self._kill(why)

    def _kill(self, why: str) -> None:
        if os.getppid() != self._trainer:
            return
        log.error(
            "project %s run %s: killing its trainer, process %d: %s",
            self._lease.uid,
            self._lease.run_id,
            self._trainer,
            why,
        )
        if os.getpgid(self._trainer) == self._trainer:
            os.killpg(self._trainer, signal.SIGKILL)
        else:
            os.kill(self._trainer, signal.SIGKILL)


def _main() -> None:
    orders = json.load(sys.stdin)
    set_up_logs(orders["log_level"])
    open_runs = pkgutil.resolve_name(orders["open_runs"])
    with mmap.mmap(orders["flags"], mmap.PAGESIZE) as flags:
        _Watch(Lease(**orders["lease"]), open_runs, flags, orders["trainer"], orders["grace_s"]).run()


if __name__ == "__main__":
    _main()
