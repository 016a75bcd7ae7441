"""Which form what lies in Redis has, and the refusal of a later one."""

from __future__ import annotations

from ml_backend.errors import NewerState

SCHEMA = 1
"""The scripts write it into each project's ``meta``, and refuse a later one."""


def refuse_newer(schema: object, what: str) -> None:
    """Raise `NewerState` when a release after this one wrote it."""
    text = str(schema or "")
    if text.isdigit() and int(text) > SCHEMA:
        which = f"(schema {text}, this one reads {SCHEMA})"
        raise NewerState(f"{what} was written by a newer release {which}: upgrade ml-backend here too")
