"""The names of the keys in Redis, and the texts of the scripts that take them."""

from __future__ import annotations

from importlib import resources


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
