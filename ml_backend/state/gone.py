"""Forgets what is remembered of deletions that are long past."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_backend.redis_errors import answering
from ml_backend.state.reading import hash_pages

if TYPE_CHECKING:
    import redis

    from ml_backend.state.keys import Keys

FORGET_S = 3600.0
"""Deletions older than this are forgotten after a run or a complete sync: no event comes so late."""


def forget_deletions(client: redis.Redis, keys: Keys, uid: str, now: float) -> None:
    """Drop the tombstones of a project that are older than `FORGET_S`."""
    key = keys.of(uid, "gone")
    before = (now - FORGET_S) * 1e6
    for page in hash_pages(client, key):
        old = [name.decode() for name, value in page.items() if _moment(value) < before]
        if old:
            # A deletion of the same name in this very moment is forgotten too: the next sync would notice.
            with answering():
                client.hdel(key, *old)


def _moment(value: bytes) -> float:
    """When a tombstone was made, or a ground truth mark was seen, in microseconds (see `common.lua`)."""
    return float(value.rpartition(b":")[2].partition(b"!")[0].rstrip(b"?"))
