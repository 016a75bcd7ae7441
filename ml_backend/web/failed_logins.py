"""Failed logins, counted by address: slowed down, logged in few lines, and never held against valid credentials.

Whoever shares an address with Label Studio (a proxy, a Docker network) must not be able to lock it out, so nothing here
is asked before a login was found wrong. That makes guessing slow for who tries one after the other, and cheap for us
whoever tries; what makes it hopeless is the length of the secret that `start` makes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

FREE = 10
"""Wrong logins of one address in a window that are answered at once and logged one by one."""
WINDOW_S = 60.0
DELAY_S = 0.5
_MOST_ADDRESSES = 1024


@dataclass(slots=True)
class _Window:
    began: float
    failed: int = 0


class FailedLogins:
    """What one web process knows of wrong logins; memory for 1,024 addresses. Safe to share between threads.

    ``sleepers`` is how many threads may be held up at once: the others answer without waiting.
    """

    def __init__(
        self,
        sleepers: int = 1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._slots = threading.Semaphore(sleepers)
        self._lock = threading.Lock()
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def failed(self, address: str) -> bool:
        """Count a wrong login of ``address``; True when there were too many. Then it may have taken `DELAY_S`."""
        now = self._clock()
        with self._lock:
            ended = self._ended(now)
            window = self._windows.get(address)
            if window is None:
                window = self._windows[address] = _Window(now)
                if len(self._windows) > _MOST_ADDRESSES:
                    ended.append(self._windows.popitem(last=False))
            window.failed += 1
            count = window.failed
        for one, seen in ended:
            _sum_up(one, seen)
        if count <= FREE:
            log.warning("failed login from %s, %d within %.0f s", address, count, WINDOW_S)
            return False
        if count == FREE + 1:
            log.warning("failed logins from %s are slowed down now, and counted instead of logged", address)
        if self._slots.acquire(blocking=False):
            try:
                self._sleep(DELAY_S)
            finally:
                self._slots.release()
        return True

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._windows)

    def _ended(self, now: float) -> list[tuple[str, _Window]]:
        """The windows that are over, taken out; the oldest stands first."""
        found = []
        while self._windows:
            address, window = next(iter(self._windows.items()))
            if now - window.began < WINDOW_S:
                break
            del self._windows[address]
            found.append((address, window))
        return found


def _sum_up(address: str, window: _Window) -> None:
    if window.failed > FREE:
        log.warning("%d failed logins came from %s within a minute", window.failed, address)
