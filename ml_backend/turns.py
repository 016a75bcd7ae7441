"""How many threads may do what may take long at once, where events need those threads too."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ml_backend.errors import RefitError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TURN_S = 1.0


class NoTurn(RefitError):
    """All turns are taken, and one of them for long."""


class Turns:
    """Gives ``most`` turns at once; without a number, any.

    Who comes while all are taken waits for one to be given back. Once one has been held for longer than a second,
    nobody waits: something is wrong or slow, and a thread that waited would answer no events meanwhile.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._since: dict[object, float] = {}  # oldest first
        self._changed = threading.Condition()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Do it inside of this. Raises `NoTurn`."""
        mine = object()
        with self._changed:
            while self._most is not None and len(self._since) >= self._most:
                left = next(iter(self._since.values())) + _TURN_S - time.monotonic()
                if left <= 0:
                    raise NoTurn(f"{len(self._since)} are at it, and one has been for longer than {_TURN_S:g} s")
                self._changed.wait(left)
            self._since[mine] = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                del self._since[mine]
                self._changed.notify()
