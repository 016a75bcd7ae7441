"""The names of the keys in Redis, and the texts of the scripts that take them."""

from __future__ import annotations

from importlib import resources

from ml_backend.errors import BadInput


class Keys:
    """Keys under one prefix. A project's carry its uid in braces, so that they lie together."""

    def __init__(self, prefix: str) -> None:
        self.uids = f"{prefix}uids"
        self.due = f"{prefix}due"
        self._prefix = prefix

    def of(self, uid: str, name: str) -> str:
        """One of a project's keys."""
        return f"{self._prefix}{{{uid}}}:{name}"

    def of_scripts(self, uid: str) -> list[str]:
        """The KEYS of every script that `common.lua` is a part of, in their order."""
        return [
            *(self.of(uid, name) for name in _TRAINING_SET),
            self.uids,
            self.due,
            *(self.of(uid, name) for name in _RUNS),
        ]


_TRAINING_SET = ("meta", "annotations", "tasks", "of-task", "changed", "gone", "config", "touched")
_RUNS = ("running", "waiting", "runs", "paused")


def script_text(name: str) -> str:
    """The text of a script in this folder."""
    return resources.files("ml_backend.state").joinpath(name).read_text(encoding="utf-8")


def require_uid(value: object, field: str = "project") -> str:
    """A uid as Label Studio writes it (``2.1795333883``); else `BadInput`, which also keeps keys and paths safe."""
    if isinstance(value, str):
        head, dot, tail = value.partition(".")
        if dot and _is_number(head, 18) and _is_number(tail, 12):
            return value
    raise BadInput(field, "must be Label Studio's project uid, such as 2.1795333883")


def _is_number(text: str, longest: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= longest
