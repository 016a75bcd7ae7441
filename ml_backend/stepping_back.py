"""Stepping back: a process whose work nobody waits for leaves a busy machine to those that somebody waits for.

A nice value alone does little: Linux divides a machine among sessions first (``sched_autogroup_enabled``, sched(7)),
and a nice value counts among the processes of one alone. So the session's own value is raised too.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
_ATTEMPTS, _PAUSE_S = 5, 0.12


def step_back(by: int) -> None:
    """Raise the nice value of this thread and of those it starts; and the session's, where this process leads it.

    Where there are no such groups, or a container does not let them be written, the nice value has to do.
    """
    os.nice(by)
    if os.getsid(0) != os.getpid():
        return  # a terminal, or a service manager's: not ours to slow down
    with contextlib.suppress(OSError):
        for _ in range(_ATTEMPTS):
            try:
                _AUTOGROUP.write_text(str(by))
            except BlockingIOError:
                # The kernel takes one such order in a tenth of a second, whoever gives it.
                time.sleep(_PAUSE_S)
            else:
                return
