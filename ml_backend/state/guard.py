"""Redis's own errors, as the one error that the rest of the program knows."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis

from ml_backend.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

_REFUSALS = ("OOM", "MISCONF", "LOADING", "READONLY", "BUSY", "NOREPLICAS")


@contextmanager
def answering() -> Iterator[None]:
    """Raise `Unavailable` when Redis does not answer in time, or does not take writes."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise Unavailable(f"Redis does not answer: {type(error).__name__}") from error
    except redis.ResponseError as error:
        if str(error).startswith(_REFUSALS):
            raise Unavailable(f"Redis does not take this: {str(error)[:80]}") from error
        raise
