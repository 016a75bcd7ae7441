"""A random secret that all processes over one Redis share, made by the first that asks for it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, cast

from ml_backend.redis_errors import answering

if TYPE_CHECKING:
    import redis


def shared_secret(client: redis.Redis, prefix: str) -> str:
    """The secret. Raises `Unavailable`."""
    key = f"{prefix}secret"
    with answering(), client.pipeline(transaction=True) as pipe:
        pipe.set(key, secrets.token_urlsafe(32), nx=True)
        pipe.get(key)
        return cast("bytes", pipe.execute()[1]).decode()
