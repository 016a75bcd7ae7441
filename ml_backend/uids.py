"""A project's uid, as Label Studio writes it: ``<id>.<creation in whole seconds>``, such as ``2.1795333883``."""

from __future__ import annotations

import re

from ml_backend.errors import BadInput

PATTERN = r"\d{1,18}\.\d{1,12}"
"""As a part of other regular expressions, of ASCII letters."""
_UID = re.compile(PATTERN, re.ASCII)
_US = 1_000_000


def is_uid(value: object) -> bool:
    """Whether it is one. Keys in Redis, folders and RQ's job ids are made of it: nothing else may stand in it."""
    return isinstance(value, str) and _UID.fullmatch(value) is not None


def require_uid(value: object, field: str = "project") -> str:
    """The uid itself. Raises `BadInput` (``field``) for anything else."""
    if isinstance(value, str) and is_uid(value):
        return value
    raise BadInput(field, "must be Label Studio's project uid, such as 2.1795333883")


def make_uid(project_id: int, created_at_us: int) -> str:
    """The uid of a project that was created then (us)."""
    return f"{project_id}.{created_at_us // _US}"


def id_of(uid: str) -> int:
    """The project's id in Label Studio, which another Label Studio may have given to another project."""
    return int(uid.partition(".")[0])


def created_us_of(uid: str) -> int:
    """When the project was created (us, whole seconds)."""
    return int(uid.partition(".")[2]) * _US


def without_dot(uid: str) -> str:
    """The uid as a part of a job's id: RQ allows no dot in one."""
    return uid.replace(".", "-")
