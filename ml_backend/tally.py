"""Counts of what a process does, gathered in memory and added to those of all processes in Redis once a second.

Nobody who is counted waits for it: an event keeps its one round trip. A process that is killed takes the counts of its
last second with it, which is why nothing but metrics is kept here.
"""

from __future__ import annotations

import atexit
import threading
from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, cast

from ml_backend.errors import Unavailable
from ml_backend.redis_errors import answering

if TYPE_CHECKING:
    import redis

EVERY_S = 1.0
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 100.0)
"""The upper bounds of a histogram's buckets, in seconds; what takes longer is in one of its own."""

Labels = tuple[str, ...]


class Tally:
    """Counters and histograms by name and labels. Safe to share between threads; labels may not hold a ``|``."""

    def __init__(self, client: redis.Redis, prefix: str = "mlb:") -> None:
        self._redis = client
        self._key = f"{prefix}tally"
        self._lock = threading.Lock()
        self._new: defaultdict[str, float] = defaultdict(float)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, name: str, *labels: str, by: float = 1) -> None:
        """Count something."""
        with self._lock:
            self._new["|".join((name, *labels))] += by
            self._begin()

    def observe(self, name: str, seconds: float) -> None:
        """Count something that took that long."""
        bucket = bisect_left(SECONDS, seconds)
        with self._lock:
            self._new[f"{name}|{bucket}"] += 1
            self._new[f"{name}|sum"] += seconds
            self._begin()

    def read(self) -> dict[str, dict[Labels, float]]:
        """What all processes have counted, by name and labels. Raises `Unavailable`."""
        self.flush()
        with answering():
            raw = cast("dict[bytes, bytes]", self._redis.hgetall(self._key))
        found: dict[str, dict[Labels, float]] = defaultdict(dict)
        for field, value in raw.items():
            name, *labels = field.decode().split("|")
            found[name][tuple(labels)] = float(value)
        return found

    def flush(self) -> None:
        """Add what is new to Redis. Raises `Unavailable`; then it is kept for the next time."""
        with self._lock:
            new, self._new = self._new, defaultdict(float)
        if not new:
            return
        try:
            with answering(), self._redis.pipeline(transaction=True) as pipe:
                for field, value in new.items():
                    pipe.hincrbyfloat(self._key, field, value)
                pipe.execute()
        except Unavailable:
            with self._lock:
                for field, value in new.items():
                    self._new[field] += value
            raise

    def close(self) -> None:
        """Add the rest."""
        self._closing.set()
        try:
            self.flush()
        except Unavailable:
            return

    def _begin(self) -> None:
        # With the first count and not before: whoever makes this may fork afterwards.
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_adding, name="tally", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def _keep_adding(self) -> None:
        while not self._closing.wait(EVERY_S):
            try:
                self.flush()
            except Unavailable:
                continue


def histogram(counted: dict[Labels, float]) -> tuple[list[tuple[str, float]], float]:
    """(cumulative buckets as Prometheus wants them, sum) of what `Tally.observe` counted."""
    total, buckets = 0.0, []
    for number, bound in enumerate((*(f"{one:g}" for one in SECONDS), "+Inf")):
        total += counted.get((str(number),), 0.0)
        buckets.append((bound, total))
    return buckets, counted.get(("sum",), 0.0)
