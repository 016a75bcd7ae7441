"""Readers for single fields of decoded JSON: each gives a plain value or raises `BadInput` with the field's path."""

from __future__ import annotations

from datetime import UTC, datetime

from ml_backend.errors import BadInput

LARGEST_ID = 2**53
"""The largest whole number that JSON readers which compute in doubles (Lua's among them) keep exact."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = _EPOCH.replace(tzinfo=None)


def read_id(value: object, field: str) -> int:
    """An id: a whole number from 0 to `LARGEST_ID`, or its digits as text. A bool is no number here."""
    number = -1
    if value.__class__ is int:  # bool is a subclass
        number = value
    elif isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
        number = int(value)
    if 0 <= number <= LARGEST_ID:
        return number
    if value is None:
        raise BadInput(field, "is missing")
    raise BadInput(field, "must be an id: a whole number from 0 to 2**53")


def read_time(value: object, field: str) -> int | None:
    """Microseconds since the epoch of an ISO 8601 date and time, UTC where it names no offset; None for null."""
    if value is None:
        return None
    # A date alone, or a week or basic format, is nothing that Label Studio ever sends: not guessed at.
    if isinstance(value, str) and 16 <= len(value) <= 40 and value[10] in "Tt ":
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            since = moment - (_NAIVE_EPOCH if moment.tzinfo is None else _EPOCH)
            if since.days >= 0:
                return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    raise BadInput(field, "must be a date and time since 1970, such as 2026-11-22T07:51:30.660842Z")


def read_text(value: object, field: str) -> str | None:
    """A text, or None for null."""
    if value is None or isinstance(value, str):
        return value
    raise BadInput(field, "must be a text")


def read_flag(value: object, field: str) -> bool:
    """True or false; null is false."""
    if value is None or isinstance(value, bool):
        return bool(value)
    raise BadInput(field, "must be true or false")


def read_count(value: object, field: str) -> int | None:
    """A whole number from 0 to `LARGEST_ID`, or None for null."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_ID:
        return value
    raise BadInput(field, "must be a whole number from 0 to 2**53")


def read_object(value: object, field: str) -> dict[str, object] | None:
    """An object, or None for null."""
    if value is None or isinstance(value, dict):
        return value
    raise BadInput(field, "must be an object")
