"""A process tree that starts in order, stays up, and stops without leaving anything behind."""

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

from ml_backend import exit_status, lifeline

HOPELESS = 78
"""Exit status (EX_CONFIG) of a child for which another try would end the same way: it is not started again."""

_TRIES = 5
_SETTLED_S = 10.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 30.0
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.02, 0.25
_LONGEST_WAIT_S = 1.0
_SWEEP_S = 1.0
_SAME_REQUEST_S = 0.3
_NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process to keep running.

    ``env`` is added to the supervisor's own environment; secrets belong there and never in ``argv``.
    ``after`` names the specs that must be ready before this one starts; it is stopped before they are.
    ``ready`` is polled until it returns True, and must answer quickly and not raise; without it, started means ready.
    ``restart``: without it this is a step to be done once, and ready means that it ended with exit status 0.
    ``essential``: the whole tree ends when this process cannot be brought up: five ends in a row without ever having
    been ready (or having run for ten seconds), or one with the exit status ``HOPELESS``.
    ``stop_signal`` goes to the process, which has ``grace_s`` to end before its whole group is killed.
    ``death_signal`` is what it gets when the supervisor itself is killed: there is nobody left to insist, so choose
    another than SIGKILL only for a program that ends promptly.
    ``explain`` says, for the log, why it may have ended. ``pass_fds`` and ``umask`` are those of ``subprocess.Popen``.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    after: tuple[str, ...] = ()
    ready: Callable[[], bool] | None = None
    ready_within_s: float = 30.0
    restart: bool = True
    essential: bool = True
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL
    explain: Callable[[], str] | None = None
    pass_fds: tuple[int, ...] = ()
    umask: int = -1


class Supervisor:
    """Runs ``specs`` until SIGTERM, SIGINT or SIGHUP, or until an essential one of them cannot be brought up.

    Each child leads its own session, so that Ctrl-C in a terminal reaches the supervisor only. ``on_ready`` is called
    once, when every child is ready for the first time. Raises ``ValueError`` when an ``after`` names no earlier spec.
    """

    def __init__(
        self, specs: Sequence[ProcessSpec], log: logging.Logger, *, on_ready: Callable[[], None] | None = None
    ) -> None:
        self._children: dict[str, _Child] = {}
        for spec in specs:
            if spec.name in self._children or not set(spec.after) <= self._children.keys():
                raise ValueError(f"{spec.name}: names must be unique, and 'after' can only name earlier ones")
            self._children[spec.name] = _Child(spec, log)
        self._log = log
        self._on_ready = on_ready
        self._orphans: dict[int, float] = {}

    def run(self) -> int:
        """Block until everything has ended; the exit status for the process: 0 after a stop that was asked for, else 1.

        Main thread only, for the signals' sake. A second signal kills at once whatever is still running.
        """
        with _signals() as signals:
            lifeline.adopt_orphans()
            try:
                status = self._keep_running(signals)
                self._stop(signals)
            finally:
                self._kill_the_rest()
        return status

    def _keep_running(self, signals: "_Signals") -> int:
        while not signals.asked:
            now = time.monotonic()
            self._reap(now)
            for child in self._children.values():
                if child.startable(now) and all(self._children[name].ready for name in child.spec.after):
                    child.start(now)
                child.look(now)
                if child.given_up is not None:
                    self._log.error("%s %s; stopping everything", child.spec.name, child.given_up)
                    return 1
            if self._on_ready is not None and all(child.ready for child in self._children.values()):
                on_ready, self._on_ready = self._on_ready, None
                on_ready()
            signals.wait(min((child.next_look(now) for child in self._children.values()), default=1.0))
        self._log.info("stopping: %s", signals.asked[0][1].name)
        return 0

    def _stop(self, signals: "_Signals") -> None:
        while present := [child for child in self._children.values() if child.present]:
            now = time.monotonic()
            hurry = signals.again
            for child in reversed(present):
                if hurry:
                    child.kill("at once, as asked")
                elif not any(child.spec.name in other.spec.after for other in present):
                    child.stop(now)
            signals.wait(0.05 if hurry else min(child.next_look(now) for child in present))
            self._reap(time.monotonic())

    def _reap(self, now: float) -> None:
        self._reap_orphans(now)
        for child in self._children.values():
            child.reap(now)

    def _reap_orphans(self, now: float) -> None:
        """Descendants whose parent ended come to us (Linux): they are asked to end, then killed, and waited for."""
        ours = {child.pid for child in self._children.values()}
        for pid in lifeline.children() - ours:
            if _waited_for(pid):
                self._orphans.pop(pid, None)
            elif pid not in self._orphans:
                self._orphans[pid] = now
                self._log.warning("process %d outlived its parent: ending it", pid)
                _send(pid, signal.SIGTERM)
            elif now - self._orphans[pid] > _SWEEP_S:
                _send(pid, signal.SIGKILL)

    def _kill_the_rest(self) -> None:
        """Whatever brought us here, an error of our own included, nothing may stay behind."""
        deadline = time.monotonic() + _SWEEP_S
        while (now := time.monotonic()) < deadline:
            present = [child for child in self._children.values() if child.present]
            for child in present:
                child.kill("left over")
                child.reap(now)
            orphans = lifeline.children() - {child.pid for child in self._children.values()}
            for pid in orphans:
                _send(pid, signal.SIGKILL)
                _waited_for(pid)
            if not (present or orphans):
                return
            time.sleep(0.01)


class _Child:
    """One spec and the process that runs it now, if any; times are those of ``time.monotonic``."""

    def __init__(self, spec: ProcessSpec, log: logging.Logger) -> None:
        self.spec = spec
        self.ready = False
        self.given_up: str | None = None  # why the whole tree has to end
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._group: int | None = None  # outlives the process while others are left in it
        self._started = 0.0
        self._due = 0.0  # when to start it next
        self._delay = _FIRST_DELAY_S
        self._failures = 0
        self._settled = False
        self._stopping = False
        self._kill_at = _NEVER
        self._look_every = _FIRST_LOOK_S

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def present(self) -> bool:
        return self._group is not None

    def startable(self, now: float) -> bool:
        return self._due <= now and not self.present

    def start(self, now: float) -> None:
        tie = lifeline.before_exec(self.spec.death_signal)
        argv = list(self.spec.argv) if tie is not None else lifeline.guarded(self.spec.argv, self.spec.death_signal)
        self._started, self._due, self._kill_at, self._look_every = now, _NEVER, _NEVER, _FIRST_LOOK_S
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.spec.env},
                start_new_session=True,
                preexec_fn=tie,  # noqa: PLW1509  # safe here: the supervisor has one thread
                pass_fds=self.spec.pass_fds,
                umask=self.spec.umask,
            )
        except OSError as error:
            self._failed(f"could not be started: {argv[0]}: {error.strerror}", now)
            return
        self._group = self._process.pid
        self.ready = self.spec.ready is None and self.spec.restart
        self._log.info("%s started as process %d", self.spec.name, self._process.pid)

    def look(self, now: float) -> None:
        """Has it become ready? Is its time to become ready over? Has it run long enough to count as settled?"""
        if self._process is None:
            return
        if self.ready:
            if now - self._started > _SETTLED_S:
                self._settled, self._delay = True, _FIRST_DELAY_S
        elif self.spec.ready is not None:
            self._look_every = min(self._look_every * 1.2, _LONGEST_LOOK_S)
            if self.spec.ready():
                self.ready = self._settled = True
                self._log.info("%s is ready after %.2f s", self.spec.name, time.monotonic() - self._started)
            elif now - self._started > self.spec.ready_within_s:
                self.kill(f"not ready after {self.spec.ready_within_s:g} s")

    def next_look(self, now: float) -> float:
        """Seconds until something may have to be done about it that no signal tells of."""
        if self.present and self._process is None:
            return _FIRST_LOOK_S
        if self._process is not None and not self.ready and self.spec.ready is not None:
            return self._look_every
        nearest = min(self._kill_at, self._due if self._due > now else _NEVER) - now
        return min(max(nearest, 0.001), _LONGEST_WAIT_S)

    def stop(self, now: float) -> None:
        """Ask it to end, the first time; kill it once its grace is over."""
        if self._process is None:
            return
        if not self._stopping:
            self._stopping, self._kill_at = True, now + self.spec.grace_s
            _send(self._process.pid, self.spec.stop_signal)
        elif now >= self._kill_at:
            self.kill(f"still there {self.spec.grace_s:g} s after {self.spec.stop_signal.name}")

    def kill(self, reason: str) -> None:
        if self._group is None:
            return
        if self._process is not None:
            self._log.warning("killing %s: %s", self.spec.name, reason)
        _send_group(self._group, signal.SIGKILL)

    def reap(self, now: float) -> None:
        """Notice that it has ended, and end what it left of its group before it can be started again."""
        if self._process is not None and self._group is not None and (status := self._process.poll()) is not None:
            self._process, self.ready, self._kill_at = None, False, now + _SWEEP_S
            _send_group(self._group, signal.SIGTERM)
            if self._stopping:
                self._log.info("%s ended: %s", self.spec.name, exit_status.short(status))
            else:
                self._failed(f"ended: {exit_status.short(status)}", now, status)
        if self._process is None and self._group is not None:
            if not _group_exists(self._group):
                self._group = None
            elif now >= self._kill_at:
                _send_group(self._group, signal.SIGKILL)

    def _failed(self, what: str, now: float, status: int | None = None) -> None:
        if self.spec.explain is not None:
            what = f"{what} ({self.spec.explain()})"
        if not self.spec.restart:
            self.ready = status == 0  # a step that only has to be done once
            if not self.ready and self.spec.essential:
                self.given_up = what
            self._log.log(logging.INFO if self.ready else logging.ERROR, "%s %s", self.spec.name, what)
            return
        if not self._settled:
            self._failures += 1
            if self.spec.essential and (status == HOPELESS or self._failures >= _TRIES):
                times = f" ({self._failures} times in a row)" if self._failures > 1 else ""
                self.given_up = f"never became ready; {what}{times}"
                return
        self._due = now + self._delay
        self._log.warning("%s %s; starting it again in %.1f s", self.spec.name, what, self._delay)
        self._delay = min(self._delay * 2, _LONGEST_DELAY_S)


class _Signals:
    """The signals that ask for a stop, and a way to sleep that they and an ended child interrupt."""

    def __init__(self, wakeup: int) -> None:
        self.asked: list[tuple[float, signal.Signals]] = []
        self._wakeup = wakeup
        self._poll = select.poll()
        self._poll.register(wakeup, select.POLLIN)

    @property
    def again(self) -> bool:
        """Whether it was asked a second time; both copies of one request (group and parent) count once."""
        return bool(self.asked) and self.asked[-1][0] - self.asked[0][0] > _SAME_REQUEST_S

    def ask(self, signum: int, _frame: FrameType | None) -> None:
        self.asked.append((time.monotonic(), signal.Signals(signum)))

    def wait(self, timeout: float) -> None:
        if self._poll.poll(timeout * 1000):
            with suppress(BlockingIOError):
                os.read(self._wakeup, 4096)


@contextmanager
def _signals() -> Iterator[_Signals]:
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signals = _Signals(readable)
    before = {signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)}
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Whoever ignores SIGHUP (nohup) means it.
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            before[signum] = signal.signal(signum, signals.ask)
    wakeup_before = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    try:
        yield signals
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        os.close(readable)
        os.close(writable)


def _waited_for(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _send(pid: int, sig: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, sig)


def _send_group(group: int, sig: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        os.killpg(group, sig)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
