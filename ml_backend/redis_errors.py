"""redis-py's errors as ours: one place that knows which of them mean that Redis cannot serve just now."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis.exceptions

from ml_backend.errors import NewerState, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

# Error replies that mean "not now" (disk full, replica, starting up) rather than "a mistake of ours".
_REFUSALS = ("MISCONF", "NOREPLICAS", "OOM", "READONLY", "LOADING", "MASTERDOWN", "BUSY")

NEWER = "NEWERSTATE"
"""How the scripts' refusal of a newer release's state begins."""


@contextmanager
def answering() -> Iterator[None]:
    """Turn the errors of a Redis that does not answer, or refuses to write, into `Unavailable`; leave the others.

    What a script says of a newer release's state is `NewerState`.
    """
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise Unavailable(f"Redis does not answer: {error}") from error
    except redis.exceptions.ResponseError as error:
        if str(error).startswith(NEWER):
            raise NewerState(str(error).removeprefix(NEWER).strip()) from None
        refused = (redis.exceptions.ReadOnlyError, redis.exceptions.OutOfMemoryError)
        if isinstance(error, refused) or str(error).lstrip("-").startswith(_REFUSALS):
            raise Unavailable(f"Redis refuses: {error}") from error
        raise
