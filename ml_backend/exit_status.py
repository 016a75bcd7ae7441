"""The exit status of a process in words: one place, so that every log and every reason says the same."""

from __future__ import annotations

import signal


def short(status: int) -> str:
    """``exit status 3`` or ``killed by SIGKILL``, from a status as `subprocess` has it."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def in_words(status: int | None) -> str:
    """What became of a process, for a sentence that begins with it; None where nobody knows."""
    if status is None:
        return "ended in an unknown way"
    if status >= 0:
        return f"ended with {short(status)}"
    return f"was {short(status)}" + (", most likely for want of memory" if status == -signal.SIGKILL else "")
