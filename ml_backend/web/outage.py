"""While Redis stays away, one request at a time finds out: the others hold no threads, which `/predict` needs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

from ml_backend.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# Shorter than this may be a stall of the disk, in which an event that waits is kept and one that is refused is lost.
_GRACE_S = 1.0


class Outage:
    """Remembers since when nothing has got through. Safe to share between threads."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._trying = threading.Lock()

    def attempt(self, call: Callable[[], T]) -> T:
        """What ``call`` gives. Raises what it raises, and `Unavailable` at once while another one is trying."""
        since = self._since
        if since is None or time.monotonic() - since < _GRACE_S:
            return self._watched(call)
        if not self._trying.acquire(blocking=False):
            raise Unavailable("it did not answer before, and another request is trying")
        try:
            return self._watched(call)
        finally:
            self._trying.release()

    def _watched(self, call: Callable[[], T]) -> T:
        try:
            found = call()
        except Unavailable:
            if self._since is None:
                self._since = time.monotonic()
            raise
        self._since = None
        return found
