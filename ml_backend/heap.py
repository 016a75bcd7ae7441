"""The C library's heap in processes that hold models: one for all threads, and what is free goes back to the system.

By default glibc makes a heap for each thread. What one thread frees no other uses then, so that every thread that once
read a large event, or loaded a version, keeps the most that it ever needed. Python's threads take turns anyway: one
heap costs them nothing. Only glibc is told; elsewhere both functions do nothing.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_M_ARENA_MAX = -8


def share(environment: Mapping[str, str]) -> None:
    """Let all threads of this process, and of those that it forks, use one heap. Call it before threads are started.

    Nothing happens where the operator says by ``MALLOC_ARENA_MAX``, glibc's own variable, how many there may be.
    """
    if "MALLOC_ARENA_MAX" not in environment and (mallopt := _function("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return what is free to the system: some milliseconds, worth it after something large has come and gone."""
    if (trim := _function("malloc_trim")) is not None:
        trim(0)


def _function(name: str) -> ctypes._NamedFuncPointer | None:
    # Only glibc has both, and what another library calls by these names may mean something else.
    libc = ctypes.CDLL(None)
    return getattr(libc, name, None) if hasattr(libc, "gnu_get_libc_version") else None
