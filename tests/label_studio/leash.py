"""Kills a process group as soon as whoever holds the other end of our standard input is gone.

Run as ``python leash.py <process group>``. A test run that is itself killed (SIGKILL, a cancelled CI job) tears nothing
down; the end of the pipe tells this process, which lives in a session of its own.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    group = int(sys.argv[1])
    while sys.stdin.buffer.read(1024):
        pass
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
