"""The threads of a web process: a queue and nothing else, where a pool of futures costs more than a small request."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Threads:
    """``count`` threads that carry out what is handed to them, in order. Threads are started when they are needed."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def hand(self, work: Callable[[], None]) -> None:
        """Have it carried out. It must not raise. For one thread to call: the event loop's."""
        self._queue.put(work)
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._work, name=f"web-{len(self._threads)}")
            self._threads.append(thread)
            thread.start()

    def shutdown(self, *, wait: bool) -> None:
        """End the threads when they have done what was handed to them."""
        for _ in self._threads:
            self._queue.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
