"""How a process dies with the one that started it, even when that one was killed with SIGKILL.

Linux does it in the kernel (``PR_SET_PDEATHSIG``); elsewhere a process looks at its parent's id from time to time.
Only the standard library is imported: the guardian below runs this file as a script, without the package around it.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ON_LINUX = sys.platform == "linux"
_LOOK_EVERY_S = 0.5


def die_with_parent(sig: signal.Signals = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Send ``sig`` to this process when its parent ends. Call it first thing after a fork, in the main thread.

    ``parent`` is the parent's process id from before the fork; with it, a parent that ended in between is noticed too.
    On Linux the parent is, strictly, the *thread* that forked: fork from a thread that lives as long as the process.
    Does not reach grandchildren: each generation calls it for itself.
    """
    parent = os.getppid() if parent is None else parent
    if _ON_LINUX:
        _prctl(_PR_SET_PDEATHSIG, sig)
        if os.getppid() != parent:
            os.kill(os.getpid(), sig)
    else:
        threading.Thread(target=_watch, args=(parent, sig), name="lifeline", daemon=True).start()


def before_exec(sig: signal.Signals) -> Callable[[], None] | None:
    """What to give to ``Popen(preexec_fn=…)`` so that the started program gets ``sig`` when the caller ends.

    ``None`` where the kernel does not offer it: start ``guarded(argv)`` there instead.
    """
    if not _ON_LINUX:
        return None
    # Found before the fork: a child between fork and exec should do as little as possible.
    prctl, parent = _libc_prctl(), os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(128 + sig)

    return tie


def guarded(argv: Sequence[str], sig: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command that runs ``argv`` under a guardian, which ends it with ``sig`` when the guardian's own parent ends.

    For programs that are not ours, on systems without ``PR_SET_PDEATHSIG``. The guardian hands on SIGTERM, SIGINT and
    SIGQUIT and ends with the program's exit status.
    """
    return [sys.executable, "-I", str(Path(__file__).resolve()), str(int(sig)), str(os.getpid()), *argv]


def adopt_orphans() -> bool:
    """Become the parent of every descendant whose own parent ends; ``False`` where the kernel does not offer it."""
    return _ON_LINUX and _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> frozenset[int]:
    """Process ids of this process's children, adopted and ended ones included; empty where ``/proc`` does not tell."""
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(int(pid) for pid in listing.read_text().split())
        except OSError:  # that thread has just ended
            continue
    return frozenset(found)


def _libc_prctl() -> Callable[..., int]:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.restype = ctypes.c_int
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
    return prctl


def _prctl(option: int, value: int) -> bool:
    return _libc_prctl()(option, int(value), 0, 0, 0) == 0


def _watch(parent: int, sig: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os.kill(os.getpid(), sig)


def _guard(argv: Sequence[str], sig: signal.Signals, parent: int) -> int:
    program: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def hand_on(signum: int, _frame: FrameType | None) -> None:
        if program is None:
            early.append(signum)
        else:
            program.send_signal(signum)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(signum, hand_on)
    try:
        program = subprocess.Popen(argv)
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        return 127
    for missed in early:
        program.send_signal(missed)
    while True:
        try:
            status = program.wait(_LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:
                program.send_signal(sig)
                return program.wait()
        else:
            return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[3:], signal.Signals(int(sys.argv[1])), int(sys.argv[2])))
